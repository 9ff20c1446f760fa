//! A task that may be stopped for a more urgent one, and goes on from its checkpoint.

use crate::support::{DEADLINE, Lab, eventually};
use fetchml_api::{CreateTaskRequest, TaskId, TaskStatus};

/// Counts, and keeps how far it is, for ever unless told to end; so does whoever takes up what it left.
const COUNT: &str = r#"cd "$FETCHML_CHECKPOINT_DIR"; step=$(cat step 2>/dev/null || echo 0); echo "from $step";
    trap 'exit 143' TERM; until [ -e "$0" ]; do step=$((step + 1)); echo $step > new; mv new step; sleep 0.2; done"#;

async fn submit(lab: &Lab, args: String, gpu: i32, priority: i32) -> TaskId {
    let request = CreateTaskRequest {
        job_name: "count".into(),
        args: Some(args),
        gpu: Some(gpu),
        cpu: Some(0),
        priority: Some(priority),
        ..Default::default()
    };
    lab.client().submit(&request, true).await.expect("it is accepted").id
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_urgent_task_stops_who_loses_least_and_that_one_goes_on_later() {
    let mut lab = Lab::new();
    lab.start_next_with("serve", "FETCHML_PREEMPT_BATCH", "true".into());
    lab.serve().await;
    lab.worker_with(1, &["--gpus", "2"]).await;
    let end = lab.path("end");
    // The older one keeps what it has done, the younger does not.
    let counting = submit(&lab, format!("bash -c '{}' {}", COUNT.replace('\'', r"'\''"), end.display()), 1, 3).await;
    lab.until(counting, TaskStatus::Running).await;
    let sleeping = submit(&lab, format!("bash -c 'until [ -e {} ]; do sleep 0.1; done'", end.display()), 1, 3).await;
    lab.until(sleeping, TaskStatus::Running).await;
    let client = lab.client();
    eventually("the younger has lost more than is between two checkpoints", DEADLINE, async || {
        let started = client.task(sleeping).await.ok()?.started_at?;
        let saved = client.checkpoint(counting).await.ok()??.saved_at;
        (saved.since(started) > 3_000_000).then_some(())
    })
    .await;

    let equal = submit(&lab, "true".into(), 1, 3).await;
    let urgent = submit(&lab, "true".into(), 1, 8).await;
    lab.until(urgent, TaskStatus::Completed).await;
    eventually("the older one was stopped for it", DEADLINE, async || {
        client.task(counting).await.ok()?.error.filter(|error| error.contains("to make room"))
    })
    .await;
    assert_eq!(client.task(sleeping).await.unwrap().status, TaskStatus::Running, "the other was left alone");
    lab.until(equal, TaskStatus::Completed).await;

    // When nothing more urgent is there it goes on where it was.
    lab.until(counting, TaskStatus::Running).await;
    std::fs::write(&end, "").unwrap();
    let ended = lab.until(counting, TaskStatus::Completed).await;
    assert_eq!((ended.retry_count, ended.requeue_count), (0, 0), "it cost nothing");
    let log = lab.log(counting).await;
    let from: u32 = log.trim().strip_prefix("from ").and_then(|step| step.parse().ok()).expect("it says where from");
    assert!(from > 3, "{log}");
    lab.until(sleeping, TaskStatus::Completed).await;
}
