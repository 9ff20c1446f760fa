//! Faults, chosen by a seeded generator and inflicted on living processes, each known to be ours by
//! more than its process id.

use super::places::{self, Host};
use crate::support::Lab;
use fetchml_api::AttemptId;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    path::Path,
    time::Duration,
};

/// How long a stopped agent stays stopped: longer than several of its polls, shorter than a lease.
const PAUSE: Duration = Duration::from_millis(700);

/// What can be done to a lab.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Fault {
    KillServer,
    KillAgent,
    KillBoth,
    KillHelper,
    KillShim,
    KillTask,
    PauseAgent,
    AtPlace,
}

impl Fault {
    pub(crate) const ALL: [Self; 8] = [
        Self::KillServer,
        Self::KillAgent,
        Self::KillBoth,
        Self::KillHelper,
        Self::KillShim,
        Self::KillTask,
        Self::PauseAgent,
        Self::AtPlace,
    ];
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::KillServer => "server killed",
            Self::KillAgent => "agent killed",
            Self::KillBoth => "server and agent killed",
            Self::KillHelper => "fork helper killed",
            Self::KillShim => "shim killed",
            Self::KillTask => "task killed",
            Self::PauseAgent => "agent paused",
            Self::AtPlace => "ended at a named place",
        })
    }
}

/// A seeded generator.
pub(crate) struct Random(u64);

impl Random {
    /// The next number of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number
    /// Generators, 2014), below `bound`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }
}

/// The generator and what it has done.
pub(crate) struct Faults {
    random: Random,
    counts: BTreeMap<Fault, usize>,
    /// Attempts whose shim was killed.
    pub(crate) shims: BTreeSet<AttemptId>,
    /// Attempts of which the user's process was killed.
    pub(crate) tasks: BTreeSet<AttemptId>,
    /// Shims that ended at a named place, and with each its attempt.
    pub(crate) shims_at_places: usize,
}

