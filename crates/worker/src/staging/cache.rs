//! What the worker keeps of what attempts were staged from, so that the next one need not fetch or build it again: files
//! of snapshots by their hash, and Python environments. Beyond its limit, and when the disk is short, what was unused
//! for longest goes; what an attempt uses stays, whatever it takes.
//!
//! An entry leaves its name by a rename and is deleted elsewhere, so that a crash leaves no half of one under its name.

use super::environment::marker;
use crate::{
    limits,
    shim::{Reattached, reattach},
};
use fetchml_api::snapshot::is_sha256_hex;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, utimensat};
use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

/// What an entry is, and its name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Key {
    /// A file, by its SHA-256.
    Blob(String),
    /// A Python environment, by the hash of all that went into it.
    Environment(String),
}

#[derive(Debug)]
struct Entry {
    size_bytes: u64,
    used: SystemTime,
    /// When `used` was last written to disk.
    noted: SystemTime,
    pins: u32,
    /// Hashed by this agent; of blobs only.
    is_verified: bool,
}

/// The cache of one worker. One agent uses it at a time.
#[derive(Debug)]
pub struct Cache {
    data_dir: PathBuf,
    limit_bytes: u64,
    entries: Mutex<BTreeMap<Key, Entry>>,
    temporary: AtomicU64,
}

impl Cache {
    /// Opens the cache below `data_dir`, and removes what a crash left half-made. Without a limit it takes a part of
    /// the disk. Nothing is evicted yet: what runs may still have to be pinned. To be called within the runtime.
    ///
    /// # Errors
    /// The directory cannot be used.
    pub fn open(data_dir: &Path, limit_bytes: Option<u64>) -> io::Result<Arc<Self>> {
        let mut cache = Self {
            data_dir: data_dir.to_owned(),
            limit_bytes: u64::MAX,
            entries: Mutex::default(),
            temporary: AtomicU64::new(0),
        };
        for dir in [cache.blobs(), cache.environments(), cache.evicted()] {
            fs::create_dir_all(dir)?;
        }
        cache.limit_bytes = match limit_bytes {
            Some(bytes) => bytes,
            None => disk_bytes(data_dir)? / limits::CACHE_PART,
        };
        cache.delete_evicted();
        {
            let mut entries = cache.lock();
            cache.find_blobs(&mut entries)?;
            cache.find_environments(&mut entries)?;
        }
        Ok(Arc::new(cache))
    }

    /// Where blobs lie.
    pub(super) fn blobs(&self) -> PathBuf {
        self.data_dir.join("blobs")
    }

    /// Where environments lie.
    pub(super) fn environments(&self) -> PathBuf {
        self.data_dir.join("envs")
    }

    fn evicted(&self) -> PathBuf {
        self.data_dir.join("evicted")
    }

    /// Where an entry lies when it is there.
    pub(super) fn path(&self, key: &Key) -> PathBuf {
        match key {
            Key::Blob(sha256) => self.blobs().join(sha256.get(..2).unwrap_or("")).join(sha256),
            Key::Environment(hash) => self.environments().join(hash),
        }
    }

    /// A path for a file that is being made, on the same file system.
    pub(super) fn new_path(&self) -> PathBuf {
        let number = self.temporary.fetch_add(1, Ordering::Relaxed);
        self.blobs().join(format!("{HALF_MADE}{}-{number}", std::process::id()))
    }

    /// Keeps an entry, if it is there, until the pin is dropped.
    pub(super) fn pin(self: &Arc<Self>, key: &Key) -> Option<Kept> {
        let mut entries = self.lock();
        let entry = entries.get_mut(key)?;
        if !self.proof(key).exists() {
            // Somebody deleted it behind our back.
            entries.remove(key);
            return None;
        }
        entry.pins += 1;
        Some(Kept { cache: Arc::clone(self), key: key.clone() })
    }

    /// Whether this agent knows that a blob has the bytes that its name says.
    pub(super) fn is_verified(&self, key: &Key) -> bool {
        self.lock().get(key).is_some_and(|entry| entry.is_verified)
    }

