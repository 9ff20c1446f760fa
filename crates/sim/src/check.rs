//! Users' processes: how they start and end, and what must hold between all of them, whatever server and
//! agents believe.

use crate::{
    Bug, Fault, MS, SECOND, Time, Violation,
    host::{Exit, GRACE, Host, HostId},
    promise,
    world::{Happening, World},
};
use fetchml_api::{AttemptId, FailureCause, SlotKind, TaskId, WorkerId, link::Outcome};

/// What a task does in one attempt.
#[derive(Clone, Debug)]
pub(crate) struct Behaviour {
    pub(crate) staging: Time,
    pub(crate) staging_fails: Option<Outcome>,
    /// None: it never ends by itself.
    runs: Option<Time>,
    outcome: Outcome,
    ignores_term: bool,
}

impl Behaviour {
    /// Whether it never ends by itself.
    pub(crate) const fn is_endless(&self) -> bool {
        self.runs.is_none()
    }
}

/// How long something may go on that was to end while its machine or agent stood still, once that goes on.
pub(crate) const AFTER_STANDSTILL: Time = SECOND;

impl World {
    /// The same for a task's attempt in every run, whatever else happens.
    pub(crate) fn behaviour(&self, task: TaskId, attempt: AttemptId) -> Behaviour {
        let seed = self.plan.seed ^ (task.0.as_u128() as u64).rotate_left(17) ^ attempt.0.as_u128() as u64;
        let mut chance = fastrand::Rng::with_seed(seed);
        let poison = self.plan.faults.contains(&Fault::PoisonTask) && task.0.as_u128().is_multiple_of(7);
        let failed = |cause, transient| Outcome { cause: Some(cause), transient, ..Outcome::default() };
        let staging_fails = match chance.u32(..100) {
            0..2 => Some(failed(FailureCause::Environment, false)),
            2..4 => Some(failed(FailureCause::Snapshot, true)),
            _ => None,
        };
        let outcome = match chance.u32(..100) {
            _ if poison => Outcome { exit_code: Some(1), ..failed(FailureCause::ExitNonzero, false) },
            0..8 => Outcome { exit_code: Some(3), ..failed(FailureCause::ExitNonzero, false) },
            8..10 => failed(FailureCause::OomHost, false),
            10..12 => failed(FailureCause::Timeout, false),
            _ => Outcome { exit_code: Some(0), ..Outcome::default() },
        };
        // Most are short; some run for half an hour.
        let longest = [2 * SECOND, 30 * SECOND, 300 * SECOND, 1_800 * SECOND][chance.usize(..4)];
        let endless = task.0.as_u128().is_multiple_of(23) || (poison && chance.bool());
        Behaviour {
            staging: if chance.u32(..3) == 0 { chance.i64(0..20 * SECOND) } else { chance.i64(0..200 * MS) },
            staging_fails,
            runs: (!endless).then(|| chance.i64(10 * MS..longest)),
            outcome,
            ignores_term: poison || chance.u32(..20) == 0,
        }
    }

    /// The same for one node of a gang: each takes its own time and comes to its own end.
    fn node_behaviour(&self, task: TaskId, attempt: AttemptId, h: HostId) -> Behaviour {
        let whole = self.behaviour(task, attempt);
        if self.specs[&task].demand.nodes == 1 {
            return whole;
        }
        let mut chance = fastrand::Rng::with_seed(self.plan.seed ^ attempt.0.as_u128() as u64 ^ (h as u64) << 40);
        let runs = whole.runs.map(|takes| takes / 2 + chance.i64(0..=takes / 2));
        let fails = chance.u32(..20) == 0;
        let failed = Outcome { cause: Some(FailureCause::ExitNonzero), exit_code: Some(4), ..Outcome::default() };
        Behaviour { runs, outcome: if fails { failed } else { whole.outcome.clone() }, ..whole }
    }

