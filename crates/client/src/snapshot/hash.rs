//! SHA-256 of many files with several threads.

use super::{
    OnProgress, Progress, SnapshotError,
    walk::{Found, FoundKind},
};
use crate::limits;
use fetchml_api::snapshot::ManifestEntry;
use sha2::{Digest as _, Sha256};
use std::{
    fs::{File, Metadata},
    io::{self, Read as _},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

/// Turns what was found into manifest entries, in the same order. Of several failures the one of the
/// first file is reported.
pub(super) fn hash_all(
    root: &Path,
    found: &[Found],
    progress: OnProgress<'_>,
) -> Result<Vec<ManifestEntry>, SnapshotError> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let threads = cores.min(limits::HASH_THREADS_MAX).min(found.len());
    let next = AtomicUsize::new(0);
    let failure: Mutex<Option<(usize, SnapshotError)>> = Mutex::new(None);
    let failed = || failure.lock().expect("no thread panics with it").is_some();
    let work = || {
        let mut done = Vec::new();
        let mut buffer = vec![0; limits::READ_BUFFER_BYTES];
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = found.get(at).filter(|_| !failed()) else { return done };
            match entry(root, item, &mut buffer, progress) {
                Ok(entry) => done.push((at, entry)),
                Err(error) => {
                    let mut failure = failure.lock().expect("no thread panics with it");
                    if failure.as_ref().is_none_or(|(first, _)| at < *first) {
                        *failure = Some((at, error));
                    }
                    return done;
                }
            }
        }
    };
    let mut done: Vec<(usize, ManifestEntry)> = if threads <= 1 {
        work()
    } else {
        thread::scope(|scope| {
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            workers.into_iter().flat_map(|worker| worker.join().expect("hashing does not panic")).collect()
        })
    };
    if let Some((_, error)) = failure.into_inner().expect("no thread panics with it") {
        return Err(error);
    }
    done.sort_unstable_by_key(|(at, _)| *at);
    Ok(done.into_iter().map(|(_, entry)| entry).collect())
}

fn entry(
    root: &Path,
    found: &Found,
    buffer: &mut [u8],
    progress: OnProgress<'_>,
) -> Result<ManifestEntry, SnapshotError> {
    match &found.kind {
        FoundKind::Link { target } => Ok(ManifestEntry {
            path: found.path.clone(),
            mode: 0o777,
            sha256: None,
            size_bytes: 0,
            link: Some(target.clone()),
        }),
        FoundKind::File { .. } => hash_file(root, &found.path, buffer, progress),
    }
}

/// The entry of one file as it is now, read again while it changes under the reader.
pub(super) fn hash_file(
    root: &Path,
    path: &str,
    buffer: &mut [u8],
    progress: OnProgress<'_>,
) -> Result<ManifestEntry, SnapshotError> {
    let read_error = |source| SnapshotError::Read { path: path.into(), source };
    for _ in 0..limits::CHANGED_FILE_TRIES {
        let mut file = File::open(root.join(path)).map_err(read_error)?;
        let before = file.metadata().map_err(read_error)?;
        let mut hasher = Sha256::new();
        let mut size_bytes = 0;
        loop {
            let read = match file.read(buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(read_error(error)),
            };
            hasher.update(&buffer[..read]);
            size_bytes += read as u64;
            if size_bytes > fetchml_api::limits::SNAPSHOT_FILE_BYTES {
                return Err(SnapshotError::FileTooLarge { path: path.into(), size_bytes });
            }
            progress(Progress::Hashed { bytes: read as u64 });
        }
        let after = file.metadata().map_err(read_error)?;
        if stamp(&before) == stamp(&after) && size_bytes == after.len() {
            let executable = after.permissions().mode() & 0o111 != 0;
            return Ok(ManifestEntry {
                path: path.into(),
                mode: if executable { 0o755 } else { 0o644 },
                sha256: Some(hex::encode(hasher.finalize())),
                size_bytes,
                link: None,
            });
        }
        progress(Progress::Changed { path: path.into() });
    }
    Err(SnapshotError::KeepsChanging { path: path.into() })
}

fn stamp(metadata: &Metadata) -> (u64, i64, i64) {
    (metadata.len(), metadata.mtime(), metadata.mtime_nsec())
}
