use crate::{running, sha256, small};
use fetchml_api::{Artifact, ErrorCode, link::Outcome};
use fetchml_server::{Options, Retention};
use fetchml_testkit::{Answer, CheckedClient, Database, LinkWorker, TestServer, eventually};
use serde_json::{Value, json};
use std::time::Duration;

/// What has ended is old at once; the disk is never too full.
fn at_once(options: &mut Options) {
    let day = Duration::from_hours(24);
    options.retention = Retention {
        files: Some(Duration::ZERO),
        tasks: Some(day),
        deleted: Duration::ZERO,
        grace: Duration::ZERO,
        disk_high_percent: 100,
        every: None,
        ..Retention::default()
    };
}

/// A task that left a log, an artifact and a checkpoint.
async fn left_files(server: &TestServer, owner: &CheckedClient) -> (LinkWorker, String) {
    let uploader = server.worker().await;
    let (mut worker, assignment) = running(server, owner).await;
    let task = assignment.spec.id;
    worker.log(assignment.attempt, 0, b"a log\n").await;
    for bytes in ["weights", "step 3"] {
        uploader.put(&format!("/v1/blobs/{}", sha256(bytes.as_bytes())), bytes).await;
    }
    let checkpoint = json!({"files": [{"path": "step", "size_bytes": 6, "sha256": sha256(b"step 3")}]});
    uploader.put_json(&format!("/v1/tasks/{task}/attempts/{}/checkpoint", assignment.attempt), &checkpoint).await;
    let artifact = Artifact { path: "model.bin".into(), size_bytes: 7, sha256: sha256(b"weights") };
    worker.end(&assignment, Outcome { exit_code: Some(0), artifacts: vec![artifact], ..Outcome::default() }).await;
    (worker, task.to_string())
}

async fn collect(client: &CheckedClient, dry_run: bool) -> Answer {
    client.post(&format!("/v1/admin/gc?dry_run={dry_run}"), &json!({})).await
}

fn count(report: &Value, kind: &str) -> u64 {
    let removed = report["removed"].as_array().unwrap().iter();
    removed.filter(|count| count["kind"] == kind).map(|count| count["count"].as_u64().unwrap()).sum()
}

#[tokio::test]
pub(crate) async fn deletes_what_expired_and_says_so() {
    for database in Database::ALL {
        let server = TestServer::start_with(database, at_once).await;
        let (ada, admin) = (server.user("ada").await, server.admin());
        let (_worker, task) = Box::pin(left_files(&server, &ada)).await;
        let path = format!("/v1/tasks/{task}");
        assert_eq!(admin.get("/v1/admin/gc").await.expect(200).json()["last"], Value::Null);

        // The log of what has just ended is in two places while it is moved.
        let would = eventually("nothing is moved any more", || async {
            let would = collect(&admin, true).await.expect(200).json();
            (would["users"][0]["bytes"] == 6 + 7 + 6).then_some(would)
        })
        .await;
        assert_eq!((would["dry_run"].as_bool(), would["state"].as_str()), (Some(true), Some("finished")));
        assert_eq!(would["oldest_task"], task);
        assert_eq!(would["users"], json!([{"user_id": "ada", "tasks": 1, "bytes": 6 + 7 + 6}]));
        assert_eq!(would["rules"]["task_retention_days"], 1);
        ada.get(&format!("{path}/logs")).await.expect(200);

        let did = collect(&admin, false).await.expect(200).json();
        for kind in ["logs", "artifacts", "checkpoints"] {
            assert_eq!((count(&would, kind), count(&did, kind)), (1, 1), "{kind}");
        }
        assert_eq!((count(&did, "blobs"), count(&did, "tasks")), (2, 0));
        assert_eq!(did["freed_bytes"], 6 + 7 + 6);
        assert_eq!(admin.get("/v1/admin/gc").await.expect(200).json()["last"], did);

        for gone in ["logs", "logs?follow=true", "artifacts", "artifacts/model.bin", "checkpoint"] {
            let error = ada.get(&format!("{path}/{gone}")).await.error(404, ErrorCode::NotFound);
            assert!(error.error.contains(" deleted on 2"), "{gone}: {}", error.error);
        }
        let shown = ada.get(&path).await.expect(200).json();
        assert_eq!((&shown["files_deleted"]["reason"], &shown["output"]), (&json!("age"), &Value::Null));
        assert_eq!(shown["status"], "completed");
        let mut resuming = small();
        resuming["resume_from"] = json!(task);
        let refused = ada.post("/v1/tasks", &resuming).await.expect(422).json();
        assert!(refused["error"].as_str().unwrap().contains("its checkpoints were deleted on 2"), "{refused}");
        assert_eq!(ada.get("/v1/tasks").await.expect(200).json()["total"], 1);

        let server = server.restart().await;
        assert!(server.admin().get(&path).await.expect(200).json()["files_deleted"]["at"].is_string());
    }
}

