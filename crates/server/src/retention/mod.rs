//! Retention: collects the files of ended tasks by age and when the disk is full, then the tasks, then whatever
//! nothing refers to any more. Runs in the background, one collection at a time, each in small steps.
//!
//! Nothing that a task which has not ended needs is deleted, whoever comes first: see [`crate::blobs`] for blobs and
//! [`fetchml_store::Collect`] for rows.

mod blobs;
mod disk;
mod pace;
mod pass;
mod settings;
mod tally;
mod tasks;
#[cfg(test)]
mod tests;

pub use settings::Retention;

use crate::{
    auth::wall_clock,
    blobs::Blobs,
    driver::Driver,
    jitter::jittered,
    limits,
    logs::{LogError, Logs},
};
use fetchml_api::{GcKind, GcReport, GcRules, GcState, HealthStatus, Micros, WorkerStatus};
use fetchml_store::{Store, StoreError};
use pace::{Pace, Stopped};
use pass::Pass;
use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tally::Tally;
use tokio_util::sync::CancellationToken;

/// What is collected from.
#[derive(Clone)]
pub(crate) struct Shelves {
    pub(crate) store: Store,
    pub(crate) blobs: Blobs,
    pub(crate) logs: Logs,
    /// Streams of metrics.
    pub(crate) metrics: Logs,
}

