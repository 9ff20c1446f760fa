//! Promises G2 and G4 with whole processes: no two copies of a task run, and an upgrade loses nothing.

use crate::support::{DEADLINE, Lab, eventually};
use fetchml_api::{CreateTaskRequest, OnLost, TaskStatus};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g2_what_was_stopped_beyond_its_lease_is_dead_within_a_second_of_going_on() {
    let mut lab = Lab::new();
    lab.serve_with(&["--lost-after", "12"]);
    lab.serve().await;
    lab.worker(1).await;
    let script = "trap \"\" TERM; [ $FETCHML_ATTEMPT = 2 ] || while :; do sleep 0.05; done; echo second";
    let task = lab.submit(&format!("bash -c '{script}'")).await;
    let before = lab.until(task, TaskStatus::Running).await;
    let first = before.attempt_id.expect("it runs").to_string();
    lab.worker(2).await;
    // The two who enforce the lease; the task itself goes on.
    let enforcing = [lab.workers[0].pid(), shim_of(&lab.path("worker1").join("attempts").join(&first))];
    for pid in enforcing {
        signal(pid, Signal::STOP);
    }
    let ended = lab.until(task, TaskStatus::Completed).await;
    assert_eq!((ended.requeue_count, ended.retry_count), (1, 0));
    assert!(is_living(&first), "nobody was there to end it");

    for pid in enforcing {
        signal(pid, Signal::CONT);
    }
    let resumed = Instant::now();
    eventually("the first copy is dead", DEADLINE, async || (!is_living(&first)).then_some(())).await;
    // A second, and what a busy machine adds.
    assert!(resumed.elapsed() < Duration::from_secs(3), "after {:?}", resumed.elapsed());
    // What the first worker reports now changes nothing.
    eventually("the first worker holds nothing any more", DEADLINE, async || {
        fs::read_dir(lab.path("worker1/attempts")).ok()?.next().is_none().then_some(())
    })
    .await;
    let after = lab.client().task(task).await.expect("an answer");
    assert_eq!((after.status, after.attempt_id, after.requeue_count), (ended.status, ended.attempt_id, 1));
    assert_eq!(lab.log(task).await, "second\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g2_a_cloned_worker_id_gets_nothing() {
    let mut lab = Lab::with_worker().await;
    let copy = |to: &str| {
        let copied = Command::new("cp").arg("-a").arg(lab.path("worker1")).arg(lab.path(to)).status();
        assert!(copied.expect("cp starts").success());
    };
    copy("idle");
    let gate = lab.path("gate");
    let task = lab.submit(&format!("bash -c 'while [ ! -e {} ]; do sleep 0.05; done'", gate.display())).await;
    let before = lab.until(task, TaskStatus::Running).await;
    copy("busy");
    let mut start = |name: &str| {
        let mut command = lab.command(&["worker", "--isolation", "none", "--server", &lab.url()]);
        command.arg("--key-file").arg(lab.path("worker.key")).arg("--data-dir").arg(lab.path(name));
        lab.spawn(name, command)
    };
    // The one of an idle worker is kept out as long as the first is heard.
    let idle = start("idle");
    eventually("the clone is refused", DEADLINE, async || {
        idle.stderr().contains("a data directory must not be copied").then_some(())
    })
    .await;
    // The one of a busy worker finds that it is one, and leaves alone what runs.
    let mut busy = start("busy");
    assert_ne!(busy.wait().await, Some(0));
    assert!(busy.stderr().contains("is a copy of one whose tasks run"), "{}", busy.stderr());
    assert_eq!(lab.client().workers().await.expect("a list").len(), 1);
    fs::write(&gate, "").expect("a file");
    let after = lab.until(task, TaskStatus::Completed).await;
    assert_eq!((after.attempt_id, after.requeue_count, after.retry_count), (before.attempt_id, 0, 0));
}

/// Process id of the shim of the attempt in `dir`.
fn shim_of(dir: &Path) -> u32 {
    let record: serde_json::Value =
        serde_json::from_slice(&fs::read(dir.join("shim.json")).expect("a record")).expect("JSON");
    u32::try_from(record["pid"].as_u64().expect("a number")).expect("a process id")
}

fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(pid.cast_signed()).expect("not 0");
    kill_process(pid, signal).expect("it lives");
}

/// Whether a process of an attempt lives.
fn is_living(attempt: &str) -> bool {
    let mark = format!("FETCHML_ATTEMPT_ID={attempt}");
    fs::read_dir("/proc").expect("procfs").flatten().any(|entry| {
        let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
    })
}
