//! Keeps a collection out of everybody's way, and ends it when the server stops.

use crate::limits;
use std::time::Instant;
use tokio_util::sync::CancellationToken;

/// The collection is to end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Stopped;

/// Works half of the time.
#[derive(Debug)]
pub(super) struct Pace {
    stop: CancellationToken,
    began: Instant,
    /// Steps until it stops by itself.
    #[cfg(test)]
    steps_left: Option<u32>,
}

impl Pace {
    /// Goes on until `stop`.
    pub(super) fn until(stop: CancellationToken) -> Self {
        Self {
            stop,
            began: Instant::now(),
            #[cfg(test)]
            steps_left: None,
        }
    }

    /// Stops before the step after so many.
    #[cfg(test)]
    pub(super) fn of_steps(steps: u32) -> Self {
        Self { steps_left: Some(steps), ..Self::until(CancellationToken::new()) }
    }

    /// Between two small pieces of work: pauses as long as the last ones took.
    pub(super) async fn step(&mut self) -> Result<(), Stopped> {
        #[cfg(test)]
        if let Some(left) = &mut self.steps_left {
            *left = left.checked_sub(1).ok_or(Stopped)?;
        }
        let worked = self.began.elapsed();
        if worked >= limits::GC_WORK_MIN {
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = tokio::time::sleep(worked.min(limits::GC_PAUSE_MAX)) => {}
            }
            self.began = Instant::now();
        }
        if self.stop.is_cancelled() { Err(Stopped) } else { Ok(()) }
    }
}
