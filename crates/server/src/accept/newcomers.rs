//! Connections that have not said yet what they want. They are few, and when there are too many
//! those that have been silent for longest make room: nobody keeps others out by saying nothing.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// All newcomers of a listener.
pub(super) struct Newcomers {
    max: usize,
    silence: Duration,
    waiting: Mutex<Waiting>,
    left: Notify,
}

#[derive(Default)]
struct Waiting {
    next: u64,
    /// By number, so the one that has waited longest is first.
    newcomers: BTreeMap<u64, (Instant, CancellationToken)>,
}

/// One of them; it is none any more when this is dropped.
pub(super) struct Newcomer {
    arrival: Arrival,
    cut: CancellationToken,
}

/// Notes that a newcomer has said what it wants.
#[derive(Clone)]
pub(super) struct Arrival {
    all: Arc<Newcomers>,
    number: u64,
}

impl Newcomers {
    pub(super) fn new(max: usize, silence: Duration) -> Arc<Self> {
        Arc::new(Self { max, silence, waiting: Mutex::default(), left: Notify::new() })
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().expect("no code panics while it holds this")
    }

    /// Takes one more, as soon as one of the others has arrived or been silent for too long.
    pub(super) async fn enter(self: &Arc<Self>) -> Newcomer {
        loop {
            let patience = match self.take_at(Instant::now()) {
                Ok(newcomer) => return newcomer,
                Err(patience) => patience,
            };
            tokio::select! {
                () = self.left.notified() => {}
                () = tokio::time::sleep(patience) => {}
            }
        }
    }

    /// How long to wait, if there is no room.
    fn take_at(self: &Arc<Self>, now: Instant) -> Result<Newcomer, Duration> {
        let mut waiting = self.waiting();
        if waiting.newcomers.len() >= self.max {
            let first = waiting.newcomers.first_entry().expect("the limit is not 0");
            let patience = self.silence.saturating_sub(now.saturating_duration_since(first.get().0));
            if !patience.is_zero() {
                return Err(patience);
            }
            first.remove().1.cancel();
        }
        let (number, cut) = (waiting.next, CancellationToken::new());
        waiting.next += 1;
        waiting.newcomers.insert(number, (now, cut.clone()));
        Ok(Newcomer { arrival: Arrival { all: Arc::clone(self), number }, cut })
    }
}

impl Newcomer {
    /// Resolves when it has to make room for another.
    pub(super) async fn cut_off(&self) {
        self.cut.cancelled().await;
    }

    pub(super) fn arrival(&self) -> Arrival {
        self.arrival.clone()
    }
}

impl Drop for Newcomer {
    fn drop(&mut self) {
        self.arrival.note();
    }
}

impl Arrival {
    /// It is no newcomer any more. Repeating it is harmless.
    pub(super) fn note(&self) {
        if self.all.waiting().newcomers.remove(&self.number).is_some() {
            self.all.left.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SILENCE: Duration = Duration::from_secs(2);

    #[test]
    fn the_longest_silent_makes_room_and_no_other() {
        let all = Newcomers::new(2, SILENCE);
        let start = Instant::now();
        let first = all.take_at(start).ok().unwrap();
        let second = all.take_at(start + SILENCE / 2).ok().unwrap();
        assert_eq!(all.take_at(start + SILENCE / 2).err(), Some(SILENCE / 2), "nobody has been silent for long");
        let _third = all.take_at(start + SILENCE).ok().unwrap();
        assert!(first.cut.is_cancelled() && !second.cut.is_cancelled());
        drop(first);
        assert_eq!(all.take_at(start + SILENCE).err(), Some(SILENCE / 2), "its place was given away before");
    }

    #[tokio::test]
    async fn one_that_says_what_it_wants_is_none_any_more() {
        let all = Newcomers::new(1, Duration::from_hours(1));
        let first = all.enter().await;
        let waiting = tokio::spawn({
            let all = Arc::clone(&all);
            async move { all.enter().await }
        });
        first.arrival().note();
        let second = waiting.await.unwrap();
        drop(first);
        assert_eq!(all.waiting().newcomers.len(), 1, "the second's place is not given away by the first");
        assert!(!second.cut.is_cancelled());
    }
}
