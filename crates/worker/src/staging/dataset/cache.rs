//! What the worker keeps of data sets: `<data>/datasets`, within a limit. What no task uses goes first, the longest
//! unused before others; what is in use stays.
//!
//! `sha256/<hash>` are files, `unpacked/<hash>` the trees of archives, `partial/<key>` downloads that are not over.
//! An entry appears under its name only whole and synced (rename), and leaves it by a rename too, so that a crash at
//! any point leaves no half of one.

use super::{source::Version, tree};
use crate::limits;
use fetchml_api::{DatasetKey, limits::DATASETS_HELD_MAX};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_OMIT, utimensat};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};
use tokio::sync::watch;

/// What an entry is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Form {
    /// A whole file, by its SHA-256.
    File,
    /// The tree of an archive, by the archive's SHA-256.
    Tree,
    /// The beginning of a file, by the key it was asked for.
    Partial,
}

impl Form {
    const ALL: [Self; 3] = [Self::File, Self::Tree, Self::Partial];

    const fn dir(self) -> &'static str {
        match self {
            Self::File => "sha256",
            Self::Tree => "unpacked",
            Self::Partial => "partial",
        }
    }
}

type Name = (Form, DatasetKey);

#[derive(Debug)]
struct Entry {
    size_bytes: u64,
    used: SystemTime,
    pins: u32,
}

/// What a source without a declared hash held last.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Known {
    pub(super) version: Version,
    pub(super) sha256: DatasetKey,
}

#[derive(Debug, Default)]
struct State {
    entries: BTreeMap<Name, Entry>,
    /// By the key of the source.
    sources: BTreeMap<DatasetKey, Known>,
    /// Bytes promised to downloads.
    reserved: u64,
    /// Of these, what is on the disk already.
    written: u64,
}

impl State {
    fn used(&self) -> u64 {
        self.entries.values().map(|entry| entry.size_bytes).fold(self.reserved, u64::saturating_add)
    }
}

/// The cache of one worker. One agent uses it at a time.
#[derive(Debug)]
pub(super) struct Cache {
    dir: PathBuf,
    limit_bytes: u64,
    state: Mutex<State>,
    temporary: AtomicU64,
    changed: watch::Sender<()>,
}

/// There is no room, and why.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct NoRoom(String);

impl Cache {
    /// Opens the cache in `dir`; removes what a crash left half-made.
    pub(super) fn open(dir: &Path, limit_bytes: Option<u64>) -> io::Result<Self> {
        for name in Form::ALL.map(Form::dir).into_iter().chain(["sources", "new", "trash"]) {
            fs::create_dir_all(dir.join(name))?;
        }
        let limit_bytes = if let Some(bytes) = limit_bytes {
            bytes
        } else {
            let disk = rustix::fs::statvfs(dir)?;
            disk.f_blocks.saturating_mul(disk.f_frsize) / limits::DATASET_CACHE_PART
        };
        let cache = Self {
            dir: dir.to_owned(),
            limit_bytes,
            state: Mutex::default(),
            temporary: AtomicU64::new(0),
            changed: watch::Sender::new(()),
        };
        for left in ["new", "trash"] {
            for entry in fs::read_dir(dir.join(left))?.flatten() {
                tree::remove(&entry.path());
            }
        }
        cache.scan()?;
        Ok(cache)
    }

    fn scan(&self) -> io::Result<()> {
        let mut state = self.lock();
        for form in Form::ALL {
            for entry in fs::read_dir(self.dir.join(form.dir()))?.flatten() {
                let name = entry.file_name();
                let Some(key) = name.to_str().and_then(|name| name.parse::<DatasetKey>().ok()) else { continue };
                let (metadata, path) = (entry.metadata()?, entry.path());
                let size_bytes = match form {
                    Form::File | Form::Partial => metadata.len(),
                    Form::Tree => tree::noted_size(&path)?,
                };
                let used = metadata.modified()?;
                state.entries.insert((form, key), Entry { size_bytes, used, pins: 0 });
            }
        }
        for entry in fs::read_dir(self.dir.join("sources"))?.flatten() {
            let key = entry.file_name().to_str().and_then(|name| name.parse::<DatasetKey>().ok());
            let known = fs::read(entry.path()).ok().and_then(|bytes| serde_json::from_slice::<Known>(&bytes).ok());
            match (key, known) {
                (Some(key), Some(known)) if state.has(known.sha256) => drop(state.sources.insert(key, known)),
                _ => fs::remove_file(entry.path())?,
            }
        }
        Ok(())
    }

