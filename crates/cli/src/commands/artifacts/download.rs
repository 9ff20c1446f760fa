//! Writing downloaded files: only below the directory named, never through a link, checked before
//! they get their name.

use crate::failure::Failure;
use fetchml_api::{Artifact, TaskId, snapshot::check_relative_path};
use fetchml_client::Client;
use futures_util::StreamExt as _;
use rustix::fs::{AtFlags, Mode, OFlags, mkdirat, openat, renameat, unlinkat};
use sha2::{Digest as _, Sha256};
use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

/// A directory to download into.
pub(super) struct Target {
    root: OwnedFd,
    path: PathBuf,
}

impl Target {
    /// Opens the directory, made if missing.
    pub(super) fn new(path: &Path) -> Result<Self, Failure> {
        let open = || {
            fs::create_dir_all(path)?;
            Ok(rustix::fs::open(path, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
        };
        let root = open().map_err(|error: io::Error| failed(path, &error))?;
        Ok(Self { root, path: path.to_owned() })
    }

    /// Lets git and the next snapshot pass over the directory: results are not sources. A nicety, so a
    /// failure is not told.
    pub(super) fn keep_out_of_snapshots(&self) {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        if let Ok(file) = openat(&self.root, ".gitignore", flags, Mode::from_raw_mode(0o644)) {
            let _ = File::from(file).write_all(b"*\n");
        }
    }

    /// Downloads one artifact. Nothing is left of it when it fails.
    pub(super) async fn download(
        &self,
        client: &Client,
        id: TaskId,
        artifact: &Artifact,
        on_bytes: impl Fn(u64),
    ) -> anyhow::Result<()> {
        let shown = self.path.join(&artifact.path);
        check_relative_path(&artifact.path)
            .map_err(|why| Failure::new(format!("the server names an artifact {:?}, which {why}", artifact.path)))?;
        let (directory, name) = self.directory_of(&artifact.path).map_err(|error| failed(&shown, &error))?;
        let part = format!(".fetchml-part-{}", std::process::id());
        let result = receive(client, id, artifact, &directory, &part, &shown, on_bytes).await;
        let named = result.and_then(|()| {
            renameat(&directory, &part, &directory, name).map_err(|error| failed(&shown, &error.into()).into())
        });
        if named.is_err() {
            // The first error is the one to tell.
            let _ = unlinkat(&directory, &part, AtFlags::empty());
        }
        named
    }

    /// Opens the directory of a checked relative path, part by part, made if missing, following no link.
    fn directory_of<'a>(&self, path: &'a str) -> io::Result<(OwnedFd, &'a str)> {
        let (parents, name) = path.rsplit_once('/').unwrap_or(("", path));
        let mut at = self.root.try_clone()?;
        for part in parents.split('/').filter(|part| !part.is_empty()) {
            match mkdirat(&at, part, Mode::from_raw_mode(0o777)) {
                Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
            at = openat(&at, part, flags, Mode::empty())?;
        }
        Ok((at, name))
    }
}

async fn receive(
    client: &Client,
    id: TaskId,
    artifact: &Artifact,
    directory: &OwnedFd,
    part: &str,
    shown: &Path,
    on_bytes: impl Fn(u64),
) -> anyhow::Result<()> {
    let io_failed = |error: io::Error| failed(shown, &error);
    // Left by a run that was killed, if our process id comes around again.
    let _ = unlinkat(directory, part, AtFlags::empty());
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    let file = openat(directory, part, flags, Mode::from_raw_mode(0o666)).map_err(|error| io_failed(error.into()))?;
    let mut file = File::from(file);
    let mut hasher = Sha256::new();
    let mut bytes = client.artifact_get(id, &artifact.path, None).await?;
    while let Some(chunk) = bytes.next().await {
        let chunk = chunk?;
        hasher.update(&chunk);
        file.write_all(&chunk).map_err(io_failed)?;
        on_bytes(chunk.len() as u64);
    }
    let got = hex::encode(hasher.finalize());
    if got != artifact.sha256 {
        return Err(Failure::new(format!("{} arrived damaged: its SHA-256 is {got}", artifact.path))
            .hint("try again; if it happens again the server's copy is damaged")
            .into());
    }
    Ok(())
}

fn failed(path: &Path, error: &io::Error) -> Failure {
    let failure = Failure::new(format!("cannot write {}: {error}", path.display()));
    match error.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
        Some(rustix::io::Errno::LOOP | rustix::io::Errno::NOTDIR) => {
            failure.hint("a part of the path is a link or a file; name an empty directory with -o")
        }
        _ => failure,
    }
}
