//! Collecting: what is not needed goes, in small steps; what is needed stays, whoever comes first.

use crate::{Fixture, build::*};
use fetchml_api::{
    AttemptId, AttemptPhase, AttemptRecord, Checkpoint, CollectReason, FilesDeleted, Micros, TaskId, TaskState,
    TaskStatus,
};
use fetchml_store::{Collect, Past, PastTask, StoreError, TaskFilter, Write};
use std::sync::Arc;

const LATER: Micros = Micros(NOW.0 + 1_000_000);

/// A task that ended at `NOW + n`, with one attempt that left `artifacts` files and a checkpoint.
pub(crate) fn ended(n: u64, user: &str, artifacts: usize) -> Vec<Write> {
    let mut spec = spec(n, user, "a");
    spec.resume_from = None;
    spec.snapshot_id = Some(format!("sha256:{n:064x}"));
    let state = TaskState { status: TaskStatus::Completed, ended_at: Some(Micros(NOW.0 + n as i64)), ..queued(n) };
    let attempt = AttemptRecord { phase: AttemptPhase::Ended, outcome: Some(outcome(artifacts)), ..attempt(n, n, 1) };
    vec![
        Write::TaskInsert(Arc::new(spec), queued(n)),
        Write::TaskUpdate(state),
        Write::AttemptPut(attempt),
        Write::CheckpointPut(Checkpoint { attempt_id: attempt_id(n), saved_at: NOW, files: outcome(2).artifacts }),
    ]
}

fn begin(n: u64, used_before: Micros) -> Write {
    Write::Collect(Collect::Begin { task: task_id(n), at: LATER, reason: CollectReason::Age, used_before })
}

fn artifacts(n: u64, rows: u32) -> Write {
    Write::Collect(Collect::Artifacts { task: task_id(n), attempt: attempt_id(n), rows })
}

async fn refused(fixture: &Fixture, write: Write) {
    let told = format!("{write:?}");
    let outcome = fixture.store.commit(vec![write, Write::Audit(audit("x"))]).await;
    assert!(matches!(outcome, Err(StoreError::Data(_))), "{told}: {outcome:?}");
}

fn ids(tasks: &[PastTask]) -> Vec<TaskId> {
    tasks.iter().map(|task| task.id).collect()
}

pub(crate) async fn a_hidden_task_is_found_by_when_it_was_hidden(fixture: Fixture) {
    let store = &fixture.store;
    store.commit([ended(1, "ann", 0), ended(2, "ann", 0)].concat()).await.unwrap();
    for at in [LATER, Micros(LATER.0 + 9)] {
        store.commit(vec![Write::TaskHide { id: task_id(1), at }]).await.unwrap();
        assert_eq!(store.task(task_id(1)).await.unwrap(), None);
        assert_eq!(store.tasks(&TaskFilter { limit: 9, ..TaskFilter::default() }).await.unwrap().1, 1);
    }
    assert!(store.past_tasks(Past::Deleted, LATER, None, 9).await.unwrap().is_empty());
    let after = store.past_tasks(Past::Deleted, Micros(LATER.0 + 1), None, 9).await.unwrap();
    assert_eq!((ids(&after), after[0].since), (vec![task_id(1)], LATER));
    assert_eq!(ids(&store.past_tasks(Past::WithFiles, LATER, None, 9).await.unwrap()), [task_id(1), task_id(2)]);
}

