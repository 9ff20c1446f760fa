//! The core from rows, and what of it is in rows: `restore(rows) == durable state`.

use crate::{
    Scheduler, Settings,
    attempt::{Attempt, Holding},
    event::{Lease, NewTask},
    share::{self, Account},
    task::Task,
    timers::Timer,
    worker::Worker,
};
use fetchml_api::{
    AttemptId, AttemptPhase, AttemptRecord, Demand, Dependency, Micros, Quota, QuotaRecord, QuotaScope, ReservationId,
    ReservationRecord, ShareRecord, TaskId, TaskState, TaskStatus, WorkerId, WorkerRecord,
};
use std::{collections::BTreeMap, sync::Arc};

/// The rows a core is restored from.
#[derive(Clone, Debug, Default)]
pub struct Rows {
    /// Tasks that have not ended: what was submitted and where it stands. The priority is that of the
    /// state.
    pub tasks: Vec<(NewTask, TaskState)>,
    /// The current attempt of each active task.
    pub attempts: Vec<AttemptRecord>,
    /// All workers.
    pub workers: Vec<WorkerRecord>,
    /// What users have used.
    pub shares: Vec<ShareRecord>,
    /// Quotas that were set.
    pub quotas: Vec<QuotaRecord>,
    /// Reservations that have not expired.
    pub reservations: Vec<ReservationRecord>,
    /// Tasks and arrays that blocked tasks depend on and that have ended, and arrays of which some tasks have: whether all
    /// of that ended well.
    pub ended: BTreeMap<TaskId, bool>,
    /// When current attempts left their last checkpoints.
    pub checkpoints: BTreeMap<AttemptId, Micros>,
}

/// What of the core outlives a restart. Left out, being volatile: link state, last sign of life,
/// leases, mean slot occupancy, which attempts are assigned ahead, and patience with those.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DurableState {
    /// Tasks that have not ended.
    pub tasks: BTreeMap<TaskId, DurableTask>,
    /// Their current attempts.
    pub attempts: BTreeMap<AttemptId, AttemptRecord>,
    /// All workers.
    pub workers: BTreeMap<WorkerId, WorkerRecord>,
    /// What users have used, by name.
    pub shares: BTreeMap<String, ShareRecord>,
    /// Quotas that were set.
    pub quotas: BTreeMap<QuotaScope, Quota>,
    /// Reservations that have not expired.
    pub reservations: BTreeMap<ReservationId, ReservationRecord>,
}

/// A task as far as it outlives a restart.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DurableTask {
    /// What it needs.
    pub demand: Demand,
    /// Counted retries allowed.
    pub max_retries: u32,
    /// Longest time user code runs, seconds.
    pub time_limit_s: Option<u32>,
    /// How long its attempts outlive the silence of their worker.
    pub lease: Lease,
    /// Who submitted it.
    pub user_id: String,
    /// The array it is of.
    pub array: Option<TaskId>,
    /// The part that changes.
    pub state: TaskState,
}

impl Scheduler {
    /// A core from its rows. Nobody is connected, and every lease starts at `now`. Panics if the rows
    /// contradict each other: they were written in one transaction.
    pub fn restore(settings: Settings, now: Micros, rows: Rows) -> Self {
        let mut core = Self::new(settings);
        core.now = now;
        for record in rows.workers {
            core.fleet.insert(Worker::new(record, now));
        }
        rows.quotas.into_iter().for_each(|record| core.quotas.put(record));
        for record in rows.shares {
            let account = Account::from_record(&record);
            core.users.take(record.user_id, |_| account);
        }
        rows.reservations.into_iter().for_each(|record| core.restore_reservation(record));
        let mut waiting = BTreeMap::new();
        for (task, state) in rows.tasks {
            waiting.extend(core.restore_task(&task, state, &rows.ended));
        }
        core.restore_needs(waiting, &rows.ended);
        core.restore_attempts(rows.attempts);
        core.restore_checkpoints(&rows.checkpoints);
        for (id, task) in &core.tasks {
            assert_eq!(task.status.is_active(), task.attempt().is_some(), "an active task has an attempt: {id}");
            let known = task.attempt().is_none_or(|attempt| core.attempts.contains_key(&attempt));
            assert!(known, "the attempt of an active task is given: {id}");
        }
        core
    }

