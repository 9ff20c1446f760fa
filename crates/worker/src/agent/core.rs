//! The agent's core: one task that owns every attempt at hand, decides which may run, and turns what
//! happens to them into spooled reports. It never waits for the network; files it writes are small.

use crate::{
    agent::{
        ExitReason, Shutdown,
        admission::Admission,
        attempt::{self, Begin, Orders, Progress, Runner, Stop, Workshop},
        checkpoints::Checkpoints,
        disk,
        identity::{DataDir, write_json},
        lease::Lease,
        log_part::Mask,
        metrics::{self, Metrics},
        outbox::SharedSpool,
        spool::Ends,
        trash::Trash,
    },
    container::Found,
    executor::{AttemptDir, Rendezvous},
    limits,
    staging::StagedDatasets,
};
use fetchml_api::{
    AttemptEpoch, AttemptId, DatasetKey, FailureCause, OnLost, TaskId,
    link::{Assignment, Held, Hello, Outcome, Report, SpooledReport, Welcome},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fs::{self, File},
    io,
    net::{IpAddr, Ipv4Addr},
    os::unix::fs::DirBuilderExt as _,
    sync::Arc,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::AbortHandle,
    time::Instant,
};

/// What the link tells or asks the core.
#[derive(Debug)]
pub(crate) enum Event {
    /// A session begins: who are we?
    HelloWanted(oneshot::Sender<Hello>),
    /// The server's terms; answered once they are obeyed.
    Welcomed(Welcome, Option<IpAddr>, oneshot::Sender<()>),
    /// A beat is due: what is held?
    /// What a heartbeat says: what is held, and what is wrong with the worker.
    BeatWanted(oneshot::Sender<(Vec<AttemptId>, Option<String>)>),
    /// What is held of data sets?
    DatasetsWanted(oneshot::Sender<Vec<DatasetKey>>),
    /// The lease was renewed.
    LeaseRenewed,
    Assign(Box<Assignment>),
    Cancel {
        attempt: AttemptId,
        cause: FailureCause,
        grace_s: u32,
    },
    /// Every node of a gang is ready.
    Release {
        attempt: AttemptId,
        at: Rendezvous,
    },
    Revoke(AttemptId),
    Forget(AttemptId),
    /// The server has dealt with the last report of these.
    Over(Vec<AttemptId>),
    /// The disk is almost full.
    DiskShort(disk::Usage),
    /// The disk has room again.
    DiskFine,
    /// The containers that there are.
    Containers(Vec<Found>),
    /// The server will never take this worker.
    Refused(String),
    /// The spool was synced up to this number.
    Synced(Arc<File>, u64, io::Result<()>),
}

/// `assignment.json`: an attempt as it was taken, and the boot it was taken in.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Taken {
    pub(crate) boot_id: String,
    /// A number that no other attempt at hand has; its sandbox's user follows from it.
    #[serde(default)]
    pub(crate) slot: u32,
    pub(crate) assignment: Assignment,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// Staging, or staged and waiting for its turn.
    Waiting,
    /// Told to go; from here on user code may run.
    Going,
    /// Its tree is dead.
    Dead,
    /// Its last report is in the spool.
    Reported,
}

#[derive(Debug)]
struct Attempt {
    assignment: Arc<Assignment>,
    dir: AttemptDir,
    slot: u32,
    order: u64,
    phase: Phase,
    orders: watch::Sender<Orders>,
    runner: Option<AbortHandle>,
    /// Lengths of its streams, all of them at the server, when an earlier agent reported its end.
    ends: Option<Ends>,
    /// It goes back to the server, unreported otherwise, once nothing of it runs: not even a builder.
    returning: bool,
    /// The server has no use for it: it is deleted, unreported, once its tree is dead.
    forgotten: bool,
}

