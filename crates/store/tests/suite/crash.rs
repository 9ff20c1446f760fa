//! kill -9 of a process that commits: what it acknowledged is there, each once, and the audit chain verifies.
//!
//! The committing process is this test binary itself, running `crash::committer` alone.

use crate::build::*;
use fetchml_store::{Location, Store, TaskFilter, Write};
use std::{
    collections::BTreeSet,
    env, fs,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Command, Stdio},
};

const KILLS: u64 = 20;
const FILE: &str = "FETCHML_STORE_CRASH_FILE";
const RUN: &str = "FETCHML_STORE_CRASH_RUN";

#[tokio::test]
async fn acknowledged_commits_survive_kill_9() {
    // On the disk, not in memory: the file's own locks and syncs take part.
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    let mut acknowledged = BTreeSet::new();
    for run in 1..=KILLS {
        for id in committed_before_kill(&path, run) {
            assert!(acknowledged.insert(id), "{id} acknowledged twice");
        }
        let store = Store::open(&Location::Sqlite(path.clone())).await.unwrap();
        let total = store.tasks(&TaskFilter::default()).await.unwrap().1;
        assert_eq!(assert_log_verifies(&store).await, total as u64, "one event for each task");
        assert_eq!(store.change_rows(0, 10_000).await.unwrap().len() as i64, total);
        for id in &acknowledged {
            assert!(store.task(task_id(*id)).await.unwrap().is_some(), "{id} is lost");
        }
        store.close().await;
    }
    assert!(acknowledged.len() as u64 > KILLS * 2);
}

/// Lets a child commit and kills it after some acknowledgements: more with each run.
fn committed_before_kill(path: &Path, run: u64) -> Vec<u64> {
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["crash::committer", "--exact", "--nocapture", "--test-threads=1"])
        .env(FILE, path)
        .env(RUN, run.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ids = Vec::new();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        // A kill may cut the last line short: then its full stop is missing.
        let line = line.unwrap();
        let Some(id) = line.strip_prefix("acknowledged ").and_then(|rest| rest.strip_suffix('.')) else { continue };
        ids.push(id.parse().unwrap());
        if ids.len() as u64 == 3 * run {
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    assert!(ids.len() as u64 >= 3 * run, "the child ended by itself");
    ids
}

/// The child's part; in a plain run of the suite it has nothing to do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn committer() {
    let (Some(path), Ok(run)) = (env::var_os(FILE), env::var(RUN)) else { return };
    assert!(fs::metadata(Path::new(&path).parent().unwrap()).is_ok());
    let run: u64 = run.parse().unwrap();
    let store = Store::open(&Location::Sqlite(path.into())).await.unwrap();
    let clients = (0..4_u64).map(|client| {
        let store = store.clone();
        tokio::spawn(async move {
            for n in 0.. {
                let id = (run * 4 + client) * 1_000_000 + n;
                let writes = vec![
                    insert(id, "ann", "a"),
                    Write::Audit(audit(&format!("tasks/{id}"))),
                    Write::Change(change(&id.to_string(), NOW)),
                ];
                store.commit(writes).await.unwrap();
                // One write, so that lines of two clients do not mix. Its own line: the runner prints before it.
                std::io::stdout().write_all(format!("\nacknowledged {id}.\n").as_bytes()).unwrap();
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
}
