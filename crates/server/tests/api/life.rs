//! How a server starts, refuses to start, restarts and ends.

use crate::small;
use fetchml_server::{Options, Server, StartError};
use fetchml_testkit::{Database, TestServer};
use std::os::unix::fs::PermissionsExt as _;

fn options(dir: &std::path::Path) -> Options {
    let mut options = Options::new(dir.join("data"));
    options.listen = "127.0.0.1:0".parse().unwrap();
    options
}

async fn refusal(options: Options) -> StartError {
    Server::start(options).await.err().expect("the server refuses to start")
}

#[tokio::test]
async fn a_port_in_use_is_named_with_what_to_do() {
    let server = TestServer::start().await;
    let dir = tempfile::tempdir().unwrap();
    let mut second = options(dir.path());
    second.listen = server.server().address();
    let error = refusal(second).await;
    assert!(matches!(error, StartError::AddressInUse(_)));
    let text = error.to_string();
    assert!(text.contains(&server.server().address().to_string()) && text.contains("--listen"), "{text}");
}

#[tokio::test]
async fn a_data_directory_in_use_is_refused() {
    let server = TestServer::start().await;
    let mut second = server.options().clone();
    second.listen = "127.0.0.1:0".parse().unwrap();
    let text = refusal(second).await.to_string();
    assert!(text.contains("in use") && text.contains(&format!("process {}", std::process::id())), "{text}");
}

#[tokio::test]
async fn plain_http_beyond_loopback_must_be_allowed() {
    let dir = tempfile::tempdir().unwrap();
    let mut open = options(dir.path());
    open.listen = "0.0.0.0:0".parse().unwrap();
    assert!(matches!(refusal(open.clone()).await, StartError::PlainHttp(_)));
    open.allow_plain_http = true;
    Server::start(open).await.unwrap().shutdown().await;
}

#[tokio::test]
async fn a_data_directory_that_cannot_be_made_is_named() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("file"), "").unwrap();
    let text = refusal(Options { data_dir: dir.path().join("file/data"), ..options(dir.path()) }).await.to_string();
    assert!(text.contains("file/data") && text.contains("--data-dir"), "{text}");
}

#[tokio::test]
async fn the_first_start_makes_keys_and_the_second_keeps_them() {
    let server = TestServer::start().await;
    let path = server.server().admin_key().path.clone();
    let kept = std::fs::read_to_string(&path).unwrap();
    assert_eq!(Some(kept.trim().to_owned()), server.admin().key);
    for name in ["admin.key", "worker.key", "pepper", "fetchml.db", "lock"] {
        let mode = std::fs::metadata(server.data_dir().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    let worker = server.server().local_worker_key();
    let server = server.restart().await;
    assert!(server.server().admin_key().fresh.is_none());
    assert_eq!(server.server().local_worker_key(), worker);
    server.admin().get("/v1/queue").await.expect(200);
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_a_restart_and_the_audit_log_verifies() {
    for database in Database::ALL {
        let server = TestServer::start_with(database, |_| {}).await;
        let made = server.admin().submit(&small()).await;
        let server = server.restart().await;
        let shown = server.admin().get(&format!("/v1/tasks/{}", made["id"].as_str().unwrap())).await.expect(200).json();
        assert_eq!(shown["status"], "queued");
        let (store, _held) = server.stop_and_open_store().await;
        let rows = store.audit_rows(0, 10_000).await.unwrap();
        let verdict = fetchml_audit::verify(&store.log_id(), &rows);
        assert_eq!((verdict.first_tampered, verdict.checked), (None, rows.len() as u64), "{verdict:?}");
        assert_eq!((rows.len() as u64, verdict.head), store.audit_head());
        let actions: Vec<String> = rows
            .iter()
            .map(|r| {
                serde_json::from_slice::<serde_json::Value>(&r.body).unwrap()["action"].as_str().unwrap().to_owned()
            })
            .collect();
        assert!(actions.contains(&"submit".to_owned()) && actions.contains(&"key_create".to_owned()), "{actions:?}");
    }
}

#[tokio::test]
async fn a_shutdown_ends_streams_and_is_harmless_twice() {
    let server = TestServer::start().await;
    let admin = server.admin();
    let task = admin.submit(&small()).await;
    let path = format!("/v1/tasks/{}/logs?follow=true", task["id"].as_str().unwrap());
    let mut stream = admin.request(reqwest::Method::GET, &path).send().await.unwrap();
    let began = std::time::Instant::now();
    server.server().shutdown().await;
    server.server().shutdown().await;
    crate::drained(&mut stream).await;
    assert!(began.elapsed() < std::time::Duration::from_secs(5), "{:?}", began.elapsed());
    let refused = admin.request(reqwest::Method::GET, "/health").send().await;
    assert!(refused.is_err());
}
