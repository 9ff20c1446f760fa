//! Snapshots sent to a server: only what is missing, and files that change meanwhile.

use crate::server::{Asked, TestServer, answer};
use fetchml_api::snapshot::Manifest;
use fetchml_client::{
    BlobSource, ClientError,
    snapshot::{Progress, Snapshot},
};
use sha2::{Digest as _, Sha256};
use std::{
    collections::HashSet,
    fs,
    sync::{Arc, Mutex},
};

/// A server that keeps blobs and refuses those whose bytes are not their hash.
async fn blob_server(known: &[&str]) -> (TestServer, Arc<Mutex<HashSet<String>>>) {
    let stored: HashSet<String> = known.iter().map(|bytes| hex::encode(Sha256::digest(bytes))).collect();
    let stored = Arc::new(Mutex::new(stored));
    let kept = Arc::clone(&stored);
    let server = TestServer::start(move |_, asked| respond(asked, &kept)).await;
    (server, stored)
}

fn respond(asked: &Asked, stored: &Mutex<HashSet<String>>) -> Vec<u8> {
    let mut stored = stored.lock().unwrap();
    if let Some(sha256) = asked.line.strip_prefix("PUT /v1/blobs/") {
        let good = hex::encode(Sha256::digest(&asked.body)) == sha256;
        stored.insert(sha256.to_owned());
        return answer(if good { 201 } else { 422 }, "", "{}");
    }
    let manifest: Manifest = serde_json::from_slice(&asked.body).unwrap();
    let missing: Vec<_> =
        manifest.entries.iter().filter_map(|entry| entry.sha256.clone()).filter(|sha| !stored.contains(sha)).collect();
    let body = serde_json::json!({
        "snapshot_id": Manifest::id_of(&asked.body), "missing": missing,
        "file_count": manifest.entries.len(), "size_bytes": manifest.size_bytes(),
    });
    answer(if missing.is_empty() { 201 } else { 200 }, "", &body.to_string())
}

#[tokio::test]
async fn only_missing_blobs_are_sent_and_a_second_upload_sends_nothing() {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in [("a", "old"), ("b", "new"), ("same-as-b", "new"), ("empty", "")] {
        fs::write(dir.path().join(name), text).unwrap();
    }
    let (server, stored) = blob_server(&["old"]).await;
    let mut snapshot = Snapshot::build(dir.path(), &|_| {}).unwrap();
    let sent = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&sent);
    let on_progress = Arc::new(move |progress| {
        if let Progress::Sent { bytes } = progress {
            *counted.lock().unwrap() += bytes;
        }
    });
    let first = server.client.snapshot_upload(&mut snapshot, on_progress).await.unwrap();
    // The server lists a hash as often as files have it; sending it once more harms nobody.
    assert!(first.blobs_sent >= 2 && first.bytes_sent >= 3, "{first:?}");
    assert_eq!(first.bytes_sent, *sent.lock().unwrap());
    assert_eq!(stored.lock().unwrap().len(), 3);
    let second = server.client.snapshot_upload(&mut snapshot, Arc::new(|_| {})).await.unwrap();
    assert_eq!((second.blobs_sent, second.bytes_sent), (0, 0));
}

#[tokio::test]
async fn a_file_that_changed_after_hashing_is_read_again() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("x"), "before").unwrap();
    let (server, stored) = blob_server(&[]).await;
    let mut snapshot = Snapshot::build(dir.path(), &|_| {}).unwrap();
    let before = snapshot.id().to_owned();
    // Same length: only the hash can tell.
    fs::write(dir.path().join("x"), "after!").unwrap();
    let changed = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&changed);
    let on_progress = Arc::new(move |progress| {
        if let Progress::Changed { path } = progress {
            seen.lock().unwrap().push(path);
        }
    });
    let uploaded = server.client.snapshot_upload(&mut snapshot, on_progress).await.unwrap();
    assert_eq!(*changed.lock().unwrap(), ["x"]);
    assert_ne!(snapshot.id(), before);
    assert_eq!(uploaded.stored.snapshot_id, snapshot.id());
    let right = hex::encode(Sha256::digest("after!"));
    assert_eq!(*stored.lock().unwrap(), HashSet::from([right]), "the wrong bytes never became a blob");
}

#[tokio::test]
async fn a_file_that_keeps_changing_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("busy");
    fs::write(&path, "0").unwrap();
    let (server, _) = blob_server(&[]).await;
    let mut snapshot = Snapshot::build(dir.path(), &|_| {}).unwrap();
    fs::write(&path, "1").unwrap();
    let round = Mutex::new(1);
    let busy = path.clone();
    // Written anew each time the server has been asked, that is between hashing and sending.
    let on_progress = Arc::new(move |progress| {
        if let Progress::Missing { .. } = progress {
            let mut round = round.lock().unwrap();
            *round += 1;
            fs::write(&busy, round.to_string()).unwrap();
        }
    });
    let error = server.client.snapshot_upload(&mut snapshot, on_progress).await.unwrap_err();
    assert_eq!(error.to_string(), "busy keeps changing while it is read (3 tries)");
}

#[tokio::test]
async fn a_blob_from_a_file_that_is_gone_or_wrong_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let (server, _) = blob_server(&[]).await;
    let sha256 = hex::encode(Sha256::digest("x"));
    let file = |name: &str| BlobSource::File(dir.path().join(name));
    let gone = server.client.blob_put(&sha256, 1, file("gone")).await.unwrap_err();
    assert!(matches!(gone, ClientError::Io { .. }), "{gone}");
    fs::write(dir.path().join("y"), "y").unwrap();
    let wrong = server.client.blob_put(&sha256, 1, file("y")).await.unwrap_err();
    assert!(matches!(wrong, ClientError::Changed { .. }), "{wrong}");
    let bad = server.client.blob_put("nonsense", 1, file("y")).await.unwrap_err();
    assert!(bad.to_string().contains("nonsense"));
    server.client.blob_put(&sha256, 1, BlobSource::Bytes("x".into())).await.unwrap();
}
