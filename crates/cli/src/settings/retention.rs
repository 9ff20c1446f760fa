//! Settings of what server and worker keep, and for how long.

use super::{ServerSettings, WorkerSettings};
use crate::{failure::Failure, quantity::parse_size};
use fetchml_server::Retention;
use std::time::Duration;

impl ServerSettings {
    /// # Errors
    /// Every value of these that makes no sense.
    pub(super) fn check_retention(&self) -> Result<(), Failure> {
        let mut problems = Vec::new();
        if !(1..=100).contains(&self.disk_high_percent) {
            problems.push("server.disk_high_percent must be between 1 and 100".to_owned());
        }
        if self.disk_low_percent > self.disk_high_percent {
            problems.push(format!(
                "server.disk_low_percent ({}) must not be above server.disk_high_percent ({})",
                self.disk_low_percent, self.disk_high_percent
            ));
        }
        if problems.is_empty() {
            return Ok(());
        }
        let hint = "`fetchml config --explain` shows each setting and where it came from";
        Err(Failure::usage(problems.join("; ")).hint(hint))
    }

    /// As the server takes them.
    pub(crate) fn retention(&self) -> Retention {
        let hours = |hours: u32| Duration::from_hours(hours.into());
        let days = |days: u32| hours(days.saturating_mul(24));
        let unless_zero = |value: u32, time: Duration| (value > 0).then_some(time);
        Retention {
            files: unless_zero(self.retention_days, days(self.retention_days)),
            tasks: unless_zero(self.task_retention_days, days(self.task_retention_days)),
            deleted: days(self.deleted_retention_days),
            at_least: hours(self.retention_min_hours),
            disk_high_percent: self.disk_high_percent,
            disk_low_percent: self.disk_low_percent,
            every: unless_zero(self.gc_every_hours, hours(self.gc_every_hours)),
            ..Retention::default()
        }
    }
}

impl WorkerSettings {
    /// What the worker's cache may take, bytes.
    ///
    /// # Errors
    /// It is not a size.
    pub(crate) fn cache_bytes(&self) -> Result<Option<u64>, Failure> {
        let read =
            |text: &String| parse_size(text).map_err(|why| Failure::usage(format!("setting worker.cache: {why}")));
        self.cache.as_ref().map(read).transpose()
    }
}
