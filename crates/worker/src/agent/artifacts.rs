//! Finds the files a task left in its output directory and brings them to the server. User code is
//! hostile: every step is relative to an open directory, follows no link and takes regular files only.
//! What is uploaded is the file that was hashed, or nothing.

use crate::limits;
use fetchml_api::{Artifact, FailureCause, limits as wire};
use fetchml_client::{BlobSource, Client, ClientError};
use rustix::{
    fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, fstat, openat, statat},
    io::Errno,
};
use sha2::{Digest as _, Sha256};
use std::{
    fs::File,
    io::{self, Read as _},
    os::{
        fd::{AsFd, AsRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
};
use tokio::sync::Semaphore;

/// Why files could not be brought in; ends the attempt.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct CollectError {
    pub(crate) cause: FailureCause,
    pub(crate) transient: bool,
    pub(crate) message: String,
}

impl CollectError {
    fn quota(message: String) -> Self {
        Self { cause: FailureCause::Quota, transient: false, message }
    }

    /// The worker's own fault: the server queues the task again.
    fn own(message: String) -> Self {
        Self { cause: FailureCause::Launch, transient: true, message }
    }
}

/// Whether the directory holds nothing at all. A missing one holds nothing.
pub(crate) fn is_empty(output: &Path) -> io::Result<bool> {
    match std::fs::read_dir(output) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error),
    }
}

/// Hashes and uploads every regular file below `output`; tries again while the server is away.
pub(crate) async fn collect(
    output: PathBuf,
    client: &Client,
    uploads: &Semaphore,
) -> Result<Vec<Artifact>, CollectError> {
    let root = output.clone();
    let artifacts = tokio::task::spawn_blocking(move || find(&root))
        .await
        .map_err(|error| CollectError::own(format!("the output directory could not be read: {error}")))??;
    for artifact in &artifacts {
        bring(&output, artifact, client, uploads).await?;
    }
    Ok(artifacts)
}

/// Uploads one hashed file, unless the server has its bytes; tries again while the server is away.
pub(crate) async fn bring(
    root: &Path,
    artifact: &Artifact,
    client: &Client,
    uploads: &Semaphore,
) -> Result<(), CollectError> {
    let _permit = uploads.acquire().await.expect("never closed");
    let file = open_beneath(root, &artifact.path)
        .map_err(|error| CollectError::own(format!("output file {} cannot be read: {error}", artifact.path)))?;
    upload(client, artifact, &file).await
}

async fn upload(client: &Client, artifact: &Artifact, file: &File) -> Result<(), CollectError> {
    // Through the open file, not its name: the name may be anything by now. The client checks the hash.
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    let mut pause = limits::UPLOAD_RETRY_FIRST;
    let mut unexpected = 0;
    loop {
        let result = match client.blob_exists(&artifact.sha256).await {
            Ok(true) => Ok(()),
            Ok(false) => client.blob_put(&artifact.sha256, artifact.size_bytes, BlobSource::File(path.clone())).await,
            Err(error) => Err(error),
        };
        match result {
            Ok(()) => return Ok(()),
            Err(error) if error.is_transient() || is_server_fault(&error) || is_passing(&error, &mut unexpected) => {
                tracing::debug!(path = artifact.path, %error, "an upload failed and is tried again");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(limits::UPLOAD_RETRY_MAX);
            }
            Err(ClientError::Api { status: 413, .. }) => {
                return Err(CollectError::quota(format!(
                    "output file {} ({} bytes) is larger than the server takes",
                    artifact.path, artifact.size_bytes
                )));
            }
            Err(error) => {
                return Err(CollectError::own(format!("output file {} could not be uploaded: {error}", artifact.path)));
            }
        }
    }
}

/// A server that failed in itself, such as on a full disk, may recover; the files wait here safely.
pub(crate) fn is_server_fault(error: &ClientError) -> bool {
    matches!(error, ClientError::Api { status: 500.., .. })
}