    /// Where an entry lies when it is there.
    pub(super) fn path(&self, form: Form, key: DatasetKey) -> PathBuf {
        self.dir.join(form.dir()).join(key.to_string())
    }

    /// A path for something that is being made, on the same file system.
    pub(super) fn new_path(&self) -> PathBuf {
        self.dir.join("new").join(self.temporary.fetch_add(1, Ordering::Relaxed).to_string())
    }

    /// Keeps an entry, if it is there, until the pin is dropped.
    pub(super) fn pin(self: &Arc<Self>, form: Form, key: DatasetKey) -> Option<Pin> {
        let mut state = self.lock();
        let entry = state.entries.get_mut(&(form, key))?;
        entry.pins += 1;
        entry.used = SystemTime::now();
        let pin = Pin { cache: Arc::clone(self), name: (form, key), size_bytes: entry.size_bytes };
        drop(state);
        touch(&pin.path());
        Some(pin)
    }

    /// Promises room for an entry of so many bytes, of which `written` are on the disk already.
    pub(super) fn reserve(self: &Arc<Self>, bytes: u64, written: u64) -> Result<Reservation, NoRoom> {
        let mut reservation = Reservation { cache: Arc::clone(self), bytes: 0, written: 0 };
        reservation.grow_to(bytes, written)?;
        Ok(reservation)
    }

    /// Puts what lies at `from`, whole and synced, under its name, and pins it. The reservation becomes the entry.
    pub(super) fn put(
        self: &Arc<Self>,
        form: Form,
        key: DatasetKey,
        from: &Path,
        size_bytes: u64,
        reservation: Reservation,
    ) -> io::Result<Pin> {
        let mut state = self.lock();
        let path = self.path(form, key);
        let pin = || Pin { cache: Arc::clone(self), name: (form, key), size_bytes };
        if let Some(entry) = state.entries.get_mut(&(form, key)) {
            // Made twice, for two keys that turned out to be one content.
            entry.pins += 1;
            drop(state);
            tree::remove(from);
            return Ok(pin());
        }
        if form == Form::Tree {
            tree::note_size(&path, size_bytes)?;
        }
        tree::relocate(from, &path)?;
        File::open(self.dir.join(form.dir()))?.sync_all()?;
        state.entries.insert((form, key), Entry { size_bytes, used: SystemTime::now(), pins: 1 });
        drop(state);
        drop(reservation);
        touch(&path);
        self.changed.send_replace(());
        Ok(pin())
    }

    /// Notes that a partial file is left, of this length, for a later try.
    pub(super) fn leave_partial(&self, key: DatasetKey, size_bytes: u64) {
        let entry = Entry { size_bytes, used: SystemTime::now(), pins: 0 };
        self.lock().entries.insert((Form::Partial, key), entry);
    }

    /// Takes a partial file out of what may be evicted; gives its length.
    pub(super) fn take_partial(&self, key: DatasetKey) -> u64 {
        self.lock().entries.remove(&(Form::Partial, key)).map_or(0, |entry| entry.size_bytes)
    }

    /// What a source held when it was last asked.
    pub(super) fn known(&self, source: DatasetKey) -> Option<Known> {
        self.lock().sources.get(&source).cloned()
    }

    /// Remembers what a source holds.
    pub(super) fn know(&self, source: DatasetKey, known: Known) -> io::Result<()> {
        let path = self.dir.join("sources").join(source.to_string());
        self.write_json(&path, &known)?;
        self.lock().sources.insert(source, known);
        self.changed.send_replace(());
        Ok(())
    }

