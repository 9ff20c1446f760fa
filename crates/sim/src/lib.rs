//! A lab in one thread: the real scheduling core, with a server, its database, the links, the agents,
//! the shims and the machines around it as small models, all driven by one seed. Faults strike at
//! random; after every step the promises are checked; in the end the faults stop and everything must
//! drain. The same plan gives the same run to the last event.
//!
//! Architecture Invariant: no clock, no I/O, no threads, no hash order. What happens is decided by the
//! plan alone.

mod agent;
mod bug;
mod check;
mod client;
mod database;
mod fault;
mod host;
mod link;
mod minimise;
mod mischief;
mod plan;
mod server;
mod wire;
mod world;

pub use bug::Bug;
pub use fault::Fault;
pub use minimise::minimise;
pub use plan::{Plan, Size};
pub use world::{Report, run, run_watched};

/// Microseconds.
pub(crate) type Time = i64;

pub(crate) const MS: Time = 1_000;
pub(crate) const SECOND: Time = 1_000 * MS;
pub(crate) const MINUTE: Time = 60 * SECOND;

/// Wall clock at the beginning of every run: 2026-01-01T00:00:00Z.
pub(crate) const EPOCH: Time = 1_767_225_600 * SECOND;

/// A promise that was broken, in one sentence.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation(pub String);

/// Fails with a sentence unless the condition holds.
macro_rules! promise {
    ($condition:expr, $($said:tt)+) => {
        if !$condition {
            return Err($crate::Violation(format!($($said)+)));
        }
    };
}
pub(crate) use promise;