    /// Lets the process of a ready shim run.
    pub(crate) fn process_start(&mut self, h: HostId, attempt: AttemptId) -> Result<(), Violation> {
        let now = self.now;
        let task = self.hosts[h].shims[&attempt].task;
        let gang = self.specs[&task].demand.nodes > 1;
        let first = self.began.insert((attempt, gang.then_some(h))) || self.is_excused(h);
        promise!(first, "the user's code of attempt {attempt} begins a second time, on machine {h}");
        // Where it may begin once more, how it ended before no longer counts.
        self.unseen.remove(&attempt);
        self.check_alone(h, attempt, task)?;
        let released = !gang || self.server.database.was_ready(attempt) || self.is_excused(h);
        promise!(released, "user code of the gang {attempt} begins on machine {h} before all nodes are ready");
        if !self.restored_backup {
            self.server.database.check_needs(&self.specs[&task])?;
        }
        let Behaviour { runs, outcome, ignores_term, .. } = self.node_behaviour(task, attempt, h);
        let host = &mut self.hosts[h];
        let boot = host.boot;
        let shim = host.shims.get_mut(&attempt).expect("it is ready");
        (shim.runs, shim.outcome, shim.ignores_term) = (true, outcome, ignores_term);
        shim.ends_at = runs.map(|takes| now + takes);
        if let Some(at) = shim.ends_at {
            self.at(at, Happening::ProcessEnds { host: h, boot, attempt });
        }
        self.after(0..MS, Happening::Fence { host: h, boot, attempt });
        self.check_room(h)
    }

    /// No process of a machine is a copy of another that runs.
    pub(crate) fn check_copies(&self, h: HostId) -> Result<(), Violation> {
        let running = self.hosts[h].shims.iter().filter(|(_, shim)| shim.runs);
        running.into_iter().try_for_each(|(attempt, shim)| self.check_alone(h, *attempt, shim.task))
    }

    /// Under a fence no two copies of a task run.
    fn check_alone(&self, h: HostId, attempt: AttemptId, task: TaskId) -> Result<(), Violation> {
        for host in self.hosts.iter().filter(|host| host.on) {
            for (other, shim) in &host.shims {
                let same = *other == attempt && (host.id == h || self.specs[&task].demand.nodes > 1);
                if shim.task != task || !shim.runs || same {
                    continue;
                }
                if self.stood_still(host)
                    || self.stood_still(&self.hosts[h])
                    || self.is_excused(host.id)
                    || self.is_excused(h)
                {
                    continue;
                }
                return Err(Violation(format!(
                    "two copies of task {task} run: attempt {other} on machine {} and now {attempt} on {h}",
                    host.id
                )));
            }
        }
        Ok(())
    }

    /// Whether a machine or its agent does not get time, or has only just got some again.
    fn stood_still(&self, host: &Host) -> bool {
        let resumed = host.agent.as_ref().map_or(0, |agent| agent.resumed_at);
        !host.is_awake() || self.now - host.woke_at.max(resumed) <= AFTER_STANDSTILL
    }

    /// What the server gives up is dead by then; of a gang, on that worker.
    pub(crate) fn check_given_up(&self, attempt: AttemptId, worker: Option<WorkerId>) -> Result<(), Violation> {
        let mut there = self.hosts.iter().filter(|host| worker.is_none_or(|worker| worker == host.worker));
        let lives = there.find(|host| host.shims.get(&attempt).is_some_and(|shim| shim.runs));
        let Some(host) = lives.filter(|host| !self.stood_still(host) && !self.is_excused(host.id)) else {
            return Ok(());
        };
        Err(Violation(format!("attempt {attempt} is given up and runs on machine {}", host.id)))
    }

    /// No machine runs more than it has, and no GPU has two owners.
    fn check_room(&self, h: HostId) -> Result<(), Violation> {
        let host = &self.hosts[h];
        let mut gpus = std::collections::BTreeMap::new();
        let (mut slots, mut cpu) = ((0, 0), 0);
        for (attempt, shim) in host.shims.iter().filter(|(_, shim)| shim.runs) {
            match shim.demand.slot {
                SlotKind::Batch => slots.0 += 1,
                SlotKind::Service => slots.1 += 1,
            }
            cpu += shim.demand.cpu;
            for gpu in &shim.gpus {
                let other = gpus.insert(*gpu, *attempt);
                promise!(other.is_none(), "GPU {gpu} of machine {h} is given to {attempt} and {other:?}");
            }
        }
        let fits = slots.0 <= host.slots.0 && slots.1 <= host.slots.1 && cpu <= host.capabilities.cpu_cores;
        promise!(fits, "machine {h} runs {slots:?} on {:?} slots and {cpu} cores", host.slots);
        Ok(())
    }

