//! `DELETE /v1/tasks/{taskId}`: cancels what lives, hides what has ended.

use super::find;
use crate::{
    app::App,
    auth::{Caller, Reach},
    driver::CancelAnswer,
    error::AppError,
    query::{PathText, Query},
};
use axum::{Extension, extract::State, http::StatusCode};
use fetchml_api::AuditKind;
use fetchml_store::{StoredTask, Write};
use std::sync::Arc;

/// Cancels or hides a task
///
/// A queued task ends at once and an active one is stopped; both end as `failed` with the cause
/// `cancelled` and stay readable. A task that has ended is hidden; one that was cancelled only with
/// `purge=true`.
#[utoipa::path(delete, path = "/v1/tasks/{taskId}",
    params(("taskId" = String, Path, description = "The task"),
        ("purge" = Option<bool>, Query, description = "Hide also a task that was cancelled", nullable = false)),
    responses((status = 204, description = "Recorded"),
        (status = 409, description = "It is still being stopped", body = fetchml_api::ErrorResponse)))]
pub(crate) async fn delete_task(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Extension(reach): Extension<Reach>,
    PathText(id): PathText<String>,
    mut query: Query,
) -> Result<StatusCode, AppError> {
    let purge = query.flag("purge");
    query.finish()?;
    let task = find(&app, &id).await?;
    reach.check_owner(&caller, &task.spec.user_id)?;
    match app.driver.cancel(task.spec.id, caller.actor()).await? {
        CancelAnswer::Unchanged if purge => {
            return Err(AppError::Conflict {
                error: "The task is still being stopped.".into(),
                hint: Some("Delete it again when it has ended.".into()),
            });
        }
        CancelAnswer::Recorded | CancelAnswer::Unchanged => {}
        // It has ended, maybe just now: only the store knows how.
        CancelAnswer::NotActive => hide(&app, &caller, &id, purge).await?,
    }
    Ok(StatusCode::NO_CONTENT)
}

async fn hide(app: &App, caller: &Caller, id: &str, purge: bool) -> Result<(), AppError> {
    let StoredTask { spec, state } = find(app, id).await?;
    if !state.status.is_terminal() {
        // The core and the store disagree only while the driver rebuilds itself.
        return Err(AppError::Unavailable { reason: "The task is changing right now.".into(), retry_after_s: 1 });
    }
    if state.cancelled_by.is_some() && !purge {
        return Ok(());
    }
    let audit = caller.did(AuditKind::JobCompleted, "delete", format!("tasks/{}", spec.id));
    let hide = Write::TaskHide { id: spec.id, at: app.driver.now() };
    app.store.commit(vec![hide, Write::Audit(audit)]).await?;
    Ok(())
}
