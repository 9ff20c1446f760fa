//! `/docs`: the API document to read in a browser. All that the page needs is in the binary, and it may load nothing
//! else.

use crate::{error::AppError, query::PathText, range};
use axum::{
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use sha2::{Digest as _, Sha256};
use std::sync::LazyLock;

/// Names and bytes: see `build.rs`.
const FILES: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/docs_page.rs"));
const PAGE: &str = "index.html";

/// What the page may do: run and show what this server sends, and ask it. No code in the text of the page, none made
/// from strings.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

struct File {
    name: &'static str,
    bytes: &'static [u8],
    etag: String,
}

static WITH_TAGS: LazyLock<Vec<File>> = LazyLock::new(|| {
    let tagged = |(name, bytes): &(&'static str, &'static [u8])| File {
        name,
        bytes,
        etag: format!("\"{}\"", hex::encode(Sha256::digest(bytes))),
    };
    FILES.iter().map(tagged).collect()
});

/// The API document, to read in a browser
///
/// Needs no key: it shows `/openapi.json`. To try operations out, enter a key; it stays in the page's memory.
#[utoipa::path(get, path = "/docs", operation_id = "show_docs", tag = "Health", security(()), responses(
    (status = 200, description = "The page", body = String, content_type = "text/html"),
    (status = 304, description = "As named in If-None-Match"),
))]
pub(super) async fn show_docs(headers: HeaderMap) -> Result<Response, AppError> {
    answer(PAGE, &headers)
}

/// A file of the page at `/docs`
#[utoipa::path(get, path = "/docs/{file}", operation_id = "read_docs_file", tag = "Health", security(()),
    params(("file" = String, Path, description = "Name of the file")),
    responses(
        (status = 200, description = "The file", content((String = "text/css"), (String = "text/javascript"),
            (String = "text/html"), (String = "text/plain"))),
        (status = 304, description = "As named in If-None-Match"),
        (status = 404, description = "No such file", body = fetchml_api::ErrorResponse),
    ))]
pub(super) async fn read_docs_file(PathText(name): PathText<String>, headers: HeaderMap) -> Result<Response, AppError> {
    answer(&name, &headers)
}

fn answer(name: &str, headers: &HeaderMap) -> Result<Response, AppError> {
    let file = WITH_TAGS.iter().find(|file| file.name == name).ok_or_else(|| AppError::not_found("file"))?;
    let etag = HeaderValue::from_str(&file.etag).expect("hex digits and quotes make a valid header");
    let always = [
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        (header::ETAG, etag),
    ];
    if range::not_modified(headers, &file.etag) {
        return Ok((StatusCode::NOT_MODIFIED, always).into_response());
    }
    let kind = HeaderValue::from_static(content_type(file.name));
    Ok((always, [(header::CONTENT_TYPE, kind)], file.bytes).into_response())
}

fn content_type(name: &str) -> &'static str {
    match name.rsplit_once('.').map(|(_, extension)| extension) {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        _ => "text/plain; charset=utf-8",
    }
}
