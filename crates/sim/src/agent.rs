//! The agent as a state machine: what it keeps on disk before it says anything, what it repeats, whom it
//! lets run, and how it finds its way after a death. Modelled on the worker crate rule by rule; the real
//! one is tested with real processes.

use crate::{
    Bug, Fault, MS, SECOND, Time, Violation,
    host::{Exit, GRACE, Host, HostId, Lease, Shim, Spooled, Taken},
    wire::{Down, Up},
    world::{Happening, World},
};
use fetchml_api::{
    AttemptEpoch, AttemptId, AttemptPhase, Demand, FailureCause, SlotKind, TaskId,
    link::{Held as HeldReport, Outcome, Report, SpooledReport},
};
use fetchml_scheduler::{Lease as TaskLease, Message};
use std::collections::{BTreeMap, BTreeSet};

/// Beats and looks at the lease.
pub(crate) const TICK: Time = SECOND;
const BEAT_EVERY: Time = 5 * SECOND;
const BEAT_TIMEOUT: Time = 15 * SECOND;
/// Reports of one message.
const REPORTS_AT_ONCE: usize = 64;

/// An agent's process.
#[derive(Debug)]
pub(crate) struct Agent {
    /// Number of its life on this machine.
    pub(crate) life: u64,
    /// Tells two agents with one worker id apart.
    pub(crate) run: u64,
    pub(crate) session: Option<u64>,
    welcomed: bool,
    /// Was welcomed once: may start what it found.
    was_connected: bool,
    pub(crate) paused_until: Option<Time>,
    pub(crate) resumed_at: Time,
    held: BTreeMap<AttemptId, Held>,
    ended: BTreeSet<AttemptId>,
    next_order: u64,
    last_beat: Time,
    last_beat_answered: Time,
    /// When the oldest unanswered beat was sent, on the boot clock.
    unanswered: Option<Time>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Staging,
    Staged,
    /// A node of a gang has its room and waits for the others.
    Ready,
    Going,
    Dead,
    Reported,
}

#[derive(Clone, Debug)]
struct Held {
    order: u64,
    phase: Phase,
    stop: Option<FailureCause>,
    returning: bool,
    forgotten: bool,
    released: bool,
    outcome: Outcome,
}

impl Agent {
    fn new(life: u64, run: u64, now: Time) -> Self {
        Self {
            life,
            run,
            session: None,
            welcomed: false,
            was_connected: false,
            paused_until: None,
            resumed_at: now,
            held: BTreeMap::new(),
            ended: BTreeSet::new(),
            next_order: 0,
            last_beat: 0,
            last_beat_answered: 0,
            unanswered: None,
        }
    }

    fn hold(&mut self, attempt: AttemptId, phase: Phase) {
        self.next_order += 1;
        let held = Held {
            order: self.next_order,
            phase,
            stop: None,
            returning: false,
            forgotten: false,
            released: false,
            outcome: Outcome::default(),
        };
        self.held.insert(attempt, held);
    }

    /// Whether nothing is left to do or to tell.
    pub(crate) fn is_idle(&self) -> bool {
        self.held.is_empty()
    }
}

fn lost(why: &str) -> Outcome {
    Outcome { cause: Some(FailureCause::Lost), error: Some(why.to_owned()), ..Outcome::default() }
}

fn stopped(cause: FailureCause) -> Outcome {
    Outcome { cause: Some(cause), ..Outcome::default() }
}