/// The core.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) data: DataDir,
    pub(crate) hello: Hello,
    pub(crate) shop: Arc<Workshop>,
    pub(crate) spool: Arc<SharedSpool>,
    pub(crate) lease: Arc<Lease>,
    pub(crate) connected: watch::Sender<bool>,
    events_in: mpsc::Sender<Event>,
    events: mpsc::Receiver<Event>,
    progress_in: mpsc::Sender<(AttemptId, Progress)>,
    progress: mpsc::Receiver<(AttemptId, Progress)>,
    trash: Trash,
    attempts: BTreeMap<AttemptId, Attempt>,
    admission: Admission,
    next_order: u64,
    ended: BTreeSet<AttemptId>,
    ended_order: VecDeque<AttemptId>,
    /// Where other workers reach this one.
    address: Option<IpAddr>,
    syncing: bool,
    next_tend: Instant,
    /// Set by a shutdown that stops tasks: nothing new is taken, and when everything must be over.
    ending: Option<(Instant, Option<oneshot::Sender<()>>)>,
}

impl Core {
    #[expect(clippy::too_many_arguments, reason = "built at one place, from parts that have no other life together")]
    pub(crate) fn new(
        data: DataDir,
        hello: Hello,
        shop: Arc<Workshop>,
        spool: Arc<SharedSpool>,
        lease: Arc<Lease>,
        connected: watch::Sender<bool>,
        admission: Admission,
        (events_in, events): (mpsc::Sender<Event>, mpsc::Receiver<Event>),
    ) -> Self {
        let (progress_in, progress) = mpsc::channel(limits::CORE_EVENTS);
        let trash = Trash::start(data.path().join("trash"), !shop.sandboxes.is_on());
        Self {
            data,
            hello,
            shop,
            spool,
            lease,
            connected,
            events_in,
            events,
            progress_in,
            progress,
            trash,
            attempts: BTreeMap::new(),
            admission,
            next_order: 0,
            ended: BTreeSet::new(),
            ended_order: VecDeque::new(),
            address: None,
            syncing: false,
            next_tend: Instant::now(),
            ending: None,
        }
    }

    /// Runs until the agent ends.
    pub(crate) async fn run(mut self, mut shutdown: mpsc::Receiver<Shutdown>) -> ExitReason {
        let mut fence = tokio::time::interval(limits::FENCE_EVERY);
        fence.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut sweep = tokio::time::interval_at(Instant::now() + limits::SWEEP_EVERY, limits::SWEEP_EVERY);
        let reason = loop {
            let ending_at = self.ending.as_ref().map(|(at, _)| *at);
            let tending = !self.syncing && self.spool.lock().wants_tending();
            tokio::select! {
                event = self.events.recv() => match event {
                    Some(Event::Refused(reason)) => break ExitReason::Refused(reason),
                    Some(event) => self.on_event(event).await,
                    None => break ExitReason::ShutDown,
                },
                progress = self.progress.recv() => {
                    if let Some((attempt, progress)) = progress {
                        self.on_progress(attempt, progress);
                    }
                }
                _ = fence.tick(), if self.holds_unfinished() => self.obey_lease(),
                _ = sweep.tick(), if self.shop.containers.is_some() => self.look_for_containers(),
                () = tokio::time::sleep_until(self.next_tend), if tending => self.tend_spool(),
                asked = shutdown.recv() => match asked {
                    Some(Shutdown { stop_tasks: true, done }) => self.stop_all(done),
                    Some(Shutdown { stop_tasks: false, .. }) | None => break ExitReason::ShutDown,
                },
                () = at(ending_at) => break ExitReason::ShutDown,
            }
            if self.ending.is_some() && self.attempts.is_empty() && self.spool.lock().is_empty() {
                break ExitReason::ShutDown;
            }
        };
        self.close().await;
        reason
    }

    /// Takes up what an earlier agent left, before the link opens.
    pub(crate) fn take_up(&mut self, taken: Taken, begin: Begin) {
        let attempt = taken.assignment.attempt;
        let ends = self.spool.lock().last_of(attempt);
        let reported = ends.is_some();
        let started = matches!(begin, Begin::Running(_));
        let phase = match &begin {
            _ if reported => Phase::Reported,
            Begin::Staging => Phase::Waiting,
            Begin::Running(_) => Phase::Going,
            Begin::Exited(_) | Begin::Over(_) => Phase::Dead,
        };
        let held = self.hold(taken.assignment, taken.slot, phase);
        self.attempts.get_mut(&attempt).expect("held above").ends = ends;
        if started && !reported {
            let Demanded { demand, gpus } = Demanded::of(&held);
            self.admission.occupy(attempt, demand, gpus);
        }
        if reported {
            self.shop.gpus.vacate(attempt);
        } else {
            self.start_runner(attempt, begin, true);
        }
    }

