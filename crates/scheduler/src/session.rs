//! Workers come, speak, fall silent and go; and time passes. A worker that is gone keeps what it
//! holds until its lease ends: nothing is taken away because a link broke.

use crate::{
    Answer, Effect, Message, Scheduler,
    attempt::{Attempt, Holding},
    audit, gang,
    report::Fence,
    timers::Timer,
    worker::{Occupancy, Worker},
};
use fetchml_api::{
    AttemptId, AttemptPhase, Capabilities, FailureCause, Gpu, Micros, WorkerId, WorkerRecord, link::Held,
};
use std::collections::{BTreeMap, BTreeSet};

/// What a worker says of itself.
#[derive(Debug)]
pub(crate) struct Joined {
    pub(crate) worker: WorkerId,
    pub(crate) name: String,
    pub(crate) capabilities: Capabilities,
    pub(crate) batch_slots: u32,
    pub(crate) service_slots: u32,
    pub(crate) unfit: Option<String>,
}

impl Scheduler {
    pub(crate) fn on_worker_joined(&mut self, hello: Joined, held: &[Held], effects: &mut Vec<Effect>) -> Answer {
        let id = hello.worker;
        let record = WorkerRecord {
            id,
            name: hello.name,
            capabilities: hello.capabilities,
            batch_slots: hello.batch_slots,
            service_slots: hello.service_slots,
            draining: self.fleet.get(id).is_some_and(|worker| worker.record.draining),
            evicting: self.fleet.get(id).is_some_and(|worker| worker.record.evicting),
            unfit: hello.unfit,
            connected_at: self.now,
        };
        let known = self.fleet.get(id).map_or(&[][..], |worker| &worker.record.capabilities.gpus);
        effects
            .extend(audit::gpu_drafts(self.now, id, known, &record.capabilities.gpus).into_iter().map(Effect::Audit));
        effects.push(Effect::PutWorker(record.clone()));
        if self.fleet.get(id).is_none() {
            self.fleet.insert(Worker::new(record.clone(), self.now));
        }
        let owners = self.device_owners(id);
        self.fleet.change(id, |worker| {
            worker.record = record;
            worker.read_devices(&owners);
            worker.connected = true;
        });
        self.fleet.has_changed(id);
        self.hear(id);
        self.reconcile(id, held, effects);
        self.promote(id);
        Answer::Done
    }

    pub(crate) fn on_worker_heard(&mut self, id: WorkerId) -> Answer {
        if !self.fleet.get(id).is_some_and(|worker| worker.connected) {
            return Answer::Unchanged;
        }
        self.hear(id);
        Answer::Done
    }

    /// Nothing is taken from a task that runs on a device which is not available any more.
    pub(crate) fn on_gpus_changed(&mut self, id: WorkerId, gpus: Vec<Gpu>, effects: &mut Vec<Effect>) -> Answer {
        let Some(worker) = self.fleet.get(id) else { return Answer::Unchanged };
        if worker.record.capabilities.gpus == gpus {
            return Answer::Unchanged;
        }
        let audits = audit::gpu_drafts(self.now, id, &worker.record.capabilities.gpus, &gpus);
        effects.extend(audits.into_iter().map(Effect::Audit));
        let owners = self.device_owners(id);
        let record = self.fleet.change(id, |worker| {
            worker.record.capabilities.set_gpus(gpus);
            worker.read_devices(&owners);
            worker.record.clone()
        });
        effects.extend(record.map(Effect::PutWorker));
        self.fleet.has_changed(id);
        Answer::Done
    }

    pub(crate) fn on_worker_disconnected(&mut self, id: WorkerId) -> Answer {
        if !self.fleet.get(id).is_some_and(|worker| worker.connected) {
            return Answer::Unchanged;
        }
        self.fleet.change(id, |worker| {
            worker.connected = false;
            worker.online = false;
        });
        self.arm(id);
        Answer::Done
    }

    pub(crate) fn on_time_passed(&mut self, effects: &mut Vec<Effect>) -> Answer {
        let mut answer = Answer::Unchanged;
        while let Some(timer) = self.timers.take_due(self.now) {
            answer = Answer::Done;
            match timer {
                Timer::BackoffEnds(task) => {
                    *self.delayed_mut(task) -= 1;
                    self.enqueue(task);
                }
                Timer::WorkerSilent(worker) => {
                    self.fleet.change(worker, |worker| {
                        worker.silent_timer = None;
                        worker.online = false;
                    });
                }
                Timer::LeaseEnds(worker) => self.lease_ended(worker, effects),
                Timer::PatienceEnds(attempt) => self.ask_back(attempt, effects),
                Timer::PrepareEnds(attempt) => self.prepare_ended(attempt, effects),
                Timer::ReservationEnds(reservation) => self.reservation_ended(reservation, effects),
            }
        }
        answer
    }

    /// A sign of life: the lease starts anew.
    fn hear(&mut self, id: WorkerId) {
        let now = self.now;
        self.fleet.change(id, |worker| {
            worker.last_heard = Some(now);
            worker.lease_from = now;
            worker.online = true;
            worker.lost = false;
        });
        self.arm(id);
    }

    /// When the first of what a worker holds is given up, if it stays silent.
    pub(crate) fn lease_ends(&self, id: WorkerId) -> Option<Micros> {
        let worker = self.fleet.get(id)?;
        let attempts = worker.attempts.iter().filter_map(|&attempt| self.given_up_at(attempt, id));
        attempts.chain(self.earmarks_given_up_at(id)).min()
    }

