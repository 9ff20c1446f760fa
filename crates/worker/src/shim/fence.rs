//! The shim's own end of the lease: when the agent is dead or cut off, the process still ends before the
//! server gives the attempt up. Time is BOOTTIME, which goes on while the machine sleeps.

use super::record::read_json;
use rustix::{
    fd::OwnedFd,
    time::{
        ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime, timerfd_create,
        timerfd_settime,
    },
};
use serde::{Deserialize, Serialize};
use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

/// Part of the lease the worker leaves unused: its processes are dead this long before the server gives
/// them up, milliseconds.
const MARGIN_MS: u64 = crate::limits::FENCE_MARGIN_S * 1_000;

/// The last beat the server acknowledged, as the agent writes it to a file on each acknowledgement.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct LeaseMark {
    /// Boot the time belongs to.
    pub boot_id: String,
    /// BOOTTIME at which the beat was sent, milliseconds.
    pub sent_ms: u64,
    /// The server's lease, seconds.
    pub lost_after_s: u32,
}

impl LeaseMark {
    /// When SIGTERM is due and when SIGKILL, milliseconds of BOOTTIME; `own` is the task's own lease.
    /// `None`: never linked in this boot, so nothing was promised.
    pub(crate) fn stop_times(&self, own: Option<u32>, grace_s: u32) -> Option<(u64, u64)> {
        let lost_after_ms = u64::from(own.unwrap_or(self.lost_after_s)) * 1_000;
        if self.sent_ms == 0 || lost_after_ms == 0 {
            return None;
        }
        // A lease too short for margin and grace is shared out: two thirds to run, the rest to end.
        let margin_ms = MARGIN_MS.min(lost_after_ms / 6);
        let grace_ms = (u64::from(grace_s) * 1_000).min(lost_after_ms / 6);
        let kill_at_ms = self.sent_ms + lost_after_ms - margin_ms;
        Some((kill_at_ms - grace_ms, kill_at_ms))
    }
}

/// Where an attempt's lease is found.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Fence {
    /// Holds a [`LeaseMark`], renewed by the agent.
    pub file: PathBuf,
    /// As it was at the start.
    pub mark: LeaseMark,
    /// The task's own lease, seconds.
    pub own_s: Option<u32>,
}

/// A fence that is watched.
#[derive(Debug)]
pub(super) struct Watch {
    timer: OwnedFd,
    fence: Fence,
    grace_s: u32,
}

impl Watch {
    pub(super) fn start(fence: &Fence, grace_s: u32) -> io::Result<Self> {
        let timer = timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
        let watch = Self { timer, fence: fence.clone(), grace_s };
        watch.set(&watch.fence.mark)?;
        Ok(watch)
    }

    /// Readable when it is time to look.
    pub(super) fn timer(&self) -> &OwnedFd {
        &self.timer
    }

    /// The grace left to a process that must end now; `None` while it need not. To be asked when the
    /// timer has run down: only then the agent's file is read.
    pub(super) fn must_stop(&mut self, boot_id: &str) -> Option<Duration> {
        let now_ms = boottime_ms();
        if self.times(&self.fence.mark)?.0 > now_ms {
            return None;
        }
        if let Some(mark) = newest(&self.fence.file, boot_id).filter(|mark| mark.sent_ms > self.fence.mark.sent_ms) {
            self.fence.mark = mark;
        }
        let (term_at_ms, kill_at_ms) = self.times(&self.fence.mark)?;
        if term_at_ms <= now_ms {
            return Some(Duration::from_millis(kill_at_ms.saturating_sub(now_ms)));
        }
        // A timer that cannot be set leaves the fence to the agent.
        let _ = self.set(&self.fence.mark);
        None
    }

    fn times(&self, mark: &LeaseMark) -> Option<(u64, u64)> {
        mark.stop_times(self.fence.own_s, self.grace_s)
    }

    fn set(&self, mark: &LeaseMark) -> io::Result<()> {
        let Some((at_ms, _)) = self.times(mark) else { return Ok(()) };
        let at = Timespec { tv_sec: (at_ms / 1_000) as i64, tv_nsec: (at_ms % 1_000) as i64 * 1_000_000 };
        let never = Timespec { tv_sec: 0, tv_nsec: 0 };
        timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &Itimerspec { it_interval: never, it_value: at })?;
        Ok(())
    }
}

/// What the agent wrote last, in this boot.
fn newest(file: &Path, boot_id: &str) -> Option<LeaseMark> {
    let mark: LeaseMark = read_json(file.parent()?, file.file_name()?.to_str()?).ok()??;
    (mark.boot_id == boot_id && mark.sent_ms <= boottime_ms()).then_some(mark)
}

/// Milliseconds since boot, suspend included.
fn boottime_ms() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000 + u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(lost_after_s: u32, own_s: Option<u32>) -> Option<(u64, u64)> {
        LeaseMark { boot_id: String::new(), sent_ms: 1_000, lost_after_s }.stop_times(own_s, 30)
    }

    #[test]
    fn processes_are_dead_before_the_server_gives_them_up() {
        assert_eq!(times(600, None), Some((556_000, 586_000)));
        assert_eq!(times(600, Some(60)), Some((41_000, 51_000)), "the task's own counts");
    }

    #[test]
    fn a_short_lease_leaves_time_to_run_and_to_end() {
        assert_eq!(times(12, None), Some((9_000, 11_000)));
        assert_eq!(times(0, None), None);
        assert_eq!(LeaseMark { lost_after_s: 600, ..LeaseMark::default() }.stop_times(None, 30), None);
    }
}