    fn hold(&mut self, assignment: Assignment, slot: u32, phase: Phase) -> Arc<Assignment> {
        let assignment = Arc::new(assignment);
        self.next_order += 1;
        let dir = AttemptDir::new(self.data.path(), assignment.attempt);
        let (orders, _) = watch::channel(Orders::default());
        let attempt = Attempt {
            assignment: Arc::clone(&assignment),
            dir,
            slot,
            order: self.next_order,
            phase,
            orders,
            runner: None,
            ends: None,
            returning: false,
            forgotten: false,
        };
        self.attempts.insert(assignment.attempt, attempt);
        assignment
    }

    fn start_runner(&mut self, attempt: AttemptId, begin: Begin, is_taken_up: bool) {
        let held = self.attempts.get_mut(&attempt).expect("held by the caller");
        // Until user code runs there is nothing to hide.
        let is_fresh = matches!(begin, Begin::Staging) || held.assignment.spec.secrets.is_empty();
        let mask = if is_fresh { Mask::Open } else { Mask::Waits };
        self.shop.logs.track(attempt, held.dir.root(), attempt::log_mark(&held.dir), mask);
        self.shop.gpus.occupy(attempt, held.dir.root(), &held.assignment.gpus);
        let mut metrics = Metrics::new(Arc::clone(&self.shop), &held.assignment, &held.dir);
        if is_taken_up {
            metrics.take_up();
        }
        let runner = Runner {
            shop: Arc::clone(&self.shop),
            assignment: Arc::clone(&held.assignment),
            dir: held.dir.clone(),
            slot: held.slot,
            orders: held.orders.subscribe(),
            progress: self.progress_in.clone(),
            checkpoints: Checkpoints::new(Arc::clone(&self.shop), &held.assignment, &held.dir),
            metrics,
            redactor: None,
            ran: false,
            is_new: false,
            // Before anything is evicted for another.
            environment: if matches!(begin, Begin::Running(_)) {
                attempt::keep_environment(&self.shop, &held.dir)
            } else {
                None
            },
            datasets: if matches!(begin, Begin::Running(_)) {
                self.shop.datasets.keep(&held.dir)
            } else {
                StagedDatasets::default()
            },
        };
        held.runner = Some(tokio::spawn(runner.run(begin)).abort_handle());
    }

    async fn on_event(&mut self, event: Event) {
        match event {
            Event::HelloWanted(answer) => {
                let hello = self.hello_now().await;
                let _ = answer.send(hello);
            }
            Event::Welcomed(welcome, address, done) => {
                self.address = address;
                self.on_welcome(&welcome);
                let _ = done.send(());
            }
            Event::BeatWanted(answer) => {
                let held = self.attempts.iter().filter(|(_, held)| !held.forgotten).map(|(attempt, _)| *attempt);
                let _ = answer.send((held.collect(), self.hello.unfit.clone()));
            }
            Event::DatasetsWanted(answer) => drop(answer.send(self.shop.datasets.held())),
            Event::LeaseRenewed => self.remember_lease(),
            Event::Assign(assignment) => self.on_assign(*assignment),
            Event::Cancel { attempt, cause, grace_s } => self.stop(attempt, Stop { cause, grace_s }),
            Event::Release { attempt, at } => {
                if let Some(held) = self.attempts.get_mut(&attempt) {
                    held.orders.send_modify(|orders| orders.release = Some(at));
                }
            }
            Event::Revoke(attempt) => self.on_revoke(attempt),
            Event::Forget(attempt) => self.on_forget(attempt),
            Event::Over(attempts) => {
                for attempt in attempts {
                    self.drop_attempt(attempt);
                }
            }
            Event::DiskShort(usage) => {
                self.hello.unfit = Some("the disk is almost full; make room in the worker's data directory".into());
                self.on_disk_short(&usage);
            }
            Event::DiskFine => self.hello.unfit = None,
            Event::Containers(found) => self.sweep(found),
            Event::Synced(file, seq, result) => {
                self.syncing = false;
                match result {
                    Ok(()) => self.spool.lock().synced(&file, seq),
                    Err(error) => {
                        // A failed sync is never repeated on the same file: its pages may be gone.
                        tracing::error!(%error, "the spool cannot be synced; it is written anew");
                        self.spool.lock().distrust();
                    }
                }
            }
            Event::Refused(_) => unreachable!("ends the loop before it comes here"),
        }
    }

