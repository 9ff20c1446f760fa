//! The tree of an archive as it is made. Links are made last, so that nothing is ever written through one; what is
//! below a link in the archive is refused.

use super::{
    super::{
        cache::{Cache, Reservation},
        source::{definite, transient},
        tree,
    },
    disk,
};
use crate::{limits, staging::SourceError};
use fetchml_api::snapshot::check_relative_path;
use std::{
    collections::{BTreeMap, HashSet},
    fs::{self, File},
    io::{self, Read, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio_util::sync::CancellationToken;

/// A tree, whole and synced.
pub(super) struct Made {
    pub(super) bytes: u64,
    pub(super) room: Reservation,
}

/// Makes a tree.
pub(super) struct Builder<'a> {
    root: PathBuf,
    cancel: &'a CancellationToken,
    room: Reservation,
    /// Most bytes that an archive of this size may hold.
    most_bytes: u64,
    bytes: u64,
    entries: u64,
    dirs: HashSet<String>,
    links: BTreeMap<String, String>,
    buffer: Vec<u8>,
}

impl<'a> Builder<'a> {
    pub(super) fn new(
        cache: &Arc<Cache>,
        root: &Path,
        archive_bytes: u64,
        cancel: &'a CancellationToken,
    ) -> Result<Self, SourceError> {
        fs::create_dir(root).map_err(|error| disk(&error))?;
        Ok(Self {
            root: root.to_owned(),
            cancel,
            room: cache.reserve(0, 0).map_err(|error| transient(error.to_string()))?,
            most_bytes: archive_bytes.saturating_mul(limits::UNPACK_RATIO_MAX).max(limits::UNPACK_RATIO_FROM_BYTES),
            bytes: 0,
            entries: 0,
            dirs: HashSet::new(),
            links: BTreeMap::new(),
            buffer: vec![0; limits::DATASET_READ_BYTES],
        })
    }

    /// A directory; it may be there already.
    pub(super) fn dir(&mut self, name: &[u8]) -> Result<(), SourceError> {
        let Some(path) = self.path(name)? else { return Ok(()) };
        self.make_dir(&path)
    }

    /// A regular file; it takes the place of an earlier one of its name, as archivers do it.
    pub(super) fn file(&mut self, name: &[u8], executable: bool, from: &mut dyn Read) -> Result<(), SourceError> {
        let path = self.path(name)?.ok_or_else(|| definite("it holds a file without a name".to_owned()))?;
        let place = self.place(&path)?;
        let mode = if executable { 0o555 } else { 0o444 };
        let mut file =
            File::options().create_new(true).write(true).mode(mode).open(place).map_err(|error| disk(&error))?;
        loop {
            // A read that fails is the archive's fault, a write the disk's.
            let read = match from.read(&mut self.buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(damaged(&error)),
            };
            self.take(read as u64)?;
            file.write_all(&self.buffer[..read]).map_err(|error| disk(&error))?;
        }
        // The mode asked for at the making is cut by the umask.
        file.set_permissions(fs::Permissions::from_mode(mode)).map_err(|error| disk(&error))
    }

    /// A symbolic link, made at the end.
    pub(super) fn link(&mut self, name: &[u8], target: &[u8]) -> Result<(), SourceError> {
        let path = self.path(name)?.ok_or_else(|| definite("it holds a link without a name".to_owned()))?;
        let target = text(target)?.to_owned();
        check_target(&path, &target).map_err(|why| definite(format!("link {path:?} -> {target:?}: {why}")))?;
        self.place(&path)?;
        self.links.insert(path, target);
        Ok(())
    }

    /// Another name of a file that came before.
    pub(super) fn hard_link(&mut self, name: &[u8], existing: &[u8]) -> Result<(), SourceError> {
        let path = self.path(name)?.ok_or_else(|| definite("it holds a link without a name".to_owned()))?;
        let Some(existing) = self.path(existing)? else {
            return Err(definite(format!("{path:?} is another name of a directory")));
        };
        let from = self.root.join(&existing);
        if path == existing || !fs::symlink_metadata(&from).is_ok_and(|found| found.is_file()) {
            return Err(definite(format!("{path:?} is another name of {existing:?}, which is no file before it")));
        }
        let place = self.place(&path)?;
        fs::hard_link(from, place).map_err(|error| disk(&error))
    }

    /// Makes the links, takes the right to write away, and syncs it all.
    pub(super) fn finish(mut self) -> Result<Made, SourceError> {
        for (path, target) in std::mem::take(&mut self.links) {
            symlink(target, self.root.join(&path)).map_err(|error| match error.kind() {
                io::ErrorKind::AlreadyExists => definite(format!("{path:?} is a link and something else too")),
                _ => disk(&error),
            })?;
        }
        let seal = || {
            for dir in &self.dirs {
                fs::set_permissions(self.root.join(dir), fs::Permissions::from_mode(0o555))?;
            }
            fs::set_permissions(&self.root, fs::Permissions::from_mode(0o555))?;
            rustix::fs::syncfs(File::open(&self.root)?)?;
            tree::size_bytes(&self.root)
        };
        let bytes = seal().map_err(|error| disk(&error))?;
        self.room.grow_to(bytes, bytes).map_err(|error| transient(error.to_string()))?;
        Ok(Made { bytes, room: self.room })
    }

    /// The plain path of an entry; none: the root itself.
    fn path(&self, name: &[u8]) -> Result<Option<String>, SourceError> {
        if self.cancel.is_cancelled() {
            return Err(transient("cancelled".to_owned()));
        }
        let name = text(name)?;
        let mut plain = name;
        while let Some(rest) = plain.strip_prefix("./") {
            plain = rest.trim_start_matches('/');
        }
        plain = plain.strip_suffix('/').unwrap_or(plain);
        if matches!(plain, "" | ".") && !name.starts_with('/') {
            return Ok(None);
        }
        check_relative_path(plain).map_err(|why| definite(format!("path {name:?} {why}")))?;
        if plain.matches('/').count() >= limits::UNPACK_DEPTH_MAX {
            return Err(definite(format!("path {name:?} lies deeper than {} directories", limits::UNPACK_DEPTH_MAX)));
        }
        Ok(Some(plain.to_owned()))
    }

    /// The place for something new, its parents made and an earlier file of its name gone.
    fn place(&mut self, path: &str) -> Result<PathBuf, SourceError> {
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.make_dir(parent)?;
        }
        self.count()?;
        self.links.remove(path);
        let place = self.root.join(path);
        match fs::symlink_metadata(&place) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(disk(&error)),
            Ok(found) if found.is_file() => fs::remove_file(&place).map_err(|error| disk(&error))?,
            Ok(_) => return Err(definite(format!("{path:?} is a directory and something else too"))),
        }
        Ok(place)
    }

    fn make_dir(&mut self, path: &str) -> Result<(), SourceError> {
        if self.dirs.contains(path) {
            return Ok(());
        }
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.make_dir(parent)?;
        }
        if self.links.contains_key(path) {
            return Err(definite(format!("something lies below {path:?}, which is a link")));
        }
        self.count()?;
        fs::create_dir(self.root.join(path)).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => definite(format!("something lies below {path:?}, which is a file")),
            _ => disk(&error),
        })?;
        self.dirs.insert(path.to_owned());
        Ok(())
    }

    fn count(&mut self) -> Result<(), SourceError> {
        self.entries += 1;
        if self.entries > limits::UNPACK_ENTRIES_MAX {
            return Err(definite(format!("it holds more than {} files", limits::UNPACK_ENTRIES_MAX)));
        }
        // Each takes room beside its bytes.
        self.grow(limits::UNPACK_ENTRY_BYTES)
    }

    fn take(&mut self, bytes: u64) -> Result<(), SourceError> {
        if self.cancel.is_cancelled() {
            return Err(transient("cancelled".to_owned()));
        }
        self.grow(bytes)?;
        if self.bytes > self.most_bytes {
            return Err(definite(format!(
                "it unpacks to more than {} bytes, which is more than an archive of its size may hold",
                self.most_bytes
            )));
        }
        Ok(())
    }

    fn grow(&mut self, bytes: u64) -> Result<(), SourceError> {
        self.bytes += bytes;
        if self.bytes <= self.room.bytes() {
            return Ok(());
        }
        let more = self.room.grow_to(self.bytes.saturating_add(limits::DATASET_ROOM_BYTES), self.bytes);
        more.or_else(|_| self.room.grow_to(self.bytes, self.bytes)).map_err(|error| transient(error.to_string()))
    }
}

