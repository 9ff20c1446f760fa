//! Promise G10: cancel kills the whole tree, and its slot is offered only when that is dead.

use crate::support::{DEADLINE, Lab, eventually, processes_of};
use fetchml_api::{FailureCause, TaskStatus};
use std::time::Duration;

/// Leaves processes in every way there is, and none heeds SIGTERM.
const STUBBORN: &str = "trap \"\" TERM HUP INT; \
    (setsid bash -c \"trap \\\"\\\" TERM; while :; do sleep 0.1; done\" &); \
    (bash -c \"(sleep 1000 & disown) & disown\" &); \
    nohup setsid sleep 1000 > /dev/null 2>&1 & \
    python3 -c \"import os, time; os.fork() and os._exit(0); os.setsid(); os.fork() and os._exit(0); time.sleep(1000)\" & \
    sleep 0.5; echo ready; while :; do sleep 0.1; done";

/// SIGTERM comes before SIGKILL by the grace of half a minute.
const CANCEL_DEADLINE: Duration = Duration::from_mins(2);

async fn no_survivor_after_cancel(lab: Lab) {
    let mut lab = lab.worker_wrapped(&["/usr/bin/env", "FETCHML_SLOTS=1"]);
    lab.serve().await;
    lab.worker(1).await;
    let task = lab.submit(&format!("bash -c '{STUBBORN}'")).await;
    lab.until(task, TaskStatus::Running).await;
    let client = lab.client();
    eventually("its tree has grown", DEADLINE, async || {
        let output = client.task(task).await.ok()?.output?;
        (output.contains("ready") && processes_of(task).len() >= 5).then_some(())
    })
    .await;
    let next = lab.submit("true").await;
    client.cancel(task).await.expect("it is cancelled");
    eventually("the next one has its slot", CANCEL_DEADLINE, async || {
        // Asked first: what was free then must have been empty before.
        let [worker] = &client.workers().await.ok()?[..] else { panic!("there is one worker") };
        let next = client.task(next).await.ok()?;
        let is_offered = worker.slots.batch_available > 0 || next.started_at.is_some();
        assert!(
            !is_offered || processes_of(task).is_empty(),
            "the slot is offered while {} processes live",
            processes_of(task).len()
        );
        (next.status == TaskStatus::Completed).then_some(())
    })
    .await;
    assert_eq!(processes_of(task).len(), 0);
    let ended = lab.until(task, TaskStatus::Failed).await;
    assert_eq!(ended.failure.map(|failure| (failure.cause, failure.signal)), Some((FailureCause::Cancelled, Some(9))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g10_cancel_leaves_no_survivor() {
    no_survivor_after_cancel(Lab::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g10_cancel_leaves_no_survivor_of_a_sandbox() {
    no_survivor_after_cancel(Lab::new().sandboxed()).await;
}
