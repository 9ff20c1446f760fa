//! Secrets: set and deleted by their owner, read by nobody but the worker that holds an attempt.

use crate::{NOBODY, small};
use fetchml_api::{
    ErrorCode, limits,
    link::{Assignment, Outcome, Report},
};
use fetchml_testkit::{CheckedClient, Database, LinkWorker, TestServer};
use reqwest::Method;
use serde_json::{Value, json};

const VALUE: &str = "canary-value-of-a-secret";

async fn set(client: &CheckedClient, name: &str, value: &str) -> Value {
    let answer = client.put_json(&format!("/v1/secrets/{name}"), &json!({"value": value})).await;
    assert!(matches!(answer.status, 200 | 201), "{}", answer.status);
    answer.json()
}

async fn names(client: &CheckedClient) -> Vec<String> {
    let list = client.get("/v1/secrets").await.expect(200).json();
    list["secrets"].as_array().unwrap().iter().map(|s| s["name"].as_str().unwrap().to_owned()).collect()
}

fn path(assignment: &Assignment) -> String {
    format!("/v1/tasks/{}/attempts/{}/secrets", assignment.spec.id, assignment.attempt)
}

fn holder(worker: &LinkWorker, assignment: &Assignment) -> Value {
    json!({"worker_id": worker.id, "epoch": assignment.epoch})
}

/// An attempt of a task that names these, given to the only worker.
async fn assigned(worker: &mut LinkWorker, owner: &CheckedClient, names: &[&str]) -> Assignment {
    let mut body = small();
    body["secrets"] = json!(names);
    let task = owner.submit(&body).await;
    assert_eq!(task["secrets"], json!(names));
    let assignment = worker.assignment().await;
    assert_eq!(assignment.spec.secrets, names);
    assignment
}

async fn given(worker: &LinkWorker, assignment: &Assignment) -> Value {
    worker.client.post(&path(assignment), &holder(worker, assignment)).await.expect(200).json()["secrets"].clone()
}

/// A worker is given the secret `TOKEN` of a task, whose value holds `canary`.
pub(crate) async fn given_once(server: &TestServer, owner: &CheckedClient) {
    set(owner, "TOKEN", VALUE).await;
    let mut worker = LinkWorker::connect(server).await;
    let assignment = assigned(&mut worker, owner, &["TOKEN"]).await;
    given(&worker, &assignment).await;
}

#[tokio::test]
pub(crate) async fn are_set_listed_and_deleted() {
    for database in Database::ALL {
        let server = TestServer::start_with(database, |_| {}).await;
        let (ada, bob) = (server.user("ada").await, server.user("bob").await);
        ada.put_json("/v1/secrets/B", &json!({"value": VALUE})).await.expect(201);
        let first = ada.put_json("/v1/secrets/A", &json!({"value": VALUE})).await.expect(201).json();
        let again = ada.put_json("/v1/secrets/A", &json!({"value": "another-value"})).await.expect(200).json();
        assert_eq!(again["created_at"], first["created_at"]);
        assert!(again["updated_at"].as_str() > first["updated_at"].as_str());
        assert_eq!(again["warnings"], Value::Null);
        assert_eq!(names(&ada).await, ["A", "B"]);
        let listed = ada.get("/v1/secrets").await.expect(200);
        assert!(!String::from_utf8_lossy(&listed.body).contains("value"), "names and times only");

        assert!(names(&bob).await.is_empty());
        assert!(names(&server.admin()).await.is_empty(), "not even an admin sees those of others");
        bob.delete("/v1/secrets/A").await.error(404, ErrorCode::NotFound);
        ada.delete("/v1/secrets/A").await.expect(204);
        ada.delete("/v1/secrets/A").await.error(404, ErrorCode::NotFound);
        assert_eq!(names(&ada).await, ["B"]);

        let short = set(&ada, "PIN", " 1234567 ").await;
        assert!(short["warnings"][0].as_str().unwrap().contains("logs"), "{short}");
        let server = server.restart().await;
        let ada = server.anonymous().with_key(ada.key);
        assert_eq!(names(&ada).await, ["B", "PIN"], "after a restart");
    }
}

