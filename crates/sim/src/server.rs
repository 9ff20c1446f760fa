//! The server: batches of commands, one turn in flight, one transaction a turn, and only then messages
//! and answers. Modelled on the driver of the server crate.

use crate::{
    Bug, EPOCH, Fault, MS, SECOND, Time, Violation,
    database::{Database, Write},
    host::HostId,
    wire::{Down, Up},
    world::{Happening, World},
};
use fetchml_api::{
    AttemptId, Capabilities, Micros, Quota, QuotaScope, ReservationId, ReservationStatus, Role, TaskId, WorkerId,
    link::{Held, SpooledReport},
};
use fetchml_scheduler::{Answer, Drain, Effect, Event, Message, NewReservation, NewTask, Scheduler, Settings};
use std::collections::{BTreeMap, VecDeque};

/// Commands of one turn.
const BATCH: usize = 64;
/// Commands that may wait.
const INBOX: usize = 4_096;
/// Silence after which another agent may take over a worker id, and after which a session is closed.
const CLONE_SILENCE: Time = 15 * SECOND;
const LINK_SILENCE: Time = 20 * SECOND;
/// The lease that the server is set to.
pub(crate) const LOST_AFTER_S: i64 = 60;
/// Tasks of one user that may be on workers.
pub(crate) const RUNNING_MAX: u32 = 6;
/// A restored core is compared with the one that wrote the rows after this many commits.
const COMPARE_EVERY: u64 = 256;
/// Invariants of the core are looked at after this many turns that changed something.
const LOOK_EVERY: u64 = 4;

/// What the server has, alive or dead.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) database: Database,
    /// An older copy.
    pub(crate) backup: Option<Database>,
    /// The incarnation in the file beside the database.
    incarnation_file: u64,
    pub(crate) life: Option<Life>,
    lives: u64,
    pub(crate) paused_until: Option<Time>,
    pub(crate) busy_until: Time,
    pub(crate) slow_until: Time,
    /// The outcome of the next commit will not be known.
    pub(crate) unknown_next: bool,
    /// How far its wall clock is from the truth.
    pub(crate) wall_offset: Time,
    commits: u64,
}

/// A life of the server's process.
#[derive(Debug)]
pub(crate) struct Life {
    number: u64,
    core: Scheduler,
    incarnation: u64,
    /// Logical time at a true time.
    clock: (Time, Time),
    sessions: BTreeMap<WorkerId, Session>,
    /// Open connections, and when each was last heard.
    connections: BTreeMap<u64, Connection>,
    inbox: VecDeque<(Command, Option<Ticket>)>,
    flight: Option<Turn>,
    wake_at: Option<Time>,
    outage_until: Option<Time>,
    turns: u64,
}

#[derive(Clone, Copy, Debug)]
struct Connection {
    host: HostId,
    heard: Time,
    welcomed: bool,
}

#[derive(Clone, Copy, Debug)]
struct Session {
    id: u64,
    run: u64,
    heard: Time,
}

/// Number of a request that waits for its answer.
pub(crate) type Ticket = u64;

#[derive(Clone, Debug)]
pub(crate) enum Command {
    Submit(NewTask),
    Cancel(TaskId),
    Drain(WorkerId, Drain),
    Undrain(WorkerId),
    Reserve(NewReservation),
    Release(ReservationId),
    Join { session: u64, worker: WorkerId, hello: Hello },
    Heard { worker: WorkerId, session: u64, sent: Time },
    Reports { worker: WorkerId, session: u64, reports: Vec<SpooledReport> },
    Closed { worker: WorkerId, session: u64 },
}

#[derive(Clone, Debug)]
pub(crate) struct Hello {
    run: u64,
    incarnation_seen: u64,
    capabilities: Capabilities,
    slots: (u32, u32),
    inventory: Vec<Held>,
}

#[derive(Debug, Default)]
struct Turn {
    now: Micros,
    writes: Vec<Write>,
    sends: Vec<(WorkerId, Message)>,
    acks: BTreeMap<WorkerId, u64>,
    beats: Vec<(WorkerId, Time)>,
    joined: Vec<(WorkerId, Session, Down)>,
    refused: Vec<u64>,
    replies: Vec<(Ticket, bool)>,
    /// Who must repeat what it said if this is not committed.
    reporters: Vec<WorkerId>,
}

