//! Promise G6: no byte of a log is lost or repeated, and logging never blocks the task.

use crate::support::{DEADLINE, Lab, eventually};
use fetchml_api::{AttemptId, TaskId, TaskStatus};
use fetchml_client::LogQuery;
use futures_util::TryStreamExt as _;
use sha2::{Digest as _, Sha256};
use std::fs;

/// Bytes that are no UTF-8, in no lines: the same ones each time.
fn generator(megabytes: usize) -> String {
    format!(
        "python3 -c \"import random, sys; r = random.Random(7); \
         [sys.stdout.buffer.write(r.randbytes(1 << 20)) for _ in range({megabytes})]\""
    )
}

fn printed(command: &str) -> Vec<u8> {
    std::process::Command::new("bash").args(["-c", command]).output().expect("bash starts").stdout
}

async fn stored_hash(lab: &Lab, task: TaskId) -> String {
    let log = lab.client().logs(task, LogQuery::default(), None).await.expect("a log");
    let hash = log.try_fold(Sha256::new(), async |hash, part| Ok(hash.chain_update(&part))).await.expect("a log");
    hex::encode(hash.finalize())
}

/// Whether the process of an attempt has ended, as its shim recorded it.
async fn ends(lab: &Lab, attempt: AttemptId) {
    let exit = lab.path("worker1/attempts").join(attempt.to_string()).join("exit.json");
    eventually("the task ends", DEADLINE, async || exit.exists().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g6_a_task_prints_on_while_its_agent_is_dead() {
    let mut lab = Lab::new().sandboxed();
    lab.serve().await;
    lab.worker(1).await;
    let generator = generator(64);
    let task =
        lab.submit(&format!("bash -c 'echo begun; while [ ! -e $HOME/go ]; do sleep 0.05; done; {generator}'")).await;
    let attempt = lab.until(task, TaskStatus::Running).await.attempt_id.expect("it runs");
    lab.kill_worker(0);
    let home = lab.path("worker1/attempts").join(attempt.to_string()).join("home");
    fs::write(home.join("go"), "").expect("a file in its home");
    ends(&lab, attempt).await;
    lab.restart_worker(0).await;
    let ended = lab.until(task, TaskStatus::Completed).await;
    assert_eq!((ended.attempt_id, ended.requeue_count), (Some(attempt), 0));
    let expected = [&b"begun\n"[..], &printed(&generator)].concat();
    assert_eq!(stored_hash(&lab, task).await, hex::encode(Sha256::digest(expected)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g6_beyond_its_quota_a_marker_counts_what_was_dropped() {
    let mut lab = Lab::new().worker_wrapped(&["/usr/bin/env", "FETCHML_LOG_QUOTA=1"]);
    lab.serve().await;
    lab.worker(1).await;
    let generator = generator(3);
    let task = lab.submit(&format!("bash -c '{generator}; printf tail'")).await;
    lab.until(task, TaskStatus::Completed).await;
    let mut expected = printed(&generator)[..1 << 20].to_vec();
    expected.extend_from_slice(b"\n[fetchml: the log is longer than 1048576 bytes; 2097156 bytes were dropped here]\n");
    assert_eq!(stored_hash(&lab, task).await, hex::encode(Sha256::digest(expected)));
}
