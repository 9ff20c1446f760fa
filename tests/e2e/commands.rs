//! The commands a person types, against a running server.

use crate::support::{DEADLINE, Lab, eventually, shown};
use fetchml_api::{FailureCause, TaskStatus};
use serde_json::Value;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exit_codes_tell_the_outcome() {
    let mut lab = Lab::new();
    lab.up(&[]).await;
    let good = lab.run(&["submit", "--no-snapshot", "--follow", "--", "bash", "-c", "echo out; echo err >&2"]).await;
    assert_eq!(good.status.code(), Some(0), "{}", shown(&good));
    assert_eq!(String::from_utf8_lossy(&good.stdout), "out\nerr\n", "{}", shown(&good));

    let bad = lab.run(&["submit", "--no-snapshot", "--follow", "--", "bash", "-c", "exit 3"]).await;
    assert_eq!(bad.status.code(), Some(1), "{}", shown(&bad));

    let id = lab.submit("sleep 600").await;
    lab.until(id, TaskStatus::Running).await;
    lab.output(&["cancel", &id.to_string()]).await;
    let waited = lab.run(&["wait", &id.to_string()]).await;
    assert_eq!(waited.status.code(), Some(3), "{}", shown(&waited));
    let task = lab.client().task(id).await.unwrap();
    assert_eq!(task.failure.unwrap().cause, FailureCause::Cancelled);
    assert_eq!(task.error.as_deref(), Some("cancelled by admin"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn submit_works_in_the_next_terminal_without_configuration() {
    let mut lab = Lab::new();
    lab.up(&[]).await;
    // No FETCHML_URL, no FETCHML_API_KEY: only the profile that `up` wrote below HOME.
    let mut command = lab.command(&["submit", "--no-snapshot", "--follow", "--", "echo", "hello"]);
    command.env_remove("FETCHML_URL").env_remove("FETCHML_API_KEY");
    let output = crate::support::run(command).await;
    assert!(output.status.success(), "{}", shown(&output));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "hello\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_task_is_retried_as_often_as_asked() {
    let mut lab = Lab::new();
    lab.up(&[]).await;
    let counter = lab.path("tries");
    let script = format!("echo x >> {0}; [ $(wc -l < {0}) -ge 2 ]", counter.display());
    let output = lab
        .run(&["submit", "--no-snapshot", "--retries", "2", "--follow", "--json", "--", "bash", "-c", &script])
        .await;
    assert!(output.status.success(), "{}", shown(&output));
    let tasks: Value = serde_json::from_str(&lab.output(&["tasks", "--json"]).await).unwrap();
    assert_eq!(tasks["tasks"][0]["retry_count"], 1);
    assert_eq!(std::fs::read_to_string(counter).unwrap(), "x\nx\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_time_limit_ends_the_whole_tree() {
    let lab = Lab::with_worker().await;
    let pids = lab.path("pids");
    let script = format!("setsid sleep 601 & echo $! >> {0}; echo $$ >> {0}; exec sleep 600", pids.display());
    let request = fetchml_api::CreateTaskRequest {
        job_name: "limit".into(),
        args: Some(format!("bash -c '{script}'")),
        time_limit_s: Some(1),
        ..Default::default()
    };
    let id = lab.client().submit(&request, true).await.unwrap().id;
    let task = lab.until(id, TaskStatus::Failed).await;
    assert_eq!(task.failure.unwrap().cause, FailureCause::Timeout);
    let text = std::fs::read_to_string(pids).unwrap();
    assert_eq!(text.lines().count(), 2);
    for pid in text.lines() {
        eventually("nothing of the task is left", DEADLINE, async || {
            (!std::fs::exists(format!("/proc/{pid}")).unwrap()).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_queue_by_priority_and_all_complete() {
    let lab = Lab::with_worker().await;
    let client = lab.client();
    let mut ids = Vec::new();
    for priority in [1, 10, 5] {
        for _ in 0..20 {
            let request = fetchml_api::CreateTaskRequest {
                job_name: "many".into(),
                args: Some("true".into()),
                priority: Some(priority),
                ..Default::default()
            };
            ids.push(client.submit(&request, true).await.unwrap().id);
        }
    }
    for id in ids {
        lab.until(id, TaskStatus::Completed).await;
    }
    let queue = client.queue().await.unwrap();
    assert_eq!((queue.queued, queue.running, queue.completed, queue.failed, queue.workers), (0, 0, 60, 0, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_of_an_experiment_are_found_and_counted() {
    let lab = Lab::with_worker().await;
    let id = lab.output(&["experiments", "create", "digits", "--description", "learning rates"]).await;
    let id = id.trim();
    let submit = ["submit", "--experiment", "digits", "--meta", "lr=0.1", "--no-snapshot", "--json", "true"];
    let task: Value = serde_json::from_str(&lab.output(&submit).await).unwrap();
    assert_eq!(task["experiment_id"], id);
    let other = lab.submit("true").await;
    lab.until(other, TaskStatus::Completed).await;
    lab.until(task["id"].as_str().unwrap().parse().unwrap(), TaskStatus::Completed).await;

    let listed: Value =
        serde_json::from_str(&lab.output(&["tasks", "--experiment", "digits", "--json"]).await).unwrap();
    assert_eq!((&listed["total"], &listed["tasks"][0]["id"]), (&1.into(), &task["id"]));
    for (found, filter) in [(1, ["--meta", "lr=0.1"]), (0, ["--meta", "lr=1"]), (2, ["--since", "1d"])] {
        let [flag, value] = filter;
        let listed: Value = serde_json::from_str(&lab.output(&["tasks", flag, value, "--json"]).await).unwrap();
        assert_eq!(listed["total"], found, "{filter:?}");
    }
    let details = lab.output(&["experiments", "show", id]).await;
    assert!(details.contains("tasks       1") && details.contains("learning rates"), "{details}");
    assert!(lab.output(&["usage"]).await.contains(" digits "), "use is shown by the name of the experiment");

    lab.output(&["experiments", "edit", "digits", "--status", "archived"]).await;
    let refused = lab.run(&submit).await;
    assert!(String::from_utf8_lossy(&refused.stderr).contains("is archived and takes no tasks"), "{}", shown(&refused));
    assert!(lab.output(&["experiments", "ls"]).await.contains("archived"));
    let unknown = lab.run(&["tasks", "--experiment", "letters"]).await;
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("fetchml experiments ls"), "{}", shown(&unknown));
    assert_eq!(lab.run(&["experiments", "edit", "digits"]).await.status.code(), Some(2), "there is nothing to change");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_shows_the_whole_and_watches_it() {
    let lab = Lab::with_worker().await;
    let once: Value = serde_json::from_str(&lab.output(&["status", "--json"]).await).unwrap();
    assert_eq!((&once["workers_active"], &once["tasks_completed_24h"]), (&1.into(), &0.into()));
    let mut watch = lab.command(&["status", "--watch"]);
    let mut watch = watch.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(watch.stdout.take().unwrap()));
    assert!(lines.next().unwrap().unwrap().contains(" completed_24h 0 "), "it begins with how things are");
    let id = lab.submit("true").await;
    lab.until(id, TaskStatus::Completed).await;
    assert!(lines.any(|line| line.unwrap().contains(" completed_24h 1 ")), "and goes on with what happens");
    watch.kill().unwrap();
    watch.wait().unwrap();
}
