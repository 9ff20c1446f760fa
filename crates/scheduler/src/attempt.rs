//! One try of a task on a worker, as the core keeps it until it is over.

use fetchml_api::{AttemptEpoch, AttemptId, AttemptRecord, Micros};
use uuid::Uuid;

/// An attempt that is not over: the current one of its task.
#[derive(Debug)]
pub(crate) struct Attempt {
    pub(crate) record: AttemptRecord,
    pub(crate) holding: Holding,
    /// When it left its last checkpoint.
    pub(crate) checkpoint_at: Option<Micros>,
}

impl Attempt {
    pub(crate) const fn new(record: AttemptRecord, holding: Holding) -> Self {
        Self { record, holding, checkpoint_at: None }
    }
}

/// What an attempt holds of its worker. Volatile: a restart derives it from phases and epochs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Holding {
    /// Assigned ahead: nothing yet.
    Ahead {
        /// When it is asked back.
        patience_ends: Micros,
    },
    /// Slot, cores, memory and devices.
    Room {
        /// Since when.
        since: Micros,
    },
    /// Nothing any more: its processes are dead.
    Nothing,
}

/// The id of the attempt with this epoch. Has the form of a UUIDv7, its random bits being the epoch:
/// 26 bits of the incarnation and 48 of the counter, so no two attempts of a server share an id.
pub(crate) fn attempt_id(now: Micros, epoch: AttemptEpoch) -> AttemptId {
    let milliseconds = u128::from((now.0.max(0) / 1_000).unsigned_abs()) & ((1 << 48) - 1);
    let epoch = (u128::from(epoch.incarnation) & ((1 << 26) - 1)) << 48 | (u128::from(epoch.n) & ((1 << 48) - 1));
    let (high, low) = (epoch >> 62, epoch & ((1 << 62) - 1));
    AttemptId(Uuid::from_u128(milliseconds << 80 | 0x7 << 76 | high << 64 | 0b10 << 62 | low))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_uuid_v7_and_distinct() {
        let now = Micros(1_764_000_000_000_000);
        let of = |incarnation, n| attempt_id(now, AttemptEpoch { incarnation, n });
        let ids = [of(1, 1), of(1, 2), of(2, 1), of(2, (1 << 48) - 1), of((1 << 26) - 1, 1), of(1, 1 << 20)];
        for (i, id) in ids.iter().enumerate() {
            assert_eq!(id.0.get_version_num(), 7);
            assert_eq!(id.0.get_variant(), uuid::Variant::RFC4122);
            assert_eq!(id.0.get_timestamp().map(|t| t.to_unix().0), Some(1_764_000_000));
            assert!(!ids[..i].contains(id));
        }
    }
}
