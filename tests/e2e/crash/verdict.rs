//! What must be true when every fault is over and everything has drained.

use super::{
    faults::Faults,
    ledger::{Ledger, Plan},
};
use crate::support::{Lab, eventually};
use fetchml_api::{Artifact, AttemptPhase, FailureCause, Task, TaskId, TaskListQuery};
use fetchml_client::LogQuery;
use fetchml_store::{Location, Store};
use futures_util::TryStreamExt as _;
use sha2::{Digest as _, Sha256};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    time::Duration,
};

/// Everything unfinished must have ended by then: the longest task takes two seconds, and a requeued
/// one waits for its backoff.
const DRAIN: Duration = Duration::from_mins(4);

/// What there was to judge.
pub(crate) struct Seen {
    pub(crate) stored: usize,
    pub(crate) requeued: usize,
}

pub(crate) async fn of(lab: &mut Lab, ledger: &Ledger, faults: &Faults) -> Seen {
    let client = lab.client();
    eventually("everything has drained", DRAIN, async || {
        let queue = client.queue().await.ok()?;
        (queue.queued + queue.running == 0).then_some(())
    })
    .await;
    let stored = all_tasks(lab).await;
    let acknowledged = ledger.acknowledged();
    let lost: Vec<_> = acknowledged.keys().filter(|id| !stored.contains_key(id)).collect();
    assert!(lost.is_empty(), "{} of {} acknowledged tasks are lost: {lost:?}", lost.len(), acknowledged.len());
    let marks: BTreeSet<_> = stored.values().map(|task| &task.metadata["mark"]).collect();
    assert_eq!(marks.len(), stored.len(), "a submit is stored twice");

    for task in stored.values() {
        judge(lab, faults, task).await;
    }
    no_survivor(lab, &stored);
    slots_are_free(lab).await;
    lab.server.take().expect("it runs").terminate().await;
    let requeued = audit_agrees(lab, &stored, faults).await;
    Seen { stored: stored.len(), requeued }
}

/// One task: exit code and log exact, and run again only after its shim was killed.
async fn judge(lab: &Lab, faults: &Faults, task: &Task) {
    let plan = Plan::of(&task.metadata["mark"]).expect("a mark of this run");
    let id = task.id;
    assert!(task.status.is_terminal(), "task {id} is {:?} though nothing is unfinished", task.status);
    assert_eq!(task.retry_count, 0, "task {id} was retried, which nobody asked for");
    let log = lab.client().logs(id, LogQuery::default(), None).await.expect("a log");
    let log: Vec<u8> = log
        .try_fold(Vec::new(), async |mut all, part| {
            all.extend_from_slice(&part);
            Ok(all)
        })
        .await
        .expect("a log");
    let log = String::from_utf8(log).expect("UTF-8");
    let failure = task.failure.as_ref();
    let attempt = task.attempt_id.expect("it ended, so it was tried");
    if failure.is_some_and(|failure| failure.cause == FailureCause::Signal) {
        assert!(faults.tasks.contains(&attempt), "task {id} was killed by somebody: {:?}", task.error);
        assert_eq!(failure.and_then(|failure| failure.signal), Some(9), "task {id}");
        assert!(plan.log().starts_with(&log), "task {id} printed something else before it was killed:\n{log}");
        return;
    }
    assert_eq!(
        failure.map(|failure| (failure.cause, failure.exit_code)),
        (plan.exit_code() != 0).then_some((FailureCause::ExitNonzero, Some(plan.exit_code()))),
        "task {id}: {:?}",
        task.error
    );
    assert!(log == plan.log(), "log of task {id}: {} bytes instead of {}\n{log}", log.len(), plan.log().len());
    judge_files(lab, id, plan).await;
}

/// What it left in its output and its checkpoint directory is stored, and nothing else.
async fn judge_files(lab: &Lab, id: TaskId, plan: Plan) {
    let expected = |path: &str| {
        let file = plan.file()?;
        Some(Artifact { path: path.into(), size_bytes: file.len() as u64, sha256: hex::encode(Sha256::digest(file)) })
    };
    let artifacts = lab.client().artifacts(id).await.expect("a list").artifacts;
    assert_eq!(artifacts, Vec::from_iter(expected("result")), "artifacts of task {id}");
    let checkpoint = lab.client().checkpoint(id).await.expect("an answer");
    assert_eq!(
        checkpoint.map(|checkpoint| checkpoint.files),
        expected("state").map(|file| vec![file]),
        "checkpoint of task {id}"
    );
}

