//! `/v1/queue`.

use crate::{app::App, auth::wall_clock, error::AppError};
use axum::{Json, extract::State};
use fetchml_api::{Micros, QueueStats, WorkerStatus, time::SECOND};
use std::sync::Arc;

const DAY: i64 = 24 * 3_600 * SECOND;

/// Counts over the whole queue
#[utoipa::path(get, path = "/v1/queue", responses((status = 200, description = "The counts", body = QueueStats)))]
pub(super) async fn show_queue(State(app): State<Arc<App>>) -> Result<Json<QueueStats>, AppError> {
    let midnight = Micros(wall_clock().0.div_euclid(DAY) * DAY);
    let counts = app.store.queue_counts(midnight).await?;
    let workers = app.driver.workers().iter().filter(|w| w.status == WorkerStatus::Active).count();
    Ok(Json(QueueStats {
        queued: counts.queued,
        running: counts.running,
        completed: counts.completed,
        failed: counts.failed,
        workers: workers as i64,
    }))
}
