//! One answer of the server, read whole.

use bytes::Bytes;
use fetchml_api::{ErrorCode, ErrorResponse};
use reqwest::header::HeaderMap;
use serde_json::Value;

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// `METHOD path`, for messages.
    pub asked: String,
    /// HTTP status.
    pub status: u16,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
}

impl Answer {
    /// Checks the status.
    ///
    /// # Panics
    /// It is another.
    #[track_caller]
    #[expect(clippy::return_self_not_must_use, reason = "most tests only check the status")]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}: {}", self.asked, String::from_utf8_lossy(&self.body));
        self
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// It is not.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|e| panic!("{}: {e}: {}", self.asked, String::from_utf8_lossy(&self.body)))
    }

    /// The body as a type.
    ///
    /// # Panics
    /// It is not.
    #[track_caller]
    pub fn read<T: serde::de::DeserializeOwned>(&self) -> T {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|e| panic!("{}: {e}: {}", self.asked, String::from_utf8_lossy(&self.body)))
    }

    /// Checks status and code of an error and returns it.
    ///
    /// # Panics
    /// It is no such error.
    #[track_caller]
    pub fn error(&self, status: u16, code: ErrorCode) -> ErrorResponse {
        let text = String::from_utf8_lossy(&self.body);
        assert_eq!(self.status, status, "{}: {text}", self.asked);
        let error: ErrorResponse = self.read();
        assert_eq!(error.code, code, "{}: {text}", self.asked);
        error
    }

    /// A header as text; empty when absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or("")
    }

    /// The fields named in `details` of a 422.
    ///
    /// # Panics
    /// It is no 422.
    #[track_caller]
    pub fn problem_fields(&self) -> Vec<String> {
        self.error(422, ErrorCode::ValidationError).details.into_iter().map(|p| p.field).collect()
    }
}
