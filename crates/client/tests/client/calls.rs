//! Errors told apart, repeats, and ranges.

use crate::server::{TestServer, answer, refusal};
use fetchml_api::{CreateTaskRequest, ErrorCode};
use fetchml_client::{Client, ClientError};
use futures_util::StreamExt as _;

const QUEUE: &str = r#"{"queued":1,"running":0,"completed":0,"failed":0,"workers":0}"#;

#[tokio::test]
async fn a_server_that_is_not_there_is_named() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let client = Client::new(&format!("http://{free}"), "fml_a_b").unwrap();
    let error = client.queue().await.unwrap_err();
    assert_eq!(error.to_string(), format!("cannot reach the FetchML server at http://{free}: connection refused"));
    assert!(error.is_transient());
    assert!(error.hint().unwrap().contains("fetchml up"));
}

#[tokio::test]
async fn reads_are_repeated_after_429_and_503() {
    let server = TestServer::start(|n, _| match n {
        0 => refusal(429, "retry-after: 0\r\n", "RATE_LIMITED"),
        1 => refusal(503, "retry-after: 0\r\n", "SERVICE_UNAVAILABLE"),
        _ => answer(200, "", QUEUE),
    })
    .await;
    assert_eq!(server.client.queue().await.unwrap().queued, 1);
    let asked = server.asked();
    assert_eq!(asked.len(), 3);
    assert_eq!(asked[0].header("x-api-key"), Some("fml_aaaaaaaaaaaa_secret"));
}

#[tokio::test]
async fn a_long_retry_after_is_reported_at_once() {
    let server = TestServer::start(|_, _| refusal(503, "retry-after: 3600\r\n", "SERVICE_UNAVAILABLE")).await;
    let error = server.client.queue().await.unwrap_err();
    assert!(matches!(error, ClientError::Api { status: 503, .. }), "{error}");
    assert_eq!(server.asked().len(), 1);
}

#[tokio::test]
async fn a_submit_is_repeated_under_the_same_key() {
    let server = TestServer::start(|n, _| match n {
        0 => refusal(429, "retry-after: 0\r\n", "RATE_LIMITED"),
        1 => refusal(503, "retry-after: 0\r\n", "SERVICE_UNAVAILABLE"),
        _ => refusal(409, "", "CONFLICT"),
    })
    .await;
    let request = CreateTaskRequest { job_name: "a".into(), ..Default::default() };
    let error = server.client.submit(&request, true).await.unwrap_err();
    assert!(matches!(error, ClientError::Api { status: 409, .. }), "{error}");
    let asked = server.asked();
    assert_eq!(asked.len(), 3);
    assert_eq!(asked[0].line, "POST /v1/tasks?strict=true");
    assert!(asked[0].header("idempotency-key").is_some());
    assert!(asked.iter().all(|one| one.header("idempotency-key") == asked[0].header("idempotency-key")));
}

#[tokio::test]
async fn every_problem_of_a_refused_body_is_shown() {
    let body = r#"{"error":"invalid","code":"VALIDATION_ERROR","trace_id":"t",
        "details":[{"field":"cpu","problem":"is 5000"},{"field":"gpu","problem":"is -1"}]}"#;
    let server = TestServer::start(move |_, _| answer(422, "", body)).await;
    let error = server.client.submit(&CreateTaskRequest::default(), true).await.unwrap_err();
    assert_eq!(error.to_string(), "invalid\n  cpu: is 5000\n  gpu: is -1");
    let ClientError::Api { error, .. } = error else { panic!("{error}") };
    assert_eq!(error.code, ErrorCode::ValidationError);
}

#[tokio::test]
async fn something_else_on_the_port_is_told() {
    for (status, body) in [(200, "<html>"), (404, "<html>"), (302, "")] {
        let server = TestServer::start(move |_, _| answer(status, "location: http://elsewhere/\r\n", body)).await;
        let error = server.client.queue().await.unwrap_err();
        assert!(matches!(error, ClientError::Protocol { .. }), "{status}: {error}");
        assert!(error.hint().unwrap().contains("FetchML server"));
    }
}

#[tokio::test]
async fn a_range_is_asked_for_and_a_cut_body_is_an_error() {
    let id = "0193e4a1-77c2-7000-8000-5c1fd1b0a001".parse().unwrap();
    let server = TestServer::start(|n, _| match n {
        0 => answer(206, "content-range: bytes 2-4/9\r\n", "cde"),
        1 => answer(200, "", "abcdefghi"),
        _ => b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc".to_vec(),
    })
    .await;
    let mut part = server.client.artifact_get(id, "a b/c.txt", Some(2..5)).await.unwrap();
    assert_eq!(part.next().await.unwrap().unwrap(), "cde");
    let asked = &server.asked()[0];
    assert_eq!(asked.line, format!("GET /v1/tasks/{id}/artifacts/a%20b/c.txt"));
    assert_eq!(asked.header("range"), Some("bytes=2-4"));
    assert!(server.client.artifact_get(id, "x", Some(2..5)).await.is_err(), "the whole is not the part");
    let cut = server.client.artifact_get(id, "x", None).await.unwrap();
    let chunks: Vec<_> = cut.collect().await;
    assert!(chunks.last().unwrap().is_err(), "{chunks:?}");
}

#[tokio::test]
async fn a_single_problem_is_not_said_twice() {
    let body = r#"{"error":"cpu: is 5000.","code":"VALIDATION_ERROR","trace_id":"t",
        "details":[{"field":"cpu","problem":"is 5000"}]}"#;
    let server = TestServer::start(move |_, _| answer(422, "", body)).await;
    let error = server.client.submit(&CreateTaskRequest::default(), true).await.unwrap_err();
    assert_eq!(error.to_string(), "cpu: is 5000.");
}