/// What is wrong with the archive itself.
pub(super) fn damaged(error: &io::Error) -> SourceError {
    definite(format!("it is no whole tar, tar.gz or zip archive: {error}"))
}

fn text(bytes: &[u8]) -> Result<&str, SourceError> {
    std::str::from_utf8(bytes)
        .map_err(|_| definite(format!("the name {:?} is not UTF-8; pack it anew", String::from_utf8_lossy(bytes))))
}

/// A link may climb first, not above the root, and then only go down: what it passes on the way down is no way up
/// either, so that no chain of links leads out.
fn check_target(path: &str, target: &str) -> Result<(), &'static str> {
    if target.is_empty() || target.len() > fetchml_api::limits::PATH_BYTES || target.contains('\0') {
        return Err("the target is empty, too long or contains NUL");
    }
    if target.starts_with('/') {
        return Err("the target is absolute");
    }
    let mut up = path.matches('/').count();
    let mut goes_down = false;
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." if goes_down => return Err("the target climbs after it went down"),
            ".." => up = up.checked_sub(1).ok_or("the target leads out of the archive")?,
            _ => goes_down = true,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_may_hold_so_many_times_its_size() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Arc::new(Cache::open(dir.path(), Some(1 << 40)).unwrap());
        let cancel = CancellationToken::new();
        let builder = |archive_bytes| Builder::new(&cache, &cache.new_path(), archive_bytes, &cancel).unwrap();
        assert_eq!(builder(10).most_bytes, limits::UNPACK_RATIO_FROM_BYTES);
        assert_eq!(builder(1 << 30).most_bytes, limits::UNPACK_RATIO_MAX << 30);
        let mut builder = Builder { most_bytes: 4 << 20, ..builder(10) };
        let error = builder.file(b"zeros", false, &mut io::repeat(0)).unwrap_err();
        assert!(!error.transient && error.message.contains("more than an archive of its size"), "{error}");
        builder.entries = limits::UNPACK_ENTRIES_MAX;
        let error = builder.dir(b"one/more").unwrap_err();
        assert!(!error.transient && error.message.contains("more than 2000000 files"), "{error}");
    }

    #[test]
    fn no_chain_of_links_leads_out() {
        for (path, target) in [("l", "x"), ("l", "."), ("a/l", ".."), ("a/b/l", "../../c/d"), ("l", "a//./b")] {
            assert_eq!(check_target(path, target), Ok(()), "{path} -> {target}");
        }
        for (path, target) in [("l", ".."), ("a/l", "../.."), ("l", "a/.."), ("l", "a/../b"), ("l", "/"), ("l", "")] {
            assert!(check_target(path, target).is_err(), "{path} -> {target}");
        }
    }
}
