use crate::{NOBODY, running, sha256, small};
use fetchml_api::{ErrorCode, link::Outcome};
use fetchml_testkit::TestServer;
use serde_json::{Value, json};

fn file(path: &str, bytes: &str) -> Value {
    json!({"path": path, "size_bytes": bytes.len(), "sha256": sha256(bytes.as_bytes())})
}

#[tokio::test]
pub(crate) async fn are_stored_and_shown() {
    let server = TestServer::start().await;
    let (ada, uploader) = (server.user("ada").await, server.worker().await);
    let (mut worker, assignment) = running(&server, &ada).await;
    let task = assignment.spec.id;
    let show = format!("/v1/tasks/{task}/checkpoint");
    let put = format!("/v1/tasks/{task}/attempts/{}/checkpoint", assignment.attempt);
    for bytes in ["one", "two"] {
        uploader.put(&format!("/v1/blobs/{}", sha256(bytes.as_bytes())), bytes).await.expect(201);
    }
    let before = {
        let mut body = small();
        body["resume_from"] = json!(task);
        ada.post("/v1/tasks", &body).await.expect(422).json()
    };
    assert_eq!(before["details"][0]["field"], "resume_from");

    uploader.put_json(&put, &json!({"files": [file("model.pt", "one")]})).await.expect(200);
    let both = json!([file("deep/optimizer", "one"), file("model.pt", "two")]);
    uploader.put_json(&put, &json!({"files": [both[1], both[0]]})).await.expect(200);
    for reader in [&ada, &uploader] {
        let shown = reader.get(&show).await.expect(200).json();
        assert_eq!(shown["files"], both, "the latest, by path");
        assert_eq!(shown["attempt_id"], assignment.attempt.to_string());
    }
    let mut body = small();
    body["resume_from"] = json!(task);
    let resumed = ada.submit(&body).await;
    assert_eq!(resumed["resume_from"], json!(task));

    worker.end(&assignment, Outcome { exit_code: Some(0), ..Outcome::default() }).await;
    uploader.put_json(&put, &json!({"files": []})).await.error(409, ErrorCode::Conflict);
    assert_eq!(ada.get(&show).await.expect(200).json()["files"], both);
}

#[tokio::test]
pub(crate) async fn there_is_none() {
    let server = TestServer::start().await;
    let (ada, uploader) = (server.user("ada").await, server.worker().await);
    let (_worker, assignment) = running(&server, &ada).await;
    let task = assignment.spec.id;
    ada.get(&format!("/v1/tasks/{task}/checkpoint")).await.error(404, ErrorCode::NotFound);
    ada.get(&format!("/v1/tasks/{NOBODY}/checkpoint")).await.error(404, ErrorCode::NotFound);
    let other = ada.submit(&small()).await["id"].as_str().unwrap().to_owned();
    for path in [
        format!("/v1/tasks/{task}/attempts/{NOBODY}/checkpoint"),
        format!("/v1/tasks/{task}/attempts/x/checkpoint"),
        format!("/v1/tasks/{other}/attempts/{}/checkpoint", assignment.attempt),
    ] {
        uploader.put_json(&path, &json!({"files": []})).await.error(404, ErrorCode::NotFound);
    }
}

#[tokio::test]
pub(crate) async fn what_cannot_be_laid_out_is_refused() {
    let server = TestServer::start().await;
    let (ada, uploader) = (server.user("ada").await, server.worker().await);
    let (_worker, assignment) = running(&server, &ada).await;
    let task = assignment.spec.id;
    let put = format!("/v1/tasks/{task}/attempts/{}/checkpoint", assignment.attempt);
    uploader.put(&format!("/v1/blobs/{}", sha256(b"one")), "one").await.expect(201);
    let mut longer = file("a", "one");
    longer["size_bytes"] = json!(4);
    for files in [
        json!([file("../a", "one")]),
        json!([file("a", "one"), file("a/b", "one")]),
        json!([file("a", "never stored")]),
        json!([longer]),
        json!([{"path": "a"}]),
        json!(7),
    ] {
        uploader.put_json(&put, &json!({"files": files})).await.error(422, ErrorCode::ValidationError);
    }
    uploader.put(&put, "{").await.error(415, ErrorCode::BadRequest);
    ada.get(&format!("/v1/tasks/{task}/checkpoint")).await.error(404, ErrorCode::NotFound);
}
