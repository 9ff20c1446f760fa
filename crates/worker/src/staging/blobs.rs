//! Blobs by SHA-256 in the cache, filled from a server. A blob enters under its name only after all
//! its bytes were hashed; one from an earlier life of the agent is hashed again before its first use.

use super::cache::{Cache, Kept, Key};
use bytes::Bytes;
use fetchml_client::{Client, ClientError};
use futures_util::{Stream, StreamExt as _};
use sha2::{Digest as _, Sha256};
use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    pin::{Pin, pin},
    sync::{Arc, Mutex, PoisonError},
};
use tokio::io::AsyncWriteExt as _;

/// Bytes of a blob as they arrive.
pub type Chunks = Pin<Box<dyn Stream<Item = Result<Bytes, SourceError>> + Send>>;

/// Why something could not be fetched.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{message}")]
pub struct SourceError {
    /// Trying again later makes sense.
    pub transient: bool,
    /// The server could not be reached, or was not ready: asked again when it is back, it may well answer.
    pub is_away: bool,
    /// What happened.
    pub message: String,
}

impl From<ClientError> for SourceError {
    fn from(error: ClientError) -> Self {
        Self { transient: error.is_transient(), is_away: error.is_away(), message: error.to_string() }
    }
}

impl From<io::Error> for SourceError {
    fn from(error: io::Error) -> Self {
        Self { transient: true, is_away: false, message: format!("the worker's disk: {error}") }
    }
}

/// Where manifests and blobs come from.
pub trait Source: Send + Sync {
    /// The canonical manifest of a snapshot.
    fn manifest(&self, snapshot_id: &str) -> impl Future<Output = Result<Chunks, SourceError>> + Send;
    /// The bytes of a blob.
    fn blob(&self, sha256: &str) -> impl Future<Output = Result<Chunks, SourceError>> + Send;
}

impl Source for Client {
    async fn manifest(&self, snapshot_id: &str) -> Result<Chunks, SourceError> {
        let manifest = self.snapshot_manifest(snapshot_id).await?;
        Ok(Box::pin(futures_util::stream::iter([Ok(manifest)])))
    }

    async fn blob(&self, sha256: &str) -> Result<Chunks, SourceError> {
        Ok(Box::pin(self.blob_get(sha256).await?.map(|chunk| chunk.map_err(Into::into))))
    }
}

/// Blobs on disk, read-only.
#[derive(Debug)]
pub struct BlobCache {
    cache: Arc<Cache>,
    /// One lock for each blob that is being fetched now.
    fetching: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl BlobCache {
    /// Blobs kept in `cache`.
    pub fn new(cache: Arc<Cache>) -> Self {
        Self { cache, fetching: Mutex::default() }
    }

    /// Where a blob lies when it is there. `sha256` must be 64 hex digits.
    pub fn path(&self, sha256: &str) -> PathBuf {
        self.cache.path(&Key::Blob(sha256.to_owned()))
    }

    /// Makes sure a blob is in the cache, where it stays while the pin lives; `fetch` is called unless it is. Callers
    /// for one blob wait for the one that fetches.
    pub(super) async fn ensure<F>(
        &self,
        sha256: &str,
        size_max: u64,
        fetch: impl FnOnce() -> F + Send,
    ) -> Result<Kept, SourceError>
    where
        F: Future<Output = Result<Chunks, SourceError>> + Send,
    {
        let key = Key::Blob(sha256.to_owned());
        if let Some(pin) = self.verified(&key) {
            return Ok(pin);
        }
        let turn = Arc::clone(lock(&self.fetching).entry(sha256.to_owned()).or_default());
        let result = {
            let _turn = turn.lock().await;
            self.have(&key, sha256, size_max, fetch).await
        };
        drop(turn);
        // The last one to leave takes the lock away.
        let mut fetching = lock(&self.fetching);
        if fetching.get(sha256).is_some_and(|turn| Arc::strong_count(turn) == 1) {
            fetching.remove(sha256);
        }
        drop(fetching);
        result
    }

    async fn have<F>(
        &self,
        key: &Key,
        sha256: &str,
        size_max: u64,
        fetch: impl FnOnce() -> F + Send,
    ) -> Result<Kept, SourceError>
    where
        F: Future<Output = Result<Chunks, SourceError>> + Send,
    {
        if let Some(pin) = self.verified(key) {
            return Ok(pin);
        }
        // Pinned before it is looked at, so that it is not evicted meanwhile.
        if let Some(pin) = self.cache.pin(key) {
            if self.verify(sha256, &pin.path()).await? {
                self.cache.verified(key);
                return Ok(pin);
            }
            self.cache.forget(key);
        }
        let size_bytes = self.store(sha256, size_max, &self.cache.path(key), fetch().await?).await?;
        Ok(self.cache.add(key.clone(), size_bytes))
    }

    fn verified(&self, key: &Key) -> Option<Kept> {
        if self.cache.is_verified(key) { self.cache.pin(key) } else { None }
    }

    /// Hashes a blob that an earlier agent left; a broken one is removed.
    async fn verify(&self, sha256: &str, path: &Path) -> Result<bool, SourceError> {
        let (sha256, path) = (sha256.to_owned(), path.to_owned());
        let verify = move || -> io::Result<bool> {
            let mut file = match fs::File::open(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
                file => file?,
            };
            let mut hash = Sha256::new();
            io::copy(&mut file, &mut HashWriter(&mut hash))?;
            if hex::encode(hash.finalize()) == sha256 {
                return Ok(true);
            }
            tracing::warn!(path = %path.display(), "a cached blob is damaged and fetched again");
            fs::remove_file(&path)?;
            Ok(false)
        };
        Ok(tokio::task::spawn_blocking(verify).await.map_err(io::Error::other)??)
    }

    async fn store(&self, sha256: &str, size_max: u64, path: &Path, chunks: Chunks) -> Result<u64, SourceError> {
        let parent = path.parent().expect("a blob lies two levels below the cache");
        tokio::fs::create_dir_all(parent).await?;
        let temporary = Temporary(self.cache.new_path());
        let mut file = tokio::fs::File::create(&temporary.0).await?;
        let mut hash = Sha256::new();
        let mut size = 0_u64;
        let mut chunks = pin!(chunks);
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk?;
            size += chunk.len() as u64;
            if size > size_max {
                return Err(definite(format!("blob {sha256} has more than the {size_max} bytes it should have")));
            }
            hash.update(&chunk);
            file.write_all(&chunk).await?;
        }
        file.flush().await?;
        let found = hex::encode(hash.finalize());
        if found != sha256 {
            return Err(definite(format!("blob {sha256} arrived with other bytes, of SHA-256 {found}")));
        }
        let mut permissions = file.metadata().await?.permissions();
        permissions.set_readonly(true);
        file.set_permissions(permissions).await?;
        tokio::fs::rename(&temporary.0, path).await?;
        Ok(size)
    }
}

fn definite(message: String) -> SourceError {
    SourceError { transient: false, is_away: false, message }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes the file when fetching fails or is given up; after the rename there is nothing to remove.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

struct HashWriter<'a>(&'a mut Sha256);

impl io::Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
