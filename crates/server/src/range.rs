//! HTTP ranges over anything with a length: one range of bytes, `If-Range`, `If-None-Match`.

use crate::error::AppError;
use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::Response,
};
use bytes::Bytes;
use futures_util::Stream;
use std::ops::Range;

/// What part of a resource is asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Asked {
    /// All of it.
    Whole,
    /// A part; never empty, never past the end.
    Part(Range<u64>),
}

/// Reads `Range` for a resource of `length` bytes. Several ranges, other units and malformed ranges
/// are ignored, as RFC 9110 wants.
///
/// # Errors
/// 416: no byte of the range exists.
pub(crate) fn asked(headers: &HeaderMap, length: u64, etag: Option<&str>) -> Result<Asked, AppError> {
    let Some(text) = headers.get(header::RANGE).and_then(|v| v.to_str().ok()) else { return Ok(Asked::Whole) };
    if let Some(condition) = headers.get(header::IF_RANGE)
        && etag.is_none_or(|etag| condition.as_bytes() != etag.as_bytes())
    {
        return Ok(Asked::Whole);
    }
    match parse(text, length) {
        None => Ok(Asked::Whole),
        Some(range) if range.start < range.end => Ok(Asked::Part(range)),
        Some(_) => Err(AppError::RangeNotSatisfiable(length)),
    }
}

/// `None`: ignore it. An empty range: nothing of it exists.
fn parse(text: &str, length: u64) -> Option<Range<u64>> {
    let spec = text.strip_prefix("bytes=")?.trim();
    let (first, last) = spec.split_once('-')?;
    let number = |digits: &str| -> Option<u64> {
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        Some(digits.parse().unwrap_or(u64::MAX))
    };
    if first.is_empty() {
        let suffix = number(last)?;
        return Some(length.saturating_sub(suffix)..length);
    }
    let first = number(first)?;
    if last.is_empty() {
        return Some(first..length.max(first));
    }
    let last = number(last)?;
    if last < first {
        return None;
    }
    let end = last.saturating_add(1).min(length);
    Some(first..end.max(first))
}

/// Whether `If-None-Match` names this version.
pub(crate) fn not_modified(headers: &HeaderMap, etag: &str) -> bool {
    headers
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .any(|tag| tag.trim() == "*" || tag.trim().trim_start_matches("W/") == etag)
}

/// The answer with the bytes; `stream` yields those of the range.
pub(crate) fn answer<E: Into<axum::BoxError> + 'static>(
    asked: &Asked,
    length: u64,
    content_type: &'static str,
    stream: impl Stream<Item = Result<Bytes, E>> + Send + 'static,
) -> Response {
    let mut response = Response::new(Body::from_stream(stream));
    let sent = match asked {
        Asked::Whole => length,
        Asked::Part(range) => {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            let text = format!("bytes {}-{}/{length}", range.start, range.end - 1);
            let value = HeaderValue::from_str(&text).expect("digits make a valid header");
            response.headers_mut().insert(header::CONTENT_RANGE, value);
            range.end - range.start
        }
    };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(sent));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    response
}

impl Asked {
    /// The bytes asked for.
    pub(crate) fn range(&self, length: u64) -> Range<u64> {
        match self {
            Self::Whole => 0..length,
            Self::Part(range) => range.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_the_rfc_says() {
        let read = |text: &str, length| {
            let mut headers = HeaderMap::new();
            headers.insert(header::RANGE, HeaderValue::from_str(text).unwrap());
            match asked(&headers, length, None) {
                Ok(Asked::Whole) => "whole".to_owned(),
                Ok(Asked::Part(r)) => format!("{}..{}", r.start, r.end),
                Err(_) => "416".to_owned(),
            }
        };
        for (text, length, expected) in [
            ("bytes=0-0", 10, "0..1"),
            ("bytes=2-5", 10, "2..6"),
            ("bytes=5-", 10, "5..10"),
            ("bytes=-3", 10, "7..10"),
            ("bytes=-30", 10, "0..10"),
            ("bytes=5-99999999999999999999999", 10, "5..10"),
            ("bytes=10-", 10, "416"),
            ("bytes=10-20", 10, "416"),
            ("bytes=-0", 10, "416"),
            ("bytes=0-0", 0, "416"),
            ("bytes=5-2", 10, "whole"),
            ("bytes=0-1,3-4", 10, "whole"),
            ("bytes=a-b", 10, "whole"),
            ("bytes=-", 10, "whole"),
            ("lines=0-1", 10, "whole"),
        ] {
            assert_eq!(read(text, length), expected, "{text} of {length}");
        }
    }

    #[test]
    fn a_range_of_another_version_is_the_whole() {
        let mut headers = HeaderMap::new();
        headers.insert(header::RANGE, HeaderValue::from_static("bytes=0-1"));
        headers.insert(header::IF_RANGE, HeaderValue::from_static("\"a\""));
        assert_eq!(asked(&headers, 9, Some("\"b\"")).unwrap(), Asked::Whole);
        assert_eq!(asked(&headers, 9, Some("\"a\"")).unwrap(), Asked::Part(0..2));
    }
}
