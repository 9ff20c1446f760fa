//! Deletes what is not needed any more: moved out of the way at once, so that a half-deleted attempt is
//! never found at a restart, and deleted later, off the runtime's threads.

use crate::{agent::spare::Spares, limits};
use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, timeout_at},
};

/// The trash of a data directory.
#[derive(Debug)]
pub(crate) struct Trash {
    dir: PathBuf,
    put: mpsc::UnboundedSender<PathBuf>,
    hurry: Arc<Notify>,
    spares: Option<Spares>,
}

impl Trash {
    /// What is left over from an earlier life goes first. With `reuse`, what is as good as new is kept
    /// as a spare.
    pub(crate) fn start(dir: PathBuf, reuse: bool) -> Self {
        let (put, taken) = mpsc::unbounded_channel();
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let _ = put.send(entry.path());
        }
        let spares = reuse.then(Spares::default);
        let hurry = Arc::new(Notify::new());
        tokio::spawn(empty(taken, spares.clone(), hurry.clone()));
        Self { dir, put, hurry, spares }
    }

    /// Makes the directory of an attempt from a spare; `false` when there is none.
    pub(crate) fn take_spare(&self, root: &Path) -> bool {
        self.spares.as_ref().is_some_and(|spares| spares.take(root))
    }

    /// Deletes what waits now, whatever else goes on: its room is needed.
    pub(crate) fn hurry(&self) {
        self.hurry.notify_one();
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

/// Waits for a quiet moment: deleting competes with the starts of tasks for the file system, and some
/// file systems pass over every inode freed in the last minutes when they look for a new one. The wait
/// is bounded by time and by count.
async fn empty(mut taken: mpsc::UnboundedReceiver<PathBuf>, spares: Option<Spares>, hurry: Arc<Notify>) {
    let is_kept = |dir: &Path| spares.as_ref().is_some_and(|spares| spares.keep(dir));
    let mut waiting = Vec::new();
    while let Some(first) = taken.recv().await {
        if is_kept(&first) {
            continue;
        }
        waiting.push(first);
        let deadline = Instant::now() + limits::TRASH_WAIT_MAX;
        while waiting.len() < limits::TRASH_WAITING_MAX {
            let quiet = deadline.min(Instant::now() + limits::TRASH_QUIET);
            let next = tokio::select! {
                next = timeout_at(quiet, taken.recv()) => next,
                () = hurry.notified() => break,
            };
            match next {
                Ok(Some(next)) if is_kept(&next) => {}
                Ok(Some(next)) => waiting.push(next),
                Ok(None) | Err(_) => break,
            }
        }
        let batch = std::mem::take(&mut waiting);
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
