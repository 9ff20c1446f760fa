//! Whatever changes something, and every read of a file, leaves its event in the audit log: with who, by which key,
//! from where. A new operation does not compile until it is said here what it leaves; what is said here stands in
//! `docs/audit-events.md`.

use crate::{
    matrix::{Owner, ask},
    secrets, small,
};
use fetchml_server::{Operation, TrustedProxies};
use fetchml_testkit::{CheckedClient, Database, TestServer, eventually};
use serde_json::{Value, json};

/// What an operation leaves: the event's type, its action, and what its resource begins with.
struct Event(&'static str, &'static str, &'static str);

fn left_by(operation: Operation) -> Option<Event> {
    use Operation as O;
    let event = |kind, action, resource| Some(Event(kind, action, resource));
    match operation {
        // They show what is, and no file of a task but for the end of its log.
        O::Health
        | O::Document
        | O::DocsPage
        | O::DocsFile
        | O::ServerMetrics
        | O::TaskList
        | O::TaskShow
        | O::ArrayShow
        | O::ArtifactList
        | O::CheckpointShow
        | O::MetricsShow
        | O::RunManifestShow
        | O::DatasetList
        | O::DatasetShow
        | O::ExperimentList
        | O::ExperimentShow
        | O::QueueShow
        | O::WorkerList
        | O::WorkerShow
        | O::StatusShow
        | O::StatusStream
        | O::JobStream
        | O::WebSocket
        | O::ReservationList
        | O::Whoami
        | O::KeyList
        | O::SecretList
        | O::GcShow
        | O::TaskExplain
        | O::UsageShow
        | O::QuotaList
        | O::WebhookList
        | O::AuditList
        | O::AuditRoot => None,
        O::TaskCreate => event("job_queued", "submit", "tasks/"),
        O::TaskDelete | O::ArrayDelete => event("job_completed", "cancel", "tasks/"),
        O::TaskRerun => event("job_queued", "rerun", "tasks/"),
        O::LogRead => event("file_access", "log_read", "tasks/"),
        O::ArtifactRead => event("file_access", "artifact_read", "tasks/"),
        O::CheckpointPut => event("file_access", "checkpoint_store", "tasks/"),
        O::DatasetCreate => event("file_access", "dataset_add", "datasets/"),
        O::DatasetDelete => event("file_access", "dataset_delete", "datasets/"),
        O::ExperimentCreate => event("file_access", "experiment_create", "experiments/"),
        O::ExperimentEdit => event("file_access", "experiment_edit", "experiments/"),
        O::WebhookCreate => event("file_access", "webhook_create", "webhooks/"),
        O::WebhookDelete => event("file_access", "webhook_delete", "webhooks/"),
        O::WsTicketCreate => event("auth_attempt", "ws_ticket_create", "keys/"),
        O::ReservationCreate => event("job_queued", "reserve", "reservations/"),
        O::ReservationRelease => event("job_queued", "release", "reservations/"),
        O::KeyCreate => event("auth_attempt", "key_create", "keys/"),
        O::KeyRevoke => event("auth_attempt", "key_revoke", "keys/"),
        O::SnapshotCreate => event("file_access", "snapshot_store", "snapshots/"),
        O::SnapshotRead => event("file_access", "snapshot_read", "snapshots/"),
        O::BlobPut => event("file_access", "blob_store", "blobs/"),
        O::BlobRead => event("file_access", "blob_read", "blobs/"),
        O::SecretPut => event("file_access", "secret_set", "secrets/ada/"),
        O::SecretDelete => event("file_access", "secret_delete", "secrets/ada/"),
        O::AttemptSecrets => event("file_access", "secrets_read", "tasks/"),
        O::WorkerConnect => event("auth_attempt", "worker_join", "workers/"),
        O::GcRun => event("file_access", "gc_dry_run", "gc"),
        O::JobPriority => event("job_queued", "priority", "tasks/"),
        O::WorkerDrain => event("scheduler_drain", "drain", "workers/"),
        O::WorkerUndrain => event("scheduler_drain", "undrain", "workers/"),
        O::QuotaPut | O::QuotaDelete => event("auth_attempt", "quota", "quotas/users/"),
        O::AuditVerify => event("audit_verified", "verify", "audit"),
        O::AuditVerifyStop => event("audit_verified", "verify_stop", "audit"),
    }
}

async fn events_after(admin: &CheckedClient, number: u64, query: &str) -> Vec<Value> {
    let path = format!("/v1/audit/events?limit=1000&after={number}&{query}");
    admin.get(&path).await.expect(200).json()["events"].as_array().unwrap().clone()
}

/// Number of the newest event.
async fn head(admin: &CheckedClient) -> u64 {
    admin.get("/v1/audit/chain-root").await.expect(200).json()["total_events"].as_u64().unwrap()
}

#[test]
fn what_changes_something_leaves_an_event() {
    for operation in Operation::ALL {
        let (method, _) = operation.route();
        assert!(method == "get" || left_by(operation).is_some(), "{operation:?} leaves nothing");
    }
}

#[test]
fn the_document_lists_what_is_left() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/audit-events.md");
    let document = std::fs::read_to_string(path).unwrap();
    for operation in Operation::ALL {
        let Some(Event(kind, action, _)) = left_by(operation) else { continue };
        let (method, route) = operation.route();
        let begins = format!("| `{} {route}` | `{kind}` |", method.to_uppercase());
        let line = document.lines().find(|line| line.starts_with(&begins));
        let named = format!("`{action}`");
        assert!(line.is_some_and(|line| line.contains(&named)), "docs/audit-events.md has no line {begins} {named}");
    }
}

