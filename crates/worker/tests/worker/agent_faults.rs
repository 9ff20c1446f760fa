//! The agent when links break, agents die and disks fail.

use crate::{
    agent_peer::{Peer, assignment, exited, script},
    rig,
};
use fetchml_api::{
    AttemptId, FailureCause,
    link::{ByteStream, Report, ToWorker},
};
use std::{fs, io::Write as _};

#[tokio::test(flavor = "multi_thread")]
async fn unacknowledged_reports_come_again_in_order_and_acknowledged_ones_do_not() {
    let data = tempfile::tempdir().unwrap();
    let mut peer = Peer::start().await;
    let _worker = peer.worker(data.path()).await;
    let mut session = peer.welcomed().await;
    let task = assignment("true");
    session.assign(&task).await;
    let accepted = session.report().await;
    assert_eq!(accepted.report, Report::Accepted);
    drop(session);

    let mut session = peer.session().await;
    assert_eq!(session.hello.inventory.iter().map(|held| held.attempt).collect::<Vec<_>>(), [task.attempt]);
    session.welcome(Vec::new(), Vec::new()).await;
    let mut seen = Vec::new();
    while seen.len() < 4 {
        seen.push(session.report().await);
    }
    assert_eq!(seen[0], accepted);
    assert!(seen.windows(2).all(|pair| pair[0].seq < pair[1].seq));
    assert!(matches!(
        seen.iter().map(|report| &report.report).collect::<Vec<_>>()[..],
        [Report::Accepted, Report::Running, Report::Collecting, Report::Ended(_)]
    ));
    session.send(ToWorker::Ack { seq: seen[2].seq }).await;
    session.reports_until_beats().await;
    drop(session);

    let mut session = peer.welcomed().await;
    assert_eq!(session.report().await, seen[3], "only the last one was left");
    session.send(ToWorker::Ack { seq: seen[3].seq }).await;
    session.until("it is let go", |session| session.held.is_empty()).await;
    drop(session);

    let mut session = peer.welcomed().await;
    assert!(session.hello.inventory.is_empty());
    assert_eq!(session.reports_until_beats().await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_agent_takes_up_processes_exits_and_what_waits() {
    let data = tempfile::tempdir().unwrap();
    let mut peer = Peer::start().await;
    let worker = peer.worker(data.path()).await;
    let mut session = peer.welcomed().await;
    let go = data.path().join("go");
    let first = script(&format!("echo one; while ! test -e {}; do sleep 0.02; done; echo two; exit 7", go.display()));
    let second = script("echo second; exit 9");
    session.assign(&first).await;
    session.expect(first.attempt, Report::Accepted).await;
    session.expect(first.attempt, Report::Running).await;
    session.assign(&second).await;
    session.expect(second.attempt, Report::Accepted).await;
    session.until("its log", |session| session.logs.contains_key(&first.attempt)).await;
    let log = session.logs[&first.attempt].clone();
    let (id, run) = (session.hello.worker_id, session.hello.agent_run);
    // As after a kill: nothing is closed in order.
    drop(worker);
    drop(session);

    rig::until("the lock is free", || rig::is_unlocked(data.path()).then_some(())).await;
    let worker = peer.worker(data.path()).await;
    let mut session = peer.session().await;
    assert_eq!(session.hello.worker_id, id);
    assert_ne!(session.hello.agent_run, run);
    let mut held: Vec<AttemptId> = session.hello.inventory.iter().map(|held| held.attempt).collect();
    held.sort_unstable();
    let mut expected = vec![first.attempt, second.attempt];
    expected.sort_unstable();
    assert_eq!(held, expected);
    // The server kept the first log, all of it.
    session.logs.insert(first.attempt, log.clone());
    session.welcome(Vec::new(), vec![(first.attempt, log.len() as u64), (second.attempt, 0)]).await;
    drop(worker);
    drop(session);

    // The first ends while no agent is there.
    fs::write(&go, "").unwrap();
    let exit = data.path().join("attempts").join(first.attempt.to_string()).join("exit.json");
    rig::until_exists(&exit).await;
    rig::until("the lock is free", || rig::is_unlocked(data.path()).then_some(())).await;
    let _worker = peer.worker(data.path()).await;
    let mut session = peer.session().await;
    session.logs.insert(first.attempt, log.clone());
    session.welcome(Vec::new(), vec![(first.attempt, log.len() as u64), (second.attempt, 0)]).await;
    let mut codes = Vec::new();
    while codes.len() < 2 {
        let report = session.report().await;
        if let Report::Ended(outcome) = report.report {
            codes.push((report.attempt, outcome.exit_code, outcome.log_bytes));
        }
    }
    codes.sort_unstable_by_key(|(_, code, _)| *code);
    assert_eq!(codes, [(first.attempt, Some(7), 8), (second.attempt, Some(9), 7)]);
    assert_eq!(session.logs[&first.attempt], b"one\ntwo\n");
    assert_eq!(session.logs[&second.attempt], b"second\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exit_that_nobody_saw_is_lost() {
    let data = tempfile::tempdir().unwrap();
    let mut peer = Peer::start().await;
    let worker = peer.worker(data.path()).await;
    let mut session = peer.welcomed().await;
    let task = assignment("sleep 1000");
    session.assign(&task).await;
    session.expect(task.attempt, Report::Accepted).await;
    session.expect(task.attempt, Report::Running).await;
    drop(worker);
    drop(session);
    let dir = data.path().join("attempts").join(task.attempt.to_string());
    let shim: serde_json::Value = serde_json::from_slice(&fs::read(dir.join("shim.json")).unwrap()).unwrap();
    let pid = rustix::process::Pid::from_raw(i32::try_from(shim["pid"].as_i64().unwrap()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    rig::until("the lock is free", || rig::is_unlocked(data.path()).then_some(())).await;
    let _worker = peer.worker(data.path()).await;
    let mut session = peer.welcomed().await;
    let outcome = session.ended(task.attempt).await;
    assert_eq!(exited(&outcome), (Some(FailureCause::Lost), None));
    assert!(rig::survivors(task.attempt).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn log_bytes_are_exact_over_broken_links_and_cut_copies() {
    const LINES: usize = 60_000;
    let data = tempfile::tempdir().unwrap();
    let mut peer = Peer::start().await;
    let _worker = peer.worker(data.path()).await;
    let mut session = peer.welcomed().await;
    let task = script(&format!("seq 1 {LINES}; printf \"no newline, bad \\377\""));
    let mut expected: Vec<u8> = (1..=LINES).flat_map(|n| format!("{n}\n").into_bytes()).collect();
    expected.extend_from_slice(b"no newline, bad \xff");
    session.assign(&task).await;
    session.until("some log", |session| session.logs.get(&task.attempt).is_some_and(|log| !log.is_empty())).await;
    let mut stored = session.logs[&task.attempt].clone();
    drop(session);
    for cut in [1, 1_000, 100_000] {
        // The server lost what it had not synced: it says where its copy ends, below what it acknowledged.
        stored.truncate(stored.len().saturating_sub(cut));
        let mut session = peer.session().await;
        session.logs.insert(task.attempt, stored.clone());
        session.welcome(Vec::new(), vec![(task.attempt, stored.len() as u64)]).await;
        let before = stored.len();
        session.until("it goes on", |session| session.logs[&task.attempt].len() > before).await;
        stored = session.logs[&task.attempt].clone();
        drop(session);
    }
    let mut session = peer.session().await;
    session.logs.insert(task.attempt, stored.clone());
    session.welcome(Vec::new(), vec![(task.attempt, stored.len() as u64)]).await;
    let outcome = session.ended(task.attempt).await;
    assert_eq!(outcome.log_bytes, expected.len() as u64);
    assert!(session.logs[&task.attempt] == expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_is_reported_only_when_the_whole_log_is_acknowledged() {
    let data = tempfile::tempdir().unwrap();
    let mut peer = Peer::start().await;
    let _worker = peer.worker(data.path()).await;
    let mut session = peer.welcomed().await;
    session.ack_logs = false;
    let task = script("echo hello");
    session.assign(&task).await;
    session.until("the log", |session| session.logs.contains_key(&task.attempt)).await;
    let reports = session.reports_until_beats().await;
    assert!(matches!(reports.last().unwrap().report, Report::Collecting), "{reports:?}");
    session.send(ToWorker::LogAck { attempt: task.attempt, stream: ByteStream::Log, offset: 6 }).await;
    assert_eq!(session.ended(task.attempt).await.log_bytes, 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_restarted_after_the_end_does_not_let_the_server_cut_the_log() {
    let data = tempfile::tempdir().unwrap();
    let mut peer = Peer::start().await;
    let worker = peer.worker(data.path()).await;
    let mut session = peer.welcomed().await;
    let task = script("echo hello");
    session.assign(&task).await;
    while !matches!(session.report().await.report, Report::Ended(_)) {}
    // Killed before its last offset was written down.
    drop(worker);
    drop(session);
    rig::until("the lock is free", || rig::is_unlocked(data.path()).then_some(())).await;
    let _ = fs::remove_file(data.path().join("attempts").join(task.attempt.to_string()).join("log_acked.json"));
    let _worker = peer.worker(data.path()).await;
    let session = peer.session().await;
    assert_eq!(session.hello.inventory.iter().map(|held| held.log_acked).collect::<Vec<_>>(), [6]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_spool_starts_and_goes_on() {
    let data = tempfile::tempdir().unwrap();
    let mut peer = Peer::start().await;
    let worker = peer.worker(data.path()).await;
    let mut session = peer.welcomed().await;
    let task = assignment("true");
    session.assign(&task).await;
    let mut last = session.report().await;
    while !matches!(last.report, Report::Ended(_)) {
        last = session.report().await;
    }
    drop(session);
    worker.shutdown(false).await;
    let mut spool = fs::File::options().append(true).open(data.path().join("spool")).unwrap();
    spool.write_all(b"0123456789abcdef {\"report\":{\"seq\":99,").unwrap();
    let _worker = peer.worker(data.path()).await;
    let mut session = peer.welcomed().await;
    let mut again = Vec::new();
    while again.len() < 4 {
        again.push(session.report().await);
    }
    assert_eq!(again[3], last);
    let next = assignment("true");
    session.assign(&next).await;
    let report = session.report().await;
    assert_eq!((report.attempt, report.seq), (next.attempt, last.seq + 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_refuses_an_assignment_is_a_launch_fault_and_no_end_of_the_agent() {
    let data = tempfile::tempdir().unwrap();
    let mut peer = Peer::start().await;
    let _worker = peer.worker(data.path()).await;
    let mut session = peer.welcomed().await;
    // A file in the way fails for root too, as a full disk would.
    fs::rename(data.path().join("attempts"), data.path().join("aside")).unwrap();
    fs::write(data.path().join("attempts"), "").unwrap();
    let task = assignment("true");
    session.assign(&task).await;
    let outcome = session.ended(task.attempt).await;
    assert_eq!((outcome.cause, outcome.transient), (Some(FailureCause::Launch), true));
    fs::remove_file(data.path().join("attempts")).unwrap();
    fs::rename(data.path().join("aside"), data.path().join("attempts")).unwrap();
    let next = assignment("true");
    session.assign(&next).await;
    assert_eq!(exited(&session.ended(next.attempt).await), (None, Some(0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_off_until_the_lease_runs_out_everything_is_stopped() {
    let data = tempfile::tempdir().unwrap();
    let mut peer = Peer::start().await;
    let _worker = peer.worker(data.path()).await;
    let mut session = peer.session().await;
    session.lost_after_s = 6;
    session.welcome(Vec::new(), Vec::new()).await;
    let (first, second) = (assignment("sleep 1000"), assignment("sleep 1000"));
    session.assign(&first).await;
    session.expect(first.attempt, Report::Accepted).await;
    session.expect(first.attempt, Report::Running).await;
    session.assign(&second).await;
    session.expect(second.attempt, Report::Accepted).await;
    session.reports_until_beats().await;
    let cut = std::time::Instant::now();
    peer.set_away(true);
    drop(session);
    rig::until("it is stopped", || rig::survivors(first.attempt).is_empty().then_some(())).await;
    assert!(cut.elapsed().as_secs_f64() < 6.0, "before the server gives it up");
    peer.set_away(false);
    let mut session = peer.welcomed().await;
    let mut causes = Vec::new();
    while causes.len() < 2 {
        if let Report::Ended(outcome) = session.report().await.report {
            causes.push(outcome.cause);
        }
    }
    assert_eq!(causes, [Some(FailureCause::Lost); 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_restored_server_assigns_once_more_is_reported_lost_and_not_run_again() {
    let data = tempfile::tempdir().unwrap();
    let mut peer = Peer::start().await;
    let _worker = peer.worker(data.path()).await;
    let mut session = peer.welcomed().await;
    let runs = data.path().join("runs");
    let task = script(&format!("echo once >> {}", runs.display()));
    session.assign(&task).await;
    session.expect(task.attempt, Report::Accepted).await;
    session.expect(task.attempt, Report::Running).await;
    session.expect(task.attempt, Report::Collecting).await;
    assert_eq!(exited(&session.ended(task.attempt).await), (None, Some(0)));
    session.until("it is let go", |session| session.held.is_empty()).await;

    session.assign(&task).await;
    let outcome = session.ended(task.attempt).await;
    assert_eq!(outcome.cause, Some(FailureCause::Lost));
    assert_eq!(fs::read_to_string(runs).unwrap(), "once\n");
}
