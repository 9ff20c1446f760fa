//! The one form of every error answer, and the closed set of its codes.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What went wrong, for programs. The set is closed: it is the contract's.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ErrorCode {
    /// 400, 405, 413, 415: the request cannot be read.
    BadRequest,
    /// 401: no key, or one that is not accepted.
    Unauthorized,
    /// 403: the key's role does not allow this.
    Forbidden,
    /// 404: nothing there, or nothing this key may see.
    NotFound,
    /// 409: the state of the resource forbids it.
    Conflict,
    /// 429: too many requests; wait `Retry-After` seconds.
    RateLimited,
    /// 500: a fault of the server; the `trace_id` finds it in the server's log.
    InternalError,
    /// 503: overloaded or unable to store; wait `Retry-After` seconds.
    ServiceUnavailable,
    /// 422: readable, but against the schema or its meaning; `details` lists every problem.
    ValidationError,
}

/// One problem of a request body.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// Path of the field, such as `env.PATH` or `datasets[2]`; empty for the body as a whole.
    pub field: String,
    /// What is wrong and what would be right.
    pub problem: String,
}

impl Problem {
    /// A problem at `field`.
    pub fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { field: field.into(), problem: problem.into() }
    }
}

/// The body of every answer that is not a success.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct ErrorResponse {
    /// Sanitized error message
    pub error: String,
    /// Machine-readable code.
    pub code: ErrorCode,
    /// Support correlation ID
    pub trace_id: String,
    /// Every problem found, not only the first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub details: Vec<Problem>,
    /// What to try.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Whether the same request may succeed later, unchanged.
    #[serde(default)]
    pub retryable: bool,
}
