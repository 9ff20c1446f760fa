//! `/v1/scheduler/workers`.

use crate::{app::App, error::AppError, query::PathText};
use axum::{Json, extract::State};
use fetchml_api::{Worker, WorkerId};
use std::sync::Arc;

/// Every worker
///
/// One that is gone stays listed as `offline` for a day.
#[utoipa::path(get, path = "/v1/scheduler/workers", tag = "Scheduler", responses(
    (status = 200, description = "The workers", body = Vec<Worker>)
))]
pub(in crate::routes) async fn list_workers(State(app): State<Arc<App>>) -> Json<Arc<Vec<Worker>>> {
    Json(app.driver.workers())
}

/// A worker
#[utoipa::path(get, path = "/v1/scheduler/workers/{workerId}", tag = "Scheduler",
    params(("workerId" = String, Path, description = "The worker")),
    responses((status = 200, description = "The worker", body = Worker)))]
pub(in crate::routes) async fn show_worker(
    State(app): State<Arc<App>>,
    PathText(id): PathText<String>,
) -> Result<Json<Worker>, AppError> {
    let unknown = || AppError::not_found("worker");
    let id: WorkerId = id.parse().map_err(|_| unknown())?;
    let workers = app.driver.workers();
    workers.iter().find(|worker| worker.id == id).cloned().map(Json).ok_or_else(unknown)
}
