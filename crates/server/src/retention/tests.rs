//! Collections over a real store and real files: what goes, what stays, who comes first, and what a collection that is
//! cut off leaves behind.

use super::*;
use crate::instruments::Instruments;
use bytes::Bytes;
use fetchml_api::{
    Artifact, AttemptId, AttemptPhase, AttemptRecord, Checkpoint, CollectReason, SnapshotRecord, TaskId, TaskSpec,
    TaskState, TaskStatus, WorkerId,
    link::Outcome,
    snapshot::{Manifest, ManifestEntry},
};
use fetchml_store::{Collect, Location, TaskFilter, Write};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};
use uuid::Uuid;

const DAY: i64 = 86_400;
/// When a test collects.
const NOW: Micros = Micros(1_764_000_000_000_000);

fn days_ago(days: i64) -> Micros {
    NOW.plus_seconds(-days * DAY)
}

fn task_id(n: u128) -> TaskId {
    TaskId(Uuid::from_u128(0x0199_0000_0000_7000_8000_0000_0000_0000 | n))
}

fn attempt_id(n: u128) -> AttemptId {
    AttemptId(Uuid::from_u128(0x0199_0000_0001_7000_8000_0000_0000_0000 | n))
}

const WORKER: WorkerId = WorkerId(Uuid::from_u128(7));

/// Never for the disk, which is the machine's own.
fn rules() -> Retention {
    Retention { disk_high_percent: 100, ..Retention::default() }
}

fn sha256(text: &str) -> String {
    hex::encode(Sha256::digest(text))
}

struct Lab {
    dir: tempfile::TempDir,
    shelves: Shelves,
}

impl Lab {
    async fn new() -> Self {
        Self::at(tempfile::tempdir().unwrap()).await
    }

