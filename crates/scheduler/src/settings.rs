//! What an operator or the driver may set for the core.

use fetchml_api::{Quota, QuotaScope, Role, time::SECOND};
use std::collections::BTreeMap;

/// Settings of the core. Fixed for its life.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// The server's incarnation: first part of every epoch made here.
    pub incarnation: u64,
    /// Epochs already used within this incarnation: [`crate::Scheduler::epochs_used`] of the core
    /// this one replaces, when a core is rebuilt without a restart; else 0.
    pub epochs_used: u64,
    /// Queued time that counts as one level of priority, seconds.
    pub aging_interval_s: i64,
    /// Silence after which a worker's attempts are given up, seconds.
    pub lost_after_s: i64,
    /// Silence after which a worker gets nothing new and is shown offline, seconds.
    pub offline_after_s: i64,
    /// Tasks assigned ahead to a busy worker, per batch slot; 0 turns prefetch off.
    pub prefetch_per_slot: u32,
    /// An attempt assigned ahead that has not started by then is asked back, milliseconds.
    pub prefetch_patience_ms: i64,
    /// A task that has waited this long and fits nowhere gets workers held for it, seconds.
    pub hold_after_s: i64,
    /// Time in which all nodes of a gang must be ready, seconds.
    pub prepare_timeout_s: i64,
    /// Whether tasks in batch slots may be stopped for others of higher priority.
    pub preempt_batch: bool,
    /// Whether those in service slots may be.
    pub preempt_service: bool,
    /// What was stopped so runs for at least so long before it is stopped again, seconds.
    pub preempt_cooldown_s: i64,
    /// Quotas of roles and users, where none are set.
    pub quotas: BTreeMap<QuotaScope, Quota>,
    /// Only workers whose mean slot occupancy is below this get work ahead, milliseconds.
    pub prefetch_short_ms: i64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            incarnation: 1,
            epochs_used: 0,
            aging_interval_s: 1_800,
            lost_after_s: 600,
            offline_after_s: 15,
            prefetch_per_slot: 2,
            prefetch_patience_ms: 2_000,
            prefetch_short_ms: 2_000,
            hold_after_s: 900,
            prepare_timeout_s: 1_800,
            preempt_batch: false,
            preempt_service: false,
            preempt_cooldown_s: 600,
            quotas: BTreeMap::from([(
                QuotaScope::Role(Role::User),
                Quota { max_priority: Some(7), ..Quota::default() },
            )]),
        }
    }
}

impl Settings {
    /// How long a task waits before workers are held for it, microseconds.
    pub(crate) fn hold_after(&self) -> i64 {
        self.hold_after_s.max(0).saturating_mul(SECOND)
    }

    /// How long what was stopped for others is spared, microseconds.
    pub(crate) fn preempt_cooldown(&self) -> i64 {
        self.preempt_cooldown_s.max(0).saturating_mul(SECOND)
    }

    /// The aging interval in microseconds, at least one second.
    pub(crate) fn aging_interval(&self) -> i64 {
        self.aging_interval_s.max(1).saturating_mul(SECOND)
    }
}
