//! A restart of the server or of a worker's agent kills no task.

use crate::support::Lab;
use fetchml_api::{TaskId, TaskStatus};
use std::fs;

/// A task that prints a line, waits until the test lets it go on, and prints the rest.
async fn start_gated(lab: &Lab) -> (TaskId, std::path::PathBuf) {
    let gate = lab.path("gate");
    let script = format!(
        "echo first; while [ ! -e {gate} ]; do sleep 0.05; done; for i in $(seq 1 200); do echo line $i; done; echo last",
        gate = gate.display()
    );
    let id = lab.submit(&format!("bash -c '{script}'")).await;
    lab.until(id, TaskStatus::Running).await;
    (id, gate)
}

async fn assert_whole(lab: &Lab, id: TaskId, attempt: Option<fetchml_api::AttemptId>) {
    let task = lab.until(id, TaskStatus::Completed).await;
    assert_eq!((task.retry_count, task.requeue_count), (0, 0), "the task was not run again");
    assert_eq!(task.attempt_id, attempt, "it is the same attempt");
    let lines: Vec<String> = (1..=200).map(|i| format!("line {i}")).collect();
    assert_eq!(lab.log(id).await, format!("first\n{}\nlast\n", lines.join("\n")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_survives_kill_9_of_the_server() {
    let mut lab = Lab::with_worker().await;
    let (id, gate) = start_gated(&lab).await;
    let before = lab.client().task(id).await.unwrap();

    lab.kill_server();
    // The task goes on, and ends, while there is no server.
    fs::write(&gate, "").unwrap();
    lab.serve().await;

    assert_whole(&lab, id, before.attempt_id).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_survives_kill_9_of_the_agent() {
    let mut lab = Lab::with_worker().await;
    let (id, gate) = start_gated(&lab).await;
    let before = lab.client().task(id).await.unwrap();

    lab.workers.pop().unwrap().kill();
    fs::write(&gate, "").unwrap();
    lab.worker(1).await;

    assert_whole(&lab, id, before.attempt_id).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_exit_code_is_exact_after_both_were_killed() {
    let mut lab = Lab::with_worker().await;
    let gate = lab.path("gate");
    let script = format!("while [ ! -e {} ]; do sleep 0.05; done; exit 37", gate.display());
    let id = lab.submit(&format!("bash -c '{script}'")).await;
    lab.until(id, TaskStatus::Running).await;

    lab.workers.pop().unwrap().kill();
    lab.kill_server();
    fs::write(&gate, "").unwrap();
    lab.serve().await;
    lab.worker(1).await;

    let task = lab.until(id, TaskStatus::Failed).await;
    let failure = task.failure.unwrap();
    assert_eq!(failure.cause, fetchml_api::FailureCause::ExitNonzero);
    assert_eq!(failure.exit_code, Some(37));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clean_stop_leaves_tasks_to_their_shims() {
    let mut lab = Lab::new();
    lab.up(&[]).await;
    let (id, gate) = start_gated(&lab).await;
    let before = lab.client().task(id).await.unwrap();

    let mut server = lab.server.take().unwrap();
    assert_eq!(server.terminate().await, Some(0), "{}", server.stderr());
    fs::write(&gate, "").unwrap();
    lab.up(&[]).await;

    assert_whole(&lab, id, before.attempt_id).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stop_tasks_stops_tasks() {
    let mut lab = Lab::new();
    lab.up(&["--stop-tasks"]).await;
    let pid_file = lab.path("pid");
    let id = lab.submit(&format!("bash -c 'echo $$ > {}; exec sleep 600'", pid_file.display())).await;
    lab.until(id, TaskStatus::Running).await;
    let pid = crate::support::eventually("the task wrote its pid", crate::support::DEADLINE, async || {
        fs::read_to_string(&pid_file).ok().filter(|text| text.ends_with('\n'))
    })
    .await;

    let mut server = lab.server.take().unwrap();
    assert_eq!(server.terminate().await, Some(0), "{}", server.stderr());
    assert!(!fs::exists(format!("/proc/{}", pid.trim())).unwrap(), "the task is gone");
}
