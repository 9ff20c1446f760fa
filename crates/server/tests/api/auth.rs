//! Who gets in: for every operation without a key, with a wrong one, with a role that may not.

use crate::NOBODY;
use fetchml_api::{ErrorCode, Role};
use fetchml_server::{Decision, Operation, Rate, RateLimits, decide};
use fetchml_testkit::{Answer, CheckedClient, Database, TestServer};
use reqwest::Method;
use serde_json::json;

fn path_of(operation: Operation) -> (Method, String) {
    let (method, path) = operation.route();
    let path = path
        .replace("{taskId}", NOBODY)
        .replace("{jobId}", NOBODY)
        .replace("{arrayId}", NOBODY)
        .replace("{webhookId}", NOBODY)
        .replace("{workerId}", NOBODY)
        .replace("{attemptId}", NOBODY)
        .replace("{keyId}", "aaaaaaaaaaaa")
        .replace("{name}", "aaaaaaaaaaaa")
        .replace("{snapshotId}", &format!("sha256:{}", "a".repeat(64)))
        .replace("{sha256}", &"a".repeat(64))
        .replace("{path}", "dir/file")
        .replace("{file}", "page.css")
        .replace("{scope}/{name}", "roles/nobody")
        .replace("{name}", "NAME");
    (method.to_uppercase().parse().unwrap(), path)
}

async fn ask(client: &CheckedClient, operation: Operation) -> Answer {
    let (method, path) = path_of(operation);
    let request = client.request(method, &path);
    if operation == Operation::StatusStream {
        // It has no end: a place that cannot be read is refused behind the same door.
        return client.send(request.header("last-event-id", "none")).await;
    }
    client.send(request).await
}

#[tokio::test]
pub(crate) async fn every_operation_but_the_open_ones_needs_a_key() {
    let server = TestServer::start().await;
    let mut flipped = server.admin().key.unwrap().into_bytes();
    let last = flipped.len() - 1;
    flipped[last] = if flipped[last] == b'a' { b'b' } else { b'a' };
    let wrong = [None, Some("x".to_owned()), Some(String::from_utf8(flipped).unwrap())];
    for operation in Operation::ALL {
        for key in &wrong {
            let answer = ask(&server.anonymous().with_key(key.clone()), operation).await;
            if operation.is_open() {
                answer.expect(200);
            } else {
                answer.error(401, ErrorCode::Unauthorized);
            }
        }
    }
}

#[tokio::test]
pub(crate) async fn unknown_ids_are_404() {
    let server = TestServer::start().await;
    let worker = server.worker().await;
    for operation in Operation::ALL {
        let (method, path) = path_of(operation);
        let odd = ["%00", "..%2f..", "%ff", "1", "x".repeat(300).as_str()]
            .map(|id| path.replace(NOBODY, id).replace(&"a".repeat(64), id).replace("aaaaaaaaaaaa", id));
        for path in odd.into_iter().chain([path.clone()]).filter(|_| operation.route().1.contains('{')) {
            if operation == Operation::BlobPut && path.ends_with(&"a".repeat(64)) {
                continue;
            }
            if operation == Operation::DocsFile {
                // The name is one that there is; of others see `docs_page`.
                continue;
            }
            if operation == Operation::SecretPut {
                // It makes what is not there, and says what is wrong with a name.
                continue;
            }
            let client = if decide(operation, Role::Admin) == Decision::Deny { worker.clone() } else { server.admin() };
            client.send(client.request(method.clone(), &path)).await.error(404, ErrorCode::NotFound);
        }
    }
}

#[tokio::test]
pub(crate) async fn unknown_paths_and_wrong_methods_have_the_form() {
    let server = TestServer::start().await;
    let client = server.admin();
    for path in ["/", "/v1", "/v1/tasks/", "/v2/tasks", "/v1/tasks/a/b/c", "/%00"] {
        client.get(path).await.error(404, ErrorCode::NotFound);
    }
    for (method, path, allowed) in
        [(Method::PUT, "/v1/tasks", "POST"), (Method::POST, "/health", "GET"), (Method::PATCH, "/v1/keys/x", "DELETE")]
    {
        let answer = client.send(client.request(method, path)).await;
        answer.error(405, ErrorCode::BadRequest);
        assert!(answer.header("allow").contains(allowed), "{}", answer.header("allow"));
    }
}

