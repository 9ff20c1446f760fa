//! Reservations: GPUs that are set aside for one task to come.

use crate::{
    error::Problem,
    ids::{ReservationId, TaskId, WorkerId},
    limits,
    time::Micros,
    validate::{Fields, Read},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// Where a reservation stands: `active -> claimed -> expired`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ReservationStatus {
    /// Its GPUs are collected or wait for a task.
    Active,
    /// A task has them, until it ends.
    Claimed,
    /// Nobody has them any more: the time is over, it was released, or its task has ended.
    Expired,
}

impl ReservationStatus {
    /// Its name in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Claimed => "claimed",
            Self::Expired => "expired",
        }
    }
}

/// Devices of one worker that are set aside for one node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Earmark {
    /// The worker.
    pub worker_id: WorkerId,
    /// Devices by index. What another task still uses becomes the reservation's when that task ends.
    pub gpus: Vec<u32>,
}

/// A reservation as it is kept.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ReservationRecord {
    /// The reservation.
    pub id: ReservationId,
    /// Whose.
    pub user_id: String,
    /// GPUs per node.
    pub gpu_count: u32,
    /// Token that the device names must hold, any case.
    pub gpu_type: Option<String>,
    /// Nodes.
    pub node_count: u32,
    /// How long it waits for a task once all GPUs are held.
    pub expires_minutes: u32,
    /// Where it stands.
    pub status: ReservationStatus,
    /// The task that claimed it.
    pub task_id: Option<TaskId>,
    /// GPUs that nobody else uses any more.
    pub gpus_held: u32,
    /// What is set aside, at most one entry for each node.
    pub earmarks: Vec<Earmark>,
    /// When it was made.
    pub created_at: Micros,
    /// Until when it waits for a task; none before all GPUs are held.
    pub expires_at: Option<Micros>,
    /// When it expired.
    pub ended_at: Option<Micros>,
}

impl ReservationRecord {
    /// GPUs of all nodes together.
    pub const fn gpus(&self) -> u32 {
        self.gpu_count.saturating_mul(self.node_count)
    }
}

/// GPUs that are set aside for one task
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Reservation {
    /// The reservation
    pub id: ReservationId,
    /// Who made it
    pub user_id: String,
    /// GPUs on each node
    pub gpu_count: i32,
    /// What the name of each GPU holds; absent: any
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub gpu_type: Option<String>,
    /// Nodes, each on a worker of its own
    pub node_count: i32,
    /// GPUs that are set aside and that nobody else uses any more; the others are collected as they become free
    pub gpus_held: i32,
    /// Minutes from when all GPUs are held, after which it expires if no task has claimed it
    pub expires_minutes: i32,
    /// When it expires if no task claims it; absent until all GPUs are held
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime, nullable = false)]
    pub expires_at: Option<Micros>,
    /// When it was made
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Micros,
    /// The task that claimed it
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, nullable = false)]
    pub task_id: Option<TaskId>,
    /// `active`: claimed by no task so far; `claimed`: one task's, until it ends; `expired`
    pub status: ReservationStatus,
    /// Unknown fields of the request, which were ignored
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

impl From<&ReservationRecord> for Reservation {
    fn from(record: &ReservationRecord) -> Self {
        let number = |n: u32| i32::try_from(n).unwrap_or(i32::MAX);
        Self {
            id: record.id,
            user_id: record.user_id.clone(),
            gpu_count: number(record.gpu_count),
            gpu_type: record.gpu_type.clone(),
            node_count: number(record.node_count),
            gpus_held: number(record.gpus_held),
            expires_minutes: number(record.expires_minutes),
            expires_at: record.expires_at,
            created_at: record.created_at,
            task_id: record.task_id,
            status: record.status,
            warnings: Vec::new(),
        }
    }
}

/// Which GPUs to set aside
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct CreateReservationRequest {
    /// GPUs on each node
    #[schema(minimum = 1, maximum = 64)]
    pub gpu_count: i32,
    /// What the name of each GPU must hold as whole words, any case; absent: any
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub gpu_type: Option<String>,
    /// Nodes, each on a worker of its own
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 4096, default = 1, nullable = false)]
    pub node_count: Option<i32>,
    /// How long it waits for a task once all GPUs are held
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 10080, default = 30, nullable = false)]
    pub expires_minutes: Option<i32>,
}

/// Minutes that a reservation waits for a task unless it says otherwise.
pub const EXPIRES_MINUTES_DEFAULT: i32 = 30;

const FIELDS: &[&str] = &["gpu_count", "gpu_type", "node_count", "expires_minutes"];

/// Reads a [`CreateReservationRequest`]. With `strict`, unknown fields are problems.
///
/// # Errors
/// Every problem of the body.
pub fn read_reservation(body: Value, strict: bool) -> Result<Read<CreateReservationRequest>, Vec<Problem>> {
    let mut fields = Fields::new(body)?;
    let request = CreateReservationRequest {
        gpu_count: fields.required("gpu_count", |f, name| f.int(name, 1, limits::GPU_MAX).map(|n| n as i32)),
        gpu_type: fields.text("gpu_type", limits::GPU_TYPE_CHARS),
        node_count: fields.int("node_count", 1, limits::NODE_COUNT_MAX).map(|n| n as i32),
        expires_minutes: fields.int("expires_minutes", 1, limits::RESERVATION_MINUTES_MAX).map(|n| n as i32),
    };
    if request.gpu_type.as_ref().is_some_and(|name| !name.chars().any(char::is_alphanumeric)) {
        fields.problem("gpu_type", "names no GPU; leave it out for any");
    }
    fields.finish(request, strict, &[FIELDS])
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_problem_of_a_request_is_told_at_once() {
        let body = json!({"gpu_count": 0, "gpu_type": " - ", "node_count": -1, "expires_minutes": 10_081});
        let problems = read_reservation(body, false).unwrap_err();
        let named: Vec<&str> = problems.iter().map(|problem| problem.field.as_str()).collect();
        assert_eq!(named, ["gpu_count", "node_count", "expires_minutes", "gpu_type"]);
        let none = read_reservation(json!({}), false).unwrap_err();
        assert_eq!((none[0].field.as_str(), none[0].problem.as_str()), ("gpu_count", "is required"));
        let huge = read_reservation(json!({"gpu_count": u64::MAX, "node_count": 1e3}), true).unwrap_err();
        assert_eq!(huge.len(), 2);
        let slip = read_reservation(json!({"gpu_count": 1, "gpu_typ": "H100"}), true).unwrap_err();
        assert!(slip[0].problem.contains("gpu_type"), "{slip:?}");
    }
}
