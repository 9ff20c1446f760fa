//! Files a task leaves behind.

use crate::ids::AttemptId;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One file from the output directory.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, ToSchema)]
pub struct Artifact {
    /// Path below the output directory, `/` between parts, never absolute, never with `..`.
    pub path: String,
    /// Size, bytes.
    pub size_bytes: u64,
    /// SHA-256 of the bytes, lower-case hex.
    pub sha256: String,
}

/// The artifacts of one attempt.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct ArtifactList {
    /// The attempt they belong to: the task's latest that left any, unless asked otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt_id: Option<AttemptId>,
    /// Ordered by path.
    pub artifacts: Vec<Artifact>,
}
