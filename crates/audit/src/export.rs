//! The lines of an export: a header, events as they are stored, and signed checkpoints, each where its size is reached.
//! JSON with its members in one order and without spaces, so that each line has one spelling.

use crate::{
    chain::Hash,
    limits::{BODY_BYTES, EXPORT_KEYS},
    note::{Note, VerifierKey},
    tree::Frontier,
    verify::{AuditRow, Start},
};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// Says what the file is.
pub(crate) const FORMAT: &str = "fetchml/audit-export/v1";
/// Begins a line of an event.
pub(crate) const EVENT_START: &[u8] = br#"{"sequence_num":"#;
/// Begins a line of a checkpoint.
pub(crate) const CHECKPOINT_START: &[u8] = br#"{"checkpoint":"#;
/// Ends a line of a checkpoint, and none of an event.
pub(crate) const CHECKPOINT_END: &[u8] = br#"\n"}"#;

/// Why something cannot be exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// A body is no text: it is not one of ours.
    #[error("the body of event {0} is not UTF-8")]
    Body(u64),
    /// A body is longer than [`BODY_BYTES`].
    #[error("the body of event {0} is too long")]
    TooLong(u64),
    /// More than [`EXPORT_KEYS`].
    #[error("there are too many keys")]
    Keys,
    /// An export that does not begin with the first event has to say where the log was, signed.
    #[error("an export that begins in the middle takes a checkpoint there")]
    Start,
}

/// First line.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Header {
    pub(crate) format: String,
    pub(crate) log_id: String,
    /// Number of events before the first of the file.
    pub(crate) after: u64,
    #[serde(with = "hex::serde")]
    pub(crate) prev_hash: Hash,
    pub(crate) tree: Vec<HexHash>,
    pub(crate) keys: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) checkpoint: Option<String>,
}

/// A hash, in lower-case hexadecimal digits.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct HexHash(#[serde(with = "hex::serde")] pub(crate) Hash);

/// Line of an event.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EventLine<'a> {
    pub(crate) sequence_num: u64,
    #[serde(with = "hex::serde")]
    pub(crate) prev_hash: Hash,
    #[serde(with = "hex::serde")]
    pub(crate) event_hash: Hash,
    #[serde(borrow)]
    pub(crate) body: Cow<'a, str>,
}

/// Line of a checkpoint.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CheckpointLine<'a> {
    #[serde(borrow)]
    pub(crate) checkpoint: Cow<'a, str>,
}

/// The first line of an export, with its newline. `keys` are all that signed any of its checkpoints. An export that
/// begins after the first event takes a checkpoint of the size where it begins.
///
/// # Errors
/// [`ExportError`] for too many keys, or a start in the middle without a checkpoint.
pub fn header_line(
    log_id: &str,
    start: &Start,
    keys: &[VerifierKey],
    checkpoint: Option<&Note>,
) -> Result<Vec<u8>, ExportError> {
    let Start { tree, head } = start;
    if keys.len() > EXPORT_KEYS {
        return Err(ExportError::Keys);
    }
    if (tree.size() > 0) != checkpoint.is_some() {
        return Err(ExportError::Start);
    }
    Ok(line(&Header {
        format: FORMAT.to_owned(),
        log_id: log_id.to_owned(),
        after: tree.size(),
        prev_hash: *head,
        tree: tree.nodes().iter().map(|hash| HexHash(*hash)).collect(),
        keys: keys.iter().map(ToString::to_string).collect(),
        checkpoint: checkpoint.map(ToString::to_string),
    }))
}

/// The line of an event, with its newline.
///
/// # Errors
/// [`ExportError`] when its body is longer than [`BODY_BYTES`] or no text.
pub fn event_line(row: &AuditRow) -> Result<Vec<u8>, ExportError> {
    if row.body.len() > BODY_BYTES {
        return Err(ExportError::TooLong(row.sequence));
    }
    let body = std::str::from_utf8(&row.body).map_err(|_| ExportError::Body(row.sequence))?;
    Ok(line(&EventLine {
        sequence_num: row.sequence,
        prev_hash: row.prev_hash,
        event_hash: row.event_hash,
        body: body.into(),
    }))
}

/// The line of a checkpoint, with its newline. It stands behind the last event that it covers; the last line of an export
/// is one.
pub fn checkpoint_line(note: &Note) -> Vec<u8> {
    line(&CheckpointLine { checkpoint: note.to_string().into() })
}

/// The one spelling of a line.
pub(crate) fn line(value: &impl Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(value).expect("texts and numbers always serialize");
    line.push(b'\n');
    line
}

impl Header {
    /// Where the events begin; none when the parts do not fit each other.
    pub(crate) fn start(&self) -> Option<Start> {
        let nodes = self.tree.iter().map(|hash| hash.0).collect();
        let start = Start { tree: Frontier::from_parts(self.after, nodes)?, head: self.prev_hash };
        (self.after > 0 || start == Start::genesis(&self.log_id)).then_some(start)
    }
}
