//! Full and broken disks. The server's is full: writes are refused, reads go on, and it recovers without a restart; it
//! does not sync: the server ends. The worker's: who fills it is stopped.

use crate::support::{DEADLINE, Lab, eventually};
use fetchml_api::{CreateTaskRequest, FailureCause, HealthStatus, TaskStatus};
use sha2::{Digest as _, Sha256};
use std::fs;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_are_refused_reads_go_on_and_it_recovers() {
    let mut lab = Lab::new();
    lab.serve_with(&["--rate-limits", "off"]);
    lab.serve_on_small_disk(16).await;
    let (client, key) = (lab.client(), lab.admin_key());
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
            .header("X-API-Key", &key)
            .json(&request)
            .send()
            .await
            .expect("the server answers");
        (answer.status(), answer.headers().get("retry-after").cloned(), answer.bytes().await.unwrap())
    };

    let (status, _, body) = submit().await;
    assert_eq!(status, 201);
    let first: fetchml_api::Task = serde_json::from_slice(&body).unwrap();
    let filler = lab.data_dir().join("filler");
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
async fn g6_a_log_waits_for_room_on_the_servers_disk_and_is_whole() {
    let mut lab = Lab::new();
    lab.serve_on_small_disk(32).await;
    lab.worker(1).await;
    let gate = lab.path("gate");
    let print = format!("while [ ! -e {} ]; do sleep 0.05; done; seq 1 900000", gate.display());
    let task = lab.submit(&format!("bash -c '{print}'")).await;
    let attempt = lab.until(task, TaskStatus::Running).await.attempt_id.unwrap().to_string();
    let filler = lab.data_dir().join("filler");
    let _ = fs::write(&filler, vec![1_u8; 64 << 20]);
    fs::write(&gate, "").unwrap();
    eventually("the server has no room", DEADLINE, async || {
        let said = lab.server.as_ref().unwrap().stderr();
        ["no space for logs", "the store cannot be written"].iter().any(|words| said.contains(words)).then_some(())
    })
    .await;
    // The task does not wait for it.
    let exit = lab.path("worker1/attempts").join(attempt).join("exit.json");
    eventually("the task has ended", DEADLINE, async || exit.exists().then_some(())).await;
    fs::remove_file(&filler).unwrap();
    let ended = lab.until(task, TaskStatus::Completed).await;
    assert_eq!((ended.retry_count, ended.requeue_count), (0, 0));
    let expected = std::process::Command::new("seq").args(["1", "900000"]).output().unwrap().stdout;
    assert_eq!(Sha256::digest(lab.log(task).await), Sha256::digest(expected));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_sync_ends_the_server_and_nothing_acknowledged_is_lost() {
    let mut lab = Lab::new();
    lab.serve_with(&["--rate-limits", "off"]);
    // From the hundredth on of each thread.
    let syncs = ["-e", "trace=fsync,fdatasync", "-e", "inject=fsync,fdatasync:error=EIO:when=100+"];
    let out = lab.path("strace").display().to_string();
    lab.wrap_server(&[&["strace", "-f", "--seccomp-bpf", "-qq", "-o", &out][..], &syncs].concat());
    lab.serve().await;
    let client = lab.client();
    let mut acknowledged = Vec::new();
    eventually("the server ends", DEADLINE, async || {
        let request = CreateTaskRequest { job_name: "sync".into(), args: Some("true".into()), ..Default::default() };
        if let Ok(task) = client.submit(&request, true).await {
            acknowledged.push(task.id);
        }
        lab.server.as_mut().unwrap().has_ended().then_some(())
    })
    .await;
    let mut server = lab.server.take().unwrap();
    assert_ne!(server.wait().await, Some(0));
    assert!(server.stderr().contains("the disk failed to sync; exiting"), "{}", server.stderr());
    assert!(acknowledged.len() > 10, "{} submits were taken", acknowledged.len());
    lab.wrap_server(&[]);
    lab.serve().await;
    for task in acknowledged {
        assert_eq!(lab.client().task(task).await.unwrap().status, TaskStatus::Queued);
    }
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_workers_cache_gives_way_before_a_task_is_stopped() {
    let lab = Lab::new();
    let dir = lab.path("worker1");
    fs::create_dir(&dir).unwrap();
    let script = format!("mount -t tmpfs -o size=128m,mode=0700 tmpfs {} && exec \"$@\"", dir.display());
    let mut lab = lab.worker_wrapped(&["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", &script, "sh"]);
    lab.serve().await;
    lab.worker(1).await;
    // Its snapshot stays in the cache: 40 of 128 MiB.
    let project = lab.project("project", &[("run.sh", "true"), ("data", &"x".repeat(40 << 20))]);
    lab.output(&["submit", "--follow", "--dir", project.to_str().unwrap(), "--", "run.sh"]).await;

    // 80 MiB more leave less than is to be left, but nothing has to stop: the cache makes room for the rest.
    let write = |name: &str, mib: u32| format!("head -c {mib}M /dev/zero > $HOME/{name}");
    let room = "while [ $(stat -fc %a $HOME) -lt 10240 ]; do sleep 0.05; done";
    let script = format!("{}; {room}; {}; echo done", write("first", 80), write("second", 30));
    let task = lab.submit(&format!("bash -c '{script}'")).await;
    lab.until(task, TaskStatus::Completed).await;
    assert_eq!(lab.log(task).await, "done\n");
}
