//! Verification of a log, one row at a time, in memory that does not grow with it: bodies hashed again, links, dense
//! numbers, bodies in canonical form, what is indexed beside them, and the tree at every checkpoint.

use crate::{
    chain::{Hash, event_hash, genesis_hash},
    checkpoint::Checkpoint,
    event::{AuditEvent, parse_body},
    tree::{Frontier, leaf_hash},
};
use fetchml_api::Micros;
use std::{borrow::Borrow, collections::VecDeque};

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

/// What a database has beside a body to find it by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Indexed<'a> {
    /// When it happened.
    pub at: Micros,
    /// The contract's kind.
    pub event_type: &'a str,
    /// Who.
    pub user_id: &'a str,
    /// What was acted on.
    pub resource: &'a str,
    /// Exactly what happened.
    pub action: &'a str,
    /// Whether it was done.
    pub success: bool,
}

impl<'a> Indexed<'a> {
    /// What belongs beside the body of `event`.
    pub fn of(event: &'a AuditEvent) -> Self {
        Self {
            at: event.timestamp,
            event_type: event.event_type.as_str(),
            user_id: &event.user_id,
            resource: &event.resource,
            action: &event.action,
            success: event.success,
        }
    }
}

/// What is wrong with a log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Fault {
    /// Its body or a hash is not what it was.
    #[error("the event was changed")]
    Changed,
    /// It links to its predecessor's hash, which that one does not have any more.
    #[error("the event was written anew with its hash")]
    Rewritten,
    /// It is not there.
    #[error("the event is missing")]
    Missing,
    /// Its number stands there twice.
    #[error("another event has the same number")]
    Repeated,
    /// The columns beside it say otherwise than its body.
    #[error("the event is indexed as something else than its body says")]
    Indexed,
    /// From somewhere after the last checkpoint that fits on.
    #[error("the events from here on are not those of the next checkpoint")]
    Checkpoint,
    /// There were more.
    #[error("the log was cut off here")]
    Truncated,
    /// There were not so many.
    #[error("the log goes on behind its end")]
    Overlong,
    /// It is not the log that it is said to be.
    #[error("this is another log")]
    OtherLog,
}

/// What a verification found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// Rows looked at.
    pub checked: u64,
    /// Hash of the last row that verified (the genesis when none did): compare it with a head known from elsewhere.
    pub head: Hash,
    /// The tree over the rows that verified.
    pub tree: Frontier,
    /// Size of the greatest checkpoint that fits: a signature vouches for the events up to it.
    pub proven: u64,
    /// Smallest number found changed, missing or out of place; none: the log holds.
    pub first_tampered: Option<u64>,
    /// What is wrong there.
    pub fault: Option<Fault>,
}

/// Where a verification begins.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Start {
    /// The tree over all events before.
    pub tree: Frontier,
    /// Hash of the last event before, or the genesis.
    pub head: Hash,
}

impl Start {
    /// The first event of the log `log_id`.
    pub fn genesis(log_id: &str) -> Self {
        Self { tree: Frontier::new(), head: genesis_hash(log_id) }
    }
}

/// Verifies rows as they come.
#[derive(Clone, Debug)]
pub struct Verifier {
    log_id: String,
    checked: u64,
    head: Hash,
    tree: Frontier,
    proven: u64,
    /// Checkpoints ahead, the smallest first.
    ahead: VecDeque<Checkpoint>,
    /// Number and hash of the last event, if known.
    end: Option<(u64, Hash)>,
    doubt: Option<Doubt>,
    found: Option<(u64, Fault)>,
}

/// Something is wrong, and the next row tells which number is to blame.
#[derive(Clone, Debug)]
enum Doubt {
    /// The last row that verified is not that of a checkpoint.
    Checkpoint {
        /// Its head.
        head: Hash,
        /// When it was made.
        at: Micros,
    },
    /// The row after the last that verified is at one with itself, but names another predecessor.
    Link {
        /// Its hash.
        hash: Hash,
        /// What its hash would be with the predecessor that it has.
        relinked: Hash,
    },
}

/// A row as it is looked at.
#[derive(Clone, Copy)]
struct Row<'a> {
    sequence: u64,
    body: &'a [u8],
    prev_hash: &'a Hash,
    event_hash: &'a Hash,
    indexed: Option<&'a Indexed<'a>>,
}

impl Verifier {
    /// Verifies the log `log_id` from its first row on.
    pub fn new(log_id: &str) -> Self {
        Self::from_start(log_id, Start::genesis(log_id))
    }

