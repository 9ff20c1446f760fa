//! `visibility = private`: what others' tasks run, write and leave is shown nowhere.

use crate::{events::Events, sha256};
use fetchml_api::{
    Artifact, ErrorCode,
    link::{Assignment, Outcome},
};
use fetchml_server::Visibility;
use fetchml_testkit::{CheckedClient, Database, TestServer, WsClient};
use serde_json::json;

/// Stands in everything that the task of Bob runs, writes and leaves.
const CANARY: &str = "canary";

async fn server(visibility: Visibility) -> TestServer {
    TestServer::start_with(Database::Sqlite, |options| options.visibility = visibility).await
}

/// A task of Bob's that has ended, and left all that a task can.
async fn left_by_bob(server: &TestServer, bob: &CheckedClient) -> Assignment {
    let hash = sha256(CANARY.as_bytes());
    bob.put(&format!("/v1/blobs/{hash}"), CANARY).await.expect(201);
    let entry = json!({"path": "canary.py", "mode": 0o644, "sha256": hash, "size_bytes": CANARY.len()});
    let snapshot = bob.post("/v1/snapshots", &json!({"entries": [entry]})).await.expect(201).json();
    let body = json!({
        "job_name": "shown", "entrypoint": "canary.py", "args": "--canary", "snapshot_id": snapshot["snapshot_id"],
        "env": {"SEED": CANARY}, "datasets": ["d"], "dataset_specs": [{"name": "d", "source": "https://data.example.org/canary"}], "metadata": {"team": "b"},
        "source": {"commit": "0123456789abcdef0123456789abcdef01234567", "branch": CANARY},
    });
    let submitted = bob.submit(&body).await;
    assert_eq!(submitted["args"], "--canary");
    let mut worker = fetchml_testkit::LinkWorker::connect(server).await;
    let assignment = worker.run_next().await;
    let file = json!({"path": "canary.ckpt", "size_bytes": CANARY.len(), "sha256": hash});
    let path = format!("/v1/tasks/{}/attempts/{}/checkpoint", assignment.spec.id, assignment.attempt);
    worker.client.put_json(&path, &json!({"files": [file]})).await.expect(200);
    worker.log(assignment.attempt, 0, b"canary\n").await;
    let artifacts = vec![Artifact { path: "canary.bin".into(), size_bytes: CANARY.len() as u64, sha256: hash }];
    worker.end(&assignment, Outcome { exit_code: Some(0), artifacts, ..Outcome::default() }).await;
    assignment
}

/// Everything that is told of the task to somebody who asks for all of it.
async fn told(server: &TestServer, client: &CheckedClient, assignment: &Assignment) -> Vec<(String, u16, String)> {
    let task = format!("/v1/tasks/{}", assignment.spec.id);
    let mut told = Vec::new();
    for path in [
        "/v1/tasks".to_owned(),
        "/v1/tasks?metadata.team=b".to_owned(),
        task.clone(),
        format!("{task}/explain"),
        format!("{task}/logs"),
        format!("{task}/artifacts"),
        format!("{task}/artifacts/canary.bin"),
        format!("{task}/checkpoint"),
        format!("{task}/metrics"),
        format!("{task}/manifest"),
        "/v1/queue".to_owned(),
        "/v1/experiments".to_owned(),
        "/v1/datasets".to_owned(),
        "/v1/scheduler/workers".to_owned(),
        "/v1/scheduler/status".to_owned(),
    ] {
        let answer = client.get(&path).await;
        told.push((path, answer.status, String::from_utf8_lossy(&answer.body).into_owned()));
    }
    for (path, after) in [
        (format!("/v1/scheduler/jobs/{}/stream", assignment.spec.id), None),
        (format!("/v1/scheduler/jobs/{}/stream", assignment.spec.id), Some("0")),
        ("/v1/scheduler/status/stream".to_owned(), Some("0")),
    ] {
        let mut events = Events::open(client, &path, after).await;
        loop {
            let event = events.next().await.expect("it tells of the end");
            let over = event.data["status"] == "completed";
            told.push((path.clone(), 200, event.data.to_string()));
            if over {
                break;
            }
        }
    }
    let key = client.key.as_deref().unwrap();
    let mut socket = WsClient::open(server, "", &[("x-api-key", key)]).await.expect("it opens");
    // As it is now, then all that has happened to it.
    for since in [None, Some(0)] {
        let mut subscribe = json!({"type": "subscribe", "task_ids": [assignment.spec.id]});
        if let Some(since) = since {
            subscribe["since"] = json!(since);
        }
        socket.say(&subscribe).await;
        told.push(("/ws".to_owned(), 200, socket.hear_of("task_complete").await.to_string()));
    }
    told
}

