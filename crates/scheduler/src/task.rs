//! A task as the core keeps it: small while it waits, since a hundred thousand may wait. What only
//! a task has that was placed or touched stands behind a pointer.

use crate::event::{Lease, NewTask};
use fetchml_api::{
    AttemptEpoch, AttemptId, FailureCause, LogRuleMatch, Micros, NodeAssignment, TaskId, TaskState, TaskStatus,
    WorkerId, time::SECOND,
};

/// A task that has not ended. Its id is its key in the map that holds it.
#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) queued_since: Micros,
    pub(crate) waited_before: i64,
    pub(crate) shape: u32,
    pub(crate) user: u32,
    pub(crate) max_retries: u32,
    /// Seconds; 0: none.
    time_limit_s: u32,
    pub(crate) lease: Lease,
    pub(crate) priority: u8,
    pub(crate) status: TaskStatus,
    /// Waits for something else than room.
    pub(crate) blocked: bool,
    pub(crate) group: Option<u32>,
    history: Option<Box<History>>,
}

/// The rest of a [`TaskState`], for tasks that have been somewhere.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    pub(crate) not_before: Option<Micros>,
    pub(crate) attempt: Option<AttemptId>,
    pub(crate) epoch: Option<AttemptEpoch>,
    pub(crate) worker_id: Option<WorkerId>,
    pub(crate) started_at: Option<Micros>,
    pub(crate) ended_at: Option<Micros>,
    pub(crate) retry_count: u32,
    pub(crate) requeue_count: u32,
    pub(crate) attempt_count: u32,
    pub(crate) cancelled_by: Option<String>,
    pub(crate) cause: Option<FailureCause>,
    pub(crate) exit_code: Option<i32>,
    pub(crate) signal: Option<i32>,
    pub(crate) error: Option<String>,
    pub(crate) hidden: bool,
    pub(crate) log_rule: Option<LogRuleMatch>,
    pub(crate) excluded_workers: Vec<WorkerId>,
    pub(crate) nodes: Vec<NodeAssignment>,
}

impl Task {
    pub(crate) fn new(new: &NewTask, now: Micros, shape: u32, user: u32) -> Self {
        Self {
            queued_since: now,
            waited_before: 0,
            shape,
            user,
            max_retries: new.max_retries,
            time_limit_s: new.time_limit_s.unwrap_or(0),
            lease: new.lease,
            priority: new.priority,
            status: TaskStatus::Queued,
            blocked: false,
            group: None,
            history: None,
        }
    }

    pub(crate) fn from_state(state: TaskState, new: &NewTask, shape: u32, user: u32) -> Self {
        let fresh = state.attempt_count == 0 && state.not_before.is_none() && state.cancelled_by.is_none();
        let history = History {
            not_before: state.not_before,
            attempt: state.attempt,
            epoch: state.epoch,
            worker_id: state.worker_id,
            started_at: state.started_at,
            ended_at: state.ended_at,
            retry_count: state.retry_count,
            requeue_count: state.requeue_count,
            attempt_count: state.attempt_count,
            cancelled_by: state.cancelled_by,
            cause: state.cause,
            exit_code: state.exit_code,
            signal: state.signal,
            error: state.error,
            hidden: state.hidden,
            log_rule: state.log_rule,
            excluded_workers: state.excluded_workers,
            nodes: state.nodes,
        };
        Self {
            queued_since: state.queued_since,
            waited_before: state.waited_before,
            shape,
            user,
            max_retries: new.max_retries,
            time_limit_s: new.time_limit_s.unwrap_or(0),
            lease: new.lease,
            priority: state.priority,
            status: state.status,
            blocked: state.blocked,
            group: None,
            history: (!fresh || history.hidden).then(|| Box::new(history)),
        }
    }

    pub(crate) fn state(&self, id: TaskId) -> TaskState {
        let h = self.history.as_deref().cloned().unwrap_or_default();
        TaskState {
            id,
            status: self.status,
            priority: self.priority,
            queued_since: self.queued_since,
            waited_before: self.waited_before,
            blocked: self.blocked,
            not_before: h.not_before,
            attempt: h.attempt,
            epoch: h.epoch,
            worker_id: h.worker_id,
            started_at: h.started_at,
            ended_at: h.ended_at,
            retry_count: h.retry_count,
            requeue_count: h.requeue_count,
            attempt_count: h.attempt_count,
            cancelled_by: h.cancelled_by,
            cause: h.cause,
            exit_code: h.exit_code,
            signal: h.signal,
            error: h.error,
            hidden: h.hidden,
            log_rule: h.log_rule,
            excluded_workers: h.excluded_workers,
            nodes: h.nodes,
        }
    }

    /// Longest time user code runs, seconds.
    pub(crate) fn time_limit(&self) -> Option<u32> {
        (self.time_limit_s > 0).then_some(self.time_limit_s)
    }

    pub(crate) fn history_mut(&mut self) -> &mut History {
        self.history.get_or_insert_default()
    }

    pub(crate) fn history(&self) -> Option<&History> {
        self.history.as_deref()
    }

    pub(crate) fn attempt(&self) -> Option<AttemptId> {
        self.history.as_ref().and_then(|h| h.attempt)
    }

    pub(crate) fn cancelled_by(&self) -> Option<&str> {
        self.history.as_ref().and_then(|h| h.cancelled_by.as_deref())
    }

    /// Where it stands in its queue: lower goes first. Aging is linear and the same for all, so the
    /// order of two waiting tasks never changes and the key never has to be computed again.
    pub(crate) fn key(&self, aging_interval: i64) -> i64 {
        let head_start = self.waited_before.saturating_add(i64::from(self.priority).saturating_mul(aging_interval));
        self.queued_since.0.saturating_sub(head_start)
    }
}

/// Priority with aging: the priority asked for plus one for each `aging_interval_s` spent queued.
/// Works for ended tasks too.
pub fn priority_aged(state: &TaskState, now: Micros, aging_interval_s: i64) -> f64 {
    let waiting =
        if state.status == TaskStatus::Queued && !state.blocked { now.since(state.queued_since).max(0) } else { 0 };
    let interval = aging_interval_s.max(1).saturating_mul(SECOND);
    f64::from(state.priority) + state.waited_before.saturating_add(waiting) as f64 / interval as f64
}
