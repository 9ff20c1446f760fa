//! The data directory: who may read it, who owns it, and the small secret files in it.
//!
//! ```text
//! lock         held by the running server; holds its process id
//! pepper       32 random bytes that key digests are made with
//! secrets.key  the keys that secrets are sealed with
//! admin.key    the first admin key
//! worker.key   the key of the worker on this machine
//! tls.crt      the server's own certificate, where it has one (`--tls self-signed`)
//! tls.key      its private key
//! fetchml.db   SQLite, unless PostgreSQL is used
//! objects/     blobs, logs and metrics of ended attempts
//! logs/        logs of running attempts
//! metrics/     their metrics
//! ```

use rustix::fs::{FlockOperation, flock};
use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

/// A data directory that this process owns until it is dropped.
#[derive(Debug)]
pub struct DataDir {
    root: PathBuf,
    _lock: File,
}

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// Another server runs on it.
    #[error(
        "the data directory {} is in use by another server{}; stop that one or choose another --data-dir",
        root.display(), holder.map(|pid| format!(" (process {pid})")).unwrap_or_default()
    )]
    InUse {
        /// The directory.
        root: PathBuf,
        /// Its process, if it could be told.
        holder: Option<u32>,
    },
    /// It cannot be made or written.
    #[error("the data directory {} cannot be used; make it writable or choose another --data-dir", root.display())]
    Unusable {
        /// The directory.
        root: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl DataDir {
    /// Makes the directory if needed and takes it.
    ///
    /// # Errors
    /// It is in use or cannot be used.
    pub fn take(root: &Path) -> Result<Self, DataDirError> {
        let unusable = |source| DataDirError::Unusable { root: root.to_owned(), source };
        if !root.exists() {
            private_dir(root).map_err(unusable)?;
        }
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(root.join("lock"))
            .map_err(unusable)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut text = String::new();
                let holder = lock.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
                return Err(DataDirError::InUse { root: root.to_owned(), holder });
            }
            Err(errno) => return Err(unusable(errno.into())),
        }
        lock.set_len(0).map_err(unusable)?;
        writeln!(lock, "{}", std::process::id()).map_err(unusable)?;
        Ok(Self { root: root.to_owned(), _lock: lock })
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A path in it.
    pub fn join(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The directory `name` in it, made with mode 0700 if needed.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn dir(&self, name: &str) -> Result<PathBuf, DataDirError> {
        let path = self.join(name);
        private_dir(&path).map_err(|source| DataDirError::Unusable { root: self.root.clone(), source })?;
        Ok(path)
    }

    /// Reads a secret file; `None` when there is none.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read_secret(&self, name: &str) -> Result<Option<Vec<u8>>, DataDirError> {
        match fs::read(self.join(name)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(DataDirError::Unusable { root: self.root.clone(), source }),
        }
    }

    /// Writes a secret file with mode 0600, durably, whole or not at all.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write_secret(&self, name: &str, bytes: &[u8]) -> Result<PathBuf, DataDirError> {
        let path = self.join(name);
        let write = || -> io::Result<()> {
            let temporary = self.join(&format!("{name}.new"));
            let _ = fs::remove_file(&temporary);
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&temporary, &path)?;
            File::open(&self.root)?.sync_all()
        };
        write().map_err(|source| DataDirError::Unusable { root: self.root.clone(), source })?;
        Ok(path)
    }

    /// The 32 bytes that key digests are made with; drawn at the first start.
    ///
    /// # Errors
    /// They cannot be read, written or drawn.
    pub fn pepper(&self) -> Result<[u8; 32], DataDirError> {
        if let Some(bytes) = self.read_secret("pepper")? {
            return bytes.try_into().map_err(|_| self.unusable("the file `pepper` is not 32 bytes long".into()));
        }
        let mut pepper = [0; 32];
        getrandom::fill(&mut pepper).map_err(|e| self.unusable(format!("no random numbers: {e}")))?;
        self.write_secret("pepper", &pepper)?;
        Ok(pepper)
    }

    /// The error that says that something in it is not as it should be.
    pub(crate) fn unusable(&self, why: String) -> DataDirError {
        DataDirError::Unusable { root: self.root.clone(), source: io::Error::other(why) }
    }
}

fn private_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_second_server_is_refused_and_told_who_has_it() {
        let parent = tempfile::tempdir().unwrap();
        let root = parent.path().join("a/b");
        let first = DataDir::take(&root).unwrap();
        let refused = DataDir::take(&root).unwrap_err();
        let pid = std::process::id();
        assert!(matches!(refused, DataDirError::InUse { holder: Some(p), .. } if p == pid), "{refused}");
        assert!(refused.to_string().contains("--data-dir"));
        drop(first);
        DataDir::take(&root).unwrap();
    }

    #[test]
    fn everything_is_private_and_the_pepper_stays() {
        let parent = tempfile::tempdir().unwrap();
        let root = parent.path().join("data");
        let dir = DataDir::take(&root).unwrap();
        let pepper = dir.pepper().unwrap();
        assert_eq!(dir.pepper().unwrap(), pepper);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&root), 0o700);
        assert_eq!(mode(&root.join("pepper")), 0o600);
        assert_eq!(mode(&root.join("lock")), 0o600);
        assert_eq!(mode(&dir.dir("logs").unwrap()), 0o700);
    }
}
