//! Every way a request can fail, and the one table from there to status, code and words. Nothing
//! internal can leak: faults carry their cause to the log only, never into the answer.

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use fetchml_api::{ErrorCode, ErrorResponse, Problem};
use fetchml_store::StoreError;
use std::fmt::Display;

/// A failed request.
#[derive(Debug)]
pub enum AppError {
    /// 400: cannot be read.
    BadRequest {
        /// What is wrong.
        error: String,
        /// Where.
        details: Vec<Problem>,
    },
    /// 400: plain HTTP where TLS is spoken.
    PlainHttp,
    /// 401: no key, or one that is not accepted.
    Unauthorized(&'static str),
    /// 403: not with this key.
    Forbidden {
        /// What may not be done.
        error: String,
        /// Who may, or who can help.
        hint: String,
    },
    /// 404: nothing there.
    NotFound {
        /// What is not there.
        error: String,
        /// How to find what is.
        hint: Option<&'static str>,
    },
    /// 405: not with this method. The router sets `Allow`.
    MethodNotAllowed,
    /// 409: its state forbids it.
    Conflict {
        /// Why.
        error: String,
        /// What to do instead.
        hint: Option<String>,
    },
    /// 413: the body is larger than allowed, bytes.
    TooLarge(u64),
    /// 415: the wrong content type; holds the right one.
    WrongMediaType(&'static str),
    /// 416: the range lies outside; holds the length, bytes.
    RangeNotSatisfiable(u64),
    /// 422: every problem of the body.
    Invalid(Vec<Problem>),
    /// 429.
    RateLimited {
        /// Seconds to wait.
        retry_after_s: u64,
    },
    /// 500: the cause goes to the log.
    Internal(String),
    /// 503.
    Unavailable {
        /// One sentence for the caller.
        reason: String,
        /// Seconds to wait.
        retry_after_s: u64,
    },
}

/// Set on answers that already have the one form.
#[derive(Clone, Copy)]
pub(crate) struct Formed;

/// What a row of the table says.
struct Words {
    status: StatusCode,
    code: ErrorCode,
    error: String,
    details: Vec<Problem>,
    hint: Option<String>,
    retry_after_s: Option<u64>,
}

impl AppError {
    /// 400 with one problem.
    pub fn bad_request(field: impl Into<String>, problem: impl Into<String>) -> Self {
        let problem = Problem::new(field, problem);
        let error = match problem.field.as_str() {
            "" => format!("The body cannot be read: {}.", problem.problem),
            field => format!("{field} {}", problem.problem),
        };
        Self::BadRequest { error, details: vec![problem] }
    }

    /// 403.
    pub fn forbidden(error: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Forbidden { error: error.into(), hint: hint.into() }
    }

    /// 404 that names the kind of thing.
    pub fn not_found(what: &str) -> Self {
        Self::NotFound { error: format!("There is no such {what}."), hint: where_to_look(what) }
    }

    /// 404 in a sentence of its own.
    pub fn gone(error: String) -> Self {
        Self::NotFound { error, hint: None }
    }

    /// 500; the cause goes to the log.
    pub fn internal(cause: impl Display) -> Self {
        Self::Internal(cause.to_string())
    }

    /// The table.
    fn words(self) -> Words {
        use ErrorCode as C;
        let row = |status, code, error: String| Words {
            status,
            code,
            error,
            details: Vec::new(),
            hint: None,
            retry_after_s: None,
        };
        match self {
            Self::BadRequest { error, details } => {
                Words { details, ..row(StatusCode::BAD_REQUEST, C::BadRequest, error) }
            }
            Self::PlainHttp => Words {
                hint: Some("Use https:// instead of http:// in the server's address.".into()),
                ..row(StatusCode::BAD_REQUEST, C::BadRequest, "This server speaks HTTPS only.".into())
            },
            Self::Unauthorized(error) => Words {
                hint: Some("Send a valid key in the header X-API-Key.".into()),
                ..row(StatusCode::UNAUTHORIZED, C::Unauthorized, error.into())
            },
            Self::Forbidden { error, hint } => {
                Words { hint: Some(hint), ..row(StatusCode::FORBIDDEN, C::Forbidden, error) }
            }
            Self::NotFound { error, hint } => {
                Words { hint: hint.map(Into::into), ..row(StatusCode::NOT_FOUND, C::NotFound, error) }
            }
            Self::MethodNotAllowed => row(
                StatusCode::METHOD_NOT_ALLOWED,
                C::BadRequest,
                "This path does not take this method; the header Allow lists those it takes.".into(),
            ),
            Self::Conflict { error, hint } => Words { hint, ..row(StatusCode::CONFLICT, C::Conflict, error) },
            Self::TooLarge(max) => row(
                StatusCode::PAYLOAD_TOO_LARGE,
                C::BadRequest,
                format!("The body is too large; at most {max} bytes are accepted here."),
            ),
            Self::WrongMediaType(wanted) => row(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                C::BadRequest,
                format!("The body must be sent with Content-Type: {wanted}."),
            ),
            Self::RangeNotSatisfiable(length) => row(
                StatusCode::RANGE_NOT_SATISFIABLE,
                C::BadRequest,
                format!("The range lies outside of the {length} bytes there are."),
            ),
            Self::Invalid(details) => {
                let error = match details.as_slice() {
                    [one] if one.field.is_empty() => format!("The body {}.", one.problem),
                    [one] => format!("{}: {}.", one.field, one.problem),
                    many => format!("The request has {} problems; details lists them.", many.len()),
                };
                Words { details, ..row(StatusCode::UNPROCESSABLE_ENTITY, C::ValidationError, error) }
            }
            Self::RateLimited { retry_after_s } => Words {
                hint: Some(format!("Wait {retry_after_s} s.")),
                retry_after_s: Some(retry_after_s),
                ..row(StatusCode::TOO_MANY_REQUESTS, C::RateLimited, "Too many requests.".into())
            },
            Self::Internal(cause) => {
                tracing::error!(%cause, "request failed");
                Words {
                    hint: Some("The server's log says more under this trace_id.".into()),
                    ..row(StatusCode::INTERNAL_SERVER_ERROR, C::InternalError, "The server failed.".into())
                }
            }
            Self::Unavailable { reason, retry_after_s } => Words {
                hint: Some(format!("Try again in {retry_after_s} s.")),
                retry_after_s: Some(retry_after_s),
                ..row(StatusCode::SERVICE_UNAVAILABLE, C::ServiceUnavailable, reason)
            },
        }
    }
}

/// Where things of a kind are listed.
fn where_to_look(what: &str) -> Option<&'static str> {
    Some(match what {
        "path" => "GET /openapi.json describes every path and its method.",
        "task" => "GET /v1/tasks lists tasks (fetchml tasks).",
        "array" => "GET /v1/tasks lists tasks with their array_id (fetchml tasks).",
        "attempt of this task" => "Leave the attempt out for the latest one; attempts are numbered from 1.",
        "artifact" => "GET /v1/tasks/{taskId}/artifacts lists the files of a task (fetchml artifacts ls).",
        "checkpoint of this task" => "It has one when it has written into FETCHML_CHECKPOINT_DIR for some seconds.",
        "worker" => "GET /v1/scheduler/workers lists workers (fetchml workers).",
        "reservation" => "GET /v1/scheduler/reservations lists reservations (fetchml reservations).",
        "data set" => "GET /v1/datasets lists data sets (fetchml datasets list).",
        "experiment" => "GET /v1/experiments lists experiments (fetchml experiments list).",
        "webhook" => "GET /v1/webhooks lists webhooks (fetchml webhooks list).",
        "key" => "GET /v1/keys lists keys (fetchml keys list).",
        "secret" => "GET /v1/secrets lists the names of your secrets (fetchml secrets list).",
        "quota" => "GET /v1/admin/quotas lists quotas (fetchml quota list).",
        "role that submits tasks" => "Such roles are user, operator and admin.",
        "user" => "A user's name has letters, digits, _ - . and @.",
        "snapshot" => "Store it with POST /v1/snapshots.",
        "blob" => "Store it with PUT /v1/blobs/{sha256}.",
        _ => return None,
    })
}

/// Whether the same request may succeed later, unchanged.
const fn retryable(code: ErrorCode) -> bool {
    match code {
        ErrorCode::RateLimited | ErrorCode::ServiceUnavailable | ErrorCode::InternalError => true,
        ErrorCode::BadRequest
        | ErrorCode::Unauthorized
        | ErrorCode::Forbidden
        | ErrorCode::NotFound
        | ErrorCode::Conflict
        | ErrorCode::ValidationError => false,
    }
}

impl IntoResponse for AppError {
    fn into_response(self) -> Response {
        let content_range = match &self {
            Self::RangeNotSatisfiable(length) => Some(format!("bytes */{length}")),
            _ => None,
        };
        let words = self.words();
        let body = ErrorResponse {
            error: words.error,
            code: words.code,
            trace_id: crate::request::current_trace_id(),
            details: words.details,
            hint: words.hint,
            retryable: retryable(words.code),
        };
        let json = serde_json::to_vec(&body).expect("an error answer has only string keys");
        let mut response = Response::new(Body::from(json));
        *response.status_mut() = words.status;
        response.extensions_mut().insert(Formed);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(seconds) = words.retry_after_s {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(range) = content_range.and_then(|r| HeaderValue::from_str(&r).ok()) {
            headers.insert(header::CONTENT_RANGE, range);
        }
        response
    }
}

impl From<StoreError> for AppError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Data(cause) => Self::Internal(format!("the database refuses this data: {cause}")),
            StoreError::Unavailable(cause) | StoreError::Unknown(cause) | StoreError::Fatal(cause) => {
                tracing::warn!(%cause, "the database cannot be used");
                Self::Unavailable { reason: "The database cannot be used right now.".into(), retry_after_s: 2 }
            }
        }
    }
}