    /// Verifies the log `log_id` from a later row on. That the start is the log's own takes a checkpoint of its size.
    pub fn from_start(log_id: &str, start: Start) -> Self {
        Self {
            log_id: log_id.to_owned(),
            checked: 0,
            head: start.head,
            tree: start.tree,
            proven: 0,
            ahead: VecDeque::new(),
            end: None,
            doubt: None,
            found: None,
        }
    }

    /// The log has to fit these checkpoints as well, which are believed. Those below the start are not looked at.
    #[must_use]
    pub fn with_checkpoints(mut self, checkpoints: impl IntoIterator<Item = Checkpoint>) -> Self {
        self.ahead.extend(checkpoints.into_iter().filter(|checkpoint| checkpoint.size >= self.tree.size()));
        self.ahead.make_contiguous().sort_by_key(|checkpoint| checkpoint.size);
        if self.ahead.iter().any(|checkpoint| checkpoint.log_id != self.log_id) {
            self.found = Some((self.tree.size() + 1, Fault::OtherLog));
        }
        self.pass_checkpoints();
        if self.doubt.take().is_some() {
            self.found = Some((self.tree.size() + 1, Fault::OtherLog));
        }
        self
    }

    /// The log has to end with this event.
    #[must_use]
    pub const fn with_end(mut self, sequence: u64, hash: Hash) -> Self {
        self.end = Some((sequence, hash));
        self
    }

    /// The log has to fit one more checkpoint, of the size reached. Only one that is believed proves anything, and may say
    /// that earlier ones count no more.
    pub fn checkpoint(&mut self, checkpoint: &Checkpoint, is_believed: bool) {
        if let Some(replaced) = checkpoint.replaces.filter(|_| is_believed) {
            let is_void = |size: u64, at: Micros| size > replaced.kept && at <= checkpoint.at;
            self.ahead.retain(|earlier| !is_void(earlier.size, earlier.at));
            self.doubt.take_if(|doubt| matches!(doubt, Doubt::Checkpoint { at, .. } if is_void(self.tree.size(), *at)));
        }
        self.settle(None);
        if self.found.is_some() {
            return;
        }
        if checkpoint.log_id != self.log_id {
            self.found = Some((self.tree.size() + 1, Fault::OtherLog));
        } else if checkpoint.size > self.tree.size() {
            self.found = Some((self.tree.size() + 1, Fault::Missing));
        } else if !self.fits(checkpoint) {
            self.doubt = Some(Doubt::Checkpoint { head: checkpoint.head, at: checkpoint.at });
        } else if is_believed {
            self.proven = checkpoint.size;
        }
    }

    /// Size of the greatest checkpoint so far that fits and is believed.
    pub const fn proven(&self) -> u64 {
        self.proven
    }

    /// What is wrong, once it is known.
    pub const fn found(&self) -> Option<(u64, Fault)> {
        self.found
    }

    /// Number of the last row that verified.
    pub const fn size(&self) -> u64 {
        self.tree.size()
    }

    /// Takes the next row. Returns whether the log still holds.
    pub fn push(&mut self, row: &AuditRow) -> bool {
        let AuditRow { sequence, body, prev_hash, event_hash } = row;
        self.take(Row { sequence: *sequence, body, prev_hash, event_hash, indexed: None })
    }

    /// Takes the next row with what is indexed beside it. Returns whether the log still holds.
    pub fn push_indexed(&mut self, row: &AuditRow, indexed: &Indexed<'_>) -> bool {
        let AuditRow { sequence, body, prev_hash, event_hash } = row;
        self.take(Row { sequence: *sequence, body, prev_hash, event_hash, indexed: Some(indexed) })
    }

    fn take(&mut self, row: Row<'_>) -> bool {
        self.checked += 1;
        self.settle(Some(row.prev_hash));
        if self.found.is_some() {
            return false;
        }
        let leaf = leaf_hash(row.body);
        match self.look(row, &leaf) {
            Ok(()) => {
                self.head = *row.event_hash;
                self.tree.push(leaf);
                self.pass_checkpoints();
            }
            Err(Look::Found(number, fault)) => self.found = Some((number, fault)),
            Err(Look::Doubt(doubt)) => self.doubt = Some(doubt),
        }
        self.found.is_none() && self.doubt.is_none()
    }

