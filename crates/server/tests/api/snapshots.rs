use crate::sha256;
use fetchml_api::ErrorCode;
use fetchml_testkit::{CheckedClient, Database, TestServer};
use serde_json::{Value, json};

fn file(path: &str, bytes: &[u8]) -> Value {
    json!({"path": path, "mode": 0o644, "sha256": sha256(bytes), "size_bytes": bytes.len()})
}

/// Stores a snapshot of one file; its id.
pub(crate) async fn stored(client: &CheckedClient, path: &str, bytes: &'static str) -> String {
    client.put(&format!("/v1/blobs/{}", sha256(bytes.as_bytes())), bytes).await.expect(201);
    let manifest = json!({"entries": [file(path, bytes.as_bytes())]});
    let stored = client.post("/v1/snapshots", &manifest).await.expect(201).json();
    stored["snapshot_id"].as_str().unwrap().to_owned()
}

#[tokio::test]
pub(crate) async fn are_negotiated_and_stored() {
    for database in Database::ALL {
        let server = TestServer::start_with(database, |_| {}).await;
        let ada = server.user("ada").await;
        let manifest = json!({"entries": [file("b.py", b"two"), file("a.py", b"one"), file("copy", b"one")]});
        let first = ada.post("/v1/snapshots", &manifest).await.expect(200).json();
        assert_eq!(first["missing"].as_array().unwrap().len(), 2);
        assert_eq!(first["file_count"], 3);
        let task = json!({"job_name": "a", "entrypoint": "a.py", "snapshot_id": first["snapshot_id"]});
        assert_eq!(ada.post("/v1/tasks", &task).await.problem_fields(), ["snapshot_id"]);
        for bytes in ["one", "two"] {
            ada.put(&format!("/v1/blobs/{}", sha256(bytes.as_bytes())), bytes).await.expect(201);
        }
        let stored = ada.post("/v1/snapshots", &manifest).await.expect(201).json();
        assert_eq!(stored["missing"], json!([]));
        assert_eq!(stored["snapshot_id"], first["snapshot_id"]);
        let again = ada.post("/v1/snapshots", &manifest).await.expect(201).json();
        assert_eq!(again, stored);
        ada.submit(&task).await;

        let server = server.restart().await;
        let id = stored["snapshot_id"].as_str().unwrap();
        let canonical = server.worker().await.get(&format!("/v1/snapshots/{id}")).await.expect(200);
        assert_eq!(format!("sha256:{}", sha256(&canonical.body)), id);
        let paths: Vec<Value> =
            canonical.json()["entries"].as_array().unwrap().iter().map(|e| e["path"].clone()).collect();
        assert_eq!(paths, ["a.py", "b.py", "copy"]);
    }
}

#[tokio::test]
pub(crate) async fn bad_manifests() {
    let server = TestServer::start().await;
    let ada = server.user("ada").await;
    let post = async |entry: Value| ada.post("/v1/snapshots", &json!({"entries": [entry]})).await;
    for path in ["../x", "/etc/passwd", "a/../../b", "", "a//b", "a\0b", "./a", "a\\b"] {
        assert_eq!(post(file(path, b"x")).await.problem_fields(), ["entries[0]"], "{path:?}");
    }
    for (field, value) in
        [("mode", json!(0o4755)), ("sha256", json!("x")), ("sha256", json!(null)), ("size_bytes", json!(1_u64 << 60))]
    {
        let mut entry = file("a", b"x");
        entry[field] = value;
        assert_eq!(post(entry).await.problem_fields(), ["entries[0]"], "{field}");
    }
    for (field, value) in
        [("mode", json!("x")), ("path", json!(1)), ("size_bytes", json!(-1)), ("size_bytes", json!(1.5))]
    {
        let mut entry = file("a", b"x");
        entry[field] = value;
        post(entry).await.error(422, ErrorCode::ValidationError);
    }
    let link = |path: &str, target: &str| json!({"path": path, "mode": 0o777, "size_bytes": 0, "link": target});
    for entry in [link("l", "../out"), link("l", "/etc")] {
        assert_eq!(post(entry).await.problem_fields(), ["entries[0]"]);
    }
    ada.post_raw("/v1/snapshots", "{\"entries\": [").await.error(400, ErrorCode::BadRequest);
    ada.post_raw("/v1/snapshots", "{}").await.error(422, ErrorCode::ValidationError);
    let half = r#"{"entries": [{"path": "\ud800", "mode": 420, "size_bytes": 0}]}"#;
    ada.post_raw("/v1/snapshots", half).await.error(422, ErrorCode::ValidationError);
    let text = ada.request(reqwest::Method::POST, "/v1/snapshots").body("{}");
    ada.send(text).await.error(415, ErrorCode::BadRequest);
    // A size that the stored blob does not have.
    ada.put(&format!("/v1/blobs/{}", sha256(b"x")), "x").await.expect(201);
    let mut lying = file("a", b"x");
    lying["size_bytes"] = json!(7);
    assert_eq!(post(lying).await.problem_fields(), ["entries[0]"]);
}