/// What became of a commit.
enum Committed {
    Yes,
    No,
    Unknown(bool),
}

impl Server {
    pub(crate) fn new() -> Self {
        Self {
            database: Database::new(),
            backup: None,
            incarnation_file: 0,
            life: None,
            lives: 0,
            paused_until: None,
            busy_until: 0,
            slow_until: 0,
            unknown_next: false,
            wall_offset: 0,
            commits: 0,
        }
    }

    /// Whether all that was submitted has ended.
    pub(crate) fn is_drained(&self) -> bool {
        self.life.as_ref().is_some_and(|life| life.flight.is_none() && life.inbox.is_empty())
            && self.database.tasks.values().all(|row| row.state.status.is_terminal())
            && self.database.reservations.values().all(|record| record.status == ReservationStatus::Expired)
    }

    /// The state as text, to look for a fault.
    pub(crate) fn describe(&self) -> String {
        self.life.as_ref().map_or_else(|| "the server is down".to_owned(), |life| life.core.to_string())
    }
}

/// In half of all runs tasks may be stopped for others.
fn settings(seed: u64, incarnation: u64, epochs_used: u64) -> Settings {
    let preempts = seed.is_multiple_of(2);
    let quota = Quota { running: Some(RUNNING_MAX), gpus: Some(6), max_priority: Some(7), ..Quota::default() };
    Settings {
        incarnation,
        epochs_used,
        lost_after_s: LOST_AFTER_S,
        // Short enough to be seen in a short run.
        hold_after_s: 120,
        prepare_timeout_s: 240,
        quotas: BTreeMap::from([(QuotaScope::Role(Role::User), quota)]),
        preempt_batch: preempts,
        preempt_service: preempts,
        preempt_cooldown_s: 60,
        ..Settings::default()
    }
}

impl Life {
    fn logical(&self, now: Time) -> Micros {
        Micros(self.clock.0 + now - self.clock.1)
    }

    fn true_time(&self, logical: Micros) -> Time {
        logical.0 - self.clock.0 + self.clock.1
    }
}

impl World {
    pub(crate) fn server_start(&mut self) -> Result<(), Violation> {
        let (now, bug) = (self.now, self.plan.bug);
        let server = &mut self.server;
        if server.life.is_some() {
            return Ok(());
        }
        server.lives += 1;
        let seen = server.database.incarnation.max(server.incarnation_file);
        let incarnation = if bug == Some(Bug::IncarnationReused) { seen.max(1) } else { seen + 1 };
        server.incarnation_file = incarnation;
        let wall = Micros(EPOCH + now + server.wall_offset);
        let logical = wall.max(server.database.last_time);
        server.database.apply(logical, &[Write::Incarnation(incarnation)])?;
        let core = restored(&server.database, settings(self.plan.seed, incarnation, 0), logical, bug);
        server.life = Some(Life {
            number: server.lives,
            core,
            incarnation,
            clock: (logical.0, now),
            sessions: BTreeMap::new(),
            connections: BTreeMap::new(),
            inbox: VecDeque::new(),
            flight: None,
            wake_at: None,
            outage_until: None,
            turns: 0,
        });
        self.wake_server(now);
        Ok(())
    }

    /// Kills the server. A commit on its way may or may not be done.
    pub(crate) fn server_kill(&mut self) -> Result<(), Violation> {
        let done = self.draw(fastrand::Rng::bool);
        let server = &mut self.server;
        server.paused_until = None;
        let Some(life) = server.life.take() else { return Ok(()) };
        if let Some(turn) = life.flight.filter(|_| done) {
            server.database.apply(turn.now, &turn.writes)?;
        }
        self.tickets.clear();
        self.links_reset();
        for connection in life.connections.into_values() {
            self.after(MS..2 * SECOND, Happening::LinkLost { host: connection.host, session: None });
        }
        Ok(())
    }

    /// A request from a client. Without an answer its outcome is unknown.
    pub(crate) fn request(&mut self, command: Command, ticket: Ticket) {
        self.push(command, Some(ticket));
    }

    fn push(&mut self, command: Command, ticket: Option<Ticket>) {
        let now = self.now;
        let Some(life) = &mut self.server.life else { return };
        if life.inbox.len() < INBOX {
            life.inbox.push_back((command, ticket));
            self.wake_server(now);
        }
    }

