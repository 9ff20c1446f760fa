//! Killing everything that descends from a process. Descendants are found through `/proc`, from
//! parent to child; a process that its parent left goes to the shim, which is the nearest subreaper,
//! so none can leave the tree.

use super::record::{ShimRecord, Stat, files, read_record};
use crate::limits;
use rustix::process::{Pid, PidfdFlags, Signal, getpid, pidfd_open, pidfd_send_signal};
use std::{collections::HashMap, fs, io, path::Path};

/// Sends a signal to every living descendant of this process, except those of the first `spared`
/// generations, which belong to a sandbox.
pub(super) fn signal_descendants(signal: Signal, spared: usize) {
    let mut open = vec![(getpid(), 0)];
    let children = Children::new();
    while let Some((parent, generation)) = open.pop() {
        for child in children.of(parent) {
            open.push((child, generation + 1));
            if generation >= spared {
                // Dead already: that is what was wanted.
                let _ = signal_child(child, parent, signal);
            }
        }
    }
}

/// Signals a process only while it is a living child of `parent` or of this process (to which it
/// falls when its parent dies): an id that another process has by now is left alone.
fn signal_child(child: Pid, parent: Pid, signal: Signal) -> io::Result<()> {
    let process = pidfd_open(child, PidfdFlags::empty())?;
    let stat = Stat::of(child)?;
    let ours = [parent, getpid()].iter().any(|pid| pid.as_raw_nonzero().get() == stat.parent);
    if ours && stat.state != b'Z' {
        pidfd_send_signal(process, signal)?;
    }
    Ok(())
}

/// Finds children: by the kernel's own list where it has one, else from one pass over `/proc`.
enum Children {
    Listed,
    Scanned(HashMap<i32, Vec<Pid>>),
}

impl Children {
    fn new() -> Self {
        if Path::new("/proc/self/task").join(getpid().to_string()).join("children").exists() {
            return Self::Listed;
        }
        let mut by_parent = HashMap::<i32, Vec<Pid>>::new();
        for pid in processes() {
            if let Ok(stat) = Stat::of(pid) {
                by_parent.entry(stat.parent).or_default().push(pid);
            }
        }
        Self::Scanned(by_parent)
    }

    fn of(&self, parent: Pid) -> Vec<Pid> {
        match self {
            Self::Scanned(by_parent) => by_parent.get(&parent.as_raw_nonzero().get()).cloned().unwrap_or_default(),
            // A child belongs to the thread that made it.
            Self::Listed => fs::read_dir(format!("/proc/{parent}/task"))
                .into_iter()
                .flatten()
                .filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("children")).ok())
                .flat_map(|list| list.split_ascii_whitespace().filter_map(parse_pid).collect::<Vec<_>>())
                .collect(),
        }
    }
}

/// Whether a process descends from the shim that works in `dir`, which lives.
pub fn is_in_tree_of(dir: &Path, pid: i32) -> bool {
    let record = read_record::<ShimRecord>(dir, files::SHIM).ok().flatten();
    let lives = |record: &ShimRecord| {
        let stat = Pid::from_raw(record.pid).and_then(|pid| Stat::of(pid).ok());
        stat.is_some_and(|stat| stat.start_time == record.start_time)
    };
    let Some(shim) = record.filter(lives).map(|record| record.pid) else { return false };
    let mut at = pid;
    for _ in 0..limits::ANCESTORS_MAX {
        if at == shim {
            return true;
        }
        match Pid::from_raw(at).and_then(|pid| Stat::of(pid).ok()) {
            Some(stat) => at = stat.parent,
            None => return false,
        }
    }
    false
}

/// Every process there is.
fn processes() -> Vec<Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten();
    entries.filter_map(|entry| parse_pid(entry.ok()?.file_name().to_str()?)).collect()
}

fn parse_pid(text: &str) -> Option<Pid> {
    Pid::from_raw(text.parse().ok()?)
}

/// Kills what a shim that was itself killed left behind: processes of its session, and those that
/// carry `mark` (`NAME=value`) in the environment they were started with. Returns how many were
/// found; call again until none is.
pub(super) fn kill_orphans(session: i32, not_before: u64, mark: &str) -> usize {
    let mut found = 0;
    for pid in processes() {
        if pid == getpid() {
            continue;
        }
        let killed = || {
            let process = pidfd_open(pid, PidfdFlags::empty()).ok()?;
            let stat = Stat::of(pid).ok()?;
            let ours =
                stat.start_time >= not_before && stat.state != b'Z' && (stat.session == session || has_mark(pid, mark));
            ours.then(|| pidfd_send_signal(process, Signal::KILL).ok()).flatten()
        };
        found += usize::from(killed().is_some());
    }
    found
}

fn has_mark(pid: Pid, mark: &str) -> bool {
    fs::read(format!("/proc/{pid}/environ"))
        .is_ok_and(|environment| environment.split(|byte| *byte == 0).any(|entry| entry == mark.as_bytes()))
}
