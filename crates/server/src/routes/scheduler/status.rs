//! `GET /v1/scheduler/status`.

use crate::app::App;
use axum::{Json, extract::State};
use fetchml_api::SchedulerStatus;
use std::sync::Arc;

/// Queue depths, workers and what runs
#[utoipa::path(get, path = "/v1/scheduler/status", tag = "Scheduler", responses(
    (status = 200, description = "The status", body = SchedulerStatus)
))]
pub(in crate::routes) async fn show_status(State(app): State<Arc<App>>) -> Json<SchedulerStatus> {
    Json(SchedulerStatus { timestamp: app.driver.now(), ..app.driver.status() })
}
