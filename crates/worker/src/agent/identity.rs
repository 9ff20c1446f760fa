//! The worker's data directory: held by one agent at a time, and what the worker remembers of itself
//! and of the server. It must not know attempts.

use crate::{
    agent::{StartError, clock},
    shim::LeaseMark,
};
use fetchml_api::WorkerId;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

/// `worker.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Remembered {
    worker_id: WorkerId,
    #[serde(default)]
    incarnation_seen: u64,
}

/// The data directory, locked for as long as this lives.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    remembered: Remembered,
    boot_id: String,
    _lock: File,
}

impl DataDir {
    /// Makes the directory if needed and takes it.
    pub(crate) fn open(path: &Path) -> Result<Self, StartError> {
        let failed = |source| StartError::DataDir { path: path.to_owned(), source };
        let path = std::path::absolute(path).map_err(failed)?;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path.join("attempts")).map_err(failed)?;
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(path.join("lock"))
            .map_err(failed)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(StartError::InUse { path }),
            Err(error) => return Err(failed(error.into())),
        }
        let file = path.join("worker.json");
        let remembered = match fs::read(&file) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|error| failed(io::Error::other(format!("worker.json cannot be read: {error}"))))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let new = Remembered { worker_id: WorkerId(uuid::Uuid::now_v7()), incarnation_seen: 0 };
                write_json(&file, &new, true).map_err(failed)?;
                new
            }
            Err(error) => return Err(failed(error)),
        };
        Ok(Self { path, remembered, boot_id: clock::boot_id(), _lock: lock })
    }

    pub(crate) fn worker_id(&self) -> WorkerId {
        self.remembered.worker_id
    }

    pub(crate) fn incarnation_seen(&self) -> u64 {
        self.remembered.incarnation_seen
    }

    pub(crate) fn boot_id(&self) -> &str {
        &self.boot_id
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Where the directories of attempts are.
    pub(crate) fn attempts(&self) -> PathBuf {
        self.path.join("attempts")
    }

    /// Remembers a higher incarnation of the server.
    pub(crate) fn incarnation_saw(&mut self, incarnation: u64) -> io::Result<()> {
        if incarnation > self.remembered.incarnation_seen {
            self.remembered.incarnation_seen = incarnation;
            write_json(&self.path.join("worker.json"), &self.remembered, true)?;
        }
        Ok(())
    }

    /// Where the last acknowledged beat is remembered, for the next agent and for shims.
    pub(crate) fn lease_file(&self) -> PathBuf {
        self.path.join("lease.json")
    }

    /// The last acknowledged beat, if it is of this boot.
    pub(crate) fn lease_mark(&self) -> Option<LeaseMark> {
        let mark: LeaseMark = serde_json::from_slice(&fs::read(self.lease_file()).ok()?).ok()?;
        (mark.boot_id == self.boot_id && mark.sent_ms <= clock::boottime_ms()).then_some(mark)
    }

    /// Remembers the last acknowledged beat. Not synced: it is of use only within this boot.
    pub(crate) fn lease_mark_put(&self, sent_ms: u64, lost_after_s: u32) -> io::Result<()> {
        let mark = LeaseMark { boot_id: self.boot_id.clone(), sent_ms, lost_after_s };
        write_json(&self.lease_file(), &mark, false)
    }
}

/// Writes a file whole or not at all: beside it, then renamed over it.
pub(crate) fn write_json(path: &Path, value: &impl Serialize, sync: bool) -> io::Result<()> {
    let bytes = serde_json::to_vec(value).map_err(io::Error::other)?;
    let new = path.with_extension("new");
    let mut file = File::options().create(true).write(true).truncate(false).mode(0o600).open(&new)?;
    file.write_all(&bytes)?;
    // Cut after writing, not before: ext4 writes a file that was emptied first to disk when it is closed.
    file.set_len(bytes.len() as u64)?;
    if sync {
        file.sync_data()?;
    }
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_stays_and_a_second_agent_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = DataDir::open(dir.path()).unwrap();
        let id = first.worker_id();
        assert!(matches!(DataDir::open(dir.path()), Err(StartError::InUse { .. })));
        first.incarnation_saw(7).unwrap();
        first.incarnation_saw(3).unwrap();
        drop(first);
        let again = DataDir::open(dir.path()).unwrap();
        assert_eq!((again.worker_id(), again.incarnation_seen()), (id, 7));
    }
}
