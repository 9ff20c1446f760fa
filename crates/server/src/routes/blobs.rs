//! `/v1/blobs/{sha256}`.

use crate::{
    app::{App, file_access},
    auth::Caller,
    blobs::PutError,
    error::AppError,
    limits,
    query::PathText,
    range,
    request::drain,
};
use axum::{
    Extension,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use fetchml_api::{
    Problem, Role,
    limits::{ARTIFACT_BYTES, SNAPSHOT_FILE_BYTES},
    snapshot::is_sha256_hex,
};
use fetchml_store::Write;
use futures_util::{Stream, StreamExt as _};
use std::{pin::pin, sync::Arc};

/// Stores a blob under its hash
///
/// Durable when this answers. Storing what is there already is 204 and reads nothing.
#[utoipa::path(put, path = "/v1/blobs/{sha256}",
    params(("sha256" = String, Path, description = "SHA-256 of the bytes, lower-case hex")),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 201, description = "Stored"), (status = 204, description = "It was there already")))]
pub(super) async fn put_blob(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    PathText(sha256): PathText<String>,
    request: Request,
) -> Result<StatusCode, AppError> {
    let max_bytes = match caller.role {
        Role::Worker => ARTIFACT_BYTES,
        Role::Admin | Role::Operator | Role::User | Role::Viewer => SNAPSHOT_FILE_BYTES,
    };
    let length = request.headers().get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    let refused = if !is_sha256_hex(&sha256) {
        Some(AppError::not_found("blob: its name must be 64 lower-case hex digits"))
    } else if length.is_some_and(|length| length > max_bytes) {
        Some(AppError::TooLarge(max_bytes))
    } else {
        None
    };
    if let Some(error) = refused {
        drain(request.into_body()).await;
        return Err(error);
    }
    let now = app.driver.now();
    if app.blobs.claim(&sha256, now).await?.is_some() {
        drain(request.into_body()).await;
        return Ok(StatusCode::NO_CONTENT);
    }
    let bytes = pin!(unless_silent(request.into_body()));
    let audit = file_access(&caller, "blob_store", format!("blobs/{sha256}"));
    let record = async { app.store.commit(vec![Write::Audit(audit)]).await.map(drop) };
    match app.blobs.put(&sha256, max_bytes, now, bytes, record).await {
        Ok(_) => Ok(StatusCode::CREATED),
        Err(PutError::Mismatch { actual }) => {
            Err(AppError::Invalid(vec![Problem::new("sha256", format!("the bytes sent have the SHA-256 {actual}"))]))
        }
        Err(PutError::TooLarge(max)) => Err(AppError::TooLarge(max)),
        Err(PutError::BrokeOff) => Err(AppError::bad_request("body", "broke off or fell silent")),
        Err(PutError::Store(error)) => Err(error.into()),
        Err(PutError::Unrecorded(error)) => Err(error.into()),
    }
}

/// The body, ended by an error when nothing comes for a while.
fn unless_silent(body: Body) -> impl Stream<Item = Result<Bytes, ()>> {
    futures_util::stream::unfold(Some(body.into_data_stream()), async |stream| {
        let mut stream = stream?;
        match tokio::time::timeout(limits::UPLOAD_SILENCE, stream.next()).await {
            Ok(None) => None,
            Ok(Some(Ok(bytes))) => Some((Ok(bytes), Some(stream))),
            Ok(Some(Err(_))) | Err(_) => Some((Err(()), None)),
        }
    })
}

/// The bytes of a blob
///
/// Takes one range. `HEAD` tells whether it is there.
#[utoipa::path(get, path = "/v1/blobs/{sha256}",
    params(("sha256" = String, Path, description = "SHA-256 of the bytes, lower-case hex")),
    responses((status = 200, description = "The bytes", body = Vec<u8>, content_type = "application/octet-stream"),
        (status = 206, description = "A range of them", body = Vec<u8>, content_type = "application/octet-stream"),
        (status = 304, description = "As named in If-None-Match"),
        (status = 416, description = "No such range", body = fetchml_api::ErrorResponse)))]
pub(super) async fn read_blob(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    PathText(sha256): PathText<String>,
    method: axum::http::Method,
    headers: HeaderMap,
) -> Result<Response, AppError> {
    let unknown = || AppError::not_found("blob");
    if !is_sha256_hex(&sha256) {
        return Err(unknown());
    }
    // Who only asks whether it is there is about to name it.
    let asks = method == axum::http::Method::HEAD;
    let length = if asks { app.blobs.claim(&sha256, app.driver.now()).await? } else { app.blobs.size(&sha256).await? };
    let length = length.ok_or_else(unknown)?;
    // What a worker stages was recorded with the task; people's reads are recorded each.
    if caller.role != Role::Worker && !asks {
        app.record_file_access(&caller, "blob_read", format!("blobs/{sha256}")).await?;
    }
    send(&app, &caller, &sha256, length, &headers).await
}

/// Answers with a blob as a download.
pub(super) async fn send(
    app: &Arc<App>,
    caller: &Caller,
    sha256: &str,
    length: u64,
    headers: &HeaderMap,
) -> Result<Response, AppError> {
    let etag = format!("\"{sha256}\"");
    let etag_value = HeaderValue::from_str(&etag).expect("hex digits and quotes make a valid header");
    if range::not_modified(headers, &etag) {
        return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, etag_value)]).into_response());
    }
    let asked = range::asked(headers, length, Some(&etag))?;
    let stream = app.blobs.read(sha256, asked.range(length)).await?;
    let stream = until_gone(Arc::clone(app), caller.clone(), stream);
    let mut response = range::answer(&asked, length, "application/octet-stream", stream);
    response.headers_mut().insert(header::ETAG, etag_value);
    Ok(response)
}

/// Cuts a download off when its caller's key ends.
pub(super) fn until_gone<T: Send + 'static>(
    app: Arc<App>,
    caller: Caller,
    stream: impl Stream<Item = T> + Send + 'static,
) -> impl Stream<Item = T> + Send + 'static {
    stream.take_until(Box::pin(async move { app.caller_gone(&caller).await }))
}