    /// Writes a small file whole or not at all.
    pub(super) fn write_json(&self, path: &Path, value: &impl Serialize) -> io::Result<()> {
        let new = self.new_path();
        fs::write(&new, serde_json::to_vec(value)?)?;
        fs::rename(new, path)
    }

    /// An archive whose tree is there is needed last of all.
    pub(super) fn demote(&self, form: Form, key: DatasetKey) {
        if let Some(entry) = self.lock().entries.get_mut(&(form, key)) {
            entry.used = SystemTime::UNIX_EPOCH;
        }
    }

    /// Evicts what nobody uses for as long as the disk is short.
    pub(super) fn shed(&self, disk_is_short: impl Fn() -> bool) {
        while disk_is_short() && self.evict_one(&mut self.lock()) {
            self.empty_trash();
        }
    }

    /// Keys of what is held, the last used first: hashes, and sources whose content is held.
    pub(super) fn held(&self) -> Vec<DatasetKey> {
        let state = self.lock();
        let mut held: Vec<(SystemTime, DatasetKey)> = state
            .entries
            .iter()
            .filter(|((form, _), _)| *form != Form::Partial)
            .map(|((_, key), entry)| (entry.used, *key))
            .collect();
        let by_hash: BTreeMap<DatasetKey, SystemTime> = held.iter().map(|(used, key)| (*key, *used)).collect();
        held.extend(state.sources.iter().filter_map(|(key, known)| Some((*by_hash.get(&known.sha256)?, *key))));
        held.sort_unstable_by(|a, b| b.cmp(a));
        let mut keys: Vec<DatasetKey> = Vec::new();
        for (_, key) in held {
            if keys.len() < DATASETS_HELD_MAX && !keys.contains(&key) {
                keys.push(key);
            }
        }
        keys
    }

    /// Changes with what is held.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the disk lacks to take so many bytes more and leave what caches must leave.
    fn disk_lacks(&self, bytes: u64) -> u64 {
        // A file system that does not say is taken to have room.
        let Ok(disk) = rustix::fs::statvfs(&self.dir) else { return 0 };
        let (total, free) = (disk.f_blocks.saturating_mul(disk.f_frsize), disk.f_bavail.saturating_mul(disk.f_frsize));
        let kept_free = limits::disk_reserve_bytes(total).saturating_mul(limits::DISK_CACHE_RESERVES);
        bytes.saturating_add(kept_free).saturating_sub(free)
    }

    /// Moves the longest unused entry out of the way; `false`: all are in use.
    fn evict_one(&self, state: &mut State) -> bool {
        let unused = state.entries.iter().filter(|(_, entry)| entry.pins == 0);
        let Some(name) = unused.min_by_key(|(name, entry)| (entry.used, **name)).map(|(name, _)| *name) else {
            return false;
        };
        let (form, key) = name;
        let trash = self.dir.join("trash").join(self.temporary.fetch_add(1, Ordering::Relaxed).to_string());
        // Gone from its name before its bytes go: whoever makes it anew makes another.
        if let Err(error) = tree::relocate(&self.path(form, key), &trash)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%key, %error, "a data set cannot be evicted");
        }
        if form == Form::Tree {
            tree::forget_size(&self.path(form, key));
        }
        tracing::info!(%key, ?form, "a data set is evicted");
        state.entries.remove(&name);
        if !state.has(key) {
            let gone: Vec<_> =
                state.sources.iter().filter(|(_, known)| known.sha256 == key).map(|(source, _)| *source).collect();
            for source in gone {
                state.sources.remove(&source);
                let _ = fs::remove_file(self.dir.join("sources").join(source.to_string()));
            }
        }
        self.changed.send_replace(());
        true
    }

    fn empty_trash(&self) {
        for entry in fs::read_dir(self.dir.join("trash")).into_iter().flatten().flatten() {
            tree::remove(&entry.path());
        }
    }
}

impl State {
    fn has(&self, key: DatasetKey) -> bool {
        [Form::File, Form::Tree].into_iter().any(|form| self.entries.contains_key(&(form, key)))
    }
}

