//! What surrounds every request: its trace id, its log line, panics turned into answers, and the
//! one form for errors that no handler made.

use crate::{
    auth::Operation,
    error::{AppError, Formed},
    instruments::Instruments,
    limits,
};
use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use bytes::{Bytes, BytesMut};
use futures_util::{FutureExt as _, StreamExt as _};
use std::{cell::Cell, net::IpAddr, panic::AssertUnwindSafe, sync::Arc, time::Duration};
use tracing::Instrument as _;

/// Header that carries the trace id.
pub const TRACE_HEADER: &str = "x-trace-id";

tokio::task_local! {
    static CURRENT: Current;
}

/// The request that a task of the runtime works on.
struct Current {
    trace_id: uuid::Uuid,
    /// Known once its route is.
    operation: Cell<Option<Operation>>,
}

/// Address that a request came from.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub IpAddr);

/// The trace id of the request this task works on; a fresh one outside of any.
pub(crate) fn current_trace_id() -> String {
    CURRENT.try_with(|current| current.trace_id).unwrap_or_else(|_| uuid::Uuid::new_v4()).to_string()
}

/// The layer around the route of an operation, which tells [`surround`] what was asked for.
pub(crate) async fn name_operation(State(operation): State<Operation>, request: Request, next: Next) -> Response {
    // Outside of [`surround`] nobody needs to know.
    let _ = CURRENT.try_with(|current| current.operation.set(Some(operation)));
    next.run(request).await
}

/// The outermost layer.
pub(crate) async fn surround(State(instruments): State<Arc<Instruments>>, request: Request, next: Next) -> Response {
    let trace_id = uuid::Uuid::new_v4();
    // At the highest level, so that no filter takes the trace id off a line that is shown.
    let span = tracing::error_span!("request", %trace_id, method = %request.method(), path = %request.uri().path());
    let answer = async move {
        let in_flight = instruments.request();
        let mut response = match AssertUnwindSafe(next.run(request)).catch_unwind().await {
            Ok(response) => formed(response),
            Err(panic) => AppError::Internal(format!("panic: {}", panic_text(&*panic))).into_response(),
        };
        let headers = response.headers_mut();
        let id = HeaderValue::from_str(&trace_id.to_string()).expect("a UUID is a valid header");
        headers.insert(TRACE_HEADER, id);
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        let status = response.status();
        // A path that does not take the method is no operation, whatever else it takes.
        let operation = CURRENT.with(|current| current.operation.get());
        let operation = operation.filter(|_| status != StatusCode::METHOD_NOT_ALLOWED);
        let elapsed_us = in_flight.answered(operation, status).as_micros() as u64;
        tracing::debug!(status = status.as_u16(), elapsed_us, "answered");
        response
    };
    let current = Current { trace_id, operation: Cell::new(None) };
    CURRENT.scope(current, answer.instrument(span)).await
}

/// Gives the one form to errors that the router or an extractor made.
fn formed(response: Response) -> Response {
    let status = response.status();
    if (!status.is_client_error() && !status.is_server_error()) || response.extensions().get::<Formed>().is_some() {
        return response;
    }
    let error = match status {
        StatusCode::NOT_FOUND => AppError::not_found("path"),
        StatusCode::METHOD_NOT_ALLOWED => AppError::MethodNotAllowed,
        StatusCode::PAYLOAD_TOO_LARGE => AppError::TooLarge(fetchml_api::limits::JSON_BODY_BYTES as u64),
        status if status.is_client_error() => {
            AppError::BadRequest { error: "The request cannot be read.".into(), details: Vec::new() }
        }
        status => AppError::Internal(format!("an answer with status {status} without the form of errors")),
    };
    let mut answer = error.into_response();
    if let Some(allow) = response.headers().get(header::ALLOW) {
        answer.headers_mut().insert(header::ALLOW, allow.clone());
    }
    answer
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("?")
}

/// Answers every path that does not exist.
pub(crate) async fn unknown_path() -> AppError {
    AppError::not_found("path")
}

