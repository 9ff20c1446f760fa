//! Who gets in: for every operation without a key, with a wrong one, with a role that may not.

use crate::NOBODY;
use fetchml_api::{ErrorCode, Role};
use fetchml_server::{Decision, Operation, Rate, RateLimits, Visibility, decide};
use fetchml_testkit::{Answer, CheckedClient, Database, LinkWorker, TestServer, WsClient};
use jiff::{SignedDuration, Timestamp};
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
            let client = if decide(operation, Role::Admin, Visibility::Lab) == Decision::Deny {
                worker.clone()
            } else {
                server.admin()
            };
            let error = client.send(client.request(method.clone(), &path)).await.error(404, ErrorCode::NotFound);
            let odd = operation.route().1.contains("{sha256}");
            assert!(odd || error.hint.is_some(), "{operation:?}: {error:?}");
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
    for database in Database::ALL {
        let rate = Rate { per_second: 1, burst: 5 };
        let limits = RateLimits { user: rate, viewer: Rate { per_second: 7, burst: 21 }, ..RateLimits::default() };
        let server = TestServer::start_with(database, |o| o.rate_limits = Some(limits)).await;
        let (ada, bob) = (server.user("ada").await, server.user("bob").await);
        // More at once than any machine answers in the time in which tokens come back.
        let asked = (0..200).map(|_| ada.get("/v1/queue"));
        let answers = futures_util::future::join_all(asked).await;
        let (refused, taken): (Vec<&Answer>, Vec<&Answer>) = answers.iter().partition(|answer| answer.status == 429);
        assert!(taken.len() >= 5 && taken.iter().all(|answer| answer.status == 200), "{}", taken.len());
        assert!(!refused.is_empty(), "{database:?}");
        for answer in refused {
            assert!(answer.header("retry-after").parse::<u64>().unwrap() >= 1);
            assert!(answer.header("ratelimit").starts_with("\"key\";r=0;t="), "{}", answer.header("ratelimit"));
            assert_eq!(answer.header("ratelimit-policy"), "\"key\";q=5;w=5");
        }
        let answer = bob.get("/v1/queue").await.expect(200);
        assert_eq!(answer.header("ratelimit"), "\"key\";r=4;t=1");
        let answer = server.with_role("viewer", "ada").await.get("/v1/queue").await.expect(200);
        assert_eq!(answer.header("ratelimit-policy"), "\"key\";q=21;w=3", "each role has a rate of its own");
        let worker = server.worker().await.get(&format!("/v1/tasks/{NOBODY}/checkpoint")).await;
        assert!(!worker.headers.contains_key("ratelimit"), "workers are not limited");
    }
}

#[tokio::test]
pub(crate) async fn a_flood_of_wrong_keys_is_429_audited_in_bounds_and_locks_nobody_out() {
    for database in Database::ALL {
        let limits = RateLimits { auth_failures_per_minute: 30, ..RateLimits::default() };
        let server = TestServer::start_with(database, |o| o.rate_limits = Some(limits)).await;
        let wrong = server.anonymous().with_key(Some("fml_wrong".into()));
        let answers = futures_util::future::join_all((0..60).map(|_| wrong.get("/v1/queue"))).await;
        let (refused, unknown): (Vec<&Answer>, Vec<&Answer>) = answers.iter().partition(|answer| answer.status == 429);
        for answer in refused {
            assert_eq!(answer.header("ratelimit-policy"), "\"address\";q=30;w=60");
            assert!(answer.header("retry-after").parse::<u64>().unwrap() <= 60);
        }
        assert!(unknown.iter().all(|answer| answer.status == 401));
        assert_eq!(unknown.len(), 30, "of one minute");
        server.admin().get("/v1/queue").await.expect(200);
        let (store, _held) = server.stop_and_open_store().await;
        let rows = store.audit_rows(0, 1_000).await.unwrap();
        let bodies: Vec<serde_json::Value> = rows.iter().map(|r| serde_json::from_slice(&r.body).unwrap()).collect();
        let failures = bodies.iter().filter(|b| b["action"] == "authenticate" && b["success"] == json!(false)).count();
        let successes = bodies.iter().filter(|b| b["action"] == "authenticate" && b["success"] == json!(true)).count();
        assert_eq!((failures, successes), (10, 1), "{bodies:#?}");
        assert!(!bodies.iter().any(|b| b.to_string().contains("fml_")), "a key leaked into the audit log");
    }
}

/// A key that works for some seconds more, and until when.
async fn soon(admin: &CheckedClient) -> (Timestamp, serde_json::Value) {
    for seconds in [2, 10, 30] {
        let at = Timestamp::now() + SignedDuration::from_secs(seconds);
        let body = json!({"role": "user", "user_id": "u", "expires_at": at.to_string()});
        let answer = admin.post("/v1/keys", &body).await;
        if answer.status == 201 {
            return (at, answer.json());
        }
    }
    panic!("no key is made within half a minute");
}

