//! Logs of attempts: one byte stream per (attempt, node). While an attempt lives its log is a local
//! file that grows; when it is over the log is an object. Readers see no difference. Another instance keeps
//! the streams of metrics ([`crate::metrics`]) the same way; it knows nothing of what is in them.
//!
//! What [`Logs::append`] acknowledges is on the disk. Only durable bytes are ever shown, except to
//! readers of a file left by a server before this one, which is synced when it is opened.

mod follow;
mod live;
mod remove;
mod sync;

pub(crate) use follow::{Follow, Position};

use crate::{
    blobs::{read_object, size_of},
    limits,
};
use bytes::{Bytes, BytesMut};
use fetchml_api::{AttemptId, TaskId};
use futures_util::StreamExt as _;
use live::Live;
use object_store::{ObjectStore, ObjectStoreExt as _, WriteMultipart, path::Path as ObjectPath};
use std::{
    collections::{HashMap, VecDeque},
    fs, io,
    ops::Range,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, Weak},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Names one log.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct LogId {
    pub(crate) task: TaskId,
    pub(crate) attempt: AttemptId,
    pub(crate) node: u32,
}

/// Why log bytes were not taken. The worker keeps them and sends them again.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The disk is full.
    #[error("no space for logs")]
    Full,
    /// The file system failed.
    #[error("the log cannot be written")]
    Io(#[from] io::Error),
    /// The object store failed.
    #[error("the object store failed")]
    Objects(#[from] object_store::Error),
}

impl LogError {
    fn of(error: io::Error) -> Self {
        if is_full(&error) { Self::Full } else { Self::Io(error) }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// All logs. Cheap to clone.
#[derive(Clone)]
pub struct Logs(Arc<Inner>);

struct Inner {
    root: PathBuf,
    /// Where objects lie: the first part of their names.
    place: &'static str,
    objects: Arc<dyn ObjectStore>,
    live: Mutex<HashMap<LogId, Arc<Live>>>,
    open: Mutex<VecDeque<Weak<Live>>>,
    open_max: usize,
    dirty: sync::Dirty,
}

impl Logs {
    /// Starts the logs in `root`, which must exist; as objects they lie in `place`. `fatal` is cancelled when a sync fails: what the
    /// page cache shows may then be more than what is durable, and the server must end. The handle
    /// ends after a last sync when `stop` is cancelled.
    pub fn start(
        root: PathBuf,
        place: &'static str,
        objects: Arc<dyn ObjectStore>,
        stop: CancellationToken,
        fatal: CancellationToken,
    ) -> (Self, tokio::task::JoinHandle<()>) {
        let logs = Self(Arc::new(Inner {
            root,
            place,
            objects,
            live: Mutex::default(),
            open: Mutex::default(),
            open_max: limits::log_files_open_max(),
            dirty: sync::Dirty::default(),
        }));
        let task = tokio::spawn(sync::run(logs.clone(), stop, fatal));
        (logs, task)
    }

    /// Adds bytes that begin at `offset`; returns after they are durable with the log's durable
    /// length. Bytes already there are skipped. When bytes before `offset` are missing nothing is
    /// added, and the length tells the sender where to go on.
    ///
    /// # Errors
    /// Nothing was added, or not all of it is durable: the sender must not forget the bytes.
    pub async fn append(
        &self,
        task: TaskId,
        attempt: AttemptId,
        node: u32,
        offset: u64,
        bytes: Bytes,
    ) -> Result<u64, LogError> {
        let id = LogId { task, attempt, node };
        // Nothing is awaited before the file's fair lock: chunks are written in the order they came.
        let live = self.live(id);
        let mut marks = live.mark.subscribe();
        let failures = marks.borrow_and_update().failures;
        let Some(wanted) = live.write(offset, bytes).await.map_err(LogError::of)? else {
            return Ok(marks.borrow().durable);
        };
        self.note_open(&live);
        self.0.dirty.add(&live);
        let mark = marks
            .wait_for(|mark| mark.durable >= wanted || mark.failures != failures)
            .await
            .expect("the sender lives in `live`, which is held here");
        if mark.durable >= wanted { Ok(mark.durable) } else { Err(LogError::Full) }
    }

    /// Cuts a log to what its worker knows to be acknowledged, when the worker comes back; returns
    /// the length from which it goes on.
    ///
    /// # Errors
    /// The file system or object store failed.
    pub async fn resume(&self, task: TaskId, attempt: AttemptId, node: u32, acked: u64) -> io::Result<u64> {
        self.live(LogId { task, attempt, node }).truncate(acked).await
    }

    /// Moves the logs of an attempt that is over into the object store. Repeating it is harmless.
    ///
    /// # Errors
    /// What was not moved stays where it is and is moved at the next try or start.
    pub async fn finish(&self, task: TaskId, attempt: AttemptId) -> Result<(), LogError> {
        for node in self.local_nodes(task, attempt).await? {
            self.archive(LogId { task, attempt, node }).await?;
        }
        self.lock_live().retain(|id, _| id.attempt != attempt);
        Ok(())
    }

    async fn local_nodes(&self, task: TaskId, attempt: AttemptId) -> Result<Vec<u32>, LogError> {
        let dir = self.0.root.join(task.to_string());
        let found = blocking(move || task_logs(&dir, task)).await?;
        Ok(found.into_iter().filter(|id| id.attempt == attempt).map(|id| id.node).collect())
    }

    async fn archive(&self, id: LogId) -> Result<(), LogError> {
        let live = self.live(id);
        live.archive(async |length| self.upload(id, length).await).await?;
        fetchml_failpoint::reach("log.archived");
        self.lock_live().remove(&id);
        let path = self.path(id);
        let removed = blocking(move || {
            fs::remove_file(&path)?;
            // Fails while logs of other attempts are there.
            path.parent().map_or(Ok(()), |dir| fs::remove_dir(dir).or(Ok(())))
        });
        removed.await.map_err(LogError::Io)
    }

    async fn upload(&self, id: LogId, length: u64) -> Result<(), LogError> {
        let path = self.path(id);
        let place = self.place(id);
        if length <= limits::READ_CHUNK_BYTES {
            let bytes = read_local(path.clone(), 0..length).await?;
            self.0.objects.put(&place, bytes.into()).await?;
        } else {
            let upload = self.0.objects.put_multipart(&place).await?;
            let mut upload = WriteMultipart::new_with_chunk_size(upload, limits::ARCHIVE_PART_BYTES);
            let mut at = 0;
            while at < length {
                let end = length.min(at + limits::ARCHIVE_PART_BYTES as u64);
                upload.wait_for_capacity(2).await?;
                upload.put(read_local(path.clone(), at..end).await?);
                at = end;
            }
            upload.finish().await?;
        }
        Ok(())
    }

    /// Logs that are local files: attempts that live, or were over when the server stopped.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub(crate) async fn local(&self) -> io::Result<Vec<LogId>> {
        let root = self.0.root.clone();
        blocking(move || local_logs(&root)).await
    }

    /// Durable length of a log, bytes; 0 when there is none.
    ///
    /// # Errors
    /// The file system or object store failed.
    pub(crate) async fn length(&self, id: LogId) -> Result<u64, LogError> {
        if let Some(length) = self.archived(id).await? {
            return Ok(length);
        }
        Ok(self.live(id).opened().await?)
    }

    /// Bytes of a log; fewer than asked for when the log ends before.
    ///
    /// # Errors
    /// The file system or object store failed.
    pub(crate) async fn read(&self, id: LogId, range: Range<u64>) -> Result<Bytes, LogError> {
        match read_local(self.path(id), range.clone()).await {
            Ok(bytes) => Ok(bytes),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let place = self.place(id);
                let Some(length) = size_of(&*self.0.objects, &place).await? else { return Ok(Bytes::new()) };
                let range = range.start.min(length)..range.end.min(length);
                let mut stream = read_object(&*self.0.objects, &place, range).await?;
                let mut bytes = BytesMut::new();
                while let Some(chunk) = stream.next().await {
                    bytes.extend_from_slice(&chunk?);
                }
                Ok(bytes.freeze())
            }
            Err(e) => Err(e.into()),
        }
    }

    /// The last `max_bytes` of a log.
    ///
    /// # Errors
    /// The file system or object store failed.
    pub(crate) async fn tail(&self, id: LogId, max_bytes: u64) -> Result<Bytes, LogError> {
        let length = self.length(id).await?;
        self.read(id, length.saturating_sub(max_bytes)..length).await
    }

    /// Tells each time the durable length of a live log changes.
    ///
    /// # Errors
    /// The file system failed.
    pub(crate) async fn subscribe(&self, id: LogId) -> io::Result<watch::Receiver<live::Mark>> {
        let live = self.live(id);
        live.opened().await?;
        Ok(live.mark.subscribe())
    }

    /// Length of a log that is an object already, unless a local file still has the say.
    async fn archived(&self, id: LogId) -> Result<Option<u64>, object_store::Error> {
        if self.lock_live().get(&id).is_some_and(|live| live.has_file()) || self.path(id).exists() {
            return Ok(None);
        }
        size_of(&*self.0.objects, &self.place(id)).await
    }

    fn live(&self, id: LogId) -> Arc<Live> {
        let mut all = self.lock_live();
        if all.len() >= limits::ADDRESSES_MAX {
            all.retain(|_, live| Arc::strong_count(live) > 1 || live.has_file());
        }
        Arc::clone(
            all.entry(id)
                .or_insert_with(|| Arc::new(Live::new(id, self.path(id), self.place(id), Arc::clone(&self.0.objects)))),
        )
    }

    /// Keeps the number of open files bounded: those opened longest ago are closed. One that is being
    /// used stays; the next call finds it idle.
    fn note_open(&self, live: &Arc<Live>) {
        if !live.take_newly_opened() {
            return;
        }
        let mut open = self.0.open.lock().expect("no code panics while it holds the list");
        open.push_back(Arc::downgrade(live));
        for _ in 0..open.len() {
            if open.len() <= self.0.open_max {
                break;
            }
            if let Some(oldest) = open.pop_front().and_then(|weak| weak.upgrade())
                && !oldest.try_close()
            {
                open.push_back(Arc::downgrade(&oldest));
            }
        }
    }

    fn lock_live(&self) -> MutexGuard<'_, HashMap<LogId, Arc<Live>>> {
        self.0.live.lock().expect("no code panics while it holds the map")
    }

    fn path(&self, id: LogId) -> PathBuf {
        self.0.root.join(id.task.to_string()).join(format!("{}.{}", id.attempt, id.node))
    }

    fn place(&self, id: LogId) -> ObjectPath {
        ObjectPath::from(format!("{}/{}/{}.{}", self.0.place, id.task, id.attempt, id.node))
    }
}