#[tokio::test]
async fn every_operation_leaves_what_it_should() {
    let server = TestServer::start().await;
    let admin = server.admin();
    let owner = Box::pin(Owner::new(&server, "ada")).await;
    let caller = server.with_role("admin", "ada").await;
    for operation in Operation::ALL {
        let Some(Event(kind, action, resource)) = left_by(operation) else { continue };
        let before = head(&admin).await;
        match operation {
            // Of these the matrix asks what cannot be. The owner's worker has joined, and stored a checkpoint.
            Operation::CheckpointPut | Operation::WorkerConnect => {
                let there = events_after(&admin, 0, &format!("event_type={kind}")).await;
                let event = there.iter().find(|event| event["action"] == action).unwrap_or_else(|| panic!("{action}"));
                assert!(event["metadata"]["key_id"].is_string(), "{event:#}");
                continue;
            }
            // What asks for it is held elsewhere: see below, and `audit::one_that_runs_can_be_stopped`.
            Operation::AttemptSecrets | Operation::AuditVerifyStop => continue,
            _ => {}
        }
        let asked = Box::pin(owner.asked(operation)).await;
        // What it took to have something to ask for is not what is looked for.
        let between = head(&admin).await;
        let (status, body) = ask(&caller, operation, &asked).await;
        assert!((200..300).contains(&status), "{operation:?}: {status} {body}");
        let left = events_after(&admin, between, &format!("event_type={kind}&user_id=ada")).await;
        let event = left.iter().find(|event| event["action"] == action);
        let event = event.unwrap_or_else(|| panic!("{operation:?} left no {action} after {before}: {left:#?}"));
        assert!(event["resource"].as_str().unwrap().starts_with(resource), "{event:#}");
        assert_eq!((&event["success"], &event["ip_address"]), (&json!(true), &json!("127.0.0.1")), "{event:#}");
        assert_eq!(event["metadata"]["verified"], "true", "{event:#}");
        let keys = admin.get("/v1/keys").await.expect(200).json();
        let mut keys = keys["keys"].as_array().unwrap().iter();
        let key = keys.find(|key| key["id"] == event["metadata"]["key_id"]).expect("the key is named");
        assert_eq!((&key["user_id"], &key["role"]), (&json!("ada"), &json!("admin")), "{event:#}");
    }
}

