//! `/v1/tasks` and `/v1/tasks/{taskId}`.

pub(super) mod create;
pub(super) mod delete;
mod dependencies;
pub(super) mod explain;
pub(super) mod list;
pub(super) mod rerun;
pub(super) mod show;
mod view;

pub(super) use view::{task_view, task_view_at};

use super::scheduler::reservations::not_claimable;
use crate::{
    app::App,
    driver::{CommandError, Refusal},
    error::AppError,
};
use fetchml_api::{Problem, TaskId};
use fetchml_store::StoredTask;

/// The task that a path names: from memory while it lives, else from the store.
pub(super) async fn find(app: &App, id: &str) -> Result<StoredTask, AppError> {
    let unknown = || AppError::not_found("task");
    let id: TaskId = id.parse().map_err(|_| unknown())?;
    let task = match app.driver.live(id) {
        Some(task) => Some(task),
        None => app.store.task(id).await?,
    };
    task.filter(|task| !task.state.hidden).ok_or_else(unknown)
}

/// What the scheduler does not allow, as an answer.
pub(super) fn refused(refusal: Refusal) -> AppError {
    let problem = match refusal {
        Refusal::Claim(refusal) => return not_claimable(refusal),
        Refusal::GpusInUse { limit, has } => {
            return AppError::Conflict {
                error: format!("You may have {limit} GPUs at once, and have {has} already, reserved or in use."),
                hint: Some("Release a reservation, or wait until some of your tasks have ended.".into()),
            };
        }
        Refusal::NotEnough { unreserved } => {
            return AppError::Conflict {
                error: format!(
                    "Too few GPUs of this kind are not reserved: there are {unreserved} on all workers that take work, \
                     and each node needs a worker with enough of its own."
                ),
                hint: Some("Ask for fewer, or wait until a reservation ends (fetchml reservations).".into()),
            };
        }
        Refusal::Queued { limit } => Problem::new(
            "quota",
            format!("you may have {limit} tasks waiting; wait until some have started, or cancel some"),
        ),
        Refusal::Running { limit } => Problem::new("quota", format!("you may have {limit} tasks running at once")),
        Refusal::Gpus { limit } => Problem::new("gpu", format!("you may have {limit} GPUs at once")),
        Refusal::DependencyEnded => {
            Problem::new("depends_on", "something it names is ending just now; send the request again")
        }
        Refusal::Priority { limit } => Problem::new("priority", format!("yours go up to {limit}")),
    };
    AppError::Invalid(vec![problem])
}

/// Why something of an ended task is not there: it was collected, or it never was. `what` and `thing` name it, as in
/// `"The log of this task was"` and `"log"`.
pub(super) async fn missing(app: &App, task: TaskId, what: &str, thing: &str) -> Result<AppError, AppError> {
    let Some(deleted) = app.store.collected(task).await? else { return Ok(AppError::not_found(thing)) };
    let ended_at = app.store.task(task).await?.and_then(|task| task.state.ended_at);
    Ok(AppError::gone(deleted.sentence(what, ended_at)))
}

/// # Errors
/// 404 that says so when the files of this task were collected.
pub(super) async fn refuse_collected(app: &App, task: &StoredTask, what: &str) -> Result<(), AppError> {
    match app.store.collected(task.spec.id).await? {
        Some(deleted) => Err(AppError::gone(deleted.sentence(what, task.state.ended_at))),
        None => Ok(()),
    }
}

impl From<CommandError> for AppError {
    fn from(error: CommandError) -> Self {
        match error {
            CommandError::Overloaded { retry_after_s } => Self::Unavailable {
                reason: "Too many requests wait to be stored.".into(),
                retry_after_s: u64::from(retry_after_s),
            },
            CommandError::Unavailable { reason, retry_after_s } => {
                Self::Unavailable { reason, retry_after_s: u64::from(retry_after_s) }
            }
            CommandError::KeyTaken => crate::once::taken(),
            CommandError::NotAllowed(refusal) => refused(refusal),
            CommandError::Refused(cause) => Self::Internal(cause),
            CommandError::ShuttingDown => {
                Self::Unavailable { reason: "The server is stopping.".into(), retry_after_s: 5 }
            }
        }
    }
}
