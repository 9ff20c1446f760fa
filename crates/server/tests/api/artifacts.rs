use crate::{NOBODY, running, sha256};
use fetchml_api::{Artifact, ErrorCode, link::Outcome};
use fetchml_testkit::TestServer;
use serde_json::json;

#[tokio::test]
pub(crate) async fn are_listed_and_read() {
    let server = TestServer::start().await;
    let (ada, uploader) = (server.user("ada").await, server.worker().await);
    let (mut worker, assignment) = running(&server, &ada).await;
    let task = assignment.spec.id;
    let list = format!("/v1/tasks/{task}/artifacts");
    assert_eq!(ada.get(&list).await.expect(200).json()["artifacts"], json!([]));
    let files = [("dir/a b.txt", "hello"), ("model.bin", "weights")];
    let mut artifacts = Vec::new();
    for (path, bytes) in files {
        let sha256 = sha256(bytes.as_bytes());
        uploader.put(&format!("/v1/blobs/{sha256}"), bytes).await.expect(201);
        artifacts.push(Artifact { path: path.into(), size_bytes: bytes.len() as u64, sha256 });
    }
    worker.end(&assignment, Outcome { exit_code: Some(0), artifacts, ..Outcome::default() }).await;
    let listed = ada.get(&list).await.expect(200).json();
    assert_eq!(listed["attempt_id"], assignment.attempt.to_string());
    assert_eq!(listed["artifacts"][0]["path"], "dir/a b.txt");
    assert_eq!(ada.get(&format!("{list}?attempt={}", assignment.attempt)).await.expect(200).json(), listed);

    let read = ada.get(&format!("{list}/dir/a%20b.txt")).await.expect(200);
    assert_eq!(read.body, "hello");
    assert_eq!(read.header("etag"), format!("\"{}\"", sha256(b"hello")));
    assert_eq!(read.header("content-disposition"), "attachment; filename*=UTF-8''a%20b%2Etxt");
    assert_eq!(read.header("x-content-type-options"), "nosniff");
    let part = ada.request(reqwest::Method::GET, &format!("{list}/model.bin")).header("range", "bytes=-3");
    assert_eq!(ada.send(part).await.expect(206).body, "hts");
}

#[tokio::test]
pub(crate) async fn unknown_ones_are_404() {
    let server = TestServer::start().await;
    let ada = server.user("ada").await;
    let task = ada.submit(&crate::small()).await;
    let list = format!("/v1/tasks/{}/artifacts", task["id"].as_str().unwrap());
    for path in ["/x", "/../x", "/%2e%2e%2fx", "/%00"] {
        ada.get(&format!("{list}{path}")).await.error(404, ErrorCode::NotFound);
    }
    ada.get(&format!("{list}?attempt={NOBODY}")).await.error(404, ErrorCode::NotFound);
}
