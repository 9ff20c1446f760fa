//! The audit log's bytes: what an event looks like when it is hashed, how events are chained, the tree over them,
//! signed checkpoints of it, exports, and how all of this is verified. Pure functions over bytes: no I/O, no clock, no
//! randomness, no database.
//!
//! `event_hash = SHA256("fetchml/audit/v1\n" || u64be(sequence) || prev_hash || SHA256(0x00 || body))`; the first
//! `prev_hash` is `SHA256("fetchml/audit/genesis/v1\n" || log_id)`. What is stored is the body itself, never columns
//! from which it would have to be built again. `SHA256(0x00 || body)` is also the event's leaf in a Merkle tree of RFC
//! 6962, whose root is what checkpoints sign.
//!
//! A chain alone cannot show that its newest events were cut off, or that a whole suffix was written anew:
//! that takes a checkpoint which the attacker cannot rewrite.

mod chain;
mod checkpoint;
mod event;
mod export;
pub mod limits;
mod note;
mod offline;
mod proof;
mod tree;
mod verify;

pub use chain::{Chain, Hash, Sealed, event_hash, genesis_hash};
pub use checkpoint::{Checkpoint, CheckpointError, Replaced, TrustedKeys, origin, standing};
pub use event::{AuditEvent, BodyError, parse_body};
pub use export::{ExportError, checkpoint_line, event_line, header_line};
pub use note::{Note, NoteError, SigningKey, VerifierKey};
pub use offline::{ExportVerifier, Problem, Report};
pub use proof::{Plan, subtree_root, verify_consistency, verify_inclusion};
pub use tree::{Frontier, Subtree, leaf_hash, node_hash};
pub use verify::{AuditRow, Fault, Indexed, Start, Verdict, Verifier, verify};
