//! Snapshots of a working directory: which files belong to it, their hashes, and the upload of what the
//! server lacks. Reads the directory, never writes to it.
//!
//! Left out: what `.gitignore` and `.fetchmlignore` say (also outside of a git repository), and always
//! `.git`, `.fetchml`, `__pycache__`, `.venv` and any other directory that holds a `pyvenv.cfg`.

mod hash;
mod upload;
mod walk;

pub use upload::Uploaded;

use crate::limits;
use bytes::Bytes;
use fetchml_api::snapshot::Manifest;
use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
};

/// A directory as it was when it was read.
#[derive(Clone, Debug)]
pub struct Snapshot {
    root: PathBuf,
    manifest: Manifest,
    canonical: Bytes,
    id: String,
    /// Blob hash to the index of an entry that has it.
    blobs: HashMap<String, usize>,
    skipped: Vec<String>,
}

/// How building or uploading goes on.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Progress {
    /// The files are known; hashing begins.
    Found {
        /// Number of files and links.
        files: u64,
        /// Sum of the sizes, bytes.
        bytes: u64,
    },
    /// Some bytes more were hashed.
    Hashed {
        /// How many more.
        bytes: u64,
    },
    /// The server was asked what it lacks.
    Missing {
        /// Blobs to send.
        blobs: u64,
        /// Their sizes, bytes.
        bytes: u64,
        /// Files and links in the snapshot.
        files: u64,
    },
    /// Some bytes more were sent.
    Sent {
        /// How many more.
        bytes: u64,
    },
    /// A file changed since it was hashed; it is read again.
    Changed {
        /// The file, below the root.
        path: String,
    },
}

/// Hears of progress; called from several threads.
pub type OnProgress<'a> = &'a (dyn Fn(Progress) + Send + Sync);

/// Why a directory cannot become a snapshot.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// The root is not a directory that can be read.
    #[error("cannot take a snapshot of {}: {source}", path.display())]
    Root {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something inside cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file, below the root.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// An ignore file or the walk itself failed.
    #[error("cannot list the files: {0}")]
    Walk(String),
    /// A name that no manifest can hold.
    #[error("{path:?} {problem}")]
    BadPath {
        /// The file, below the root.
        path: String,
        /// What is wrong with its name.
        problem: String,
    },
    /// A symbolic link that leads out of the directory.
    #[error("the symbolic link {path:?} leads out of the directory, to {target:?}")]
    LinkOutside {
        /// The link, below the root.
        path: String,
        /// Where it leads.
        target: String,
    },
    /// A file too large for a snapshot.
    #[error(
        "{path} is {size_bytes} bytes; a file of a snapshot may have at most {}",
        fetchml_api::limits::SNAPSHOT_FILE_BYTES
    )]
    FileTooLarge {
        /// The file, below the root.
        path: String,
        /// Its size, bytes.
        size_bytes: u64,
    },
    /// More files than a snapshot may hold.
    #[error("more than {} files", fetchml_api::limits::MANIFEST_FILES)]
    TooManyFiles {
        /// The entry of the root that holds most of them.
        largest: String,
        /// How many it holds.
        files: u64,
    },
    /// Paths so long that the manifest is too large.
    #[error("the list of files is {size_bytes} bytes; at most {} are allowed", fetchml_api::limits::MANIFEST_BYTES)]
    ManifestTooLarge {
        /// The entry of the root that holds most files.
        largest: String,
        /// Size of the manifest, bytes.
        size_bytes: u64,
    },
    /// A file that something keeps writing to.
    #[error("{path} keeps changing while it is read ({} tries)", limits::CHANGED_FILE_TRIES)]
    KeepsChanging {
        /// The file, below the root.
        path: String,
    },
    /// What the manifest type itself refuses.
    #[error("{0}")]
    Manifest(String),
    /// A hash that is not one.
    #[error("{text:?} is not a SHA-256 in lower-case hex")]
    NotAHash {
        /// What was given.
        text: String,
    },
}

impl SnapshotError {
    /// What a person may do about it.
    pub fn hint(&self) -> Option<String> {
        let ignore = |pattern: &str| format!("add `/{pattern}` to .fetchmlignore to leave it out");
        match self {
            Self::Root { .. } => Some("name another directory with --dir, or use --no-snapshot".into()),
            Self::Read { path, .. } | Self::BadPath { path, .. } | Self::FileTooLarge { path, .. } => {
                Some(ignore(path))
            }
            Self::LinkOutside { path, .. } => {
                Some(format!("copy what it points to into the directory, or add `/{path}` to .fetchmlignore"))
            }
            Self::TooManyFiles { largest, files } => {
                Some(format!("{largest:?} holds {files} of them: {}", ignore(largest)))
            }
            Self::ManifestTooLarge { largest, .. } => {
                Some(format!("most files lie in {largest:?}: {}", ignore(largest)))
            }
            Self::KeepsChanging { path } => Some(format!("stop what writes to it, or add `/{path}` to .fetchmlignore")),
            Self::Walk(_) | Self::Manifest(_) | Self::NotAHash { .. } => None,
        }
    }
}

impl Snapshot {
    /// Reads `root`: lists what belongs to the snapshot and hashes it with several threads. Blocks.
    ///
    /// # Errors
    /// The first file that cannot be part of a snapshot.
    pub fn build(root: &Path, progress: OnProgress<'_>) -> Result<Self, SnapshotError> {
        let root = root.canonicalize().map_err(|source| SnapshotError::Root { path: root.into(), source })?;
        if !root.is_dir() {
            return Err(SnapshotError::Root { path: root, source: io::ErrorKind::NotADirectory.into() });
        }
        let listing = walk::list(&root)?;
        progress(Progress::Found { files: listing.found.len() as u64, bytes: listing.size_bytes() });
        let entries = hash::hash_all(&root, &listing.found, progress)?;
        let mut snapshot = Self {
            root,
            manifest: Manifest { entries },
            canonical: Bytes::new(),
            id: String::new(),
            blobs: HashMap::new(),
            skipped: listing.skipped,
        };
        snapshot.seal()?;
        let problems = snapshot.manifest.problems();
        match problems.first() {
            Some(problem) => Err(SnapshotError::Manifest(problem.problem.clone())),
            None => Ok(snapshot),
        }
    }

    /// `sha256:<hex>` of the canonical manifest.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The files and links.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The canonical bytes of the manifest.
    pub fn canonical(&self) -> Bytes {
        self.canonical.clone()
    }

    /// Things that are neither files, directories nor links and were left out; at most
    /// [`limits::SKIPPED_LISTED`] of them.
    pub fn skipped(&self) -> &[String] {
        &self.skipped
    }

    /// Brings id, canonical bytes and the index of blobs in line with the entries.
    fn seal(&mut self) -> Result<(), SnapshotError> {
        let canonical = self.manifest.canonicalize();
        if canonical.len() > fetchml_api::limits::MANIFEST_BYTES {
            let (largest, _) = walk::largest_part(self.manifest.entries.iter().map(|entry| entry.path.as_str()));
            return Err(SnapshotError::ManifestTooLarge { largest, size_bytes: canonical.len() as u64 });
        }
        self.id = Manifest::id_of(&canonical);
        self.canonical = canonical.into();
        let entries = self.manifest.entries.iter().enumerate();
        self.blobs = entries.filter_map(|(at, entry)| Some((entry.sha256.clone()?, at))).collect();
        Ok(())
    }
}

#[cfg(test)]
mod tests;
