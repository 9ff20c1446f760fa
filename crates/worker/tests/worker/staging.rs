//! Snapshots laid out from a source that may lie.

use bytes::Bytes;
use fetchml_api::{
    FailureCause,
    snapshot::{Manifest, ManifestEntry},
};
use fetchml_worker::staging::{BlobCache, Cache, Chunks, Source, SourceError, StageError, materialize};
use sha2::{Digest as _, Sha256};
use std::{
    collections::HashMap,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
};
use tempfile::TempDir;

#[derive(Default)]
struct Store {
    manifest: Vec<u8>,
    blobs: HashMap<String, Vec<u8>>,
    fetched: AtomicUsize,
    down: bool,
}

impl Store {
    fn answer(&self, bytes: Option<&Vec<u8>>) -> Result<Chunks, SourceError> {
        self.fetched.fetch_add(1, Ordering::Relaxed);
        if self.down {
            return Err(SourceError { transient: true, is_away: false, message: "connection refused".into() });
        }
        let bytes =
            bytes.ok_or_else(|| SourceError { transient: false, is_away: false, message: "not found".into() })?;
        let chunks: Vec<_> = bytes.chunks(7).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
        Ok(Box::pin(futures_util::stream::iter(chunks)))
    }
}

impl Source for Store {
    async fn manifest(&self, _snapshot_id: &str) -> Result<Chunks, SourceError> {
        self.answer(Some(&self.manifest))
    }

    async fn blob(&self, sha256: &str) -> Result<Chunks, SourceError> {
        self.answer(self.blobs.get(sha256))
    }
}

fn file(store: &mut Store, path: &str, mode: u32, bytes: &[u8]) -> ManifestEntry {
    let sha256 = hex::encode(Sha256::digest(bytes));
    store.blobs.insert(sha256.clone(), bytes.to_vec());
    ManifestEntry { path: path.into(), mode, sha256: Some(sha256), size_bytes: bytes.len() as u64, link: None }
}

fn seal(store: &mut Store, entries: Vec<ManifestEntry>) -> String {
    store.manifest = Manifest { entries }.canonicalize();
    Manifest::id_of(&store.manifest)
}

/// A snapshot of a few files, two of them alike, and its id.
fn snapshot() -> (Store, String) {
    let mut store = Store::default();
    let entries = vec![
        file(&mut store, "train.py", 0o644, b"print('hello')"),
        file(&mut store, "bin/tool", 0o755, b"#!/bin/sh\nexit 0\n"),
        file(&mut store, "copy/of/tool", 0o755, b"#!/bin/sh\nexit 0\n"),
        file(&mut store, "empty", 0o644, b""),
        ManifestEntry {
            path: "latest".into(),
            mode: 0o777,
            sha256: None,
            size_bytes: 0,
            link: Some("bin/tool".into()),
        },
    ];
    let id = seal(&mut store, entries);
    (store, id)
}

async fn lay_out(store: &Store, id: &str, data: &Path, name: &str) -> Result<Manifest, StageError> {
    materialize(store, &BlobCache::new(Cache::open(data, None).unwrap()), id, &data.join(name)).await
}

#[tokio::test]
async fn files_modes_and_links_are_laid_out_and_blobs_fetched_once() {
    let (store, id) = snapshot();
    let data = TempDir::new().unwrap();
    let cache = BlobCache::new(Cache::open(data.path(), None).unwrap());
    let (one, two) = (data.path().join("one"), data.path().join("two"));
    let both = tokio::join!(materialize(&store, &cache, &id, &one), materialize(&store, &cache, &id, &two));
    assert_eq!(both.0.unwrap().entries.len(), 5);
    both.1.unwrap();
    for root in [one, two] {
        assert_eq!(fs::read(root.join("train.py")).unwrap(), b"print('hello')");
        assert_eq!(fs::read_link(root.join("latest")).unwrap(), Path::new("bin/tool"));
        for (path, mode) in [("train.py", 0o644), ("copy/of/tool", 0o755), ("empty", 0o644)] {
            assert_eq!(fs::metadata(root.join(path)).unwrap().permissions().mode() & 0o777, mode, "{path}");
        }
    }
    assert_eq!(store.fetched.load(Ordering::Relaxed), 4, "the manifest and three different blobs, each once");
    // An agent started anew finds them in its cache.
    lay_out(&store, &id, data.path(), "three").await.unwrap();
    assert_eq!(store.fetched.load(Ordering::Relaxed), 4);
}