impl World {
    /// Starts the agent of a machine, which takes up what the one before left.
    pub(crate) fn agent_start(&mut self, h: HostId) {
        let (bug, now) = (self.plan.bug, self.now);
        let run = self.draw(|chance| chance.u64(1..));
        let host = &mut self.hosts[h];
        if !host.on || host.agent.is_some() {
            return;
        }
        host.agents += 1;
        let mut agent = Agent::new(host.agents, run, now);
        let life = agent.life;
        let (mut staging, mut dead) = (Vec::new(), Vec::new());
        let found: Vec<_> = host.disk.taken.iter().map(|(id, taken)| (*id, taken.clone())).collect();
        for (attempt, taken) in found {
            let reported = host.disk.spool.iter().any(|line| is_last(&line.report, attempt));
            let alive = bug != Some(Bug::NoReattach) && host.shims.contains_key(&attempt);
            let go = taken.go && bug != Some(Bug::GoForgotten);
            let (phase, outcome) = if reported {
                (Phase::Reported, None)
            } else if alive {
                (Phase::Going, None)
            } else if let Some(Exit(outcome)) = taken.exit {
                (Phase::Dead, Some(outcome))
            } else if go {
                let unseen = lost("its supervisor and the agent were both gone when it ended");
                let unseen = if bug == Some(Bug::ExitUnknownIsZero) { ok() } else { unseen };
                (Phase::Dead, Some(unseen))
            } else if taken.boot != host.boot {
                (Phase::Dead, Some(lost("the machine was restarted")))
            } else {
                (Phase::Staging, None)
            };
            agent.hold(attempt, phase);
            match phase {
                Phase::Staging => staging.push(attempt),
                Phase::Dead => dead.push((attempt, outcome.unwrap_or_default())),
                Phase::Staged | Phase::Ready | Phase::Going | Phase::Reported => {}
            }
        }
        host.agent = Some(agent);
        for attempt in staging {
            self.stage(h, attempt);
        }
        for (attempt, outcome) in dead {
            self.after(0..5 * MS, Happening::Dead { host: h, life, attempt, outcome });
        }
        self.after(0..TICK, Happening::Tick { host: h, life });
        self.after(0..5 * SECOND, Happening::Connect { host: h, life });
    }

    /// The agent dies. Shims that were not told to go end with it.
    pub(crate) fn agent_kill(&mut self, h: HostId) {
        let host = &mut self.hosts[h];
        if host.agent.take().is_some() {
            host.shims.retain(|_, shim| shim.runs);
            self.link_lost(h);
        }
    }

    pub(crate) fn on_connect(&mut self, h: HostId) {
        let Some(agent) = &self.hosts[h].agent else { return };
        let life = agent.life;
        if agent.session.is_some() {
            return;
        }
        let Some(session) = self.link_open(h) else {
            self.after(300 * MS..5 * SECOND, Happening::Connect { host: h, life });
            return;
        };
        let host = &mut self.hosts[h];
        let boottime = host.boottime(self.now);
        let agent = host.agent.as_mut().expect("looked at above");
        (agent.session, agent.welcomed) = (Some(session), false);
        (agent.last_beat, agent.unanswered) = (boottime, Some(boottime));
        let held = agent.held.iter().filter(|(_, held)| !held.forgotten).map(|(attempt, _)| attempt);
        let inventory = held.filter_map(|attempt| {
            let taken = host.disk.taken.get(attempt)?;
            Some(HeldReport { attempt: *attempt, task: taken.task, epoch: taken.epoch, log_acked: 0, metrics_acked: 0 })
        });
        let hello = Up::Hello {
            run: agent.run,
            incarnation_seen: host.disk.incarnation_seen,
            capabilities: Box::new(host.capabilities.clone()),
            slots: host.slots,
            inventory: inventory.collect(),
        };
        self.send_up(h, hello);
    }

