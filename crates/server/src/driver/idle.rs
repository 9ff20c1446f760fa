//! GPUs that are given to a task and do nothing. How busy a device is, its worker says with its heartbeats; the time
//! from one to the next counts as idle when the device was idle at the first. An estimate for people, of which nothing
//! is decided: what was counted in the last minute is lost with the process.

use super::engine::usage_of;
use crate::limits;
use fetchml_api::{GpuUsage, TaskSpec};
use fetchml_store::UsageRow;
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// What was counted and is not stored yet.
#[derive(Debug, Default)]
pub(super) struct IdleGpus {
    counted: BTreeMap<(String, Option<String>), Duration>,
    since: Option<Instant>,
}

impl IdleGpus {
    /// A device of a task was last seen so long ago, and did this.
    pub(super) fn look(&mut self, spec: &TaskSpec, usage: &GpuUsage, ago: Duration) {
        if usage.utilization_percent.is_none_or(|percent| percent >= limits::IDLE_BELOW_PERCENT) {
            return;
        }
        let UsageRow { user_id, experiment_id, .. } = usage_of(spec);
        // Of a worker that was not heard for long nobody knows what its devices did.
        *self.counted.entry((user_id, experiment_id)).or_default() += ago.min(limits::IDLE_LOOK_MAX);
        self.since.get_or_insert_with(Instant::now);
    }

    /// What is to be stored now, if it is time.
    pub(super) fn take_due(&mut self) -> Vec<UsageRow> {
        if self.since.is_none_or(|since| since.elapsed() < limits::IDLE_STORED_EVERY) {
            return Vec::new();
        }
        let due = self.waiting().collect();
        *self = Self::default();
        due
    }

    /// What was counted since.
    pub(super) fn waiting(&self) -> impl Iterator<Item = UsageRow> + '_ {
        self.counted.iter().map(|((user_id, experiment_id), idle)| UsageRow {
            user_id: user_id.clone(),
            experiment_id: experiment_id.clone(),
            idle_gpu_ms: u64::try_from(idle.as_millis()).unwrap_or(u64::MAX),
            ..UsageRow::default()
        })
    }
}
