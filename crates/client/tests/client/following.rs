//! Following a log through disconnects.

use crate::server::{TestServer, answer, broken_events, events, refusal};
use fetchml_client::{ClientError, Incoming, LogEvent, LogQuery};
use futures_util::StreamExt as _;

const TASK: &str = "0193e4a1-77c2-7000-8000-5c1fd1b0a001";
const ATTEMPT: &str = "0193e4a1-77c2-7000-8000-5c1fd1b0a002";

fn chunk(offset: u64, text: &str) -> String {
    let end = offset + text.len() as u64;
    format!("id: {ATTEMPT}.0.{end}\ndata: {{\"text\":\"{text}\",\"offset\":{offset},\"len\":{}}}\n\n", text.len())
}

async fn follow(server: &TestServer) -> Vec<Result<LogEvent, ClientError>> {
    server.client.logs_follow(TASK.parse().unwrap(), LogQuery::default()).collect().await
}

#[tokio::test]
async fn a_broken_stream_is_taken_up_where_it_broke() {
    let server = TestServer::start(|n, _| match n {
        0 => events(&(chunk(0, "one ") + ": beat\n\n" + &chunk(4, "two ") + "id: cut")),
        1 => broken_events(&chunk(8, "three ")),
        2 => refusal(503, "retry-after: 0\r\n", "SERVICE_UNAVAILABLE"),
        _ => events(&(chunk(14, "four") + "event: end\ndata: {\"status\":\"completed\"}\n\n")),
    })
    .await;
    let all = follow(&server).await;
    let text: String = all
        .iter()
        .filter_map(|event| match event {
            Ok(LogEvent::Chunk(chunk)) => Some(chunk.text.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(text, "one two three four");
    assert!(matches!(all.last(), Some(Ok(LogEvent::End { .. }))), "{all:?}");
    let asked = server.asked();
    assert_eq!(asked[0].line, format!("GET /v1/tasks/{TASK}/logs?follow=true"));
    assert_eq!(asked[0].header("last-event-id"), None);
    let resumed = format!("{ATTEMPT}.0.8");
    assert_eq!(asked[1].header("last-event-id"), Some(resumed.as_str()));
    let resumed = format!("{ATTEMPT}.0.14");
    assert_eq!(asked[2].header("last-event-id"), Some(resumed.as_str()));
    assert_eq!(asked[3].header("last-event-id"), Some(resumed.as_str()));
}

#[tokio::test]
async fn a_refusal_ends_it() {
    let server = TestServer::start(|_, _| refusal(404, "", "NOT_FOUND")).await;
    let all = follow(&server).await;
    assert!(matches!(all[..], [Err(ClientError::Api { status: 404, .. })]), "{all:?}");
}

#[tokio::test]
async fn nonsense_ends_it() {
    let server = TestServer::start(|_, _| events("data: {\"text\":\"x\",\"offset\":0,\"len\":1}\n\n")).await;
    let all = follow(&server).await;
    assert!(matches!(all[..], [Err(ClientError::Protocol { .. })]), "{all:?}");
}

const QUEUED: &str = r#"{"id":"0193e4a1-77c2-7000-8000-5c1fd1b0a001","job_name":"a","status":"queued","priority":5,
"created_at":"2026-01-01T00:00:00Z","cpu":1,"memory_gb":0,"gpu":0,"user_id":"ada","retry_count":0,"max_retries":0,
"requeue_count":0,"priority_aged":5.0}"#;

fn job(id: u32, status: &str) -> String {
    let task = QUEUED.replace('\n', "").replace("queued", status);
    format!("id: {id}\nevent: job\ndata: {task}\n\n")
}

#[tokio::test]
async fn a_job_is_followed_through_a_break_to_the_event_that_shows_its_end() {
    let server = TestServer::start(|n, _| match n {
        0 => broken_events(&job(7, "queued")),
        _ => events(&(job(9, "running") + &job(12, "failed") + &job(13, "failed"))),
    })
    .await;
    let all: Vec<_> = server.client.job_follow(TASK.parse().unwrap()).collect().await;
    let ids: Vec<_> = all
        .iter()
        .filter_map(|incoming| match incoming.as_ref().unwrap() {
            Incoming::Event(event) => event.id.as_deref(),
            Incoming::Reconnecting { .. } => None,
        })
        .collect();
    assert_eq!(ids, ["7", "9", "12"]);
    let asked = server.asked();
    assert_eq!(asked[0].line, format!("GET /v1/scheduler/jobs/{TASK}/stream"));
    assert_eq!(asked[1].header("last-event-id"), Some("7"));
}

#[tokio::test]
async fn a_task_is_waited_for_by_the_server_and_through_its_outage() {
    let task = |status: &str| answer(200, "", &QUEUED.replace('\n', "").replace("queued", status));
    let server = TestServer::start(move |n, _| match n {
        0 => task("queued"),
        1 => refusal(503, "retry-after: 0\r\n", "SERVICE_UNAVAILABLE"),
        2 | 3 => task("running"),
        _ => task("completed"),
    })
    .await;
    let mut seen = Vec::new();
    let ended = server.client.wait(TASK.parse().unwrap(), |task| seen.push(task.status.as_str())).await.unwrap();
    assert_eq!((ended.status.as_str(), seen), ("completed", vec!["queued", "running", "completed"]));
    let asked: Vec<String> = server.asked().into_iter().map(|asked| asked.line).collect();
    let query = |known| format!("GET /v1/tasks/{TASK}?wait=20s&known={known}");
    let waits = [query("queued"), query("queued"), query("running"), query("running")];
    assert_eq!(asked[0], format!("GET /v1/tasks/{TASK}"));
    assert_eq!(asked[1..], waits);
}