/// Where the canary is heard.
fn heard(told: &[(String, u16, String)]) -> Vec<&str> {
    told.iter().filter(|(.., body)| body.contains(CANARY)).map(|(path, ..)| path.as_str()).collect()
}

#[tokio::test]
async fn what_others_tasks_leave_is_shown_to_nobody_but_operators() {
    let server = server(Visibility::Private).await;
    let bob = server.user("bob").await;
    let assignment = left_by_bob(&server, &bob).await;
    let all = heard(&told(&server, &bob, &assignment).await).len();
    assert!(all >= 12, "its owner sees it: {all}");
    for role in ["viewer", "user"] {
        let ada = server.with_role(role, "ada").await;
        let told = told(&server, &ada, &assignment).await;
        assert_eq!(heard(&told), [""; 0], "{role}");
        let refused = told.iter().filter(|(_, status, _)| *status == 403).count();
        assert_eq!(refused, 6, "{role}: log, artifacts, one of them, checkpoint, metrics, manifest: {told:?}");
        assert!(told.iter().all(|(_, status, _)| matches!(status, 200 | 403)), "{told:?}");
        // That it is there and how it stands is no secret.
        let shown = ada.get(&format!("/v1/tasks/{}", assignment.spec.id)).await.expect(200).json();
        assert_eq!(
            (&shown["job_name"], &shown["status"], &shown["user_id"]),
            (&json!("shown"), &json!("completed"), &json!("bob"))
        );
        let own = server.with_role(role, "bob").await;
        assert!(heard(&self::told(&server, &own, &assignment).await).len() >= all - 4, "{role} of bob");
    }
    for role in ["operator", "admin"] {
        let client = server.with_role(role, "root").await;
        let told = told(&server, &client, &assignment).await;
        assert!(heard(&told).len() >= all - 1, "{role}: {:?}", heard(&told));
        assert!(told.iter().all(|(_, status, _)| *status == 200), "{told:?}");
    }
}

#[tokio::test]
async fn a_checkpoint_that_may_not_be_read_may_not_be_begun_with() {
    let private = server(Visibility::Private).await;
    let bob = private.user("bob").await;
    let assignment = left_by_bob(&private, &bob).await;
    let body = json!({"job_name": "a", "args": "true", "resume_from": assignment.spec.id});
    let refused = private.user("ada").await.post("/v1/tasks", &body).await;
    let error = refused.error(422, ErrorCode::ValidationError);
    assert!(error.details[0].problem.contains("private"), "{error:?}");
    for allowed in [bob, private.with_role("operator", "root").await] {
        allowed.post("/v1/tasks", &body).await.expect(201);
    }
}

#[tokio::test]
async fn in_a_lab_everybody_sees_all_but_values_of_environments() {
    let lab = server(Visibility::Lab).await;
    let bob = lab.user("bob").await;
    let assignment = left_by_bob(&lab, &bob).await;
    let ada = lab.with_role("viewer", "ada").await;
    let told = told(&lab, &ada, &assignment).await;
    assert!(told.iter().all(|(_, status, _)| *status == 200), "{told:?}");
    assert!(heard(&told).len() >= 12, "{:?}", heard(&told));
    assert!(!told.iter().any(|(.., body)| body.contains(r#""SEED":"canary""#)));
}