    async fn at(dir: tempfile::TempDir) -> Self {
        for name in ["objects", "logs", "metrics"] {
            std::fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        let store = Store::open(&Location::Sqlite(dir.path().join("test.db"))).await.unwrap();
        let blobs = Blobs::local(&dir.path().join("objects")).unwrap();
        let objects = Arc::clone(blobs.objects());
        let never = CancellationToken::new;
        let streams = |name| Logs::start(dir.path().join(name), name, Arc::clone(&objects), never(), never()).0;
        let (logs, metrics) = (streams("logs"), streams("metrics"));
        Self { shelves: Shelves { store, blobs, logs, metrics }, dir }
    }

    /// As after a kill and a restart.
    async fn restart(self) -> Self {
        self.shelves.store.close().await;
        Self::at(self.dir).await
    }

    async fn commit(&self, writes: Vec<Write>) {
        self.shelves.store.commit(writes).await.unwrap();
    }

    /// Stores a blob, last claimed at `at`.
    async fn blob(&self, text: &'static str, at: Micros) -> Artifact {
        let sha256 = sha256(text);
        let body = futures_util::stream::iter([Ok::<_, ()>(Bytes::from_static(text.as_bytes()))]);
        self.shelves.blobs.put(&sha256, 1_000, at, body, async { Ok(()) }).await.unwrap();
        // A fresh file is claimed by the wall clock already.
        let path = self.dir.path().join("objects/blobs").join(&sha256[..2]).join(&sha256);
        let time = std::time::UNIX_EPOCH + Duration::from_micros(at.0.unsigned_abs());
        std::fs::File::open(path).unwrap().set_modified(time).unwrap();
        Artifact { path: format!("{text}.bin"), size_bytes: text.len() as u64, sha256 }
    }

    async fn has(&self, text: &str) -> bool {
        self.shelves.blobs.size(&sha256(text)).await.unwrap().is_some()
    }

    /// Stores a snapshot of blobs, last used at `at`; returns its id.
    async fn snapshot(&self, files: &[&'static str], at: Micros) -> String {
        let mut manifest = Manifest::default();
        for file in files {
            let blob = self.blob(file, at).await;
            let (sha256, size_bytes) = (Some(blob.sha256), blob.size_bytes);
            manifest.entries.push(ManifestEntry { path: blob.path, mode: 0o644, sha256, size_bytes, link: None });
        }
        let canonical = manifest.canonicalize();
        let id = Manifest::id_of(&canonical);
        let text: &'static str = String::from_utf8(canonical).unwrap().leak();
        self.blob(text, at).await;
        let record = SnapshotRecord {
            id: id.clone(),
            user_id: "ada".into(),
            file_count: files.len() as u64,
            size_bytes: manifest.size_bytes(),
            created_at: at,
            used_at: at,
        };
        self.commit(vec![Write::SnapshotPut(record)]).await;
        id
    }

    /// A task with one attempt.
    async fn task(&self, n: u128, change: impl FnOnce(&mut TaskSpec, &mut TaskState, &mut AttemptRecord)) {
        // As JSON: what a later field of these says when it is absent is all the same here.
        let created_at = days_ago(365);
        let epoch = json!({"incarnation": 1, "n": 1});
        let demand = json!({"slot": "batch", "cpu": 1, "memory_gb": 0, "gpu": 0});
        let mut spec: TaskSpec = serde_json::from_value(json!({
            "id": task_id(n), "user_id": "ada", "role": "user", "job_name": "a", "created_at": created_at,
            "demand": demand, "args": "true", "max_retries": 0,
        }))
        .unwrap();
        let mut state: TaskState = serde_json::from_value(json!({
            "id": task_id(n), "status": "running", "priority": 5, "queued_since": created_at, "waited_before": 0,
            "attempt": attempt_id(n), "epoch": epoch, "worker_id": WORKER, "retry_count": 0, "requeue_count": 0,
            "attempt_count": 1, "hidden": false, "excluded_workers": [],
        }))
        .unwrap();
        let mut attempt: AttemptRecord = serde_json::from_value(json!({
            "id": attempt_id(n), "task_id": task_id(n), "number": 1, "epoch": epoch, "worker_id": WORKER, "gpus": [],
            "phase": "running", "created_at": created_at,
        }))
        .unwrap();
        change(&mut spec, &mut state, &mut attempt);
        self.commit(vec![Write::TaskInsert(Arc::new(spec), state), Write::AttemptPut(attempt)]).await;
    }

    /// A task that ended some days ago and left a log, artifacts and a checkpoint, all claimed when it ended.
    async fn ended(&self, n: u128, days: i64, left: &[&'static str], snapshot: Option<String>) {
        let mut artifacts = Vec::new();
        for text in left {
            artifacts.push(self.blob(text, days_ago(days)).await);
        }
        let checkpoint: &'static str = format!("checkpoint of {n}").leak();
        let checkpoint = Checkpoint {
            attempt_id: attempt_id(n),
            saved_at: days_ago(days),
            files: vec![self.blob(checkpoint, days_ago(days)).await],
        };
        self.task(n, |spec, state, attempt| {
            spec.snapshot_id = snapshot;
            (state.status, state.ended_at) = (TaskStatus::Completed, Some(days_ago(days)));
            attempt.phase = AttemptPhase::Ended;
            attempt.outcome = Some(Outcome { exit_code: Some(0), artifacts, ..Outcome::default() });
        })
        .await;
        self.commit(vec![Write::CheckpointPut(checkpoint)]).await;
        for (streams, bytes) in [(&self.shelves.logs, "a log"), (&self.shelves.metrics, "metrics")] {
            streams.append(task_id(n), attempt_id(n), 0, 0, Bytes::from_static(bytes.as_bytes())).await.unwrap();
            streams.finish(task_id(n), attempt_id(n)).await.unwrap();
        }
    }

    async fn lists(&self, n: u128) -> bool {
        self.shelves.store.task(task_id(n)).await.unwrap().is_some()
    }

    async fn collect_with(&self, settings: Retention, dry_run: bool, linked: &[WorkerId]) -> GcReport {
        let (ended, report) = self.collect_at_pace(settings, dry_run, linked, &mut forever()).await;
        ended.unwrap_or_else(|error| panic!("{error}"));
        report
    }

    async fn collect_at_pace(
        &self,
        settings: Retention,
        dry_run: bool,
        linked: &[WorkerId],
        pace: &mut Pace,
    ) -> (Result<(), Ended>, GcReport) {
        let tally = Arc::new(Mutex::new(Tally::new(dry_run, &settings, NOW)));
        let linked: BTreeSet<_> = linked.iter().copied().collect();
        let mut pass = Pass::new(&self.shelves, settings, (NOW, NOW), linked, pace, Arc::clone(&tally));
        let ended = pass.run().await;
        (ended, report(&tally))
    }

    async fn collect(&self) -> GcReport {
        self.collect_with(rules(), false, &[WORKER]).await
    }
}

fn forever() -> Pace {
    Pace::until(CancellationToken::new())
}

fn counts(report: &GcReport) -> Vec<(GcKind, u64, u64)> {
    let some = report.removed.iter().filter(|count| count.count > 0);
    some.map(|count| (count.kind, count.count, count.bytes)).collect()
}

/// All files below a directory.
fn files(dir: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { dirs.push(path) } else { found.extend([path.display().to_string()]) }
        }
    }
    found
}

#[tokio::test]
async fn what_ended_long_ago_goes_and_what_is_shared_stays() {
    let lab = Lab::new().await;
    let old = lab.snapshot(&["old code", "shared code"], days_ago(120)).await;
    let new = lab.snapshot(&["new code", "shared code"], days_ago(20)).await;
    lab.ended(1, 100, &["old model", "shared model"], Some(old.clone())).await;
    lab.ended(2, 20, &["new model", "shared model"], Some(new.clone())).await;
    lab.blob("uploaded long ago", days_ago(2)).await;
    lab.blob("uploaded just now", NOW.plus_seconds(-3_600)).await;

    let report = lab.collect().await;
    for gone in ["old code", "old model", "checkpoint of 1", "uploaded long ago"] {
        assert!(!lab.has(gone).await, "{gone}");
    }
    for kept in ["new code", "shared code", "new model", "shared model", "checkpoint of 2", "uploaded just now"] {
        assert!(lab.has(kept).await, "{kept}");
    }
    let kinds: Vec<_> = counts(&report).iter().map(|(kind, count, _)| (*kind, *count)).collect();
    // The old snapshot's manifest is the fifth blob.
    let expected = [
        (GcKind::Tasks, 1),
        (GcKind::Logs, 1),
        (GcKind::Metrics, 1),
        (GcKind::Artifacts, 2),
        (GcKind::Checkpoints, 1),
        (GcKind::Snapshots, 1),
        (GcKind::Blobs, 5),
    ];
    assert_eq!(kinds, expected);
    assert_eq!((report.oldest, report.oldest_task), (Some(days_ago(100)), Some(task_id(1))));
    assert_eq!(report.users.iter().map(|user| (user.user_id.as_str(), user.tasks)).collect::<Vec<_>>(), [("ada", 1)]);
    assert!(!lab.lists(1).await && lab.lists(2).await);
    assert_eq!(lab.shelves.logs.measure(task_id(1)).await.unwrap(), (0, 0));
    assert_eq!(lab.shelves.logs.measure(task_id(2)).await.unwrap(), (1, 5));
    assert_eq!(lab.shelves.metrics.measure(task_id(1)).await.unwrap(), (0, 0));
    assert_eq!(lab.shelves.metrics.measure(task_id(2)).await.unwrap(), (1, 7));
    let filter = TaskFilter { limit: 10, ..TaskFilter::default() };
    assert_eq!(lab.shelves.store.tasks(&filter).await.unwrap().1, 1, "counters know");
    assert_eq!(lab.shelves.store.snapshot(&old).await.unwrap(), None);
    assert!(lab.shelves.store.snapshot(&new).await.unwrap().is_some());

    // Nothing of it is silent.
    let rows = lab.shelves.store.audit_rows(0, 100).await.unwrap();
    assert_eq!(fetchml_audit::verify(&lab.shelves.store.log_id(), &rows).first_tampered, None);
    let actions: Vec<String> = rows
        .iter()
        .map(|row| serde_json::from_slice::<serde_json::Value>(&row.body).unwrap()["action"].as_str().unwrap().into())
        .collect();
    assert_eq!(actions, ["files_collect", "purge", "snapshot_collect", "blobs_collect"]);
    assert_eq!(counts(&lab.collect().await), []);
}

#[tokio::test]
async fn files_may_go_before_tasks_and_deleted_ones_before_all() {
    let lab = Lab::new().await;
    lab.ended(1, 40, &["forty days old"], None).await;
    lab.ended(2, 3, &["deleted two days ago"], None).await;
    lab.ended(3, 3, &["deleted just now"], None).await;
    lab.commit(vec![
        Write::TaskHide { id: task_id(2), at: days_ago(2) },
        Write::TaskHide { id: task_id(3), at: NOW.plus_seconds(-60) },
    ])
    .await;
    lab.collect_with(Retention { files: Some(Duration::from_hours(30 * 24)), ..rules() }, false, &[WORKER]).await;
    let why = async |n| lab.shelves.store.collected(task_id(n)).await.unwrap().map(|deleted| deleted.reason);
    assert_eq!(
        (why(1).await, why(2).await, why(3).await),
        (Some(CollectReason::Age), Some(CollectReason::Deleted), None)
    );
    assert!(lab.lists(1).await, "it is listed for 90 days");
    assert!(!lab.has("forty days old").await && !lab.has("deleted two days ago").await);
    assert!(lab.has("deleted just now").await);

    let for_ever = Retention { files: None, tasks: None, deleted: Duration::from_hours(1_000_000), ..rules() };
    let lab = Lab::new().await;
    lab.ended(1, 4_000, &["eleven years old"], None).await;
    assert_eq!(counts(&lab.collect_with(for_ever, false, &[WORKER]).await), []);
    assert_eq!(Retention { files: None, ..rules() }.tasks_kept(), None, "never longer than its files");
}

#[tokio::test]
async fn a_dry_run_says_what_would_go_and_changes_nothing() {
    let lab = Lab::new().await;
    let one = lab.snapshot(&["code", "data"], days_ago(120)).await;
    let both = lab.snapshot(&["code", "more"], days_ago(120)).await;
    let never_named = lab.snapshot(&["typo"], days_ago(3)).await;
    lab.ended(1, 100, &["model", "shared"], Some(one)).await;
    lab.ended(2, 95, &[], Some(both.clone())).await;
    lab.ended(3, 10, &["shared"], Some(both)).await;
    lab.ended(4, 10, &["hidden"], None).await;
    lab.commit(vec![Write::TaskHide { id: task_id(4), at: days_ago(5) }]).await;
    lab.blob("orphan", days_ago(9)).await;
    let (before, head) = (files(lab.dir.path()), lab.shelves.store.audit_head());
    let told = lab.collect_with(rules(), true, &[WORKER]).await;
    assert!(told.dry_run);
    assert_eq!(told.removed, lab.collect_with(rules(), true, &[WORKER]).await.removed, "again the same");
    assert_eq!((files(lab.dir.path()), lab.shelves.store.audit_head()), (before, head));
    assert!(lab.shelves.store.snapshot(&never_named).await.unwrap().is_some());

    let done = lab.collect().await;
    assert_eq!(counts(&told), counts(&done));
    assert_eq!((told.freed_bytes, told.users, told.oldest), (done.freed_bytes, done.users, done.oldest));
    assert!(told.freed_bytes > 0);
}

#[tokio::test]
async fn what_a_live_task_starts_from_stays() {
    let lab = Lab::new().await;
    let snapshot = lab.snapshot(&["code"], days_ago(200)).await;
    lab.ended(1, 100, &[], None).await;
    lab.task(2, |spec, state, _| {
        (spec.snapshot_id, spec.resume_from) = (Some(snapshot.clone()), Some(task_id(1)));
        (state.status, state.attempt) = (TaskStatus::Queued, None);
    })
    .await;
    assert_eq!(counts(&lab.collect().await), []);
    assert!(lab.has("checkpoint of 1").await && lab.has("code").await);
    assert!(lab.shelves.store.checkpoint(task_id(1)).await.unwrap().is_some());
}

/// A submit that names a checkpoint, against a collection that is about to take it.
#[tokio::test]
async fn a_checkpoint_is_collected_or_resumed_from_but_not_both() {
    let claim = Write::CheckpointUse { task: task_id(1), at: NOW };
    let begin = Write::Collect(Collect::Begin {
        task: task_id(1),
        at: NOW,
        reason: CollectReason::Age,
        used_before: days_ago(1),
    });
    for claim_first in [true, false] {
        let lab = Lab::new().await;
        lab.ended(1, 100, &[], None).await;
        let (first, second) = if claim_first { (&claim, &begin) } else { (&begin, &claim) };
        lab.commit(vec![first.clone()]).await;
        if !claim_first {
            // The submit comes while the rows are being cleared away.
            let collected = lab.shelves.store.commit(vec![Write::Collect(Collect::End { task: task_id(1) })]).await;
            collected.unwrap();
        }
        let refused = lab.shelves.store.commit(vec![second.clone()]).await;
        assert!(matches!(refused, Err(StoreError::Data(_))), "claim first: {claim_first}");
    }
}

/// A snapshot that is being negotiated, against a sweep: at each point between two steps of the one, the other runs.
#[tokio::test]
async fn a_snapshot_is_whole_however_a_sweep_falls_into_its_negotiation() {
    for point in 0..4 {
        let lab = Lab::new().await;
        // One file was uploaded long ago and is referred to by nothing: it is about to go.
        lab.blob("old file", days_ago(9)).await;
        let sweep = async || drop(lab.collect().await);
        let names = [sha256("old file"), sha256("new file")];
        let mut missing = Vec::new();
        let mut ask = async || {
            missing.clear();
            for name in &names {
                if lab.shelves.blobs.claim(name, NOW).await.unwrap().is_none() {
                    missing.push(name.clone());
                }
            }
            missing.clone()
        };
        if point == 0 {
            sweep().await;
        }
        let wanted = ask().await;
        assert_eq!(wanted.len(), if point == 0 { 2 } else { 1 });
        if point == 1 {
            sweep().await;
        }
        for text in ["old file", "new file"] {
            if wanted.contains(&sha256(text)) {
                lab.blob(text, NOW).await;
            }
        }
        if point == 2 {
            sweep().await;
        }
        assert_eq!(ask().await, Vec::<String>::new());
        if point == 3 {
            sweep().await;
        }
        let id = lab.snapshot(&["new file"], NOW).await;
        sweep().await;
        assert!(lab.shelves.store.snapshot(&id).await.unwrap().is_some());
        assert!(lab.has("old file").await && lab.has("new file").await, "swept at point {point}");
    }
}

/// The sweep itself in two halves, with a claim in between.
#[tokio::test]
async fn what_is_claimed_between_looking_and_deleting_stays() {
    let lab = Lab::new().await;
    let (claimed, left) = (lab.blob("claimed", days_ago(9)).await, lab.blob("left", days_ago(9)).await);
    let mut pace = forever();
    let tally = Arc::new(Mutex::new(Tally::new(false, &rules(), NOW)));
    let mut pass = Pass::new(&lab.shelves, rules(), (NOW, NOW), BTreeSet::new(), &mut pace, tally);
    let mut candidates = blobs::Candidates::new();
    for artifact in [&claimed, &left] {
        let mut hash = [0; 32];
        hex::decode_to_slice(&artifact.sha256, &mut hash).unwrap();
        candidates.insert(hash, artifact.size_bytes);
    }
    let orphans = pass.unreferenced(candidates.clone()).await.unwrap();
    assert_eq!(orphans, candidates);
    lab.shelves.blobs.claim(&claimed.sha256, NOW).await.unwrap();
    pass.discard(orphans, days_ago(1)).await.unwrap();
    assert!(lab.has("claimed").await && !lab.has("left").await);
    assert!(pass.unreferenced(blobs::Candidates::new()).await.unwrap().is_empty());
}

/// An artifact is found at the server long before the attempt's end is reported: the worker may have been cut off.
#[tokio::test]
async fn uploads_of_attempts_that_cannot_be_heard_stay() {
    for (phase, linked, stays) in [
        (AttemptPhase::Running, false, true),
        (AttemptPhase::Collecting, false, true),
        (AttemptPhase::Collecting, true, true),
        // It runs and is heard: it would have named within the day what it found.
        (AttemptPhase::Running, true, false),
    ] {
        let lab = Lab::new().await;
        lab.task(1, |_, state, attempt| {
            (attempt.phase, attempt.created_at) = (phase, days_ago(5));
            if phase == AttemptPhase::Collecting {
                state.status = TaskStatus::Collecting;
            }
        })
        .await;
        lab.blob("artifact", days_ago(4)).await;
        lab.blob("older than it", days_ago(6)).await;
        let heard: &[WorkerId] = if linked { &[WORKER] } else { &[] };
        lab.collect_with(rules(), false, heard).await;
        assert_eq!(lab.has("artifact").await, stays, "{phase:?}, linked: {linked}");
        assert!(!lab.has("older than it").await);
    }
}

#[tokio::test]
async fn a_manifest_that_cannot_be_read_stops_the_sweep() {
    let lab = Lab::new().await;
    let id = lab.snapshot(&["code"], days_ago(9)).await;
    lab.task(1, |spec, _, _| spec.snapshot_id = Some(id.clone())).await;
    lab.blob("orphan", days_ago(9)).await;
    let name = &id["sha256:".len()..];
    let path = lab.dir.path().join("objects/blobs").join(&name[..2]).join(name);
    std::fs::write(&path, "torn").unwrap();
    let (ended, _) = lab.collect_at_pace(rules(), false, &[WORKER], &mut forever()).await;
    let told = ended.unwrap_err().to_string();
    assert!(told.contains(&id), "{told}");
    assert!(lab.has("code").await && lab.has("orphan").await);
}

#[tokio::test]
async fn a_full_disk_takes_the_files_that_ended_first() {
    let lab = Lab::new().await;
    // Whatever this machine's disk is: above 0 % it is too full, and never below.
    let full = Retention { disk_high_percent: 0, disk_low_percent: 0, ..rules() };
    lab.ended(1, 9, &["nine days old"], None).await;
    lab.ended(2, 3, &["three days old"], None).await;
    lab.ended(3, 0, &["of today"], None).await;
    let told = lab.collect_with(full, true, &[WORKER]).await;
    assert_eq!(told.of(GcKind::Artifacts).unwrap().count, 2);
    let report = lab.collect_with(full, false, &[WORKER]).await;
    assert_eq!(
        counts(&report).iter().map(|c| c.0).collect::<Vec<_>>(),
        [GcKind::Logs, GcKind::Metrics, GcKind::Artifacts, GcKind::Checkpoints, GcKind::Blobs]
    );
    assert!(!lab.has("nine days old").await && !lab.has("three days old").await && lab.has("of today").await);
    assert!(lab.lists(1).await && lab.lists(2).await, "only files go");
    assert_eq!(lab.shelves.store.collected(task_id(1)).await.unwrap().unwrap().reason, CollectReason::Disk);
    let [problem] = &report.problems[..] else { panic!("{:?}", report.problems) };
    assert!(problem.contains("no more files of ended tasks may be deleted"), "{problem}");
}

#[tokio::test]
async fn a_full_disk_takes_no_more_than_it_must() {
    let lab = Lab::new().await;
    for n in 1..=4 {
        lab.ended(n, 20 - i64::try_from(n).unwrap(), &["shared by all"], None).await;
    }
    let mut pace = forever();
    let tally = Arc::new(Mutex::new(Tally::new(false, &rules(), NOW)));
    let mut pass = Pass::new(&lab.shelves, rules(), (NOW, NOW), BTreeSet::new(), &mut pace, tally);
    // Each task says 40 bytes: its log, its metrics, its artifact, its checkpoint.
    let went = pass.collect_until(fetchml_store::Past::WithFiles, days_ago(1), CollectReason::Disk, 50).await.unwrap();
    assert_eq!(went, 2 * 40);
    for (n, gone) in [(1, true), (2, true), (3, false), (4, false)] {
        assert_eq!(lab.shelves.store.collected(task_id(n)).await.unwrap().is_some(), gone, "task {n}");
    }
}

/// Cut off before each of its steps, with everything closed and opened again: what lives is whole, and the next
/// collection brings about the same as one that was never disturbed.
#[tokio::test]
async fn a_collection_may_be_cut_off_anywhere() {
    let filled = async || {
        let lab = Lab::new().await;
        let old = lab.snapshot(&["old code", "shared code"], days_ago(120)).await;
        let new = lab.snapshot(&["new code", "shared code"], days_ago(20)).await;
        lab.ended(1, 100, &["old model", "shared model"], Some(old)).await;
        lab.ended(2, 95, &["other model"], None).await;
        lab.ended(3, 20, &["new model", "shared model"], Some(new)).await;
        lab.blob("orphan", days_ago(9)).await;
        lab
    };
    let whole = filled().await;
    whole.collect().await;
    let left = |lab: &Lab| -> BTreeSet<String> {
        let root = lab.dir.path().display().to_string();
        files(&lab.dir.path().join("objects")).iter().map(|path| path.replace(&root, "")).collect()
    };
    let undisturbed = left(&whole);
    let mut steps = 0;
    loop {
        let lab = filled().await;
        let (ended, _) = lab.collect_at_pace(rules(), false, &[WORKER], &mut Pace::of_steps(steps)).await;
        let lab = lab.restart().await;
        for kept in ["new code", "shared code", "new model", "shared model", "checkpoint of 3"] {
            assert!(lab.has(kept).await, "{kept}, cut off after {steps} steps");
        }
        let listed = lab.shelves.store.tasks(&TaskFilter { limit: 10, ..TaskFilter::default() }).await.unwrap();
        assert_eq!(listed.0.len() as i64, listed.1, "counters, cut off after {steps} steps");
        // What is not said to be deleted is there.
        for n in [1, 2] {
            if lab.lists(n).await && lab.shelves.store.collected(task_id(n)).await.unwrap().is_none() {
                assert_eq!(lab.shelves.logs.measure(task_id(n)).await.unwrap(), (1, 5), "task {n} after {steps} steps");
                let (_, artifacts) = lab.shelves.store.artifacts(task_id(n), None).await.unwrap().unwrap();
                for artifact in artifacts {
                    assert!(lab.shelves.blobs.size(&artifact.sha256).await.unwrap().is_some());
                }
            }
        }
        lab.collect().await;
        assert_eq!(left(&lab), undisturbed, "cut off after {steps} steps");
        assert!(!lab.lists(1).await && !lab.lists(2).await && lab.lists(3).await);
        match ended {
            Ok(()) => break,
            Err(Ended::Stopped) => steps += if (20..270).contains(&steps) { 25 } else { 1 },
            Err(error) => panic!("{error}"),
        }
    }
    assert!(steps > 270, "the sweep alone has 256 steps");
}

/// One collection at a time, started by whomever.
#[tokio::test]
async fn a_second_collection_is_refused_until_the_first_has_ended() {
    let lab = Lab::new().await;
    let settings = crate::driver::DriverSettings {
        aging_interval_s: 1_800,
        lost_after_s: 600,
        hold_after_s: 900,
        prepare_timeout_s: 1_800,
        quotas: BTreeMap::new(),
        preemption: crate::driver::Preemption::default(),
        values: crate::auth::KeyedHash::new(&[7; 32]),
        incarnation_file: lab.dir.path().join("incarnation"),
    };
    let (driver, task) = Driver::start(lab.shelves.store.clone(), settings, Instruments::new()).await.unwrap();
    let stop = CancellationToken::new();
    let collector = Collector::new(lab.shelves.clone(), driver, rules(), stop.clone());
    assert_eq!(collector.last(), None);
    let first = collector.start(false, true).unwrap();
    assert!(collector.start(true, true).is_none());
    assert_eq!(collector.last().unwrap().state, GcState::Running);
    let report = first.report().await;
    assert_eq!((report.state, report.dry_run), (GcState::Finished, false));
    collector.settled().await;
    // One that the server's stop cuts off says so.
    let second = collector.start(false, true).unwrap();
    stop.cancel();
    assert_eq!(second.report().await.state, GcState::Stopped);
    collector.settled().await;
    task.stop().await;
}
