//! The audit log: listed, verified, and its end shown.

use crate::{NOBODY, completed, events::Event, sha256, small};
use fetchml_api::ErrorCode;
use fetchml_testkit::{CheckedClient, Database, TestServer, eventually};
use reqwest::{Method, StatusCode, header::ACCEPT};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

async fn events(client: &CheckedClient, query: &str) -> Vec<Value> {
    let page = client.get(&format!("/v1/audit/events?{query}")).await.expect(200).json();
    page["events"].as_array().unwrap().clone()
}

fn numbers(events: &[Value]) -> Vec<u64> {
    events.iter().map(|event| event["sequence_num"].as_u64().unwrap()).collect()
}

/// The hash of an event as the document describes it.
fn hash_of(event: &Value) -> String {
    let body = event["body"].as_str().unwrap();
    let leaf = Sha256::new().chain_update([0]).chain_update(body).finalize();
    let hash = Sha256::new()
        .chain_update("fetchml/audit/v1\n")
        .chain_update(event["sequence_num"].as_u64().unwrap().to_be_bytes())
        .chain_update(hex::decode(event["prev_hash"].as_str().unwrap()).unwrap())
        .chain_update(leaf)
        .finalize();
    hex::encode(hash)
}

#[tokio::test]
pub(crate) async fn events_are_filtered_paged_and_can_be_verified_by_hand() {
    for database in Database::ALL {
        let server = TestServer::start_with(database, |_| {}).await;
        let (ada, admin) = (server.user("ada").await, server.admin());
        let (_worker, assignment) = completed(&server, &ada).await;
        let task = format!("tasks/{}", assignment.spec.id);
        ada.get(&format!("/v1/{task}/logs")).await.expect(200);

        let about = events(&admin, &format!("resource={task}")).await;
        let actions: Vec<_> = about.iter().map(|event| event["action"].as_str().unwrap()).collect();
        assert_eq!(actions, ["submit", "start", "complete"]);
        let read = events(&admin, "event_type=file_access&user_id=ada").await;
        assert_eq!((read.len(), &read[0]["action"]), (1, &json!("log_read")));
        assert_eq!(read[0]["ip_address"], "127.0.0.1");
        assert!(read[0]["metadata"]["key_id"].is_string());

        // The log may grow meanwhile: what is compared is a part that does not change.
        let all = events(&admin, "limit=1000").await;
        assert!(all.len() >= 8, "{all:#?}");
        assert_eq!(numbers(&all), (1..=all.len() as u64).collect::<Vec<_>>());
        for pair in all.windows(2) {
            assert_eq!(pair[1]["prev_hash"], pair[0]["event_hash"]);
        }
        for event in &all {
            assert_eq!(event["event_hash"], hash_of(event), "{event:#}");
            let body: Value = serde_json::from_str(event["body"].as_str().unwrap()).unwrap();
            for (name, value) in body.as_object().unwrap() {
                assert_eq!(&event[name], value, "{name}");
            }
        }
        assert_eq!(numbers(&events(&admin, "limit=2&offset=3").await), [4, 5]);
        assert_eq!(numbers(&events(&admin, "limit=2&after=3").await), [4, 5]);
        assert_eq!(numbers(&events(&admin, "limit=2&after=3&order=desc").await), [2, 1]);
        let (from, to) = (all[2]["timestamp"].as_str().unwrap(), all[4]["timestamp"].as_str().unwrap());
        let within = events(&admin, &format!("from={from}&to={to}&limit=1000")).await;
        assert!([3, 5].iter().all(|number| numbers(&within).contains(number)), "both ends are within");
        assert!(within.iter().all(|event| {
            let at = event["timestamp"].as_str().unwrap();
            from <= at && at <= to
        }));
        let page = admin.get("/v1/audit/events?user_id=nobody&limit=7&offset=1").await.expect(200).json();
        assert_eq!(page, json!({"events": [], "total": 0, "limit": 7, "offset": 1}));
        let page = admin.get(&format!("/v1/audit/events?resource=tasks/{NOBODY}")).await.expect(200).json();
        assert_eq!(page["limit"], 100);
    }
}

#[tokio::test]
pub(crate) async fn the_end_of_the_log_is_shown() {
    let server = TestServer::start().await;
    let (viewer, admin) = (server.with_role("viewer", "vic").await, server.admin());
    admin.submit(&small()).await;
    let root = viewer.get("/v1/audit/chain-root").await.expect(200).json();
    let number = root["total_events"].as_u64().unwrap();
    let there = events(&admin, &format!("after={}&limit=1", number - 1)).await;
    assert_eq!((&there[0]["event_hash"], number), (&root["root_hash"], numbers(&there)[0]));
    let first = events(&admin, "limit=1").await;
    let genesis = format!("fetchml/audit/genesis/v1\n{}", root["log_id"].as_str().unwrap());
    assert_eq!(first[0]["prev_hash"], sha256(genesis.as_bytes()));
}

