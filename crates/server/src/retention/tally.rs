//! What a collection has deleted so far, or would.

use super::Retention;
use fetchml_api::{GcCount, GcDisk, GcKind, GcReport, GcRules, GcState, GcUser, Micros, TaskId};
use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

/// Most users in a report.
const USERS_SHOWN: usize = 100;

/// Counts of one collection.
#[derive(Clone, Debug)]
pub(super) struct Tally {
    pub(super) dry_run: bool,
    rules: GcRules,
    pub(super) state: GcState,
    started_at: Micros,
    pub(super) ended_at: Option<Micros>,
    counts: BTreeMap<GcKind, (u64, u64)>,
    oldest: Option<(Micros, TaskId)>,
    users: HashMap<String, (u64, u64)>,
    pub(super) disk: Option<GcDisk>,
    pub(super) problems: Vec<String>,
}

impl Tally {
    pub(super) fn new(dry_run: bool, settings: &Retention, started_at: Micros) -> Self {
        Self {
            dry_run,
            rules: rules(settings),
            state: GcState::Running,
            started_at,
            ended_at: None,
            counts: BTreeMap::new(),
            oldest: None,
            users: HashMap::new(),
            disk: None,
            problems: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, kind: GcKind, (count, bytes): (u64, u64)) {
        let sum = self.counts.entry(kind).or_default();
        *sum = (sum.0 + count, sum.1.saturating_add(bytes));
    }

    /// The files of a task, `bytes` in all, go.
    pub(super) fn add_task_files(&mut self, id: TaskId, user_id: &str, since: Micros, bytes: u64) {
        let user = self.users.entry(user_id.to_owned()).or_default();
        *user = (user.0 + 1, user.1.saturating_add(bytes));
        if self.oldest.is_none_or(|oldest| (since, id) < oldest) {
            self.oldest = Some((since, id));
        }
    }

    /// Bytes on the disk.
    pub(super) fn freed(&self) -> u64 {
        [GcKind::Logs, GcKind::Metrics, GcKind::Blobs, GcKind::Uploads].iter().map(|kind| self.of(*kind).1).sum()
    }

    pub(super) fn of(&self, kind: GcKind) -> (u64, u64) {
        self.counts.get(&kind).copied().unwrap_or_default()
    }

    pub(super) fn report(&self) -> GcReport {
        let mut users: Vec<GcUser> = self
            .users
            .iter()
            .map(|(user_id, &(tasks, bytes))| GcUser { user_id: user_id.clone(), tasks, bytes })
            .collect();
        users.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.user_id.cmp(&b.user_id)));
        users.truncate(USERS_SHOWN);
        let count = |kind| {
            let (count, bytes) = self.of(kind);
            GcCount { kind, count, bytes }
        };
        GcReport {
            dry_run: self.dry_run,
            state: self.state,
            started_at: self.started_at,
            ended_at: self.ended_at,
            removed: GcKind::ALL.map(count).into(),
            freed_bytes: self.freed(),
            oldest: self.oldest.map(|(at, _)| at),
            oldest_task: self.oldest.map(|(_, task)| task),
            users,
            disk: self.disk.clone(),
            rules: self.rules.clone(),
            problems: self.problems.clone(),
        }
    }
}

/// The settings as they are shown.
pub(super) fn rules(settings: &Retention) -> GcRules {
    let hours = |duration: Duration| u32::try_from(duration.as_secs() / 3_600).unwrap_or(u32::MAX);
    let days = |duration: Duration| hours(duration) / 24;
    GcRules {
        retention_days: settings.files.map_or(0, days),
        task_retention_days: settings.tasks_kept().map_or(0, days),
        deleted_retention_days: days(settings.deleted),
        disk_high_percent: settings.disk_high_percent,
        disk_low_percent: settings.disk_low_percent,
        retention_min_hours: hours(settings.at_least),
        grace_hours: hours(settings.grace),
    }
}
