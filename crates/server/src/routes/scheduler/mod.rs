//! `/v1/scheduler`: what the scheduler decides and shows.

pub(super) mod priority;
pub(super) mod reservations;
pub(super) mod status;
pub(super) mod stream;
pub(super) mod workers;
