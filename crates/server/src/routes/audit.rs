//! `/v1/audit`: the log's events, its end, and its verification.

use super::blobs::until_gone;
use crate::{
    app::App,
    auth::{Caller, wall_clock},
    error::AppError,
    limits,
    query::Query,
    verification::{Running, VerificationError},
};
use axum::{
    Extension, Json,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{
        IntoResponse as _, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use fetchml_api::{
    AuditEvent, AuditEventList, AuditKind, AuditOrder, AuditQuery, ChainRoot, VerificationResult,
    limits::{AUDIT_LIMIT_DEFAULT, LIST_LIMIT_MAX},
};
use fetchml_store::{AuditFilter, StoredAudit};
use futures_util::{Stream, stream};
use serde::Serialize;
use serde_json::Value;
use std::{convert::Infallible, sync::Arc};

const A_KIND: &str = "one of job_queued, job_started, job_completed, file_access, auth_attempt, plugin_configured, \
    scheduler_drain, audit_verified";

/// Query audit events
///
/// In the order of the log, or newest first; `total` counts all matches. Deep pages are found at once by `after`, the
/// last `sequence_num` of the page before; an `offset` is counted off. An event's `body` is the exact text that was
/// hashed: `event_hash` is the SHA-256 of `fetchml/audit/v1` and a line feed, the number as 8 bytes, `prev_hash`, and
/// the SHA-256 of a zero byte and the body.
#[utoipa::path(get, path = "/v1/audit/events", tag = "Audit", params(AuditQuery),
    responses((status = 200, description = "List of audit events", body = AuditEventList)))]
pub(super) async fn list_audit_events(
    State(app): State<Arc<App>>,
    mut query: Query,
) -> Result<Json<AuditEventList>, AppError> {
    let limit = query.int("limit", 0..=LIST_LIMIT_MAX).unwrap_or(AUDIT_LIMIT_DEFAULT);
    let offset = query.int("offset", 0..=i64::MAX).unwrap_or(0);
    let order: AuditOrder = query.parsed("order", "asc or desc").unwrap_or_default();
    let filter = AuditFilter {
        from: query.instant("from"),
        to: query.instant("to"),
        kind: query.parsed::<AuditKind>("event_type", A_KIND),
        user_id: query.text("user_id"),
        resource: query.text("resource"),
        after: query.int("after", 0..=i64::MAX).map(|after| after as u64),
        newest_first: order == AuditOrder::Desc,
        offset,
        limit,
    };
    query.finish()?;
    // Counting may look through the index of a long log.
    let _turn = app.scan_turn("Others are looking through many rows.").await?;
    let (events, total) = app.store.audit_events(&filter).await?;
    Ok(Json(AuditEventList { events: events.into_iter().map(shown).collect(), total, limit, offset }))
}

/// What the body says. Of a row that somebody changed so that it is no event any more: what its columns say.
fn shown(stored: StoredAudit) -> AuditEvent {
    let StoredAudit { row, at, kind, user_id, resource, action, success } = stored;
    let hashes = (hex::encode(row.prev_hash), hex::encode(row.event_hash));
    let body = String::from_utf8_lossy(&row.body).into_owned();
    match fetchml_audit::parse_body(&row.body) {
        Ok(event) => AuditEvent {
            timestamp: event.timestamp,
            event_type: event.event_type,
            user_id: event.user_id,
            resource: event.resource,
            action: event.action,
            success: event.success,
            ip_address: event.ip_address,
            error: event.error,
            prev_hash: hashes.0,
            event_hash: hashes.1,
            sequence_num: event.sequence_num,
            metadata: event.metadata.into_iter().map(|(name, value)| (name, Value::String(value))).collect(),
            body,
        },
        Err(why) => AuditEvent {
            timestamp: at,
            event_type: kind.unwrap_or(AuditKind::AuditVerified),
            user_id,
            resource,
            action,
            success: success.unwrap_or(false),
            ip_address: None,
            error: Some(format!("the stored event was changed: {why}")),
            prev_hash: hashes.0,
            event_hash: hashes.1,
            sequence_num: row.sequence,
            metadata: serde_json::Map::new(),
            body,
        },
    }
}