    fn wake_server(&mut self, at: Time) {
        let Some(life) = &mut self.server.life else { return };
        if life.wake_at.is_none_or(|before| at < before) {
            life.wake_at = Some(at);
            let number = life.number;
            self.at(at, Happening::Turn { life: number });
        }
    }

    /// A frame of a worker arrived.
    pub(crate) fn on_up(&mut self, h: HostId, session: u64, up: Up) {
        let (now, worker) = (self.now, self.hosts[h].worker);
        let Some(life) = &mut self.server.life else { return };
        match up {
            Up::Hello { run, incarnation_seen, capabilities, slots, inventory } => {
                life.connections.insert(session, Connection { host: h, heard: now, welcomed: false });
                let hello = Hello { run, incarnation_seen, capabilities: *capabilities, slots, inventory };
                self.push(Command::Join { session, worker, hello }, None);
            }
            Up::Beat(sent) => {
                let Some(connection) = life.connections.get_mut(&session) else { return };
                connection.heard = now;
                self.push(Command::Heard { worker, session, sent }, None);
                let zombie = self.plan.bug == Some(Bug::ZombieSession) && !self.is_open(worker, session);
                if self.plan.bug == Some(Bug::BeatAnsweredEarly) || zombie {
                    self.send_down(h, session, Down::BeatAck(sent));
                }
            }
            Up::Reports(reports) => {
                let Some(connection) = life.connections.get_mut(&session) else { return };
                connection.heard = now;
                self.push(Command::Reports { worker, session, reports }, None);
            }
        }
        self.at(now + LINK_SILENCE, Happening::Silence { session });
    }

    /// Whether a session is the one that its worker has.
    fn is_open(&self, worker: WorkerId, session: u64) -> bool {
        let life = self.server.life.as_ref();
        life.and_then(|life| life.sessions.get(&worker)).is_some_and(|open| open.id == session)
    }

    /// The server looks whether a connection is still alive, or hears that it is closed.
    pub(crate) fn on_silence(&mut self, session: u64, closed: bool) {
        let now = self.now;
        let Some(life) = &mut self.server.life else { return };
        let Some(connection) = life.connections.get(&session).copied() else { return };
        if !closed && now - connection.heard < LINK_SILENCE {
            return;
        }
        life.connections.remove(&session);
        let worker = self.hosts[connection.host].worker;
        self.push(Command::Closed { worker, session }, None);
        self.after(MS..SECOND, Happening::LinkLost { host: connection.host, session: Some(session) });
    }

    pub(crate) fn on_turn(&mut self, number: u64) {
        let now = self.now;
        let Some(life) = &mut self.server.life else { return };
        if life.number != number || life.wake_at.is_some_and(|at| at > now) {
            return;
        }
        life.wake_at = None;
        if life.flight.is_some() {
            return;
        }
        if let Some(until) = life.outage_until {
            self.probe(until);
            return;
        }
        let batch: Vec<_> = life.inbox.drain(..life.inbox.len().min(BATCH)).collect();
        let turn = self.decide(batch);
        if turn.writes.is_empty() {
            self.act(&turn);
            self.go_on();
            return;
        }
        if self.plan.bug == Some(Bug::ReplyBeforeCommit) {
            self.answer(&turn);
        }
        if self.plan.bug == Some(Bug::SendBeforeCommit) {
            self.send_all(&turn.sends);
        }
        if self.plan.bug == Some(Bug::AckBeforeCommit) {
            self.acknowledge(&turn.acks);
        }
        let slow = now < self.server.slow_until;
        let takes = self.draw(|chance| if slow { chance.i64(MS..60 * SECOND) } else { chance.i64(MS / 5..20 * MS) });
        let life = self.server.life.as_mut().expect("it has decided");
        life.flight = Some(turn);
        self.at(now + takes, Happening::Committed { life: number });
    }

    /// After a turn: the next one, when there is something to do or when it is time.
    fn go_on(&mut self) {
        let now = self.now;
        let Some(life) = &mut self.server.life else { return };
        life.turns += 1;
        let at = if life.inbox.is_empty() {
            life.core.next_deadline().map(|deadline| life.true_time(deadline).max(now))
        } else {
            Some(now)
        };
        if let Some(at) = at {
            self.wake_server(at);
        }
    }

