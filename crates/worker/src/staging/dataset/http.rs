//! `http://` and `https://`: whole files, and the rest of one by `Range` and `If-Range`.

use super::{
    guard::{Guard, fault},
    source::{Opened, Resume, Version, definite, transient},
};
use crate::staging::{Chunks, SourceError};
use futures_util::StreamExt as _;
use reqwest::{
    RequestBuilder, Response, StatusCode,
    header::{
        ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderName, IF_RANGE, LAST_MODIFIED,
        RANGE,
    },
};

/// Begins to read a URL.
pub(super) async fn open(guard: &Guard, url: &str, resume: Option<Resume<'_>>) -> Result<Opened, SourceError> {
    // Without a validator the server could not tell that the file is another by now.
    let resume = resume.filter(|resume| resume.offset > 0 && resume.version.if_range().is_some());
    let mut response = guard.get(url, |request| ask(request, resume)).await?;
    if let Some(resume) = resume {
        match response.status() {
            StatusCode::PARTIAL_CONTENT if is_rest(&response, resume)? => return Ok(rest(response, resume)),
            // Another version: one that is shorter, or on a server that passes over If-Range.
            StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => {
                response = guard.get(url, |request| ask(request, None)).await?;
            }
            _ => {}
        }
    }
    match response.status() {
        StatusCode::OK => whole(response),
        status => Err(refusal(status)),
    }
}

fn ask(request: RequestBuilder, resume: Option<Resume<'_>>) -> RequestBuilder {
    // Bytes count as they are stored: nothing may be packed on the way.
    let request = request.header(ACCEPT_ENCODING, "identity");
    match resume {
        None => request,
        Some(Resume { offset, version }) => request
            .header(RANGE, format!("bytes={offset}-"))
            .header(IF_RANGE, version.if_range().expect("checked by the caller")),
    }
}

fn whole(response: Response) -> Result<Opened, SourceError> {
    let size = text(&response, &CONTENT_LENGTH).and_then(|length| length.parse().ok());
    let version = version(&response, size)?;
    Ok(Opened { version, offset: 0, body: body(response) })
}

/// Whether an answer is the rest of the same version.
fn is_rest(response: &Response, resume: Resume<'_>) -> Result<bool, SourceError> {
    let Some((from, size)) = text(response, &CONTENT_RANGE).and_then(|range| content_range(&range)) else {
        return Ok(false);
    };
    let version = version(response, size)?;
    Ok(from == resume.offset && (!version.is_known() || version.is_same(resume.version)))
}

fn rest(response: Response, resume: Resume<'_>) -> Opened {
    let size = text(&response, &CONTENT_RANGE).and_then(|range| content_range(&range)?.1);
    let version = Version { size: size.or(resume.version.size), ..resume.version.clone() };
    Opened { version, offset: resume.offset, body: body(response) }
}

fn version(response: &Response, size: Option<u64>) -> Result<Version, SourceError> {
    let encoding = text(response, &CONTENT_ENCODING).filter(|encoding| !encoding.eq_ignore_ascii_case("identity"));
    if let Some(encoding) = encoding {
        return Err(definite(format!(
            "the server sends it packed ({}), though asked not to; name a source that serves it as it is",
            encoding.escape_debug()
        )));
    }
    Ok(Version { etag: text(response, &ETAG), modified: text(response, &LAST_MODIFIED), size })
}

fn text(response: &Response, name: &HeaderName) -> Option<String> {
    response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
}

/// `bytes FROM-TO/SIZE`, the size possibly `*`.
fn content_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, size) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    let from = range.split_once('-')?.0.trim().parse().ok()?;
    match size.trim() {
        "*" => Some((from, None)),
        size => Some((from, Some(size.parse().ok()?))),
    }
}

fn body(response: Response) -> Chunks {
    Box::pin(response.bytes_stream().map(|chunk| chunk.map_err(|error| fault(&error))))
}

/// An answer without the file.
fn refusal(status: StatusCode) -> SourceError {
    let said = format!("the server answers {status}");
    match status.as_u16() {
        401 | 403 | 407 => {
            definite(format!("{said}: it wants credentials, which a source cannot carry; name one that needs none"))
        }
        404 | 410 => definite(format!("{said}: there is no such file")),
        408 | 425 | 429 | 500.. => transient(said),
        _ => definite(said),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_or_refused() {
        assert_eq!(content_range("bytes 7-99/100"), Some((7, Some(100))));
        assert_eq!(content_range("bytes 7-99/*"), Some((7, None)));
        for bad in ["", "bytes", "bytes */100", "bytes x-9/10", "items 1-2/3", "bytes 1-2", "bytes 1-2/x"] {
            assert_eq!(content_range(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_refusal_is_definite_unless_it_may_pass() {
        for (status, transient) in [(401, false), (403, false), (404, false), (410, false), (418, false), (204, false)]
        {
            assert_eq!(refusal(StatusCode::from_u16(status).unwrap()).transient, transient, "{status}");
        }
        for status in [408, 425, 429, 500, 502, 503, 504] {
            assert!(refusal(StatusCode::from_u16(status).unwrap()).transient, "{status}");
        }
    }
}
