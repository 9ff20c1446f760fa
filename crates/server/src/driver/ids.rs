//! Task ids: UUIDv7, strictly growing, also over restarts and clock steps.

use fetchml_api::{Micros, ReservationId, TaskId};
use uuid::{Builder, Uuid};

/// Makes ids that each order after the one before.
#[derive(Debug)]
pub(super) struct TaskIds {
    millis: u64,
    counter: u16,
}

/// Values of the 12 bits after the version.
const COUNTERS: u16 = 1 << 12;

impl TaskIds {
    /// Goes on after the greatest stored id.
    pub(super) fn after(last: Option<TaskId>) -> Self {
        let Some(TaskId(id)) = last else { return Self { millis: 0, counter: 0 } };
        let bits = id.as_u128();
        Self { millis: (bits >> 80) as u64, counter: (bits >> 64) as u16 & (COUNTERS - 1) }
    }

    /// The next id at `now`, for something that is no task.
    pub(super) fn next_reservation(&mut self, now: Micros) -> ReservationId {
        ReservationId(self.next(now).0)
    }

    /// The next id at `now`. RFC 9562 section 6.2, method 1: milliseconds, a 12-bit counter, 62
    /// random bits; when the counter is used up the milliseconds run ahead of the clock.
    pub(super) fn next(&mut self, now: Micros) -> TaskId {
        let clock_millis = (now.0.max(0) / 1_000) as u64;
        if clock_millis > self.millis {
            self.millis = clock_millis;
            self.counter = 0;
        } else if self.counter + 1 < COUNTERS {
            self.counter += 1;
        } else {
            self.millis += 1;
            self.counter = 0;
        }
        let random = *Uuid::new_v4().as_bytes();
        // Bytes 2.. of the v7 tail: counter in the first 12 bits, random in the rest.
        let mut tail = [0_u8; 10];
        tail[..2].copy_from_slice(&self.counter.to_be_bytes());
        tail[2..].copy_from_slice(&random[8..]);
        TaskId(Builder::from_unix_timestamp_millis(self.millis, &tail).into_uuid())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_grow_within_a_millisecond_over_clock_steps_and_restarts() {
        let mut ids = TaskIds::after(None);
        let mut last = ids.next(Micros(1_764_000_000_000_000));
        for i in 0..10_000_i64 {
            // The clock stands still, then steps back.
            let next = ids.next(Micros(1_764_000_000_000_000 - i));
            assert!(next > last, "{next} after {last}");
            assert_eq!(next.0.get_version_num(), 7);
            last = next;
        }
        let mut restarted = TaskIds::after(Some(last));
        assert!(restarted.next(Micros(0)) > last);
    }
}