    /// Asks a process tree to end.
    pub(crate) fn process_stop(&mut self, h: HostId, attempt: AttemptId, cause: FailureCause, kill_at: Time) {
        let now = self.now;
        let obeys_in = self.draw(|chance| chance.i64(MS..3 * SECOND));
        let host = &mut self.hosts[h];
        let boot = host.boot;
        let Some(shim) = host.shims.get_mut(&attempt) else { return };
        let kill_at = shim.stopping.map_or(kill_at, |(_, before)| before.min(kill_at));
        shim.stopping = Some(shim.stopping.map_or((cause, kill_at), |(first, _)| (first, kill_at)));
        let ends_at = if shim.ignores_term { kill_at } else { kill_at.min(now + obeys_in) };
        let ends_at = shim.ends_at.map_or(ends_at, |before| before.min(ends_at));
        shim.ends_at = Some(ends_at);
        self.at(ends_at, Happening::ProcessEnds { host: h, boot, attempt });
    }

    /// A process tree is dead: its shim records how it ended, and goes.
    pub(crate) fn on_process_ends(&mut self, h: HostId, attempt: AttemptId) {
        let now = self.now;
        let host = &mut self.hosts[h];
        if !host.shims.get(&attempt).is_some_and(|shim| shim.runs && shim.ends_at.is_some_and(|at| at <= now)) {
            return;
        }
        let shim = host.shims.remove(&attempt).expect("looked at above");
        let outcome = match shim.stopping {
            Some((cause, _)) => Outcome { cause: Some(cause), ..Outcome::default() },
            None => shim.outcome,
        };
        if let Some(taken) = host.disk.taken.get_mut(&attempt) {
            taken.exit = Some(Exit(outcome.clone()));
        }
        self.tell_agent(h, attempt, outcome);
    }

    /// A shim is killed, and its processes with it: nobody sees how they ended.
    pub(crate) fn shim_kill(&mut self, h: HostId, attempt: AttemptId) {
        if self.hosts[h].shims.remove(&attempt).is_some() {
            let unseen = Outcome { cause: Some(FailureCause::Lost), ..Outcome::default() };
            let zero = Outcome { exit_code: Some(0), ..Outcome::default() };
            let outcome = if self.plan.bug == Some(Bug::ExitUnknownIsZero) { zero } else { unseen };
            self.unseen.insert(attempt);
            self.tell_agent(h, attempt, outcome);
        }
    }

    fn tell_agent(&mut self, h: HostId, attempt: AttemptId, outcome: Outcome) {
        if let Some(agent) = &self.hosts[h].agent {
            let life = agent.life;
            self.after(0..5 * MS, Happening::Dead { host: h, life, attempt, outcome });
        }
    }

    /// The clock by which a machine's fences count.
    pub(crate) fn fence_clock(&self, host: &Host) -> Time {
        if self.plan.bug == Some(Bug::FenceStopsInSuspend) { host.monotonic(self.now) } else { host.boottime(self.now) }
    }

    /// A shim looks at the lease.
    pub(crate) fn on_fence(&mut self, h: HostId, attempt: AttemptId) {
        let now = self.now;
        let host = &self.hosts[h];
        let Some(shim) = host.shims.get(&attempt).filter(|shim| shim.fenced) else { return };
        if self.plan.bug == Some(Bug::NoFence) {
            return;
        }
        let (boot, clock, lease) = (host.boot, self.fence_clock(host), host.disk.lease);
        let times = if lease.boot == boot { lease.stop_times(shim.own_lease) } else { None };
        let next = match times {
            None => now + 10 * SECOND,
            Some((term, kill)) if clock >= term => {
                let kill_at = now + (kill - clock).clamp(0, GRACE);
                return self.process_stop(h, attempt, FailureCause::Lost, kill_at);
            }
            Some((term, _)) => now + (term - clock).max(MS),
        };
        self.at(next, Happening::Fence { host: h, boot, attempt });
    }
}