    /// Remembers that.
    pub(super) fn verified(&self, key: &Key) {
        if let Some(entry) = self.lock().get_mut(key) {
            entry.is_verified = true;
        }
    }

    /// Forgets an entry that was found to be damaged and was removed.
    pub(super) fn forget(&self, key: &Key) {
        self.lock().remove(key);
    }

    /// Takes in what now lies under its name, whole, and pins it; what is unused makes room.
    pub(super) fn add(self: &Arc<Self>, key: Key, size_bytes: u64) -> Kept {
        let now = SystemTime::now();
        {
            let mut entries = self.lock();
            let pins = entries.get(&key).map_or(0, |entry| entry.pins) + 1;
            entries.insert(key.clone(), Entry { size_bytes, used: now, noted: now, pins, is_verified: true });
        }
        self.evict_while(|entries| used_bytes(entries) > self.limit_bytes);
        Kept { cache: Arc::clone(self), key }
    }

    /// Evicts what is unused, the longest unused first, for as long as the disk is short.
    pub(crate) fn shed(&self, disk_is_short: impl Fn() -> bool) {
        self.evict_while(|_| disk_is_short());
    }

    fn evict_while(&self, wanted: impl Fn(&BTreeMap<Key, Entry>) -> bool) {
        loop {
            {
                let mut entries = self.lock();
                if !wanted(&entries) || !self.evict_one(&mut entries) {
                    return;
                }
            }
            // Not under the lock: an environment has many files.
            self.delete_evicted();
        }
    }

    /// Moves the longest unused entry out of the way; `false`: all are in use.
    fn evict_one(&self, entries: &mut BTreeMap<Key, Entry>) -> bool {
        let unused = entries.iter().filter(|(_, entry)| entry.pins == 0);
        let Some((key, entry)) = unused.min_by_key(|(_, entry)| entry.used) else { return false };
        let (key, size_bytes) = (key.clone(), entry.size_bytes);
        let away = self.evicted().join(self.temporary.fetch_add(1, Ordering::Relaxed).to_string());
        match fs::rename(self.path(&key), away) {
            Ok(()) => tracing::debug!(?key, size_bytes, "evicted from the cache"),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(?key, %error, "cannot be evicted from the cache"),
        }
        entries.remove(&key);
        true
    }

    fn delete_evicted(&self) {
        for entry in fs::read_dir(self.evicted()).into_iter().flatten().flatten() {
            remove(&entry.path());
        }
    }

    fn find_blobs(&self, entries: &mut BTreeMap<Key, Entry>) -> io::Result<()> {
        for dir in fs::read_dir(self.blobs())? {
            let dir = dir?;
            if dir.file_name().to_string_lossy().starts_with(HALF_MADE) {
                remove(&dir.path());
                continue;
            }
            for file in fs::read_dir(dir.path()).into_iter().flatten() {
                let file = file?;
                let (name, metadata) = (file.file_name(), file.metadata()?);
                if let Some(name) = name.to_str().filter(|name| is_sha256_hex(name)) {
                    entries.insert(Key::Blob(name.to_owned()), found(&metadata, metadata.len())?);
                }
            }
        }
        Ok(())
    }

