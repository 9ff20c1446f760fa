//! The audit log: its events before they are written and as they are shown, and what a verification says.

use crate::time::Micros;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::{collections::BTreeMap, fmt, str::FromStr};
use utoipa::{IntoParams, ToSchema};

/// What an audit event is about
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AuditKind {
    /// A task entered the queue, or its place in it changed.
    JobQueued,
    /// User code started, or a notebook.
    JobStarted,
    /// A task ended, was cancelled or deleted.
    JobCompleted,
    /// A log, artifact or snapshot was read or stored.
    FileAccess,
    /// A key was used, made or revoked; a worker was admitted.
    AuthAttempt,
    /// A plugin's configuration changed.
    PluginConfigured,
    /// A worker was drained.
    SchedulerDrain,
    /// The log was verified, or an alarm raised.
    AuditVerified,
}

impl AuditKind {
    /// Every kind.
    pub const ALL: [Self; 8] = [
        Self::JobQueued,
        Self::JobStarted,
        Self::JobCompleted,
        Self::FileAccess,
        Self::AuthAttempt,
        Self::PluginConfigured,
        Self::SchedulerDrain,
        Self::AuditVerified,
    ];

    /// The word used in JSON and in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::JobQueued => "job_queued",
            Self::JobStarted => "job_started",
            Self::JobCompleted => "job_completed",
            Self::FileAccess => "file_access",
            Self::AuthAttempt => "auth_attempt",
            Self::PluginConfigured => "plugin_configured",
            Self::SchedulerDrain => "scheduler_drain",
            Self::AuditVerified => "audit_verified",
        }
    }
}

impl fmt::Display for AuditKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for AuditKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = Self::ALL.into_iter().find(|kind| kind.as_str() == text);
        known.ok_or_else(|| {
            format!("{text:?} is no kind of audit event: one of {}", Self::ALL.map(Self::as_str).join(", "))
        })
    }
}

/// An audit event before the writer gives it its number and hash. Values must be strings, booleans,
/// null or integers below 2^53: see `fetchml-audit`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AuditDraft {
    /// When it happened.
    pub at: Micros,
    /// The contract's kind.
    pub kind: AuditKind,
    /// Who, or `system`.
    pub user_id: String,
    /// What was acted on, such as `tasks/<id>` or `keys/<id>`.
    pub resource: String,
    /// Exactly what happened, such as `submit`, `start`, `complete`, `fail`, `requeue`, `cancel`.
    pub action: String,
    /// Whether it was done.
    pub success: bool,
    /// Address of the peer, for requests.
    pub ip_address: Option<String>,
    /// Why not, when it was not done.
    pub error: Option<String>,
    /// More facts: strings only, so that they hash the same everywhere.
    pub metadata: BTreeMap<String, String>,
}

/// An event of the audit log
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct AuditEvent {
    /// When it happened
    #[schema(value_type = String, format = DateTime)]
    pub timestamp: Micros,
    /// What it is about
    pub event_type: AuditKind,
    /// Who did it; `system`: the server by itself
    pub user_id: String,
    /// Resource being acted upon
    pub resource: String,
    /// Action performed
    pub action: String,
    /// Whether it was done
    pub success: bool,
    /// Address that the request came from
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub ip_address: Option<String>,
    /// Why it was not done
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub error: Option<String>,
    /// Previous event hash in chain
    pub prev_hash: String,
    /// This event's hash
    pub event_hash: String,
    /// Position in audit chain
    #[schema(minimum = 1)]
    pub sequence_num: u64,
    /// More facts
    #[schema(value_type = Object)]
    pub metadata: Map<String, Value>,
    /// The exact text that was hashed, canonical JSON. Everything above but the two hashes is read from it
    pub body: String,
}

/// A page of the audit log
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct AuditEventList {
    /// The events
    pub events: Vec<AuditEvent>,
    /// All matches
    pub total: i64,
    /// Page size
    pub limit: i64,
    /// Matches that were skipped
    pub offset: i64,
}

/// In which order events are listed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AuditOrder {
    /// As they were written.
    #[default]
    Asc,
    /// Newest first.
    Desc,
}

impl FromStr for AuditOrder {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "asc" => Ok(Self::Asc),
            "desc" => Ok(Self::Desc),
            _ => Err(format!("{text:?} is no order: asc or desc")),
        }
    }
}

/// Query of `GET /v1/audit/events`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
pub struct AuditQuery {
    /// Start timestamp
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>, format = DateTime, nullable = false)]
    pub from: Option<Micros>,
    /// End timestamp; an event of that very instant is within
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>, format = DateTime, nullable = false)]
    pub to: Option<Micros>,
    /// Filter by event type
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(inline, nullable = false)]
    pub event_type: Option<AuditKind>,
    /// Filter by user
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(nullable = false)]
    pub user_id: Option<String>,
    /// Filter by resource, such as `tasks/<id>`
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(nullable = false)]
    pub resource: Option<String>,
    /// Page size, 0..=1000.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(minimum = 0, maximum = 1000, default = 100, nullable = false)]
    pub limit: Option<i64>,
    /// Matches to skip.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(minimum = 0, default = 0, nullable = false)]
    pub offset: Option<i64>,
    /// Only events behind this one in the order of the list (keyset paging: pass the last `sequence_num` of the page before).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(minimum = 0, nullable = false)]
    pub after: Option<u64>,
    /// `asc`: as they were written. `desc`: newest first.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(inline, nullable = false)]
    pub order: Option<AuditOrder>,
}

/// What a verification of the audit log found
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct VerificationResult {
    /// Whether every event is proven unchanged
    pub valid: bool,
    /// Events that the log had when the verification began
    pub total_events: u64,
    /// Events that were read
    pub checked_events: u64,
    /// Sequence number of the first event that is not proven unchanged; absent: all are
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, minimum = 1)]
    pub first_tampered: Option<u64>,
    /// Hash of the last event that verified
    pub chain_root_hash: String,
    /// When the verification ended
    #[schema(value_type = String, format = DateTime)]
    pub verified_at: Micros,
}

/// How far a verification is
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct VerificationProgress {
    /// Events that were read
    pub checked_events: u64,
    /// Events that the log had when the verification began
    pub total_events: u64,
}

/// The end of the audit log
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct ChainRoot {
    /// Hash of the last event; of a log without events the hash that the first will be chained to
    pub root_hash: String,
    /// When that was so
    #[schema(value_type = String, format = DateTime)]
    pub timestamp: Micros,
    /// Sequence number of the last event
    pub total_events: u64,
    /// Which log; the hash that the first event is chained to is made of it
    pub log_id: String,
}