#[tokio::test]
async fn a_changed_task_file_does_not_reach_the_cache() {
    let (store, id) = snapshot();
    let data = TempDir::new().unwrap();
    lay_out(&store, &id, data.path(), "one").await.unwrap();
    fs::write(data.path().join("one/train.py"), "changed by the task").unwrap();
    lay_out(&store, &id, data.path(), "two").await.unwrap();
    assert_eq!(fs::read(data.path().join("two/train.py")).unwrap(), b"print('hello')");
}

#[tokio::test]
async fn a_damaged_cached_blob_is_fetched_again() {
    let (store, id) = snapshot();
    let data = TempDir::new().unwrap();
    lay_out(&store, &id, data.path(), "one").await.unwrap();
    let sha256 = hex::encode(Sha256::digest(b"print('hello')"));
    let blob = BlobCache::new(Cache::open(data.path(), None).unwrap()).path(&sha256);
    fs::set_permissions(&blob, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&blob, "print('hellO')").unwrap();
    lay_out(&store, &id, data.path(), "two").await.unwrap();
    assert_eq!(fs::read(data.path().join("two/train.py")).unwrap(), b"print('hello')");
}

#[tokio::test]
async fn lies_of_the_source_are_definite_faults() {
    let data = TempDir::new().unwrap();
    for (number, (bytes, words)) in [
        (&b"print('hellO')"[..], "other bytes"),
        (b"print('hello')xxx", "more than the 14 bytes"),
        (b"", "other bytes"),
    ]
    .into_iter()
    .enumerate()
    {
        let (mut store, id) = snapshot();
        store.blobs.insert(hex::encode(Sha256::digest(b"print('hello')")), bytes.to_vec());
        let root = data.path().join(number.to_string());
        let error = lay_out(&store, &id, &root, "work").await.unwrap_err();
        assert_eq!((error.cause, error.transient), (FailureCause::Snapshot, false), "{error}");
        assert!(error.message.contains(words) && error.message.contains("train.py"), "{error}");
        assert_eq!(
            fs::read_dir(root.join("blobs")).unwrap().filter(|e| e.as_ref().unwrap().path().is_file()).count(),
            0
        );
    }
    let (mut store, id) = snapshot();
    store.blobs.clear();
    assert!(!lay_out(&store, &id, &data.path().join("missing"), "work").await.unwrap_err().transient);
    let (mut store, id) = snapshot();
    store.manifest.push(b' ');
    let error = lay_out(&store, &id, &data.path().join("manifest"), "work").await.unwrap_err();
    assert!(error.message.contains("manifest") && !error.transient, "{error}");
    let (mut store, id) = snapshot();
    store.down = true;
    assert!(lay_out(&store, &id, &data.path().join("down"), "work").await.unwrap_err().transient);
    assert!(!lay_out(&store, "sha256:..", &data.path().join("id"), "work").await.unwrap_err().transient);
}

#[tokio::test]
async fn manifests_that_leave_the_directory_are_refused_and_nothing_is_written() {
    let data = TempDir::new().unwrap();
    let link = |path: &str, to: &str| ManifestEntry {
        path: path.into(),
        mode: 0o777,
        sha256: None,
        size_bytes: 0,
        link: Some(to.into()),
    };
    for (number, path) in
        ["../escaped", "/tmp/fetchml-escaped", "a/../../escaped", "through/escaped"].into_iter().enumerate()
    {
        let mut store = Store::default();
        let entries = vec![file(&mut store, path, 0o644, b"x"), link("through", "..")];
        let id = seal(&mut store, entries);
        let root = data.path().join(number.to_string());
        let error = lay_out(&store, &id, &root, "work").await.unwrap_err();
        assert_eq!((error.cause, error.transient), (FailureCause::Snapshot, false), "{error}");
        assert!(!root.join("escaped").exists() && !root.join("work").exists());
    }
    assert!(!Path::new("/tmp/fetchml-escaped").exists());
}
