//! Where a download goes: a file that is written and hashed at once, on a thread of its own. Its beginning may be
//! there from an earlier try.

use super::{
    cache::{Cache, Form},
    source::{Version, transient},
};
use crate::{limits, shim::boot_id, staging::SourceError};
use bytes::Bytes;
use fetchml_api::DatasetKey;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::{
    fs::{self, File},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::{
    sync::{OwnedMutexGuard, mpsc},
    task::JoinHandle,
};

/// What stands beside a partial file: whose beginning it is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Label {
    source: String,
    version: Version,
    /// After a power cut a file may hold anything.
    boot_id: String,
}

/// What was found of an earlier try.
#[derive(Debug, Default)]
pub(super) struct Beginning {
    pub(super) bytes: u64,
    pub(super) version: Version,
}

/// A whole file, synced.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) path: PathBuf,
    pub(super) sha256: DatasetKey,
    pub(super) bytes: u64,
    /// Kept until it is in the cache: who waits for it must find it there.
    pub(super) turn: Option<OwnedMutexGuard<()>>,
}

enum Order {
    Append(Bytes),
    /// Everything so far was of another version.
    StartOver(Version),
    /// There is no more: sync it.
    Finish,
}

/// The way to the thread that writes. Dropped, it leaves the file for a later try.
#[derive(Debug)]
pub(super) struct Sink {
    orders: mpsc::Sender<Order>,
    thread: JoinHandle<io::Result<Option<Written>>>,
}

impl Sink {
    /// Opens the partial file of a key. `vouched`: a declared hash will tell whether the whole is right. `turn` is held
    /// until the thread has ended: nobody else may write there before.
    pub(super) async fn open(
        cache: &Arc<Cache>,
        key: DatasetKey,
        source: &str,
        vouched: bool,
        turn: OwnedMutexGuard<()>,
    ) -> Result<(Self, Beginning), SourceError> {
        let (cache, source) = (Arc::clone(cache), source.to_owned());
        let opening = tokio::task::spawn_blocking(move || Writer::open(cache, key, source, vouched, turn));
        let (writer, beginning) = opening.await.map_err(io::Error::other).flatten().map_err(|error| disk(&error))?;
        let (orders, received) = mpsc::channel(limits::DATASET_CHUNKS);
        let thread = tokio::task::spawn_blocking(move || writer.run(received));
        Ok((Self { orders, thread }, beginning))
    }

    pub(super) async fn append(&mut self, bytes: Bytes) -> Result<(), SourceError> {
        self.order(Order::Append(bytes)).await
    }

    pub(super) async fn start_over(&mut self, version: Version) -> Result<(), SourceError> {
        self.order(Order::StartOver(version)).await
    }

    async fn order(&mut self, order: Order) -> Result<(), SourceError> {
        if self.orders.send(order).await.is_ok() {
            return Ok(());
        }
        // It ended by itself: it says why.
        match (&mut self.thread).await {
            Ok(Err(error)) => Err(disk(&error)),
            _ => Err(transient("the thread that writes it has ended".to_owned())),
        }
    }

    /// Syncs the file. It is the caller's from here on.
    pub(super) async fn finish(mut self) -> Result<Written, SourceError> {
        self.order(Order::Finish).await?;
        let ended = self.thread.await.map_err(io::Error::other).flatten().map_err(|error| disk(&error))?;
        ended.ok_or_else(|| transient("the thread that writes it has ended".to_owned()))
    }
}

fn disk(error: &io::Error) -> SourceError {
    transient(format!("the worker's disk: {error}"))
}

struct Writer {
    cache: Arc<Cache>,
    key: DatasetKey,
    source: String,
    path: PathBuf,
    file: File,
    hash: Sha256,
    bytes: u64,
    is_whole: bool,
    turn: Option<OwnedMutexGuard<()>>,
}

impl Writer {
    fn open(
        cache: Arc<Cache>,
        key: DatasetKey,
        source: String,
        vouched: bool,
        turn: OwnedMutexGuard<()>,
    ) -> io::Result<(Self, Beginning)> {
        cache.take_partial(key);
        let path = cache.path(Form::Partial, key);
        let file = File::options().create(true).truncate(false).read(true).write(true).open(&path)?;
        let label = fs::read(label_path(&path)).ok().and_then(|bytes| serde_json::from_slice::<Label>(&bytes).ok());
        let mut writer =
            Self { cache, key, source, path, file, hash: Sha256::new(), bytes: 0, is_whole: false, turn: Some(turn) };
        let boot = boot_id()?;
        let known = label.filter(|label| label.source == writer.source && (vouched || label.boot_id == boot));
        let version = known.map(|label| label.version).unwrap_or_default();
        if version.is_known() {
            writer.bytes = hash_file(&mut writer.file, &mut writer.hash)?;
        } else {
            writer.file.set_len(0)?;
        }
        let beginning = Beginning { bytes: writer.bytes, version };
        Ok((writer, beginning))
    }

    fn run(mut self, mut orders: mpsc::Receiver<Order>) -> io::Result<Option<Written>> {
        while let Some(order) = orders.blocking_recv() {
            match order {
                Order::Append(bytes) => {
                    self.hash.update(&bytes);
                    self.file.write_all(&bytes)?;
                    self.bytes += bytes.len() as u64;
                }
                Order::StartOver(version) => self.start_over(version)?,
                Order::Finish => return self.finish().map(Some),
            }
        }
        Ok(None)
    }

    fn start_over(&mut self, version: Version) -> io::Result<()> {
        // Emptied before it is labelled anew: bytes never stand under another's label.
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0))?;
        self.hash.reset();
        self.bytes = 0;
        let label = Label { source: self.source.clone(), version, boot_id: boot_id()? };
        self.cache.write_json(&label_path(&self.path), &label)
    }

    fn finish(mut self) -> io::Result<Written> {
        self.file.set_permissions(fs::Permissions::from_mode(0o444))?;
        self.file.sync_all()?;
        // Out of the way of the next download under this key.
        let path = self.cache.new_path();
        fs::rename(&self.path, &path)?;
        self.is_whole = true;
        let sha256 = hex::encode(self.hash.finalize_reset());
        let sha256 = sha256.parse().map_err(io::Error::other)?;
        Ok(Written { path, sha256, bytes: self.bytes, turn: self.turn.take() })
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if self.is_whole {
            let _ = fs::remove_file(label_path(&self.path));
        } else if self.bytes == 0 {
            let _ = fs::remove_file(&self.path);
        } else {
            self.cache.leave_partial(self.key, self.bytes);
        }
    }
}

fn label_path(partial: &Path) -> PathBuf {
    partial.with_extension("json")
}

/// Hashes a file from its beginning to its end; gives its length.
fn hash_file(file: &mut File, hash: &mut Sha256) -> io::Result<u64> {
    file.seek(SeekFrom::Start(0))?;
    let mut buffer = vec![0; limits::DATASET_READ_BYTES];
    let mut bytes = 0;
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(bytes),
            read => {
                hash.update(&buffer[..read]);
                bytes += read as u64;
            }
        }
    }
}

/// The SHA-256 of a file and its length, as a download that goes on verifies what is there already.
///
/// # Errors
/// It cannot be read.
pub fn verify_file(path: &Path) -> io::Result<(DatasetKey, u64)> {
    let mut hash = Sha256::new();
    let bytes = hash_file(&mut File::open(path)?, &mut hash)?;
    let sha256 = hex::encode(hash.finalize()).parse().map_err(io::Error::other)?;
    Ok((sha256, bytes))
}