/// Why a collection ended early.
#[derive(Debug, thiserror::Error)]
enum Ended {
    /// The server stops.
    #[error("the server stops")]
    Stopped,
    /// The database failed.
    #[error("the database cannot be used")]
    Store(#[from] StoreError),
    /// A file system or object store failed.
    #[error("files cannot be deleted")]
    Io(#[from] io::Error),
    /// An object store failed.
    #[error("the object store failed")]
    Objects(#[from] object_store::Error),
    /// Logs could not be deleted.
    #[error("logs cannot be deleted")]
    Logs(#[from] LogError),
    /// Something else, in one sentence.
    #[error("{0}")]
    Failed(String),
}

impl From<Stopped> for Ended {
    fn from(Stopped: Stopped) -> Self {
        Self::Stopped
    }
}

/// The collector. Cheap to clone.
#[derive(Clone)]
pub struct Collector(Arc<Inner>);

struct Inner {
    shelves: Shelves,
    driver: Driver,
    settings: Retention,
    stop: CancellationToken,
    /// Held by the collection that runs.
    turn: Arc<tokio::sync::Mutex<()>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    last: Option<Arc<Mutex<Tally>>>,
    /// Why the disk stays full.
    alarm: Option<String>,
    /// When blobs were last looked through, and how long that took with the rest.
    swept: Option<(Instant, Duration)>,
}

/// A collection that was started.
pub(crate) struct Started {
    tally: Arc<Mutex<Tally>>,
    task: tokio::task::JoinHandle<()>,
}

impl Started {
    /// The report, once the collection has ended or after [`limits::GC_ANSWER_WAIT`].
    pub(crate) async fn report(self) -> GcReport {
        // A panic was logged; what was counted until then is right.
        let _ = tokio::time::timeout(limits::GC_ANSWER_WAIT, self.task).await;
        report(&self.tally)
    }
}

fn report(tally: &Mutex<Tally>) -> GcReport {
    tally.lock().unwrap_or_else(PoisonError::into_inner).report()
}

impl Collector {
    pub(crate) fn new(shelves: Shelves, driver: Driver, settings: Retention, stop: CancellationToken) -> Self {
        let (turn, state) = (Arc::default(), Mutex::default());
        Self(Arc::new(Inner { shelves, driver, settings, stop, turn, state }))
    }

    /// Collects now and then until the server stops.
    pub(crate) async fn run(self) {
        let Some(every) = self.0.settings.every else { return };
        let mut next = Instant::now() + jittered(limits::GC_FIRST.min(every));
        let mut for_disk = Instant::now() + limits::GC_DISK_AGAIN;
        loop {
            let now = Instant::now();
            tokio::select! {
                () = self.0.stop.cancelled() => return,
                () = tokio::time::sleep((next - now).min(limits::GC_DISK_LOOK)) => {}
            }
            let is_due = Instant::now() >= next;
            let is_full = Instant::now() >= for_disk && self.disk_is_full().await;
            if !is_due && !is_full {
                continue;
            }
            if let Some(started) = self.start(false, is_full || self.sweep_is_due()) {
                let _ = started.task.await;
            }
            next = Instant::now() + jittered(every);
            for_disk = Instant::now() + limits::GC_DISK_AGAIN;
        }
    }

    /// Starts a collection, which goes on by itself; `None` while another one runs.
    pub(crate) fn start(&self, dry_run: bool, sweeps: bool) -> Option<Started> {
        let turn = Arc::clone(&self.0.turn).try_lock_owned().ok()?;
        let inner = Arc::clone(&self.0);
        let at = inner.driver.now();
        let tally = Arc::new(Mutex::new(Tally::new(dry_run, &inner.settings, at)));
        self.state().last = Some(Arc::clone(&tally));
        let counted = Arc::clone(&tally);
        let this = self.clone();
        let task = tokio::spawn(async move {
            this.collect(dry_run, sweeps, at, counted).await;
            drop(turn);
        });
        Some(Started { tally, task })
    }

    /// Waits for the collection that runs, which the server's stop cuts off at its next step.
    pub(crate) async fn settled(&self) {
        drop(self.0.turn.lock().await);
    }

    /// The last collection, or the one that runs.
    pub(crate) fn last(&self) -> Option<GcReport> {
        self.state().last.as_deref().map(report)
    }

    /// By which rules it collects.
    pub(crate) fn rules(&self) -> GcRules {
        tally::rules(&self.0.settings)
    }

    /// Why the disk stays full, when it does.
    pub(crate) fn alarm(&self) -> Option<String> {
        self.state().alarm.clone()
    }

    async fn collect(&self, dry_run: bool, sweeps: bool, at: Micros, tally: Arc<Mutex<Tally>>) {
        let inner = &*self.0;
        let began = Instant::now();
        let mut pace = Pace::until(inner.stop.clone());
        // A clock that was wrong at the start, or is now, must not make everything old: the earlier one counts.
        let now = at.min(wall_clock());
        let workers = inner.driver.workers();
        let linked = workers.iter().filter(|w| w.status != WorkerStatus::Offline).map(|w| w.id).collect();
        let mut pass = Pass::new(&inner.shelves, inner.settings, (now, at), linked, &mut pace, Arc::clone(&tally));
        pass.sweeps = sweeps;
        let ended = if inner.driver.health().0 == HealthStatus::Unhealthy {
            Err(Ended::Failed("the server is unhealthy: nothing is deleted until it is known why".into()))
        } else {
            pass.run().await
        };
        let report = {
            let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
            tally.ended_at = Some(inner.driver.now());
            tally.state = if ended.is_ok() { GcState::Finished } else { GcState::Stopped };
            match &ended {
                Ok(()) | Err(Ended::Stopped) => {}
                Err(error) => tally.problems.push(format!("It ended early: {error}.")),
            }
            tally.report()
        };
        if !dry_run {
            self.finish(&report, &ended, sweeps.then_some(began));
        }
    }

    fn finish(&self, report: &GcReport, ended: &Result<(), Ended>, swept_since: Option<Instant>) {
        match ended {
            Ok(()) => {
                let mut state = self.state();
                state.alarm = report.problems.first().cloned();
                if let Some(began) = swept_since {
                    state.swept = Some((Instant::now(), began.elapsed()));
                }
            }
            Err(Ended::Stopped) => {}
            Err(error) => {
                let cause = std::error::Error::source(error).map(ToString::to_string);
                tracing::warn!(%error, cause, "a collection ended early; the next one goes on");
            }
        }
        for problem in &report.problems {
            tracing::warn!(problem, "retention");
        }
        if report.removed.iter().any(|count| count.count > 0) {
            let count = |kind| report.of(kind).map_or(0, |count| count.count);
            tracing::info!(
                tasks = count(GcKind::Tasks),
                logs = count(GcKind::Logs),
                artifacts = count(GcKind::Artifacts),
                checkpoints = count(GcKind::Checkpoints),
                snapshots = count(GcKind::Snapshots),
                blobs = count(GcKind::Blobs),
                freed_bytes = report.freed_bytes,
                "collected what is not needed any more"
            );
        }
    }

    async fn disk_is_full(&self) -> bool {
        let root = self.0.shelves.blobs.root().to_owned();
        let measured = tokio::task::spawn_blocking(move || disk::measure(&root)).await;
        let full = matches!(measured, Ok(Ok(disk)) if disk.used_percent > self.0.settings.disk_high_percent);
        if !full {
            self.state().alarm = None;
        }
        full
    }

    fn sweep_is_due(&self) -> bool {
        let swept = self.state().swept;
        swept.is_none_or(|(at, took)| at.elapsed() >= took * limits::GC_SWEEP_PART)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Whole after each line that changes it.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