#[tokio::test]
pub(crate) async fn a_key_over_its_rate_waits_and_others_do_not() {
    let rate = Rate { per_second: 1, burst: 5 };
    let limits = RateLimits { user: rate, ..RateLimits::default() };
    let server = TestServer::start_with(Database::Sqlite, |o| o.rate_limits = Some(limits)).await;
    let (ada, bob) = (server.user("ada").await, server.user("bob").await);
    let mut refused = 0;
    for _ in 0..10 {
        let answer = ada.get("/v1/queue").await;
        if answer.status == 429 {
            assert!(answer.header("retry-after").parse::<u64>().unwrap() >= 1);
            assert!(answer.header("ratelimit").starts_with("\"key\";r=0;t="), "{}", answer.header("ratelimit"));
            refused += 1;
        }
    }
    assert!(refused >= 3, "{refused}");
    let answer = bob.get("/v1/queue").await.expect(200);
    assert_eq!(answer.header("ratelimit-policy"), "\"key\";q=5;w=5");
    assert_eq!(answer.header("ratelimit"), "\"key\";r=4;t=1");
}

#[tokio::test]
pub(crate) async fn a_flood_of_wrong_keys_is_429_audited_in_bounds_and_locks_nobody_out() {
    let server = TestServer::start_with(Database::Sqlite, |o| o.rate_limits = Some(RateLimits::default())).await;
    let wrong = server.anonymous().with_key(Some("fml_wrong".into()));
    let mut statuses = Vec::new();
    for _ in 0..60 {
        let answer = wrong.get("/v1/queue").await;
        if answer.status == 429 {
            assert_eq!(answer.header("ratelimit-policy"), "\"address\";q=50;w=60");
            assert!(answer.header("retry-after").parse::<u64>().unwrap() <= 60);
        }
        statuses.push(answer.status);
    }
    assert_eq!(statuses.iter().filter(|s| **s == 401).count(), 50);
    assert_eq!(statuses.iter().filter(|s| **s == 429).count(), 10);
    server.admin().get("/v1/queue").await.expect(200);
    let (store, _held) = server.stop_and_open_store().await;
    let rows = store.audit_rows(0, 1_000).await.unwrap();
    let bodies: Vec<serde_json::Value> = rows.iter().map(|r| serde_json::from_slice(&r.body).unwrap()).collect();
    let failures = bodies.iter().filter(|b| b["action"] == "authenticate" && b["success"] == json!(false)).count();
    let successes = bodies.iter().filter(|b| b["action"] == "authenticate" && b["success"] == json!(true)).count();
    assert_eq!((failures, successes), (10, 1), "{bodies:#?}");
    assert!(!bodies.iter().any(|b| b.to_string().contains("fml_")), "a key leaked into the audit log");
}

#[tokio::test]
pub(crate) async fn an_expired_key_works_no_more() {
    let server = TestServer::start().await;
    let made = server.admin().post("/v1/keys", &json!({"role": "user", "user_id": "u", "expires_days": 1})).await;
    let made = made.expect(201).json();
    assert!(made["expires_at"].as_str().unwrap() > made["created_at"].as_str().unwrap());
    server.anonymous().with_key(made["key"].as_str().map(str::to_owned)).get("/v1/queue").await.expect(200);
}

#[tokio::test]
pub(crate) async fn a_revoked_key_ends_its_open_streams_and_sessions() {
    let server = TestServer::start().await;
    let ada = server.user("ada").await;
    let task = ada.submit(&crate::small()).await;
    let path = format!("/v1/tasks/{}/logs?follow=true", task["id"].as_str().unwrap());
    let mut stream = ada.request(Method::GET, &path).send().await.unwrap();
    assert_eq!(stream.status(), 200);
    let mut worker = fetchml_testkit::LinkWorker::connect(&server).await;
    let keys = server.admin().get("/v1/keys").await.expect(200).json();
    let began = std::time::Instant::now();
    for key in keys["keys"].as_array().unwrap().iter().filter(|k| k["role"] != "admin") {
        server.admin().delete(&format!("/v1/keys/{}", key["id"].as_str().unwrap())).await.expect(204);
    }
    crate::drained(&mut stream).await;
    worker.closed().await;
    assert!(began.elapsed() < std::time::Duration::from_secs(2), "{:?}", began.elapsed());
    ada.get("/v1/queue").await.error(401, ErrorCode::Unauthorized);
}
