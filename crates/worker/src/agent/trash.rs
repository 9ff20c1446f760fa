//! Deletes what is not needed any more: moved out of the way at once, so that a half-deleted attempt is
//! never found at a restart, and deleted in batches off the runtime's threads.

use crate::limits;
use std::{
    fs, io,
    path::{Path, PathBuf},
};
use tokio::sync::mpsc;

/// The trash of a data directory.
#[derive(Debug)]
pub(crate) struct Trash {
    dir: PathBuf,
    put: mpsc::UnboundedSender<PathBuf>,
}

impl Trash {
    /// What is left over from an earlier life goes first.
    pub(crate) fn start(dir: PathBuf) -> Self {
        let (put, taken) = mpsc::unbounded_channel();
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let _ = put.send(entry.path());
        }
        tokio::spawn(empty(taken));
        Self { dir, put }
    }

    /// Throws a directory away. A missing one is away already.
    pub(crate) fn discard(&self, dir: &Path) {
        let Some(name) = dir.file_name() else { return };
        let trash = self.dir.join(name);
        match fs::rename(dir, &trash) {
            Ok(()) => {
                let _ = self.put.send(trash);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(dir = %dir.display(), %error, "cannot delete an attempt's directory"),
        }
    }
}

async fn empty(mut taken: mpsc::UnboundedReceiver<PathBuf>) {
    let mut batch = Vec::new();
    while taken.recv_many(&mut batch, limits::TRASH_BATCH).await > 0 {
        let batch = std::mem::take(&mut batch);
        if tokio::task::spawn_blocking(move || batch.iter().for_each(|dir| delete(dir))).await.is_err() {
            return;
        }
    }
}

fn delete(dir: &Path) {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(dir = %dir.display(), %error, "cannot delete an attempt's directory");
        }
        _ => {}
    }
}