    /// What was found.
    pub fn finish(mut self) -> Verdict {
        self.settle(None);
        let size = self.tree.size();
        if self.found.is_none() {
            self.found = match self.end {
                _ if !self.ahead.is_empty() => Some((size + 1, Fault::Truncated)),
                Some((end, _)) if end > size => Some((size + 1, Fault::Truncated)),
                Some((end, _)) if end < size => Some((end + 1, Fault::Overlong)),
                Some((end, hash)) if hash != self.head => Some((end.max(1), Fault::Rewritten)),
                _ => None,
            };
        }
        let (first_tampered, fault) = self.found.unzip();
        Verdict { checked: self.checked, head: self.head, tree: self.tree, proven: self.proven, first_tampered, fault }
    }

    /// Compares the log with the checkpoints of the size that it has now.
    fn pass_checkpoints(&mut self) {
        while self.doubt.is_none()
            && let Some(checkpoint) = self.ahead.pop_front_if(|checkpoint| checkpoint.size == self.tree.size())
        {
            if self.fits(&checkpoint) {
                self.proven = checkpoint.size;
            } else {
                self.doubt = Some(Doubt::Checkpoint { head: checkpoint.head, at: checkpoint.at });
            }
        }
    }

    fn fits(&self, checkpoint: &Checkpoint) -> bool {
        (checkpoint.size, checkpoint.head) == (self.tree.size(), self.head) && checkpoint.root == self.tree.root()
    }

    /// Decides what was in doubt, by the hash which the next row names, or by what is known of the end.
    fn settle(&mut self, next_prev: Option<&Hash>) {
        let size = self.tree.size();
        self.found = match self.doubt.take() {
            None => return,
            // All after it is as it was: this one was changed, and its hash with it.
            Some(Doubt::Checkpoint { head, .. }) if next_prev == Some(&head) && head != self.head => {
                Some((size, Fault::Rewritten))
            }
            Some(Doubt::Checkpoint { .. }) => Some((self.proven + 1, Fault::Checkpoint)),
            Some(Doubt::Link { hash, relinked }) => {
                let of_end = self.end.filter(|(end, _)| *end == size + 1).map(|(_, hash)| hash);
                let of_checkpoint = self.ahead.front().filter(|c| c.size == size + 1).map(|c| c.head);
                let known = next_prev.copied().or(of_checkpoint).or(of_end);
                let own_fault = self.proven == size || (known == Some(relinked) && known != Some(hash));
                Some(if own_fault { (size + 1, Fault::Changed) } else { (size, Fault::Rewritten) })
            }
        };
    }

    /// What is wrong with `row` as the next of this log.
    fn look(&self, row: Row<'_>, leaf: &Hash) -> Result<(), Look> {
        let verified = self.tree.size();
        let expected = verified + 1;
        let own_hash = event_hash(row.sequence, row.prev_hash, leaf);
        let is_whole = own_hash == *row.event_hash;
        if row.sequence != expected {
            return Err(match row.sequence {
                // One of the two is one too many. A row not at one with itself was given the number afterwards.
                again if again == verified && again > 0 && is_whole => Look::Found(again, Fault::Repeated),
                later if later > expected => Look::Found(expected, Fault::Missing),
                _ => Look::Found(expected, Fault::Changed),
            });
        }
        if !is_whole {
            return Err(Look::Found(expected, Fault::Changed));
        }
        if *row.prev_hash != self.head {
            if verified == 0 {
                return Err(Look::Found(expected, Fault::OtherLog));
            }
            let relinked = event_hash(row.sequence, &self.head, leaf);
            return Err(Look::Doubt(Doubt::Link { hash: own_hash, relinked }));
        }
        let event = parse_body(row.body).map_err(|_| Look::Found(expected, Fault::Changed))?;
        if event.sequence_num != row.sequence {
            return Err(Look::Found(expected, Fault::Changed));
        }
        if row.indexed.is_some_and(|indexed| *indexed != Indexed::of(&event)) {
            return Err(Look::Found(expected, Fault::Indexed));
        }
        Ok(())
    }
}

/// What is wrong with a row.
enum Look {
    Found(u64, Fault),
    Doubt(Doubt),
}

/// Verifies a whole log without checkpoints.
pub fn verify<R: Borrow<AuditRow>>(log_id: &str, rows: impl IntoIterator<Item = R>) -> Verdict {
    let mut verifier = Verifier::new(log_id);
    for row in rows {
        verifier.push(row.borrow());
    }
    verifier.finish()
}