    /// When what a worker holds of an attempt is given up, if it stays silent.
    fn given_up_at(&self, attempt: AttemptId, worker: WorkerId) -> Option<Micros> {
        let record = &self.attempts.get(&attempt)?.record;
        let seconds = self.tasks.get(&record.task_id)?.lease.seconds(self.settings.lost_after_s)?;
        Some(self.fleet.get(worker)?.lease_from.plus_seconds(seconds))
    }

    /// Sets a worker's timers to what they should be.
    pub(crate) fn arm(&mut self, id: WorkerId) {
        let lease = self.lease_ends(id);
        let Self { fleet, timers, settings, .. } = self;
        fleet.change(id, |worker| {
            let silent = worker.silent_at(settings.offline_after_s);
            timers.set(Timer::WorkerSilent(id), worker.silent_timer, silent);
            timers.set(Timer::LeaseEnds(id), worker.lease_timer, lease);
            worker.silent_timer = silent;
            worker.lease_timer = lease;
        });
    }

    /// Compares what a worker holds with what it should hold. What it must drop comes first.
    fn reconcile(&mut self, id: WorkerId, held: &[Held], effects: &mut Vec<Effect>) {
        let mut present = BTreeSet::new();
        for held in held {
            let fence = Fence { worker: id, attempt: held.attempt, task: held.task, epoch: held.epoch };
            if self.is_current(fence) {
                present.insert(held.attempt);
            } else {
                effects.push(Effect::Send { worker: id, message: Message::Forget { attempt: held.attempt } });
            }
        }
        let evicting = self.fleet.get(id).is_some_and(|worker| worker.record.evicting);
        for attempt in self.attempts_of(id) {
            let record = &self.attempts[&attempt].record;
            let task = record.task_id;
            let (cancelled, preempted) = (self.tasks[&task].cancelled_by().is_some(), record.preempted_for.is_some());
            if self.is_gang(attempt) {
                if !self.reconcile_node(attempt, id, present.contains(&attempt), cancelled, effects) {
                    self.node_lost(attempt, id, "the worker came back without the task", effects);
                } else if evicting && present.contains(&attempt) {
                    self.evict(attempt, effects);
                }
            } else if present.contains(&attempt) {
                if cancelled {
                    let message = Message::Cancel { attempt, cause: FailureCause::Cancelled };
                    effects.push(Effect::Send { worker: id, message });
                } else if evicting || preempted {
                    self.evict(attempt, effects);
                }
            } else if record.phase == AttemptPhase::Assigned && preempted && !cancelled {
                // It never arrived, and is not to any more.
                self.on_returned(attempt, effects);
            } else if record.phase == AttemptPhase::Assigned && !cancelled && !evicting {
                effects.push(gang::assignment(record, id));
            } else {
                self.give_up(attempt, "the worker came back without the task".to_owned(), effects);
            }
        }
    }

    /// A worker was silent for too long: what it holds may run elsewhere now, and not there.
    fn lease_ended(&mut self, id: WorkerId, effects: &mut Vec<Effect>) {
        let (now, lost_after_s) = (self.now, self.settings.lost_after_s);
        let name = self.fleet.change(id, |worker| {
            worker.lease_timer = None;
            worker.lost |= worker.lease_from.plus_seconds(lost_after_s) <= now;
            // Where leases are shorter than the time to be shown offline: no new work either way.
            worker.online = false;
            worker.record.name.clone()
        });
        let why = format!("worker {} was lost", name.as_deref().unwrap_or_default());
        // None of what it holds moves up while the rest is given up: asked back first, then ended.
        for attempt in self.attempts_of(id).into_iter().rev() {
            if self.given_up_at(attempt, id).is_some_and(|at| at <= self.now) {
                self.lose(attempt, id, &why, effects);
                effects.push(Effect::Send { worker: id, message: Message::Forget { attempt } });
            }
        }
        self.arm(id);
    }

    /// An attempt assigned ahead has waited too long. Its worker is not as fast as it seemed: it has to
    /// show short attempts anew before it gets more work ahead.
    fn ask_back(&mut self, id: AttemptId, effects: &mut Vec<Effect>) {
        let patience_ends = self.patience_ends();
        let attempt = self.attempts.get_mut(&id).expect("patience ends with the attempt");
        attempt.holding = Holding::Ahead { patience_ends };
        let worker = attempt.record.worker_id;
        self.timers.set(Timer::PatienceEnds(id), None, Some(patience_ends));
        self.fleet.change(worker, |worker| worker.occupancy = Occupancy::default());
        effects.push(Effect::Send { worker, message: Message::Revoke { attempt: id } });
    }

    /// Devices of a worker that are held, whether or not it still has them.
    fn device_owners(&self, id: WorkerId) -> BTreeMap<u32, AttemptId> {
        let attempts = self.fleet.get(id).into_iter().flat_map(|worker| &worker.attempts);
        let held =
            attempts.map(|id| (id, &self.attempts[id])).filter(|(_, a)| matches!(a.holding, Holding::Room { .. }));
        let gpus = held.flat_map(|(&attempt, Attempt { record, .. })| {
            let node = record.nodes.iter().find(|node| node.worker_id == id);
            let gpus = node.map_or(&record.gpus, |node| &node.gpus);
            let holds = node.is_none_or(|node| node.phase < AttemptPhase::Collecting);
            gpus.iter().filter(move |_| holds).map(move |&gpu| (gpu, attempt))
        });
        gpus.collect()
    }

    /// Attempts of a worker, oldest first.
    pub(crate) fn attempts_of(&self, id: WorkerId) -> Vec<AttemptId> {
        let mut attempts: Vec<AttemptId> =
            self.fleet.get(id).map(|worker| worker.attempts.iter().copied().collect()).unwrap_or_default();
        attempts.sort_by_key(|attempt| self.attempts[attempt].record.epoch);
        attempts
    }
}