#[tokio::test]
pub(crate) async fn an_expired_key_works_no_more_and_its_streams_end() {
    for database in Database::ALL {
        let server = TestServer::start_with(database, |_| ()).await;
        let admin = server.admin();
        let in_days = json!({"role": "user", "user_id": "u", "expires_days": 1});
        let made = admin.post("/v1/keys", &in_days).await.expect(201).json();
        assert!(made["expires_at"].as_str().unwrap() > made["created_at"].as_str().unwrap());
        server.anonymous().with_key(made["key"].as_str().map(str::to_owned)).get("/v1/queue").await.expect(200);

        let (at, made) = soon(&admin).await;
        assert_eq!(made["expires_at"].as_str().unwrap().parse::<Timestamp>().unwrap().as_second(), at.as_second());
        let client = server.anonymous().with_key(made["key"].as_str().map(str::to_owned));
        let mut stream = client.request(Method::GET, "/v1/scheduler/status/stream").send().await.unwrap();
        if stream.status() == 200 {
            crate::drained(&mut stream).await;
            assert!(Timestamp::now() >= at, "it ends when the key does, and not before");
        }
        client.get("/v1/queue").await.error(401, ErrorCode::Unauthorized);
        assert!(Timestamp::now() >= at);
    }
}

/// What happens after the answer to the revocation is told to no stream of the key.
#[tokio::test]
pub(crate) async fn a_revoked_key_ends_its_open_streams_and_sessions() {
    for database in Database::ALL {
        let server = TestServer::start_with(database, |_| ()).await;
        let (admin, ada) = (server.admin(), server.user("ada").await);
        let task = ada.submit(&crate::small()).await["id"].as_str().unwrap().to_owned();
        let mut streams = Vec::new();
        for path in [
            format!("/v1/tasks/{task}/logs?follow=true"),
            format!("/v1/scheduler/jobs/{task}/stream"),
            "/v1/scheduler/status/stream".to_owned(),
        ] {
            let stream = ada.request(Method::GET, &path).send().await.unwrap();
            assert_eq!(stream.status(), 200);
            streams.push(stream);
        }
        let key = ada.key.as_deref().unwrap();
        let mut socket = WsClient::open(&server, "", &[("x-api-key", key)]).await.expect("it opens");
        let mut worker = LinkWorker::connect(&server).await;
        let keys = admin.get("/v1/keys").await.expect(200).json();
        for key in keys["keys"].as_array().unwrap().iter().filter(|k| k["role"] != "admin") {
            admin.delete(&format!("/v1/keys/{}", key["id"].as_str().unwrap())).await.expect(204);
        }
        let later = admin.submit(&crate::small()).await["id"].as_str().unwrap().to_owned();
        admin.patch(&format!("/v1/scheduler/jobs/{task}/priority"), &json!({"priority": 9})).await.expect(200);
        for stream in &mut streams {
            let told = crate::drained(stream).await;
            assert!(!told.contains(&later) && !told.contains(r#""priority":9"#), "{database:?}: {told}");
        }
        let closed = loop {
            match socket.hear().await {
                Ok(message) => assert!(!message.to_string().contains(&later), "{message}"),
                Err(closed) => break closed,
            }
        };
        assert_eq!(closed, (1008, "the key works no more".to_owned()));
        worker.closed().await;
        ada.get("/v1/queue").await.error(401, ErrorCode::Unauthorized);
        // The same after a restart.
        let server = server.restart().await;
        let ada = server.anonymous().with_key(ada.key);
        ada.get("/v1/queue").await.error(401, ErrorCode::Unauthorized);
    }
}

#[tokio::test]
async fn who_may_not_is_told_who_may() {
    let server = TestServer::start().await;
    let viewer = server.with_role("viewer", "ada").await;
    let hint = |answer: Answer| answer.error(403, ErrorCode::Forbidden).hint.unwrap();
    assert_eq!(
        hint(viewer.post("/v1/tasks", &crate::small()).await),
        "It takes the role user or operator or admin; an admin makes keys (fetchml keys create)."
    );
    assert!(hint(viewer.get("/v1/keys").await).starts_with("It takes the role admin;"));
    let task = server.user("bob").await.submit(&crate::small()).await["id"].as_str().unwrap().to_owned();
    let others = server.user("ada").await.delete(&format!("/v1/tasks/{task}")).await;
    assert!(hint(others).contains("Ask bob"));
    let missing = viewer.get(&format!("/v1/tasks/{NOBODY}")).await.error(404, ErrorCode::NotFound);
    assert!(missing.hint.unwrap().contains("fetchml tasks"));
}