    pub(crate) fn on_down(&mut self, h: HostId, session: u64, down: Down) {
        if self.hosts[h].agent.as_ref().is_none_or(|agent| agent.session != Some(session)) {
            return;
        }
        match down {
            Down::Welcome { incarnation, lost_after, forget } => self.on_welcome(h, incarnation, lost_after, &forget),
            Down::Refused => self.link_lost(h),
            Down::Order(Message::Assign { attempt, task, epoch, gpus, .. }) => {
                self.on_assign(h, attempt, task, epoch, &gpus);
            }
            Down::Order(Message::Cancel { attempt, cause }) => {
                let ignored = self.plan.bug == Some(Bug::CancelIgnored);
                if !ignored || self.phase(h, attempt).is_some_and(|phase| phase == Phase::Staging) {
                    self.stop(h, attempt, cause);
                }
            }
            Down::Order(Message::Revoke { attempt }) => self.on_revoke(h, attempt),
            Down::Order(Message::Forget { attempt }) => self.on_forget(h, attempt),
            Down::Order(Message::Release { attempt, .. }) => self.on_release(h, attempt),
            // Only shown.
            Down::Order(Message::Drain { .. }) => {}
            Down::Ack(seq) => self.on_ack(h, seq),
            Down::BeatAck(sent) => self.on_beat_ack(h, sent),
        }
    }

    fn on_welcome(&mut self, h: HostId, incarnation: u64, lost_after: Time, forget: &[AttemptId]) {
        let boottime = self.hosts[h].boottime(self.now);
        let host = &mut self.hosts[h];
        host.disk.incarnation_seen = host.disk.incarnation_seen.max(incarnation);
        let agent = host.agent.as_mut().expect("it is the receiver");
        (agent.welcomed, agent.was_connected) = (true, true);
        // The hello was the first beat of the session.
        let sent = agent.unanswered.take().unwrap_or(boottime);
        agent.last_beat_answered = sent;
        host.disk.lease = Lease { boot: host.boot, sent, lost_after };
        for attempt in forget {
            self.on_forget(h, *attempt);
        }
        if self.plan.bug != Some(Bug::NoResend) {
            let host = &self.hosts[h];
            let reports: Vec<_> = host.disk.spool.iter().map(|line| line.report.clone()).collect();
            for reports in reports.chunks(REPORTS_AT_ONCE) {
                self.send_up(h, Up::Reports(reports.to_vec()));
            }
        }
        self.admit(h);
    }

    fn on_assign(&mut self, h: HostId, attempt: AttemptId, task: TaskId, epoch: AttemptEpoch, gpus: &[u32]) {
        let now = self.now;
        let host = &mut self.hosts[h];
        let agent = host.agent.as_mut().expect("it is the receiver");
        if agent.held.contains_key(&attempt) && self.plan.bug != Some(Bug::StartTwice) {
            return;
        }
        if agent.ended.contains(&attempt) {
            // A server whose database was put back assigns what has run already.
            let waits = host.disk.spool.iter().any(|line| is_last(&line.report, attempt));
            if !waits && self.plan.bug != Some(Bug::SilentOnRepeat) {
                self.report(h, attempt, task, epoch, Report::Ended(lost("it ran before the database was restored")));
            }
            return;
        }
        if now < host.disk_full_until {
            agent.ended.insert(attempt);
            let outcome = Outcome { cause: Some(FailureCause::Launch), transient: true, ..Outcome::default() };
            return self.report(h, attempt, task, epoch, Report::Ended(outcome));
        }
        let taken = Taken { task, epoch, gpus: gpus.to_vec(), boot: host.boot, at: now, go: false, exit: None };
        host.disk.taken.insert(attempt, taken);
        agent.hold(attempt, Phase::Staging);
        self.report(h, attempt, task, epoch, Report::Accepted);
        self.stage(h, attempt);
    }

    fn stage(&mut self, h: HostId, attempt: AttemptId) {
        let Some(agent) = &self.hosts[h].agent else { return };
        let life = agent.life;
        let task = self.hosts[h].disk.taken[&attempt].task;
        let takes = self.behaviour(task, attempt).staging;
        self.at(self.now + takes, Happening::Staged { host: h, life, attempt });
    }

    pub(crate) fn on_staged(&mut self, h: HostId, attempt: AttemptId) {
        let Some(held) = self.held(h, attempt) else { return };
        if held.phase != Phase::Staging {
            return;
        }
        if let Some(cause) = held.stop {
            return self.dead(h, attempt, stopped(cause));
        }
        let task = self.hosts[h].disk.taken[&attempt].task;
        if let Some(outcome) = self.behaviour(task, attempt).staging_fails {
            return self.dead(h, attempt, outcome);
        }
        self.held_mut(h, attempt).phase = Phase::Staged;
        self.admit(h);
    }

