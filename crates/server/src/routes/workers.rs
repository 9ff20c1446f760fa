//! `/v1/scheduler/workers`.

use crate::app::App;
use axum::{Json, extract::State};
use fetchml_api::Worker;
use std::sync::Arc;

/// Every worker
///
/// One that is gone stays listed as `offline`.
#[utoipa::path(get, path = "/v1/scheduler/workers", tag = "Scheduler", responses(
    (status = 200, description = "The workers", body = Vec<Worker>)
))]
pub(super) async fn list_workers(State(app): State<Arc<App>>) -> Json<Arc<Vec<Worker>>> {
    Json(app.driver.workers())
}
