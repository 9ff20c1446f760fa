//! Health of the server.

use crate::time::Micros;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How the server is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum HealthStatus {
    /// All well.
    Healthy,
    /// Reads work, writes do not (disk full, database busy) or soon will not (disk almost full and nothing to
    /// delete), or the audit log raised an alarm.
    Degraded,
    /// The database cannot be read, or is older than what workers and checkpoints know.
    Unhealthy,
}

impl HealthStatus {
    /// The word used in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// Answer of `/health`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct HealthResponse {
    /// How the server is.
    pub status: HealthStatus,
    /// Version of the server.
    pub version: String,
    /// The server's time.
    #[schema(value_type = String, format = DateTime)]
    pub timestamp: Micros,
    /// One sentence when the status is not `healthy`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}