impl From<std::io::Error> for AppError {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                tracing::warn!(cause = %error, "the disk is full");
                Self::Unavailable { reason: "The server's disk is full.".into(), retry_after_s: 30 }
            }
            _ => Self::Internal(error.to_string()),
        }
    }
}

impl From<object_store::Error> for AppError {
    fn from(error: object_store::Error) -> Self {
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            if let Some(io) = cause.downcast_ref::<std::io::Error>()
                && matches!(io.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
            {
                return std::io::Error::from(io.kind()).into();
            }
            source = cause.source();
        }
        Self::Internal(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        collections::{BTreeMap, BTreeSet},
        fs,
        path::PathBuf,
    };
    use utoipa::PartialSchema as _;

    /// One of each kind.
    fn every_kind() -> [AppError; 14] {
        let none = String::new;
        let kinds = [
            AppError::bad_request("", ""),
            AppError::Unauthorized(""),
            AppError::forbidden("", ""),
            AppError::not_found(""),
            AppError::MethodNotAllowed,
            AppError::Conflict { error: none(), hint: None },
            AppError::TooLarge(0),
            AppError::WrongMediaType(""),
            AppError::RangeNotSatisfiable(0),
            AppError::Invalid(Vec::new()),
            AppError::RateLimited { retry_after_s: 0 },
            AppError::Internal(none()),
            AppError::Unavailable { reason: none(), retry_after_s: 0 },
            AppError::PlainHttp,
        ];
        let place = |kind: &AppError| match kind {
            AppError::BadRequest { .. } => 0,
            AppError::Unauthorized(_) => 1,
            AppError::Forbidden { .. } => 2,
            AppError::NotFound { .. } => 3,
            AppError::MethodNotAllowed => 4,
            AppError::Conflict { .. } => 5,
            AppError::TooLarge(_) => 6,
            AppError::WrongMediaType(_) => 7,
            AppError::RangeNotSatisfiable(_) => 8,
            AppError::Invalid(_) => 9,
            AppError::RateLimited { .. } => 10,
            AppError::Internal(_) => 11,
            AppError::Unavailable { .. } => 12,
            // A kind that is added here belongs into the list above.
            AppError::PlainHttp => 13,
        };
        assert!(kinds.iter().map(place).eq(0..kinds.len()));
        kinds
    }

    fn name_of(code: ErrorCode) -> String {
        serde_json::from_value(serde_json::json!(code)).expect("codes are text")
    }

    fn pages() -> PathBuf {
        [env!("CARGO_MANIFEST_DIR"), "../../docs/errors"].iter().collect()
    }

    #[test]
    fn every_code_has_a_page_and_every_page_a_code() {
        let schema = serde_json::to_value(ErrorCode::schema()).expect("a schema is JSON");
        let codes: BTreeSet<String> = serde_json::from_value(schema["enum"].clone()).expect("names");
        let files = fs::read_dir(pages()).expect("docs/errors").map(|entry| entry.expect("an entry").path());
        let names = files.map(|path| path.file_stem().expect("a name").to_string_lossy().into_owned());
        let found: BTreeSet<String> = names.filter(|name| name != "README").collect();
        assert_eq!(found, codes, "docs/errors has one page for each code");

        let index = fs::read_to_string(pages().join("README.md")).expect("an index");
        for code in codes {
            assert!(index.contains(&format!("| [{code}]({code}.md) |")), "docs/errors/README.md does not list {code}");
        }
    }

    #[test]
    fn the_pages_of_codes_say_what_is_answered() {
        let mut statuses: BTreeMap<String, (ErrorCode, BTreeSet<u16>)> = BTreeMap::new();
        for Words { status, code, .. } in every_kind().map(AppError::words) {
            statuses.entry(name_of(code)).or_insert_with(|| (code, BTreeSet::new())).1.insert(status.as_u16());
        }
        for (name, (code, statuses)) in statuses {
            let page = fs::read_to_string(pages().join(format!("{name}.md"))).expect("a page");
            let statuses: Vec<String> = statuses.iter().map(ToString::to_string).collect();
            let again = if retryable(code) { "yes" } else { "no" };
            let head = format!("# {name}\n\nStatus: {}. Retryable: {again}.\n\n", statuses.join(", "));
            assert!(page.starts_with(&head), "docs/errors/{name}.md does not begin with\n{head}");
            let (_, example) = page.split_once("```json\n").expect("an example");
            let example: ErrorResponse =
                serde_json::from_str(example.trim_end().trim_end_matches('`')).expect("an error answer");
            assert_eq!((example.code, example.retryable), (code, retryable(code)), "the example of {name}");
        }
    }

    #[test]
    fn a_body_without_a_place_to_name_reads_as_a_sentence() {
        let AppError::BadRequest { error, .. } = AppError::bad_request("", "it ends too early") else { unreachable!() };
        assert_eq!(error, "The body cannot be read: it ends too early.");
    }
}