#[tokio::test]
pub(crate) async fn values_that_cannot_be() {
    let server = TestServer::start().await;
    let ada = server.user("ada").await;
    let long = "x".repeat(limits::SECRET_VALUE_BYTES + 1);
    let wide = "é".repeat(limits::SECRET_VALUE_BYTES / 2 + 1);
    for (name, body, fields) in [
        ("A", json!({}), &["value"][..]),
        ("A", json!({"value": ""}), &["value"]),
        ("A", json!({"value": 7}), &["value"]),
        ("A", json!({"value": "canary\0"}), &["value"]),
        ("A", json!({"value": long}), &["value"]),
        ("A", json!({"value": wide}), &["value"]),
        ("A", json!(["canary"]), &[""]),
        ("1A", json!({"value": VALUE}), &["name"]),
        ("A-B", json!({"value": VALUE}), &["name"]),
        ("FETCHML_X", json!({"value": VALUE}), &["name"]),
        ("A-B", json!({"value": ""}), &["name", "value"]),
    ] {
        let answer = ada.put_json(&format!("/v1/secrets/{name}"), &body).await;
        assert_eq!(answer.problem_fields(), fields, "{name} {body}");
        assert!(!String::from_utf8_lossy(&answer.body).contains("canary"), "no value is repeated");
    }
    let odd = ada.request(Method::PUT, "/v1/secrets/A").header("content-type", "application/json");
    let answer = ada.send(odd.body(r#"{"canary":1,"canary":2}"#)).await;
    answer.error(400, ErrorCode::BadRequest);
    assert!(!String::from_utf8_lossy(&answer.body).contains("canary"));
    set(&ada, &"A".repeat(limits::ENV_NAME_CHARS), &"x".repeat(limits::SECRET_VALUE_BYTES)).await;
    let name = "A".repeat(limits::ENV_NAME_CHARS + 1);
    let answer = ada.put_json(&format!("/v1/secrets/{name}"), &json!({"value": VALUE})).await;
    assert_eq!(answer.problem_fields(), ["name"]);
}

#[tokio::test]
async fn of_one_user_there_is_a_most() {
    let server = TestServer::start().await;
    let ada = server.user("ada").await;
    for n in 0..limits::USER_SECRETS {
        set(&ada, &format!("S{n}"), VALUE).await;
    }
    ada.put_json("/v1/secrets/ONE_MORE", &json!({"value": VALUE})).await.error(409, ErrorCode::Conflict);
    set(&ada, "S7", "another").await;
    ada.delete("/v1/secrets/S7").await.expect(204);
    set(&ada, "ONE_MORE", VALUE).await;
    set(&server.user("bob").await, "HIS", VALUE).await;
}

#[tokio::test]
pub(crate) async fn a_task_names_only_its_owners() {
    let server = TestServer::start().await;
    let (ada, bob) = (server.user("ada").await, server.user("bob").await);
    set(&bob, "HIS", VALUE).await;
    for n in 0..3 {
        set(&ada, &format!("LONG{n}"), &"x".repeat(limits::TASK_SECRETS_BYTES / 2)).await;
    }
    let refused = |names: Value| {
        let mut body = small();
        body["secrets"] = names;
        let ada = ada.clone();
        async move { ada.post("/v1/tasks", &body).await.problem_fields() }
    };
    assert_eq!(refused(json!(["LONG0", "HIS", "NONE"])).await, ["secrets[1]", "secrets[2]"]);
    assert_eq!(refused(json!(["LONG0", "LONG1", "LONG2"])).await, ["secrets"]);
    let mut body = small();
    body["secrets"] = json!(["LONG0", "LONG1"]);
    ada.submit(&body).await;
}

#[tokio::test]
pub(crate) async fn are_given_to_the_worker_that_holds_the_attempt() {
    for database in Database::ALL {
        let server = TestServer::start_with(database, |_| {}).await;
        let ada = server.user("ada").await;
        set(&ada, "A", VALUE).await;
        set(&ada, "B", "the other one").await;
        let mut worker = LinkWorker::connect(&server).await;
        let assignment = assigned(&mut worker, &ada, &["B", "A"]).await;
        let expected = json!([{"name": "B", "value": "the other one"}, {"name": "A", "value": VALUE}]);
        let answer = worker.client.post(&path(&assignment), &holder(&worker, &assignment)).await.expect(200);
        assert_eq!((answer.header("cache-control"), &answer.json()["secrets"]), ("no-store", &expected));

        // Whatever is set or deleted now, this attempt is given the same: its worker may have lost them.
        set(&ada, "A", "later").await;
        ada.delete("/v1/secrets/B").await.expect(204);
        worker.report(&assignment, Report::Accepted).await;
        worker.report(&assignment, Report::Running).await;
        assert_eq!(given(&worker, &assignment).await, expected);

        worker.end(&assignment, Outcome { exit_code: Some(0), ..Outcome::default() }).await;
        let over = worker.client.post(&path(&assignment), &holder(&worker, &assignment)).await;
        over.error(409, ErrorCode::Conflict);
        let ended = assignment.attempt;
        let assignment = assigned(&mut worker, &ada, &["A"]).await;
        assert_eq!(given(&worker, &assignment).await, json!([{"name": "A", "value": "later"}]));

        let (store, _held) = server.stop_and_open_store().await;
        assert_eq!(store.attempt_secrets(assignment.attempt).await.unwrap().len(), 1, "it lives");
        assert!(store.attempt_secrets(ended).await.unwrap().is_empty(), "what only it had is gone");
        let rows = store.audit_rows(0, 1_000).await.unwrap();
        let bodies: Vec<Value> = rows.iter().map(|row| serde_json::from_slice(&row.body).unwrap()).collect();
        let read = bodies.iter().find(|body| body["action"] == "secrets_read").unwrap();
        assert_eq!((&read["event_type"], &read["metadata"]["names"]), (&json!("file_access"), &json!("B,A")));
        for action in ["secret_set", "secret_delete"] {
            assert!(bodies.iter().any(|body| body["action"] == action), "{action}");
        }
        assert!(!bodies.iter().any(|body| body.to_string().contains(VALUE)));
    }
}

#[tokio::test]
pub(crate) async fn nobody_else_is_given_any() {
    let server = TestServer::start().await;
    let ada = server.user("ada").await;
    set(&ada, "A", VALUE).await;
    let mut worker = LinkWorker::connect(&server).await;
    let assignment = assigned(&mut worker, &ada, &["A"]).await;
    let mine = holder(&worker, &assignment);
    let other = LinkWorker::connect(&server).await;
    let ask = |client: &CheckedClient, body: &Value| {
        let (client, path, body) = (client.clone(), path(&assignment), body.clone());
        async move { client.post(&path, &body).await }
    };
    // Another worker: in its own name, and in the name of the one that holds it.
    ask(&other.client, &holder(&other, &assignment)).await.error(403, ErrorCode::Forbidden);
    ask(&other.client, &mine).await.error(403, ErrorCode::Forbidden);
    ask(&server.worker().await, &mine).await.error(403, ErrorCode::Forbidden);
    for person in [&ada, &server.admin()] {
        ask(person, &mine).await.error(403, ErrorCode::Forbidden);
    }
    for n in [0, assignment.epoch.n + 1] {
        let stale = json!({"worker_id": worker.id, "epoch": {"incarnation": assignment.epoch.incarnation, "n": n}});
        ask(&worker.client, &stale).await.error(403, ErrorCode::Forbidden);
    }
    // An attempt of another task.
    let elsewhere = format!("/v1/tasks/{NOBODY}/attempts/{}/secrets", assignment.attempt);
    worker.client.post(&elsewhere, &mine).await.error(404, ErrorCode::NotFound);

    let client = worker.client.clone();
    worker.report(&assignment, Report::Accepted).await;
    drop(worker);
    let refused = fetchml_testkit::eventually("the server sees that the link is gone", async || {
        let answer = client.post(&path(&assignment), &mine).await;
        (answer.status != 200).then_some(answer)
    })
    .await;
    assert!(refused.error(503, ErrorCode::ServiceUnavailable).retryable, "its link may come back");
}

#[tokio::test]
pub(crate) async fn what_a_worker_asks_is_checked() {
    let server = TestServer::start().await;
    let ada = server.user("ada").await;
    set(&ada, "A", VALUE).await;
    set(&ada, "B", VALUE).await;
    let mut worker = LinkWorker::connect(&server).await;
    let assignment = assigned(&mut worker, &ada, &["A", "B"]).await;
    for (body, fields) in [
        (json!({}), &["worker_id", "epoch"][..]),
        (json!({"worker_id": "x", "epoch": 3}), &["worker_id", "epoch"]),
        (json!({"worker_id": worker.id, "epoch": {"incarnation": -1, "n": 1}}), &["epoch"]),
    ] {
        assert_eq!(worker.client.post(&path(&assignment), &body).await.problem_fields(), fields, "{body}");
    }
    ada.delete("/v1/secrets/A").await.expect(204);
    let answer = worker.client.post(&path(&assignment), &holder(&worker, &assignment)).await;
    assert_eq!(answer.problem_fields(), ["secrets.A"], "deleted before it started");
    // B was given with it and stays; A is there again.
    set(&ada, "A", "set anew").await;
    set(&ada, "B", "too late").await;
    let values = given(&worker, &assignment).await;
    assert_eq!(values, json!([{"name": "A", "value": "set anew"}, {"name": "B", "value": VALUE}]));
}

#[tokio::test]
async fn without_the_key_file_values_are_gone_and_can_be_set_again() {
    let server = TestServer::start().await;
    let ada = server.user("ada").await;
    set(&ada, "A", VALUE).await;
    let key_file = server.data_dir().join("secrets.key");
    std::fs::remove_file(&key_file).unwrap();
    let server = server.restart().await;
    let ada = server.anonymous().with_key(ada.key);
    let mut worker = LinkWorker::connect(&server).await;
    let assignment = assigned(&mut worker, &ada, &["A"]).await;
    let answer = worker.client.post(&path(&assignment), &holder(&worker, &assignment)).await;
    let error = answer.error(422, ErrorCode::ValidationError);
    assert!(error.details[0].problem.contains("set it again"), "{error:?}");
    set(&ada, "A", "again").await;
    let assignment = assigned(&mut worker, &ada, &["A"]).await;
    assert_eq!(given(&worker, &assignment).await[0]["value"], "again");
}
