use crate::{
    events::{Event, Events},
    running, small,
};
use fetchml_api::{ErrorCode, FailureCause, link::Outcome};
use fetchml_testkit::{CheckedClient, TestServer};
use reqwest::Method;
use serde_json::json;

fn text_of(events: &[Event]) -> String {
    events.iter().filter(|e| e.name.is_empty()).map(|e| e.data["text"].as_str().unwrap()).collect()
}

#[tokio::test]
pub(crate) async fn exact_bytes_and_ranges() {
    let server = TestServer::start().await;
    let ada = server.user("ada").await;
    let (mut worker, assignment) = running(&server, &ada).await;
    let path = format!("/v1/tasks/{}/logs", assignment.spec.id);
    let bytes: Vec<u8> = (0..200_000_u32).map(|n| (n % 256) as u8).collect();
    assert_eq!(worker.log(assignment.attempt, 0, &bytes[..100_000]).await, 100_000);
    assert_eq!(ada.get(&path).await.expect(200).body, &bytes[..100_000]);
    // A repeat and a gap change nothing; the acknowledgement says where to go on.
    assert_eq!(worker.log(assignment.attempt, 0, &bytes[..10]).await, 100_000);
    assert_eq!(worker.log(assignment.attempt, 150_000, b"gap").await, 100_000);
    assert_eq!(worker.log(assignment.attempt, 100_000, &bytes[100_000..]).await, 200_000);
    let outcome = Outcome { exit_code: Some(0), log_bytes: 200_000, ..Outcome::default() };
    worker.end(&assignment, outcome).await;
    let answer = ada.get(&path).await.expect(200);
    assert_eq!(answer.body, bytes);
    assert_eq!(answer.header("x-attempt-id"), assignment.attempt.to_string());
    let ranged = async |range: &str| ada.send(ada.request(Method::GET, &path).header("range", range)).await;
    assert_eq!(ranged("bytes=100-199").await.expect(206).body, &bytes[100..200]);
    assert_eq!(ranged("bytes=-5").await.expect(206).body, &bytes[199_995..]);
    ranged("bytes=200000-").await.error(416, ErrorCode::BadRequest);
    assert_eq!(ada.get(&format!("{path}?attempt=1&node=0")).await.expect(200).body, bytes);
    assert_eq!(ada.get(&format!("{path}?node=1")).await.expect(200).body.len(), 0);
    ada.get(&format!("{path}?attempt=2")).await.error(404, ErrorCode::NotFound);
    ada.get(&format!("{path}?attempt=x")).await.error(400, ErrorCode::BadRequest);
    let task = ada.get(&format!("/v1/tasks/{}", assignment.spec.id)).await.expect(200).json();
    let tail = &bytes[200_000 - (64 << 10)..];
    assert_eq!(task["output"], String::from_utf8_lossy(tail).into_owned());
}

#[tokio::test]
async fn a_follower_sees_all_from_the_queue_to_the_end() {
    let server = TestServer::start().await;
    let ada = server.user("ada").await;
    let task = ada.submit(&small()).await;
    let path = format!("/v1/tasks/{}/logs?follow=true", task["id"].as_str().unwrap());
    let mut events = Events::open(&ada, &path, None).await;
    let (mut worker, assignment) = {
        let mut worker = fetchml_testkit::LinkWorker::connect(&server).await;
        let assignment = worker.run_next().await;
        (worker, assignment)
    };
    let begins = events.next().await.unwrap();
    assert_eq!((begins.name.as_str(), &begins.data["number"]), ("attempt", &json!(1)));
    worker.log(assignment.attempt, 0, "one\nhalf é".as_bytes().split_last().unwrap().1).await;
    let first = events.next().await.unwrap();
    assert_eq!(first.data, json!({"text": "one\nhalf ", "offset": 0, "len": 9}));
    assert_eq!(first.id, format!("{}.0.9", assignment.attempt));
    worker.log(assignment.attempt, 10, &"é".as_bytes()[1..]).await;
    assert_eq!(events.next().await.unwrap().data, json!({"text": "é", "offset": 9, "len": 2}));
    worker.log(assignment.attempt, 11, b"bad \xff\xc3").await;
    worker.end(&assignment, Outcome { exit_code: Some(0), log_bytes: 17, ..Outcome::default() }).await;
    let rest = events.rest().await;
    assert_eq!(text_of(&rest), "bad \u{fffd}\u{fffd}");
    assert_eq!(rest.last().unwrap().name, "end");
    assert_eq!(rest.last().unwrap().data, json!({"status": "completed"}));

    // Resumed at any event, before and after a restart, nothing is missing and nothing repeated.
    let server = server.restart().await;
    let ada = CheckedClient::new(&server.url(), ada.key);
    let whole = Events::open(&ada, &path, None).await.rest().await;
    assert_eq!(text_of(&whole), "one\nhalf ébad \u{fffd}\u{fffd}");
    let resumed = Events::open(&ada, &path, Some(&first.id)).await.rest().await;
    assert_eq!(text_of(&resumed), "ébad \u{fffd}\u{fffd}");
    ada.send(ada.request(Method::GET, &path).header("last-event-id", "nonsense"))
        .await
        .error(400, ErrorCode::BadRequest);
}

#[tokio::test]
async fn a_follower_goes_on_to_the_next_attempt() {
    let server = TestServer::start().await;
    let ada = server.user("ada").await;
    let mut body = small();
    body["max_retries"] = json!(1);
    let task = ada.submit(&body).await;
    let mut worker = fetchml_testkit::LinkWorker::connect(&server).await;
    let first = worker.run_next().await;
    let path = format!("/v1/tasks/{}/logs?follow=true", task["id"].as_str().unwrap());
    let events = Events::open(&ada, &path, None).await;
    worker.log(first.attempt, 0, b"try 1\n").await;
    let failed = Outcome { cause: Some(FailureCause::ExitNonzero), exit_code: Some(1), ..Outcome::default() };
    worker.end(&first, failed.clone()).await;
    let second = worker.run_next().await;
    assert_eq!((second.number, second.spec.id), (2, first.spec.id));
    worker.log(second.attempt, 0, b"try 2\n").await;
    worker.end(&second, failed).await;
    let events = events.rest().await;
    assert_eq!(text_of(&events), "try 1\ntry 2\n");
    let names: Vec<&str> = events.iter().map(|e| e.name.as_str()).filter(|n| !n.is_empty()).collect();
    assert_eq!(names, ["attempt", "end"]);
    let one = ada.get(&format!("/v1/tasks/{}/logs?attempt={}", first.spec.id, first.attempt)).await.expect(200);
    assert_eq!(one.body, "try 1\n");
    let latest = ada.get(&format!("/v1/tasks/{}/logs", first.spec.id)).await.expect(200);
    assert_eq!(latest.body, "try 2\n");
}

#[tokio::test]
async fn a_task_without_attempts_has_an_empty_log() {
    let server = TestServer::start().await;
    let ada = server.user("ada").await;
    let task = ada.submit(&small()).await;
    let id = task["id"].as_str().unwrap();
    assert_eq!(ada.get(&format!("/v1/tasks/{id}/logs")).await.expect(200).body.len(), 0);
    ada.delete(&format!("/v1/tasks/{id}")).await.expect(204);
    let events = Events::open(&ada, &format!("/v1/tasks/{id}/logs?follow=true"), None).await.rest().await;
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].name, "end");
}
