//! Finding out what became of an attempt from its directory alone.

use super::{
    client::Running,
    record::{Exit, ShimRecord, Stat, boot_id, files, read_json, read_record},
    tree,
};
use crate::{cgroup::Cgroup, limits};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fd::OwnedFd,
    fs::{FlockOperation, flock},
    process::{Pid, PidfdFlags, pidfd_open},
};
use std::{
    fs, io,
    path::Path,
    time::{Duration, Instant},
};

/// What became of an attempt.
#[derive(Debug)]
pub enum Reattached {
    /// Its shim lives.
    Running(Running),
    /// It ended and was recorded.
    Ended(Exit),
    /// No user code ran and none will.
    NeverRan,
    /// User code ran, or may have, and nobody saw its end; what was left of it has been killed.
    Lost,
    /// Its shim lives and works for another directory: this one is a copy of that.
    Copied,
}

/// Finds out what became of the attempt in `dir`, of which no other agent takes care; may wait for a moment. To be
/// called within the runtime, as the result may watch a process. `NeverRan` for a missing `shim.json` holds within one boot: after a power cut
/// files that were not synced may be gone, so a caller whose own record is of another boot (see
/// [`super::boot_id`]) must take it for `Lost`.
///
/// # Errors
/// When the directory cannot be read.
pub fn reattach(dir: &Path) -> io::Result<Reattached> {
    if let Some(exit) = read_record(dir, files::EXIT)? {
        return Ok(Reattached::Ended(exit));
    }
    let Some(record) = read_json::<ShimRecord>(dir, files::SHIM)? else { return Ok(Reattached::NeverRan) };
    await_go(dir)?;
    let process = if record.boot_id == boot_id()? { open_identified(&record) } else { None };
    if let Some(process) = process {
        if is_locked(dir)? {
            return Ok(Reattached::Running(Running::new(dir.to_owned(), record, process)?));
        }
        // A shim lets go of its lock only in death, which is over soon.
        if !ends(&process, limits::SHIM_DEATH_WAIT) {
            return Ok(Reattached::Copied);
        }
    }
    // The shim is gone; it may have written its last words since the first look.
    if let Some(exit) = read_record(dir, files::EXIT)? {
        return Ok(Reattached::Ended(exit));
    }
    if has_go_mark(dir) {
        kill_orphans(&record);
        return Ok(Reattached::Lost);
    }
    Ok(Reattached::NeverRan)
}

/// The agent that could have said `go` is dead. A shim that did not hear it ends at once; one that did is about to
/// leave its mark.
fn await_go(dir: &Path) -> io::Result<()> {
    let deadline = Instant::now() + limits::SHIM_GO_WAIT;
    while Instant::now() < deadline && !has_go_mark(dir) && is_locked(dir)? {
        std::thread::sleep(limits::SHIM_GO_LOOK);
    }
    Ok(())
}

/// Whether a shim holds the attempt's lock.
fn is_locked(dir: &Path) -> io::Result<bool> {
    let lock = match fs::File::open(dir.join(files::LOCK)) {
        Ok(lock) => lock,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    match flock(&lock, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(false),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

/// A handle on the recorded process of this boot, if it still is that process: the handle is taken
/// first, so that what is compared afterwards is what it refers to.
pub(super) fn open_identified(record: &ShimRecord) -> Option<OwnedFd> {
    let pid = Pid::from_raw(record.pid)?;
    let process = pidfd_open(pid, PidfdFlags::NONBLOCK).ok()?;
    Stat::of(pid).is_ok_and(|stat| stat.start_time == record.start_time).then_some(process)
}

/// Waits for the end of a process.
fn ends(process: &OwnedFd, within: Duration) -> bool {
    let deadline = Instant::now() + within;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        // The handle of a process that has ended is readable.
        let mut fds = [PollFd::new(process, PollFlags::IN)];
        match poll(&mut fds, Some(&left)) {
            Err(rustix::io::Errno::INTR) => {}
            ready => return ready.is_ok_and(|ready| ready > 0),
        }
    }
}

/// Whether user code may have run.
pub(super) fn has_go_mark(dir: &Path) -> bool {
    // Unreadable counts as run: what is not known to be safe to run again is lost.
    fs::read(dir.join(files::LOCK)).map_or_else(|e| e.kind() != io::ErrorKind::NotFound, |mark| !mark.is_empty())
}

/// Kills what a dead shim left behind, in this boot.
pub(super) fn kill_orphans(record: &ShimRecord) {
    if boot_id().is_ok_and(|boot| boot == record.boot_id) {
        let mark = format!("{}={}", crate::executor::ATTEMPT_ID_VARIABLE, record.attempt);
        // Each pass kills what it sees; a pass that sees nothing ends it. A bound, because a process
        // in uninterruptible sleep stays visible.
        for _ in 0..limits::ORPHAN_PASSES {
            let in_group = record.cgroup.as_ref().map_or(0, Cgroup::kill);
            if tree::kill_orphans(record.pid, record.start_time, &mark) + in_group == 0 {
                break;
            }
            std::thread::yield_now();
        }
        if let Some(cgroup) = &record.cgroup {
            cgroup.remove();
        }
    }
}
