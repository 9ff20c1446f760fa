//! A reboot of the machine: nothing of an earlier boot runs, so what was not seen to end is lost, and never 0.

use crate::{
    agent_peer::{Peer, exited, script},
    rig,
};
use fetchml_api::{AttemptId, FailureCause, link::Report};
use fetchml_worker::{Options, Worker, shim::boot_id};
use rustix::process::{Pid, Signal, kill_process};
use sha2::{Digest as _, Sha256};
use std::{collections::BTreeMap, fs, path::Path};

/// Everything in a data directory says another boot: what a machine finds after it was started again.
fn reboot(data: &Path) {
    let (now, before) = (boot_id().unwrap(), "00000000-1111-2222-3333-444444444444");
    let mut changed = 0;
    let mut dirs = vec![data.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let (path, kind) = (entry.as_ref().unwrap().path(), entry.unwrap().file_type().unwrap());
            if kind.is_dir() {
                dirs.push(path);
            } else if let Ok(text) = fs::read_to_string(&path)
                && text.contains(&now)
            {
                let text = text.replace(&now, before);
                // Its lines carry a hash.
                let is_spool = path.file_name().is_some_and(|name| name == "spool");
                fs::write(&path, if is_spool { hashed_anew(&text) } else { text }).unwrap();
                changed += 1;
            }
        }
    }
    assert!(changed >= 6, "assignments, shims, the lease: {changed} files name the boot");
}

fn hashed_anew(spool: &str) -> String {
    let lines = spool.lines().map(|line| {
        let json = line.split_once(' ').unwrap().1;
        format!("{} {json}\n", &hex::encode(Sha256::digest(json))[..16])
    });
    lines.collect()
}

/// Ends a shim and all that it started, as a power cut does: nothing is written any more.
fn cut_power(data: &Path, attempt: AttemptId) {
    let shim = fs::read(data.join("attempts").join(attempt.to_string()).join("shim.json")).unwrap();
    let shim: serde_json::Value = serde_json::from_slice(&shim).unwrap();
    let kill = |pid: i64| {
        // It may be gone already.
        let _ = kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), Signal::KILL);
    };
    kill(shim["pid"].as_i64().unwrap());
    for process in rig::survivors(attempt) {
        kill(process.file_name().unwrap().to_str().unwrap().parse().unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn g4_after_a_reboot_what_was_not_seen_to_end_is_lost_and_what_was_is_exact() {
    let data = tempfile::tempdir().unwrap();
    let mut peer = Peer::start().await;
    let start =
        async |peer: &Peer| Worker::start(Options { batch_slots: Some(2), ..peer.options(data.path()) }).await.unwrap();
    let worker = start(&peer).await;
    let mut session = peer.welcomed().await;
    let (gate, third) = (data.path().join("gate"), data.path().join("third"));
    let runs = script("echo begun; exec sleep 1000");
    let ends = script(&format!("while ! test -e {}; do sleep 0.02; done; exit 9", gate.display()));
    let waits = script(&format!("touch {}", third.display()));
    for assignment in [&runs, &ends] {
        session.assign(assignment).await;
        session.expect(assignment.attempt, Report::Accepted).await;
        session.expect(assignment.attempt, Report::Running).await;
    }
    session.assign(&waits).await;
    let accepted = session.report().await;
    assert_eq!((accepted.attempt, &accepted.report), (waits.attempt, &Report::Accepted));

    drop(worker);
    drop(session);
    fs::write(&gate, "").unwrap();
    rig::until_exists(&data.path().join("attempts").join(ends.attempt.to_string()).join("exit.json")).await;
    rig::until("the lock is free", || rig::is_unlocked(data.path()).then_some(())).await;
    cut_power(data.path(), runs.attempt);
    rig::until("nothing runs", || rig::survivors(runs.attempt).is_empty().then_some(())).await;
    reboot(data.path());

    let _worker = start(&peer).await;
    let mut session = peer.welcomed().await;
    assert_eq!(session.hello.inventory.len(), 3, "all are accounted for");
    let mut outcomes = BTreeMap::new();
    while outcomes.len() < 3 {
        let report = session.report().await;
        // Those of before may come again; a power cut may have eaten the last numbers, and none may name two reports.
        assert!(report.seq <= accepted.seq || report.seq > accepted.seq + 1_000, "{report:?}");
        if let Report::Ended(outcome) = report.report {
            assert!(report.seq > accepted.seq);
            outcomes.insert(report.attempt, exited(&outcome));
        }
    }
    assert_eq!(outcomes[&runs.attempt], (Some(FailureCause::Lost), None));
    assert_eq!(outcomes[&waits.attempt], (Some(FailureCause::Lost), None), "it may have run, for all that is known");
    assert_eq!(outcomes[&ends.attempt], (Some(FailureCause::ExitNonzero), Some(9)));
    assert!(!third.exists(), "nothing is started again here: the server decides");
}