    fn find_environments(&self, entries: &mut BTreeMap<Key, Entry>) -> io::Result<()> {
        for dir in fs::read_dir(self.environments())? {
            let (path, name) = {
                let dir = dir?;
                (dir.path(), dir.file_name())
            };
            let Some(name) = name.to_str() else { continue };
            match name.rsplit_once('.') {
                None => match marker::read(&path)? {
                    Some((metadata, size_bytes)) => {
                        entries.insert(Key::Environment(name.to_owned()), found(&metadata, size_bytes)?);
                    }
                    // Of a build that was cut off, unless it still goes on.
                    None if !is_being_built(&self.environments().join(format!("{name}.build"))) => remove(&path),
                    None => {}
                },
                Some((_, "build")) if !is_being_built(&path) => remove(&path),
                Some((hash, "lock")) if !self.environments().join(hash).exists() => remove(&path),
                Some(_) => {}
            }
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, Entry>> {
        // Each change of it is whole before anything else can panic.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file whose time is when an entry was last used, and without which there is none.
    fn proof(&self, key: &Key) -> PathBuf {
        match key {
            Key::Blob(_) => self.path(key),
            Key::Environment(_) => marker::path(&self.path(key)),
        }
    }
}

/// How files begin that are being made.
const HALF_MADE: &str = ".new-";

fn used_bytes(entries: &BTreeMap<Key, Entry>) -> u64 {
    entries.values().map(|entry| entry.size_bytes).fold(0, u64::saturating_add)
}

fn found(metadata: &fs::Metadata, size_bytes: u64) -> io::Result<Entry> {
    let used = metadata.modified()?;
    Ok(Entry { size_bytes, used, noted: used, pins: 0, is_verified: false })
}

fn disk_bytes(dir: &Path) -> io::Result<u64> {
    let disk = rustix::fs::statvfs(dir)?;
    Ok(disk.f_blocks.saturating_mul(disk.f_frsize))
}

/// Whether a builder that an earlier agent started is still at it.
fn is_being_built(work: &Path) -> bool {
    let steps = (0..limits::ENVIRONMENT_STEPS).map(|number| work.join(number.to_string()));
    steps.into_iter().any(|step| matches!(reattach(&step), Ok(Reattached::Running(_))))
}

/// Deletes a file or a tree.
fn remove(path: &Path) {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    if let Err(error) = removed
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "cannot be deleted from the cache");
    }
}

/// Sets the time by which an entry's last use is known after a restart.
fn touch(path: &Path) {
    let keep = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
    let times = Timestamps { last_access: keep, last_modification: Timespec { tv_sec: 0, tv_nsec: UTIME_NOW } };
    if let Err(error) = utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW) {
        tracing::debug!(path = %path.display(), %error, "the last use of a cached thing is not noted");
    }
}

/// Keeps an entry in the cache while it lives. Its last use is when it is dropped.
#[derive(Debug)]
pub struct Kept {
    cache: Arc<Cache>,
    key: Key,
}

