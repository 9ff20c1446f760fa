//! `/health`.

use crate::{app::App, auth::wall_clock};
use axum::{Json, extract::State, http::StatusCode};
use fetchml_api::{HealthResponse, HealthStatus};
use std::sync::Arc;

/// How the server is
///
/// Needs no key. `degraded` means that reads work and writes do not, or soon will not: the disk is almost full; or that the audit log did not
/// verify.
#[utoipa::path(get, path = "/health", security(()), responses(
    (status = 200, description = "Healthy or degraded", body = HealthResponse),
    (status = 503, description = "Unhealthy", body = HealthResponse),
))]
pub(super) async fn health(State(app): State<Arc<App>>) -> (StatusCode, Json<HealthResponse>) {
    let (status, reason) = app.health().await;
    let code = match status {
        HealthStatus::Healthy | HealthStatus::Degraded => StatusCode::OK,
        HealthStatus::Unhealthy => StatusCode::SERVICE_UNAVAILABLE,
    };
    let version = env!("CARGO_PKG_VERSION").to_owned();
    (code, Json(HealthResponse { status, version, timestamp: wall_clock(), reason }))
}