/// What a proxy says while the server behind it is away is no word of the server's; but it may stay so.
fn is_passing(error: &ClientError, unexpected: &mut u32) -> bool {
    *unexpected += u32::from(matches!(error, ClientError::Protocol { .. }));
    matches!(error, ClientError::Protocol { .. }) && *unexpected < limits::UPLOAD_UNEXPECTED_MAX
}

/// A regular file as it was seen, and by what a change of it shows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Seen {
    /// Below the directory that was listed.
    pub(crate) path: String,
    pub(crate) size_bytes: u64,
    pub(crate) identity: Identity,
}

/// Which file it is and when it was last written to or renamed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Identity {
    device: u64,
    inode: u64,
    modified: (i64, u64),
    changed: (i64, u64),
}

impl Seen {
    /// Whether nothing was written since it got its name: a rename changes the inode's own time and not that of
    /// its bytes. Where both fell into one tick of the clock, nobody can tell.
    pub(crate) fn is_renamed(&self) -> bool {
        self.identity.changed > self.identity.modified
    }

    fn new(path: String, stat: &rustix::fs::Stat) -> Self {
        let identity = Identity {
            device: stat.st_dev,
            inode: stat.st_ino,
            modified: (stat.st_mtime, stat.st_mtime_nsec),
            changed: (stat.st_ctime, stat.st_ctime_nsec),
        };
        Self { path, size_bytes: u64::try_from(stat.st_size).unwrap_or(0), identity }
    }
}

/// Every regular file below `root`, by path.
pub(crate) fn list(root: &Path) -> Result<Vec<Seen>, CollectError> {
    let root = match open_dir(CWD, root) {
        Ok(root) => root,
        Err(Errno::NOENT) => return Ok(Vec::new()),
        Err(error) => return Err(CollectError::own(format!("the output directory cannot be opened: {error}"))),
    };
    let mut walk = Walk { found: Vec::new(), seen: 0 };
    walk.directory(&root, "", 0)?;
    walk.found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(walk.found)
}

fn find(output: &Path) -> Result<Vec<Artifact>, CollectError> {
    let mut artifacts = Vec::new();
    for seen in list(output)? {
        let failed = |error: io::Error| CollectError::own(format!("output file {} cannot be read: {error}", seen.path));
        artifacts.extend(hash(output, &seen).map_err(failed)?);
    }
    Ok(artifacts)
}

/// Hashes a file of the list; nothing when it is no regular file any more.
pub(crate) fn hash(root: &Path, seen: &Seen) -> io::Result<Option<Artifact>> {
    let mut file = open_beneath(root, &seen.path)?;
    if FileType::from_raw_mode(fstat(&file)?.st_mode) != FileType::RegularFile {
        return Ok(None);
    }
    let mut buffer = vec![0; limits::HASH_BUFFER_BYTES];
    let (mut hasher, mut size_bytes) = (Sha256::new(), 0_u64);
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => {
                hasher.update(&buffer[..read]);
                size_bytes += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Some(Artifact { path: seen.path.clone(), size_bytes, sha256: hex::encode(hasher.finalize()) }))
}