/// Sets the time by which an entry's age is known after a restart.
fn touch(path: &Path) {
    let now = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW };
    let keep = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
    let times = Timestamps { last_access: keep, last_modification: now };
    if let Err(error) = utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW) {
        tracing::debug!(path = %path.display(), %error, "the age of a data set is not noted");
    }
}

/// Keeps an entry in the cache while it lives.
#[derive(Debug)]
pub(super) struct Pin {
    cache: Arc<Cache>,
    name: Name,
    size_bytes: u64,
}

impl Pin {
    /// Where the entry lies.
    pub(super) fn path(&self) -> PathBuf {
        self.cache.path(self.name.0, self.name.1)
    }

    /// What it is.
    pub(super) fn form(&self) -> Form {
        self.name.0
    }

    /// SHA-256 of its bytes; of the archive, for a tree.
    pub(super) fn sha256(&self) -> DatasetKey {
        self.name.1
    }

    /// What it takes, bytes.
    pub(super) fn size_bytes(&self) -> u64 {
        self.size_bytes
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        if let Some(entry) = self.cache.lock().entries.get_mut(&self.name) {
            entry.pins = entry.pins.saturating_sub(1);
            // The archive of a tree keeps its place in the order.
            if entry.used != SystemTime::UNIX_EPOCH {
                entry.used = SystemTime::now();
            }
        }
        touch(&self.path());
    }
}

/// Room promised to what is being made.
#[derive(Debug)]
pub(super) struct Reservation {
    cache: Arc<Cache>,
    bytes: u64,
    written: u64,
}

impl Reservation {
    /// What was promised.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Asks for more room, evicting what nobody uses. A smaller figure changes nothing.
    pub(super) fn grow_to(&mut self, bytes: u64, written: u64) -> Result<(), NoRoom> {
        let cache = Arc::clone(&self.cache);
        let mut state = cache.lock();
        state.written = state.written - self.written + written.max(self.written);
        self.written = self.written.max(written);
        let more = bytes.saturating_sub(self.bytes);
        if bytes > cache.limit_bytes {
            let limit = cache.limit_bytes;
            return Err(NoRoom(format!(
                "it takes {bytes} bytes, more than the whole cache of this worker ({limit} bytes, set by --dataset-cache)"
            )));
        }
        loop {
            let over = state.used().saturating_add(more).saturating_sub(cache.limit_bytes);
            let lacks = cache.disk_lacks(state.reserved.saturating_sub(state.written).saturating_add(more));
            if over == 0 && lacks == 0 {
                break;
            }
            if !cache.evict_one(&mut state) {
                let why = if over > 0 {
                    "what the cache of this worker may take (--dataset-cache) is in use by tasks"
                } else {
                    "the disk of this worker has no room left for its cache"
                };
                return Err(NoRoom(format!("{why}; it needs {} bytes more", over.max(lacks))));
            }
            drop(state);
            cache.empty_trash();
            state = cache.lock();
        }
        state.reserved = state.reserved.saturating_add(more);
        self.bytes += more;
        Ok(())
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut state = self.cache.lock();
        state.reserved = state.reserved.saturating_sub(self.bytes);
        state.written = state.written.saturating_sub(self.written);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> DatasetKey {
        DatasetKey::of_source(name)
    }

    struct Rig {
        dir: tempfile::TempDir,
        cache: Arc<Cache>,
    }

    impl Rig {
        fn new(limit: u64) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let cache = Arc::new(Cache::open(dir.path(), Some(limit)).unwrap());
            Self { dir, cache }
        }

        fn put(&self, name: &str, size: u64) -> Result<Pin, NoRoom> {
            let reservation = self.cache.reserve(size, 0)?;
            let path = self.cache.new_path();
            fs::write(&path, vec![b'x'; size as usize]).unwrap();
            Ok(self.cache.put(Form::File, key(name), &path, size, reservation).unwrap())
        }

        fn has(&self, name: &str) -> bool {
            let there = self.cache.path(Form::File, key(name)).exists();
            assert_eq!(self.cache.pin(Form::File, key(name)).is_some(), there);
            there
        }

        fn reopen(self, limit: u64) -> Self {
            let Self { dir, cache } = self;
            drop(cache);
            let cache = Arc::new(Cache::open(dir.path(), Some(limit)).unwrap());
            Self { dir, cache }
        }
    }

