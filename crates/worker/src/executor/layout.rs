//! Where the files of an attempt lie.

use fetchml_api::AttemptId;
use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

/// The directory of one attempt: `<data>/attempts/<attempt>`. What the shim keeps there is listed
/// in [`crate::shim`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AttemptDir(PathBuf);

impl AttemptDir {
    /// The place for an attempt; nothing is created.
    pub fn new(data_dir: &Path, attempt: AttemptId) -> Self {
        Self(data_dir.join("attempts").join(attempt.to_string()))
    }

    /// The directory at that path.
    pub(crate) fn at(root: &Path) -> Self {
        Self(root.to_path_buf())
    }

    /// Names of the directories that a task sees.
    pub(crate) const DIRS: [&str; 5] = ["work", "output", "checkpoint", "home", "tmp"];

    /// Creates the directories that a task sees, open to the worker's own user only.
    ///
    /// # Errors
    /// When a directory cannot be created.
    pub fn create(&self) -> io::Result<()> {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700);
        for dir in Self::DIRS {
            builder.create(self.0.join(dir))?;
        }
        Ok(())
    }

    /// Creates the single files that a sandbox shows: what is not there cannot be shown.
    ///
    /// # Errors
    /// When one cannot be created.
    pub fn create_files(&self) -> io::Result<()> {
        fs::File::options().create(true).append(true).mode(0o600).open(self.metrics()).map(drop)
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.0
    }

    /// What the server assigned, as JSON; written by the agent before anything else.
    pub fn assignment(&self) -> PathBuf {
        self.0.join("assignment.json")
    }

    /// Hash of the Python environment that it runs in, for an agent that takes it up.
    pub fn environment(&self) -> PathBuf {
        self.0.join("environment")
    }

    /// Standard output and error, builders' output first.
    pub fn log(&self) -> PathBuf {
        self.0.join(crate::shim::files::LOG)
    }

    /// The task's copy of its snapshot and its working directory.
    pub fn work(&self) -> PathBuf {
        self.0.join("work")
    }

    /// Files left here become artifacts.
    pub fn output(&self) -> PathBuf {
        self.0.join("output")
    }

    /// Checkpoints.
    pub fn checkpoint(&self) -> PathBuf {
        self.0.join("checkpoint")
    }

    /// What a task without a sandbox that remaps finds its data sets in, and where they are seen in one that does.
    pub fn datasets(&self) -> PathBuf {
        self.0.join("datasets")
    }

    /// Its data sets as they were staged, as JSON.
    pub fn datasets_file(&self) -> PathBuf {
        self.0.join("datasets.json")
    }

    /// The task's home directory.
    pub fn home(&self) -> PathBuf {
        self.0.join("home")
    }

    /// The task's temporary files.
    pub fn tmp(&self) -> PathBuf {
        self.0.join("tmp")
    }

    /// Metrics as JSON lines.
    pub fn metrics(&self) -> PathBuf {
        self.0.join("metrics.jsonl")
    }
}
