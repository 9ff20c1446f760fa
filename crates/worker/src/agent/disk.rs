//! Keeps the worker's disk from running full: what a log has beyond its quota is given back; when room gets short, the
//! caches give up what no attempt uses; and when little room is left all the same, the attempts are measured, and the
//! core stops the one that takes the most.

use crate::{
    agent::core::Event,
    executor::AttemptDir,
    limits,
    staging::{Cache, Datasets},
};
use fetchml_api::AttemptId;
use rustix::fs::{FallocateFlags, fallocate};
use std::{
    fs, io,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::{sync::mpsc, time::MissedTickBehavior};

/// What takes the room of a disk that is almost full, bytes.
#[derive(Debug)]
pub(crate) struct Usage {
    /// Of each attempt, most first.
    pub(crate) attempts: Vec<(AttemptId, u64)>,
    /// Of what is about to be deleted.
    pub(crate) trash: u64,
}

/// What gives way before any attempt does.
#[derive(Clone, Debug)]
pub(crate) struct Caches {
    /// Files of snapshots, and environments.
    pub(crate) files: Arc<Cache>,
    /// Data sets.
    pub(crate) datasets: Arc<Datasets>,
}

impl Caches {
    /// Data sets first: one of them gives more room than many files, and less is to be made anew.
    fn shed(&self, disk_is_short: impl Fn() -> bool) {
        self.datasets.shed(&disk_is_short);
        self.files.shed(disk_is_short);
    }
}

/// Looks until the core is gone.
pub(crate) fn watch(data_dir: PathBuf, log_quota_bytes: u64, caches: Caches, core: mpsc::Sender<Event>) {
    tokio::spawn(async move {
        let mut look = tokio::time::interval(limits::DISK_EVERY);
        let mut short = false;
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = look.tick() => {}
                () = core.closed() => return,
            }
            let (dir, caches) = (data_dir.clone(), caches.clone());
            let measured = tokio::task::spawn_blocking(move || {
                trim_logs(&dir, log_quota_bytes);
                caches.shed(|| lacks(&dir, limits::DISK_CACHE_RESERVES));
                lacks(&dir, 1).then(|| usage(&dir))
            })
            .await;
            let event = match measured {
                Ok(Some(usage)) => Event::DiskShort(usage),
                Ok(None) if short => Event::DiskFine,
                Ok(None) | Err(_) => continue,
            };
            short = matches!(event, Event::DiskShort(_));
            if core.send(event).await.is_err() {
                return;
            }
        }
    });
}

/// Whether less than so many times the reserve is left. A file system that does not say is taken to have room.
fn lacks(dir: &Path, reserves: u64) -> bool {
    let Ok(stat) = rustix::fs::statvfs(dir) else { return false };
    let (free, total) = (stat.f_bavail.saturating_mul(stat.f_frsize), stat.f_blocks.saturating_mul(stat.f_frsize));
    is_below(free, total, reserves)
}

fn is_below(free: u64, total: u64, reserves: u64) -> bool {
    free < limits::disk_reserve_bytes(total).saturating_mul(reserves)
}

fn attempts(data_dir: &Path) -> impl Iterator<Item = (AttemptId, PathBuf)> {
    let entries = fs::read_dir(data_dir.join("attempts")).into_iter().flatten().flatten();
    entries.filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path())))
}

fn usage(data_dir: &Path) -> Usage {
    let mut attempts: Vec<_> = attempts(data_dir).map(|(attempt, dir)| (attempt, size_of_tree(&dir))).collect();
    attempts.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    Usage { attempts, trash: size_of_tree(&data_dir.join("trash")) }
}

/// Of what is allocated, so that a sparse file counts for what it takes. What cannot be read counts nothing.
fn size_of_tree(root: &Path) -> u64 {
    let mut bytes = 0;
    let mut left = limits::DISK_ENTRIES_MAX;
    let mut dirs = vec![root.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            bytes += metadata.blocks() * 512;
            if metadata.is_dir() {
                dirs.push(entry.path());
            }
            left -= 1;
            if left == 0 {
                return bytes;
            }
        }
    }
    bytes
}

/// Gives back the room of what logs have beyond `quota_bytes`, which is never sent. Their lengths stay, by
/// which the dropped bytes are counted.
fn trim_logs(data_dir: &Path, quota_bytes: u64) {
    for (attempt, _) in attempts(data_dir) {
        let log = AttemptDir::new(data_dir, attempt).log();
        let Ok(metadata) = fs::symlink_metadata(&log) else { continue };
        // Where holes cannot be made, the file is left to the room that there is.
        if metadata.len() > quota_bytes
            && metadata.blocks() * 512 > quota_bytes
            && let Err(error) = punch(&log, quota_bytes, metadata.len() - quota_bytes)
        {
            tracing::debug!(%attempt, %error, "cannot give back the room of a log beyond its quota");
        }
    }
}

fn punch(log: &Path, from: u64, bytes: u64) -> io::Result<()> {
    let log = fs::File::options().write(true).custom_flags(libc::O_NOFOLLOW).open(log)?;
    Ok(fallocate(&log, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, from, bytes)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn the_reserve_is_a_part_of_a_small_disk_and_fixed_on_a_large_one() {
        assert!(is_below(1 << 20, 64 << 20, 1) && !is_below(4 << 20, 64 << 20, 1));
        assert!(is_below(4 << 20, 64 << 20, 2), "the cache gives way before that");
        assert!(is_below((1 << 30) - 1, 8 << 40, 1) && !is_below(1 << 30, 8 << 40, 1));
    }

    #[test]
    fn a_sparse_file_counts_for_what_it_takes_and_a_punched_log_keeps_its_length() {
        let data = tempfile::TempDir::new().unwrap();
        let [small, large] = [1, 2].map(|n| AttemptId(uuid::Uuid::from_u128(n)));
        for (attempt, bytes) in [(small, 100), (large, 1 << 20)] {
            let dir = data.path().join("attempts").join(attempt.to_string()).join("output/deep");
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join("file"), vec![1; bytes]).unwrap();
            fs::File::create(dir.join("sparse")).unwrap().set_len(1 << 40).unwrap();
        }
        let usage = usage(data.path()).attempts;
        assert_eq!(usage.iter().map(|(attempt, _)| *attempt).collect::<Vec<_>>(), [large, small]);
        assert!(usage[0].1 >= 1 << 20 && usage[0].1 < 2 << 20, "{usage:?}");

        let path = AttemptDir::new(data.path(), small).log();
        let mut log = fs::File::options().create(true).append(true).open(&path).unwrap();
        log.write_all(&vec![b'x'; 1 << 20]).unwrap();
        log.sync_all().unwrap();
        let before = log.metadata().unwrap().blocks();
        trim_logs(data.path(), 4_096);
        let after = log.metadata().unwrap();
        assert_eq!(after.len(), 1 << 20);
        assert!(after.blocks() < before / 4, "{before} -> {}", after.blocks());
        assert_eq!(fs::read(&path).unwrap()[..4_096], [b'x'; 4_096]);
    }
}
