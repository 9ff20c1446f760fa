//! `/v1/workers/connect`: the worker link.

use crate::{app::App, auth::Caller, error::AppError, link};
use axum::{
    Extension,
    extract::{
        State,
        ws::{WebSocketUpgrade, rejection::WebSocketUpgradeRejection},
    },
    response::Response,
};
use fetchml_api::limits::LINK_MESSAGE_BYTES;
use std::sync::Arc;

/// The worker link
///
/// A WebSocket from worker to server; the messages are FetchML's own.
#[utoipa::path(get, path = "/v1/workers/connect", responses((status = 101, description = "The session is open")))]
pub(super) async fn connect_worker(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, AppError> {
    let upgrade = upgrade.map_err(|_| AppError::bad_request("Upgrade", "must ask for a WebSocket"))?;
    Ok(upgrade
        .max_message_size(LINK_MESSAGE_BYTES)
        .max_frame_size(LINK_MESSAGE_BYTES)
        .max_write_buffer_size(4 * LINK_MESSAGE_BYTES)
        .on_upgrade(move |socket| link::serve(socket, app, caller)))
}