pub(crate) async fn a_task_is_collected_in_steps(fixture: Fixture) {
    let store = &fixture.store;
    store.commit([ended(1, "ann", 5), ended(2, "ann", 1)].concat()).await.unwrap();
    let holdings = store.holdings(task_id(1)).await.unwrap();
    assert_eq!(holdings.attempts, [(attempt_id(1), 5)]);
    assert!(store.is_collectable(task_id(1), LATER).await.unwrap());
    assert_eq!((holdings.artifacts, holdings.checkpoints), ((5, 10), (2, 1)));
    for early in [artifacts(1, 9), Write::Collect(Collect::End { task: task_id(1) })] {
        refused(&fixture, early).await;
    }
    refused(&fixture, Write::Collect(Collect::Task { task: task_id(1) })).await;

    store.commit(vec![begin(1, LATER)]).await.unwrap();
    let said = FilesDeleted { at: LATER, reason: CollectReason::Age };
    assert_eq!(store.collected(task_id(1)).await.unwrap(), Some(said));
    assert_eq!(store.collected(task_id(2)).await.unwrap(), None);
    assert_eq!(store.collected_in_part(None, 9).await.unwrap(), [task_id(1)]);
    assert!(store.collected_in_part(Some(task_id(1)), 9).await.unwrap().is_empty());
    assert_eq!(ids(&store.past_tasks(Past::WithFiles, LATER, None, 9).await.unwrap()), [task_id(2)]);
    refused(&fixture, begin(1, LATER)).await;
    assert!(!store.is_collectable(task_id(1), LATER).await.unwrap());
    for left in [3, 1, 0, 0] {
        store.commit(vec![artifacts(1, 2)]).await.unwrap();
        assert_eq!(store.holdings(task_id(1)).await.unwrap().artifacts.0, left);
    }
    refused(&fixture, Write::Collect(Collect::Task { task: task_id(1) })).await;
    store.commit(vec![Write::Collect(Collect::End { task: task_id(1) })]).await.unwrap();
    assert_eq!(store.checkpoint(task_id(1)).await.unwrap(), None);
    assert!(store.collected_in_part(None, 9).await.unwrap().is_empty());
    refused(&fixture, artifacts(1, 9)).await;
    assert!(store.task(task_id(1)).await.unwrap().is_some(), "it is still listed");

    store.commit(vec![Write::Collect(Collect::Task { task: task_id(1) })]).await.unwrap();
    assert_eq!(store.task(task_id(1)).await.unwrap(), None);
    assert!(store.attempts(task_id(1)).await.unwrap().is_empty());
    assert_eq!(store.collected(task_id(1)).await.unwrap(), None);
    let (listed, total) = store.tasks(&TaskFilter { limit: 9, ..TaskFilter::default() }).await.unwrap();
    assert_eq!((listed.len(), total), (1, 1), "counters know");
    refused(&fixture, Write::Collect(Collect::Task { task: task_id(1) })).await;
    assert_eq!(store.holdings(task_id(2)).await.unwrap().artifacts, (1, 0), "others are not touched");
    assert_eq!(fixture.store.audit_head().0, 0, "nothing of a refused commit is written");
}

pub(crate) async fn what_tasks_have_in_common_goes_with_the_last(fixture: Fixture) {
    let put = |n, isolation| Write::ProvenancePut {
        attempt: attempt_id(n),
        node: 0,
        provenance: Box::new(provenance(isolation)),
    };
    let writes = [ended(1, "ann", 0), ended(2, "ann", 0), vec![put(1, "same"), put(2, "same")]].concat();
    fixture.store.commit(writes).await.unwrap();
    let collect = |n| vec![begin(n, LATER), Write::Collect(Collect::End { task: task_id(n) })];
    let delete = |n| vec![Write::Collect(Collect::Task { task: task_id(n) })];
    fixture.store.commit([collect(1), collect(2), delete(1)].concat()).await.unwrap();
    assert_eq!(fixture.store.provenance(attempt_id(1)).await.unwrap(), []);
    assert_eq!(fixture.store.provenance(attempt_id(2)).await.unwrap(), [(0, provenance("same"))]);
    fixture.store.commit(delete(2)).await.unwrap();
    fixture.store.close().await;
    // Refused if anything were left.
    fixture.execute("CREATE TABLE none_left (n BIGINT CHECK (n = 0))").await.unwrap();
    fixture.execute("INSERT INTO none_left (n) SELECT COUNT(*) FROM provenance").await.unwrap();
    fixture.execute("DROP TABLE none_left").await.unwrap();
}

pub(crate) async fn what_is_needed_is_not_collected(fixture: Fixture) {
    let store = &fixture.store;
    store.commit([ended(1, "ann", 1), vec![insert(2, "ann", "waits")]].concat()).await.unwrap();
    refused(&fixture, begin(2, LATER)).await;
    refused(&fixture, begin(77, LATER)).await;

    // Somebody was told of its checkpoint just now: a submit that names it may be on its way.
    store.commit(vec![Write::CheckpointUse { task: task_id(1), at: LATER }]).await.unwrap();
    refused(&fixture, begin(1, LATER)).await;
    // There it is. Until it has ended the checkpoint stays, however old.
    let mut resuming = spec(3, "ann", "resumes");
    resuming.resume_from = Some(task_id(1));
    store.commit(vec![Write::TaskInsert(Arc::new(resuming), queued(3))]).await.unwrap();
    let (much_later, running) = (Micros(LATER.0 * 2), TaskState { status: TaskStatus::Running, ..queued(3) });
    refused(&fixture, begin(1, much_later)).await;
    store.commit(vec![Write::TaskUpdate(running.clone())]).await.unwrap();
    refused(&fixture, begin(1, much_later)).await;
    store.commit(vec![Write::TaskUpdate(TaskState { status: TaskStatus::Failed, ..running })]).await.unwrap();
    store.commit(vec![begin(1, much_later)]).await.unwrap();

    let id = spec(2, "ann", "waits").snapshot_id.unwrap();
    store.commit(vec![Write::SnapshotPut(snapshot(&id)), Write::SnapshotPut(snapshot("sha256:b"))]).await.unwrap();
    assert_eq!((store.snapshot_tasks(&id).await.unwrap(), store.snapshot_tasks("sha256:b").await.unwrap()), (2, 0));
    let delete = |id: &str, used_before| Write::Collect(Collect::Snapshot { id: id.into(), used_before });
    refused(&fixture, delete(&id, much_later)).await;
    let unused = store.snapshots_unused(much_later, "", 9).await.unwrap();
    assert_eq!(unused.iter().map(|snapshot| snapshot.id.as_str()).collect::<Vec<_>>(), ["sha256:b"]);
    refused(&fixture, delete("sha256:b", NOW)).await;
    store.commit(vec![delete("sha256:b", LATER)]).await.unwrap();
    assert_eq!(store.snapshot("sha256:b").await.unwrap(), None);
    assert!(store.snapshot(&id).await.unwrap().is_some());
}