    fn decide(&mut self, batch: Vec<(Command, Option<Ticket>)>) -> Turn {
        let life = self.server.life.as_ref().expect("it decides");
        let now = life.logical(self.now);
        let mut turn = Turn { now, ..Turn::default() };
        self.step(Event::TimePassed, &mut turn);
        for (command, ticket) in batch {
            self.apply(command, ticket, &mut turn);
        }
        if self.plan.bug == Some(Bug::RescueByAge) {
            self.rescue(&mut turn);
        }
        self.step(Event::TurnEnded, &mut turn);
        turn
    }

    fn apply(&mut self, command: Command, ticket: Option<Ticket>, turn: &mut Turn) {
        let true_now = self.now;
        match command {
            Command::Submit(new) => {
                let event = Event::TaskSubmitted(new.clone());
                self.specs.insert(new.id, new);
                let answer = self.step(event, turn);
                turn.replies.extend(ticket.map(|ticket| (ticket, answer == Answer::Done)));
            }
            Command::Cancel(task) => {
                let answer = self.step(Event::CancelRequested { task, by: "ada".into() }, turn);
                turn.replies.extend(ticket.map(|ticket| (ticket, answer != Answer::NotActive)));
            }
            Command::Drain(worker, mode) => {
                self.step(Event::DrainRequested { worker, mode, by: "op".into() }, turn);
            }
            Command::Undrain(worker) => {
                self.step(Event::UndrainRequested { worker, by: "op".into() }, turn);
            }
            Command::Reserve(new) => {
                let answer = self.step(Event::ReservationRequested(new), turn);
                turn.replies.extend(ticket.map(|ticket| (ticket, answer == Answer::Done)));
            }
            Command::Release(reservation) => {
                let answer = self.step(Event::ReleaseRequested { reservation, by: "ada".into() }, turn);
                turn.replies.extend(ticket.map(|ticket| (ticket, answer == Answer::Done)));
            }
            Command::Join { session, worker, hello } => self.join(session, worker, hello, turn),
            Command::Heard { worker, session, sent } => {
                if self.is_current(worker, session, turn) {
                    turn.beats.push((worker, sent));
                    let first = self.plan.bug == Some(Bug::LeaseFromFirstBeat);
                    if !first {
                        self.step(Event::WorkerHeard { worker }, turn);
                    }
                    let life = self.server.life.as_mut().expect("it decides");
                    if let Some(session) = life.sessions.get_mut(&worker) {
                        session.heard = true_now;
                    }
                }
            }
            Command::Reports { worker, session, reports } => {
                if self.is_current(worker, session, turn) {
                    turn.reporters.push(worker);
                    self.reports(worker, reports, turn);
                }
            }
            Command::Closed { worker, session } => {
                if self.is_current(worker, session, turn) {
                    self.server.life.as_mut().expect("it decides").sessions.remove(&worker);
                    self.step(Event::WorkerDisconnected { worker }, turn);
                }
            }
        }
    }

    fn join(&mut self, session: u64, worker: WorkerId, hello: Hello, turn: &mut Turn) {
        let now = self.now;
        let life = self.server.life.as_mut().expect("it decides");
        let this_turn = turn.joined.iter().rev().find(|(id, ..)| *id == worker).map(|(_, session, _)| *session);
        if let Some(open) = this_turn.or_else(|| life.sessions.get(&worker).copied())
            && open.run != hello.run
            && now - open.heard < CLONE_SILENCE
            && life.connections.contains_key(&open.id)
        {
            turn.refused.push(session);
            return;
        }
        if hello.incarnation_seen > life.incarnation {
            life.incarnation = hello.incarnation_seen + 1;
            life.core.raise_incarnation(life.incarnation);
            self.server.incarnation_file = life.incarnation;
            turn.writes.push(Write::Incarnation(life.incarnation));
        }
        let ignored = self.plan.bug == Some(Bug::IgnoreInventory);
        let known = |life: &Life| -> Vec<Held> {
            let current = life.core.worker_current_attempts(worker);
            current
                .iter()
                .map(|record| Held {
                    attempt: record.id,
                    task: record.task_id,
                    epoch: record.epoch,
                    log_acked: 0,
                    metrics_acked: 0,
                })
                .collect()
        };
        let inventory = if ignored { known(life) } else { hello.inventory.clone() };
        let event = Event::WorkerJoined {
            worker,
            name: "box".into(),
            capabilities: hello.capabilities,
            batch_slots: hello.slots.0,
            service_slots: hello.slots.1,
            inventory,
            unfit: None,
        };
        self.step(event, turn);
        let life = self.server.life.as_ref().expect("it decides");
        let forget = hello.inventory.iter().map(|held| held.attempt);
        let forget: Vec<AttemptId> = forget.filter(|attempt| !life.core.holds(worker, *attempt)).collect();
        let welcome = Down::Welcome { incarnation: life.incarnation, lost_after: LOST_AFTER_S * SECOND, forget };
        turn.joined.push((worker, Session { id: session, run: hello.run, heard: now }, welcome));
    }

