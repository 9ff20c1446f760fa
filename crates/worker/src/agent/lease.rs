//! The lease on this worker's attempts: how long they may run without the server. It counts BOOTTIME
//! from the SENDING of the last acknowledged beat, so the worker's end of it is never later than the
//! server's.

use crate::{agent::clock, shim::LeaseMark};
use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

#[derive(Debug, Default)]
struct State {
    /// When the last acknowledged beat was sent; 0: none is known.
    acked_ms: u64,
    lost_after_s: u32,
    /// When the oldest unanswered beat was sent; 0: none waits.
    waiting_ms: u64,
    last_sent_ms: u64,
}

/// Shared by the link, which feeds it, and the core, which obeys it.
#[derive(Debug)]
pub(crate) struct Lease {
    state: Mutex<State>,
}

impl Lease {
    /// Goes on from what an earlier agent remembered.
    pub(crate) fn new(acked_ms: u64, lost_after_s: u32) -> Self {
        Self { state: Mutex::new(State { acked_ms, lost_after_s, ..State::default() }) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A session began: its hello counts as a beat.
    pub(crate) fn began(&self, hello_ms: u64, lost_after_s: u32) {
        let mut state = self.state();
        *state = State { acked_ms: hello_ms.max(state.acked_ms), lost_after_s, waiting_ms: 0, last_sent_ms: hello_ms };
    }

    pub(crate) fn beat_sent(&self, sent_ms: u64) {
        let mut state = self.state();
        state.last_sent_ms = sent_ms;
        if state.waiting_ms == 0 {
            state.waiting_ms = sent_ms;
        }
    }

    /// Whether this renewed the lease.
    pub(crate) fn beat_acked(&self, sent_ms: u64) -> bool {
        let mut state = self.state();
        // Only what was sent can be answered: an echo from the future must not extend the lease.
        if sent_ms > state.last_sent_ms || sent_ms <= state.acked_ms {
            return false;
        }
        state.acked_ms = sent_ms;
        state.waiting_ms = if sent_ms == state.last_sent_ms { 0 } else { state.last_sent_ms };
        true
    }

    /// How long the oldest unanswered beat has waited.
    pub(crate) fn beat_unanswered_for(&self) -> Option<Duration> {
        let waiting_ms = self.state().waiting_ms;
        (waiting_ms != 0).then(|| Duration::from_millis(clock::boottime_ms().saturating_sub(waiting_ms)))
    }

    /// What to remember over a restart of the agent: time of the beat and length of the lease.
    pub(crate) fn mark(&self) -> (u64, u32) {
        let state = self.state();
        (state.acked_ms, state.lost_after_s)
    }

    /// The grace left to an attempt that must end now because the lease runs out, seconds; `None` while
    /// it need not. `own_s` is its own lease.
    pub(crate) fn must_stop(&self, own_s: Option<u32>, grace_s: u32) -> Option<u32> {
        let (sent_ms, lost_after_s) = self.mark();
        let mark = LeaseMark { boot_id: String::new(), sent_ms, lost_after_s };
        let (term_at_ms, kill_at_ms) = mark.stop_times(own_s, grace_s)?;
        let now_ms = clock::boottime_ms();
        (now_ms >= term_at_ms).then(|| (kill_at_ms.saturating_sub(now_ms) / 1_000) as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_answer_to_what_was_sent_renews() {
        let lease = Lease::new(0, 0);
        assert_eq!(lease.must_stop(None, 0), None);
        lease.began(10, 600);
        lease.beat_sent(20);
        lease.beat_sent(30);
        assert!(!lease.beat_acked(31));
        assert!(lease.beat_acked(20));
        assert!(lease.beat_unanswered_for().is_some());
        assert!(!lease.beat_acked(20));
        assert!(lease.beat_acked(30));
        assert_eq!(lease.beat_unanswered_for(), None);
        assert_eq!(lease.mark(), (30, 600));
    }
}