    /// Lets those run that fit, in order; what one that does not fit needs is kept for it.
    fn admit(&mut self, h: HostId) {
        let Some(agent) = &self.hosts[h].agent else { return };
        if !agent.was_connected {
            return;
        }
        let host = &self.hosts[h];
        let mut used = Used::default();
        for (attempt, held) in &agent.held {
            if matches!(held.phase, Phase::Ready | Phase::Going)
                && !(self.plan.bug == Some(Bug::SlotBeforeDead) && held.stop.is_some())
            {
                used.add(self.demand_of(host, *attempt), &host.disk.taken[attempt].gpus);
            }
        }
        let mut waiting: Vec<_> = agent.held.iter().filter(|(_, held)| held.phase == Phase::Staged).collect();
        waiting.sort_by_key(|(_, held)| held.order);
        let mut go = Vec::new();
        for (attempt, held) in waiting {
            let (demand, gpus) = (self.demand_of(host, *attempt), &host.disk.taken[attempt].gpus);
            if used.fits(demand, gpus, host) && held.stop.is_none() {
                go.push(*attempt);
            }
            used.add(demand, gpus);
        }
        for attempt in go {
            let taken = &self.hosts[h].disk.taken[&attempt];
            let (task, epoch) = (taken.task, taken.epoch);
            if self.specs[&task].demand.nodes == 1 {
                self.launch(h, attempt);
                continue;
            }
            self.held_mut(h, attempt).phase = Phase::Ready;
            self.report(h, attempt, task, epoch, Report::Ready { address: format!("10.0.0.{h}"), port: 29_500 });
            let released = self.held(h, attempt).is_some_and(|held| held.released);
            if released || self.plan.bug == Some(Bug::NoRelease) {
                self.launch(h, attempt);
            }
        }
    }

    /// All nodes of a gang are ready.
    fn on_release(&mut self, h: HostId, attempt: AttemptId) {
        if self.held(h, attempt).is_none() {
            return;
        }
        let held = self.held_mut(h, attempt);
        held.released = true;
        if held.phase == Phase::Ready && held.stop.is_none() {
            self.launch(h, attempt);
        }
    }

    fn launch(&mut self, h: HostId, attempt: AttemptId) {
        self.held_mut(h, attempt).phase = Phase::Going;
        let host = &self.hosts[h];
        let life = host.agent.as_ref().expect("it holds the attempt").life;
        let taken = &host.disk.taken[&attempt];
        let shim = self.new_shim(taken.task, taken.gpus.clone());
        self.hosts[h].shims.insert(attempt, shim);
        self.after(MS..20 * MS, Happening::ShimReady { host: h, life, attempt });
    }

    fn new_shim(&self, task: TaskId, gpus: Vec<u32>) -> Shim {
        let new = &self.specs[&task];
        let (fenced, own_lease) = match new.lease {
            TaskLease::AsSet => (true, None),
            TaskLease::Seconds(seconds) => (true, Some(Time::from(seconds) * SECOND)),
            TaskLease::Kept => (false, None),
        };
        Shim {
            task,
            gpus,
            demand: new.demand.clone(),
            runs: false,
            ends_at: None,
            outcome: Outcome::default(),
            ignores_term: false,
            stopping: None,
            fenced,
            own_lease,
        }
    }

    /// The shim says that it is ready; the agent says go.
    pub(crate) fn on_shim_ready(&mut self, h: HostId, attempt: AttemptId) -> Result<(), Violation> {
        let Some(held) = self.held(h, attempt) else { return Ok(()) };
        if held.phase != Phase::Going {
            return Ok(());
        }
        if let Some(cause) = held.stop {
            self.hosts[h].shims.remove(&attempt);
            self.dead(h, attempt, stopped(cause));
            return Ok(());
        }
        let taken = self.hosts[h].disk.taken.get_mut(&attempt).expect("what is held is on the disk");
        taken.go = true;
        let (task, epoch) = (taken.task, taken.epoch);
        self.process_start(h, attempt)?;
        self.report(h, attempt, task, epoch, Report::Running);
        Ok(())
    }

