//! Full disks. The server's: writes are refused, reads go on, and it recovers without a restart. The worker's: who
//! fills it is stopped.

use crate::support::{DEADLINE, Lab, eventually};
use fetchml_api::{CreateTaskRequest, FailureCause, HealthStatus, TaskStatus};
use std::{fs, process::Command};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_are_refused_reads_go_on_and_it_recovers() {
    let mut lab = Lab::new();
    let data_dir = lab.data_dir();
    fs::create_dir(&data_dir).unwrap();
    // The server gets a small file system of its own, in a mount namespace of its own.
    let fetchml = env!("CARGO_BIN_EXE_fetchml");
    let script = format!(
        "mount -t tmpfs -o size=16m,mode=0700 tmpfs {dir} && exec {fetchml} serve --listen {listen} --data-dir {dir} --rate-limits off",
        dir = data_dir.display(),
        listen = lab.listen(),
    );
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", &script]).env("HOME", lab.path("home"));
    lab.server = Some(lab.spawn("serve", command));
    lab.healthy().await;
    let inside =
        std::path::PathBuf::from(format!("/proc/{}/root{}", lab.server.as_ref().unwrap().pid(), data_dir.display()));
    let key = fs::read_to_string(inside.join("admin.key")).unwrap();
    let client = fetchml_client::Client::new(&lab.url(), key.trim()).unwrap();
    let http = reqwest::Client::new();
    let submit = async || {
        let request = CreateTaskRequest {
            job_name: "full".into(),
            args: Some("true".into()),
            metadata: [("filler".to_owned(), "x".repeat(4_000))].into(),
            ..Default::default()
        };
        let answer = http
            .post(format!("{}/v1/tasks", lab.url()))
            .header("X-API-Key", key.trim())
            .json(&request)
            .send()
            .await
            .expect("the server answers");
        (answer.status(), answer.headers().get("retry-after").cloned(), answer.bytes().await.unwrap())
    };

    let (status, _, body) = submit().await;
    assert_eq!(status, 201);
    let first: fetchml_api::Task = serde_json::from_slice(&body).unwrap();
    let filler = inside.join("filler");
    // Takes all that is left, so that the next growth of the database fails.
    let _ = fs::write(&filler, vec![1_u8; 64 << 20]);

    let refused = eventually("a submit is refused", DEADLINE, async || {
        let (status, retry_after, _) = submit().await;
        (status != 201).then_some((status, retry_after))
    })
    .await;
    assert_eq!(refused.0, 503);
    assert!(refused.1.is_some(), "Retry-After is set");
    assert_eq!(client.task(first.id).await.unwrap().id, first.id, "reads go on");
    let health = client.health().await.unwrap();
    assert_eq!(health.status, HealthStatus::Degraded);

    fs::remove_file(&filler).unwrap();
    eventually("submits are taken again", DEADLINE, async || (submit().await.0 == 201).then_some(())).await;
    assert_eq!(client.health().await.unwrap().status, HealthStatus::Healthy);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_fills_the_workers_disk_is_stopped_and_the_others_go_on() {
    let lab = Lab::new();
    let dir = lab.path("worker1");
    fs::create_dir(&dir).unwrap();
    // The worker gets a small file system of its own, in a mount namespace of its own.
    let script = format!("mount -t tmpfs -o size=128m,mode=0700 tmpfs {} && exec \"$@\"", dir.display());
    let wrapper = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", &script, "sh"];
    let wrapper = [&["/usr/bin/env", "FETCHML_SLOTS=2"], &wrapper[..]].concat();
    let mut lab = lab.worker_wrapped(&wrapper);
    lab.serve().await;
    lab.worker(1).await;
    let submit = async |script: &str| {
        let args = Some(format!("bash -c '{script}'"));
        let request = CreateTaskRequest { job_name: "full".into(), args, cpu: Some(0), ..Default::default() };
        lab.client().submit(&request, true).await.unwrap().id
    };
    let gate = lab.path("gate");
    let wait = format!("while [ ! -e {} ]; do sleep 0.05; done", gate.display());
    let room = "while [ $(stat -fc %a $FETCHML_OUTPUT_DIR) -lt 16384 ]; do sleep 0.05; done";
    let modest = submit(&format!("{wait}; {room}; echo kept > $FETCHML_OUTPUT_DIR/kept; echo done")).await;
    lab.until(modest, TaskStatus::Running).await;
    let greedy = submit("cat /dev/zero > $FETCHML_OUTPUT_DIR/zeros; sleep 1000").await;
    let task = lab.until(greedy, TaskStatus::Failed).await;
    assert_eq!(task.failure.unwrap().cause, FailureCause::Quota, "{:?}", task.error);
    assert!(task.error.unwrap().contains("disk was almost full"));
    // There is room again soon, and nothing else was lost.
    fs::write(&gate, "").unwrap();
    let task = lab.until(modest, TaskStatus::Completed).await;
    assert_eq!((task.requeue_count, lab.log(modest).await.as_str()), (0, "done\n"));
    let artifacts = lab.client().artifacts(modest).await.unwrap();
    assert_eq!(artifacts.artifacts.iter().map(|artifact| artifact.path.as_str()).collect::<Vec<_>>(), ["kept"]);
}