fn open_dir(at: impl AsFd, name: impl rustix::path::Arg) -> Result<OwnedFd, Errno> {
    openat(at, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

/// Opens a file found by [`find`], following no link on the way.
fn open_beneath(root: &Path, path: &str) -> Result<File, Errno> {
    let mut dir = open_dir(CWD, root)?;
    let (parents, name) = path.rsplit_once('/').unwrap_or(("", path));
    for part in parents.split('/').filter(|part| !part.is_empty()) {
        dir = open_dir(&dir, part)?;
    }
    openat(&dir, name, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())
        .map(File::from)
}

struct Walk {
    found: Vec<Seen>,
    seen: usize,
}

impl Walk {
    fn directory(&mut self, dir: &OwnedFd, prefix: &str, depth: usize) -> Result<(), CollectError> {
        if depth > limits::OUTPUT_DEPTH_MAX {
            return Err(CollectError::quota(format!(
                "the output directory is deeper than {} levels",
                limits::OUTPUT_DEPTH_MAX
            )));
        }
        let unreadable = |what: &str, error: Errno| {
            CollectError::own(format!("{what} in the output directory cannot be read: {error}"))
        };
        let shown = if prefix.is_empty() { "." } else { prefix };
        for entry in Dir::read_from(dir).map_err(|error| unreadable(shown, error))? {
            let entry = entry.map_err(|error| unreadable(shown, error))?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            self.seen += 1;
            if self.seen > limits::OUTPUT_ENTRIES_MAX {
                return Err(CollectError::quota(format!(
                    "the output directory holds more than {} entries",
                    limits::OUTPUT_ENTRIES_MAX
                )));
            }
            let Ok(text) = name.to_str() else {
                return Err(CollectError::quota(format!(
                    "an output file's name is not UTF-8: {}; rename it",
                    std::ffi::OsStr::from_bytes(name.to_bytes()).display()
                )));
            };
            let path = if prefix.is_empty() { text.to_owned() } else { format!("{prefix}/{text}") };
            let kind = match entry.file_type() {
                FileType::Unknown => match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                    Err(error) => return Err(unreadable(&path, error)),
                },
                kind => kind,
            };
            match kind {
                FileType::Directory => {
                    let below = open_dir(dir, name).map_err(|error| unreadable(&path, error))?;
                    self.directory(&below, &path, depth + 1)?;
                }
                FileType::RegularFile => self.file(dir, name, path)?,
                // Links, devices, sockets and pipes are not output.
                _ => tracing::debug!(path, "skipped in the output directory: not a regular file"),
            }
        }
        Ok(())
    }

    fn file(&mut self, dir: &OwnedFd, name: &std::ffi::CStr, path: String) -> Result<(), CollectError> {
        if self.found.len() == wire::ARTIFACTS_MAX {
            return Err(CollectError::quota(format!(
                "more than {} files in the output directory; pack them into fewer",
                wire::ARTIFACTS_MAX
            )));
        }
        if let Err(problem) = fetchml_api::snapshot::check_relative_path(&path) {
            return Err(CollectError::quota(format!("the path of output file {path:?} {problem}; rename it")));
        }
        let stat = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|error| CollectError::own(format!("output file {path} cannot be read: {error}")))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Ok(());
        }
        let seen = Seen::new(path, &stat);
        if seen.size_bytes > wire::ARTIFACT_BYTES {
            return Err(CollectError::quota(format!(
                "output file {} has {} bytes, more than the {} of one artifact",
                seen.path,
                seen.size_bytes,
                wire::ARTIFACT_BYTES
            )));
        }
        self.found.push(seen);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn regular_files_only_and_no_link_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let output = dir.path().join("output");
        fs::create_dir_all(output.join("a/b")).unwrap();
        fs::write(output.join("a/b/model.bin"), b"weights").unwrap();
        fs::write(output.join("metrics.json"), b"{}").unwrap();
        fs::write(dir.path().join("secret"), b"key").unwrap();
        std::os::unix::fs::symlink(dir.path().join("secret"), output.join("leak")).unwrap();
        std::os::unix::fs::symlink(dir.path(), output.join("updir")).unwrap();
        std::os::unix::net::UnixListener::bind(output.join("socket")).unwrap();
        let found = find(&output).unwrap();
        let paths: Vec<_> = found.iter().map(|found| found.path.as_str()).collect();
        assert_eq!(paths, ["a/b/model.bin", "metrics.json"]);
        assert_eq!(found[0].sha256, hex::encode(Sha256::digest(b"weights")));
        assert!(find(&dir.path().join("updir")).unwrap().is_empty());
        std::os::unix::fs::symlink(&output, dir.path().join("linked")).unwrap();
        assert!(find(&dir.path().join("linked")).is_err());
    }

    #[test]
    fn a_missing_directory_is_empty() {
        let dir = tempfile::tempdir().unwrap();
        assert!(is_empty(&dir.path().join("none")).unwrap());
        assert!(is_empty(dir.path()).unwrap());
        fs::write(dir.path().join("x"), b"").unwrap();
        assert!(!is_empty(dir.path()).unwrap());
    }
}