    /// An attempt's tree is dead, or will never be.
    fn dead(&mut self, h: HostId, attempt: AttemptId, outcome: Outcome) {
        let Some(agent) = &self.hosts[h].agent else { return };
        let life = agent.life;
        self.after(0..2 * MS, Happening::Dead { host: h, life, attempt, outcome });
    }

    pub(crate) fn on_dead(&mut self, h: HostId, attempt: AttemptId, outcome: Outcome) {
        let Some(held) = self.held(h, attempt) else { return };
        if held.phase == Phase::Reported {
            return;
        }
        let (forgotten, returning) = (held.forgotten, held.returning);
        let taken = &self.hosts[h].disk.taken[&attempt];
        let (task, epoch) = (taken.task, taken.epoch);
        let held = self.held_mut(h, attempt);
        held.phase = Phase::Dead;
        if forgotten {
            self.drop_attempt(h, attempt);
        } else if returning {
            held.phase = Phase::Reported;
            self.report(h, attempt, task, epoch, Report::Returned);
        } else {
            held.outcome = outcome;
            self.report(h, attempt, task, epoch, Report::Collecting);
            self.upload(h, attempt);
        }
        self.admit(h);
    }

    fn upload(&mut self, h: HostId, attempt: AttemptId) {
        let Some(agent) = &self.hosts[h].agent else { return };
        let life = agent.life;
        self.after(5 * MS..3 * SECOND, Happening::Uploaded { host: h, life, attempt });
    }

    pub(crate) fn on_uploaded(&mut self, h: HostId, attempt: AttemptId) {
        let Some(held) = self.held(h, attempt) else { return };
        if held.phase != Phase::Dead {
            return;
        }
        if !self.hosts[h].agent.as_ref().is_some_and(|agent| agent.welcomed) {
            return self.upload(h, attempt);
        }
        let taken = &self.hosts[h].disk.taken[&attempt];
        let (task, epoch) = (taken.task, taken.epoch);
        let held = self.held_mut(h, attempt);
        held.phase = Phase::Reported;
        let outcome = held.outcome.clone();
        self.report(h, attempt, task, epoch, Report::Ended(outcome));
    }

    /// On disk first, then on its way.
    fn report(&mut self, h: HostId, attempt: AttemptId, task: TaskId, epoch: AttemptEpoch, report: Report) {
        let phase = match &report {
            Report::Running => Some(AttemptPhase::Running),
            Report::Collecting => Some(AttemptPhase::Collecting),
            Report::Ended(_) => Some(AttemptPhase::Ended),
            _ => None,
        };
        self.told.extend(phase.map(|phase| (attempt, phase)));
        let host = &mut self.hosts[h];
        let report = SpooledReport { seq: host.disk.next_seq, attempt, task, epoch, report, provenance: None };
        host.disk.next_seq += 1;
        host.disk.spool.push_back(Spooled { report: report.clone(), at: self.now });
        if host.agent.as_ref().is_some_and(|agent| agent.welcomed) {
            self.send_up(h, Up::Reports(vec![report]));
        }
    }

    /// Ends an attempt, however far it is. The first cause stays.
    fn stop(&mut self, h: HostId, attempt: AttemptId, cause: FailureCause) {
        let Some(held) = self.held(h, attempt) else { return };
        if held.stop.is_some() {
            return;
        }
        let phase = held.phase;
        self.held_mut(h, attempt).stop = Some(cause);
        match phase {
            // A builder is told and awaited.
            Phase::Staging => {
                let life = self.hosts[h].agent.as_ref().expect("it holds the attempt").life;
                self.after(0..SECOND / 2, Happening::Staged { host: h, life, attempt });
            }
            Phase::Staged | Phase::Ready => self.dead(h, attempt, stopped(cause)),
            Phase::Going => {
                let kill_at = self.now + GRACE;
                self.process_stop(h, attempt, cause, kill_at);
                if self.plan.bug == Some(Bug::SlotBeforeDead) {
                    self.dead(h, attempt, stopped(cause));
                }
            }
            Phase::Dead | Phase::Reported => {}
        }
    }

