//! The audit events of tasks, drains and devices. Those of a task name the status after it: no status
//! changes without one, so that replaying them gives the tasks.

use fetchml_api::{
    AttemptRecord, AuditDraft, AuditKind, FailureCause, Gpu, GpuState, Micros, QuotaRecord, QuotaScope,
    ReservationRecord, TaskId, TaskState, WorkerId, WorkerRecord,
};
use std::collections::BTreeMap;

/// The actor of what nobody asked for.
pub(crate) const SYSTEM: &str = "system";

/// What happened to a task.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Action {
    /// Entered the system.
    Submit,
    /// Went from what it waited for into the queue.
    Unblock,
    /// Placed on a worker.
    Assign,
    /// Given back by its worker before user code ran: it waits as if it had never left.
    Return,
    /// User code started.
    Start,
    /// User code has ended; what it left is collected.
    Collect,
    /// Queued again after a failure of its own.
    Retry,
    /// Queued again at no cost.
    Requeue,
    /// A user gave it another priority.
    Priority,
    /// It is to be stopped for another task.
    Preempt,
    /// A user asked to stop it while it was on a worker.
    CancelRequest,
    /// Ended well.
    Complete,
    /// Ended otherwise.
    Fail,
    /// Ended because a user asked for it.
    Cancel,
}

impl Action {
    const fn kind(self) -> AuditKind {
        match self {
            Self::Submit
            | Self::Unblock
            | Self::Assign
            | Self::Return
            | Self::Retry
            | Self::Requeue
            | Self::Priority
            | Self::Preempt => AuditKind::JobQueued,
            Self::Start => AuditKind::JobStarted,
            Self::Collect | Self::CancelRequest | Self::Complete | Self::Fail | Self::Cancel => AuditKind::JobCompleted,
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Submit => "submit",
            Self::Unblock => "unblock",
            Self::Assign => "assign",
            Self::Return => "return",
            Self::Start => "start",
            Self::Collect => "collect",
            Self::Retry => "retry",
            Self::Requeue => "requeue",
            Self::Priority => "priority",
            Self::Preempt => "preempt",
            Self::CancelRequest => "cancel_request",
            Self::Complete => "complete",
            Self::Fail => "fail",
            Self::Cancel => "cancel",
        }
    }
}

/// The event for a task that now is in `state`, with the attempt it concerns.
pub(crate) fn draft(
    now: Micros,
    user: &str,
    action: Action,
    state: &TaskState,
    attempt: Option<&AttemptRecord>,
) -> AuditDraft {
    let mut metadata = BTreeMap::new();
    let mut put = |name: &str, value: String| {
        metadata.insert(name.to_owned(), value);
    };
    put("status", state.status.as_str().to_owned());
    match action {
        Action::Submit | Action::Priority => put("priority", state.priority.to_string()),
        Action::Unblock
        | Action::Assign
        | Action::Return
        | Action::Start
        | Action::Collect
        | Action::Preempt
        | Action::CancelRequest => {}
        Action::Retry | Action::Requeue | Action::Complete | Action::Fail | Action::Cancel => {
            put("retry_count", state.retry_count.to_string());
            put("requeue_count", state.requeue_count.to_string());
            let ending = [("exit_code", state.exit_code), ("signal", state.signal)];
            for (name, value) in ending.into_iter().filter_map(|(name, value)| Some((name, value?))) {
                put(name, value.to_string());
            }
            if let Some(cause) = state.cause {
                put("cause", FailureCause::as_str(cause).to_owned());
            }
            if let Some(rule) = &state.log_rule {
                put("log_rule", rule.pattern.clone());
            }
        }
    }
    if let Some(attempt) = attempt {
        put("attempt", attempt.id.to_string());
        put("epoch", attempt.epoch.to_string());
        put("worker", attempt.worker_id.to_string());
    }
    AuditDraft {
        at: now,
        kind: action.kind(),
        user_id: user.to_owned(),
        resource: format!("tasks/{}", state.id),
        action: action.as_str().to_owned(),
        success: true,
        ip_address: None,
        error: state.error.clone().filter(|_| matches!(action, Action::Fail | Action::Cancel)),
        metadata,
    }
}

