//! A node of a gang: it says that it is ready, starts when it is released and not before, and knows
//! where the others are.

use crate::agent_peer::{DEADLINE, Peer, exited, script};
use fetchml_api::{
    FailureCause,
    link::{Assignment, Report, ToWorker},
};
use std::net::TcpListener;

fn node(command: &str) -> Assignment {
    let mut assignment = script(command);
    assignment.spec.demand.nodes = 3;
    assignment.node = 2;
    assignment
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_starts_when_it_is_released_and_not_before() {
    let data = tempfile::tempdir().unwrap();
    let mut peer = Peer::start().await;
    let worker = peer.worker(data.path()).await;
    let mut session = peer.welcomed().await;
    let gang = node("echo $MASTER_ADDR $MASTER_PORT $NODE_RANK $NNODES $RANK $WORLD_SIZE");
    session.assign(&gang).await;
    session.expect(gang.attempt, Report::Accepted).await;
    let Report::Ready { address, port } = session.report().await.report else { panic!("it is not ready") };
    assert_eq!(address, "127.0.0.1", "by which it reaches the server");
    assert!(TcpListener::bind(("0.0.0.0", port)).is_err(), "the port is kept until the release");
    assert_eq!(session.reports_until_beats().await, [], "nothing starts");
    let release = ToWorker::Release { attempt: gang.attempt, address: "10.1.2.3".into(), port: 2_345 };
    session.send(release).await;
    session.expect(gang.attempt, Report::Running).await;
    let outcome = session.ended(gang.attempt).await;
    assert_eq!(exited(&outcome), (None, Some(0)));
    assert_eq!(session.logs[&gang.attempt], b"10.1.2.3 2345 2 3 2 3\n");
    drop(TcpListener::bind(("0.0.0.0", port)).expect("the port is free for the task"));
    tokio::time::timeout(DEADLINE, worker.shutdown(false)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_waits_can_be_stopped() {
    let data = tempfile::tempdir().unwrap();
    let mut peer = Peer::start().await;
    let _worker = peer.worker(data.path()).await;
    let mut session = peer.welcomed().await;
    let gang = node("echo never");
    session.assign(&gang).await;
    session.expect(gang.attempt, Report::Accepted).await;
    assert!(matches!(session.report().await.report, Report::Ready { .. }));
    session.send(ToWorker::Cancel { attempt: gang.attempt, cause: FailureCause::Preempted, grace_s: 0 }).await;
    let outcome = session.ended(gang.attempt).await;
    assert_eq!((exited(&outcome), outcome.log_bytes), ((Some(FailureCause::Preempted), None), 0));
}