#[tokio::test]
pub(crate) async fn a_verification_says_what_it_found_and_is_recorded() {
    for database in Database::ALL {
        let server = TestServer::start_with(database, |_| {}).await;
        let operator = server.with_role("operator", "olga").await;
        operator.submit(&small()).await;
        let result = operator.post("/v1/audit/verify", &json!({})).await.expect(200).json();
        assert_eq!((&result["valid"], &result["first_tampered"]), (&json!(true), &Value::Null), "{result}");
        assert_eq!(result["checked_events"], result["total_events"]);
        let number = result["total_events"].as_u64().unwrap();
        let last = events(&operator, &format!("after={}&limit=1", number - 1)).await;
        assert_eq!(last[0]["event_hash"], result["chain_root_hash"]);
        let recorded = events(&operator, "event_type=audit_verified").await;
        assert_eq!((recorded.len(), &recorded[0]["success"]), (1, &json!(true)));
        assert_eq!((&recorded[0]["user_id"], &recorded[0]["resource"]), (&json!("olga"), &json!("audit")));
        assert_eq!(recorded[0]["metadata"]["total_events"], number.to_string());
        operator.delete("/v1/audit/verify").await.error(404, ErrorCode::NotFound);
    }
}

/// Every page is read on a thread that may block: with the only one taken, a verification waits before its first.
#[test]
pub(crate) fn one_that_runs_can_be_stopped() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).max_blocking_threads(1).enable_all().build();
    runtime.unwrap().block_on(async {
        let server = TestServer::start().await;
        let admin = server.admin();
        let (release, held) = std::sync::mpsc::channel::<()>();
        let holding = tokio::task::spawn_blocking(move || held.recv());
        let verify = || admin.send(admin.request(Method::POST, "/v1/audit/verify"));
        let asked = tokio::spawn(verify());
        eventually("it runs and is stopped", || async {
            (admin.delete("/v1/audit/verify").await.status == 204).then_some(())
        })
        .await;
        let second = verify().await.error(409, ErrorCode::Conflict);
        assert_eq!(second.error, "A verification is running.");
        release.send(()).unwrap();
        holding.await.unwrap().unwrap();
        let first = asked.await.unwrap().error(409, ErrorCode::Conflict);
        assert_eq!(first.error, "The verification has no result: it was stopped: by admin.");
        admin.delete("/v1/audit/verify").await.error(404, ErrorCode::NotFound);
        let actions: Vec<Value> =
            events(&admin, "event_type=audit_verified").await.iter().map(|event| event["action"].clone()).collect();
        assert_eq!(actions, ["verify_stop", "verify"]);
    });
}

#[tokio::test]
async fn a_verification_may_be_watched() {
    let server = TestServer::start().await;
    let admin = server.admin();
    let request = admin.request(Method::POST, "/v1/audit/verify").header(ACCEPT, "text/event-stream");
    let response = request.send().await.unwrap();
    assert_eq!(
        (response.status(), &response.headers()["content-type"]),
        (StatusCode::OK, &"text/event-stream".parse().unwrap())
    );
    let text = response.text().await.unwrap();
    let told: Vec<Event> = crate::events::parse(&text);
    assert_eq!(told[0].name, "progress");
    let total = told[0].data["total_events"].as_u64().unwrap();
    let result = told.last().unwrap();
    assert_eq!((result.name.as_str(), &result.data["valid"]), ("result", &json!(true)), "{text}");
    assert_eq!(result.data["checked_events"], total);
}

/// Changes rows behind the server's back, as whoever owns the database can.
fn tamper(server: &TestServer, sql: &str) {
    let connection = rusqlite::Connection::open(server.data_dir().join("fetchml.db")).unwrap();
    connection.busy_timeout(fetchml_testkit::DEADLINE).unwrap();
    let unguarded = "DROP TRIGGER IF EXISTS audit_refuses_update; DROP TRIGGER IF EXISTS audit_refuses_delete;";
    connection.execute_batch(&format!("{unguarded}{sql}")).unwrap();
}

#[tokio::test]
async fn what_was_changed_is_found_and_told_by_health() {
    let cases = [
        ("UPDATE audit SET body = CAST(replace(CAST(body AS TEXT), 'ada', 'eve') AS BLOB) WHERE sequence = 4", 4),
        ("UPDATE audit SET user_id = 'eve' WHERE sequence = 5", 5),
        ("UPDATE audit SET event_hash = X'00' WHERE sequence = 3", 3),
        ("DELETE FROM audit WHERE sequence = 2", 2),
        ("DELETE FROM audit WHERE sequence > 5", 6),
        ("DELETE FROM audit", 1),
    ];
    for (sql, first) in cases {
        let server = TestServer::start().await;
        let (ada, admin) = (server.user("ada").await, server.admin());
        for _ in 0..5 {
            ada.submit(&small()).await;
        }
        let verify = async || admin.post("/v1/audit/verify", &json!({})).await.expect(200).json();
        assert_eq!(verify().await["valid"], true);
        assert_eq!(server.anonymous().get("/health").await.expect(200).json()["status"], "healthy");
        tamper(&server, sql);
        let result = verify().await;
        assert_eq!((&result["valid"], &result["first_tampered"]), (&json!(false), &json!(first)), "{sql}: {result}");
        let health = server.anonymous().get("/health").await.expect(200).json();
        assert_eq!(health["status"], "degraded", "{sql}");
        assert!(health["reason"].as_str().unwrap().contains(&format!("event {first} ")), "{health}");
        // What stands there can still be looked at.
        admin.get("/v1/audit/events?limit=1000").await.expect(200);
    }
}
