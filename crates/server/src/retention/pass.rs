//! One collection, from beginning to end. It may be cut off anywhere: each step leaves everything in order, and the
//! next collection goes on from there.

use super::{Ended, Retention, Shelves, disk, pace::Pace, tally::Tally};
use crate::limits;
use fetchml_api::{AttemptId, AttemptPhase, CollectReason, GcDisk, GcKind, Micros, TaskId, WorkerId};
use fetchml_store::Past;
use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// What a dry run takes to be gone.
#[derive(Debug, Default)]
pub(super) struct Gone {
    /// Tasks whose files would be gone.
    pub(super) tasks: HashSet<TaskId>,
    /// Their attempts.
    pub(super) attempts: HashSet<AttemptId>,
    /// Snapshots, and by how many of the tasks that would be gone altogether each is named.
    pub(super) named: HashMap<String, u64>,
    /// Snapshots that would be gone.
    pub(super) snapshots: HashSet<String>,
}

/// One collection.
pub(super) struct Pass<'a> {
    pub(super) shelves: &'a Shelves,
    pub(super) settings: Retention,
    /// The time by which ages are told.
    pub(super) now: Micros,
    /// The time that is written down.
    pub(super) at: Micros,
    /// What was claimed since then stays.
    pub(super) claimed_before: Micros,
    /// Workers that may have uploads to report.
    pub(super) linked: BTreeSet<WorkerId>,
    pub(super) pace: &'a mut Pace,
    pub(super) tally: Arc<Mutex<Tally>>,
    /// Only of a dry run.
    pub(super) gone: Option<Gone>,
    /// Whether blobs are looked through even if nothing else asks for it.
    pub(super) sweeps: bool,
}

impl<'a> Pass<'a> {
    /// A collection at `now`; `at` is what is written down as its time.
    pub(super) fn new(
        shelves: &'a Shelves,
        settings: Retention,
        (now, at): (Micros, Micros),
        linked: BTreeSet<WorkerId>,
        pace: &'a mut Pace,
        tally: Arc<Mutex<Tally>>,
    ) -> Self {
        let dry_run = tally.lock().unwrap_or_else(PoisonError::into_inner).dry_run;
        Self {
            shelves,
            settings,
            now,
            at,
            claimed_before: earlier(now, settings.grace),
            linked,
            pace,
            tally,
            gone: dry_run.then(Gone::default),
            sweeps: true,
        }
    }

    pub(super) fn tally(&self) -> MutexGuard<'_, Tally> {
        // Counts are right after each line that changes them.
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All of it.
    pub(super) async fn run(&mut self) -> Result<(), Ended> {
        let found = self.look_at_disk();
        self.tally().disk.clone_from(&found);
        if self.gone.is_none() {
            self.finish_begun().await?;
            self.shelves.blobs.empty_trash().await?;
        }
        if let Some(kept) = self.settings.files {
            self.collect_files(Past::WithFiles, earlier(self.now, kept), CollectReason::Age).await?;
        }
        self.collect_files(Past::Deleted, earlier(self.now, self.settings.deleted), CollectReason::Deleted).await?;
        if let (Some(disk), true) = (&found, self.gone.is_some()) {
            self.plan_for_disk(disk).await?;
        }
        if let Some(kept) = self.settings.tasks_kept() {
            self.purge_tasks(earlier(self.now, kept)).await?;
        }
        self.delete_snapshots().await?;
        let uploads = self.shelves.blobs.broken_uploads(limits::GC_UPLOAD_QUIET, self.gone.is_none()).await?;
        self.tally().add(GcKind::Uploads, uploads);
        let is_full = found.is_some_and(|disk| disk.used_percent > self.settings.disk_high_percent);
        if self.sweeps || is_full {
            let before = self.sweep_before().await?;
            self.sweep(before).await?;
        }
        if self.gone.is_none() { self.relieve_disk().await } else { Ok(()) }
    }

    /// Blobs claimed before this instant that nothing refers to are nobody's. An attempt whose artifacts are on their
    /// way, or whose worker cannot be heard, may name later whatever it found since it began.
    pub(super) async fn sweep_before(&self) -> Result<Micros, Ended> {
        let live = self.shelves.store.attempts_live().await?;
        let uncertain = live
            .iter()
            .filter(|attempt| attempt.phase == AttemptPhase::Collecting || !self.linked.contains(&attempt.worker_id));
        Ok(uncertain.map(|attempt| attempt.created_at).fold(self.claimed_before, Micros::min))
    }

    /// What a full disk would cost.
    async fn plan_for_disk(&mut self, disk: &GcDisk) -> Result<(), Ended> {
        if disk.used_percent <= self.settings.disk_high_percent {
            return Ok(());
        }
        let counted = {
            let tally = self.tally();
            [GcKind::Logs, GcKind::Artifacts, GcKind::Checkpoints].iter().map(|kind| tally.of(*kind).1).sum()
        };
        let wanted = disk::excess(disk, self.settings.disk_low_percent).saturating_sub(counted);
        let before = earlier(self.now, self.settings.at_least);
        self.collect_until(Past::WithFiles, before, CollectReason::Disk, wanted).await.map(drop)
    }

    /// While the disk is too full, the files of the tasks that ended first go.
    async fn relieve_disk(&mut self) -> Result<(), Ended> {
        let mut above = self.settings.disk_high_percent;
        for _ in 0..limits::GC_DISK_ROUNDS {
            let Some(disk) = self.look_at_disk().filter(|disk| disk.used_percent > above) else { return Ok(()) };
            above = self.settings.disk_low_percent;
            let wanted = disk::excess(&disk, above).max(1);
            let before = earlier(self.now, self.settings.at_least);
            if self.collect_until(Past::WithFiles, before, CollectReason::Disk, wanted).await? == 0 {
                break;
            }
            let before = self.sweep_before().await?;
            self.sweep(before).await?;
        }
        if let Some(disk) = self.look_at_disk().filter(|disk| disk.used_percent > self.settings.disk_high_percent) {
            self.tally().problems.push(cannot_relieve(&disk, &self.settings));
        }
        Ok(())
    }

    fn look_at_disk(&self) -> Option<GcDisk> {
        disk::measure(self.shelves.blobs.root())
            .inspect_err(|error| tracing::warn!(%error, "the disk cannot be measured"))
            .ok()
    }
}

/// Why the disk stays full.
pub(super) fn cannot_relieve(disk: &GcDisk, settings: &Retention) -> String {
    format!(
        "The server's disk is {} % full (limit {} %), and no more files of ended tasks may be deleted: those of the \
         last {} hours stay, and so does what other programs keep there. Free some space or add some.",
        disk.used_percent,
        settings.disk_high_percent,
        settings.at_least.as_secs() / 3_600
    )
}

fn earlier(now: Micros, by: Duration) -> Micros {
    Micros(now.0.saturating_sub(i64::try_from(by.as_micros()).unwrap_or(i64::MAX)))
}
