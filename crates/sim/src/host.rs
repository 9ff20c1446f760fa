//! A machine: its disk, its shims with the users' processes, and the agent, which may be dead. What is
//! on the disk outlives the agent; what is not synced does not outlive a power cut.

use crate::{Fault, SECOND, Time, agent::Agent};
use fetchml_api::{
    AttemptEpoch, AttemptId, Capabilities, Demand, FailureCause, Gpu, TaskId, WorkerId,
    link::{Outcome, SpooledReport},
};
use std::collections::{BTreeMap, VecDeque};

/// Number of a machine.
pub(crate) type HostId = usize;

/// Part of the lease in which processes are dead already.
const MARGIN: Time = 15 * SECOND;
/// Time between SIGTERM and SIGKILL.
pub(crate) const GRACE: Time = 30 * SECOND;

/// A machine.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) id: HostId,
    pub(crate) worker: WorkerId,
    pub(crate) capabilities: Capabilities,
    pub(crate) slots: (u32, u32),
    pub(crate) disk: Disk,
    /// Grows with each boot.
    pub(crate) boot: u64,
    pub(crate) booted_at: Time,
    pub(crate) on: bool,
    /// Sleeps until then.
    pub(crate) asleep_until: Option<Time>,
    /// When it last woke up.
    pub(crate) woke_at: Time,
    /// Time slept since it booted.
    pub(crate) slept: Time,
    pub(crate) shims: BTreeMap<AttemptId, Shim>,
    pub(crate) agent: Option<Agent>,
    /// Grows with each start of the agent.
    pub(crate) agents: u64,
    pub(crate) disk_full_until: Time,
    /// Copied from another machine, with its worker id.
    pub(crate) clone_of: Option<HostId>,
}

/// What outlives the agent.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    pub(crate) taken: BTreeMap<AttemptId, Taken>,
    pub(crate) spool: VecDeque<Spooled>,
    pub(crate) next_seq: u64,
    pub(crate) lease: Lease,
    pub(crate) incarnation_seen: u64,
}

/// A report on its way to the server.
#[derive(Clone, Debug)]
pub(crate) struct Spooled {
    pub(crate) report: SpooledReport,
    /// When it was written; synced soon afterwards.
    pub(crate) at: Time,
}

/// The directory of an attempt.
#[derive(Clone, Debug)]
pub(crate) struct Taken {
    pub(crate) task: TaskId,
    pub(crate) epoch: AttemptEpoch,
    pub(crate) gpus: Vec<u32>,
    pub(crate) boot: u64,
    pub(crate) at: Time,
    /// User code may have run.
    pub(crate) go: bool,
    pub(crate) exit: Option<Exit>,
}

/// How a process tree ended, as its shim recorded it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Exit(pub(crate) Outcome);

/// The last beat that the server acknowledged.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Lease {
    pub(crate) boot: u64,
    /// When it was sent, on the boot clock; 0: never.
    pub(crate) sent: Time,
    pub(crate) lost_after: Time,
}

impl Lease {
    /// When SIGTERM is due and when SIGKILL, on the boot clock. None: nothing was promised.
    pub(crate) fn stop_times(&self, own: Option<Time>) -> Option<(Time, Time)> {
        let lost_after = own.unwrap_or(self.lost_after);
        if self.sent == 0 || lost_after == 0 {
            return None;
        }
        let kill = self.sent + lost_after - MARGIN.min(lost_after / 6);
        Some((kill - GRACE.min(lost_after / 6), kill))
    }
}

/// A shim and the process tree under it.
#[derive(Clone, Debug)]
pub(crate) struct Shim {
    pub(crate) task: TaskId,
    pub(crate) gpus: Vec<u32>,
    pub(crate) demand: Demand,
    /// Told to go: user code runs.
    pub(crate) runs: bool,
    /// When it ends by itself, and how. None: never.
    pub(crate) ends_at: Option<Time>,
    pub(crate) outcome: Outcome,
    pub(crate) ignores_term: bool,
    /// Asked to end, for this cause, and when it is killed.
    pub(crate) stopping: Option<(FailureCause, Time)>,
    /// Its own lease; none: it is kept.
    pub(crate) fenced: bool,
    pub(crate) own_lease: Option<Time>,
}

impl Host {
    pub(crate) fn new(id: HostId, worker: WorkerId, cores: u32, gpus: u32) -> Self {
        let gpu = |index| Gpu {
            index,
            uuid: format!("GPU-{index}"),
            name: "NVIDIA H100".into(),
            memory_bytes: 1 << 36,
            ..Gpu::default()
        };
        let capabilities = Capabilities {
            gpu_count: gpus,
            cpu_cores: cores,
            memory_gb: 64,
            gpus: (0..gpus).map(gpu).collect(),
            executors: vec!["process".into()],
            ..Capabilities::default()
        };
        Self {
            id,
            worker,
            capabilities,
            slots: (cores, 1),
            disk: Disk { next_seq: 1, ..Disk::default() },
            boot: 1,
            booted_at: 0,
            on: true,
            asleep_until: None,
            woke_at: 0,
            slept: 0,
            shims: BTreeMap::new(),
            agent: None,
            agents: 0,
            disk_full_until: 0,
            clone_of: None,
        }
    }

    /// The clock that goes on while the machine sleeps. Never 0.
    pub(crate) fn boottime(&self, now: Time) -> Time {
        now - self.booted_at + 1
    }

    /// Whether its processes get time.
    pub(crate) fn is_awake(&self) -> bool {
        self.on && self.asleep_until.is_none()
    }

    /// A clock that stands still while the machine sleeps.
    pub(crate) fn monotonic(&self, now: Time) -> Time {
        self.boottime(now) - self.slept
    }

    /// Loses power: processes and what was not synced are gone. `kept` says how much of the unsynced part
    /// made it to the disk, 0 to 1.
    pub(crate) fn lose_power(&mut self, now: Time, kept: f64) {
        const SYNCED_AFTER: Time = SECOND / 10;
        self.on = false;
        self.asleep_until = None;
        self.shims.clear();
        self.agent = None;
        let synced = self.disk.spool.iter().take_while(|line| now - line.at > SYNCED_AFTER).count();
        let torn = (self.disk.spool.len() - synced) as f64 * kept;
        self.disk.spool.truncate(synced + torn as usize);
        self.disk.next_seq = self.disk.spool.back().map_or(self.disk.next_seq, |line| line.report.seq + 1);
        self.disk.taken.retain(|_, taken| now - taken.at > SYNCED_AFTER || kept > 0.5);
    }

    /// What a fault of this kind can do here now.
    pub(crate) fn can_suffer(&self, fault: Fault) -> bool {
        match fault {
            Fault::AgentCrash => self.is_awake() && self.agent.is_some(),
            Fault::AgentPause => self.agent.as_ref().is_some_and(|agent| agent.paused_until.is_none()),
            Fault::ShimCrash => self.is_awake() && !self.shims.is_empty(),
            Fault::HostSuspend => self.is_awake() && self.clone_of.is_none(),
            _ => self.on && self.clone_of.is_none(),
        }
    }
}