/// No process of any task of this run lives.
fn no_survivor(lab: &Lab, stored: &BTreeMap<TaskId, Task>) {
    let ids: BTreeSet<String> = stored.keys().map(ToString::to_string).collect();
    for entry in fs::read_dir("/proc").expect("procfs").flatten() {
        let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
        for variable in environment.split(|byte| *byte == 0) {
            if let Some(id) = variable.strip_prefix(b"FETCHML_TASK_ID=") {
                let id = String::from_utf8_lossy(id);
                assert!(
                    !ids.contains(&*id),
                    "process {} of the ended task {id} lives ({})",
                    entry.path().display(),
                    lab.url()
                );
            }
        }
    }
}

async fn slots_are_free(lab: &Lab) {
    let client = lab.client();
    eventually("every slot is free", crate::support::DEADLINE, async || {
        let workers = client.workers().await.ok()?;
        workers.iter().all(|worker| worker.slots.batch_available == worker.slots.batch_total).then_some(())
    })
    .await;
}

/// The chain verifies; each task has one submit and one end; it was queued again only as often as its
/// shims were killed. Returns how often that was.
async fn audit_agrees(lab: &Lab, stored: &BTreeMap<TaskId, Task>, faults: &Faults) -> usize {
    let store = Store::open(&Location::Sqlite(lab.data_dir().join("fetchml.db"))).await.expect("the database opens");
    let mut rows = Vec::new();
    loop {
        let page = store.audit_rows(rows.len() as u64, 1_000).await.expect("audit rows");
        if page.is_empty() {
            break;
        }
        rows.extend(page);
    }
    crate::support::assert_chain(&store.log_id(), &rows);
    let mut counts = BTreeMap::<(String, String), usize>::new();
    for row in &rows {
        let body: serde_json::Value = serde_json::from_slice(&row.body).expect("JSON");
        let task = body["resource"].as_str().and_then(|resource| resource.strip_prefix("tasks/"));
        if let (Some(action), Some(task)) = (body["action"].as_str(), task) {
            *counts.entry((task.to_owned(), action.to_owned())).or_default() += 1;
        }
    }
    let count = |id: &TaskId, action: &str| counts.get(&(id.to_string(), action.to_owned())).copied().unwrap_or(0);
    let (mut requeued, mut unexplained) = (0, Vec::new());
    for (id, task) in stored {
        assert_eq!(count(id, "submit"), 1, "submits of {id}");
        assert_eq!(count(id, "complete") + count(id, "fail"), 1, "ends of {id}");
        let mut attempts = store.attempts(*id).await.expect("attempts");
        // Those that were called back before their turn do not count, and the last one is what came of it.
        attempts.retain(|attempt| attempt.phase != AttemptPhase::Abandoned);
        attempts.pop();
        assert_eq!(attempts.len(), task.requeue_count as usize, "attempts of {id} that were in vain: {attempts:#?}");
        requeued += attempts.len();
        unexplained.extend(attempts.into_iter().filter(|attempt| !faults.shims.contains(&attempt.id)));
    }
    // Which attempt a shim belonged to that ended at a named place is not known; that there was one is.
    assert!(
        unexplained.len() <= faults.shims_at_places,
        "{} attempts ended though their shims were not killed, and only {} shims ended at named places: {unexplained:#?}",
        unexplained.len(),
        faults.shims_at_places
    );
    store.close().await;
    requeued
}

async fn all_tasks(lab: &Lab) -> BTreeMap<TaskId, Task> {
    let client = lab.client();
    let mut tasks = BTreeMap::new();
    let mut after = None;
    loop {
        let query = TaskListQuery { limit: Some(1_000), after, ..Default::default() };
        let page = client.tasks(&query).await.expect("a page");
        let Some(last) = page.tasks.last() else { return tasks };
        after = Some(last.id);
        for task in page.tasks {
            assert!(tasks.insert(task.id, task).is_none(), "a task is listed twice");
        }
    }
}