    fn on_revoke(&mut self, h: HostId, attempt: AttemptId) {
        let Some(held) = self.held(h, attempt) else { return };
        if !matches!(held.phase, Phase::Staging | Phase::Staged) || held.forgotten || held.stop.is_some() {
            return;
        }
        self.held_mut(h, attempt).returning = true;
        self.stop(h, attempt, FailureCause::Cancelled);
    }

    fn on_forget(&mut self, h: HostId, attempt: AttemptId) {
        self.hosts[h].disk.spool.retain(|line| line.report.attempt != attempt);
        let Some(held) = self.held(h, attempt) else { return };
        if self.plan.bug == Some(Bug::ForgetIgnored) && held.phase == Phase::Going {
            return;
        }
        let phase = held.phase;
        self.held_mut(h, attempt).forgotten = true;
        match phase {
            Phase::Staging | Phase::Staged | Phase::Ready | Phase::Going => self.stop(h, attempt, FailureCause::Lost),
            Phase::Dead | Phase::Reported => self.drop_attempt(h, attempt),
        }
    }

    fn on_ack(&mut self, h: HostId, seq: u64) {
        let host = &mut self.hosts[h];
        let mut over = Vec::new();
        while let Some(line) = host.disk.spool.front().filter(|line| line.report.seq <= seq) {
            if matches!(line.report.report, Report::Ended(_) | Report::Returned) {
                over.push(line.report.attempt);
            }
            host.disk.spool.pop_front();
        }
        for attempt in over {
            if !self.server.database.is_over(attempt) && !self.is_excused(h) {
                let said = format!("the end of {attempt} was acknowledged and is not durable");
                self.broken.get_or_insert(Violation(said));
            }
            self.drop_attempt(h, attempt);
        }
    }

    fn drop_attempt(&mut self, h: HostId, attempt: AttemptId) {
        let host = &mut self.hosts[h];
        host.disk.taken.remove(&attempt);
        host.disk.spool.retain(|line| line.report.attempt != attempt);
        if let Some(agent) = &mut host.agent {
            agent.ended.insert(attempt);
            agent.held.remove(&attempt);
        }
    }

    fn on_beat_ack(&mut self, h: HostId, sent: Time) {
        let now = self.now;
        let host = &mut self.hosts[h];
        let boottime = host.boottime(now);
        let agent = host.agent.as_mut().expect("it is the receiver");
        if sent > agent.last_beat || sent <= agent.last_beat_answered {
            return;
        }
        agent.last_beat_answered = sent;
        agent.unanswered = (sent != agent.last_beat).then_some(agent.last_beat);
        let from = if self.plan.bug == Some(Bug::FenceFromAnswer) { boottime } else { sent };
        host.disk.lease = Lease { boot: host.boot, sent: from, ..host.disk.lease };
    }

    /// Once a second: beats, and ends what the server is about to give up.
    pub(crate) fn on_tick(&mut self, h: HostId) {
        let now = self.now;
        let host = &mut self.hosts[h];
        let boottime = host.boottime(now);
        let Some(agent) = &mut host.agent else { return };
        let life = agent.life;
        let beats = agent.welcomed && boottime - agent.last_beat >= BEAT_EVERY;
        if beats {
            agent.last_beat = boottime;
            agent.unanswered = agent.unanswered.or(Some(boottime));
        }
        let dead_link = agent.session.is_some() && agent.unanswered.is_some_and(|at| boottime - at > BEAT_TIMEOUT);
        if beats {
            self.send_up(h, Up::Beat(boottime));
        }
        if dead_link {
            self.link_lost(h);
        }
        self.obey_lease(h);
        self.at(now + TICK, Happening::Tick { host: h, life });
    }

