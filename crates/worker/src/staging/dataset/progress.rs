//! How far a download is, told in the log of every task that waits for it.

use crate::{limits, staging::note};
use fetchml_api::FailureCause;
use std::path::Path;
use tokio::{sync::watch, time::Instant};

/// How far it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Progress {
    /// Bytes that are here.
    pub(super) done: u64,
    /// Bytes in all, when the source says so.
    pub(super) total: Option<u64>,
}

/// Writes a line now and then; does not end.
pub(super) async fn tell(log: &Path, name: &str, progress: watch::Receiver<Progress>) {
    let mut tick = tokio::time::interval(limits::DATASET_PROGRESS_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    tick.tick().await;
    let (mut before, mut at) = (*progress.borrow(), Instant::now());
    loop {
        tick.tick().await;
        let now = *progress.borrow();
        let line = line(now, now.done.saturating_sub(before.done) as f64 / at.elapsed().as_secs_f64().max(0.001));
        // A log that cannot be written is told by those who must write to it.
        let _ = note(FailureCause::Dataset, log, &format!("data set {name}: {line}"));
        (before, at) = (now, Instant::now());
    }
}

fn line(Progress { done, total }: Progress, bytes_per_s: f64) -> String {
    let rate = size(bytes_per_s as u64);
    match total {
        Some(total) if total > 0 => {
            let percent = (done.min(total) as f64 / total as f64 * 100.0).floor();
            format!("{} of {} ({percent:.0} %), {rate}/s", size(done), size(total))
        }
        _ => format!("{}, {rate}/s", size(done)),
    }
}

/// Bytes for people.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1_024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1_024.0;
    let mut unit = 0;
    while value >= 1_024.0 && unit + 1 < UNITS.len() {
        value /= 1_024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_say_how_far_and_how_fast() {
        let at = |done, total| line(Progress { done, total }, 5.0 * f64::from(1 << 20));
        assert_eq!(at(3 << 29, Some(10 << 30)), "1.5 GiB of 10.0 GiB (15 %), 5.0 MiB/s");
        assert_eq!(at(1_023, None), "1023 B, 5.0 MiB/s");
        assert_eq!(at(9, Some(0)), "9 B, 5.0 MiB/s");
        assert_eq!(size(u64::MAX), "16384.0 PiB");
    }
}