fn local_logs(root: &Path) -> io::Result<Vec<LogId>> {
    let mut found = Vec::new();
    for dir in fs::read_dir(root)? {
        let dir = dir?;
        if let Some(task) = dir.file_name().to_str().and_then(|n| n.parse().ok()) {
            found.extend(task_logs(&dir.path(), task)?);
        }
    }
    Ok(found)
}

fn task_logs(dir: &Path, task: TaskId) -> io::Result<Vec<LogId>> {
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for file in entries {
        let name = file?.file_name();
        let Some((attempt, node)) = name.to_str().and_then(|n| n.split_once('.')) else { continue };
        if let (Ok(attempt), Ok(node)) = (attempt.parse(), node.parse()) {
            found.push(LogId { task, attempt, node });
        }
    }
    Ok(found)
}

/// Reads bytes of a local file; fewer when it ends before.
async fn read_local(path: PathBuf, range: Range<u64>) -> io::Result<Bytes> {
    blocking(move || {
        let file = fs::File::open(path)?;
        let wanted = usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(usize::MAX);
        let mut bytes = BytesMut::zeroed(wanted);
        let mut filled = 0;
        while filled < wanted {
            match file.read_at(&mut bytes[filled..], range.start + filled as u64) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        bytes.truncate(filled);
        Ok(bytes.freeze())
    })
    .await
}

/// Runs file work on the blocking pool.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| Err(io::Error::other(e)))
}

#[cfg(test)]
mod tests;
