//! `/metrics`: what the server measures of itself.

use crate::{app::App, instruments};
use axum::{extract::State, http::header, response::IntoResponse};
use std::sync::Arc;

/// The version of the text form that is written.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What the server measures of itself
///
/// In Prometheus' text form, for any key, which may also come as `Authorization: Bearer`. What each metric says
/// stands in docs/observability.md. What tasks measure is at `/v1/tasks/{taskId}/metrics`.
#[utoipa::path(get, path = "/metrics", tag = "Health", security(("ApiKeyAuth" = []), ("BearerAuth" = [])), responses(
    (status = 200, description = "The metrics", body = String, content_type = "text/plain")
))]
pub(super) async fn show_server_metrics(State(app): State<Arc<App>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, TEXT)], instruments::scrape(&app).await)
}
