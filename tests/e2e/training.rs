//! Real trainings: the examples, in a sandbox and in podman, and killed half way.

use crate::support::{DEADLINE, Lab, eventually};
use fetchml_api::{FailureCause, Task, TaskId, TaskStatus};
use fetchml_testkit::engine::{HOST_IMAGE, TestEngine};
use serde_json::Value;
use std::{fs, path::PathBuf};

const EPOCHS: &str = "10";

/// The epoch after which `paused.py` stands still.
const HALF_WAY: u64 = 5;

fn example(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../examples").join(name)
}

/// Submits the torch example, whose first attempt stands still after [`HALF_WAY`] where it is to be killed there.
async fn submit(lab: &Lab, script: &str, more: &[&str]) -> TaskId {
    let dir = lab.path("project");
    fs::create_dir_all(&dir).expect("created");
    fs::copy(example("torch-digits").join("train.py"), dir.join("train.py")).expect("copied");
    fs::write(dir.join("paused.py"), include_str!("paused.py")).expect("written");
    let dir = dir.to_str().expect("UTF-8");
    let options = ["submit", "--dir", dir, "--cpu", "1", "--retries", "1", "--env", "OMP_NUM_THREADS=1", "--json"];
    let task = lab.output(&[&options[..], more, &["--", script, "--epochs", EPOCHS]].concat()).await;
    let task: Value = serde_json::from_str(&task).expect("JSON");
    task["id"].as_str().expect("an id").parse().expect("an id")
}

/// Waits until it stands still, and returns its attempt.
async fn half_way(lab: &Lab, task: TaskId) -> String {
    let client = lab.client();
    let over = format!("epoch {HALF_WAY:3}/{EPOCHS}");
    eventually("it is half way", 4 * DEADLINE, async || {
        let task = client.task(task).await.ok()?;
        assert!(!task.status.is_terminal(), "{task:?}");
        task.output?.contains(&over).then_some(())
    })
    .await;
    client.task(task).await.expect("an answer").attempt_id.expect("it runs").to_string()
}

