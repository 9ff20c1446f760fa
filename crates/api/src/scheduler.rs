//! The scheduler's state as the API shows it.

use crate::time::Micros;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Queue depths, workers and what runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct SchedulerStatus {
    /// Workers known, those included that went away less than a day ago
    pub workers_total: i64,
    /// Workers connected and taking work
    pub workers_active: i64,
    /// Workers finishing what they have
    pub workers_draining: i64,
    /// Tasks that wait for a batch slot
    pub batch_queue_depth: i64,
    /// Services that wait for a service slot
    pub service_queue_depth: i64,
    /// Tasks preparing, running or collecting
    pub tasks_running: i64,
    /// Tasks completed in the last 24 hours, counted by whole minutes
    pub tasks_completed_24h: i64,
    /// Reservations that are active or claimed
    pub reservations_active: i64,
    /// When this was so
    #[schema(value_type = String, format = DateTime)]
    pub timestamp: Micros,
}
