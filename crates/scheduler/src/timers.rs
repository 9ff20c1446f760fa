//! Instants at which something happens though nobody speaks.

use fetchml_api::{AttemptId, Micros, ReservationId, TaskId, WorkerId};
use std::collections::BTreeSet;

/// What an instant is for. Equal instants fire in this order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Timer {
    /// A task's backoff is over.
    BackoffEnds(TaskId),
    /// A worker has been silent too long for new work.
    WorkerSilent(WorkerId),
    /// A worker has been silent too long for what it holds.
    LeaseEnds(WorkerId),
    /// An attempt assigned ahead has waited too long.
    PatienceEnds(AttemptId),
    /// The nodes of a gang must be ready.
    PrepareEnds(AttemptId),
    /// A reservation was claimed by no task in time, or not collected.
    ReservationEnds(ReservationId),
}

/// All set timers. Who sets one remembers its instant.
#[derive(Debug, Default)]
pub(crate) struct Timers(BTreeSet<(Micros, Timer)>);

impl Timers {
    /// Moves a timer; `None` is unset.
    pub(crate) fn set(&mut self, timer: Timer, from: Option<Micros>, to: Option<Micros>) {
        if from == to {
            return;
        }
        if let Some(at) = from {
            self.0.remove(&(at, timer));
        }
        if let Some(at) = to {
            self.0.insert((at, timer));
        }
    }

    pub(crate) fn contains(&self, timer: Timer, at: Micros) -> bool {
        self.0.contains(&(at, timer))
    }

    pub(crate) fn next(&self) -> Option<Micros> {
        self.0.first().map(|&(at, _)| at)
    }

    /// Takes the first timer whose instant has come.
    pub(crate) fn take_due(&mut self, now: Micros) -> Option<Timer> {
        if self.next()? > now {
            return None;
        }
        self.0.pop_first().map(|(_, timer)| timer)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Micros, Timer)> {
        self.0.iter().copied()
    }
}