#[tokio::test]
async fn values_given_to_a_worker_and_what_a_submit_hides_are_recorded_without_them() {
    let server = TestServer::start().await;
    let (ada, admin) = (server.user("ada").await, server.admin());
    secrets::given_once(&server, &ada).await;
    let mut body = small();
    (body["args"], body["env"]) = (json!("--token canary"), json!({"TOKEN": "canary"}));
    let first = ada.submit(&body).await;
    let second = ada.submit(&body).await;
    body["args"] = json!("--token canary2");
    let third = ada.submit(&body).await;
    let all = events_after(&admin, 0, "").await;
    assert!(all.iter().any(|event| event["action"] == "secrets_read" && event["metadata"]["names"] == "TOKEN"));
    assert!(!all.iter().any(|event| event["body"].as_str().unwrap().contains("canary")), "{all:#?}");
    let hashes = |task: &Value| {
        let resource = format!("tasks/{}", task["id"].as_str().unwrap());
        let mut about = all.iter().filter(|event| event["resource"] == *resource);
        let metadata = &about.find(|event| event["action"] == "submit").unwrap()["metadata"];
        (metadata["arguments_hmac"].as_str().unwrap().to_owned(), metadata["env_hmac"].as_str().unwrap().to_owned())
    };
    assert_eq!(hashes(&first), hashes(&second), "the same values");
    assert_ne!(hashes(&first).0, hashes(&third).0, "other arguments");
    assert_eq!(hashes(&first).1, hashes(&third).1);
}

#[tokio::test]
async fn what_is_refused_is_recorded_within_bounds() {
    let server = TestServer::start().await;
    let (viewer, ada, bob) =
        (server.with_role("viewer", "vic").await, server.user("ada").await, server.user("bob").await);
    let admin = server.admin();
    let task = ada.submit(&small()).await;
    viewer.post("/v1/tasks?secret=canary", &small()).await.expect(403);
    let path = format!("/v1/tasks/{}", task["id"].as_str().unwrap());
    for _ in 0..20 {
        bob.delete(&path).await.expect(403);
    }
    let denied = eventually("refusals are written behind the answers", || async {
        let all = events_after(&admin, 0, "event_type=auth_attempt").await;
        let denied: Vec<Value> = all.into_iter().filter(|event| event["action"] == "denied").collect();
        (denied.len() >= 10).then_some(denied)
    })
    .await;
    assert_eq!(denied.len(), 10, "the rest is counted");
    let facts =
        |event: &Value| (event["user_id"].clone(), event["resource"].clone(), event["metadata"]["operation"].clone());
    assert_eq!(facts(&denied[0]), (json!("vic"), json!("tasks"), json!("POST /v1/tasks")));
    assert_eq!(facts(&denied[1]), (json!("bob"), json!(path[4..]), json!("DELETE /v1/tasks/{taskId}")));
    assert!(denied.iter().all(|event| event["success"] == false && !event.to_string().contains("canary")));
}

#[tokio::test]
async fn who_is_asked_for_is_what_trusted_proxies_say() {
    let forwarded = async |server: &TestServer| {
        let ada = server.user("ada").await;
        let request = ada.request(reqwest::Method::POST, "/v1/tasks").json(&small());
        ada.send(request.header("x-forwarded-for", "198.51.100.9, 192.0.2.1")).await.expect(201);
        let submitted = events_after(&server.admin(), 0, "event_type=job_queued").await;
        submitted[0]["ip_address"].as_str().unwrap().to_owned()
    };
    assert_eq!(forwarded(&TestServer::start().await).await, "127.0.0.1", "nobody is believed");
    let loopback = TrustedProxies::new(vec!["127.0.0.0/8".parse().unwrap()]);
    let server = TestServer::start_with(Database::Sqlite, |options| options.trusted_proxies = loopback).await;
    assert_eq!(forwarded(&server).await, "192.0.2.1", "what the client wrote itself is not");
}
