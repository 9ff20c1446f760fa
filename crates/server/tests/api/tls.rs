//! TLS at the server's door: who shakes no hands keeps nobody out, and plain HTTP is told where it is.

use crate::raw::{connect, said};
use fetchml_server::{Options, TlsOptions, limits};
use fetchml_testkit::{DEADLINE, Database, TestServer};
use std::{fs, time::Duration};
use tokio::io::AsyncWriteExt as _;

const LONG: Duration = Duration::from_hours(1);

async fn server(change: impl FnOnce(&mut Options)) -> TestServer {
    TestServer::start_with(Database::Sqlite, |options| {
        options.tls = Some(TlsOptions::SelfSigned);
        change(options);
    })
    .await
}

/// A client that knows the server's certificate.
fn client(server: &TestServer) -> reqwest::Client {
    let certificate = fs::read(server.data_dir().join("tls.crt")).unwrap();
    let root = reqwest::Certificate::from_pem(&certificate).unwrap();
    reqwest::Client::builder().no_proxy().tls_certs_only([root]).build().unwrap()
}

async fn health(server: &TestServer) -> reqwest::Response {
    client(server).get(format!("{}/health", server.url())).send().await.unwrap()
}

#[tokio::test]
async fn a_server_that_vouches_for_itself_does_not_bind_browsers_to_that() {
    let server = server(|_| ()).await;
    let answer = health(&server).await;
    assert_eq!(answer.status(), 200);
    assert!(!answer.headers().contains_key("strict-transport-security"));
}

/// With no limit of time: only making room lets another in.
#[tokio::test]
async fn silent_connections_keep_nobody_out() {
    let server = server(|options| {
        options.connections.handshake_within = LONG;
        options.connections.newcomer_silence = Duration::ZERO;
    })
    .await;
    let mut silent = Vec::new();
    for _ in 0..limits::newcomers_max() + 4 {
        silent.push(connect(&server).await);
    }
    let answer = tokio::time::timeout(DEADLINE, health(&server)).await.expect("one of them makes room");
    assert_eq!(answer.status(), 200);
    assert_eq!(said(&mut silent[0]).await, "", "the one that was silent for longest");
}

#[tokio::test]
async fn a_handshake_that_is_not_made_ends() {
    let server = server(|options| options.connections.handshake_within = Duration::from_millis(50)).await;
    let mut silent = connect(&server).await;
    assert_eq!(said(&mut silent).await, "");
    let mut begun = connect(&server).await;
    begun.write_all(&[22, 3, 1, 1]).await.unwrap();
    assert_eq!(said(&mut begun).await, "");
}

#[tokio::test]
async fn plain_http_is_told_what_is_spoken_here() {
    let server = server(|_| ()).await;
    let mut plain = connect(&server).await;
    plain.write_all(b"GET /v1/tasks HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let answer = said(&mut plain).await;
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("BAD_REQUEST"), "{answer}");
    assert!(answer.contains("https://"), "{answer}");
    for noise in [&b"\0\0\0\0"[..], &[22, 3, 1, 0, 5, 1, 0, 0, 1, 0], &[0x80; 64]] {
        let mut stream = connect(&server).await;
        stream.write_all(noise).await.unwrap();
        stream.shutdown().await.unwrap();
        assert!(!said(&mut stream).await.contains("HTTP"));
    }
    assert_eq!(health(&server).await.status(), 200);
}
