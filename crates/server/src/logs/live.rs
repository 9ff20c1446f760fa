//! One growing log file.

use super::{LogId, blocking};
use crate::blobs::size_of;
use bytes::Bytes;
use object_store::{ObjectStore, path::Path as ObjectPath};
use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};
use tokio::sync::{Mutex, watch};

/// How far a log is safe.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Mark {
    /// Bytes on the disk.
    pub(crate) durable: u64,
    /// Syncs that failed for want of space.
    pub(super) failures: u32,
}

/// A log file and what is known of it.
pub(super) struct Live {
    pub(super) id: LogId,
    path: PathBuf,
    /// Where the object lies.
    place: ObjectPath,
    objects: Arc<dyn ObjectStore>,
    state: Mutex<State>,
    has_file: AtomicBool,
    newly_opened: AtomicBool,
    pub(super) mark: watch::Sender<Mark>,
}

#[derive(Default)]
struct State {
    handle: Option<Arc<File>>,
    /// Bytes written; `None` until the file was looked at.
    length: Option<u64>,
    /// The directory entries of the file are durable.
    entry_synced: bool,
    /// The log is an object: nothing is added any more.
    archived: bool,
}

impl Live {
    pub(super) fn new(id: LogId, path: PathBuf, place: ObjectPath, objects: Arc<dyn ObjectStore>) -> Self {
        Self {
            id,
            path,
            place,
            objects,
            state: Mutex::default(),
            has_file: AtomicBool::new(false),
            newly_opened: AtomicBool::new(false),
            mark: watch::Sender::new(Mark::default()),
        }
    }

    /// Whether the file exists, as far as this process has seen.
    pub(super) fn has_file(&self) -> bool {
        self.has_file.load(Ordering::Acquire)
    }

    /// Whether the file was opened since the last call.
    pub(super) fn take_newly_opened(&self) -> bool {
        self.newly_opened.swap(false, Ordering::AcqRel)
    }

    /// Closes the file unless it is being used; it is opened again when needed.
    pub(super) fn try_close(&self) -> bool {
        self.state.try_lock().map(|mut state| state.handle = None).is_ok()
    }

    /// Looks at the file if that was not done yet; returns the durable length.
    pub(super) async fn opened(&self) -> io::Result<u64> {
        let mut state = self.state.lock().await;
        self.look(&mut state).await?;
        Ok(self.mark.borrow().durable)
    }

    /// What an earlier server left is made durable before it counts.
    async fn look(&self, state: &mut State) -> io::Result<u64> {
        if let Some(length) = state.length {
            return Ok(length);
        }
        let path = self.path.clone();
        let found = blocking(move || match File::open(&path) {
            Ok(file) => {
                file.sync_all()?;
                Ok(Some(file.metadata()?.len()))
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        })
        .await?;
        let length = if let Some(length) = found {
            self.has_file.store(true, Ordering::Release);
            length
        } else {
            let object = size_of(&*self.objects, &self.place).await.map_err(io::Error::other)?;
            state.archived = object.is_some();
            object.unwrap_or(0)
        };
        state.length = Some(length);
        self.mark.send_modify(|mark| mark.durable = length);
        Ok(length)
    }

    async fn handle(&self, state: &mut State) -> io::Result<Arc<File>> {
        if let Some(handle) = &state.handle {
            return Ok(Arc::clone(handle));
        }
        let path = self.path.clone();
        let file = blocking(move || open(&path)).await?;
        let file = Arc::new(file);
        state.handle = Some(Arc::clone(&file));
        self.has_file.store(true, Ordering::Release);
        self.newly_opened.store(true, Ordering::Release);
        Ok(file)
    }

    /// Writes what is new of `bytes`; returns the length that must become durable, or `None` when
    /// bytes before `offset` are missing or the log is closed.
    pub(super) async fn write(&self, offset: u64, bytes: Bytes) -> io::Result<Option<u64>> {
        let mut state = self.state.lock().await;
        let length = self.look(&mut state).await?;
        if offset > length || state.archived {
            return Ok(None);
        }
        let end = offset + bytes.len() as u64;
        if end <= length {
            return Ok(Some(end));
        }
        let file = self.handle(&mut state).await?;
        let fresh = bytes.slice((length - offset) as usize..);
        blocking(move || {
            file.write_all_at(&fresh, length).inspect_err(|_| {
                // Half a write is taken back; if that fails too, the next one overwrites it.
                let _ = file.set_len(length);
            })
        })
        .await?;
        fetchml_failpoint::reach("log.written");
        state.length = Some(end);
        Ok(Some(end))
    }

    /// Cuts the file to at most `max` bytes; returns its length.
    pub(super) async fn truncate(&self, max: u64) -> io::Result<u64> {
        let mut state = self.state.lock().await;
        let length = self.look(&mut state).await?;
        if length <= max || state.archived {
            return Ok(length);
        }
        let file = self.handle(&mut state).await?;
        blocking(move || {
            file.set_len(max)?;
            file.sync_all()
        })
        .await?;
        state.length = Some(max);
        self.mark.send_modify(|mark| mark.durable = mark.durable.min(max));
        Ok(max)
    }

    /// Makes everything written durable and lets `upload` move the file; nothing is added meanwhile
    /// or, when that went well, ever after.
    pub(super) async fn archive<E: From<io::Error>>(
        &self,
        upload: impl AsyncFnOnce(u64) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut state = self.state.lock().await;
        let length = self.sync_all_locked(&mut state).await?;
        if !state.archived {
            upload(length).await?;
            state.archived = true;
            state.handle = None;
        }
        Ok(())
    }

    /// Lets `remove` take the file away; nothing is added meanwhile or, when that went well, ever after.
    pub(super) async fn discard<E>(&self, remove: impl AsyncFnOnce() -> Result<(), E>) -> Result<(), E> {
        let mut state = self.state.lock().await;
        remove().await?;
        *state = State { length: Some(0), archived: true, ..State::default() };
        self.has_file.store(false, Ordering::Release);
        Ok(())
    }

    /// Makes everything written durable.
    pub(super) async fn sync_all(&self) -> io::Result<()> {
        self.sync_all_locked(&mut *self.state.lock().await).await.map(drop)
    }

    async fn sync_all_locked(&self, state: &mut State) -> io::Result<u64> {
        let length = self.look(state).await?;
        if !state.archived && self.has_file() && self.mark.borrow().durable < length {
            self.sync_locked(state, length).await?;
        }
        Ok(length)
    }

    async fn sync_locked(&self, state: &mut State, length: u64) -> io::Result<()> {
        let file = self.handle(state).await?;
        let parents = (!state.entry_synced).then(|| self.path.clone());
        let synced = blocking(move || {
            file.sync_data()?;
            parents.as_deref().map_or(Ok(()), sync_parents)
        })
        .await;
        match synced {
            Ok(()) => {
                fetchml_failpoint::reach("log.synced");
                state.entry_synced = true;
                self.mark.send_modify(|mark| mark.durable = length);
                Ok(())
            }
            Err(error) => {
                if super::is_full(&error) {
                    // What could not be written is given up here; its sender still has it.
                    let durable = self.mark.borrow().durable;
                    if let Some(file) = &state.handle {
                        let _ = file.set_len(durable);
                    }
                    state.length = Some(durable);
                }
                self.mark.send_modify(|mark| mark.failures += 1);
                Err(error)
            }
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// The file's entry in its directory, and that directory's entry in the root of all logs.
fn sync_parents(path: &Path) -> io::Result<()> {
    for dir in path.ancestors().skip(1).take(2) {
        File::open(dir)?.sync_all()?;
    }
    Ok(())
}