    fn reports(&mut self, worker: WorkerId, reports: Vec<SpooledReport>, turn: &mut Turn) {
        for SpooledReport { seq, attempt, task, epoch, report, .. } in reports {
            let bug = self.plan.bug;
            let leaked = bug == Some(Bug::LeakSlot)
                && matches!(report, fetchml_api::link::Report::Collecting)
                && task.0.as_u128() % 5 == 0;
            let ended = matches!(report, fetchml_api::link::Report::Ended(_)) && task.0.as_u128() % 5 == 0;
            if !(leaked || bug == Some(Bug::LeakSlot) && ended) {
                let (attempt, epoch, worker) = self.fence_or_not(worker, attempt, task, epoch);
                self.step(Event::AttemptReported { worker, attempt, task, epoch, report }, turn);
            }
            let ack = turn.acks.entry(worker).or_default();
            *ack = (*ack).max(seq);
        }
    }

    /// As reported; with the bug planted, as if it were of the task's current attempt.
    fn fence_or_not(
        &self,
        worker: WorkerId,
        attempt: AttemptId,
        task: TaskId,
        epoch: fetchml_api::AttemptEpoch,
    ) -> (AttemptId, fetchml_api::AttemptEpoch, WorkerId) {
        let core = &self.server.life.as_ref().expect("it decides").core;
        let current = core.task(task).and_then(|state| core.attempt(state.attempt?).cloned());
        match current {
            Some(record) if self.plan.bug == Some(Bug::SkipEpochCheck) => (record.id, record.epoch, record.worker_id),
            _ => (attempt, epoch, worker),
        }
    }

    /// What no scheduler should do: take for lost what has merely run long.
    fn rescue(&mut self, turn: &mut Turn) {
        let life = self.server.life.as_ref().expect("it decides");
        let old = life.core.workers(turn.now).into_iter().flat_map(|worker| {
            let records = life.core.worker_current_attempts(worker.id);
            let old = records
                .into_iter()
                .filter(|record| record.started_at.is_some_and(|at| turn.now.since(at) > 600 * SECOND));
            old.cloned().collect::<Vec<_>>()
        });
        for record in old.collect::<Vec<_>>() {
            let outcome = fetchml_api::link::Outcome {
                cause: Some(fetchml_api::FailureCause::Lost),
                ..fetchml_api::link::Outcome::default()
            };
            let event = Event::AttemptReported {
                worker: record.worker_id,
                attempt: record.id,
                task: record.task_id,
                epoch: record.epoch,
                report: fetchml_api::link::Report::Ended(outcome),
            };
            self.step(event, turn);
        }
    }

    fn is_current(&self, worker: WorkerId, session: u64, turn: &Turn) -> bool {
        let life = self.server.life.as_ref().expect("it decides");
        let joined = turn.joined.iter().rev().find(|(id, ..)| *id == worker).map(|(_, session, _)| session.id);
        joined.or_else(|| life.sessions.get(&worker).map(|session| session.id)) == Some(session)
    }

    fn step(&mut self, event: Event, turn: &mut Turn) -> Answer {
        let leaks = self.plan.bug == Some(Bug::LeakReservation);
        let skip_audit = self.plan.bug == Some(Bug::SkipAudit);
        let life = self.server.life.as_mut().expect("it decides");
        let mut effects = Vec::new();
        let answer = life.core.step(turn.now, event, &mut effects);
        for effect in effects {
            match effect {
                Effect::InsertTask(state) => {
                    let new = self.specs[&state.id].clone();
                    turn.writes.push(Write::Insert(new, state));
                }
                Effect::UpdateTask(state) => turn.writes.push(Write::Update(state)),
                Effect::PutAttempt(record) => turn.writes.push(Write::Attempt(record)),
                Effect::PutWorker(record) => turn.writes.push(Write::Worker(record)),
                Effect::Audit(draft) if skip_audit && draft.action == "requeue" => {}
                Effect::Audit(draft) => turn.writes.push(Write::Audit(draft)),
                Effect::Send { worker, message } => turn.sends.push((worker, message)),
                Effect::PutShare(record) => turn.writes.push(Write::Share(record)),
                Effect::PutReservation(record) if leaks && record.status == ReservationStatus::Expired => {}
                Effect::PutReservation(record) => turn.writes.push(Write::Reservation(record)),
                Effect::PutQuota(_) => unreachable!("nobody sets quotas here"),
                // Sums for people, of which nothing is decided.
                Effect::AddUsage { .. } => {}
            }
        }
        answer
    }

