//! An event and its canonical body: RFC 8785 JSON of the contract's fields, restricted to strings,
//! booleans and integers below 2^53, so that every implementation hashes the same bytes.

use fetchml_api::{AuditDraft, AuditKind, Micros};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Greatest sequence number: integers from 2^53 on are not exact in every JSON reader.
pub(crate) const SEQUENCE_MAX: u64 = (1 << 53) - 1;
/// The last instant written with a year of four digits, microseconds: later ones are clamped to it.
const TIME_MAX: i64 = 253_402_207_200_999_999;

/// An event as its body tells it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditEvent {
    /// When it happened.
    pub timestamp: Micros,
    /// The contract's kind.
    pub event_type: AuditKind,
    /// Who, or `system`.
    pub user_id: String,
    /// What was acted on.
    pub resource: String,
    /// Exactly what happened.
    pub action: String,
    /// Whether it was done.
    pub success: bool,
    /// Address of the peer, for requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_address: Option<String>,
    /// Why not, when it was not done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// More facts.
    pub metadata: BTreeMap<String, String>,
    /// Position in the log, from 1.
    pub sequence_num: u64,
}

/// Why a body is not one this crate writes.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// It is not the JSON of an event.
    #[error("the body is not an audit event")]
    Json(#[from] serde_json::Error),
    /// It tells an event, but in other bytes than the canonical ones.
    #[error("the body is not in canonical form")]
    NotCanonical,
}

/// The members of a body, borrowed. The order is canonical, so that a body can be written in one pass.
#[derive(Serialize)]
struct Body<'a> {
    action: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    event_type: AuditKind,
    #[serde(skip_serializing_if = "Option::is_none")]
    ip_address: Option<&'a str>,
    metadata: &'a BTreeMap<String, String>,
    resource: &'a str,
    sequence_num: u64,
    success: bool,
    timestamp: Micros,
    user_id: &'a str,
}

impl Body<'_> {
    fn bytes(&self) -> Vec<u8> {
        serde_json_canonicalizer::to_vec(self).expect("strings, booleans and small integers always serialize")
    }
}

/// The canonical body of a draft at its place in the log.
pub(crate) fn body_of(draft: &AuditDraft, sequence: u64) -> Vec<u8> {
    assert!((1..=SEQUENCE_MAX).contains(&sequence), "an audit log numbers from 1 to 2^53 - 1");
    Body {
        action: &draft.action,
        error: draft.error.as_deref(),
        event_type: draft.kind,
        ip_address: draft.ip_address.as_deref(),
        metadata: &draft.metadata,
        resource: &draft.resource,
        sequence_num: sequence,
        success: draft.success,
        timestamp: Micros(draft.at.0.clamp(0, TIME_MAX)),
        user_id: &draft.user_id,
    }
    .bytes()
}

/// Reads a body.
///
/// # Errors
/// [`BodyError`] when the bytes are not exactly those which this crate writes for the event.
pub fn parse_body(body: &[u8]) -> Result<AuditEvent, BodyError> {
    let event: AuditEvent = serde_json::from_slice(body)?;
    let canonical = Body {
        action: &event.action,
        error: event.error.as_deref(),
        event_type: event.event_type,
        ip_address: event.ip_address.as_deref(),
        metadata: &event.metadata,
        resource: &event.resource,
        sequence_num: event.sequence_num,
        success: event.success,
        timestamp: event.timestamp,
        user_id: &event.user_id,
    };
    if event.sequence_num > SEQUENCE_MAX || canonical.bytes() != body {
        return Err(BodyError::NotCanonical);
    }
    Ok(event)
}
