//! Blobs and other byte streams, up and down.

use crate::{
    connection::{Client, Repeat, is_missing, upload_timeout},
    error::ClientError,
    limits,
    snapshot::SnapshotError,
};
use bytes::Bytes;
use fetchml_api::snapshot::{SnapshotResponse, is_sha256_hex};
use futures_util::{Stream, StreamExt as _, stream::BoxStream};
use reqwest::{
    Body, Method, Response,
    header::{CONTENT_LENGTH, CONTENT_TYPE},
};
use sha2::{Digest as _, Sha256};
use std::{
    io,
    path::PathBuf,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};
use tokio::io::AsyncReadExt as _;

/// Where the bytes of an upload come from.
#[derive(Clone, Debug)]
pub enum BlobSource {
    /// Bytes at hand.
    Bytes(Bytes),
    /// A file, read as it is sent; checked against the hash on the way.
    File(PathBuf),
}

/// Bytes as they arrive. Ends with an error when the server is silent for
/// [`limits::STREAM_IDLE_TIMEOUT`] or the connection breaks before the promised length.
pub struct ByteStream {
    chunks: BoxStream<'static, Result<Bytes, ClientError>>,
    length_bytes: Option<u64>,
}

impl std::fmt::Debug for ByteStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ByteStream").field("length_bytes", &self.length_bytes).finish_non_exhaustive()
    }
}

impl ByteStream {
    pub(crate) fn empty() -> Self {
        Self { chunks: futures_util::stream::empty().boxed(), length_bytes: Some(0) }
    }

    pub(crate) fn of(url: &str, response: Response) -> Self {
        let length_bytes = response.content_length();
        let url = url.to_owned();
        let chunks = futures_util::stream::unfold(Some(response.bytes_stream().boxed()), move |chunks| {
            let url = url.clone();
            async move {
                let mut chunks = chunks?;
                match tokio::time::timeout(limits::STREAM_IDLE_TIMEOUT, chunks.next()).await {
                    Ok(None) => None,
                    Ok(Some(Ok(chunk))) => Some((Ok(chunk), Some(chunks))),
                    Ok(Some(Err(error))) => Some((Err(ClientError::transport(&url, &error)), None)),
                    Err(_) => {
                        Some((Err(ClientError::Unreachable { url, reason: "no more bytes in time".into() }), None))
                    }
                }
            }
        });
        Self { chunks: chunks.boxed(), length_bytes }
    }

    /// The length the server announced, bytes.
    pub fn length_bytes(&self) -> Option<u64> {
        self.length_bytes
    }
}

impl Stream for ByteStream {
    type Item = Result<Bytes, ClientError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.chunks.poll_next_unpin(context)
    }
}

impl Client {
    /// Sends a manifest. An empty `missing` in the answer means that the snapshot is stored.
    pub async fn snapshot_put(&self, manifest: Bytes) -> Result<SnapshotResponse, ClientError> {
        let response = self
            .send(Repeat::Idempotent, || {
                self.request(Method::POST, "/v1/snapshots")
                    .header(CONTENT_TYPE, "application/json")
                    .timeout(upload_timeout(manifest.len() as u64))
                    .body(manifest.clone())
            })
            .await?;
        self.read_json(response).await
    }

    /// The canonical manifest of a snapshot; its SHA-256 is the id.
    pub async fn snapshot_manifest(&self, id: &str) -> Result<Bytes, ClientError> {
        let path = format!("/v1/snapshots/{id}");
        let response = self
            .send(Repeat::Idempotent, || self.request(Method::GET, &path).timeout(limits::ANSWER_TIMEOUT * 5))
            .await?;
        self.read_body(response, limits::ANSWER_BYTES_MAX).await
    }

    /// Whether the server has the blob.
    pub async fn blob_exists(&self, sha256: &str) -> Result<bool, ClientError> {
        let path = blob_path(sha256)?;
        let request = self.request(Method::HEAD, &path).timeout(limits::ANSWER_TIMEOUT);
        let response = request.send().await.map_err(|error| ClientError::transport(self.url(), &error))?;
        match response.status() {
            status if status.is_success() => Ok(true),
            status if is_missing(status) => Ok(false),
            // A HEAD answer carries no body to explain itself: ask again in a way that does.
            _ => match self.blob_get(sha256).await {
                Ok(_) => Ok(true),
                Err(error) if error.is_not_found() => Ok(false),
                Err(error) => Err(error),
            },
        }
    }

