//! What /proc tells of processes: memory and CPU time.

use anyhow::{Context as _, Result};
use rustix::process::{WaitOptions, wait};
use std::fs;

/// /proc counts CPU time in these on every Linux that matters.
const TICKS_PER_S: f64 = 100.0;

/// Memory of a process and all below it, MiB.
pub(crate) struct Memory {
    /// Sum of resident sets: pages shared by two processes count twice.
    pub(crate) resident_mib: f64,
    /// Sum of proportional sets: a page shared by two counts half for each.
    pub(crate) proportional_mib: f64,
    pub(crate) processes: usize,
}

/// The process and everything below it.
pub(crate) fn tree(root: u32) -> Vec<u32> {
    let mut found = vec![root];
    let mut next = 0;
    while let Some(&pid) = found.get(next) {
        next += 1;
        for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            found.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
        }
    }
    found
}

pub(crate) fn memory(root: u32) -> Result<Memory> {
    let pids = tree(root);
    let mut memory = Memory { resident_mib: 0.0, proportional_mib: 0.0, processes: pids.len() };
    for pid in pids {
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))
            .with_context(|| format!("reading the memory of process {pid}"))?;
        let kib = |name: &str| {
            let line = rollup.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok()).unwrap_or(0.0)
        };
        memory.resident_mib += kib("Rss:") / 1024.0;
        memory.proportional_mib += kib("Pss:") / 1024.0;
    }
    Ok(memory)
}

/// CPU seconds, user and system, that all ended and waited-for children of ours took, with theirs.
pub(crate) fn cpu_of_ended_children() -> Result<f64> {
    cpu("/proc/self/stat", &[15, 16])
}

/// CPU seconds of a living process and of its ended children.
pub(crate) fn cpu_of(pid: u32) -> Result<f64> {
    cpu(&format!("/proc/{pid}/stat"), &[13, 14, 15, 16])
}

/// Sums fields of a `stat` file, counted from 0 as proc(5) counts from 1.
fn cpu(path: &str, fields: &[usize]) -> Result<f64> {
    let stat = fs::read_to_string(path).with_context(|| format!("reading {path}"))?;
    // The name in parentheses may hold spaces; the third field follows it.
    let (_, after_name) = stat.rsplit_once(')').context("a stat file without a name")?;
    let values: Vec<&str> = after_name.split_whitespace().collect();
    let ticks: f64 = fields.iter().filter_map(|field| values.get(field - 2)?.parse::<f64>().ok()).sum();
    Ok(ticks / TICKS_PER_S)
}

/// Collects orphans that came to us and have ended, so that their CPU time is counted.
pub(crate) fn reap_orphans() {
    while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
}
