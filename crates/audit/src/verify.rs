//! Verification of a chain, one row at a time, in memory that does not grow with the log.

use crate::{
    chain::{Hash, event_hash, genesis_hash},
    event::parse_body,
};
use std::borrow::Borrow;

/// A row of the audit log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AuditRow {
    /// Position, from 1.
    pub sequence: u64,
    /// The exact canonical bytes that were hashed.
    pub body: Vec<u8>,
    /// Hash of the event before.
    pub prev_hash: Hash,
    /// Hash of this event.
    pub event_hash: Hash,
}

/// What a verification found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// Rows looked at.
    pub checked: u64,
    /// Hash of the last row that verified (the genesis when none did): compare it with a head known from elsewhere.
    pub head: Hash,
    /// Smallest number found changed, missing or out of place; none: the chain holds.
    pub first_tampered: Option<u64>,
}

/// Verifies rows as they come.
#[derive(Clone, Debug)]
pub struct Verifier {
    checked: u64,
    verified: u64,
    head: Hash,
    first_tampered: Option<u64>,
}

impl Verifier {
    /// Verifies the log `log_id` from its first row on.
    pub fn new(log_id: &str) -> Self {
        Self { checked: 0, verified: 0, head: genesis_hash(log_id), first_tampered: None }
    }

    /// Takes the next row. Returns whether the chain still holds.
    pub fn push(&mut self, row: &AuditRow) -> bool {
        self.checked += 1;
        if self.first_tampered.is_some() {
            return false;
        }
        self.first_tampered = self.fault(row);
        if self.first_tampered.is_none() {
            self.verified = row.sequence;
            self.head = row.event_hash;
        }
        self.first_tampered.is_none()
    }

    /// What was found.
    pub fn finish(self) -> Verdict {
        Verdict { checked: self.checked, head: self.head, first_tampered: self.first_tampered }
    }

    /// The number to blame when `row` is not the next of this chain.
    fn fault(&self, row: &AuditRow) -> Option<u64> {
        let expected = self.verified + 1;
        if row.sequence != expected {
            // Greater: the expected one is missing. Smaller: that number stands there twice.
            return Some(row.sequence.clamp(1, expected));
        }
        let own_hash = event_hash(row.sequence, &row.prev_hash, &row.body);
        if row.prev_hash != self.head {
            // A row at one with itself names another predecessor: then that one was rewritten with its hash.
            return Some(if own_hash == row.event_hash { self.verified.max(1) } else { expected });
        }
        let body_fits = || parse_body(&row.body).is_ok_and(|event| event.sequence_num == row.sequence);
        (own_hash != row.event_hash || !body_fits()).then_some(expected)
    }
}

/// Verifies a whole log: bodies hashed again, links, dense numbers, bodies in canonical form.
pub fn verify<R: Borrow<AuditRow>>(log_id: &str, rows: impl IntoIterator<Item = R>) -> Verdict {
    let mut verifier = Verifier::new(log_id);
    for row in rows {
        verifier.push(row.borrow());
    }
    verifier.finish()
}