impl Faults {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            random: Random(seed),
            counts: BTreeMap::new(),
            shims: BTreeSet::new(),
            tasks: BTreeSet::new(),
            shims_at_places: 0,
        }
    }

    /// How often a fault was inflicted.
    pub(crate) fn count(&self, fault: Fault) -> usize {
        self.counts.get(&fault).copied().unwrap_or(0)
    }

    fn below(&mut self, bound: usize) -> usize {
        self.random.below(bound)
    }

    /// Ends each host, or a process that it forks, at a named place.
    pub(crate) async fn strike(&mut self, lab: &mut Lab, targets: &[(&'static str, Host)]) {
        places::strike(lab, &mut self.random, targets).await;
        *self.counts.entry(Fault::AtPlace).or_default() += targets.len();
        self.shims_at_places += targets.iter().filter(|(place, _)| places::loses_attempt(place)).count();
    }

    async fn strike_anywhere(&mut self, lab: &mut Lab, worker: usize) {
        let (server, workers) = (places::of_server(), places::of_worker());
        let chosen = self.below(server.len() + workers.len());
        let target = match server.get(chosen) {
            Some(place) => (*place, Host::Server),
            None => (workers[chosen - server.len()], Host::Worker(worker)),
        };
        self.strike(lab, &[target]).await;
    }

    /// Inflicts one fault, and brings back what must come back.
    pub(crate) async fn inject(&mut self, lab: &mut Lab) -> Fault {
        let fault = Fault::ALL[self.below(Fault::ALL.len())];
        let worker = self.below(lab.workers.len());
        let hit = match fault {
            Fault::KillServer => {
                lab.kill_server();
                lab.serve().await;
                true
            }
            Fault::KillAgent => {
                lab.kill_worker(worker);
                lab.restart_worker(worker).await;
                true
            }
            Fault::KillBoth => {
                lab.kill_server();
                lab.kill_worker(worker);
                lab.serve().await;
                lab.restart_worker(worker).await;
                true
            }
            Fault::KillHelper => kill_helper(lab.workers[worker].pid()),
            Fault::KillShim => self.kill_shim(&lab.path(&format!("worker{}", worker + 1))),
            Fault::KillTask => self.kill_task(&lab.path(&format!("worker{}", worker + 1))),
            Fault::PauseAgent => {
                let agent = Pid::from_raw(lab.workers[worker].pid().cast_signed()).expect("not 0");
                let agent = pidfd_open(agent, PidfdFlags::empty()).expect("the agent lives");
                pidfd_send_signal(&agent, Signal::STOP).expect("the agent can be stopped");
                tokio::time::sleep(PAUSE).await;
                pidfd_send_signal(&agent, Signal::CONT).expect("the agent can go on");
                true
            }
            Fault::AtPlace => {
                self.strike_anywhere(lab, worker).await;
                return fault;
            }
        };
        *self.counts.entry(fault).or_default() += usize::from(hit);
        fault
    }

    /// The shims of a worker that live now.
    fn a_shim(&mut self, data_dir: &Path) -> Option<(AttemptId, i32, u64)> {
        let mut shims = Vec::new();
        for entry in fs::read_dir(data_dir.join("attempts")).into_iter().flatten().flatten() {
            let record = fs::read(entry.path().join("shim.json")).ok();
            let record: Option<serde_json::Value> = record.and_then(|bytes| serde_json::from_slice(&bytes).ok());
            let Some(record) = record else { continue };
            let number = |name: &str| record[name].as_u64().expect("a number");
            let attempt = entry.file_name().to_str().and_then(|name| name.parse().ok()).expect("named by its attempt");
            shims.push((attempt, i32::try_from(number("pid")).expect("a process id"), number("start_time")));
        }
        shims.sort_unstable();
        if shims.is_empty() { None } else { Some(shims[self.below(shims.len())]) }
    }

    fn kill_shim(&mut self, data_dir: &Path) -> bool {
        let Some((attempt, pid, start_time)) = self.a_shim(data_dir) else { return false };
        // Before the kill: what is not written down would count as lost.
        self.shims.insert(attempt);
        kill_process(pid, start_time)
    }

    fn kill_task(&mut self, data_dir: &Path) -> bool {
        let Some((attempt, ..)) = self.a_shim(data_dir) else { return false };
        let Some((pid, start_time)) = main_process(attempt) else { return false };
        self.tasks.insert(attempt);
        kill_process(pid, start_time)
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (fault, count)) in self.counts.iter().enumerate() {
            write!(f, "{}{fault} {count}x", if number == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

/// The process that a task's command became, wherever below its shim: the only shell of the attempt
/// that no other shell started.
fn main_process(attempt: AttemptId) -> Option<(i32, u64)> {
    let mark = format!("FETCHML_ATTEMPT_ID={attempt}");
    let is_shell = |pid: &str| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).next().is_some_and(|program| program.ends_with(b"bash"))
    };
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let name = entry.file_name();
        let (pid, found) = (name.to_str()?.parse().ok()?, stat(name.to_str()?.parse().ok()?)?);
        let environment = fs::read(entry.path().join("environ")).ok()?;
        let ours = environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes());
        (ours && is_shell(name.to_str()?) && !is_shell(&found.parent.to_string())).then_some((pid, found.start_time))
    })
}

/// Kills the helper of an agent.
fn kill_helper(agent: u32) -> bool {
    let children = (fs::read_dir(format!("/proc/{agent}/task")).into_iter().flatten().flatten())
        .filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    for child in children.collect::<String>().split_ascii_whitespace() {
        let command = fs::read(format!("/proc/{child}/cmdline")).unwrap_or_default();
        if command.split(|byte| *byte == 0).any(|word| word == b"__helper")
            && let Some((pid, stat)) = child.parse().ok().and_then(|pid| Some((pid, stat(pid)?)))
        {
            return kill_process(pid, stat.start_time);
        }
    }
    false
}

struct Stat {
    parent: i32,
    start_time: u64,
}

fn stat(pid: i32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    // The first of these is field 3 of proc(5).
    Some(Stat { parent: fields.get(1)?.parse().ok()?, start_time: fields.get(19)?.parse().ok()? })
}

/// Kills a process if it is still the one that started then.
fn kill_process(pid: i32, start_time: u64) -> bool {
    let Some(handle) = Pid::from_raw(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()) else {
        return false;
    };
    stat(pid).is_some_and(|stat| stat.start_time == start_time) && pidfd_send_signal(handle, Signal::KILL).is_ok()
}
