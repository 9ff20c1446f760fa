//! The audit log's bytes: what an event looks like when it is hashed, how events are chained, and how
//! a chain is verified. Pure functions over bytes: no I/O, no clock, no database.
//!
//! `event_hash = SHA256("fetchml/audit/v1\n" || u64be(sequence) || prev_hash || SHA256(0x00 || body))`; the first
//! `prev_hash` is `SHA256("fetchml/audit/genesis/v1\n" || log_id)`. What is stored is the body itself, never columns
//! from which it would have to be built again.
//!
//! A chain alone cannot show that its newest events were cut off, or that a whole suffix was written anew:
//! that takes a checkpoint which the attacker cannot rewrite.

mod chain;
mod event;
mod replay;
mod verify;

pub use chain::{Chain, Hash, Sealed, genesis_hash};
pub use event::{AuditEvent, BodyError, parse_body};
pub use replay::{Replay, ReplayError, ReplayedTask};
pub use verify::{AuditRow, Verdict, Verifier, verify};
