//! The agent against a scripted server, when nothing breaks.

use crate::{
    agent_peer::{DEADLINE, Peer, assignment, exited, script},
    rig,
};
use fetchml_api::{
    FailureCause,
    link::{Outcome, Report, ToWorker},
};
use fetchml_worker::{ExitReason, Options, StartError, Worker};
use sha2::{Digest as _, Sha256};
use std::fs;
use tokio::time::timeout;

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_is_accepted_run_and_ended() {
    let data = tempfile::tempdir().unwrap();
    let mut peer = Peer::start().await;
    let worker = peer.worker(data.path()).await;
    let mut session = peer.welcomed().await;
    timeout(DEADLINE, worker.connected()).await.unwrap();
    assert_eq!((session.hello.worker_id, session.hello.batch_slots), (worker.id(), 1));

    let quiet = assignment("true");
    session.assign(&quiet).await;
    session.assign(&quiet).await;
    session.expect(quiet.attempt, Report::Accepted).await;
    session.expect(quiet.attempt, Report::Running).await;
    session.expect(quiet.attempt, Report::Collecting).await;
    session.expect(quiet.attempt, Report::Ended(Outcome { exit_code: Some(0), ..Outcome::default() })).await;
    let dir = data.path().join("attempts").join(quiet.attempt.to_string());
    rig::until("the attempt's directory is deleted", || (!dir.exists()).then_some(())).await;
    // Only a server that was put back to an earlier day asks again: it is told, and nothing runs.
    session.assign(&quiet).await;
    assert_eq!(session.ended(quiet.attempt).await.cause, Some(FailureCause::Lost));
    assert_eq!(session.reports_until_beats().await, [], "a late repeat runs nothing");

    let loud = script("printf hello; printf 12345 > $FETCHML_OUTPUT_DIR/model; exit 3");
    session.assign(&loud).await;
    let outcome = session.ended(loud.attempt).await;
    assert_eq!(exited(&outcome), (Some(FailureCause::ExitNonzero), Some(3)));
    assert_eq!(outcome.log_bytes, 5);
    assert_eq!(session.logs[&loud.attempt], b"hello");
    let [model] = &outcome.artifacts[..] else { panic!("{:?}", outcome.artifacts) };
    assert_eq!((model.path.as_str(), model.size_bytes), ("model", 5));
    assert_eq!(model.sha256, hex::encode(Sha256::digest(b"12345")));
    assert_eq!(peer.blob(&model.sha256).unwrap(), "12345", "after a first try that failed");
    timeout(DEADLINE, worker.shutdown(false)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_starts_in_order_without_the_server() {
    let data = tempfile::tempdir().unwrap();
    let mut peer = Peer::start().await;
    let _worker = peer.worker(data.path()).await;
    let mut session = peer.welcomed().await;
    let order = data.path().join("order");
    let all: Vec<_> = (0..4).map(|n| script(&format!("echo {n} >> {}; sleep 0.05", order.display()))).collect();
    for assignment in &all {
        session.assign(assignment).await;
    }
    // Nothing is read from the worker and nothing is acknowledged meanwhile.
    rig::until("all ran", || (fs::read_to_string(&order).ok()? == "0\n1\n2\n3\n").then_some(())).await;
    session.ended(all[3].attempt).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn revoke_takes_back_only_what_has_not_started() {
    let data = tempfile::tempdir().unwrap();
    let mut peer = Peer::start().await;
    let _worker = peer.worker(data.path()).await;
    let mut session = peer.welcomed().await;
    let go = data.path().join("go");
    let first = script(&format!("while ! test -e {}; do sleep 0.02; done", go.display()));
    let second = script(&format!("touch {}", data.path().join("second").display()));
    session.assign(&first).await;
    session.expect(first.attempt, Report::Accepted).await;
    session.expect(first.attempt, Report::Running).await;
    session.assign(&second).await;
    session.expect(second.attempt, Report::Accepted).await;
    session.send(ToWorker::Revoke { attempt: first.attempt }).await;
    session.send(ToWorker::Revoke { attempt: second.attempt }).await;
    session.expect(second.attempt, Report::Returned).await;
    fs::write(go, "").unwrap();
    let outcome = session.ended(first.attempt).await;
    assert_eq!(exited(&outcome), (None, Some(0)));
    assert_eq!(session.reports_until_beats().await, []);
    assert!(!data.path().join("second").exists() && session.held.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn cancel_ends_what_runs_and_what_waits() {
    let data = tempfile::tempdir().unwrap();
    let mut peer = Peer::start().await;
    let _worker = peer.worker(data.path()).await;
    let mut session = peer.welcomed().await;
    let first = assignment("sleep 1000");
    let second = script(&format!("touch {}", data.path().join("second").display()));
    session.assign(&first).await;
    session.assign(&second).await;
    session.expect(first.attempt, Report::Accepted).await;
    session.until("it runs", |_| !rig::survivors(first.attempt).is_empty()).await;
    let cancel = |attempt| ToWorker::Cancel { attempt, cause: FailureCause::Cancelled, grace_s: 1 };
    session.send(cancel(second.attempt)).await;
    assert_eq!(exited(&session.ended(second.attempt).await), (Some(FailureCause::Cancelled), None));
    session.send(cancel(first.attempt)).await;
    assert_eq!(session.ended(first.attempt).await.cause, Some(FailureCause::Cancelled));
    assert!(rig::survivors(first.attempt).is_empty());
    assert!(!data.path().join("second").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_says_nothing_any_more_is_stopped_as_stalled() {
    let data = tempfile::tempdir().unwrap();
    let mut peer = Peer::start().await;
    let _worker = peer.worker(data.path()).await;
    let mut session = peer.welcomed().await;
    let mut silent = script("echo begun; sleep 1000");
    silent.spec.stall_after_s = Some(1);
    session.assign(&silent).await;
    let outcome = session.ended(silent.attempt).await;
    assert_eq!(outcome.cause, Some(FailureCause::Stalled), "{outcome:?}");
    assert!(outcome.error.as_deref().is_some_and(|error| error.contains("stall_after_s")), "{outcome:?}");
    assert!(rig::survivors(silent.attempt).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn forget_stops_and_deletes_and_says_nothing() {
    let data = tempfile::tempdir().unwrap();
    let mut peer = Peer::start().await;
    let _worker = peer.worker(data.path()).await;
    let mut session = peer.welcomed().await;
    let stale = assignment("sleep 1000");
    session.assign(&stale).await;
    session.expect(stale.attempt, Report::Accepted).await;
    session.expect(stale.attempt, Report::Running).await;
    session.send(ToWorker::Forget { attempt: stale.attempt }).await;
    session.send(ToWorker::Forget { attempt: assignment("x").attempt }).await;
    let dir = data.path().join("attempts").join(stale.attempt.to_string());
    rig::until("it is deleted", || (!dir.exists()).then_some(())).await;
    assert!(rig::survivors(stale.attempt).is_empty());
    assert_eq!(session.reports_until_beats().await, []);
    // Its slot is free again.
    let next = assignment("true");
    session.assign(&next).await;
    assert_eq!(exited(&session.ended(next.attempt).await), (None, Some(0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_with_stop_reports_everything_first() {
    let data = tempfile::tempdir().unwrap();
    let mut peer = Peer::start().await;
    let worker = peer.worker(data.path()).await;
    let mut session = peer.welcomed().await;
    let (first, second) = (assignment("sleep 1000"), assignment("true"));
    session.assign(&first).await;
    session.expect(first.attempt, Report::Accepted).await;
    session.expect(first.attempt, Report::Running).await;
    session.assign(&second).await;
    session.expect(second.attempt, Report::Accepted).await;
    let ending = tokio::spawn(worker.shutdown(true));
    session.expect(second.attempt, Report::Returned).await;
    assert_eq!(session.ended(first.attempt).await.cause, Some(FailureCause::Preempted));
    timeout(DEADLINE, ending).await.unwrap().unwrap();
    assert!(rig::survivors(first.attempt).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_key_and_a_final_refusal_end_the_agent() {
    let data = tempfile::tempdir().unwrap();
    let mut peer = Peer::start().await;
    let options = Options { key: "fml_abcdefghijkl_wrong".to_owned(), ..peer.options(data.path()) };
    assert!(!format!("{options:?}").contains("wrong"));
    let mut worker = Worker::start(options).await.unwrap();
    let ExitReason::Refused(reason) = timeout(DEADLINE, worker.wait()).await.unwrap() else { panic!() };
    assert!(reason.contains("does not accept this worker key"), "{reason}");
    drop(worker);

    let other = tempfile::tempdir().unwrap();
    let mut worker = peer.worker(other.path()).await;
    let mut session = peer.session().await;
    session.send(ToWorker::Refused { reason: "too old".to_owned(), retry: false }).await;
    assert_eq!(timeout(DEADLINE, worker.wait()).await.unwrap(), ExitReason::Refused("too old".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_agent_at_a_time_uses_a_data_directory() {
    let data = tempfile::tempdir().unwrap();
    let peer = Peer::start().await;
    let worker = peer.worker(data.path()).await;
    let second = Worker::start(peer.options(data.path())).await;
    let Err(error @ StartError::InUse { .. }) = second else { panic!("{second:?}") };
    assert!(error.to_string().contains("in use by another worker"));
    worker.shutdown(false).await;
    peer.worker(data.path()).await.shutdown(false).await;
}

/// How many tasks a second and how many messages each: `cargo test --release -- --ignored --nocapture`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn rate_of_short_tasks() {
    const TASKS: usize = 2_000;
    let data = tempfile::tempdir().unwrap();
    let mut peer = Peer::start().await;
    let _worker = Worker::start(Options { batch_slots: Some(2), ..peer.options(data.path()) }).await.unwrap();
    let mut session = peer.welcomed().await;
    let began = std::time::Instant::now();
    for _ in 0..6 {
        session.assign(&assignment("/bin/true")).await;
    }
    let (mut given, mut ended) = (6, 0);
    while ended < TASKS {
        let report = session.report().await;
        match report.report {
            Report::Collecting if given < TASKS => {
                given += 1;
                session.assign(&assignment("/bin/true")).await;
            }
            Report::Ended(outcome) => {
                assert_eq!(outcome.exit_code, Some(0));
                ended += 1;
                session.send(ToWorker::Ack { seq: report.seq }).await;
            }
            _ => {}
        }
    }
    let took = began.elapsed();
    println!(
        "{:.0} tasks/s, {:.2} report messages each",
        TASKS as f64 / took.as_secs_f64(),
        session.report_messages as f64 / TASKS as f64
    );
}