/// The event for a quota that was set.
pub(crate) fn quota_draft(now: Micros, user: &str, record: &QuotaRecord) -> AuditDraft {
    let quota = record.quota;
    let facts = [
        ("running", quota.running),
        ("queued", quota.queued),
        ("gpus", quota.gpus),
        ("max_priority", quota.max_priority.map(u32::from)),
    ];
    AuditDraft {
        at: now,
        kind: AuditKind::AuthAttempt,
        user_id: user.to_owned(),
        resource: match &record.scope {
            QuotaScope::Role(role) => format!("quotas/roles/{}", role.as_str()),
            QuotaScope::User(user) => format!("quotas/users/{user}"),
        },
        action: "quota".to_owned(),
        success: true,
        ip_address: None,
        error: None,
        metadata: facts.into_iter().filter_map(|(name, limit)| Some((name.to_owned(), limit?.to_string()))).collect(),
    }
}

/// The event for a worker that is drained or takes work again.
pub(crate) fn worker_draft(
    now: Micros,
    user: &str,
    action: &str,
    record: &WorkerRecord,
    metadata: BTreeMap<String, String>,
) -> AuditDraft {
    AuditDraft {
        at: now,
        kind: AuditKind::SchedulerDrain,
        user_id: user.to_owned(),
        resource: format!("workers/{}", record.id),
        action: action.to_owned(),
        success: true,
        ip_address: None,
        error: None,
        metadata,
    }
}

/// The event for a reservation that was made, claimed, completed, or has expired.
pub(crate) fn reservation_draft(
    now: Micros,
    user: &str,
    action: &str,
    record: &ReservationRecord,
    task: Option<TaskId>,
) -> AuditDraft {
    let facts = [
        ("status", Some(record.status.as_str().to_owned())),
        ("gpus", Some(record.gpu_count.to_string())),
        ("nodes", Some(record.node_count.to_string())),
        ("gpu_type", record.gpu_type.clone()),
        ("task", task.map(|task| task.to_string())),
    ];
    AuditDraft {
        at: now,
        kind: AuditKind::JobQueued,
        user_id: user.to_owned(),
        resource: format!("reservations/{}", record.id),
        action: action.to_owned(),
        success: true,
        ip_address: None,
        error: None,
        metadata: facts.into_iter().filter_map(|(name, fact)| Some((name.to_owned(), fact?))).collect(),
    }
}

/// An event for each device that is unhealthy now and was not, or the other way round. That one is withheld
/// for a while is no event: it may happen with every process that somebody starts by hand.
pub(crate) fn gpu_drafts(now: Micros, worker: WorkerId, before: &[Gpu], after: &[Gpu]) -> Vec<AuditDraft> {
    let is_unhealthy =
        |gpus: &[Gpu], index| gpus.iter().any(|gpu| gpu.index == index && gpu.state == GpuState::Unhealthy);
    let changed = after.iter().filter(|gpu| is_unhealthy(before, gpu.index) != (gpu.state == GpuState::Unhealthy));
    let draft = |gpu: &Gpu| {
        let unhealthy = gpu.state == GpuState::Unhealthy;
        AuditDraft {
            at: now,
            kind: AuditKind::SchedulerDrain,
            user_id: SYSTEM.to_owned(),
            resource: format!("workers/{worker}/gpus/{}", gpu.index),
            action: if unhealthy { "gpu_drain" } else { "gpu_undrain" }.to_owned(),
            success: true,
            ip_address: None,
            error: gpu.reason.clone().filter(|_| unhealthy),
            metadata: BTreeMap::from([("uuid".to_owned(), gpu.uuid.clone())]),
        }
    };
    changed.map(draft).collect()
}