pub(crate) async fn whoever_is_told_of_something_finds_it(fixture: Fixture) {
    let store = &fixture.store;
    refused(&fixture, Write::SnapshotUse { id: "sha256:a".into(), at: LATER }).await;
    refused(&fixture, Write::CheckpointUse { task: task_id(1), at: LATER }).await;
    store.commit(vec![Write::SnapshotPut(snapshot("sha256:a"))]).await.unwrap();
    let used = async || store.snapshot("sha256:a").await.unwrap().unwrap().used_at;
    store.commit(vec![Write::SnapshotUse { id: "sha256:a".into(), at: LATER }]).await.unwrap();
    assert_eq!(used().await, LATER);
    // Neither an earlier use nor storing it again takes that back.
    store.commit(vec![Write::SnapshotUse { id: "sha256:a".into(), at: NOW }]).await.unwrap();
    store.commit(vec![Write::SnapshotPut(snapshot("sha256:a"))]).await.unwrap();
    assert_eq!(used().await, LATER);
    let mut again = snapshot("sha256:a");
    again.used_at = Micros(LATER.0 + 5);
    store.commit(vec![Write::SnapshotPut(again)]).await.unwrap();
    assert_eq!(used().await, Micros(LATER.0 + 5));
    assert_eq!(store.snapshots_unused(Micros(LATER.0 + 5), "", 9).await.unwrap(), []);
    assert_eq!(store.snapshots_unused(Micros(LATER.0 + 6), "", 9).await.unwrap().len(), 1);
    assert_eq!(store.snapshots_unused(Micros(LATER.0 + 6), "sha256:a", 9).await.unwrap(), []);
}

pub(crate) async fn past_tasks_are_paged_oldest_first(fixture: Fixture) {
    let store = &fixture.store;
    let mut writes: Vec<Write> = (1..=7).flat_map(|n| ended(n, "ann", 0)).collect();
    writes.push(insert(8, "ann", "waits"));
    store.commit(writes).await.unwrap();
    // Two that ended at the same time.
    let same = TaskState { status: TaskStatus::Failed, ended_at: Some(Micros(NOW.0 + 4)), ..queued(5) };
    store.commit(vec![Write::TaskUpdate(same)]).await.unwrap();
    let mut seen = Vec::new();
    let mut after: Option<PastTask> = None;
    loop {
        let page = store.past_tasks(Past::All, Micros(NOW.0 + 7), after.as_ref(), 2).await.unwrap();
        seen.extend(ids(&page));
        match page.last() {
            Some(last) => after = Some(last.clone()),
            None => break,
        }
    }
    assert_eq!(seen, (1..=6).map(task_id).collect::<Vec<_>>());
    assert_eq!(after.unwrap().snapshot_id, Some(format!("sha256:{:064x}", 6)));
}

pub(crate) async fn blobs_that_are_referred_to_are_paged(fixture: Fixture) {
    let store = &fixture.store;
    store.commit([ended(1, "ann", 3), ended(2, "ann", 0), ended(3, "ann", 2)].concat()).await.unwrap();
    let blobs = |attempt: u64, files: usize| -> Vec<(AttemptId, String)> {
        outcome(files).artifacts.into_iter().map(|file| (attempt_id(attempt), file.sha256)).collect()
    };
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = store.artifact_blobs(after.as_ref(), 2).await.unwrap();
        found.extend(page.blobs);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(found, [blobs(1, 3), blobs(3, 2)].concat());
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = store.checkpoint_blobs(after, 2).await.unwrap();
        found.extend(page.blobs);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(found, [blobs(1, 2), blobs(2, 2), blobs(3, 2)].concat());
    for id in ["sha256:b", "sha256:a"] {
        store.commit(vec![Write::SnapshotPut(snapshot(id))]).await.unwrap();
    }
    assert_eq!(store.snapshot_ids("", 1).await.unwrap(), ["sha256:a"]);
    assert_eq!(store.snapshot_ids("sha256:a", 9).await.unwrap(), ["sha256:b"]);
    let live = TaskState { status: TaskStatus::Running, attempt: Some(attempt_id(3)), ..queued(3) };
    store.commit(vec![Write::TaskUpdate(live)]).await.unwrap();
    let live: Vec<AttemptId> = store.attempts_live().await.unwrap().iter().map(|a| a.id).collect();
    assert_eq!(live, [attempt_id(3)]);
}