/// Reads a JSON body of at most `max_bytes`.
///
/// # Errors
/// 415 unless the content type is JSON, 413, 400 when it breaks off or takes too long.
pub(crate) async fn read_json_body(
    request: Request,
    max_bytes: usize,
    within: Duration,
) -> Result<(axum::http::request::Parts, Bytes), AppError> {
    let (parts, body) = request.into_parts();
    let is_json = parts
        .headers
        .get(header::CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .is_some_and(|v| v.split(';').next().unwrap_or("").trim().eq_ignore_ascii_case("application/json"));
    if !is_json {
        drain(body).await;
        return Err(AppError::WrongMediaType("application/json"));
    }
    let bytes = tokio::time::timeout(within, collect(body, max_bytes))
        .await
        .map_err(|_| AppError::bad_request("body", "took too long to arrive"))??;
    Ok((parts, bytes))
}

/// Collects a body; what is over the limit is drained so that the client can read the answer.
async fn collect(body: Body, max_bytes: usize) -> Result<Bytes, AppError> {
    let mut stream = body.into_data_stream();
    let mut bytes = BytesMut::new();
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|_| AppError::bad_request("body", "broke off"))?;
        if bytes.len() + chunk.len() > max_bytes {
            drop(bytes);
            drain(Body::from_stream(stream)).await;
            return Err(AppError::TooLarge(max_bytes as u64));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes.freeze())
}

/// Reads and drops a bounded part of a body nobody wants.
pub(crate) async fn drain(body: Body) {
    let mut stream = body.into_data_stream();
    let mut left = limits::REFUSED_BODY_DRAIN_BYTES;
    let dropping = async {
        while let Some(Ok(chunk)) = stream.next().await {
            left = left.saturating_sub(chunk.len());
            if left == 0 {
                break;
            }
        }
    };
    let _ = tokio::time::timeout(limits::REFUSED_BODY_DRAIN_TIME, dropping).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::{Router, middleware, routing::get};
    use fetchml_api::{ErrorCode, ErrorResponse};
    use tower::ServiceExt as _;

    async fn ask(method: &str, path: &str) -> (StatusCode, axum::http::HeaderMap, ErrorResponse) {
        async fn fails() -> &'static str {
            panic!("secret /etc/path SELECT 1")
        }
        let surround = middleware::from_fn_with_state(Instruments::new(), surround);
        let app = Router::new().route("/panics", get(fails)).fallback(unknown_path).layer(surround);
        let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
        let response = app.oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = axum::body::to_bytes(body, 1 << 20).await.unwrap();
        (parts.status, parts.headers, serde_json::from_slice(&bytes).unwrap())
    }

    #[tokio::test]
    async fn a_panic_is_answered_in_form_and_leaks_nothing() {
        let (status, headers, body) = ask("GET", "/panics").await;
        assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(body.code, ErrorCode::InternalError);
        assert_eq!(headers[TRACE_HEADER].to_str().unwrap(), body.trace_id);
        assert!(!format!("{body:?}").contains("SELECT"));
    }

    /// Collects what is logged.
    #[derive(Clone, Default)]
    struct Lines(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// What this test binary logs, collected for the whole process: a subscriber of one thread can miss an event
    /// when another thread meets its callsite first.
    fn logged() -> &'static Lines {
        static LINES: std::sync::LazyLock<Lines> = std::sync::LazyLock::new(|| {
            let lines = Lines::default();
            let writer = lines.clone();
            let subscriber = tracing_subscriber::fmt()
                .json()
                .with_max_level(tracing::Level::ERROR)
                .with_writer(move || writer.clone())
                .finish();
            tracing::subscriber::set_global_default(subscriber).unwrap();
            lines
        });
        &LINES
    }

    #[tokio::test]
    async fn the_log_line_of_a_failure_has_its_trace_id_and_cause() {
        logged();
        let (_, _, body) = ask("GET", "/panics").await;
        let text = String::from_utf8(logged().0.lock().unwrap().clone()).unwrap();
        let line = text.lines().find(|line| line.contains(&body.trace_id));
        assert!(line.is_some_and(|line| line.contains("SELECT 1")), "{text}");
    }

    #[tokio::test]
    async fn unknown_paths_and_wrong_methods_have_the_form() {
        let (status, _, body) = ask("GET", "/nowhere").await;
        assert_eq!((status, body.code), (StatusCode::NOT_FOUND, ErrorCode::NotFound));
        let (status, headers, body) = ask("DELETE", "/panics").await;
        assert_eq!((status, body.code), (StatusCode::METHOD_NOT_ALLOWED, ErrorCode::BadRequest));
        assert!(headers[header::ALLOW].to_str().unwrap().contains("GET"));
    }
}