#[tokio::test]
async fn tasks_go_too_when_their_time_has_come() {
    let server = TestServer::start_with(Database::Sqlite, |options| {
        at_once(options);
        options.retention.tasks = Some(Duration::ZERO);
    })
    .await;
    let (ada, admin) = (server.user("ada").await, server.admin());
    let (_worker, task) = Box::pin(left_files(&server, &ada)).await;
    let waiting = ada.submit(&json!({"job_name": "waits", "entrypoint": "x", "gpu": 8})).await;
    assert_eq!(count(&collect(&admin, false).await.expect(200).json(), "tasks"), 1);
    ada.get(&format!("/v1/tasks/{task}")).await.error(404, ErrorCode::NotFound);
    let listed = ada.get("/v1/tasks").await.expect(200).json();
    assert_eq!((&listed["total"], &listed["tasks"][0]["id"]), (&json!(1), &waiting["id"]));
    let server = server.restart().await;
    let next = server.admin().submit(&small()).await;
    assert!(next["id"].as_str() > waiting["id"].as_str(), "ids go on");
}

#[tokio::test]
async fn a_deleted_task_that_another_starts_from_is_still_there_for_its_worker() {
    let server = TestServer::start_with(Database::Sqlite, at_once).await;
    let (ada, admin, uploader) = (server.user("ada").await, server.admin(), server.worker().await);
    let (mut worker, task) = Box::pin(left_files(&server, &ada)).await;
    let mut resuming = small();
    resuming["resume_from"] = json!(task);
    ada.submit(&resuming).await;
    let path = format!("/v1/tasks/{task}");
    ada.delete(&path).await.expect(204);
    collect(&admin, false).await.expect(200);
    ada.get(&format!("{path}/checkpoint")).await.error(404, ErrorCode::NotFound);
    let files = uploader.get(&format!("{path}/checkpoint")).await.expect(200).json();
    assert_eq!(files["files"][0]["path"], "step");
    uploader.get(&format!("/v1/blobs/{}", sha256(b"step 3"))).await.expect(200);

    let assignment = worker.run_next().await;
    worker.end(&assignment, Outcome { exit_code: Some(0), ..Outcome::default() }).await;
    collect(&admin, false).await.expect(200);
    uploader.get(&format!("{path}/checkpoint")).await.error(404, ErrorCode::NotFound);
    uploader.get(&format!("/v1/blobs/{}", sha256(b"step 3"))).await.error(404, ErrorCode::NotFound);
}

#[tokio::test]
async fn a_disk_that_stays_full_is_told_by_health() {
    let server = TestServer::start_with(Database::Sqlite, |options| {
        at_once(options);
        // Every disk is fuller than that.
        (options.retention.disk_high_percent, options.retention.disk_low_percent) = (0, 0);
    })
    .await;
    let (admin, anonymous) = (server.admin(), server.anonymous());
    assert_eq!(anonymous.get("/health").await.expect(200).json()["status"], "healthy");
    let report = collect(&admin, false).await.expect(200).json();
    let health = anonymous.get("/health").await.expect(200).json();
    assert_eq!((&health["status"], &health["reason"]), (&json!("degraded"), &report["problems"][0]));
    assert!(health["reason"].as_str().unwrap().contains("The server's disk is"), "{health}");
}

#[tokio::test]
async fn a_snapshot_that_is_asked_for_again_is_kept_or_stored_anew() {
    let server = TestServer::start_with(Database::Sqlite, at_once).await;
    let (ada, admin) = (server.user("ada").await, server.admin());
    let file = json!({"path": "a.py", "mode": 0o644, "sha256": sha256(b"code"), "size_bytes": 4});
    let manifest = json!({"entries": [file]});
    let store = async || {
        let first = ada.post("/v1/snapshots", &manifest).await.expect(200).json();
        assert_eq!(first["missing"], json!([sha256(b"code")]));
        ada.put(&format!("/v1/blobs/{}", sha256(b"code")), "code").await.expect(201);
        ada.post("/v1/snapshots", &manifest).await.expect(201).json()["snapshot_id"].clone()
    };
    let id = store().await;
    collect(&admin, false).await.expect(200);
    let body = json!({"job_name": "a", "entrypoint": "a.py", "snapshot_id": id, "gpu": 8});
    assert_eq!(ada.post("/v1/tasks", &body).await.problem_fields(), ["snapshot_id"]);
    // Collected altogether: everything is asked for again, and then a task names it.
    assert_eq!(store().await, id);
    let task = ada.submit(&body).await;
    collect(&admin, false).await.expect(200);
    ada.get(&format!("/v1/snapshots/{}", id.as_str().unwrap())).await.expect(200);
    ada.get(&format!("/v1/blobs/{}", sha256(b"code"))).await.expect(200);
    ada.delete(&format!("/v1/tasks/{}", task["id"].as_str().unwrap())).await.expect(204);
}
