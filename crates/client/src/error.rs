//! What can go wrong in a call, typed, with a hint for people.

use crate::{limits, snapshot::SnapshotError, trust::untrusted};
use fetchml_api::{ErrorCode, ErrorResponse};
use std::{error::Error as _, fmt::Write as _, io, path::PathBuf, time::Duration};

/// A failed call.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The server's address is not one.
    #[error("{url:?} is not a server address: {problem}")]
    BadUrl {
        /// What was given.
        url: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The API key cannot be one. The key itself is never shown.
    #[error("the API key is not well formed: {problem}")]
    BadKey {
        /// What is wrong with it.
        problem: &'static str,
    },
    /// No connection, or it broke before the answer was there.
    #[error("cannot reach the FetchML server at {url}: {reason}")]
    Unreachable {
        /// The server's address.
        url: String,
        /// The innermost cause, such as `connection refused`.
        reason: String,
    },
    /// What answers there is not the server that is trusted; nothing was sent to it.
    #[error("the server at {url} is not the one that is trusted: {reason}")]
    Untrusted {
        /// The server's address.
        url: String,
        /// What is wrong with its certificate.
        reason: String,
    },
    /// TLS cannot be used here.
    #[error("TLS cannot be used: {problem}")]
    Tls {
        /// Why.
        problem: String,
    },
    /// The server answered with an error.
    #[error("{}", describe(*status, error))]
    Api {
        /// HTTP status.
        status: u16,
        /// The server's error body.
        error: Box<ErrorResponse>,
        /// How long the server asks to wait before the next try.
        retry_after: Option<Duration>,
    },
    /// What answered does not speak FetchML's protocol, or broke it.
    #[error("unexpected answer from {url}: {problem}")]
    Protocol {
        /// The server's address.
        url: String,
        /// What was not as promised.
        problem: String,
    },
    /// A local file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file changed while it was being uploaded, so that its bytes no longer match its hash.
    #[error("{} changed while it was being uploaded", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// The directory cannot become a snapshot.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
}

fn describe(status: u16, error: &ErrorResponse) -> String {
    let mut text = error.error.clone();
    for problem in &error.details {
        if error.details.len() == 1 && text.contains(&problem.problem) && text.contains(&problem.field) {
            continue;
        }
        let separator = if problem.field.is_empty() { "" } else { ": " };
        let _ = write!(text, "\n  {}{separator}{}", problem.field, problem.problem);
    }
    if status >= 500 {
        let _ = write!(text, " (trace id {})", error.trace_id);
    }
    text
}

impl ClientError {
    /// Whether the same call may succeed later, unchanged.
    pub fn is_transient(&self) -> bool {
        match self {
            // That may end: somebody else answers in its place, or it gets its certificate back.
            Self::Unreachable { .. } | Self::Untrusted { .. } => true,
            Self::Api { status, error, .. } => matches!(status, 429 | 502 | 503 | 504) || error.retryable,
            Self::BadUrl { .. }
            | Self::BadKey { .. }
            | Self::Tls { .. }
            | Self::Protocol { .. }
            | Self::Io { .. }
            | Self::Changed { .. }
            | Self::Snapshot(_) => false,
        }
    }

    /// Whether the server cannot be reached or is not ready, such as during a restart or behind a proxy: no word about
    /// the call itself.
    pub const fn is_away(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. } | Self::Untrusted { .. } | Self::Api { status: 429 | 502 | 503 | 504, .. }
        )
    }

    /// Whether the server said that the thing asked for is not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Api { status: 404, .. })
    }

    /// What a person may try next.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::BadUrl { .. } => Some("an address looks like http://127.0.0.1:9101".into()),
            Self::BadKey { .. } => Some("keys look like fml_<id>_<secret>; `fetchml keys create` makes one".into()),
            Self::Unreachable { url, .. } => {
                Some(format!("start a server here with `fetchml up`, or set FETCHML_URL if it is not at {url}"))
            }
            Self::Untrusted { .. } => Some(
                "name its certificate by FETCHML_TLS_FINGERPRINT (it prints it at its start) or its authority by \
                 FETCHML_CA_CERT; if you did, somebody else may answer in its place"
                    .into(),
            ),
            Self::Api { error, retry_after, .. } => error.hint.clone().or_else(|| match error.code {
                ErrorCode::Unauthorized => {
                    Some("check FETCHML_API_KEY or the key file named in your profile (`fetchml config`)".into())
                }
                ErrorCode::Forbidden => Some("use a key whose role allows this".into()),
                ErrorCode::RateLimited | ErrorCode::ServiceUnavailable => {
                    retry_after.map(|wait| format!("try again in {} s", wait.as_secs().max(1)))
                }
                ErrorCode::InternalError => Some("the trace id finds the cause in the server's log".into()),
                ErrorCode::BadRequest | ErrorCode::NotFound | ErrorCode::Conflict | ErrorCode::ValidationError => None,
            }),
            Self::Protocol { .. } => Some("is this the address and port of a FetchML server of this version?".into()),
            Self::Io { .. } | Self::Tls { .. } => None,
            Self::Changed { .. } => Some("run it again when nothing writes to the file".into()),
            Self::Snapshot(error) => error.hint(),
        }
    }

    /// How long to wait before the next try: what the server asked for, within limits.
    pub(crate) fn retry_delay(&self, attempt: u32) -> Option<Duration> {
        if !self.is_transient() {
            return None;
        }
        match self {
            Self::Api { retry_after: Some(wait), .. } if *wait > limits::RETRY_AFTER_MAX => None,
            Self::Api { retry_after: Some(wait), .. } => Some(*wait),
            _ => Some(limits::RETRY_DELAY * 2_u32.saturating_pow(attempt).min(16)),
        }
    }

    pub(crate) fn io(path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::Io { path: path.into(), source }
    }

    /// Turns a transport failure into words: the innermost cause, without the URL repeated.
    pub(crate) fn transport(url: &str, error: &reqwest::Error) -> Self {
        if let Some(reason) = untrusted(error) {
            return Self::Untrusted { url: url.into(), reason };
        }
        let mut reason = if error.is_timeout() {
            let what = if error.is_connect() { "no connection" } else { "no answer" };
            format!("{what} in time")
        } else {
            String::new()
        };
        let mut cause: Option<&(dyn std::error::Error + 'static)> = error.source();
        while reason.is_empty() && cause.is_some() {
            let current = cause.expect("checked by the loop");
            if let Some(io) = current.downcast_ref::<io::Error>() {
                // The raw system message without "(os error 111)", in the words people search for.
                reason = match io.kind() {
                    io::ErrorKind::ConnectionRefused => "connection refused".into(),
                    io::ErrorKind::ConnectionReset => "connection reset".into(),
                    io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof => "connection closed".into(),
                    io::ErrorKind::HostUnreachable => "host unreachable".into(),
                    io::ErrorKind::NetworkUnreachable => "network unreachable".into(),
                    _ => String::new(),
                };
            }
            if reason.is_empty() && current.source().is_none() {
                reason = current.to_string();
            }
            cause = current.source();
        }
        if reason.is_empty() {
            reason = "the connection failed".into();
        }
        // Not `is_decode`: with bodies read as bytes that is a connection which broke in the middle.
        if error.is_builder() || error.is_redirect() {
            return Self::Protocol { url: url.into(), problem: reason };
        }
        Self::Unreachable { url: url.into(), reason }
    }
}
