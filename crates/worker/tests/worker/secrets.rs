//! Secrets on their way from the server into a process, and kept out of everything else.

use crate::{
    agent_peer::{Peer, exited, script},
    rig,
};
use axum::http::StatusCode;
use fetchml_api::{
    FailureCause,
    link::{Assignment, Report, ToWorker},
};
use serde_json::{Value, json};
use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

const VALUE: &str = "canary-of-a-task/secret";

fn given() -> (StatusCode, Value) {
    (StatusCode::OK, json!({"secrets": [{"name": "TOKEN", "value": VALUE}]}))
}

fn refused() -> (StatusCode, Value) {
    let details = json!([{"field": "secrets.TOKEN", "problem": "the secret TOKEN does not exist any more"}]);
    let error = json!({"error": "no", "code": "VALIDATION_ERROR", "trace_id": "t", "retryable": false,
        "details": details});
    (StatusCode::UNPROCESSABLE_ENTITY, error)
}

fn task(text: &str) -> Assignment {
    let mut task = script(text);
    task.spec.secrets = vec!["TOKEN".into()];
    task
}

fn stars() -> String {
    "*".repeat(VALUE.len())
}

/// Names of the files below `dir` that hold the value.
fn holders(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(holders(&path));
        } else if fs::read(&path).is_ok_and(|bytes| bytes.windows(VALUE.len()).any(|part| part == VALUE.as_bytes())) {
            found.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_reaches_the_process_and_nothing_else() {
    let data = tempfile::tempdir().unwrap();
    let mut peer = Peer::start().await;
    peer.set_secrets(given());
    let _worker = peer.worker(data.path()).await;
    let mut session = peer.welcomed().await;
    let gate = data.path().join("gate");
    let task = task(&format!(
        "printf \"[%s] \" $TOKEN; printf canary-of-; printf \"a-task/secret \"; printf %s $TOKEN | base64; \
         until [ -e {} ]; do sleep 0.05; done; echo $TOKEN >&2; exit 3",
        gate.display()
    ));
    session.assign(&task).await;
    session.expect(task.attempt, Report::Accepted).await;
    session.expect(task.attempt, Report::Running).await;
    session.until("the log so far", |s| s.logs.get(&task.attempt).is_some_and(|log| log.ends_with(b"\n"))).await;
    assert_eq!(holders(data.path()), ["log"], "only what the process itself wrote");
    let dir = data.path().join("attempts").join(task.attempt.to_string());
    assert_eq!(fs::metadata(dir.join("log")).unwrap().permissions().mode() & 0o777, 0o600);
    fs::write(&gate, "").unwrap();
    let outcome = session.ended(task.attempt).await;
    assert_eq!(exited(&outcome), (Some(FailureCause::ExitNonzero), Some(3)));
    let log = String::from_utf8(session.logs.remove(&task.attempt).unwrap()).unwrap();
    let base64_length = VALUE.len().div_ceil(3) * 4;
    let (shown, base64) = log.split_at(3 + 2 * stars().len() + 1);
    assert_eq!(shown, format!("[{0}] {0} ", stars()));
    // The last characters depend on what is encoded behind the value.
    assert_eq!(&base64[..base64_length - 2], "*".repeat(base64_length - 2), "{base64}");
    assert_eq!(&base64[base64_length..], format!("\n{}\n", stars()));
    assert_eq!(peer.secrets_asked(), 1);
    session.send(ToWorker::Forget { attempt: task.attempt }).await;
    rig::until("its files are gone", || holders(data.path()).is_empty().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_agent_shows_nothing_until_it_knows_the_secrets_again() {
    let data = tempfile::tempdir().unwrap();
    let mut peer = Peer::start().await;
    peer.set_secrets(given());
    let worker = peer.worker(data.path()).await;
    let mut session = peer.welcomed().await;
    let gate = data.path().join("gate");
    let task = task(&format!("until [ -e {} ]; do sleep 0.05; done; echo before $TOKEN after", gate.display()));
    session.assign(&task).await;
    session.expect(task.attempt, Report::Accepted).await;
    session.expect(task.attempt, Report::Running).await;
    drop(worker);
    drop(session);
    peer.set_secrets((StatusCode::SERVICE_UNAVAILABLE, json!({})));
    rig::until("the agent has ended", || rig::is_unlocked(data.path()).then_some(())).await;
    let _worker = peer.worker(data.path()).await;
    let mut session = peer.welcomed().await;
    fs::write(&gate, "").unwrap();
    // What the old agent did not hear to be dealt with comes again.
    while session.report().await.report != Report::Collecting {}
    let asked = peer.secrets_asked();
    session.until("it asks and asks", |_| peer.secrets_asked() >= asked + 2).await;
    assert_eq!(session.logs.get(&task.attempt), None, "not a byte");

    peer.set_secrets(given());
    let outcome = session.ended(task.attempt).await;
    assert_eq!(exited(&outcome), (None, Some(0)));
    assert_eq!(session.logs[&task.attempt], format!("before {} after\n", stars()).into_bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_whose_secrets_nobody_knows_any_more_is_hidden() {
    let data = tempfile::tempdir().unwrap();
    let mut peer = Peer::start().await;
    peer.set_secrets(given());
    let worker = peer.worker(data.path()).await;
    let mut session = peer.welcomed().await;
    let gate = data.path().join("gate");
    let task = task(&format!("until [ -e {} ]; do sleep 0.05; done; echo $TOKEN; echo more", gate.display()));
    session.assign(&task).await;
    session.expect(task.attempt, Report::Accepted).await;
    session.expect(task.attempt, Report::Running).await;
    drop(worker);
    drop(session);
    peer.set_secrets(refused());
    rig::until("the agent has ended", || rig::is_unlocked(data.path()).then_some(())).await;
    let _worker = peer.worker(data.path()).await;
    let mut session = peer.welcomed().await;
    fs::write(&gate, "").unwrap();
    let outcome = session.ended(task.attempt).await;
    assert_eq!(exited(&outcome), (None, Some(0)), "it ended as it did");
    assert_eq!(session.logs[&task.attempt], format!("{}\n****\n", stars()).into_bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_is_gone_ends_the_attempt_before_it_starts() {
    let data = tempfile::tempdir().unwrap();
    let mut peer = Peer::start().await;
    peer.set_secrets(refused());
    let _worker = peer.worker(data.path()).await;
    let mut session = peer.welcomed().await;
    let trace = data.path().join("ran");
    let task = task(&format!("echo > {}", trace.display()));
    session.assign(&task).await;
    let outcome = session.ended(task.attempt).await;
    assert_eq!(exited(&outcome), (Some(FailureCause::Secret), None));
    assert!(!outcome.transient);
    assert!(outcome.error.unwrap().starts_with("the secret TOKEN does not exist any more;"));
    assert!(!trace.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_waits_for_its_secrets_can_be_cancelled() {
    let data = tempfile::tempdir().unwrap();
    let mut peer = Peer::start().await;
    peer.set_secrets((StatusCode::SERVICE_UNAVAILABLE, json!({})));
    let _worker = peer.worker(data.path()).await;
    let mut session = peer.welcomed().await;
    let task = task("echo never");
    session.assign(&task).await;
    session.expect(task.attempt, Report::Accepted).await;
    session.until("it asks", |_| peer.secrets_asked() > 0).await;
    session.send(ToWorker::Cancel { attempt: task.attempt, cause: FailureCause::Cancelled, grace_s: 0 }).await;
    let outcome = session.ended(task.attempt).await;
    assert_eq!(exited(&outcome), (Some(FailureCause::Cancelled), None));
}