/// Kills every process of an attempt, with whatever is in its sandbox.
fn kill(attempt: &str) {
    let mark = format!("FETCHML_ATTEMPT_ID={attempt}");
    for entry in fs::read_dir("/proc").expect("procfs").flatten() {
        let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
        if environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
            && let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok())
        {
            let pid = rustix::process::Pid::from_raw(pid).expect("not 0");
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}

async fn summary(lab: &Lab, task: TaskId) -> Value {
    let into = lab.path(&format!("of-{task}"));
    lab.output(&["artifacts", "get", &task.to_string(), "-o", into.to_str().expect("UTF-8")]).await;
    serde_json::from_slice(&fs::read(into.join("metrics.json")).expect("it left its metrics")).expect("JSON")
}

/// The second attempt went on where the first one was stopped, and learned what an undisturbed run learns. Returns its
/// first epoch.
async fn resumed(lab: &Lab, ended: &Task, undisturbed: &Value) -> u64 {
    let summary = summary(lab, ended.id).await;
    let first = summary["first_epoch"].as_u64().expect("a number");
    let log = lab.log(ended.id).await;
    assert!(log.contains(&format!("resumed after epoch {}\n", first - 1)), "{log}");
    assert!(summary["accuracy"].as_f64() > Some(0.9), "{summary}");
    assert_eq!((&summary["weights"], &summary["accuracy"]), (&undisturbed["weights"], &undisturbed["accuracy"]));
    first
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_torch_training_killed_half_way_goes_on_at_its_step() {
    let mut lab = Lab::new().sandboxed();
    lab.serve_with(&["--lost-after", "10"]);
    lab.serve().await;
    lab.worker(1).await;
    let undisturbed = submit(&lab, "train.py", &[]).await;
    lab.until(undisturbed, TaskStatus::Completed).await;
    let undisturbed = summary(&lab, undisturbed).await;
    assert_eq!(undisturbed["first_epoch"], 1);

    // The process alone: a failure of its own, retried.
    let task = submit(&lab, "paused.py", &[]).await;
    kill(&half_way(&lab, task).await);
    let ended = lab.until(task, TaskStatus::Completed).await;
    assert_eq!((ended.retry_count, ended.requeue_count), (1, 0));
    assert_eq!(resumed(&lab, &ended, &undisturbed).await, HALF_WAY + 1);

    // The whole worker, for good: lost, and run by another one from what was stored meanwhile.
    let task = submit(&lab, "paused.py", &[]).await;
    let attempt = half_way(&lab, task).await;
    let client = lab.client();
    eventually("a checkpoint is stored", DEADLINE, async || {
        let checkpoint = client.checkpoint(task).await.expect("the server answers")?;
        checkpoint.files.iter().any(|file| file.path == "last.pt").then_some(())
    })
    .await;
    let shim = lab.path("worker1/attempts").join(&attempt).join("shim.json");
    let shim: Value = serde_json::from_slice(&fs::read(shim).expect("a record")).expect("JSON");
    lab.kill_worker(0);
    let shim = rustix::process::Pid::from_raw(shim["pid"].as_i64().expect("a number") as i32).expect("not 0");
    rustix::process::kill_process(shim, rustix::process::Signal::KILL).expect("it lives");
    kill(&attempt);
    let queued = lab.until(task, TaskStatus::Queued).await;
    assert_eq!((queued.requeue_count, queued.failure.map(|failure| failure.cause)), (1, None::<FailureCause>));
    fs::rename(lab.path("worker1"), lab.path("gone")).expect("its disk is gone");
    lab.start_worker(0);
    let ended = lab.until(task, TaskStatus::Completed).await;
    assert_eq!((ended.retry_count, ended.requeue_count), (0, 1));
    assert_ne!(ended.worker_id, queued.worker_id);
    let first = resumed(&lab, &ended, &undisturbed).await;
    assert!((2..=HALF_WAY + 1).contains(&first), "{first}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_torch_training_in_podman_killed_half_way_goes_on_at_its_step() {
    // Its image has the machine's own /usr, torch in it.
    let engine = TestEngine::podman();
    let mut lab = Lab::new().containers(&engine);
    lab.serve().await;
    lab.worker(1).await;
    let boxed = ["--image", HOST_IMAGE, "--network", "none"];
    let undisturbed = submit(&lab, "train.py", &boxed).await;
    lab.until(undisturbed, TaskStatus::Completed).await;
    let undisturbed = summary(&lab, undisturbed).await;

    let task = submit(&lab, "paused.py", &boxed).await;
    kill(&half_way(&lab, task).await);
    let ended = lab.until(task, TaskStatus::Completed).await;
    assert_eq!((ended.retry_count, ended.requeue_count), (1, 0));
    assert_eq!(resumed(&lab, &ended, &undisturbed).await, HALF_WAY + 1);
    eventually("no container is left", DEADLINE, async || engine.containers().is_empty().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_digits_example_trains_in_a_sandbox() {
    let mut lab = Lab::new().sandboxed();
    lab.serve().await;
    lab.worker(1).await;
    let dir = example("digits");
    let submit = ["submit", "--dir", dir.to_str().expect("UTF-8"), "--json", "--", "train.py", "--epochs", "5"];
    let task: Value = serde_json::from_str(&lab.output(&submit).await).expect("JSON");
    let task: TaskId = task["id"].as_str().expect("an id").parse().expect("an id");
    let client = lab.client();
    // Its environment is half a gigabyte, and machines are shared.
    eventually("it has ended", 8 * DEADLINE, async || client.task(task).await.ok()?.status.is_terminal().then_some(()))
        .await;
    lab.until(task, TaskStatus::Completed).await;
    let summary = summary(&lab, task).await;
    assert!(summary["accuracy"].as_f64() > Some(0.85), "{summary}");
}
