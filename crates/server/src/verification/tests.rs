//! Verifications that are stopped. Each is held at a known place: before its first page.

use super::*;
use crate::{Options, Server};
use fetchml_api::AuditEventList;
use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

async fn server(dir: &tempfile::TempDir) -> Server {
    let mut options = Options::new(dir.path().join("data"));
    options.listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    Server::start(options).await.unwrap()
}

fn admin(server: &Server) -> (String, Caller) {
    let key = server.admin_key().fresh.clone().unwrap();
    let caller = server.app.keys.verify(&key, None).unwrap();
    (key, caller)
}

/// What the newest event of a verification says about its failure.
async fn recorded(server: &Server) -> Option<String> {
    let rows = server.app.store.audit_rows(0, 1_000).await.unwrap();
    let mut events = rows.iter().map(|row| parse_body(&row.body).unwrap());
    events.rfind(|event| event.action == "verify").and_then(|event| event.error)
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let waits = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), waits).await.unwrap_or_else(|_| panic!("{what}"));
}

/// On one thread a verification does nothing before the test waits for something.
#[tokio::test]
async fn one_at_a_time_and_each_end_is_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir).await;
    let (_, caller) = admin(&server);
    let verifications = server.app.verifications.clone();
    assert!(!verifications.cancel(&caller).await.unwrap(), "none runs");

    let mut first = verifications.start(&caller).unwrap();
    assert!(verifications.start(&caller).is_none(), "another runs");
    verifications.state().running.clone().unwrap().cancel("by admin");
    let ended = first.outcome().await;
    assert!(matches!(&ended, Err(VerificationError::Cancelled(by)) if by == "by admin"), "{ended:?}");
    assert_eq!(recorded(&server).await.unwrap(), "it was stopped: by admin");

    drop(verifications.start(&caller).unwrap());
    verifications.settled().await;
    assert_eq!(recorded(&server).await.unwrap(), "it was stopped: nobody waits for its result any more");

    let mut whole = verifications.start(&caller).unwrap();
    assert!(whole.outcome().await.unwrap().valid);
    assert_eq!((recorded(&server).await, verifications.alarm()), (None, None));

    let mut last = verifications.start(&caller).unwrap();
    server.shutdown().await;
    assert!(matches!(last.outcome().await, Err(VerificationError::Stopping)));
}

/// Threads that may block are needed for every page: with the only one taken, a verification waits.
#[test]
fn a_client_that_hangs_up_ends_it() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).max_blocking_threads(1).enable_all().build();
    runtime.unwrap().block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let server = server(&dir).await;
        let (key, _) = admin(&server);
        let url = format!("http://{}/v1/audit", server.address());
        let http = reqwest::Client::builder().no_proxy().tls_certs_only(std::iter::empty()).build().unwrap();
        let post = || http.post(format!("{url}/verify")).header("x-api-key", &key).send();
        let running = || server.app.verifications.state().running.clone();

        let (release, held) = std::sync::mpsc::channel::<()>();
        let holding = tokio::task::spawn_blocking(move || held.recv());
        let asked = tokio::spawn(post());
        until("it runs", || running().is_some()).await;
        asked.abort();
        until("it is told", || running().is_some_and(|cancel| cancel.token.is_cancelled())).await;
        release.send(()).unwrap();
        holding.await.unwrap().unwrap();
        server.app.verifications.settled().await;

        let answer = http.get(format!("{url}/events?event_type=audit_verified")).header("x-api-key", &key).send().await;
        let list: AuditEventList = answer.unwrap().json().await.unwrap();
        let errors: Vec<_> = list.events.iter().map(|event| event.error.as_deref().unwrap()).collect();
        assert_eq!(errors, ["it was stopped: nobody waits for its result any more"]);
        server.shutdown().await;
    });
}
