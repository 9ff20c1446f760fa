//! Lays out a snapshot's files. Nothing of the manifest is trusted: its hash must be the id, it must
//! have no problems, and each file's bytes and size must be the promised ones.

use super::{
    StageError,
    blobs::{BlobCache, Source, SourceError},
    outlast,
};
use crate::limits;
use fetchml_api::{
    FailureCause,
    limits::MANIFEST_BYTES,
    snapshot::{Manifest, ManifestEntry, is_snapshot_id},
};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
};

/// Puts the files of a snapshot into the directory `into`, fetching what the cache lacks.
///
/// # Errors
/// Transient when the server or the network is at fault, definite when the snapshot is.
pub async fn materialize(
    source: &impl Source,
    cache: &BlobCache,
    snapshot_id: &str,
    into: &Path,
) -> Result<Manifest, StageError> {
    let manifest = manifest(source, cache, snapshot_id).await?;
    make_directories(&manifest, into).map_err(|error| disk(into, &error))?;
    let files = manifest.entries.iter().filter_map(|entry| Some((entry, entry.sha256.as_deref()?)));
    // Made in a loop: a lazy map here hides from the compiler that the whole can move between threads.
    let mut fetches = Vec::new();
    for (entry, sha256) in files {
        fetches.push(file(source, cache, entry, sha256, into));
    }
    stream::iter(fetches).buffer_unordered(limits::BLOB_FETCHES).try_collect::<()>().await?;
    // Links last: no file can then be written through one.
    for entry in &manifest.entries {
        if let Some(target) = &entry.link {
            let path = into.join(&entry.path);
            symlink(target, &path).map_err(|error| disk(&path, &error))?;
        }
    }
    Ok(manifest)
}

async fn manifest(source: &impl Source, cache: &BlobCache, snapshot_id: &str) -> Result<Manifest, StageError> {
    if !is_snapshot_id(snapshot_id) {
        return Err(definite(format!("{snapshot_id:?} is not a snapshot id")));
    }
    let sha256 = &snapshot_id["sha256:".len()..];
    let ensure = || cache.ensure(sha256, MANIFEST_BYTES as u64, || source.manifest(snapshot_id));
    let blob = outlast(|error: &SourceError| error.is_away, ensure)
        .await
        .map_err(|error| fetch("the manifest of the snapshot", &error))?;
    let read = move || -> Result<Manifest, StageError> {
        let path = blob.path();
        let bytes = fs::read(&path).map_err(|error| disk(&path, &error))?;
        serde_json::from_slice(&bytes)
            .map_err(|error| definite(format!("the snapshot's manifest is malformed: {error}")))
    };
    let manifest = tokio::task::spawn_blocking(read).await.map_err(|error| disk(Path::new("manifest"), &error))??;
    match manifest.problems().first() {
        None => Ok(manifest),
        Some(problem) => Err(definite(format!("the snapshot's manifest is refused: {}", problem.problem))),
    }
}

fn make_directories(manifest: &Manifest, into: &Path) -> io::Result<()> {
    fs::create_dir_all(into)?;
    let parents: BTreeSet<&str> =
        manifest.entries.iter().filter_map(|entry| entry.path.rsplit_once('/')).map(|(parent, _)| parent).collect();
    parents.into_iter().try_for_each(|parent| fs::create_dir_all(into.join(parent)))
}

async fn file(
    source: &impl Source,
    cache: &BlobCache,
    entry: &ManifestEntry,
    sha256: &str,
    into: &Path,
) -> Result<(), StageError> {
    let ensure = || cache.ensure(sha256, entry.size_bytes, || source.blob(sha256));
    let blob =
        outlast(|error: &SourceError| error.is_away, ensure).await.map_err(|error| fetch(&entry.path, &error))?;
    let (path, mode, size) = (into.join(&entry.path), entry.mode, entry.size_bytes);
    let name = entry.path.clone();
    let copy = move || -> Result<(), StageError> {
        let copied = fs::copy(blob.path(), &path)
            .and_then(|copied| fs::set_permissions(&path, fs::Permissions::from_mode(mode)).map(|()| copied))
            .map_err(|error| disk(&path, &error))?;
        if copied != size {
            return Err(definite(format!("{name} has {copied} bytes; the manifest says {size}")));
        }
        Ok(())
    };
    tokio::task::spawn_blocking(copy).await.map_err(|error| disk(into, &error))?
}

fn definite(message: String) -> StageError {
    StageError { cause: FailureCause::Snapshot, transient: false, message }
}

fn disk(path: &Path, error: &impl std::fmt::Display) -> StageError {
    StageError::local(FailureCause::Snapshot, path, error)
}

fn fetch(what: &str, error: &SourceError) -> StageError {
    StageError {
        cause: FailureCause::Snapshot,
        transient: error.transient,
        message: format!("{what} could not be had: {error}"),
    }
}
