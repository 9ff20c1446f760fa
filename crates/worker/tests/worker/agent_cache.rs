//! The agent's cache, with next to no room: what an attempt uses stays, over a restart of the agent too, and goes after.

use crate::{
    agent_peer::{Peer, Session, exited, script},
    rig,
};
use fetchml_api::link::{Assignment, Report};
use fetchml_worker::{Options, Worker};
use std::{fs, path::Path};

/// Environments that are ready.
fn environments(data: &Path) -> usize {
    let entries = fs::read_dir(data.join("envs")).unwrap().flatten();
    entries.filter(|entry| entry.path().join(".ready").exists()).count()
}

/// Stages and runs something else, which leaves no room for anything unused.
async fn other(session: &mut Session, snapshot: &str) {
    let mut other = script("cat data");
    other.spec.snapshot_id = Some(snapshot.to_owned());
    session.assign(&other).await;
    assert_eq!(exited(&session.ended(other.attempt).await), (None, Some(0)));
}

async fn running(session: &mut Session, assignment: &Assignment) {
    session.assign(assignment).await;
    session.expect(assignment.attempt, Report::Accepted).await;
    session.expect(assignment.attempt, Report::Running).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_environment_stays_while_its_process_runs_and_goes_when_its_room_is_needed() {
    let data = tempfile::tempdir().unwrap();
    let mut peer = Peer::start().await;
    let start = async |peer: &Peer| {
        let options = Options { batch_slots: Some(2), cache_bytes: Some(1), ..peer.options(data.path()) };
        Worker::start(options).await.unwrap()
    };
    let (one, two) = (peer.snapshot(&[("data", "one")]), peer.snapshot(&[("data", "two")]));
    let worker = start(&peer).await;
    let mut session = peer.welcomed().await;
    let gate = data.path().join("gate");
    let wait =
        format!("while ! test -e {}; do sleep 0.02; done; python -c \"import sys; sys.exit(7)\"", gate.display());
    let mut long = script(&wait);
    long.spec.snapshot_id = Some(peer.snapshot(&[("requirements.txt", "# nothing to install\n")]));
    running(&mut session, &long).await;
    other(&mut session, &one).await;
    assert_eq!(environments(data.path()), 1, "a process runs in it");

    // As after a kill of the agent; the process goes on.
    drop(worker);
    drop(session);
    rig::until("the lock is free", || rig::is_unlocked(data.path()).then_some(())).await;
    let _worker = start(&peer).await;
    let mut session = peer.welcomed().await;
    other(&mut session, &two).await;
    assert_eq!(environments(data.path()), 1, "and still does");

    fs::write(&gate, "").unwrap();
    assert_eq!(exited(&session.ended(long.attempt).await).1, Some(7), "its interpreter is there");
    other(&mut session, &one).await;
    assert_eq!(environments(data.path()), 0);
}