    /// What of the core is in rows.
    pub fn durable_state(&self) -> DurableState {
        let task = |(&id, task): (&TaskId, &Task)| {
            let durable = DurableTask {
                demand: self.queues.demand(task.shape).clone(),
                max_retries: task.max_retries,
                time_limit_s: task.time_limit(),
                lease: task.lease,
                user_id: self.users.key(task.user).clone(),
                array: self.array_of(task),
                state: task.state(id),
            };
            (id, durable)
        };
        DurableState {
            tasks: self.tasks.iter().map(task).collect(),
            attempts: self.attempts.iter().map(|(&id, attempt)| (id, attempt.record.clone())).collect(),
            workers: self.fleet.iter().map(|(id, worker)| (id, worker.record.clone())).collect(),
            quotas: self.quotas.set().clone(),
            reservations: self.reservations.live().clone(),
            shares: (self.users.iter())
                .filter_map(|(_, name, account, _)| Some((name.clone(), account.record(name)?)))
                .collect(),
        }
    }

    /// Gives what the group of a blocked task needs.
    fn restore_task(
        &mut self,
        new: &NewTask,
        state: TaskState,
        ended: &BTreeMap<TaskId, bool>,
    ) -> Option<(u32, Arc<[Dependency]>)> {
        if state.status.is_terminal() {
            return None;
        }
        self.count_epoch(state.epoch);
        let (id, not_before) = (state.id, state.not_before);
        let shape = self.queues.shape_take(new.demand.clone(), state.excluded_workers.clone());
        let user = self.users.take(new.user_id.clone(), |_| Account::default());
        let mut task = Task::from_state(state, new, shape, user);
        let needs = self.restore_member(new, ended, &mut task);
        let (waits, blocked) = (task.status == TaskStatus::Queued, task.blocked);
        let account = self.users.value_mut(user);
        account.role = new.role;
        account.queued += u32::from(waits);
        self.tasks.insert(id, task);
        match not_before {
            _ if blocked => *self.delayed_mut(id) += 1,
            Some(at) if waits && at > self.now => self.begin_backoff(id, at),
            _ if waits => self.enqueue(id),
            _ => {}
        }
        needs
    }

    /// Attempts whose user code runs have their room; the others take what is left, oldest first, and
    /// wait ahead where nothing is.
    fn restore_attempts(&mut self, mut records: Vec<AttemptRecord>) {
        records.retain(|record| self.tasks.get(&record.task_id).is_some_and(|t| t.attempt() == Some(record.id)));
        records.sort_by_key(|record| (record.phase < AttemptPhase::Running, record.epoch));
        for record in records {
            self.count_epoch(Some(record.epoch));
            if !record.nodes.is_empty() {
                self.restore_gang(record);
                continue;
            }
            let (id, worker_id, epoch, phase) = (record.id, record.worker_id, record.epoch, record.phase);
            let demand = self.queues.demand(self.tasks[&record.task_id].shape);
            let (patience_ends, may_wait) =
                (self.patience_ends(), record.phase < AttemptPhase::Running && demand.gpu == 0);
            let worker = self.fleet.get(worker_id).expect("the worker of an attempt is known");
            let waits = may_wait
                && demand.slot == fetchml_api::SlotKind::Batch
                && !(worker.ahead.is_empty() && worker.has_room(demand));
            let holding =
                if phase >= AttemptPhase::Collecting { Holding::Nothing } else { Holding::Ahead { patience_ends } };
            let (task, charged) = (record.task_id, share::is_charged(&record, demand));
            self.attempts.insert(id, Attempt::new(record, holding));
            if phase < AttemptPhase::Collecting {
                self.begin_holding(task);
            }
            if charged {
                self.restore_charge(task);
            }
            self.fleet.change(worker_id, |worker| {
                worker.attempts.insert(id);
                if waits {
                    worker.ahead.insert(epoch, id);
                }
            });
            if waits {
                self.timers.set(Timer::PatienceEnds(id), None, Some(patience_ends));
            } else if phase < AttemptPhase::Collecting {
                self.take_room(id);
            }
            self.arm(worker_id);
        }
    }

    fn count_epoch(&mut self, epoch: Option<fetchml_api::AttemptEpoch>) {
        if let Some(epoch) = epoch.filter(|epoch| epoch.incarnation == self.settings.incarnation) {
            self.epochs_used = self.epochs_used.max(epoch.n);
        }
    }
}