    #[test]
    fn the_longest_unused_goes_first_and_what_is_in_use_stays() {
        let rig = Rig::new(100);
        let first = rig.put("first", 40).unwrap();
        drop(rig.put("second", 40).unwrap());
        assert!(rig.put("third", 40).is_ok());
        assert!(!rig.has("second") && rig.has("third"));
        assert!(rig.cache.path(Form::File, key("first")).exists(), "a task uses it");
        let third = rig.cache.pin(Form::File, key("third")).unwrap();
        let full = rig.put("fourth", 40).unwrap_err();
        assert!(full.to_string().contains("in use by tasks"), "{full}");
        drop((first, third));
        // Used last, though made first.
        drop(rig.cache.pin(Form::File, key("first")));
        assert!(rig.put("fourth", 40).is_ok());
        assert!(rig.has("first") && !rig.has("third"));
        let large = rig.put("large", 101).unwrap_err();
        assert!(large.to_string().contains("--dataset-cache"), "{large}");
    }

    #[test]
    fn a_reservation_counts_until_it_is_dropped() {
        let rig = Rig::new(100);
        let mut room = rig.cache.reserve(60, 0).unwrap();
        assert!(rig.cache.reserve(41, 0).is_err());
        assert!(room.grow_to(101, 0).is_err());
        room.grow_to(90, 50).unwrap();
        assert!(rig.cache.reserve(11, 0).is_err());
        drop(room);
        assert!(rig.cache.reserve(100, 0).is_ok());
        let state = rig.cache.lock();
        assert_eq!((state.reserved, state.written), (0, 0));
    }

    #[test]
    fn after_a_restart_order_and_sizes_are_known_and_halves_are_gone() {
        let rig = Rig::new(100);
        for name in ["a", "b"] {
            drop(rig.put(name, 30).unwrap());
            let (old, age) = (rig.cache.path(Form::File, key(name)), if name == "a" { 10 } else { 20 });
            let time = SystemTime::now() - std::time::Duration::from_secs(age);
            File::open(old).unwrap().set_modified(time).unwrap();
        }
        fs::write(rig.cache.new_path(), "half").unwrap();
        fs::write(rig.cache.path(Form::Partial, key("p")), [0; 20]).unwrap();
        let version = Version { etag: Some("\"1\"".into()), ..Version::default() };
        rig.cache.know(key("src"), Known { version: version.clone(), sha256: key("a") }).unwrap();
        rig.cache.know(key("lost"), Known { version, sha256: key("z") }).unwrap();
        let rig = rig.reopen(100);
        assert_eq!(fs::read_dir(rig.dir.path().join("new")).unwrap().count(), 0);
        assert_eq!(rig.cache.lock().used(), 80);
        assert!(rig.cache.known(key("src")).is_some() && rig.cache.known(key("lost")).is_none());
        assert_eq!(rig.cache.held(), [key("a").max(key("src")), key("a").min(key("src")), key("b")]);
        let pin = rig.put("c", 50).unwrap();
        assert!(rig.has("a") && !rig.has("b"), "b was unused for longer");
        assert_eq!(rig.cache.take_partial(key("p")), 20);
        drop(pin);
        drop(rig.put("d", 90).unwrap());
        assert!(rig.cache.known(key("src")).is_none(), "its content is gone");
        assert_eq!(rig.cache.held(), [key("d")]);
    }

    #[test]
    fn what_is_held_is_bounded_and_its_changes_are_told() {
        let rig = Rig::new(1 << 20);
        let mut changes = rig.cache.changes();
        changes.mark_unchanged();
        for n in 0..DATASETS_HELD_MAX + 10 {
            drop(rig.put(&n.to_string(), 1).unwrap());
        }
        assert!(changes.has_changed().unwrap());
        let held = rig.cache.held();
        assert_eq!((held.len(), held[0]), (DATASETS_HELD_MAX, key(&(DATASETS_HELD_MAX + 9).to_string())));
    }
}
