//! `Idempotency-Key`: a request that is sent again is not done again, and gets the answer of the first.
//!
//! A key counts for one user and operation, and for 24 hours. It is stored in the transaction of what it made, so
//! that there is never one without the other.

use crate::{error::AppError, limits};
use axum::http::HeaderMap;
use fetchml_api::Micros;
use sha2::{Digest as _, Sha256};

/// Header of a request.
const KEY_HEADER: &str = "idempotency-key";
/// Header of an answer that was given before.
pub(crate) const REPLAYED_HEADER: &str = "idempotent-replayed";

/// What tells a request that is sent again from another.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Once {
    /// Names user, operation and key: hex of a SHA-256.
    pub id: String,
    /// Names the body: hex of its SHA-256.
    pub body_sha256: String,
}

impl Once {
    /// Of a request's headers; none without a key.
    ///
    /// # Errors
    /// The key is not one of 1 to 255 printable ASCII characters, or there are several.
    pub(crate) fn read(
        headers: &HeaderMap,
        user_id: &str,
        operation: &str,
        body: &[u8],
    ) -> Result<Option<Self>, AppError> {
        let mut keys = headers.get_all(KEY_HEADER).iter();
        let Some(key) = keys.next() else { return Ok(None) };
        let bytes = key.as_bytes();
        let is_printable = bytes.iter().all(|byte| (b' '..=b'~').contains(byte));
        if keys.next().is_some() || !is_printable || !(1..=limits::IDEMPOTENCY_KEY_CHARS).contains(&bytes.len()) {
            let most = limits::IDEMPOTENCY_KEY_CHARS;
            let problem = format!("must be one header of 1 to {most} printable ASCII characters");
            return Err(AppError::bad_request("Idempotency-Key", problem));
        }
        let mut id = Sha256::new();
        for part in [user_id.as_bytes(), operation.as_bytes(), bytes] {
            id.update((part.len() as u64).to_be_bytes());
            id.update(part);
        }
        let id = hex::encode(id.finalize());
        Ok(Some(Self { id, body_sha256: hex::encode(Sha256::digest(body)) }))
    }
}

/// Keys from before this moment count no more.
pub(crate) fn counts_since(now: Micros) -> Micros {
    Micros(now.0.saturating_sub(limits::IDEMPOTENCY_KEPT_S * fetchml_api::time::SECOND))
}

/// The key is another request's.
pub(crate) fn taken() -> AppError {
    AppError::Conflict {
        error: "This Idempotency-Key was used for a request with another body.".into(),
        hint: Some("Send a new key with each new request, and the same one only with the very same body.".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn read(keys: &[&[u8]], user: &str, operation: &str, body: &str) -> Result<Option<Once>, AppError> {
        let mut headers = HeaderMap::new();
        for key in keys {
            headers.append(KEY_HEADER, HeaderValue::from_bytes(key).unwrap());
        }
        Once::read(&headers, user, operation, body.as_bytes())
    }

    #[test]
    fn a_key_counts_for_one_user_and_operation() {
        let one = read(&[b"k"], "ada", "task", "{}").unwrap().unwrap();
        assert_eq!(read(&[b"k"], "ada", "task", "{}").unwrap().unwrap(), one);
        for (key, user, operation) in
            [(&b"k2"[..], "ada", "task"), (b"k", "bob", "task"), (b"k", "ada", "x"), (b"k", "adat", "ask")]
        {
            assert_ne!(read(&[key], user, operation, "{}").unwrap().unwrap().id, one.id);
        }
        let other = read(&[b"k"], "ada", "task", "{} ").unwrap().unwrap();
        assert_eq!(other.id, one.id);
        assert_ne!(other.body_sha256, one.body_sha256, "the raw body counts");
        assert_eq!(read(&[], "ada", "task", "{}").unwrap(), None);
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let long = [b'x'; 256];
        for keys in [&[&b""[..]][..], &[&b"a\xffb"[..]], &[&b"a\tb"[..]], &[&long[..]], &[&b"a"[..], b"a"]] {
            assert!(read(keys, "ada", "task", "").is_err(), "{keys:?}");
        }
        assert!(read(&[&long[..255]], "ada", "task", "").is_ok());
    }
}