    pub(crate) fn on_committed(&mut self, number: u64) -> Result<(), Violation> {
        let now = self.now;
        let coin = self.draw(fastrand::Rng::bool);
        let server = &mut self.server;
        let Some(life) = server.life.as_mut().filter(|life| life.number == number) else { return Ok(()) };
        let Some(turn) = life.flight.take() else { return Ok(()) };
        let committed = if std::mem::take(&mut server.unknown_next) {
            self.counts.entry(Fault::CommitUnknown).and_modify(|count| *count += 1).or_insert(1);
            Committed::Unknown(coin)
        } else if now < server.busy_until {
            Committed::No
        } else {
            Committed::Yes
        };
        match committed {
            Committed::Yes => {
                server.database.apply(turn.now, &turn.writes)?;
                server.commits += 1;
                for write in &turn.writes {
                    if let Write::Attempt(record) = write {
                        self.check_attempt(record)?;
                    }
                }
                self.look()?;
                self.act(&turn);
                self.go_on();
            }
            Committed::Unknown(done) => {
                if done {
                    server.database.apply(turn.now, &turn.writes)?;
                }
                if self.plan.bug == Some(Bug::RetryUnknown) {
                    server.database.apply(turn.now, &turn.writes)?;
                    self.act(&turn);
                    self.go_on();
                    return Ok(());
                }
                self.fail(turn);
            }
            Committed::No => self.fail(turn),
        }
        Ok(())
    }

    /// A turn that was not committed, as far as anybody knows: the core is what the rows say, and who said
    /// something must say it again.
    fn fail(&mut self, turn: Turn) {
        let now = self.now;
        for (ticket, _) in turn.replies {
            self.tickets.remove(&ticket);
        }
        for session in turn.refused.iter().chain(turn.joined.iter().map(|(_, session, _)| &session.id)) {
            self.close(*session);
        }
        if self.plan.bug != Some(Bug::NoRebuild) {
            self.rebuild();
        }
        let life = self.server.life.as_mut().expect("it is committing");
        life.outage_until = Some(now + SECOND / 4);
        self.wake_server(now + SECOND / 4);
    }

    /// While the database cannot be written: refuses everything, then begins again from the rows.
    fn probe(&mut self, until: Time) {
        let now = self.now;
        let life = self.server.life.as_mut().expect("it is awake");
        let refused: Vec<_> = life.inbox.drain(..).collect();
        for (command, ticket) in refused {
            self.tickets.retain(|known, _| Some(*known) != ticket);
            match command {
                Command::Join { session, .. } | Command::Heard { session, .. } | Command::Reports { session, .. } => {
                    self.close(session);
                }
                Command::Submit(_)
                | Command::Cancel(_)
                | Command::Drain(..)
                | Command::Undrain(_)
                | Command::Reserve(_)
                | Command::Release(_)
                | Command::Closed { .. } => {}
            }
        }
        if now < until || now < self.server.busy_until {
            self.wake_server(now.max(until) + SECOND);
            return;
        }
        if self.plan.bug != Some(Bug::NoRebuild) {
            self.rebuild();
        }
        self.server.life.as_mut().expect("it is awake").outage_until = None;
        self.go_on();
    }

    fn rebuild(&mut self) {
        let now = self.now;
        let server = &mut self.server;
        let life = server.life.as_mut().expect("it is awake");
        let settings = settings(self.plan.seed, life.incarnation, life.core.epochs_used());
        life.core = server.database.restore(settings, life.logical(now));
        let sessions: Vec<u64> = std::mem::take(&mut life.sessions).into_values().map(|session| session.id).collect();
        for session in sessions {
            self.close(session);
        }
    }

