//! What others may read of the core: for answers of the API, for welcomes, for tests. Reading
//! changes nothing.

use crate::{Scheduler, attempt::Holding as Held, limits, queue::Needs, share, task, worker::Worker as WorkerEntry};
use fetchml_api::{
    AttemptEpoch, AttemptId, AttemptRecord, Holding, Micros, Role, SlotKind, TaskId, TaskState, Worker, WorkerId,
    WorkerRecord, WorkerStatus,
};
use std::fmt;

impl Scheduler {
    /// A task that has not ended.
    pub fn task(&self, id: TaskId) -> Option<TaskState> {
        self.tasks.get(&id).map(|task| task.state(id))
    }

    /// Priority with aging of a task that has not ended. For others: [`crate::priority_aged`].
    pub fn priority_aged(&self, now: Micros, id: TaskId) -> Option<f64> {
        self.task(id).map(|state| task::priority_aged(&state, now, self.settings.aging_interval_s))
    }

    /// Tasks with status queued for a kind of slot, those in backoff included.
    pub fn queue_depth(&self, kind: SlotKind) -> usize {
        self.queues.depth(kind) + *self.delayed.of(kind)
    }

    /// Tasks that are on workers: preparing, running or collecting.
    pub fn tasks_active(&self) -> usize {
        self.attempts.len()
    }

    /// Workers as the API shows them, in order of their ids. One that has been gone for a day and
    /// holds nothing is left out.
    pub fn workers(&self, now: Micros) -> Vec<Worker> {
        let shown = self.fleet.iter().filter(|(_, worker)| is_shown(now, worker));
        shown.map(|(id, worker)| self.worker_view(now, id, worker)).collect()
    }

    /// One worker as the API shows it.
    pub fn worker(&self, now: Micros, id: WorkerId) -> Option<Worker> {
        self.fleet.get(id).map(|worker| self.worker_view(now, id, worker))
    }

    /// What everybody has now, and may have, who has tasks here or ever used anything.
    pub fn holdings(&self, now: Micros) -> Vec<Holding> {
        self.users.iter().map(|(_, name, account, _)| self.holding(now, name, account.role)).collect()
    }

    /// What a user has now, and may have in a role.
    pub fn holding(&self, now: Micros, user: &str, role: Role) -> Holding {
        let account = self.users.find(user).map(|id| self.users.value(id).clone()).unwrap_or_default();
        Holding {
            user_id: user.to_owned(),
            tasks_running: account.attempts,
            tasks_queued: account.queued,
            gpus: account.held.gpu,
            share: share::fraction(account.share(self.now.max(now), self.fleet.totals())),
            quota: self.quotas.of(user, role),
        }
    }

    /// Devices that attempts hold, of all workers.
    pub fn devices_held(&self) -> usize {
        let devices = self.fleet.iter().flat_map(|(_, worker)| worker.devices());
        devices.filter(|(_, owner)| owner.is_some()).count()
    }

    /// The task whose attempt holds a device.
    pub fn device_holder(&self, worker: WorkerId, index: u32) -> Option<TaskId> {
        let (_, owner) = self.fleet.get(worker)?.devices().find(|&(device, _)| device == index)?;
        Some(self.attempts.get(&owner?)?.record.task_id)
    }

    /// A worker's row.
    pub fn worker_record(&self, id: WorkerId) -> Option<&WorkerRecord> {
        self.fleet.get(id).map(|worker| &worker.record)
    }

    /// The current attempts of a worker, oldest first.
    pub fn worker_current_attempts(&self, id: WorkerId) -> Vec<&AttemptRecord> {
        let ids = self.fleet.get(id).into_iter().flat_map(|worker| &worker.attempts);
        let mut records: Vec<_> = ids.map(|attempt| &self.attempts[attempt].record).collect();
        records.sort_by_key(|record| record.epoch);
        records
    }

    /// Whether a worker rightly holds an attempt: it is the current one of its task, and there.
    pub fn holds(&self, worker: WorkerId, attempt: AttemptId) -> bool {
        self.attempts.get(&attempt).is_some_and(|attempt| attempt.record.is_on(worker))
    }

    /// The rank of a worker's node within a current attempt; 0 where there is one node.
    pub fn rank(&self, worker: WorkerId, attempt: AttemptId) -> u32 {
        let nodes = self.attempts.get(&attempt).map(|attempt| &attempt.record.nodes);
        let rank = nodes.and_then(|nodes| nodes.iter().position(|node| node.worker_id == worker)).unwrap_or(0);
        u32::try_from(rank).expect("a gang is smaller than 2^32")
    }

    /// A current attempt.
    pub fn attempt(&self, id: AttemptId) -> Option<&AttemptRecord> {
        self.attempts.get(&id).map(|attempt| &attempt.record)
    }

