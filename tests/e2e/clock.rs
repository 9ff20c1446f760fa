//! The server's wall clock jumps: leases and queues run on monotonic time, so nothing is lost, early or late.

use crate::support::{DEADLINE, Lab, eventually};
use fetchml_api::{CreateKeyRequest, Micros, Role, TaskStatus, WorkerStatus, time::SECOND};
use std::{
    fs,
    path::PathBuf,
    time::{SystemTime, UNIX_EPOCH},
};

/// The library that gives a process another wall clock.
fn libfaketime() -> PathBuf {
    let dirs = fs::read_dir("/usr/lib").expect("/usr/lib").flatten().map(|dir| dir.path().join("faketime"));
    let mut found = dirs.map(|dir| dir.join("libfaketimeMT.so.1")).filter(|file| file.exists());
    found.next().expect("libfaketime is there (Debian: apt-get install libfaketime)")
}

/// How many days the server's wall clock is off. Keys are dated by it.
async fn days_off(lab: &Lab) -> i64 {
    let request =
        CreateKeyRequest { role: Role::User, user_id: "ada".into(), name: None, expires_at: None, expires_days: None };
    let made = lab.client().keys_create(&request).await.expect("a key").info.created_at;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_micros() as i64;
    let hour = SECOND * 3_600;
    (made.since(Micros(now)) + 12 * hour).div_euclid(24 * hour)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wall_clock_that_jumps_loses_nothing() {
    let mut lab = Lab::new();
    let clock = lab.path("clock");
    let jump = |by: &str| fs::write(&clock, by).expect("a file");
    jump("+0");
    let preload = format!("LD_PRELOAD={}", libfaketime().display());
    let file = format!("FAKETIME_TIMESTAMP_FILE={}", clock.display());
    let settings = ["FAKETIME_NO_CACHE=1", "FAKETIME_DONT_FAKE_MONOTONIC=1", "DONT_FAKE_MONOTONIC=1"];
    lab.wrap_server(&[&["/usr/bin/env", &preload, &file], &settings[..]].concat());
    lab.serve().await;
    lab.worker(1).await;
    let gate = lab.path("gate");
    let task = lab.submit(&format!("bash -c 'while [ ! -e {} ]; do sleep 0.05; done'", gate.display())).await;
    let before = lab.until(task, TaskStatus::Running).await;
    let waiting = lab.submit("true").await;
    for (by, days) in [("+40d", 40), ("-40d", -40), ("+1h", 0)] {
        jump(by);
        assert_eq!(days_off(&lab).await, days, "the jump is one");
        let made = lab.submit("true").await;
        // A beat later, at least, nobody is taken for silent or lost.
        let heard = lab.client().workers().await.expect("a list")[0].last_heartbeat;
        eventually("the worker is heard again", DEADLINE, async || {
            let workers = lab.client().workers().await.expect("a list");
            assert_eq!(workers[0].status, WorkerStatus::Active, "after a jump of {by}");
            (workers[0].last_heartbeat > heard).then_some(())
        })
        .await;
        let now = lab.client().task(task).await.expect("an answer");
        assert_eq!((now.status, now.attempt_id), (TaskStatus::Running, before.attempt_id), "after a jump of {by}");
        assert!(
            lab.client().task(made).await.expect("an answer").created_at >= before.created_at,
            "after a jump of {by}"
        );
    }
    fs::write(&gate, "").expect("a file");
    for id in [task, waiting] {
        let ended = lab.until(id, TaskStatus::Completed).await;
        assert_eq!((ended.retry_count, ended.requeue_count), (0, 0));
    }
    // Logical time is never behind what is stored, whatever the clock says at a start.
    jump("-40d");
    lab.kill_server();
    lab.serve().await;
    lab.workers_active(1).await;
    let last = lab.submit("true").await;
    let ended = lab.until(last, TaskStatus::Completed).await;
    assert!(ended.created_at > before.created_at);
}