impl Kept {
    /// Where the entry lies.
    pub fn path(&self) -> PathBuf {
        self.cache.path(&self.key)
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let now = SystemTime::now();
        let is_due = {
            let mut entries = self.cache.lock();
            let Some(entry) = entries.get_mut(&self.key) else { return };
            entry.pins = entry.pins.saturating_sub(1);
            entry.used = now;
            // Many attempts use the same file one after another; a minute more or less is all the same.
            let is_due = now.duration_since(entry.noted).unwrap_or(Duration::MAX) >= limits::CACHE_NOTED_EVERY;
            if is_due {
                entry.noted = now;
            }
            is_due
        };
        if is_due {
            touch(&self.cache.proof(&self.key));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::{Digest as _, Sha256};

    fn blob(name: &str) -> Key {
        Key::Blob(hex::encode(Sha256::digest(name)))
    }

    fn put(cache: &Arc<Cache>, key: &Key, size: usize) -> Kept {
        let path = cache.path(key);
        match key {
            Key::Blob(_) => {
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, vec![b'x'; size]).unwrap();
            }
            Key::Environment(_) => {
                fs::create_dir_all(path.join("bin")).unwrap();
                fs::write(path.join("bin/python"), "#!").unwrap();
                marker::write(&path, size as u64).unwrap();
            }
        }
        cache.add(key.clone(), size as u64)
    }

    fn has(cache: &Arc<Cache>, key: &Key) -> bool {
        let (there, known) = (cache.path(key).exists(), cache.lock().contains_key(key));
        assert_eq!(there, known, "{key:?}");
        there
    }

    fn age(cache: &Cache, key: &Key, seconds: u64) {
        let time = SystemTime::now() - Duration::from_secs(seconds);
        fs::File::open(cache.proof(key)).unwrap().set_modified(time).unwrap();
    }

    #[tokio::test]
    async fn the_longest_unused_goes_first_and_what_is_in_use_stays() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path(), Some(100)).unwrap();
        let environment = Key::Environment("a".repeat(64));
        let used = put(&cache, &environment, 50);
        drop(put(&cache, &blob("first"), 30));
        drop(put(&cache, &blob("second"), 20));
        drop(cache.pin(&blob("first")).unwrap());
        drop(put(&cache, &blob("third"), 20));
        assert!(has(&cache, &environment) && has(&cache, &blob("first")) && has(&cache, &blob("third")));
        assert!(!has(&cache, &blob("second")), "it was unused for longest");
        // What is in use stays even beyond the limit.
        let large = put(&cache, &blob("large"), 80);
        assert!(has(&cache, &environment) && has(&cache, &blob("large")));
        assert!(!has(&cache, &blob("first")) && !has(&cache, &blob("third")));
        drop((used, large));
        drop(put(&cache, &blob("more"), 1));
        assert!(!has(&cache, &environment), "made first, used first");
        assert_eq!(fs::read_dir(cache.evicted()).unwrap().count(), 0);
        assert!(cache.pin(&environment).is_none());
    }

    #[tokio::test]
    async fn a_short_disk_takes_no_more_than_it_must() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path(), Some(1_000)).unwrap();
        for name in ["1", "2", "3", "4"] {
            drop(put(&cache, &blob(name), 10));
        }
        let used = cache.pin(&blob("1")).unwrap();
        cache.shed(|| cache.path(&blob("3")).exists());
        let left = ["1", "2", "3", "4"].map(|name| has(&cache, &blob(name)));
        assert_eq!(left, [true, false, false, true]);
        cache.shed(|| true);
        assert_eq!(["1", "4"].map(|name| has(&cache, &blob(name))), [true, false]);
        drop(used);
    }

    #[tokio::test]
    async fn after_a_restart_uses_and_sizes_are_known_and_halves_are_gone() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path(), Some(1_000)).unwrap();
        let (old, new) = (Key::Environment("a".repeat(64)), Key::Environment("b".repeat(64)));
        drop((put(&cache, &old, 40), put(&cache, &new, 40), put(&cache, &blob("middle"), 40)));
        for (key, seconds) in [(&old, 3_000), (&blob("middle"), 2_000), (&new, 1_000)] {
            age(&cache, key, seconds);
        }
        let (half, torn) = (cache.new_path(), cache.environments().join("c".repeat(64)));
        fs::write(&half, "half").unwrap();
        fs::create_dir_all(torn.join("bin")).unwrap();
        fs::create_dir_all(torn.with_extension("build").join("0")).unwrap();
        fs::write(torn.with_extension("lock"), "").unwrap();
        fs::write(cache.evicted().join("7"), "").unwrap();
        drop(cache);

        let cache = Cache::open(dir.path(), Some(100)).unwrap();
        for gone in [&half, &torn, &torn.with_extension("build"), &cache.evicted().join("7")] {
            assert!(!gone.exists(), "{}", gone.display());
        }
        assert_eq!(used_bytes(&cache.lock()), 120);
        assert!(has(&cache, &old), "nothing is evicted before what runs was pinned");
        assert!(!cache.is_verified(&blob("middle")));
        let pin = cache.pin(&old).unwrap();
        drop(put(&cache, &blob("another"), 10));
        assert!(has(&cache, &old) && has(&cache, &new) && !has(&cache, &blob("middle")));
        drop(pin);

        // A use is noted when it is over, and not each time.
        let noted = |key: &Key| fs::metadata(cache.proof(key)).unwrap().modified().unwrap();
        assert!(noted(&old).elapsed().unwrap() < Duration::from_mins(10));
        let before = noted(&old);
        drop(cache.pin(&old).unwrap());
        assert_eq!(noted(&old), before);
    }
}