    /// Stores a blob of `size_bytes` bytes; storing it again changes nothing.
    ///
    /// # Errors
    /// [`ClientError::Changed`] when a file no longer has the hash or size named: nothing was stored then.
    pub async fn blob_put(&self, sha256: &str, size_bytes: u64, source: BlobSource) -> Result<(), ClientError> {
        self.blob_put_with(sha256, size_bytes, source, Arc::new(|_| {})).await
    }

    /// As [`Self::blob_put`]; `sent` hears of every run of bytes handed to the connection.
    pub async fn blob_put_with(
        &self,
        sha256: &str,
        size_bytes: u64,
        source: BlobSource,
        sent: Arc<dyn Fn(u64) + Send + Sync>,
    ) -> Result<(), ClientError> {
        let path = blob_path(sha256)?;
        let changed = Arc::new(AtomicBool::new(false));
        if let BlobSource::File(file) = &source {
            // Seen here so that a file which is gone or unreadable is named, not "the connection failed".
            let found = tokio::fs::metadata(file).await.map_err(|error| ClientError::io(file, error))?;
            if found.len() != size_bytes {
                return Err(ClientError::Changed { path: file.clone() });
            }
            drop(tokio::fs::File::open(file).await.map_err(|error| ClientError::io(file, error))?);
        }
        let result = self
            .send_unless(
                || changed.load(Ordering::Acquire),
                Repeat::Idempotent,
                || {
                    let body = match &source {
                        BlobSource::Bytes(bytes) => Body::from(bytes.clone()),
                        BlobSource::File(file) => Body::wrap_stream(checked_file(
                            file.clone(),
                            sha256.to_owned(),
                            size_bytes,
                            Arc::clone(&changed),
                            Arc::clone(&sent),
                        )),
                    };
                    self.request(Method::PUT, &path)
                        .header(CONTENT_LENGTH, size_bytes)
                        .header(CONTENT_TYPE, "application/octet-stream")
                        .timeout(upload_timeout(size_bytes))
                        .body(body)
                },
            )
            .await;
        match (result, source) {
            (Ok(_), _) => Ok(()),
            (Err(_), BlobSource::File(path)) if changed.load(Ordering::Acquire) => Err(ClientError::Changed { path }),
            (Err(error), _) => Err(error),
        }
    }

    /// The bytes of a blob. The caller checks them against the hash.
    pub async fn blob_get(&self, sha256: &str) -> Result<ByteStream, ClientError> {
        self.get_bytes(&blob_path(sha256)?, &[], None).await
    }
}

fn blob_path(sha256: &str) -> Result<String, ClientError> {
    if is_sha256_hex(sha256) {
        Ok(format!("/v1/blobs/{sha256}"))
    } else {
        Err(SnapshotError::NotAHash { text: sha256.to_owned() }.into())
    }
}

/// A file as a request body. The last bytes are held back until the hash of all of them is right, so that
/// the server never gets a whole body of wrong bytes.
fn checked_file(
    path: PathBuf,
    sha256: String,
    size_bytes: u64,
    changed: Arc<AtomicBool>,
    sent: Arc<dyn Fn(u64) + Send + Sync>,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    struct Reading {
        path: PathBuf,
        file: Option<tokio::fs::File>,
        hasher: Sha256,
        left_bytes: u64,
    }
    let start = Reading { path, file: None, hasher: Sha256::new(), left_bytes: size_bytes };
    futures_util::stream::try_unfold(start, move |mut at| {
        let (sha256, changed, sent) = (sha256.clone(), Arc::clone(&changed), Arc::clone(&sent));
        async move {
            if at.left_bytes == 0 {
                return Ok(None);
            }
            let file = match &mut at.file {
                Some(file) => file,
                none => none.insert(tokio::fs::File::open(&at.path).await?),
            };
            let want = at.left_bytes.min(limits::READ_BUFFER_BYTES as u64) as usize;
            let mut chunk = vec![0; want];
            if let Err(error) = file.read_exact(&mut chunk).await {
                changed.store(error.kind() == io::ErrorKind::UnexpectedEof, Ordering::Release);
                return Err(error);
            }
            at.hasher.update(&chunk);
            at.left_bytes -= want as u64;
            if at.left_bytes == 0 && hex::encode(at.hasher.finalize_reset()) != sha256 {
                changed.store(true, Ordering::Release);
                return Err(io::Error::other("the file changed while it was being read"));
            }
            sent(want as u64);
            Ok(Some((Bytes::from(chunk), at)))
        }
    })
}
