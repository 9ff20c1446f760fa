//! Promise G11: the nodes of a task start together, and one that is lost stops all. Real trainings by
//! `torch.distributed`, whose ranks know at once when one of them is missing.

use crate::support::{DEADLINE, Lab, eventually, processes_of};
use fetchml_api::{Task, TaskId, TaskStatus, WorkerId};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::{collections::BTreeSet, fs, path::PathBuf};

const NODES: usize = 3;

/// A lab with so many workers of one slot each.
async fn lab(workers: usize, lost_after_s: &str) -> Lab {
    let mut lab = Lab::new().worker_wrapped(&["/usr/bin/env", "FETCHML_SLOTS=1"]).sandboxed();
    lab.serve_with(&["--lost-after", lost_after_s]);
    lab.serve().await;
    for number in 1..=workers {
        lab.worker(number).await;
    }
    lab
}

/// Submits the example with several nodes; as `paused.py`, its first attempt stands still after epoch 5.
async fn submit(lab: &Lab, script: &str, epochs: u32) -> TaskId {
    let example = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../examples/torch-ddp");
    let dir = lab.path("project");
    fs::create_dir_all(&dir).expect("created");
    fs::copy(example.join("train.py"), dir.join("train.py")).expect("copied");
    fs::write(dir.join("paused.py"), include_str!("paused.py")).expect("written");
    let (dir, nodes, epochs) = (dir.to_str().expect("UTF-8"), NODES.to_string(), epochs.to_string());
    let options = ["submit", "--dir", dir, "--nodes", &nodes, "--env", "OMP_NUM_THREADS=1"];
    // All workers of this test are on one machine.
    let more = ["--env", "GLOO_SOCKET_IFNAME=lo", "--json", "--", script, "--epochs", &epochs];
    let task: Value = serde_json::from_str(&lab.output(&[&options[..], &more].concat()).await).expect("JSON");
    task["id"].as_str().expect("an id").parse().expect("an id")
}

/// Waits until rank 0 has said that so many epochs are over.
async fn trained(lab: &Lab, task: TaskId, epochs: usize) -> Task {
    let client = lab.client();
    eventually(&format!("{epochs} epochs are over"), 2 * DEADLINE, async || {
        let task = client.task(task).await.ok()?;
        assert!(!task.status.is_terminal(), "it ended early: {task:#?}");
        (task.output.as_ref()?.matches("epoch ").count() >= epochs).then_some(task)
    })
    .await
}

/// All ranks ended with the same weights. Returns the epoch at which the last attempt began.
async fn assert_ranks_agree(lab: &Lab, task: TaskId) -> u64 {
    let into = lab.path(&format!("of-{task}"));
    lab.output(&["artifacts", "get", &task.to_string(), "-o", into.to_str().expect("UTF-8")]).await;
    let summary = fs::read(into.join("metrics.json")).expect("it left its metrics");
    let summary: Value = serde_json::from_slice(&summary).expect("JSON");
    let weights = summary["weights"].as_array().expect("a list");
    assert_eq!(weights.len(), NODES);
    assert!(weights.iter().all(|one| one == &weights[0]), "{summary}");
    assert!(summary["accuracy"].as_f64() > Some(0.9), "{summary}");
    summary["first_epoch"].as_u64().expect("a number")
}

fn workers_of(task: &Task) -> BTreeSet<WorkerId> {
    task.node_assignments.iter().map(|node| node.worker_id).collect()
}

/// Kills the agent of a worker, and its shims with all that they started.
fn kill_tree(lab: &mut Lab, place: usize) {
    lab.kill_worker(place);
    for attempt in fs::read_dir(lab.path(&format!("worker{}/attempts", place + 1))).expect("attempts").flatten() {
        let shim = fs::read(attempt.path().join("shim.json")).expect("a shim's record");
        let shim: Value = serde_json::from_slice(&shim).expect("JSON");
        let shim = i32::try_from(shim["pid"].as_i64().expect("a number")).expect("a process id");
        for process in descendants(shim).into_iter().chain([shim]) {
            let _ = kill_process(Pid::from_raw(process).expect("not 0"), Signal::KILL);
        }
    }
}

fn descendants(process: i32) -> Vec<i32> {
    let threads = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    let children: String =
        threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok()).collect();
    let children: Vec<i32> = children.split_ascii_whitespace().filter_map(|child| child.parse().ok()).collect();
    let below: Vec<i32> = children.iter().flat_map(|child| descendants(*child)).collect();
    [children, below].concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g11_three_nodes_train_as_one_and_an_agents_end_stops_none() {
    let mut lab = lab(4, "600").await;
    let task = submit(&lab, "train.py", 60).await;
    let running = trained(&lab, task, 2).await;
    assert!(running.node_assignments.iter().all(|node| node.slot_assigned), "{running:#?}");
    assert_eq!(workers_of(&running).len(), NODES, "each node has a worker of its own");

    let before = processes_of(task);
    for place in 0..lab.workers.len() {
        lab.kill_worker(place);
        lab.restart_worker(place).await;
    }
    let ended = lab.until(task, TaskStatus::Completed).await;
    assert_eq!((ended.retry_count, ended.requeue_count, ended.attempt_id), (0, 0, running.attempt_id));
    assert!(before.len() >= NODES, "each node has a process: {before:?}");
    assert_eq!(processes_of(task), BTreeSet::new());
    assert_eq!(assert_ranks_agree(&lab, task).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g11_a_lost_node_stops_all_and_the_gang_runs_once_more() {
    let mut lab = lab(NODES, "10").await;
    let task = submit(&lab, "paused.py", 10).await;
    let running = trained(&lab, task, 5).await;
    kill_tree(&mut lab, 1);
    // Its ranks miss each other at once; whatever they make of it, the task is queued again and never fails.
    let queued = lab.until(task, TaskStatus::Queued).await;
    assert_eq!((queued.retry_count, queued.requeue_count), (0, 1), "{queued:#?}");
    assert_eq!(processes_of(task), BTreeSet::new(), "all are stopped");

    lab.restart_worker(1).await;
    let ended = lab.until(task, TaskStatus::Completed).await;
    assert_eq!((ended.retry_count, ended.requeue_count), (0, 1));
    assert_ne!(ended.attempt_id, running.attempt_id);
    assert!(assert_ranks_agree(&lab, task).await > 2, "it goes on where the first attempt was");
}
