//! `Idempotency-Key`.

use crate::small;
use fetchml_api::ErrorCode;
use fetchml_testkit::{Answer, CheckedClient, Database, LinkWorker, TestServer};
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::BTreeSet;

async fn post(client: &CheckedClient, key: &str, body: &str) -> Answer {
    let request = client.request(Method::POST, "/v1/tasks").header("idempotency-key", key);
    client.send(request.header("content-type", "application/json").body(body.to_owned())).await
}

fn was_replayed(answer: &Answer) -> bool {
    answer.headers.get("idempotent-replayed").is_some_and(|value| value == "true")
}

async fn total(client: &CheckedClient) -> Value {
    client.get("/v1/tasks?limit=0").await.expect(200).json()["total"].clone()
}

#[tokio::test]
async fn a_request_that_is_sent_again_is_done_once() {
    for database in Database::ALL {
        let server = TestServer::start_with(database, |_| {}).await;
        let (ada, bob) = (server.user("ada").await, server.user("bob").await);
        let mut body = small();
        (body["env"], body["nme"]) = (json!({"TOKEN": "ada's own"}), json!(1));
        let body = body.to_string();
        let first = post(&ada, "k 1", &body).await.expect(201);
        assert!(!was_replayed(&first));
        let again = post(&ada, "k 1", &body).await.expect(201);
        assert!(was_replayed(&again));
        assert_eq!(again.json(), first.json(), "the very same answer, warnings too");

        // Of another user, and with another key, it is another request.
        assert_ne!(post(&bob, "k 1", &body).await.expect(201).json()["id"], first.json()["id"]);
        assert_ne!(post(&ada, "k 2", &body).await.expect(201).json()["id"], first.json()["id"]);
        assert_eq!(total(&ada).await, 3);

        // The key is of that body, to the byte.
        let refused = post(&ada, "k 1", &format!("{body} ")).await.error(409, ErrorCode::Conflict);
        assert!(refused.hint.unwrap().contains("new key"));

        // Whatever became of the task, and of the server.
        let mut worker = LinkWorker::connect(&server).await;
        worker.run_next().await;
        assert_eq!(post(&ada, "k 1", &body).await.expect(201).json(), first.json());
        drop(worker);
        let server = server.restart().await;
        let ada = server.user("ada").await;
        let again = post(&ada, "k 1", &body).await.expect(201);
        assert!(was_replayed(&again));
        assert_eq!(again.json(), first.json());
        assert_eq!(total(&ada).await, 3);
    }
}

#[tokio::test]
async fn what_was_deleted_is_not_made_again() {
    let server = TestServer::start().await;
    let ada = server.user("ada").await;
    let body = small().to_string();
    let first = post(&ada, "k", &body).await.expect(201);
    let path = format!("/v1/tasks/{}", first.json()["id"].as_str().unwrap());
    ada.delete(&path).await.expect(204);
    ada.delete(&format!("{path}?purge=true")).await.expect(204);
    ada.get(&path).await.error(404, ErrorCode::NotFound);
    let again = post(&ada, "k", &body).await.expect(201);
    assert_eq!((was_replayed(&again), again.json()), (true, first.json()));
    assert_eq!(total(&ada).await, 0);
}

#[tokio::test]
async fn of_many_at_once_one_is_done() {
    for database in Database::ALL {
        let server = TestServer::start_with(database, |_| {}).await;
        let ada = server.user("ada").await;
        let bodies = [small().to_string(), json!({"job_name": "other", "entrypoint": "true"}).to_string()];
        let posts = (0..32).map(|n| {
            let (ada, body) = (ada.clone(), bodies[n % 2].clone());
            async move { post(&ada, "one", &body).await }
        });
        let answers = futures_util::future::join_all(posts).await;
        let done = answers.iter().filter(|answer| answer.status == 201);
        let ids: BTreeSet<String> = done.map(|answer| answer.json()["id"].to_string()).collect();
        assert_eq!(ids.len(), 1);
        assert_eq!(answers.iter().filter(|answer| answer.status == 201 && !was_replayed(answer)).count(), 1);
        assert_eq!(answers.iter().filter(|answer| answer.status == 409).count(), 16, "those with the other body");
        assert_eq!(total(&ada).await, 1);
    }
}

#[tokio::test]
async fn an_array_is_made_once() {
    let server = TestServer::start().await;
    let ada = server.user("ada").await;
    let mut body = small();
    body["array"] = json!("0-4");
    let first = post(&ada, "array", &body.to_string()).await.expect(201).json();
    assert_eq!(post(&ada, "array", &body.to_string()).await.expect(201).json(), first);
    assert_eq!(total(&ada).await, 5);
}

#[tokio::test]
async fn what_was_refused_may_be_sent_again() {
    let server = TestServer::start().await;
    let ada = server.user("ada").await;
    let mut body = small();
    body["datasets"] = json!(["digits"]);
    let body = body.to_string();
    assert_eq!(post(&ada, "k", &body).await.problem_fields(), ["datasets[0]"]);
    let set = json!({"name": "digits", "source": "https://data.example.org/digits.csv"});
    ada.post("/v1/datasets", &set).await.expect(201);
    let first = post(&ada, "k", &body).await.expect(201);
    assert!(!was_replayed(&first));
    // Now it would be refused once more: what was done stands.
    ada.delete("/v1/datasets/digits").await.expect(204);
    let again = post(&ada, "k", &body).await.expect(201);
    assert_eq!((was_replayed(&again), again.json()), (true, first.json()));
}

#[tokio::test]
async fn keys_that_are_none_are_refused() {
    let server = TestServer::start().await;
    let ada = server.user("ada").await;
    let body = small().to_string();
    for key in [String::new(), "x".repeat(256), "a\tb".into()] {
        let refused = post(&ada, &key, &body).await.error(400, ErrorCode::BadRequest);
        assert!(refused.details[0].field.contains("Idempotency-Key"), "{key:?}");
    }
    let dry = ada.request(Method::POST, "/v1/tasks?dry_run=true").header("idempotency-key", "k").json(&small());
    ada.send(dry).await.expect(200);
    post(&ada, "k", &body).await.expect(201);
    assert_eq!(total(&ada).await, 1);
}