/// Get current chain root hash
///
/// The hash of the latest event. Whoever keeps it elsewhere can tell later whether the events up to it were changed.
#[utoipa::path(get, path = "/v1/audit/chain-root", tag = "Audit",
    responses((status = 200, description = "Chain root hash", body = ChainRoot)))]
pub(super) async fn show_chain_root(State(app): State<Arc<App>>) -> Json<ChainRoot> {
    let timestamp = wall_clock();
    let (total_events, head) = app.store.audit_head();
    Json(ChainRoot { root_hash: hex::encode(head), timestamp, total_events, log_id: app.store.log_id() })
}

/// Verify audit chain integrity
///
/// Reads the whole log: every body is hashed again, and the links, the numbers, the columns by which events are found
/// and the end of the log are compared. One verification at a time; it ends when its client hangs up, and leaves an
/// event in the log itself. With `Accept: text/event-stream` the answer is a stream of `progress` events
/// (VerificationProgress), and at the end `result` (VerificationResult), or `failed`.
#[utoipa::path(post, path = "/v1/audit/verify", tag = "Audit", responses(
    (status = 200, description = "Verification result",
        content((VerificationResult = "application/json"), (String = "text/event-stream"))),
    (status = 409, description = "Another one runs, or this one was stopped", body = fetchml_api::ErrorResponse)))]
pub(super) async fn verify_audit_log(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
) -> Result<Response, AppError> {
    let Some(mut running) = app.verifications.start(&caller) else {
        return Err(AppError::Conflict {
            error: "A verification is running.".into(),
            hint: Some("Wait for it, or stop it with DELETE /v1/audit/verify.".into()),
        });
    };
    if wants_events(&headers) {
        let events = until_gone(app, caller, events(running));
        return Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(limits::STREAM_HEARTBEAT)).into_response());
    }
    Ok(Json(running.outcome().await?).into_response())
}

/// Stops the verification that runs
#[utoipa::path(delete, path = "/v1/audit/verify", tag = "Audit", responses(
    (status = 204, description = "It stops"),
    (status = 404, description = "None runs", body = fetchml_api::ErrorResponse)))]
pub(super) async fn stop_verification(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
) -> Result<StatusCode, AppError> {
    if app.verifications.cancel(&caller).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(AppError::gone("No verification is running.".into()))
    }
}

fn wants_events(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut kinds = accepted.flat_map(|value| value.split(','));
    kinds.any(|kind| kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("text/event-stream")))
}

/// How far it is, at once and then whenever that is told anew, and what came of it.
fn events(running: Running) -> impl Stream<Item = Result<Event, Infallible>> + Send {
    let progress = running.progress.clone();
    stream::unfold(Some((running, progress, true)), |state| async move {
        let (mut running, mut progress, first) = state?;
        if !first {
            tokio::select! {
                biased;
                outcome = running.outcome() => return Some((Ok(ended(outcome)), None)),
                Ok(()) = progress.changed() => {}
            }
        }
        let told = event("progress", &*progress.borrow_and_update());
        Some((Ok(told), Some((running, progress, false))))
    })
}

fn ended(outcome: Result<VerificationResult, VerificationError>) -> Event {
    match outcome {
        Ok(result) => event("result", &result),
        Err(error) => event("failed", &serde_json::json!({ "error": error.to_string() })),
    }
}

fn event(name: &str, data: &impl Serialize) -> Event {
    Event::default().event(name).data(serde_json::to_string(data).expect("it has only string keys"))
}

impl From<VerificationError> for AppError {
    fn from(error: VerificationError) -> Self {
        match error {
            VerificationError::Cancelled(_) => {
                Self::Conflict { error: format!("The verification has no result: {error}."), hint: None }
            }
            VerificationError::Stopping => Self::Unavailable {
                reason: "The server stops.".into(),
                retry_after_s: u64::from(limits::RETRY_AFTER_S),
            },
            VerificationError::Store(cause) => cause.into(),
        }
    }
}