    async fn hello_now(&self) -> Hello {
        let (logs, metrics) = tokio::join!(self.shop.logs.offsets(), self.shop.metrics.offsets());
        let held = self.attempts.iter().filter(|(_, held)| !held.forgotten);
        let inventory = held.map(|(attempt, held)| Held {
            attempt: *attempt,
            task: held.assignment.spec.id,
            epoch: held.assignment.epoch,
            // The server cuts its copy to this: what is at its end must not be said to be shorter.
            log_acked: held
                .ends
                .map(|ends| ends.log)
                .or_else(|| logs.get(attempt).copied())
                .unwrap_or_else(|| attempt::log_mark(&held.dir)),
            metrics_acked: held
                .ends
                .map(|ends| ends.metrics)
                .or_else(|| metrics.get(attempt).copied())
                .unwrap_or_else(|| metrics::mark(&held.dir)),
        });
        let mut hello = Hello {
            inventory: inventory.collect(),
            datasets: self.shop.datasets.held(),
            incarnation_seen: self.data.incarnation_seen(),
            ..self.hello.clone()
        };
        hello.capabilities.set_gpus(self.shop.gpus.devices().to_vec());
        hello
    }

    fn on_welcome(&mut self, welcome: &Welcome) {
        if let Err(error) = self.data.incarnation_saw(welcome.incarnation) {
            tracing::error!(%error, "cannot remember the server's incarnation");
        }
        self.remember_lease();
        for attempt in &welcome.forget {
            self.on_forget(*attempt);
        }
        // What was found at the start begins only now: the server may have given it to another worker.
        self.connected.send_replace(true);
        self.admit();
    }

    fn remember_lease(&self) {
        if self.attempts.is_empty() {
            return;
        }
        let (sent_ms, lost_after_s) = self.lease.mark();
        if let Err(error) = self.data.lease_mark_put(sent_ms, lost_after_s) {
            tracing::warn!(%error, "cannot remember the lease");
        }
    }

    fn on_assign(&mut self, assignment: Assignment) {
        let attempt = assignment.attempt;
        if self.attempts.contains_key(&attempt) {
            return;
        }
        if self.ended.contains(&attempt) {
            // The server knew that it was over, and now it does not: its database was put back to an earlier
            // day. What has run once is not run again, and silence would leave it waiting for ever.
            if self.spool.lock().last_of(attempt).is_none() {
                let outcome = attempt::lost("this worker had it already, before the server's database was restored");
                self.report(attempt, assignment.spec.id, assignment.epoch, Report::Ended(outcome));
            }
            return;
        }
        if self.ending.is_some() {
            self.report(attempt, assignment.spec.id, assignment.epoch, Report::Returned);
            return;
        }
        let taken = Taken { boot_id: self.data.boot_id().to_owned(), slot: self.free_slot(), assignment };
        let dir = AttemptDir::new(self.data.path(), attempt);
        let result = if self.attempts.len() >= limits::ATTEMPTS_MAX {
            Err(io::Error::other(format!("it holds {} attempts already", limits::ATTEMPTS_MAX)))
        } else {
            let made = if self.trash.take_spare(dir.root()) {
                Ok(())
            } else {
                fs::DirBuilder::new().mode(0o700).recursive(true).create(dir.root())
            };
            made.and_then(|()| write_json(&dir.assignment(), &taken, false))
        };
        let Taken { assignment, slot, .. } = taken;
        let (task, epoch) = (assignment.spec.id, assignment.epoch);
        match result {
            Ok(()) => {
                fetchml_failpoint::reach("agent.taken");
                self.hold(assignment, slot, Phase::Waiting);
                if self.attempts.len() == 1 {
                    // Its shim will look here, also when this agent is gone.
                    self.remember_lease();
                }
                self.report(attempt, task, epoch, Report::Accepted);
                fetchml_failpoint::reach("agent.accepted");
                self.admit_unstaged(attempt);
                self.start_runner(attempt, Begin::Staging, false);
            }
            Err(error) => {
                tracing::error!(%attempt, %error, "cannot take an attempt");
                self.trash.discard(dir.root());
                self.remember_ended(attempt);
                self.report(attempt, task, epoch, Report::Ended(attempt::launch_failed(&error)));
            }
        }
    }

