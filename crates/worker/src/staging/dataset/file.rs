//! `file://`: regular files below directories that the worker's owner allows. No link leads out of those.

use super::source::{Opened, Resume, Version, definite, transient};
use crate::{limits, staging::SourceError};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use rustix::{
    fs::{CWD, Mode, OFlags, ResolveFlags, openat2},
    io::Errno,
};
use std::{
    fs::{self, Metadata},
    io::{self, SeekFrom},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::{fs::File, io::AsyncSeekExt as _};
use tokio_util::io::ReaderStream;
use url::Url;

/// The allowed directories.
#[derive(Debug, Default)]
pub(super) struct Directories(Arc<[PathBuf]>);

impl Directories {
    pub(super) fn new(directories: &[PathBuf]) -> Self {
        Self(directories.into())
    }

    /// Begins to read a file.
    pub(super) async fn open(&self, url: &str, resume: Option<Resume<'_>>) -> Result<Opened, SourceError> {
        let path = Url::parse(url).ok().and_then(|url| url.to_file_path().ok());
        let path = path.ok_or_else(|| definite("the source names no file".to_owned()))?;
        let directories = Self(Arc::clone(&self.0));
        // A file system of the network may let it wait.
        let found = tokio::task::spawn_blocking(move || directories.find(&path)).await;
        let mut file = File::from_std(found.map_err(|error| transient(error.to_string()))??);
        let version = version_of(&file.metadata().await.map_err(|error| unreadable(&error))?);
        let offset = resume.filter(|resume| resume.version.is_same(&version)).map_or(0, |resume| resume.offset);
        file.seek(SeekFrom::Start(offset)).await.map_err(|error| unreadable(&error))?;
        let same = file.try_clone().await.map_err(|error| unreadable(&error))?;
        let bytes = ReaderStream::with_capacity(file, limits::DATASET_READ_BYTES);
        let bytes = bytes.map(|chunk| chunk.map_err(|error| unreadable(&error)));
        let unchanged = stream::once(still(same, version.clone()));
        Ok(Opened { version, offset, body: Box::pin(bytes.chain(unchanged)) })
    }

    fn find(&self, path: &Path) -> Result<fs::File, SourceError> {
        if self.0.is_empty() {
            return Err(definite(
                "this worker takes no files of its own machine; its owner can allow a directory with --dataset-dir"
                    .to_owned(),
            ));
        }
        let below = self.0.iter().find_map(|dir| Some((dir, path.strip_prefix(dir).ok()?)));
        let Some((dir, below)) = below else {
            return Err(definite("it lies in no directory that the worker's owner allows by --dataset-dir".to_owned()));
        };
        let opened = open_beneath(dir, below).map_err(refusal)?;
        let metadata = opened.metadata().map_err(|error| unreadable(&error))?;
        if metadata.is_dir() {
            return Err(definite("it is a directory; pack it into a .tar and set unpack".to_owned()));
        }
        if !metadata.is_file() {
            return Err(definite("it is no regular file".to_owned()));
        }
        Ok(opened)
    }
}

/// Opens without ever leaving `dir`, and without waiting for the other end of a pipe.
fn open_beneath(dir: &Path, path: &Path) -> Result<fs::File, Errno> {
    let dir =
        openat2(CWD, dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::empty())?;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    Ok(openat2(&dir, path, flags, Mode::empty(), resolve)?.into())
}

fn refusal(error: Errno) -> SourceError {
    match error {
        Errno::NOENT | Errno::NOTDIR => definite("there is no such file on this worker".to_owned()),
        Errno::XDEV => {
            definite("a link on its way leads out of the directory that the worker's owner allows".to_owned())
        }
        Errno::ACCESS | Errno::PERM => definite("the worker may not read it".to_owned()),
        Errno::LOOP => definite("its path leads through too many links".to_owned()),
        error => unreadable(&error.into()),
    }
}

fn unreadable(error: &io::Error) -> SourceError {
    transient(format!("it cannot be read: {error}"))
}

fn version_of(metadata: &Metadata) -> Version {
    let modified = format!(
        "{}:{} {}.{:09} {}.{:09}",
        metadata.dev(),
        metadata.ino(),
        metadata.mtime(),
        metadata.mtime_nsec(),
        metadata.ctime(),
        metadata.ctime_nsec()
    );
    Version { etag: None, modified: Some(modified), size: Some(metadata.len()) }
}

/// At the end: nothing, or that the file is not what it was at the beginning.
async fn still(file: File, version: Version) -> Result<Bytes, SourceError> {
    match file.metadata().await {
        Ok(metadata) if version_of(&metadata) == version => Ok(Bytes::new()),
        Ok(_) => Err(transient("it was changed while it was read".to_owned())),
        Err(error) => Err(unreadable(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::TryStreamExt as _;
    use std::{fs, io::Write as _, os::unix::fs::symlink};

    struct Tree {
        dir: tempfile::TempDir,
        directories: Directories,
    }

    impl Tree {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            fs::create_dir_all(dir.path().join("allowed/deep")).unwrap();
            fs::write(dir.path().join("allowed/deep/a b.csv"), "0123456789").unwrap();
            fs::write(dir.path().join("secret"), "secret").unwrap();
            let directories = Directories::new(&[dir.path().join("allowed")]);
            Self { dir, directories }
        }

        fn url(&self, path: &str) -> String {
            Url::from_file_path(self.dir.path().join(path)).unwrap().into()
        }

        async fn read(&self, url: &str) -> Result<Vec<u8>, SourceError> {
            let opened = self.directories.open(url, None).await?;
            let chunks: Vec<Bytes> = opened.body.try_collect().await?;
            Ok(chunks.concat())
        }

        async fn problem(&self, url: &str) -> String {
            let error = self.read(url).await.unwrap_err();
            assert!(!error.transient, "{error}");
            error.message
        }
    }

    #[tokio::test]
    async fn only_files_below_an_allowed_directory_are_read() {
        let tree = Tree::new();
        assert_eq!(tree.read(&tree.url("allowed/deep/a b.csv")).await.unwrap(), b"0123456789");
        assert!(tree.problem(&tree.url("secret")).await.contains("--dataset-dir"));
        assert!(tree.problem(&tree.url("allowed/none")).await.contains("no such file"));
        assert!(tree.problem(&tree.url("allowed/deep")).await.contains("is a directory"));
        assert!(
            tree.problem(&format!("{}/%2e%2e/%2e%2e/secret", tree.url("allowed/deep"))).await.contains("--dataset-dir")
        );
        let allowed = tree.dir.path().join("allowed");
        symlink(tree.dir.path().join("secret"), allowed.join("absolute")).unwrap();
        symlink("../secret", allowed.join("relative")).unwrap();
        symlink("..", allowed.join("up")).unwrap();
        symlink("deep/a b.csv", allowed.join("inside")).unwrap();
        for out in ["allowed/absolute", "allowed/relative", "allowed/up/secret"] {
            assert!(tree.problem(&tree.url(out)).await.contains("leads out"), "{out}");
        }
        assert_eq!(tree.read(&tree.url("allowed/inside")).await.unwrap(), b"0123456789");
        rustix::fs::mknodat(CWD, allowed.join("pipe"), rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
        assert!(tree.problem(&tree.url("allowed/pipe")).await.contains("no regular file"));
        let none = Directories::default().open(&tree.url("allowed/inside"), None).await.err().unwrap();
        assert!(none.message.contains("takes no files"), "{none}");
    }

    #[tokio::test]
    async fn the_rest_of_the_same_version_is_read_and_of_another_all() {
        let tree = Tree::new();
        let url = tree.url("allowed/deep/a b.csv");
        let version = tree.directories.open(&url, None).await.unwrap().version;
        let resume = Resume { offset: 4, version: &version };
        let opened = tree.directories.open(&url, Some(resume)).await.unwrap();
        let rest: Vec<Bytes> = opened.body.try_collect().await.unwrap();
        assert_eq!((opened.offset, rest.concat()), (4, b"456789".to_vec()));
        fs::write(tree.dir.path().join("allowed/deep/a b.csv"), "abcdefghijk").unwrap();
        assert_eq!(tree.directories.open(&url, Some(resume)).await.unwrap().offset, 0);
    }

    #[tokio::test]
    async fn a_file_that_is_changed_while_it_is_read_is_told() {
        let tree = Tree::new();
        let opened = tree.directories.open(&tree.url("allowed/deep/a b.csv"), None).await.unwrap();
        let path = tree.dir.path().join("allowed/deep/a b.csv");
        fs::File::options().append(true).open(path).unwrap().write_all(b"more").unwrap();
        let error = opened.body.try_collect::<Vec<Bytes>>().await.unwrap_err();
        assert!(error.transient && error.message.contains("changed while it was read"), "{error}");
    }
}
