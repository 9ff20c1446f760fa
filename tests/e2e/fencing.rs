//! Promises G2 and G4 with whole processes: no two copies of a task run, and an upgrade loses nothing.

use crate::support::{DEADLINE, Lab, eventually};
use fetchml_api::{CreateTaskRequest, OnLost, TaskStatus};
use std::fs;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g2_a_copy_starts_only_when_the_first_one_is_dead() {
    let mut lab = Lab::new();
    lab.serve_with(&["--lost-after", "12"]);
    lab.serve().await;
    lab.worker(1).await;
    // Each copy says whether an earlier one still lives, and then ignores SIGTERM for ever.
    let pids = lab.path("pids");
    let script = format!(
        "trap \"\" TERM; for pid in $(cat {pids} 2>/dev/null); do kill -0 $pid 2>/dev/null && echo OVERLAP >> {pids}.seen; done; \
         echo $$ >> {pids}; while :; do sleep 0.1; done",
        pids = pids.display()
    );
    let id = lab.submit(&format!("bash -c '{script}'")).await;
    lab.until(id, TaskStatus::Running).await;
    lab.worker(2).await;
    // Nobody restarts this agent: only the shim is left to keep the lease.
    lab.workers[0].kill();
    let lines = || fs::read_to_string(&pids).map_or(0, |text| text.lines().count());
    eventually("a second copy starts", DEADLINE, async || (lines() == 2).then_some(())).await;
    assert!(!lab.path("pids.seen").exists(), "two copies ran at once");
    let task = lab.client().task(id).await.unwrap();
    assert_eq!((task.requeue_count, task.retry_count), (1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g2_what_is_to_be_kept_outlives_the_lease() {
    let mut lab = Lab::new();
    lab.serve_with(&["--lost-after", "10"]);
    lab.serve().await;
    lab.worker(1).await;
    let request = |args: String, on_lost| CreateTaskRequest {
        job_name: "e2e".into(),
        args: Some(args),
        on_lost,
        cpu: Some(0),
        ..Default::default()
    };
    let wait_for = |gate: &str| format!("bash -c 'while [ ! -e {} ]; do sleep 0.05; done'", lab.path(gate).display());
    let kept = lab.client().submit(&request(wait_for("kept"), Some(OnLost::Keep)), true).await.unwrap().id;
    let fenced = lab.client().submit(&request(wait_for("fenced"), None), true).await.unwrap().id;
    lab.until(kept, TaskStatus::Running).await;
    lab.until(fenced, TaskStatus::Running).await;
    lab.workers[0].kill();
    lab.until(fenced, TaskStatus::Queued).await;
    assert_eq!(lab.client().task(kept).await.unwrap().status, TaskStatus::Running);
    fs::write(lab.path("kept"), "").unwrap();
    fs::write(lab.path("fenced"), "").unwrap();
    lab.restart_worker(0).await;
    let task = lab.until(kept, TaskStatus::Completed).await;
    assert_eq!((task.requeue_count, task.retry_count), (0, 0), "it is the same run");
    lab.until(fenced, TaskStatus::Completed).await;
}
