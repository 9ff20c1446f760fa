//! `/v1/admin/gc`.

use crate::{
    app::{App, file_access},
    auth::Caller,
    error::AppError,
    query::Query,
};
use axum::{Extension, Json, extract::State, http::StatusCode};
use fetchml_api::{GcReport, GcState, GcStatus};
use fetchml_store::Write;
use std::sync::Arc;

/// Deletes what is not needed any more
///
/// Logs, artifacts and checkpoints of tasks that ended long ago, the tasks themselves, and files that nothing refers
/// to. This also happens by itself; `GET` shows the rules. With `dry_run=true` nothing is deleted, and the answer says
/// what would be. A collection that takes long is answered with 202 and goes on.
#[utoipa::path(post, path = "/v1/admin/gc",
    params(("dry_run" = Option<bool>, Query, description = "Only say what would be deleted", nullable = false)),
    responses((status = 200, description = "What was deleted", body = GcReport),
        (status = 202, description = "It goes on; `GET` shows how far it is", body = GcReport),
        (status = 409, description = "Another collection runs", body = fetchml_api::ErrorResponse)))]
pub(super) async fn run_gc(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    mut query: Query,
) -> Result<(StatusCode, Json<GcReport>), AppError> {
    let dry_run = query.flag("dry_run");
    query.finish()?;
    let action = if dry_run { "gc_dry_run" } else { "gc" };
    app.store.commit(vec![Write::Audit(file_access(&caller, action, "gc".into()))]).await?;
    let Some(started) = app.collector.start(dry_run, true) else {
        return Err(AppError::Conflict {
            error: "A collection is running.".into(),
            hint: Some("GET /v1/admin/gc shows how far it is.".into()),
        });
    };
    let report = started.report().await;
    let status = if report.state == GcState::Running { StatusCode::ACCEPTED } else { StatusCode::OK };
    Ok((status, Json(report)))
}

/// The last collection, or the one that runs
#[utoipa::path(get, path = "/v1/admin/gc", responses(
    (status = 200, description = "How far it is, and the rules", body = GcStatus)))]
pub(super) async fn show_gc(State(app): State<Arc<App>>) -> Json<GcStatus> {
    Json(GcStatus { rules: app.collector.rules(), last: app.collector.last() })
}
