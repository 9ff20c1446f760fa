//! The hash chain: each event's hash covers its number, its body and the hash before it.

use crate::{event::body_of, tree::leaf_hash};
use fetchml_api::AuditDraft;
use sha2::{Digest, Sha256};

/// A SHA-256.
pub type Hash = [u8; 32];

const EVENT_PREFIX: &[u8] = b"fetchml/audit/v1\n";
const GENESIS_PREFIX: &[u8] = b"fetchml/audit/genesis/v1\n";

/// The `prev_hash` of the first event of a log.
pub fn genesis_hash(log_id: &str) -> Hash {
    Sha256::new().chain_update(GENESIS_PREFIX).chain_update(log_id).finalize().into()
}

/// The hash of an event: of its number, the hash before it, and its leaf in the tree.
pub fn event_hash(sequence: u64, prev_hash: &Hash, leaf: &Hash) -> Hash {
    Sha256::new()
        .chain_update(EVENT_PREFIX)
        .chain_update(sequence.to_be_bytes())
        .chain_update(prev_hash)
        .chain_update(leaf)
        .finalize()
        .into()
}

/// The end of a log: where the next event goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Chain {
    /// The log.
    pub log_id: String,
    /// Number of the last event; 0: none yet.
    pub sequence: u64,
    /// Hash of the last event, or of the genesis.
    pub head: Hash,
}

/// An event with its place in the chain, ready to be stored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sealed {
    /// Position, from 1.
    pub sequence: u64,
    /// The exact bytes that were hashed.
    pub body: Vec<u8>,
    /// Hash of the event before.
    pub prev_hash: Hash,
    /// Hash of this event.
    pub event_hash: Hash,
    /// Its leaf in the tree.
    pub leaf: Hash,
}

impl Chain {
    /// The empty log `log_id`.
    pub fn new(log_id: impl Into<String>) -> Self {
        let log_id = log_id.into();
        Self { head: genesis_hash(&log_id), sequence: 0, log_id }
    }

    /// Numbers and chains an event. The chain moves on at once: work on a clone until the event is durable.
    ///
    /// # Panics
    /// At 2^53 events.
    pub fn append(&mut self, draft: &AuditDraft) -> Sealed {
        let sequence = self.sequence + 1;
        let body = body_of(draft, sequence);
        let prev_hash = self.head;
        let leaf = leaf_hash(&body);
        let event_hash = event_hash(sequence, &prev_hash, &leaf);
        self.sequence = sequence;
        self.head = event_hash;
        Sealed { sequence, body, prev_hash, event_hash, leaf }
    }
}
