//! `GET /v1/tasks/{taskId}`.

use super::{find, task_view};
use crate::{
    app::App,
    auth::Caller,
    error::AppError,
    limits,
    logs::LogId,
    query::{PathText, Query},
};
use axum::{Extension, Json, extract::State};
use fetchml_api::{Task, TaskStatus, limits::OUTPUT_TAIL_BYTES};
use fetchml_store::StoredTask;
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, timeout_at};

/// A task
///
/// `output` holds the last 64 KiB of its log; the whole log is at `/v1/tasks/{taskId}/logs`.
/// With `wait` the answer comes when the task has another status or attempt, at the latest after that time, and at
/// once where it has ended, or too many requests wait already. With `known` it also comes at once when its status is
/// another than that already.
#[utoipa::path(get, path = "/v1/tasks/{taskId}", params(("taskId" = String, Path, description = "The task"),
        ("wait" = Option<String>, Query, description = "Wait so long for a change: whole seconds, at most 60", example = "30s",
            pattern = "^([0-9]|[1-5][0-9]|60)s?$", nullable = false),
        ("known" = Option<TaskStatus>, Query, description = "With `wait`: the status that the caller knows", nullable = false)),
    responses((status = 200, description = "The task", body = Task)))]
pub(crate) async fn show_task(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    PathText(id): PathText<String>,
    mut query: Query,
) -> Result<Json<Task>, AppError> {
    let wait = query.seconds("wait", limits::TASK_WAIT_MAX);
    let known = query.parsed("known", "one of queued, preparing, running, collecting, completed, failed");
    query.finish()?;
    // Where too many wait already, the caller asks again by and by.
    let place = wait.and_then(|_| app.task_waits.try_acquire().ok());
    let task = match wait.filter(|_| place.is_some()) {
        None => find(&app, &id).await?,
        Some(wait) => changed(&app, &caller, &id, known, wait).await?,
    };
    drop(place);
    let mut view = task_view(&app, &task, &caller);
    if task.state.status.is_terminal() {
        view.files_deleted = app.store.collected(task.spec.id).await?;
    }
    if let Some(attempt) = last_attempt(&app, &task).await? {
        view.attempt_id = Some(attempt);
        let is_shown = caller.sees_content_of(&task.spec.user_id, app.options.visibility);
        if view.files_deleted.is_some() || !is_shown {
            return Ok(Json(view));
        }
        let log = LogId { task: task.spec.id, attempt, node: 0 };
        let tail = app.logs.tail(log, OUTPUT_TAIL_BYTES).await.map_err(AppError::internal)?;
        view.output = Some(String::from_utf8_lossy(&tail).into_owned());
    }
    Ok(Json(view))
}

/// The task as soon as it is another than `known`, or than it was, or has ended; after `wait` as it is then.
async fn changed(
    app: &App,
    caller: &Caller,
    id: &str,
    known: Option<TaskStatus>,
    wait: Duration,
) -> Result<StoredTask, AppError> {
    let until = Instant::now() + wait;
    let first = find(app, id).await?;
    let mut changes = app.driver.watch(first.spec.id);
    let seen = (known.unwrap_or(first.state.status), first.state.attempt);
    loop {
        // After the watch began: no change is missed.
        let task = find(app, id).await?;
        if task.state.status.is_terminal() || (task.state.status, task.state.attempt) != seen {
            return Ok(task);
        }
        tokio::select! {
            woken = timeout_at(until, changes.changed()) => if woken.is_err() { return find(app, id).await },
            () = app.stop.cancelled() => return Ok(task),
            () = caller.key_ended() => return Err(AppError::Unauthorized("The key is not accepted.")),
        }
    }
}

/// The current attempt, or the last one of a task that ended or is queued again.
async fn last_attempt(app: &App, task: &StoredTask) -> Result<Option<fetchml_api::AttemptId>, AppError> {
    if task.state.attempt.is_some() || task.state.attempt_count == 0 {
        return Ok(task.state.attempt);
    }
    let attempts = app.store.attempts(task.spec.id).await?;
    Ok(attempts.into_iter().max_by_key(|a| a.number).map(|a| a.id))
}
