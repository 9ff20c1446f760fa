//! What the log says of tasks: its events folded, one after the other, into how each task is after them. No state of a
//! task changes without an event in the same transaction, so this is the table of tasks, or the log is not the truth.

use crate::event::AuditEvent;
use fetchml_api::{TaskId, TaskState, TaskStatus};
use std::collections::BTreeMap;

/// A task as the log tells of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReplayedTask {
    /// Where it is in its life.
    pub status: TaskStatus,
    /// Priority asked for.
    pub priority: u8,
    /// Counted retries used.
    pub retry_count: u32,
    /// Free requeues used.
    pub requeue_count: u32,
    /// The current attempt, or the one that ended it; none while queued.
    pub attempt: Option<String>,
    /// Its epoch, or that of the last attempt.
    pub epoch: Option<String>,
    /// Worker of the current or last attempt.
    pub worker: Option<String>,
    /// Cause of the last failure.
    pub cause: Option<String>,
    /// Exit code of the last attempt.
    pub exit_code: Option<i32>,
    /// Signal of the last attempt.
    pub signal: Option<i32>,
    /// Who asked to cancel.
    pub cancelled_by: Option<String>,
    /// Why it failed, of a task that has ended.
    pub error: Option<String>,
    /// Deleted: no read shows it.
    pub hidden: bool,
}

impl ReplayedTask {
    /// What of a stored task the log must tell.
    pub fn of(state: &TaskState) -> Self {
        Self {
            status: state.status,
            priority: state.priority,
            retry_count: state.retry_count,
            requeue_count: state.requeue_count,
            attempt: state.attempt.map(|attempt| attempt.to_string()),
            epoch: state.epoch.map(|epoch| epoch.to_string()),
            worker: state.worker_id.map(|worker| worker.to_string()),
            cause: state.cause.map(|cause| cause.as_str().to_owned()),
            exit_code: state.exit_code,
            signal: state.signal,
            cancelled_by: state.cancelled_by.clone(),
            error: state.error.clone().filter(|_| state.status == TaskStatus::Failed),
            hidden: state.hidden,
        }
    }

    const fn queued() -> Self {
        Self {
            status: TaskStatus::Queued,
            priority: 0,
            retry_count: 0,
            requeue_count: 0,
            attempt: None,
            epoch: None,
            worker: None,
            cause: None,
            exit_code: None,
            signal: None,
            cancelled_by: None,
            error: None,
            hidden: false,
        }
    }
}

/// An event that cannot follow those before it.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("event {sequence}: {what}")]
pub struct ReplayError {
    /// Its number.
    pub sequence: u64,
    /// What is wrong.
    pub what: String,
}

/// The tasks as of the last event.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Replay {
    tasks: BTreeMap<TaskId, ReplayedTask>,
}

impl Replay {
    /// All tasks that were submitted and not purged.
    pub const fn tasks(&self) -> &BTreeMap<TaskId, ReplayedTask> {
        &self.tasks
    }

    /// Takes the next event. Those that do not change a task change nothing.
    ///
    /// # Errors
    /// The event cannot follow: a task was never submitted, or twice, or has ended before.
    pub fn push(&mut self, event: &AuditEvent) -> Result<(), ReplayError> {
        let wrong = |what: &str| ReplayError { sequence: event.sequence_num, what: what.to_owned() };
        let Some(name) = event.resource.strip_prefix("tasks/") else { return Ok(()) };
        let Ok(id) = name.parse::<TaskId>() else { return Ok(()) };
        match event.action.as_str() {
            "submit" if self.tasks.contains_key(&id) => return Err(wrong("the task was submitted before")),
            "submit" => drop(self.tasks.insert(id, ReplayedTask::queued())),
            "purge" => {
                let purged = self.tasks.remove(&id);
                return purged.map(drop).ok_or_else(|| wrong("the purged task was never submitted"));
            }
            _ => {}
        }
        let Some(task) = self.tasks.get_mut(&id) else { return Err(wrong("the task was never submitted")) };
        if event.action == "delete" {
            task.hidden = true;
        }
        // Only what moves a task names its status.
        let Some(status) = event.metadata.get("status") else { return Ok(()) };
        if task.status.is_terminal() {
            return Err(wrong("the task had ended"));
        }
        task.status = status.parse().map_err(|_| wrong("there is no such status"))?;
        follow(task, event).ok_or_else(|| wrong("a number of it cannot be read"))
    }
}

/// What an event tells besides the status, by its action. None: a number is none.
fn follow(task: &mut ReplayedTask, event: &AuditEvent) -> Option<()> {
    let fact = |name: &str| event.metadata.get(name);
    match event.action.as_str() {
        "submit" | "priority" => task.priority = fact("priority")?.parse().ok()?,
        "assign" => {
            task.attempt = Some(fact("attempt")?.clone());
            task.epoch = Some(fact("epoch")?.clone());
            task.worker = Some(fact("worker")?.clone());
        }
        "return" => task.attempt = None,
        "cancel_request" => task.cancelled_by = Some(event.user_id.clone()),
        "retry" | "requeue" | "complete" | "fail" | "cancel" => {
            task.retry_count = fact("retry_count")?.parse().ok()?;
            task.requeue_count = fact("requeue_count")?.parse().ok()?;
            let number = |name| fact(name).map(|text| text.parse().ok()).map_or(Some(None), |read| read.map(Some));
            (task.exit_code, task.signal) = (number("exit_code")?, number("signal")?);
            task.cause = fact("cause").cloned();
            if matches!(event.action.as_str(), "retry" | "requeue") {
                task.attempt = None;
            }
            if event.action == "cancel" {
                task.cancelled_by.get_or_insert_with(|| event.user_id.clone());
            }
            task.error.clone_from(&event.error);
        }
        _ => {}
    }
    Some(())
}