    /// Whether an attempt is assigned ahead: on its worker, but not yet in a slot of its own.
    pub fn is_ahead(&self, id: AttemptId) -> bool {
        self.attempts.get(&id).is_some_and(|attempt| matches!(attempt.holding, Held::Ahead { .. }))
    }

    /// How many epochs this incarnation has given out: [`crate::Settings::epochs_used`] of a core that
    /// replaces this one without a restart of the server.
    pub const fn epochs_used(&self) -> u64 {
        self.epochs_used
    }

    /// The last epoch given out; its counter is 0 if there was none.
    pub const fn last_epoch(&self) -> AttemptEpoch {
        AttemptEpoch { incarnation: self.settings.incarnation, n: self.epochs_used }
    }

    fn worker_view(&self, now: Micros, id: WorkerId, worker: &WorkerEntry) -> Worker {
        let heard_lately = now.since(worker.lease_from.plus_seconds(self.settings.offline_after_s)) < 0;
        let draining = worker.record.draining || worker.record.unfit.is_some();
        let status = match (worker.connected && heard_lately, draining) {
            (false, _) => WorkerStatus::Offline,
            (true, true) => WorkerStatus::Draining,
            (true, false) => WorkerStatus::Active,
        };
        let mut active_tasks: Vec<TaskId> =
            worker.attempts.iter().map(|attempt| self.attempts[attempt].record.task_id).collect();
        active_tasks.sort_unstable();
        Worker {
            id,
            name: worker.record.name.clone(),
            connected_at: worker.record.connected_at,
            last_heartbeat: worker.last_sign(),
            capabilities: worker.record.capabilities.clone(),
            slots: worker.slots(),
            active_tasks,
            status,
            unfit: worker.record.unfit.clone(),
            datasets: self.datasets.held_by(id).to_vec(),
        }
    }
}

/// Whether a worker is still spoken of: it is not long gone, or holds something.
pub(crate) fn is_shown(now: Micros, worker: &WorkerEntry) -> bool {
    worker.connected || !worker.attempts.is_empty() || now.since(worker.last_sign()) < limits::GONE_WORKER_LISTED
}

/// The state as text, for tests and for people who look for a fault: queues in order, tasks in
/// backoff, workers with what is used of them and what they hold.
impl fmt::Display for Scheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut places: Vec<_> = self.queues.places().collect();
        places.sort_by_key(|&(.., place)| place);
        for (shape, user, (_, task)) in places {
            let Needs { demand, excluded } = self.queues.shapes.key(shape);
            let (slot, user) = (demand.slot, self.users.key(user));
            write!(
                f,
                "queued {task} {slot:?} cpu={} memory={} gpu={} {user}",
                demand.cpu, demand.memory_gb, demand.gpu
            )?;
            for (number, worker) in excluded.iter().enumerate() {
                write!(f, "{} {worker}", if number == 0 { " not on" } else { "" })?;
            }
            writeln!(f)?;
        }
        for (at, timer) in self.timers.iter() {
            if let crate::timers::Timer::BackoffEnds(task) = timer {
                writeln!(f, "delayed {task} until {at}")?;
            }
        }
        for record in self.reservations() {
            let (id, status, user) = (record.id, record.status.as_str(), &record.user_id);
            write!(f, "reservation {id} {status} {}/{} held {user}", record.gpus_held, record.gpus())?;
            for earmark in &record.earmarks {
                write!(f, " {} {:?}", earmark.worker_id, earmark.gpus)?;
            }
            writeln!(f)?;
        }
        for (id, task) in self.tasks.iter().filter(|(_, task)| task.blocked) {
            writeln!(f, "blocked {id} {}", self.users.key(task.user))?;
        }
        for (id, worker) in self.fleet.iter() {
            let link = match (worker.connected, worker.online) {
                (true, true) => "online",
                (true, false) => "silent",
                (false, _) => "offline",
            };
            let used = worker.used();
            write!(f, "worker {id} {link} batch {}/{}", used.slots.batch, worker.record.batch_slots)?;
            write!(f, " service {}/{}", used.slots.service, worker.record.service_slots)?;
            let has = &worker.record.capabilities;
            write!(f, " cpu {}/{} memory {}/{}", used.cpu, has.cpu_cores, used.memory_gb, has.memory_gb)?;
            writeln!(f, " gpus free {}/{}", worker.devices_free_count(), has.gpus.len())?;
            for record in self.worker_current_attempts(id) {
                let ahead = if self.is_ahead(record.id) { " ahead" } else { "" };
                writeln!(f, "  {} {} {:?} gpus {:?}{ahead}", record.epoch, record.task_id, record.phase, record.gpus)?;
            }
        }
        Ok(())
    }
}
