//! Steering the scheduler from the command line, and what it promises to those who wait.

use crate::support::{DEADLINE, Lab, eventually, shown};
use fetchml_api::{CreateTaskRequest, TaskId, TaskStatus};
use serde_json::Value;

async fn json(lab: &Lab, arguments: &[&str]) -> Value {
    serde_json::from_str(&lab.output(arguments).await).expect("JSON")
}

async fn submit(lab: &Lab, script: &str, gpu: i32) -> TaskId {
    let request = CreateTaskRequest {
        job_name: "task".into(),
        entrypoint: Some("bash".into()),
        args: Some(format!("-c '{script}'")),
        gpu: Some(gpu),
        ..CreateTaskRequest::default()
    };
    lab.client().submit(&request, true).await.expect("a task").id
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_is_drained_shown_and_taken_back() {
    let mut lab = Lab::new();
    lab.serve().await;
    lab.worker_with(1, &["--name", "box", "--slots", "2"]).await;
    let (marker, goes_on) = (lab.path("go"), lab.path("goes_on"));
    let script = format!("touch {}; while [ ! -e {} ]; do sleep 0.1; done", goes_on.display(), marker.display());
    let running = submit(&lab, &script, 0).await;
    lab.until(running, TaskStatus::Running).await;

    let left = json(&lab, &["drain", "box", "--no-wait", "--json"]).await;
    assert_eq!(left["active_tasks"], serde_json::json!([running]));
    let waiting = submit(&lab, "true", 0).await;
    let mut command = lab.command(&["drain", "box"]);
    command.stdout(std::process::Stdio::null());
    let mut draining = lab.spawn("drain", command);
    eventually("the drain says what is left", DEADLINE, async || {
        draining.stderr().contains("1 task left").then_some(())
    })
    .await;
    assert!(!draining.has_ended(), "it waits until the worker is empty");
    std::fs::write(&marker, "").unwrap();
    assert_eq!(draining.wait().await, Some(0), "{}", draining.stderr());
    assert!(draining.stderr().contains("worker box is empty"), "{}", draining.stderr());
    assert_eq!(lab.client().task(running).await.unwrap().status, TaskStatus::Completed);
    assert_eq!(lab.client().task(waiting).await.unwrap().status, TaskStatus::Queued);
    lab.output(&["undrain", "box"]).await;
    lab.until(waiting, TaskStatus::Completed).await;

    let unknown = lab.run(&["drain", "bix"]).await;
    assert_eq!(unknown.status.code(), Some(5), "{}", shown(&unknown));
    let dead = lab.run(&["drain", "box", "--declare-dead"]).await;
    assert!(String::from_utf8_lossy(&dead.stderr).contains("it is not dead"), "{}", shown(&dead));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_by_force_moves_what_runs() {
    let mut lab = Lab::new();
    lab.serve().await;
    lab.worker_with(1, &["--name", "one", "--slots", "1"]).await;
    let task = submit(&lab, "sleep 600", 0).await;
    lab.until(task, TaskStatus::Running).await;
    lab.worker_with(2, &["--name", "two", "--slots", "1"]).await;
    lab.output(&["drain", "one", "--force"]).await;
    let moved = eventually("it runs on the other", DEADLINE, async || {
        let task = lab.client().task(task).await.ok()?;
        (task.status == TaskStatus::Running && task.node_assignments.len() == 1).then_some(task)
    })
    .await;
    assert_eq!((moved.retry_count, moved.requeue_count), (0, 0), "at no cost");
    lab.output(&["cancel", &task.to_string()]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn priorities_quotas_and_usage_by_the_command_line() {
    let mut lab = Lab::new();
    std::fs::write(lab.path("config.toml"), "[quotas.roles.admin]\nrunning = 3\n").unwrap();
    let config = lab.path("config.toml");
    lab.serve_with(&["--config", config.to_str().unwrap()]);
    lab.serve().await;
    let task = submit(&lab, "exit 0", 0).await;
    let id = task.to_string();
    assert_eq!(json(&lab, &["priority", &id, "8", "--json"]).await["priority"], 8);
    for bad in ["0", "11", "x"] {
        assert_eq!(lab.run(&["priority", &id, bad]).await.status.code(), Some(2), "{bad}");
    }
    lab.output(&["quota", "set", "--user", "admin", "--running", "1", "--gpus", "2"]).await;
    let listed = json(&lab, &["quota", "ls", "--json"]).await;
    assert_eq!(
        listed["quotas"][0],
        serde_json::json!({"role": "admin", "source": "configuration", "quota": {"running": 3}})
    );
    let usage = json(&lab, &["usage", "--json"]).await;
    assert_eq!(usage["holdings"][0]["quota"], serde_json::json!({"running": 1, "gpus": 2}));
    assert!(lab.output(&["usage"]).await.contains("0 of 1"));
    assert!(lab.output(&["quota", "ls"]).await.contains("configuration"));
    assert_eq!(lab.run(&["quota", "set", "--user", "admin"]).await.status.code(), Some(2));
    lab.output(&["quota", "rm", "--user", "admin"]).await;
    assert_eq!(lab.run(&["quota", "rm", "--user", "admin"]).await.status.code(), Some(5), "there is none");
    lab.worker(1).await;
    lab.until(task, TaskStatus::Completed).await;
    let ended = lab.run(&["priority", &id, "5"]).await;
    assert!(String::from_utf8_lossy(&ended.stderr).contains("has ended"), "{}", shown(&ended));
}

/// The first line of what `explain` says about a task.
async fn reason(lab: &Lab, task: TaskId) -> String {
    let said = lab.output(&["explain", &task.to_string()]).await;
    said.lines().next().unwrap_or_default().to_owned()
}

async fn ask(lab: &Lab, change: impl FnOnce(&mut CreateTaskRequest)) -> TaskId {
    let mut request = CreateTaskRequest {
        job_name: "task".into(),
        entrypoint: Some("sleep".into()),
        args: Some("600".into()),
        ..CreateTaskRequest::default()
    };
    change(&mut request);
    lab.client().submit(&request, true).await.expect("a task").id
}

/// Waits until the first line says so.
async fn until_said(lab: &Lab, task: TaskId, wanted: &str) {
    let mut last = String::new();
    let end = std::time::Instant::now() + DEADLINE;
    while !last.contains(wanted) {
        assert!(std::time::Instant::now() < end, "{wanted:?} is not said, but {last:?}");
        last = reason(lab, task).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn explain_names_the_task_that_room_is_held_for_and_a_dry_run_says_the_same() {
    let mut lab = Lab::new();
    std::fs::write(lab.path("config.toml"), "[server]\nhold_after_s = 1\n").unwrap();
    lab.serve_with(&["--config", "config.toml"]);
    lab.serve().await;
    lab.worker_with(1, &["--name", "box", "--gpus", "2", "--gpu-type", "H100", "--slots", "4"]).await;
    let first = ask(&lab, |request| (request.gpu, request.time_limit_s) = (Some(1), Some(7_200))).await;
    lab.until(first, TaskStatus::Running).await;
    let large = ask(&lab, |request| request.gpu = Some(2)).await;
    until_said(&lab, large, "Worker box is held for it").await;
    let small = ask(&lab, |request| request.gpu = Some(1)).await;
    until_said(&lab, small, &format!("The room on box is held for task {large}")).await;
    let submit = ["submit", "--dry-run", "--no-snapshot", "--gpu", "1"];
    let dry = lab.output(&[&submit[..], &["sleep", "1"]].concat()).await;
    assert!(dry.starts_with(&format!("The room on box is held for task {large}")), "{dry}");
    assert!(dry.contains("what would help, the cheapest first:\n  submitted with a time limit of at most"), "{dry}");
    let dry = lab.output(&[&submit[..], &["--time-limit", "1h", "sleep", "1"]].concat()).await;
    assert!(dry.starts_with("It would start at once."), "{dry}");
    assert_eq!(
        lab.client().tasks(&fetchml_api::TaskListQuery::default()).await.unwrap().total,
        3,
        "nothing was created"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn explain_names_the_true_reason_in_each_of_ten_situations() {
    let mut lab = Lab::new();
    lab.serve().await;
    let first = ask(&lab, |request| request.gpu = Some(2)).await;
    until_said(&lab, first, "No worker has ever been connected.").await;
    lab.worker_with(1, &["--name", "box", "--gpus", "2", "--gpu-type", "A100", "--slots", "4"]).await;
    lab.until(first, TaskStatus::Running).await;
    let task = ask(&lab, |request| (request.gpu, request.gpu_type) = (Some(1), Some("H100".into()))).await;
    until_said(&lab, task, "No worker has a GPU of type H100; there are: simulated A100.").await;
    let task = ask(&lab, |request| request.memory_gb = Some(60_000)).await;
    until_said(&lab, task, "No worker has 60000 GiB of memory; the most that one has is").await;
    let task = ask(&lab, |request| request.node_count = Some(3)).await;
    until_said(&lab, task, "It needs 3 workers at once, and only 1 could run it.").await;
    let next = ask(&lab, |request| (request.gpu, request.priority) = (Some(1), Some(7))).await;
    until_said(&lab, next, "Worker box is the only one that could run it, and has not a free GPU now; it is next.")
        .await;
    let behind = ask(&lab, |request| request.gpu = Some(1)).await;
    until_said(&lab, behind, "and 2 tasks that wait go before it by priority and waiting time.").await;
    let after = ask(&lab, |request| {
        request.depends_on = vec![fetchml_api::Dependency { id: first, on: fetchml_api::DependencyOn::Ok }];
    })
    .await;
    until_said(&lab, after, "It waits for another task to end.").await;
    lab.output(&["quota", "set", "--user", "admin", "--running", "1"]).await;
    let over = ask(&lab, |request| request.cpu = Some(0)).await;
    until_said(&lab, over, "admin may have 1 task running at once, and has 1.").await;
    lab.output(&["drain", "box", "--no-wait"]).await;
    lab.output(&["quota", "rm", "--user", "admin"]).await;
    let task = ask(&lab, |request| request.cpu = Some(0)).await;
    until_said(&lab, task, "Only worker box could run it now, and it is drained.").await;
    lab.output(&["undrain", "box"]).await;
    let fails = ask(&lab, |request| {
        (request.entrypoint, request.args, request.cpu) = (Some("false".into()), None, Some(0));
        request.max_retries = Some(9);
    })
    .await;
    until_said(&lab, fails, "Its last attempt failed; the next is made in ").await;
}

/// Whether a task that needs all four GPUs starts while tasks that need one never stop coming: in time, and as the
/// explanation said.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g12_a_large_task_starts_though_small_ones_never_stop_coming() {
    const HOLD_AFTER_S: u64 = 8;
    const LIMIT_S: i64 = 4;
    let mut lab = Lab::new();
    lab.serve_with(&["--config", "config.toml"]);
    std::fs::write(lab.path("config.toml"), format!("[server]\nhold_after_s = {HOLD_AFTER_S}\n")).unwrap();
    lab.serve().await;
    lab.worker_with(1, &["--gpus", "4", "--gpu-type", "H100", "--slots", "8"]).await;
    let client = lab.client();
    let small = || CreateTaskRequest {
        job_name: "small".into(),
        entrypoint: Some("sleep".into()),
        args: Some("60".into()),
        gpu: Some(1),
        cpu: Some(0),
        time_limit_s: Some(LIMIT_S),
        ..CreateTaskRequest::default()
    };
    // Always more than there is room for: each runs as long as it may.
    let stream = async {
        loop {
            let waiting = client.queue().await.expect("the queue").queued;
            for _ in waiting..8 {
                client.submit(&small(), true).await.expect("a small task");
            }
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        }
    };
    let large = async {
        eventually("all GPUs are busy", DEADLINE, async || {
            let busy = lab.client().usage(None).await.ok()?.holdings.first()?.gpus;
            (busy == 4).then_some(())
        })
        .await;
        let large = ask(&lab, |request| (request.gpu, request.cpu) = (Some(4), Some(0))).await;
        let submitted = std::time::Instant::now();
        let explained = lab.output(&["explain", &large.to_string()]).await;
        assert!(explained.lines().next().unwrap().contains("GPUs free"), "{explained}");
        lab.until(large, TaskStatus::Running).await;
        submitted.elapsed()
    };
    let waited = tokio::select! {
        waited = large => waited,
        () = stream => unreachable!("it never stops"),
    };
    let bound = std::time::Duration::from_secs(HOLD_AFTER_S + LIMIT_S as u64 + 10);
    assert!(waited <= bound, "it started after {waited:?}; the bound is {bound:?}");
}