    /// The lowest number that no attempt at hand has.
    fn free_slot(&self) -> u32 {
        let taken: BTreeSet<u32> = self.attempts.values().map(|held| held.slot).collect();
        (0..).zip(&taken).find(|(free, taken)| free != *taken).map_or(taken.len() as u32, |(free, _)| free)
    }

    /// An attempt with nothing to stage takes its turn at once, which saves it a round through the core.
    fn admit_unstaged(&mut self, attempt: AttemptId) {
        let held = &self.attempts[&attempt];
        let spec = &held.assignment.spec;
        if spec.snapshot_id.is_none() && spec.image.is_none() && spec.datasets.is_empty() {
            let Demanded { demand, gpus } = Demanded::of(&held.assignment);
            self.admission.wait(held.order, attempt, demand, gpus);
            self.admit();
        }
    }

    fn admit(&mut self) {
        if !*self.connected.borrow() || self.ending.is_some() {
            return;
        }
        for attempt in self.admission.admit() {
            if let Some(held) = self.attempts.get_mut(&attempt) {
                held.phase = Phase::Going;
                held.orders.send_modify(|orders| orders.go = true);
            }
        }
    }

    fn on_progress(&mut self, attempt: AttemptId, progress: Progress) {
        let Some(held) = self.attempts.get_mut(&attempt) else { return };
        let (task, epoch) = (held.assignment.spec.id, held.assignment.epoch);
        match progress {
            Progress::Staged => {
                let Demanded { demand, gpus } = Demanded::of(&held.assignment);
                if held.phase == Phase::Waiting {
                    self.admission.wait(held.order, attempt, demand, gpus);
                    self.admit();
                }
            }
            Progress::Ready(port) => {
                let address = self.address.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)).to_string();
                if !held.forgotten {
                    self.report(attempt, task, epoch, Report::Ready { address, port });
                }
            }
            Progress::Started => {
                if !held.forgotten {
                    self.report(attempt, task, epoch, Report::Running);
                }
            }
            Progress::Dead(outcome) => {
                held.phase = Phase::Dead;
                let (forgotten, returning) = (held.forgotten, held.returning);
                self.admission.release(attempt);
                self.shop.gpus.vacate(attempt);
                if forgotten {
                    self.drop_attempt(attempt);
                } else if returning {
                    self.give_back(attempt);
                } else {
                    self.report(attempt, task, epoch, Report::Collecting);
                    if let Some(outcome) = outcome {
                        self.on_outcome(attempt, outcome);
                    }
                }
                self.admit();
            }
            Progress::Ended(outcome) => self.on_outcome(attempt, outcome),
        }
    }

    fn on_outcome(&mut self, attempt: AttemptId, outcome: Outcome) {
        let Some(held) = self.attempts.get_mut(&attempt) else { return };
        held.phase = Phase::Reported;
        let (task, epoch) = (held.assignment.spec.id, held.assignment.epoch);
        tracing::debug!(%attempt, %task, cause = ?outcome.cause, exit_code = outcome.exit_code, "an attempt ended");
        self.report(attempt, task, epoch, Report::Ended(outcome));
    }

    fn report(&mut self, attempt: AttemptId, task: TaskId, epoch: AttemptEpoch, report: Report) {
        let appended = self.spool.lock().append(|seq| SpooledReport { seq, attempt, task, epoch, report });
        if let Err(error) = appended {
            tracing::error!(%attempt, %error, "a report cannot be spooled; it is kept in memory");
        }
        self.spool.announce();
    }

    /// Ends an attempt, however far it is. The first cause stays; a shorter grace counts.
    fn stop(&mut self, attempt: AttemptId, stop: Stop) {
        let Some(held) = self.attempts.get_mut(&attempt) else { return };
        held.orders.send_if_modified(|orders| {
            let next = match orders.stop {
                None => stop,
                Some(before) => Stop { grace_s: before.grace_s.min(stop.grace_s), ..before },
            };
            orders.stop.replace(next) != Some(next)
        });
    }

    /// Stops the attempt that takes the most, one at a time: the end of one may be enough. While more than it
    /// takes is on its way out, none is to blame.
    fn on_disk_short(&mut self, usage: &disk::Usage) {
        self.trash.hurry();
        let Some((attempt, bytes)) = usage.attempts.first().copied() else { return };
        let Some(held) = self.attempts.get(&attempt) else { return };
        let runs = held.phase == Phase::Going && held.orders.borrow().stop.is_none();
        if !runs || bytes < limits::DISK_BLAME_BYTES || bytes < usage.trash {
            return;
        }
        let grace_s = held.assignment.grace_s;
        tracing::warn!(%attempt, bytes, "stopped: the disk is almost full and it takes the most of it");
        self.stop(attempt, Stop { cause: FailureCause::Quota, grace_s });
    }

    fn on_revoke(&mut self, attempt: AttemptId) {
        let Some(held) = self.attempts.get_mut(&attempt) else { return };
        if held.phase != Phase::Waiting || held.forgotten || held.orders.borrow().stop.is_some() {
            return;
        }
        // Not simply aborted: a builder that runs for it must be dead first.
        held.returning = true;
        self.admission.release(attempt);
        self.stop(attempt, Stop { cause: FailureCause::Cancelled, grace_s: 0 });
        self.admit();
    }

    /// A revoked attempt of which nothing runs any more.
    fn give_back(&mut self, attempt: AttemptId) {
        let held = self.attempts.get_mut(&attempt).expect("held by the caller");
        if let Some(runner) = held.runner.take() {
            runner.abort();
        }
        held.phase = Phase::Reported;
        let (task, epoch) = (held.assignment.spec.id, held.assignment.epoch);
        self.report(attempt, task, epoch, Report::Returned);
    }

    fn on_forget(&mut self, attempt: AttemptId) {
        self.spool.lock().drop_attempt(attempt);
        let Some(held) = self.attempts.get_mut(&attempt) else { return };
        held.forgotten = true;
        let grace_s = held.assignment.grace_s;
        match held.phase {
            // It has lost its authority: whatever it still is must end; it is deleted when it is dead.
            Phase::Waiting | Phase::Going => self.stop(attempt, Stop { cause: FailureCause::Lost, grace_s }),
            Phase::Dead | Phase::Reported => self.drop_attempt(attempt),
        }
    }

    /// Nothing of it is needed any more.
    fn drop_attempt(&mut self, attempt: AttemptId) {
        self.remember_ended(attempt);
        let Some(held) = self.attempts.remove(&attempt) else { return };
        if let Some(runner) = held.runner {
            runner.abort();
        }
        self.admission.release(attempt);
        self.shop.gpus.vacate(attempt);
        self.shop.logs.forget(attempt);
        fetchml_failpoint::reach("agent.forgotten");
        self.shop.metrics.forget(attempt);
        self.trash.discard(held.dir.root());
    }

    fn remember_ended(&mut self, attempt: AttemptId) {
        if self.ended.insert(attempt) {
            self.ended_order.push_back(attempt);
        }
        while self.ended_order.len() > limits::ENDED_REMEMBERED {
            let oldest = self.ended_order.pop_front().expect("longer than its limit");
            self.ended.remove(&oldest);
        }
    }

    fn holds_unfinished(&self) -> bool {
        self.attempts.values().any(|held| matches!(held.phase, Phase::Waiting | Phase::Going))
    }

    /// Cut off for too long: the server is about to give these attempts up, so they must be dead by then.
    fn obey_lease(&mut self) {
        let due: Vec<_> = self
            .attempts
            .iter()
            .filter(|(_, held)| matches!(held.phase, Phase::Waiting | Phase::Going))
            .filter(|(_, held)| held.assignment.spec.on_lost == OnLost::Fence)
            .filter_map(|(attempt, held)| {
                let Assignment { spec, grace_s, .. } = &*held.assignment;
                Some((*attempt, self.lease.must_stop(spec.lost_after_s, *grace_s)?))
            })
            .collect();
        for (attempt, grace_s) in due {
            if self.attempts[&attempt].orders.borrow().stop.is_none() {
                tracing::warn!(%attempt, "stopped: the server was not heard until the lease ran out");
            }
            self.stop(attempt, Stop { cause: FailureCause::Lost, grace_s });
        }
    }

    fn look_for_containers(&self) {
        let (shop, events) = (Arc::clone(&self.shop), self.events_in.clone());
        tokio::spawn(async move {
            if let Some(containers) = &shop.containers {
                // The core is gone only when the whole agent is.
                let _ = events.send(Event::Containers(containers.all().await)).await;
            }
        });
    }

    /// Of containers that were seen, those go whose attempt is not at hand: one that runs was at hand before.
    fn sweep(&self, mut found: Vec<Found>) {
        found.retain(|container| {
            let held = container.attempt.and_then(|attempt| self.attempts.get(&attempt));
            !held.is_some_and(|held| matches!(held.phase, Phase::Waiting | Phase::Going))
        });
        let shop = Arc::clone(&self.shop);
        tokio::spawn(async move {
            if let Some(containers) = &shop.containers {
                containers.sweep(found).await;
            }
        });
    }

    fn tend_spool(&mut self) {
        self.next_tend = Instant::now() + limits::SPOOL_SYNC_AFTER;
        match self.spool.lock().tend() {
            Ok(None) => {}
            Ok(Some((file, seq))) => {
                self.syncing = true;
                let events = self.events_in.clone();
                tokio::task::spawn_blocking(move || {
                    let result = file.sync_data();
                    // Closed only when the agent ends, which syncs by itself.
                    let _ = events.blocking_send(Event::Synced(file, seq, result));
                });
            }
            Err(error) => {
                tracing::error!(%error, "the spool cannot be written; its reports are kept in memory");
                self.next_tend += limits::FENCE_EVERY;
            }
        }
    }

    /// A shutdown that stops tasks: what has not started goes back, what runs ends and is reported.
    fn stop_all(&mut self, done: oneshot::Sender<()>) {
        if self.ending.is_none() {
            self.ending = Some((Instant::now() + limits::SHUTDOWN_MAX, Some(done)));
        }
        let held: Vec<_> = self.attempts.iter().map(|(id, held)| (*id, held.phase, held.assignment.grace_s)).collect();
        for (attempt, phase, grace_s) in held {
            match phase {
                Phase::Waiting => self.on_revoke(attempt),
                Phase::Going => self.stop(attempt, Stop { cause: FailureCause::Preempted, grace_s }),
                Phase::Dead | Phase::Reported => {}
            }
        }
    }

    /// Leaves everything so that the next agent can go on.
    async fn close(mut self) {
        for held in self.attempts.values_mut() {
            if let Some(runner) = held.runner.take() {
                runner.abort();
            }
        }
        self.shop.logs.flush().await;
        self.shop.metrics.flush().await;
        let file = self.spool.lock().close();
        match file {
            Ok(file) => {
                let synced = tokio::task::spawn_blocking(move || file.sync_data()).await;
                if !matches!(synced, Ok(Ok(()))) {
                    tracing::error!("the spool could not be synced at the end");
                }
            }
            Err(error) => tracing::error!(%error, "the spool could not be written at the end"),
        }
        if let Some((_, Some(done))) = self.ending.take() {
            let _ = done.send(());
        }
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// What an attempt needs, borrowed from its assignment.
struct Demanded<'a> {
    demand: &'a fetchml_api::Demand,
    gpus: &'a [u32],
}

impl<'a> Demanded<'a> {
    fn of(assignment: &'a Assignment) -> Self {
        Self { demand: &assignment.spec.demand, gpus: &assignment.gpus }
    }
}
