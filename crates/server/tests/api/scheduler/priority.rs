use crate::{NOBODY, completed, running, small};
use fetchml_api::ErrorCode;
use fetchml_testkit::{Database, LinkWorker, TestServer};
use serde_json::{Value, json};

fn path(id: &Value) -> String {
    format!("/v1/scheduler/jobs/{}/priority", id.as_str().unwrap())
}

#[tokio::test]
pub(crate) async fn changes_while_it_has_not_ended() {
    for database in Database::ALL {
        let server = TestServer::start_with(database, |_| {}).await;
        let ada = server.user("ada").await;
        let first = ada.submit(&small()).await;
        let second = ada.submit(&small()).await;
        let path = path(&second["id"]);
        let changed = ada.patch(&path, &json!({"priority": 7})).await.expect(200).json();
        assert_eq!((&changed["priority"], &changed["id"]), (&json!(7), &second["id"]));
        assert!(changed["priority_aged"].as_f64().unwrap() >= 7.0);
        assert_eq!(ada.patch(&path, &json!({"priority": 7})).await.expect(200).json()["priority"], 7, "again");
        // It goes first, though it came last.
        let mut worker = LinkWorker::connect(&server).await;
        let assignment = worker.run_next().await;
        assert_eq!(json!(assignment.spec.id), second["id"]);
        assert_eq!(ada.patch(&path, &json!({"priority": 2})).await.expect(200).json()["status"], "running");
        let server = server.restart().await;
        let ada = server.anonymous().with_key(ada.key);
        let shown = ada.get(&format!("/v1/tasks/{}", assignment.spec.id)).await.expect(200).json();
        assert_eq!(shown["priority"], 2, "it is durable");
        assert_eq!(first["priority"], 5);
    }
}

#[tokio::test]
pub(crate) async fn belongs_to_the_owner() {
    let server = TestServer::start().await;
    let (ada, bob) = (server.user("ada").await, server.user("bob").await);
    let task = ada.submit(&small()).await;
    bob.patch(&path(&task["id"]), &json!({"priority": 1})).await.error(403, ErrorCode::Forbidden);
    server.admin().patch(&path(&task["id"]), &json!({"priority": 9})).await.expect(200);
    ada.patch(&path(&json!(NOBODY)), &json!({"priority": 1})).await.error(404, ErrorCode::NotFound);
    // What is above the owner's highest stays allowed to whom may set it.
    let refused = ada.patch(&path(&task["id"]), &json!({"priority": 8})).await.error(403, ErrorCode::Forbidden);
    assert!(refused.error.contains("up to 7"), "{}", refused.error);
    ada.patch(&path(&task["id"]), &json!({"priority": 7})).await.expect(200);
}

#[tokio::test]
pub(crate) async fn that_cannot_be() {
    let server = TestServer::start().await;
    let ada = server.user("ada").await;
    let (_worker, assignment) = running(&server, &ada).await;
    let path = path(&json!(assignment.spec.id));
    for body in [
        json!({"priority": 0}),
        json!({"priority": 11}),
        json!({"priority": -1}),
        json!({"priority": 5.5}),
        json!({"priority": "7"}),
        json!({"priority": null}),
        json!({}),
    ] {
        assert_eq!(ada.patch(&path, &body).await.problem_fields(), ["priority"], "{body}");
    }
    assert_eq!(ada.patch(&path, &json!({"priority": 5, "urgent": true})).await.problem_fields(), ["urgent"]);
    assert_eq!(ada.patch(&path, &json!([7])).await.problem_fields(), [""]);
    let server = TestServer::start().await;
    let ada = server.user("ada").await;
    let (_worker, assignment) = completed(&server, &ada).await;
    let path = format!("/v1/scheduler/jobs/{}/priority", assignment.spec.id);
    ada.patch(&path, &json!({"priority": 5})).await.error(409, ErrorCode::Conflict);
}
