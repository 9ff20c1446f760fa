//! `GET /v1/tasks/{taskId}/explain`.

use super::find;
use crate::{app::App, error::AppError, query::PathText};
use axum::{Json, extract::State};
use fetchml_api::{Explanation, TaskStatus, WaitReason};
use std::sync::Arc;

/// Why a task has not started
///
/// What must change first, in one sentence and as a word for programs; what each worker means for the task, those
/// together that mean the same; changes that would let it start, the cheapest first; and when it is likely to start.
/// What is said is what placement does: it is asked by the same functions.
#[utoipa::path(get, path = "/v1/tasks/{taskId}/explain",
    params(("taskId" = String, Path, description = "The task")),
    responses((status = 200, description = "Why it waits", body = Explanation)))]
pub(crate) async fn explain_task(
    State(app): State<Arc<App>>,
    PathText(id): PathText<String>,
) -> Result<Json<Explanation>, AppError> {
    let task = find(&app, &id).await?;
    let task_id = task.spec.id;
    let explained = if task.state.status.is_terminal() { None } else { app.driver.explain(task_id).await? };
    if let Some(explanation) = explained {
        return Ok(Json(explanation));
    }
    // It may have ended just now.
    let task = find(&app, &id).await?;
    let summary = match task.state.status {
        TaskStatus::Completed => "It has ended, and well.".to_owned(),
        _ => format!(
            "It has failed: {}.",
            task.state.error.as_deref().unwrap_or("nobody said why").trim_end_matches('.')
        ),
    };
    Ok(Json(Explanation {
        task_id: Some(task_id),
        reason: WaitReason::Ended,
        summary,
        waits_for: Vec::new(),
        ahead: 0,
        estimated_start: None,
        changes: Vec::new(),
        workers: Vec::new(),
        warnings: Vec::new(),
    }))
}
