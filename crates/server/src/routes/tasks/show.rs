//! `GET /v1/tasks/{taskId}`.

use super::{find, task_view};
use crate::{app::App, auth::Caller, error::AppError, logs::LogId, query::PathText};
use axum::{Extension, Json, extract::State};
use fetchml_api::{Task, limits::OUTPUT_TAIL_BYTES};
use std::sync::Arc;

/// A task
///
/// `output` holds the last 64 KiB of its log; the whole log is at `/v1/tasks/{taskId}/logs`.
#[utoipa::path(get, path = "/v1/tasks/{taskId}", params(("taskId" = String, Path, description = "The task")),
    responses((status = 200, description = "The task", body = Task)))]
pub(crate) async fn show_task(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    PathText(id): PathText<String>,
) -> Result<Json<Task>, AppError> {
    let task = find(&app, &id).await?;
    let mut view = task_view(&task, &caller, app.driver.now(), app.driver.aging_interval_s());
    if task.state.status.is_terminal() {
        view.files_deleted = app.store.collected(task.spec.id).await?;
    }
    if let Some(attempt) = last_attempt(&app, &task).await? {
        view.attempt_id = Some(attempt);
        if view.files_deleted.is_some() {
            return Ok(Json(view));
        }
        let log = LogId { task: task.spec.id, attempt, node: 0 };
        let tail = app.logs.tail(log, OUTPUT_TAIL_BYTES).await.map_err(AppError::internal)?;
        view.output = Some(String::from_utf8_lossy(&tail).into_owned());
    }
    Ok(Json(view))
}

/// The current attempt, or the last one of a task that ended or is queued again.
async fn last_attempt(app: &App, task: &fetchml_store::StoredTask) -> Result<Option<fetchml_api::AttemptId>, AppError> {
    if task.state.attempt.is_some() || task.state.attempt_count == 0 {
        return Ok(task.state.attempt);
    }
    let attempts = app.store.attempts(task.spec.id).await?;
    Ok(attempts.into_iter().max_by_key(|a| a.number).map(|a| a.id))
}
