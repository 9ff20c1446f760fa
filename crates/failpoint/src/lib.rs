//! Places where a crash would hurt most, by name. The crash tests end a process at such a place as SIGKILL would; in
//! every other build [`reach`] is nothing.
//!
//! Armed only with the feature `armed`, which the end-to-end tests alone set, in a build with debug assertions, and by
//! the environment: [`VARIABLE`] holds `place:count:file`. From when the file exists on, the process that reaches the
//! place as the `count`th of all that share it kills itself. The file then has `count` bytes or more, by which a test
//! knows that it happened.
//!
//! Architecture Invariant: nothing here decides anything; a place is named and that is all.

/// The environment variable that arms one place.
pub const VARIABLE: &str = "FETCHML_FAILPOINT";

/// Every place there is. A name that is reached and not listed fails in tests.
pub const PLACES: &[&str] = &[
    // The server.
    "driver.decided",
    "store.written",
    "driver.committed",
    "driver.acted",
    "log.written",
    "log.synced",
    "log.archived",
    "blob.received",
    "checkpoint.received",
    "outbox.written",
    "outbox.told",
    // The agent.
    "agent.taken",
    "agent.accepted",
    "agent.prepared",
    "agent.released",
    "agent.exited",
    "agent.collected",
    "agent.forgotten",
    "checkpoint.uploaded",
    "spool.written",
    "spool.rewritten",
    // The fork helper and the shims.
    "helper.received",
    "shim.forked",
    "shim.recorded",
    "shim.released",
    "shim.marked",
    "shim.started",
    "shim.ended",
    "shim.exit_written",
];

/// Says that this place is reached. May not return.
#[cfg(not(all(feature = "armed", debug_assertions)))]
#[inline]
pub const fn reach(_place: &'static str) {}

/// Says that this place is reached. May not return.
#[cfg(all(feature = "armed", debug_assertions))]
pub fn reach(place: &'static str) {
    assert!(PLACES.contains(&place), "{place} is not in the list of places");
    if armed::is_hit(place) {
        armed::end();
    }
}

#[cfg(all(feature = "armed", debug_assertions))]
mod armed {
    use std::{
        fs::File,
        io::{Seek as _, Write as _},
        path::Path,
        sync::OnceLock,
    };

    /// Place, count and file of the environment.
    static ARMED: OnceLock<Option<(String, u64, String)>> = OnceLock::new();

    fn parse(text: &str) -> Option<(String, u64, String)> {
        let (place, rest) = text.split_once(':')?;
        let (count, file) = rest.split_once(':')?;
        Some((place.to_owned(), count.parse().ok()?, file.to_owned()))
    }

    /// Whether this is the time to end.
    pub(super) fn is_hit(reached: &str) -> bool {
        let armed = ARMED.get_or_init(|| parse(&std::env::var(super::VARIABLE).ok()?));
        let Some((place, count, file)) = armed else { return false };
        place == reached && passed(Path::new(file)) == Some(*count)
    }

    /// How many have passed, this one included: an append is atomic, and ends where this byte stands. None while
    /// there is no file.
    pub(super) fn passed(file: &Path) -> Option<u64> {
        let mut file = File::options().append(true).open(file).ok()?;
        file.write_all(b".").ok()?;
        file.stream_position().ok()
    }

    /// Ends this process as SIGKILL from outside does: no destructor runs, no buffer is flushed.
    pub(super) fn end() -> ! {
        loop {
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        }
    }

    #[cfg(test)]
    mod tests {
        #[test]
        fn the_count_is_over_all_who_share_the_file() {
            let dir = tempfile::tempdir().unwrap();
            let file = dir.path().join("hits");
            assert_eq!(super::passed(&file), None);
            std::fs::write(&file, "").unwrap();
            let mut passed: Vec<_> = (0..8)
                .map(|_| {
                    std::thread::spawn({
                        let file = file.clone();
                        move || super::passed(&file).unwrap()
                    })
                })
                .map(|thread| thread.join().unwrap())
                .collect();
            passed.sort_unstable();
            assert_eq!(passed, [1, 2, 3, 4, 5, 6, 7, 8]);
            assert_eq!(super::parse("a.b:3:/x:y"), Some(("a.b".into(), 3, "/x:y".into())));
            assert_eq!(super::parse("a.b"), None);
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn no_place_is_named_twice() {
        let mut names = super::PLACES.to_vec();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), super::PLACES.len());
    }
}
