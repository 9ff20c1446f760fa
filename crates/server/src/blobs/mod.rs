//! Blobs by their SHA-256, behind `object_store`. What is stored is whole, has been hashed, and is
//! durable when the call returns. Nothing here knows tasks or HTTP.
//!
//! Whoever is told that a blob is there may name it a while later: see [`claims`].

mod claims;

use bytes::Bytes;
use claims::Turns;
use fetchml_api::{Micros, snapshot::is_sha256_hex};
use fetchml_store::StoreError;
use futures_util::{Stream, StreamExt as _, stream::BoxStream};
use object_store::{
    GetOptions, GetRange, ObjectStore, ObjectStoreExt as _, WriteMultipart, local::LocalFileSystem,
    path::Path as ObjectPath,
};
use sha2::{Digest as _, Sha256};
use std::{ops::Range, path::Path, sync::Arc};

/// Buffer of an upload, bytes.
const PART_BYTES: usize = 1 << 20;
/// Parts of one upload written at the same time.
const PARTS_AT_ONCE: usize = 2;

/// The blobs. Cheap to clone.
#[derive(Clone)]
pub struct Blobs {
    objects: Arc<dyn ObjectStore>,
    root: Arc<Path>,
    turns: Arc<Turns>,
}

/// Why a blob was not stored.
#[derive(Debug, thiserror::Error)]
pub enum PutError {
    /// The bytes have another hash than the name says.
    #[error("the bytes have the SHA-256 {actual}")]
    Mismatch {
        /// Hash of the bytes, lower-case hex.
        actual: String,
    },
    /// More bytes than allowed.
    #[error("more than {0} bytes")]
    TooLarge(u64),
    /// The client's stream broke off.
    #[error("the upload broke off")]
    BrokeOff,
    /// The object store failed.
    #[error("the object store failed")]
    Store(#[from] object_store::Error),
    /// It could not be recorded.
    #[error("the database cannot be used")]
    Unrecorded(#[from] StoreError),
}

impl Blobs {
    /// Blobs in a local directory, which must exist.
    ///
    /// # Errors
    /// The directory cannot be used.
    pub fn local(root: &Path) -> object_store::Result<Self> {
        let objects = LocalFileSystem::new_with_prefix(root)?.with_fsync(true).with_automatic_cleanup(true);
        Ok(Self { objects: Arc::new(objects), root: root.into(), turns: Arc::default() })
    }

    /// The object store below.
    pub fn objects(&self) -> &Arc<dyn ObjectStore> {
        &self.objects
    }

    /// Size of a blob, bytes; `None` when there is none.
    ///
    /// # Errors
    /// The object store failed.
    pub async fn size(&self, sha256: &str) -> object_store::Result<Option<u64>> {
        debug_assert!(is_sha256_hex(sha256), "only a checked hash names a blob");
        size_of(&*self.objects, &place(sha256)).await
    }

    /// Stores a stream of bytes under its hash; who sent them has a claim from `now` on. Once the bytes are here and
    /// right, and before they are stored, `record` is waited for.
    ///
    /// # Errors
    /// Nothing is stored then.
    pub async fn put<E>(
        &self,
        sha256: &str,
        max_bytes: u64,
        now: Micros,
        mut bytes: impl Stream<Item = Result<Bytes, E>> + Unpin,
        record: impl Future<Output = Result<(), StoreError>>,
    ) -> Result<u64, PutError> {
        debug_assert!(is_sha256_hex(sha256), "only a checked hash names a blob");
        let upload = self.objects.put_multipart(&place(sha256)).await?;
        let mut upload = WriteMultipart::new_with_chunk_size(upload, PART_BYTES);
        let mut hash = Sha256::new();
        let mut size = 0_u64;
        let received: Result<(), PutError> = async {
            while let Some(chunk) = bytes.next().await {
                let chunk = chunk.map_err(|_| PutError::BrokeOff)?;
                size += chunk.len() as u64;
                if size > max_bytes {
                    return Err(PutError::TooLarge(max_bytes));
                }
                hash.update(&chunk);
                upload.wait_for_capacity(PARTS_AT_ONCE).await?;
                upload.put(chunk);
            }
            let actual = hex::encode(hash.finalize());
            if actual != sha256 {
                return Err(PutError::Mismatch { actual });
            }
            Ok(record.await?)
        }
        .await;
        match received {
            Ok(()) => {
                fetchml_failpoint::reach("blob.received");
                upload.finish().await?;
                self.claim(sha256, now).await?;
                Ok(size)
            }
            Err(error) => {
                if let Err(cause) = upload.abort().await {
                    tracing::warn!(%cause, "an unfinished upload could not be removed");
                }
                Err(error)
            }
        }
    }

    /// Stores bytes whose hash is known to be right, with a claim from `now` on.
    ///
    /// # Errors
    /// The object store failed.
    pub async fn put_bytes(&self, sha256: &str, bytes: Bytes, now: Micros) -> object_store::Result<()> {
        // Not simply over what is there: that may be about to be discarded.
        if self.claim(sha256, now).await?.is_none() {
            self.objects.put(&place(sha256), bytes.into()).await?;
            self.claim(sha256, now).await?;
        }
        Ok(())
    }

    /// The bytes of a range of a blob.
    ///
    /// # Errors
    /// There is no such blob, or the object store failed.
    pub async fn read(
        &self,
        sha256: &str,
        range: Range<u64>,
    ) -> object_store::Result<BoxStream<'static, object_store::Result<Bytes>>> {
        read_object(&*self.objects, &place(sha256), range).await
    }

    /// A whole blob, which must be small enough for memory.
    ///
    /// # Errors
    /// There is no such blob, or the object store failed.
    pub async fn read_whole(&self, sha256: &str) -> object_store::Result<Bytes> {
        self.objects.get(&place(sha256)).await?.bytes().await
    }
}

/// Size of an object; `None` when there is none.
pub(crate) async fn size_of(objects: &dyn ObjectStore, path: &ObjectPath) -> object_store::Result<Option<u64>> {
    match objects.head(path).await {
        Ok(meta) => Ok(Some(meta.size)),
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The bytes of a range of an object; an empty range needs no object.
pub(crate) async fn read_object(
    objects: &dyn ObjectStore,
    path: &ObjectPath,
    range: Range<u64>,
) -> object_store::Result<BoxStream<'static, object_store::Result<Bytes>>> {
    if range.is_empty() {
        return Ok(futures_util::stream::empty().boxed());
    }
    let options = GetOptions { range: Some(GetRange::Bounded(range)), ..GetOptions::default() };
    Ok(objects.get_opts(path, options).await?.into_stream())
}

/// Two levels, so that no directory gets too large.
fn place(sha256: &str) -> ObjectPath {
    ObjectPath::from(format!("blobs/{}/{sha256}", sha256.get(..2).unwrap_or("")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::stream;

    const NOW: Micros = Micros(1_764_000_000_000_000);

    fn chunks(parts: &[&'static [u8]]) -> impl Stream<Item = Result<Bytes, std::io::Error>> + Unpin {
        stream::iter(parts.iter().map(|p| Ok(Bytes::from_static(p))).collect::<Vec<_>>())
    }

    fn files_in(root: &Path) -> Vec<std::path::PathBuf> {
        let mut found = Vec::new();
        let mut todo = vec![root.to_owned()];
        while let Some(dir) = todo.pop() {
            for entry in std::fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() { todo.push(path) } else { found.push(path) }
            }
        }
        found
    }

    #[tokio::test]
    async fn what_does_not_match_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::local(dir.path()).unwrap();
        let name = hex::encode(Sha256::digest(b"hello world"));
        assert_eq!(blobs.put(&name, 100, NOW, chunks(&[b"hello ", b"world"]), async { Ok(()) }).await.unwrap(), 11);
        assert_eq!(blobs.size(&name).await.unwrap(), Some(11));
        let part: Vec<Bytes> = blobs.read(&name, 6..11).await.unwrap().map(Result::unwrap).collect().await;
        assert_eq!(part.concat(), b"world");

        let other = hex::encode(Sha256::digest(b"other"));
        assert!(matches!(
            blobs.put(&other, 100, NOW, chunks(&[b"wrong"]), async { Ok(()) }).await,
            Err(PutError::Mismatch { .. })
        ));
        assert!(matches!(
            blobs.put(&other, 3, NOW, chunks(&[b"other"]), async { Ok(()) }).await,
            Err(PutError::TooLarge(3))
        ));
        let broken = stream::iter([Ok(Bytes::from_static(b"oth")), Err(())]);
        assert!(matches!(blobs.put(&other, 100, NOW, broken, async { Ok(()) }).await, Err(PutError::BrokeOff)));
        assert_eq!(blobs.size(&other).await.unwrap(), None);
        assert_eq!(files_in(dir.path()).len(), 1);
    }
}
