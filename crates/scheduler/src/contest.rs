//! Who goes next within one turn: of each user the best head, and of these the one with the highest
//! whole level of aged priority, then the lowest share, then the lowest key.
//!
//! Within one user the order of levels and keys is that of the keys alone, since a lower key is never
//! a lower level; so one ordered set of heads per user is enough, and a turn costs one look at each
//! user, not one at each queue.

use crate::queue::{Head, Place, Queues};
use fetchml_api::{Micros, SlotKind};
use std::{cmp::Reverse, collections::BTreeSet};

/// Lower goes first.
type Rank = (Reverse<i64>, u64, Place, u32, u32);

/// The order of heads in one pass over the queues.
#[derive(Debug)]
pub(crate) struct Contest {
    kind: SlotKind,
    now: Micros,
    aging_interval: i64,
    /// Leave out shapes that are known to fit nowhere in this state of the fleet.
    stopped_at: Option<u64>,
    ranks: BTreeSet<Rank>,
}

impl Contest {
    pub(crate) fn new(
        queues: &Queues,
        kind: SlotKind,
        now: Micros,
        aging_interval: i64,
        stopped_at: Option<u64>,
        share: impl Fn(u32) -> u64,
    ) -> Self {
        let mut contest = Self { kind, now, aging_interval, stopped_at, ranks: BTreeSet::new() };
        for user in queues.users(kind) {
            contest.enter(queues, user, None, || share(user));
        }
        contest
    }

    /// Takes the head that goes next. It is in the contest no more, and neither are its user's others
    /// until [`Contest::go_on`].
    pub(crate) fn next(&mut self, queues: &Queues) -> Option<Head> {
        while let Some((_, share, place, shape, user)) = self.ranks.pop_first() {
            let head = Head { place, shape, user };
            if self.leaves_out(queues, shape) {
                self.enter(queues, user, Some(head), || share);
            } else {
                return Some(head);
            }
        }
        None
    }

    /// Lets the user of a head, which was placed or passed over, go on with what stands behind it.
    pub(crate) fn go_on(&mut self, queues: &Queues, after: Head, share: u64) {
        self.enter(queues, after.user, Some(after), || share);
    }

    fn enter(&mut self, queues: &Queues, user: u32, after: Option<Head>, share: impl FnOnce() -> u64) {
        let next = queues.heads(self.kind, user, after).find(|&(_, shape)| !self.leaves_out(queues, shape));
        if let Some((place, shape)) = next {
            let level = self.now.0.saturating_sub(place.0).div_euclid(self.aging_interval);
            self.ranks.insert((Reverse(level), share(), place, shape, user));
        }
    }

    fn leaves_out(&self, queues: &Queues, shape: u32) -> bool {
        self.stopped_at.is_some_and(|generation| queues.is_stopped(shape, generation))
    }
}
