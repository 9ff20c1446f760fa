//! `/v1/arrays/{arrayId}`: the tasks of one request with `array`, as one.

use crate::{
    app::App,
    auth::{Caller, Reach},
    error::AppError,
    query::PathText,
};
use axum::{Extension, Json, extract::State, http::StatusCode};
use fetchml_api::{TaskArray, TaskId, TaskStatus};
use fetchml_store::StoredArray;
use std::sync::Arc;

/// An array, its tasks counted by status
///
/// Its tasks are listed by `GET /v1/tasks?array_id=`.
#[utoipa::path(get, path = "/v1/arrays/{arrayId}", params(("arrayId" = String, Path, description = "The array")),
    responses((status = 200, description = "The array", body = TaskArray)))]
pub(super) async fn show_array(
    State(app): State<Arc<App>>,
    PathText(id): PathText<String>,
) -> Result<Json<TaskArray>, AppError> {
    let (id, array) = find(&app, &id).await?;
    let (spec, count) = (&array.first.spec, |status| array.counts.shown.get(&status).copied().unwrap_or(0));
    let member = spec.array.expect("a task that is found by its array is of one");
    Ok(Json(TaskArray {
        id,
        job_name: spec.job_name.clone(),
        user_id: spec.user_id.clone(),
        created_at: spec.created_at,
        first_task: spec.id,
        count: member.count.into(),
        max_running: member.max_running.map(i64::from),
        queued: count(TaskStatus::Queued),
        preparing: count(TaskStatus::Preparing),
        running: count(TaskStatus::Running),
        collecting: count(TaskStatus::Collecting),
        completed: count(TaskStatus::Completed),
        failed: count(TaskStatus::Failed),
    }))
}

/// Cancels every task of an array that has not ended
///
/// Tasks that have ended stay as they are.
#[utoipa::path(delete, path = "/v1/arrays/{arrayId}", params(("arrayId" = String, Path, description = "The array")),
    responses((status = 204, description = "Recorded")))]
pub(super) async fn delete_array(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Extension(reach): Extension<Reach>,
    PathText(id): PathText<String>,
) -> Result<StatusCode, AppError> {
    let (id, array) = find(&app, &id).await?;
    reach.check_owner(&caller, &array.first.spec.user_id)?;
    // Whatever the answer, none of it runs on: it is over, or being stopped.
    app.driver.cancel_array(id, caller.actor()).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn find(app: &App, id: &str) -> Result<(TaskId, StoredArray), AppError> {
    let unknown = || AppError::not_found("array");
    let id: TaskId = id.parse().map_err(|_| unknown())?;
    Ok((id, app.store.array(id).await?.ok_or_else(unknown)?))
}