    fn obey_lease(&mut self, h: HostId) {
        if self.plan.bug == Some(Bug::NoFence) {
            return;
        }
        let host = &self.hosts[h];
        let Some(agent) = &host.agent else { return };
        let clock = self.fence_clock(host);
        let unfinished =
            |held: &Held| matches!(held.phase, Phase::Staging | Phase::Staged | Phase::Ready | Phase::Going);
        let due: Vec<AttemptId> = (agent.held.iter().filter(|(_, held)| unfinished(held)))
            .filter_map(|(attempt, held)| {
                let task = host.disk.taken[attempt].task;
                let shim = self.new_shim(task, Vec::new());
                let (term, _) = host.disk.lease.stop_times(shim.own_lease)?;
                (shim.fenced && held.stop.is_none() && clock >= term).then_some(*attempt)
            })
            .collect();
        for attempt in due {
            self.stop(h, attempt, FailureCause::Lost);
        }
    }

    /// The link is gone for the agent; it tries anew.
    pub(crate) fn link_lost(&mut self, h: HostId) {
        self.link_close(h);
        let Some(agent) = &mut self.hosts[h].agent else { return };
        (agent.session, agent.welcomed, agent.unanswered) = (None, false, None);
        let life = agent.life;
        self.after(300 * MS..5 * SECOND, Happening::Connect { host: h, life });
    }

    fn held(&self, h: HostId, attempt: AttemptId) -> Option<&Held> {
        self.hosts[h].agent.as_ref()?.held.get(&attempt)
    }

    fn held_mut(&mut self, h: HostId, attempt: AttemptId) -> &mut Held {
        let agent = self.hosts[h].agent.as_mut().expect("it holds the attempt");
        agent.held.get_mut(&attempt).expect("it is held")
    }

    fn phase(&self, h: HostId, attempt: AttemptId) -> Option<Phase> {
        self.held(h, attempt).map(|held| held.phase)
    }

    fn demand_of(&self, host: &Host, attempt: AttemptId) -> &Demand {
        &self.specs[&host.disk.taken[&attempt].task].demand
    }

    /// An agent stands still.
    pub(crate) fn agent_pause(&mut self, h: HostId, until: Time) {
        if let Some(agent) = &mut self.hosts[h].agent {
            agent.paused_until = Some(until);
            let life = agent.life;
            self.at(until, Happening::AgentResumes { host: h, life });
            self.count(Fault::AgentPause);
        }
    }
}

fn ok() -> Outcome {
    Outcome { exit_code: Some(0), ..Outcome::default() }
}

fn is_last(report: &SpooledReport, attempt: AttemptId) -> bool {
    report.attempt == attempt && matches!(report.report, Report::Ended(_) | Report::Returned)
}

/// What is given out of a machine.
#[derive(Default)]
struct Used {
    batch: u32,
    service: u32,
    cpu: u32,
    memory: u32,
    gpus: BTreeSet<u32>,
}

impl Used {
    fn add(&mut self, demand: &Demand, gpus: &[u32]) {
        match demand.slot {
            SlotKind::Batch => self.batch += 1,
            SlotKind::Service => self.service += 1,
        }
        self.cpu += demand.cpu;
        self.memory += demand.memory_gb;
        self.gpus.extend(gpus);
    }

    fn fits(&self, demand: &Demand, gpus: &[u32], host: &Host) -> bool {
        let slot = match demand.slot {
            SlotKind::Batch => self.batch < host.slots.0,
            SlotKind::Service => self.service < host.slots.1,
        };
        slot && self.cpu + demand.cpu <= host.capabilities.cpu_cores
            && self.memory + demand.memory_gb <= host.capabilities.memory_gb
            && gpus.iter().all(|gpu| !self.gpus.contains(gpu))
    }
}
