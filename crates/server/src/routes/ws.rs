//! `/ws` and the tickets that open it.

use crate::{
    app::App,
    auth::{Caller, wall_clock},
    error::AppError,
    limits, ws,
};
use axum::{
    Extension, Json,
    extract::{
        State,
        ws::{WebSocketUpgrade, rejection::WebSocketUpgradeRejection},
    },
    http::{HeaderMap, StatusCode, header},
    response::Response,
};
use fetchml_api::{AuditKind, WsTicket, limits::WS_MESSAGE_BYTES};
use fetchml_store::Write;
use std::{sync::Arc, time::Instant};

/// WebSocket connection
///
/// Real-time updates of tasks, as text messages of JSON. The server sends `task_update` and `task_complete`
/// (`seq`, and `task` without its output), `subscribed` and `reset` (`seq`), `error`, and every 15 s `ping`: who does
/// not answer `{"type":"pong"}` within 45 s is cut off. A client sends `pong`, `ping`, and
/// `{"type":"subscribe","task_ids":[...],"since":seq}`, both optional, which narrows to these tasks and goes on after
/// that place without gap or repeat. Programs send their key in the header; browsers bring a ticket of
/// `POST /v1/ws-tickets`.
#[utoipa::path(get, path = "/ws", tag = "WebSocket",
    params(("ticket" = Option<String>, Query, description = "In place of the key; works once", nullable = false)),
    responses((status = 101, description = "WebSocket connection established")))]
pub(super) async fn open_web_socket(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, AppError> {
    if !is_own_origin(&headers) {
        return Err(AppError::forbidden(
            "A page of another origin may not open this.",
            "Open it from the server's own pages, or from a program that sends no Origin.",
        ));
    }
    let upgrade = upgrade.map_err(|_| AppError::bad_request("Upgrade", "must ask for a WebSocket"))?;
    Ok(upgrade
        .max_message_size(WS_MESSAGE_BYTES)
        .max_frame_size(WS_MESSAGE_BYTES)
        .max_write_buffer_size(limits::WS_WRITE_BUFFER_BYTES)
        .on_upgrade(move |socket| ws::serve(socket, app, caller)))
}

/// A ticket for the WebSocket
///
/// It opens `/ws?ticket=...` once, within 30 seconds, for the key that asked for it: a browser cannot send the key's
/// header there, and no key may stand in a URL.
#[utoipa::path(post, path = "/v1/ws-tickets", tag = "WebSocket", responses(
    (status = 201, description = "The ticket", body = WsTicket)
))]
pub(super) async fn create_ws_ticket(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
) -> Result<(StatusCode, Json<WsTicket>), AppError> {
    let issued = caller.did(AuditKind::AuthAttempt, "ws_ticket_create", format!("keys/{}", caller.key));
    let ticket = app.tickets.issue(caller, Instant::now())?;
    app.store.commit(vec![Write::Audit(issued)]).await?;
    let expires_at = wall_clock().plus_seconds(limits::WS_TICKET_LASTS.as_secs() as i64);
    Ok((StatusCode::CREATED, Json(WsTicket { ticket, expires_at })))
}

/// Whether a browser's page, if one asks, came from where it asks. Programs send no origin.
fn is_own_origin(headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(header::ORIGIN) else { return true };
    let authority = origin.to_str().ok().and_then(|origin| Some(origin.split_once("://")?.1));
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    matches!((authority, host), (Some(authority), Some(host)) if authority.eq_ignore_ascii_case(host))
}
