//! Logical time: at boot the later of wall clock and last stored time, then the monotonic clock.

use fetchml_api::Micros;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// A clock that never goes back, not even over a restart.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    base: Micros,
    started: Instant,
}

impl Clock {
    /// Starts at the later of the wall clock and `stored`.
    pub(super) fn start(stored: Micros) -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as i64);
        Self { base: Micros(wall.max(stored.0)), started: Instant::now() }
    }

    /// The logical time, microseconds UTC.
    pub(super) fn now(&self) -> Micros {
        Micros(self.base.0.saturating_add(self.started.elapsed().as_micros() as i64))
    }

    /// The instant at which logical time reaches `at`.
    pub(super) fn instant_of(&self, at: Micros) -> Instant {
        let ahead = at.since(self.base).max(0) as u64;
        // A deadline beyond what `Instant` holds is as good as a day.
        self.started
            .checked_add(std::time::Duration::from_micros(ahead))
            .unwrap_or_else(|| Instant::now() + std::time::Duration::from_hours(24))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn does_not_go_behind_what_is_stored() {
        let future = Micros(i64::MAX / 4);
        let clock = Clock::start(future);
        let first = clock.now();
        assert!(first >= future);
        assert!(clock.now() >= first);
        assert!(clock.instant_of(first.plus_seconds(1)) > Instant::now());
    }
}
