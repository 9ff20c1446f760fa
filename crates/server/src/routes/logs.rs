//! `/v1/tasks/{taskId}/logs`: exact bytes with ranges, or a stream that follows the task.

use super::{
    attempts::Wanted,
    blobs::until_gone,
    tasks::{find, refuse_collected},
};
use crate::{
    app::App,
    auth::{Caller, Reach},
    error::AppError,
    instruments::StreamKind,
    limits,
    logs::{Follow, LogId, Position},
    query::{PathText, Query},
    range,
};
use axum::{
    Extension,
    extract::State,
    http::{HeaderMap, HeaderValue},
    response::{
        IntoResponse as _, Response,
        sse::{KeepAlive, Sse},
    },
};
use bytes::Bytes;
use futures_util::{Stream, stream};
use std::{ops::Range, sync::Arc};

/// The log of a task
///
/// Exact bytes of standard output and error of one attempt and node, with one range. With
/// `follow=true` a stream of events: without a name for bytes (id `attempt.node.offset`, data
/// `{"text","offset","len"}`), `attempt` when the task goes on in another attempt, and `end`.
/// `Last-Event-ID` resumes.
#[utoipa::path(get, path = "/v1/tasks/{taskId}/logs",
    params(("taskId" = String, Path, description = "The task"),
        ("attempt" = Option<String>, Query, description = "Id or number of an attempt; default: the latest",
            pattern = r"^([1-9][0-9]{0,8}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})$", nullable = false),
        ("node" = Option<i32>, Query, description = "Node of the attempt; default 0", minimum = 0, nullable = false),
        ("follow" = Option<bool>, Query, description = "Stream until the task ends", nullable = false),
        ("Last-Event-ID" = Option<String>, Header, description = "Go on after this event",
            pattern = r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\.[0-9]{1,9}\.[0-9]{1,18}$", nullable = false)),
    responses((status = 200, description = "The bytes, or the stream", content(
            (Vec<u8> = "text/plain"), (String = "text/event-stream"))),
        (status = 206, description = "A range of the bytes", body = Vec<u8>, content_type = "text/plain"),
        (status = 416, description = "No such range", body = fetchml_api::ErrorResponse)))]
pub(super) async fn read_log(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Extension(reach): Extension<Reach>,
    PathText(task): PathText<String>,
    mut query: Query,
    headers: HeaderMap,
) -> Result<Response, AppError> {
    let node = query.int("node", 0..=i64::from(i32::MAX)).unwrap_or(0) as u32;
    let follow = query.flag("follow");
    let wanted = Wanted::read(&mut query);
    query.finish()?;
    let task = find(&app, &task).await?;
    reach.check_reader(&caller, &task.spec.user_id)?;
    refuse_collected(&app, &task, "The log of this task was").await?;
    let task = task.spec.id;
    let attempts = app.store.attempts(task).await?;
    let attempt = wanted.among(&attempts)?.map(|a| a.id);
    let last_event = headers.get("last-event-id").and_then(|v| v.to_str().ok());
    let from = last_event.map(str::parse::<Position>).transpose();
    let from =
        from.map_err(|()| AppError::bad_request("Last-Event-ID", "must be the id of an event of this stream"))?;
    app.record_file_access(&caller, "log_read", format!("tasks/{task}/logs")).await?;
    if follow {
        let start = from.or_else(|| attempt.map(|attempt| Position { attempt, node, offset: 0 }));
        let events = Follow::start(Arc::clone(&app), task, node, start).events();
        let open = app.instruments.stream(StreamKind::Log);
        let events = open.during(until_gone(app, caller, events));
        let keep_alive = KeepAlive::new().interval(limits::STREAM_HEARTBEAT);
        return Ok(Sse::new(events).keep_alive(keep_alive).into_response());
    }
    let Some(attempt) = attempt else {
        let nothing = stream::empty::<Result<Bytes, std::io::Error>>();
        return Ok(range::answer(&range::asked(&headers, 0, None)?, 0, "text/plain; charset=utf-8", nothing));
    };
    let log = LogId { task, attempt, node };
    let length = app.logs.length(log).await.map_err(AppError::internal)?;
    let asked = range::asked(&headers, length, None)?;
    let bytes = until_gone(Arc::clone(&app), caller, read(app, log, asked.range(length)));
    let mut response = range::answer(&asked, length, "text/plain; charset=utf-8", bytes);
    let id = HeaderValue::from_str(&attempt.to_string()).expect("a UUID is a valid header");
    response.headers_mut().insert("x-attempt-id", id);
    Ok(response)
}

/// The bytes of a range, a chunk at a time. A log only grows, and never during this by less than was promised.
fn read(app: Arc<App>, log: LogId, range: Range<u64>) -> impl Stream<Item = Result<Bytes, std::io::Error>> + Send {
    stream::unfold(Some((app, range)), move |state| async move {
        let (app, range) = state?;
        if range.is_empty() {
            return None;
        }
        let end = range.end.min(range.start + limits::READ_CHUNK_BYTES);
        match app.logs.read(log, range.start..end).await {
            Ok(bytes) if bytes.is_empty() => Some((Err(std::io::Error::other("the log was cut")), None)),
            Ok(bytes) => {
                let rest = range.start + bytes.len() as u64..range.end;
                Some((Ok(bytes), Some((app, rest))))
            }
            Err(error) => Some((Err(std::io::Error::other(error)), None)),
        }
    })
}
