//! Claims on blobs, and the discarding of those that nobody claims.
//!
//! A snapshot, checkpoint or artifact is named only after its blobs are known to be there: their uploader asks first,
//! and then uploads what is missing. In between nothing refers to them. So whoever is told that a blob is there has a
//! claim: the file's time of modification becomes that moment. A blob is discarded only if its last claim is older
//! than an instant that the caller names, and claiming and discarding take turns: either the claim comes first and
//! the blob stays, or the claimer is told that there is none and uploads it again.
//!
//! Claims are in logical time, as everything is by whose age something is decided.

use super::Blobs;
use fetchml_api::{Micros, snapshot::is_sha256_hex};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_OMIT, utimensat};
use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

/// A claim that is younger is not made anew: asking for many blobs then costs no writes.
const CLAIM_LASTS: i64 = 3_600 * fetchml_api::time::SECOND;
/// Directory of blobs on their way out.
const TRASH: &str = "trash";

/// One turn for each group of blobs. Never held while anything is awaited.
#[derive(Debug)]
pub(super) struct Turns([Mutex<()>; 64]);

impl Default for Turns {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Mutex::new(())))
    }
}

impl Turns {
    fn of(&self, sha256: &str) -> MutexGuard<'_, ()> {
        let group = sha256.get(..2).and_then(|digits| usize::from_str_radix(digits, 16).ok()).unwrap_or(0);
        // Nothing is left half-done by a panic: there is no data behind the lock.
        self.0[group % self.0.len()].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Blobs {
    /// Size of a blob, bytes, which from `now` on is claimed; `None` when there is none.
    ///
    /// # Errors
    /// The file system failed.
    pub async fn claim(&self, sha256: &str, now: Micros) -> object_store::Result<Option<u64>> {
        debug_assert!(is_sha256_hex(sha256), "only a checked hash names a blob");
        let (this, sha256) = (self.clone(), sha256.to_owned());
        blocking(move || {
            let path = this.path(&sha256);
            let _turn = this.turns.of(&sha256);
            let Some(found) = if_there(fs::metadata(&path))? else { return Ok(None) };
            if claimed(&found) < now.0.saturating_sub(CLAIM_LASTS) {
                set_claimed(&path, now)?;
            }
            Ok(Some(found.len()))
        })
        .await
        .map_err(|error| object_store::Error::Generic { store: "local", source: Box::new(error) })
    }

    /// Names and sizes of the blobs whose hash begins with `first` and whose last claim is older than `before`.
    ///
    /// # Errors
    /// The file system failed.
    pub async fn unclaimed(&self, first: u8, before: Micros) -> io::Result<Vec<(String, u64)>> {
        let dir = self.directory(first);
        blocking(move || {
            let mut found = Vec::new();
            for entry in if_there(fs::read_dir(&dir))?.into_iter().flatten() {
                let entry = entry?;
                let Ok(name) = entry.file_name().into_string() else { continue };
                if !is_sha256_hex(&name) {
                    continue;
                }
                let Some(metadata) = if_there(entry.metadata())? else { continue };
                if metadata.is_file() && claimed(&metadata) < before.0 {
                    found.push((name, metadata.len()));
                }
            }
            Ok(found)
        })
        .await
    }

    /// Deletes a blob unless it was claimed since `before`; returns its size if it is gone now.
    ///
    /// # Errors
    /// The file system failed.
    pub async fn discard(&self, sha256: &str, before: Micros) -> io::Result<Option<u64>> {
        debug_assert!(is_sha256_hex(sha256), "only a checked hash names a blob");
        let (this, sha256) = (self.clone(), sha256.to_owned());
        blocking(move || {
            let (path, trash) = (this.path(&sha256), this.trash());
            fs::create_dir_all(&trash)?;
            let trashed = trash.join(&sha256);
            let bytes = {
                let _turn = this.turns.of(&sha256);
                let Some(found) = if_there(fs::metadata(&path))? else { return Ok(None) };
                if claimed(&found) >= before.0 {
                    return Ok(None);
                }
                // Deleting a large file takes long; a rename does not, and nobody waits for more.
                fs::rename(&path, &trashed)?;
                found.len()
            };
            if_there(fs::remove_file(&trashed))?;
            Ok(Some(bytes))
        })
        .await
    }

    /// Deletes what a collection that was cut off left on its way out; returns number and bytes.
    ///
    /// # Errors
    /// The file system failed.
    pub async fn empty_trash(&self) -> io::Result<(u64, u64)> {
        let trash = self.trash();
        blocking(move || remove_files(&trash, |_, _| true, true)).await
    }

    /// Uploads that nobody has added anything to for `quiet`: number and bytes. With `remove` they are deleted.
    ///
    /// # Errors
    /// The file system failed.
    pub async fn broken_uploads(&self, quiet: Duration, remove: bool) -> io::Result<(u64, u64)> {
        let this = self.clone();
        blocking(move || {
            let is_broken = |name: &str, metadata: &fs::Metadata| {
                // As `LocalFileSystem` names what it has not finished.
                let unfinished = name.split_once('#').is_some_and(|(_, n)| n.bytes().all(|b| b.is_ascii_digit()));
                let age = metadata.modified().map(|at| SystemTime::now().duration_since(at).unwrap_or_default());
                unfinished && age.is_ok_and(|age| age >= quiet)
            };
            let mut sum = (0, 0);
            for first in 0..=u8::MAX {
                let (count, bytes) = remove_files(&this.directory(first), is_broken, remove)?;
                sum = (sum.0 + count, sum.1 + bytes);
            }
            Ok(sum)
        })
        .await
    }

    /// Where blobs whose hash begins with `first` lie.
    fn directory(&self, first: u8) -> PathBuf {
        self.root.join("blobs").join(format!("{first:02x}"))
    }

    fn path(&self, sha256: &str) -> PathBuf {
        self.root.join(super::place(sha256).as_ref())
    }

    fn trash(&self) -> PathBuf {
        self.root.join(TRASH)
    }

    /// The directory that everything lies in.
    pub fn root(&self) -> &Path {
        &self.root
    }
}

/// Counts the files of a directory that `wanted` takes, and deletes them when told.
fn remove_files(dir: &Path, wanted: impl Fn(&str, &fs::Metadata) -> bool, remove: bool) -> io::Result<(u64, u64)> {
    let (mut count, mut bytes) = (0, 0);
    for entry in if_there(fs::read_dir(dir))?.into_iter().flatten() {
        let entry = entry?;
        let Some(metadata) = if_there(entry.metadata())? else { continue };
        if metadata.is_file() && entry.file_name().to_str().is_some_and(|name| wanted(name, &metadata)) {
            count += 1;
            bytes += metadata.len();
            if remove {
                if_there(fs::remove_file(entry.path()))?;
            }
        }
    }
    Ok((count, bytes))
}

/// When it was last claimed, microseconds.
fn claimed(metadata: &fs::Metadata) -> i64 {
    metadata.mtime().saturating_mul(fetchml_api::time::SECOND).saturating_add(metadata.mtime_nsec() / 1_000)
}

fn set_claimed(path: &Path, at: Micros) -> io::Result<()> {
    let (tv_sec, tv_nsec) = (at.0.div_euclid(1_000_000), at.0.rem_euclid(1_000_000) * 1_000);
    let last_access = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
    let times = Timestamps { last_access, last_modification: Timespec { tv_sec, tv_nsec } };
    Ok(utimensat(CWD, path, &times, AtFlags::empty())?)
}

fn if_there<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Runs file work on the blocking pool.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| Err(io::Error::other(e)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use sha2::{Digest as _, Sha256};

    const NOW: Micros = Micros(1_764_000_000_000_000);

    fn hours(n: i64) -> Micros {
        NOW.plus_seconds(n * 3_600)
    }

    async fn stored(bytes: &'static [u8]) -> (tempfile::TempDir, Blobs, String) {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::local(dir.path()).unwrap();
        let name = hex::encode(Sha256::digest(bytes));
        let body = futures_util::stream::iter([Ok::<_, ()>(Bytes::from_static(bytes))]);
        blobs.put(&name, 100, NOW, body, async { Ok(()) }).await.unwrap();
        // A fresh file's time is the wall clock's, which is ahead of these tests.
        set_claimed(&blobs.path(&name), NOW).unwrap();
        (dir, blobs, name)
    }

    #[tokio::test]
    async fn a_blob_is_discarded_only_when_nobody_claimed_it_since() {
        let (dir, blobs, name) = stored(b"hello").await;
        let first = u8::from_str_radix(&name[..2], 16).unwrap();
        let old = async |before| blobs.unclaimed(first, before).await.unwrap();
        assert_eq!(old(NOW).await, [], "who stored it has a claim");
        assert_eq!(blobs.discard(&name, NOW).await.unwrap(), None);
        assert_eq!(old(hours(1)).await, [(name.clone(), 5)]);
        assert_eq!(blobs.unclaimed(first.wrapping_add(1), hours(1)).await.unwrap(), []);

        // Found to be unclaimed, claimed, and then to be discarded: it stays.
        assert_eq!(blobs.claim(&name, hours(2)).await.unwrap(), Some(5));
        assert_eq!(blobs.discard(&name, hours(1)).await.unwrap(), None);
        assert_eq!(blobs.size(&name).await.unwrap(), Some(5));
        assert_eq!(blobs.discard(&name, hours(3)).await.unwrap(), Some(5));
        assert_eq!(blobs.claim(&name, hours(4)).await.unwrap(), None, "so it is sent again");
        assert_eq!(blobs.discard(&name, hours(9)).await.unwrap(), None);
        assert_eq!(fs::read_dir(dir.path().join(TRASH)).unwrap().count(), 0);
        blobs.put_bytes(&name, Bytes::from_static(b"hello"), hours(5)).await.unwrap();
        assert_eq!(blobs.discard(&name, hours(5)).await.unwrap(), None, "who sent it has a claim");
    }

    #[tokio::test]
    async fn bytes_that_are_there_are_claimed_instead_of_stored() {
        let (_dir, blobs, name) = stored(b"hello").await;
        blobs.put_bytes(&name, Bytes::from_static(b"hello"), hours(5)).await.unwrap();
        assert_eq!(blobs.discard(&name, hours(4)).await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_reader_keeps_what_is_discarded_under_it() {
        use futures_util::StreamExt as _;
        let (_dir, blobs, name) = stored(b"hello").await;
        let mut reading = blobs.read(&name, 0..5).await.unwrap();
        assert_eq!(blobs.discard(&name, hours(1)).await.unwrap(), Some(5));
        assert_eq!(reading.next().await.unwrap().unwrap(), "hello");
    }

    #[tokio::test]
    async fn leftovers_of_a_crash_are_found() {
        let (dir, blobs, name) = stored(b"hello").await;
        let beside = dir.path().join("blobs").join(&name[..2]).join(format!("{name}#1"));
        fs::write(&beside, "hel").unwrap();
        fs::create_dir_all(dir.path().join(TRASH)).unwrap();
        fs::write(dir.path().join(TRASH).join("x"), "1234").unwrap();
        assert_eq!(blobs.broken_uploads(Duration::from_hours(1), true).await.unwrap(), (0, 0));
        assert_eq!(blobs.broken_uploads(Duration::ZERO, false).await.unwrap(), (1, 3));
        assert_eq!(blobs.broken_uploads(Duration::ZERO, true).await.unwrap(), (1, 3));
        assert_eq!(blobs.empty_trash().await.unwrap(), (1, 4));
        assert!(!beside.exists());
        assert_eq!(blobs.size(&name).await.unwrap(), Some(5));
    }
}
