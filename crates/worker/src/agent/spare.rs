//! Attempt directories that are used again: of an attempt whose task left nothing behind and whose
//! directories were never touched. A small task costs some ten inodes otherwise, and making and
//! freeing inodes costs more than anything else the agent does for it.
//!
//! Only for workers that do not isolate tasks from one another: under a sandbox, an open directory
//! that a task has passed on would lead into the next one's files.

use crate::{executor::AttemptDir, limits, shim::files};
use rustix::{
    fs::{AtFlags, CWD, StatxFlags, statx},
    process::geteuid,
};
use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

/// Directories ready for the next attempt.
#[derive(Clone, Debug, Default)]
pub(crate) struct Spares(Arc<Mutex<Vec<PathBuf>>>);

impl Spares {
    /// Makes a spare the directory of an attempt; `false` when there is none.
    pub(crate) fn take(&self, root: &Path) -> bool {
        let spare = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        spare.is_some_and(|spare| fs::rename(spare, root).is_ok())
    }

    /// Keeps a directory that nobody else refers to any more; `false` when it cannot be used again,
    /// and is to be deleted.
    pub(crate) fn keep(&self, root: &Path) -> bool {
        if self.0.lock().unwrap_or_else(PoisonError::into_inner).len() >= limits::SPARES_MAX {
            return false;
        }
        match reset(root) {
            Ok(true) => {
                self.0.lock().unwrap_or_else(PoisonError::into_inner).push(root.to_path_buf());
                true
            }
            Ok(false) => false,
            Err(error) => {
                tracing::debug!(dir = %root.display(), %error, "an attempt's directory is not used again");
                false
            }
        }
    }
}

/// Brings a directory back to what it was before its attempt; `false` when there is more in it than
/// an attempt that left nothing behind has.
fn reset(root: &Path) -> io::Result<bool> {
    // Records become what their writers begin with, and overwrite: see `write_json` of shim and agent.
    let assignment = AttemptDir::at(root).assignment();
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        let (path, name) = (entry.path(), entry.file_name());
        let Some(name) = name.to_str() else { return Ok(false) };
        match name {
            files::LOCK => File::options().write(true).open(&path)?.set_len(0)?,
            files::LOG if entry.metadata()?.len() > 0 => fs::remove_file(&path)?,
            files::LOG => {}
            files::SHIM | files::EXIT | files::STOP => fs::rename(&path, root.join(files::beside(name)))?,
            _ if path == assignment => fs::rename(&path, path.with_extension("new"))?,
            _ if entry.file_type()?.is_dir() => {
                if !AttemptDir::DIRS.contains(&name) || !is_untouched(&path)? {
                    return Ok(false);
                }
            }
            _ => return Ok(false),
        }
    }
    Ok(true)
}

/// Whether a directory is as it was made: it is empty, and since a change of its entries, its mode,
/// its owner or its attributes sets its time of change, that is still the time of its birth. (That
/// clock ticks every few milliseconds; mode and owner are looked at by themselves all the same.)
fn is_untouched(dir: &Path) -> io::Result<bool> {
    if fs::read_dir(dir)?.next().is_some() {
        return Ok(false);
    }
    let stat = statx(CWD, dir, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS | StatxFlags::BTIME)?;
    let knows_birth = StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::BTIME);
    let time = |t: rustix::fs::StatxTimestamp| (t.tv_sec, t.tv_nsec);
    let as_made = stat.stx_mode & 0o7777 == 0o700 && stat.stx_uid == geteuid().as_raw();
    Ok(as_made && knows_birth && time(stat.stx_btime) == time(stat.stx_ctime))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    /// An attempt's directory after a run, with `records` in it.
    fn used(parent: &Path, name: &str) -> PathBuf {
        let root = parent.join(name);
        AttemptDir::at(&root).create().unwrap();
        for file in ["assignment.json", files::LOCK, files::LOG, files::SHIM, files::EXIT] {
            fs::write(root.join(file), format!("{file} of {name}")).unwrap();
        }
        root
    }

    /// Until the file system's clock shows another time than the birth of what is in `root`.
    fn wait_for_a_tick(root: &Path) {
        let born = |path: &Path| fs::metadata(path).unwrap().created().unwrap();
        let last = born(&root.join("tmp"));
        let probe = root.with_extension("probe");
        loop {
            fs::write(&probe, "").unwrap();
            let now = born(&probe);
            fs::remove_file(&probe).unwrap();
            if now > last {
                return;
            }
        }
    }

    #[test]
    fn a_run_that_left_nothing_leaves_a_spare_without_its_records() {
        let temp = tempfile::tempdir().unwrap();
        let spares = Spares::default();
        let root = used(temp.path(), "first");
        let inode = fs::metadata(&root).unwrap().ino();
        assert!(spares.keep(&root));

        let next = temp.path().join("next");
        assert!(spares.take(&next));
        assert_eq!(fs::metadata(&next).unwrap().ino(), inode);
        for record in ["assignment.json", files::SHIM, files::EXIT, files::STOP] {
            assert!(!next.join(record).exists(), "{record} of the last attempt is still there");
        }
        assert!(!next.join(files::LOG).exists(), "bytes of the last log are still there");
        assert_eq!(fs::metadata(next.join(files::LOCK)).unwrap().len(), 0, "the lock still says go");
        assert!(!spares.take(&temp.path().join("another")), "a spare is used once");
    }

    #[test]
    fn what_a_task_touched_is_never_used_again() {
        type Touch = fn(&Path);
        let touches: [(&str, Touch); 6] = [
            ("a file in the output", |root| fs::write(root.join("output/file"), "x").unwrap()),
            ("a file that came and went", |root| {
                fs::write(root.join("tmp/file"), "x").unwrap();
                fs::remove_file(root.join("tmp/file")).unwrap();
            }),
            ("another mode", |root| fs::set_permissions(root.join("home"), fs::Permissions::from_mode(0o777)).unwrap()),
            ("a directory of its own", |root| fs::create_dir(root.join("more")).unwrap()),
            ("a file of its own", |root| fs::write(root.join("metrics.jsonl"), "{}").unwrap()),
            ("a link in place of a directory", |root| {
                fs::remove_dir(root.join("work")).unwrap();
                std::os::unix::fs::symlink("/tmp", root.join("work")).unwrap();
            }),
        ];
        let temp = tempfile::tempdir().unwrap();
        let spares = Spares::default();
        for (what, touch) in touches {
            let root = used(temp.path(), "used");
            wait_for_a_tick(&root);
            touch(&root);
            assert!(!spares.keep(&root), "{what} was passed on");
            fs::remove_dir_all(&root).unwrap();
        }
        assert!(spares.keep(&used(temp.path(), "untouched")));
    }

    #[test]
    fn no_more_spares_than_the_limit() {
        let temp = tempfile::tempdir().unwrap();
        let spares = Spares(Arc::new(Mutex::new(vec![PathBuf::new(); limits::SPARES_MAX])));
        assert!(!spares.keep(&used(temp.path(), "one-too-many")));
    }
}
