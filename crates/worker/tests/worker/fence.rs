//! Promise G2 on the worker: a process whose worker is cut off ends before the server gives it up, by its
//! shim alone. No agent takes part here.

use crate::rig::{helper, new_attempt, shell, survivors, until, until_exists};
use fetchml_api::FailureCause;
use fetchml_worker::shim::{ExitCause, Fence, LaunchSpec, LeaseMark, Running, boot_id};
use rustix::{
    process::{Pid, Signal, kill_process},
    time::{ClockId, clock_gettime},
};
use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// Two thirds of it to run, then SIGTERM; a sixth more, then SIGKILL.
const LEASE_S: u32 = 6;
const TERM_AT: Duration = Duration::from_secs(4);
const KILL_AT: Duration = Duration::from_secs(5);
/// How late a busy machine may be.
const SLACK: Duration = Duration::from_secs(1);

fn now_ms() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    now.tv_sec.unsigned_abs() * 1_000 + now.tv_nsec.unsigned_abs() / 1_000_000
}

fn mark() -> LeaseMark {
    LeaseMark { boot_id: boot_id().unwrap(), sent_ms: now_ms(), lost_after_s: LEASE_S }
}

fn renew(dir: &Path, mark: &LeaseMark) {
    fs::write(dir.join("lease.new"), serde_json::to_vec(mark).unwrap()).unwrap();
    fs::rename(dir.join("lease.new"), dir.join("lease.json")).unwrap();
}

/// Starts a script under a lease that begins now; gives its start.
async fn start(dir: &Path, spec: LaunchSpec) -> (Running, Instant) {
    let fence = Fence { file: dir.join("lease.json"), mark: mark(), own_s: None };
    let began = Instant::now();
    let running = helper().await.launch(LaunchSpec { fence: Some(fence), grace_s: 30, ..spec }).await.unwrap();
    until_exists(&dir.join("up")).await;
    (running, began)
}

#[tokio::test]
async fn g2_without_any_agent_a_lease_that_ran_out_ends_the_tree() {
    let (dir, attempt) = (TempDir::new().unwrap(), new_attempt());
    let script = r#"trap '' TERM; (setsid sleep 1000 &); touch "$DIR/up"; while :; do sleep 1; done"#;
    let (mut running, began) = start(dir.path(), shell(dir.path(), attempt, script)).await;
    let exit = running.wait().await;
    let took = began.elapsed();
    assert_eq!((exit.cause, exit.signal), (ExitCause::Stopped(FailureCause::Lost), Some(9)));
    assert!(took > TERM_AT && took < KILL_AT + SLACK, "{took:?}");
    assert!(survivors(attempt).is_empty());
}

#[tokio::test]
async fn g2_each_renewal_counts_and_only_one_of_this_boot() {
    let dir = TempDir::new().unwrap();
    let script = r#"trap 'exit 5' TERM; touch "$DIR/up"; while :; do sleep 0.01; done"#;
    let (mut running, began) = start(dir.path(), shell(dir.path(), new_attempt(), script)).await;
    until("some of the lease has passed", || (began.elapsed() > TERM_AT / 2).then_some(())).await;
    let renewed = mark();
    renew(dir.path(), &renewed);
    until("the first lease is over", || (began.elapsed() > TERM_AT + SLACK / 2).then_some(())).await;
    assert!(!dir.path().join("exit.json").exists(), "it was renewed");
    // From another boot, and from the future: neither is a renewal.
    renew(dir.path(), &LeaseMark { boot_id: "another".into(), ..mark() });
    let exit = running.wait().await;
    assert_eq!((exit.cause, exit.exit_code), (ExitCause::Stopped(FailureCause::Lost), Some(5)));
    assert!(began.elapsed() < TERM_AT / 2 + TERM_AT + SLACK);
}

#[tokio::test]
async fn g2_a_shim_that_was_stopped_acts_within_a_second_of_its_resumption() {
    let (dir, attempt) = (TempDir::new().unwrap(), new_attempt());
    let script = r#"trap '' TERM; touch "$DIR/up"; while :; do sleep 1; done"#;
    let (mut running, began) = start(dir.path(), shell(dir.path(), attempt, script)).await;
    let shim = Pid::from_raw(running.pid().cast_signed()).unwrap();
    kill_process(shim, Signal::STOP).unwrap();
    until("the lease has run out", || (began.elapsed() > KILL_AT + SLACK / 2).then_some(())).await;
    assert!(!survivors(attempt).is_empty(), "nobody could end it");
    kill_process(shim, Signal::CONT).unwrap();
    let resumed = Instant::now();
    running.wait().await;
    assert!(resumed.elapsed() < Duration::from_secs(1), "{:?}", resumed.elapsed());
    assert!(survivors(attempt).is_empty());
}
