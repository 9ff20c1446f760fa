//! What is kept, and for how long.

use std::time::Duration;

/// What is kept, and for how long. Nothing that a task which has not ended needs is ever deleted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Retention {
    /// Log, artifacts and checkpoints of a task that ended; none: for ever.
    pub files: Option<Duration>,
    /// The task itself; none: for ever. Never shorter than its files.
    pub tasks: Option<Duration>,
    /// The files of a task that was deleted.
    pub deleted: Duration,
    /// Above this, in percent of the disk, the oldest files go until it is below `disk_low_percent`; 100: never.
    pub disk_high_percent: u32,
    /// See `disk_high_percent`.
    pub disk_low_percent: u32,
    /// The files of a task that ended are kept so long even then.
    pub at_least: Duration,
    /// What was uploaded is kept so long although nothing names it yet. Longer than any upload takes.
    pub grace: Duration,
    /// Time between two collections; none: only when asked for.
    pub every: Option<Duration>,
}

impl Retention {
    /// How long tasks are kept: at least as long as their files.
    pub fn tasks_kept(&self) -> Option<Duration> {
        Some(self.tasks?.max(self.files?))
    }
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            files: Some(Duration::from_hours(90 * 24)),
            tasks: Some(Duration::from_hours(90 * 24)),
            deleted: Duration::from_hours(24),
            disk_high_percent: 90,
            disk_low_percent: 80,
            at_least: Duration::from_hours(24),
            grace: Duration::from_hours(24),
            every: Some(Duration::from_hours(1)),
        }
    }
}