    /// The server closes a connection.
    fn close(&mut self, session: u64) {
        if self.plan.bug == Some(Bug::ZombieSession) {
            return;
        }
        let Some(life) = &mut self.server.life else { return };
        if let Some(connection) = life.connections.remove(&session) {
            self.after(MS..SECOND, Happening::LinkLost { host: connection.host, session: Some(session) });
        }
    }

    /// Looks into the core after a commit: now it must be what the rows say.
    fn look(&mut self) -> Result<(), Violation> {
        let server = &self.server;
        let life = server.life.as_ref().expect("it is committing");
        if server.commits.is_multiple_of(LOOK_EVERY) {
            life.core.assert_invariants();
        }
        if server.commits.is_multiple_of(COMPARE_EVERY) {
            self.compare()?;
            self.check_spool()?;
        }
        Ok(())
    }

    /// `restore(rows)` is the durable state of the core that wrote them.
    pub(crate) fn compare(&self) -> Result<(), Violation> {
        let server = &self.server;
        let Some(life) = server.life.as_ref().filter(|life| life.flight.is_none() && life.outage_until.is_none())
        else {
            return Ok(());
        };
        let settings = settings(self.plan.seed, life.incarnation, life.core.epochs_used());
        let again = server.database.restore(settings, life.logical(self.now));
        again.assert_invariants();
        crate::promise!(
            again.durable_state() == life.core.durable_state(),
            "a restored core is not the core that wrote the rows"
        );
        Ok(())
    }

    /// Does what a durable turn has decided.
    fn act(&mut self, turn: &Turn) {
        for (worker, session, welcome) in &turn.joined {
            let life = self.server.life.as_mut().expect("it acts");
            if let Some(connection) = life.connections.get_mut(&session.id) {
                connection.welcomed = true;
                let host = connection.host;
                let replaced = life.sessions.insert(*worker, *session);
                self.send_down(host, session.id, welcome.clone());
                if let Some(replaced) = replaced.filter(|old| old.id != session.id) {
                    self.close(replaced.id);
                }
            }
        }
        for session in &turn.refused {
            let life = self.server.life.as_mut().expect("it acts");
            if let Some(connection) = life.connections.remove(session) {
                self.send_down(connection.host, *session, Down::Refused);
            }
        }
        if self.plan.bug != Some(Bug::SendBeforeCommit) {
            self.send_all(&turn.sends);
        }
        if self.plan.bug != Some(Bug::AckBeforeCommit) {
            self.acknowledge(&turn.acks);
        }
        if self.plan.bug != Some(Bug::BeatAnsweredEarly) {
            for (worker, sent) in &turn.beats {
                self.send_to(*worker, Down::BeatAck(*sent));
            }
        }
        self.answer(turn);
    }

    fn send_all(&mut self, sends: &[(WorkerId, Message)]) {
        for (worker, message) in sends {
            self.send_to(*worker, Down::Order(message.clone()));
        }
    }

    fn acknowledge(&mut self, acks: &BTreeMap<WorkerId, u64>) {
        for (worker, seq) in acks {
            self.send_to(*worker, Down::Ack(*seq));
        }
    }

    fn send_to(&mut self, worker: WorkerId, down: Down) {
        let Some(life) = &self.server.life else { return };
        let Some(session) = life.sessions.get(&worker) else { return };
        if let Some(connection) = life.connections.get(&session.id) {
            let (host, session) = (connection.host, session.id);
            self.send_down(host, session, down);
        }
    }

    fn answer(&mut self, turn: &Turn) {
        for (ticket, done) in &turn.replies {
            if let Some(request) = self.tickets.remove(ticket).filter(|_| *done) {
                self.acknowledged(request);
            }
        }
    }
}

/// A core from the rows, or from what a planted bug leaves of them.
fn restored(database: &Database, settings: Settings, now: Micros, bug: Option<Bug>) -> Scheduler {
    match bug {
        Some(Bug::RestoreLosesTask) => database.without_one_waiting().restore(settings, now),
        Some(Bug::RestoreLosesCancel) => database.without_cancels().restore(settings, now),
        Some(Bug::RestoreLosesReservation) => database.without_reservations().restore(settings, now),
        Some(Bug::RequeueAtBoot) => database.all_waiting().restore(settings, now),
        _ => database.restore(settings, now),
    }
}
