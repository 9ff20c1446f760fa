//! The server's database: rows as commits leave them. Each commit is checked as it is applied, against
//! what was there before and against its own audit events.

use crate::{EPOCH, Violation, promise};
use fetchml_api::{
    AttemptEpoch, AttemptId, AttemptPhase, AttemptRecord, AuditDraft, DependencyOn, Micros, ReservationId,
    ReservationRecord, ReservationStatus, ShareRecord, TaskId, TaskState, TaskStatus, WorkerId, WorkerRecord,
};
use fetchml_scheduler::{NewTask, Rows, Scheduler, Settings};
use std::collections::{BTreeMap, BTreeSet};

/// One change of a transaction.
#[derive(Clone, Debug)]
pub(crate) enum Write {
    Insert(NewTask, TaskState),
    Update(TaskState),
    Attempt(AttemptRecord),
    Worker(WorkerRecord),
    Share(ShareRecord),
    Reservation(ReservationRecord),
    Audit(AuditDraft),
    Incarnation(u64),
}

/// A task's row, and what the audit log says of it.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) new: NewTask,
    pub(crate) state: TaskState,
    said: Option<TaskStatus>,
    endings: u32,
}

/// All that is durable at the server.
#[derive(Clone, Debug, Default)]
pub(crate) struct Database {
    pub(crate) tasks: BTreeMap<TaskId, Row>,
    /// Those that are not over.
    attempts: BTreeMap<AttemptId, AttemptRecord>,
    /// Gangs of which every node was ready.
    ready: BTreeSet<AttemptId>,
    workers: BTreeMap<WorkerId, WorkerRecord>,
    shares: BTreeMap<String, ShareRecord>,
    pub(crate) reservations: BTreeMap<ReservationId, ReservationRecord>,
    pub(crate) incarnation: u64,
    pub(crate) last_time: Micros,
    pub(crate) events: u64,
    last_epoch: AttemptEpoch,
}

impl Database {
    pub(crate) fn new() -> Self {
        Self { last_time: Micros(EPOCH), ..Self::default() }
    }

    /// One transaction at logical time `now`.
    pub(crate) fn apply(&mut self, now: Micros, writes: &[Write]) -> Result<(), Violation> {
        self.last_time = self.last_time.max(now);
        let (mut touched, mut begun) = (Vec::new(), Vec::new());
        for write in writes {
            match write {
                Write::Insert(new, state) => {
                    let row = Row { new: new.clone(), state: state.clone(), said: None, endings: 0 };
                    promise!(self.tasks.insert(new.id, row).is_none(), "task {} is inserted twice", new.id);
                    touched.push(new.id);
                }
                Write::Update(state) => {
                    self.update(state)?;
                    touched.push(state.id);
                }
                Write::Attempt(record) => {
                    if !self.attempts.contains_key(&record.id) {
                        begun.push(record.id);
                    }
                    self.put_attempt(record)?;
                }
                Write::Share(record) => drop(self.shares.insert(record.user_id.clone(), record.clone())),
                Write::Reservation(record) => self.put_reservation(record)?,
                Write::Worker(record) => drop(self.workers.insert(record.id, record.clone())),
                // Below: it may come before the row that it is about.
                Write::Audit(_) => {}
                Write::Incarnation(incarnation) => self.incarnation = *incarnation,
            }
        }
        for write in writes {
            if let Write::Audit(draft) = write {
                self.audit(draft)?;
            }
        }
        for id in touched {
            self.check_said(id)?;
        }
        self.check_reservations(&begun)?;
        Ok(())
    }

    fn update(&mut self, state: &TaskState) -> Result<(), Violation> {
        let id = state.id;
        let Some(row) = self.tasks.get_mut(&id) else {
            return Err(Violation(format!("task {id} is updated and is not there")));
        };
        let before = &row.state;
        promise!(!before.status.is_terminal(), "task {id} had ended and changes to {}", state.status.as_str());
        promise!(before.epoch <= state.epoch, "the epoch of task {id} goes back");
        if before.cancelled_by.is_some() {
            promise!(state.cancelled_by.is_some(), "task {id} is not cancelled any more");
            promise!(state.status != TaskStatus::Queued, "task {id} was cancelled and waits again");
            promise!(state.attempt_count == before.attempt_count, "task {id} was cancelled and begins again");
            promise!(state.status != TaskStatus::Completed, "task {id} was cancelled and completed");
        }
        row.state = state.clone();
        Ok(())
    }

    fn put_attempt(&mut self, record: &AttemptRecord) -> Result<(), Violation> {
        let id = record.id;
        if let Some(before) = self.attempts.get(&id) {
            // Of a gang it may be one node that went on; or it is to make room from now on.
            let stopped = before.preempted_for != record.preempted_for;
            let nodes = before.nodes.iter().zip(&record.nodes);
            let same = before.phase == record.phase && (!before.nodes.is_empty() || stopped);
            promise!(before.phase < record.phase || same, "attempt {id} goes back to {:?}", record.phase);
            for (before, node) in nodes {
                promise!(before.worker_id == node.worker_id, "a node of attempt {id} moves");
                promise!(before.phase <= node.phase, "a node of attempt {id} goes back to {:?}", node.phase);
            }
            if stopped {
                self.check_preempted(record)?;
            }
            promise!(
                (before.epoch, before.task_id) == (record.epoch, record.task_id),
                "attempt {id} changes its epoch"
            );
        } else {
            promise!(!record.phase.is_over(), "attempt {id} was over and changes");
            promise!(record.epoch > self.last_epoch, "attempt {id} has an epoch that was given out before");
            self.last_epoch = record.epoch;
            let nodes = self.tasks.get(&record.task_id).map_or(1, |row| row.new.demand.nodes);
            let given = record.nodes.iter().map(|node| node.worker_id).collect::<BTreeSet<_>>().len();
            let whole = if nodes > 1 { given == nodes as usize } else { given == 0 };
            promise!(whole, "attempt {id} of {nodes} nodes is placed on {given} workers");
        }
        if !record.nodes.is_empty() && record.nodes.iter().all(|node| node.phase == AttemptPhase::Ready) {
            self.ready.insert(id);
        }
        if record.phase.is_over() {
            self.attempts.remove(&id);
        } else {
            self.attempts.insert(id, record.clone());
        }
        Ok(())
    }

    /// Only what has lower priority is stopped for a task, and that one waits.
    fn check_preempted(&self, record: &AttemptRecord) -> Result<(), Violation> {
        let of = record.preempted_for.and_then(|id| self.tasks.get(&id)).map(|row| &row.state);
        let waits = of.is_some_and(|state| state.status == TaskStatus::Queued && !state.blocked);
        promise!(waits, "attempt {} is stopped for {:?}, which does not wait", record.id, record.preempted_for);
        let lower = of.is_some_and(|state| self.tasks[&record.task_id].state.priority < state.priority);
        promise!(lower, "attempt {} is stopped for a task of no higher priority", record.id);
        Ok(())
    }

    /// A reservation goes forward only, and what it sets aside is no other's.
    fn put_reservation(&mut self, record: &ReservationRecord) -> Result<(), Violation> {
        let id = record.id;
        if let Some(before) = self.reservations.get(&id) {
            promise!(before.status != ReservationStatus::Expired, "reservation {id} had expired and changes");
            promise!(before.status <= record.status, "reservation {id} goes back to {}", record.status.as_str());
            promise!(before.task_id.is_none() || before.task_id == record.task_id, "reservation {id} changes its task");
        }
        self.reservations.insert(id, record.clone());
        Ok(())
    }

    /// What is set aside is nobody else's, and not for ever: a device is set aside once, an attempt that begins has
    /// what is set aside for its task and nothing else, and a claim ends with its task.
    fn check_reservations(&self, begun: &[AttemptId]) -> Result<(), Violation> {
        let live = || self.reservations.values().filter(|record| record.status != ReservationStatus::Expired);
        let mut set_aside = BTreeMap::new();
        for record in live() {
            let id = record.id;
            for earmark in &record.earmarks {
                for gpu in &earmark.gpus {
                    let other = set_aside.insert((earmark.worker_id, *gpu), id);
                    promise!(other.is_none(), "GPU {gpu} is set aside for {id} and {other:?}");
                }
            }
            let task = record.task_id.map(|task| self.tasks.get(&task));
            let lives = task.is_none_or(|row| row.is_some_and(|row| !row.state.status.is_terminal()));
            promise!(lives, "reservation {id} outlives its task");
        }
        for attempt in begun.iter().filter_map(|attempt| self.attempts.get(attempt)) {
            let own = self.tasks.get(&attempt.task_id).and_then(|row| row.new.demand.reservation);
            for gpu in &attempt.gpus {
                let owner = set_aside.get(&(attempt.worker_id, *gpu)).copied();
                promise!(owner == own, "GPU {gpu} is set aside for {owner:?} and given to {}", attempt.id);
            }
        }
        Ok(())
    }

    fn audit(&mut self, draft: &AuditDraft) -> Result<(), Violation> {
        self.events += 1;
        let id: Option<TaskId> = draft.resource.strip_prefix("tasks/").and_then(|id| id.parse().ok());
        let Some(row) = id.and_then(|id| self.tasks.get_mut(&id)) else { return Ok(()) };
        row.said = draft.metadata.get("status").and_then(|status| status.parse().ok());
        if row.said.is_some_and(TaskStatus::is_terminal) {
            row.endings += 1;
            promise!(row.endings == 1, "{} ended twice ({})", draft.resource, draft.action);
        }
        Ok(())
    }

    /// The audit log replayed gives the tasks.
    fn check_said(&self, id: TaskId) -> Result<(), Violation> {
        let row = &self.tasks[&id];
        let status = row.state.status;
        promise!(row.said == Some(status), "task {id} is {} and the audit log says {:?}", status.as_str(), row.said);
        Ok(())
    }

    /// Workers that are to take nothing new.
    pub(crate) fn draining(&self) -> impl Iterator<Item = WorkerId> {
        self.workers.values().filter(|record| record.draining).map(|record| record.id)
    }

    /// Whether every node of an attempt was ready once, as far as is durable.
    pub(crate) fn was_ready(&self, attempt: AttemptId) -> bool {
        self.ready.contains(&attempt)
    }

    /// Whether an attempt is over, or never was.
    pub(crate) fn is_over(&self, attempt: AttemptId) -> bool {
        !self.attempts.contains_key(&attempt)
    }

    /// What has ended, and whether well.
    fn ended(&self) -> BTreeMap<TaskId, bool> {
        let over = self.tasks.values().filter(|row| row.state.status.is_terminal());
        over.map(|row| (row.new.id, row.state.status == TaskStatus::Completed)).collect()
    }

    /// What a task depends on has ended as it must.
    pub(crate) fn check_needs(&self, new: &NewTask) -> Result<(), Violation> {
        for need in new.depends_on.iter() {
            let status = self.tasks.get(&need.id).map(|row| row.state.status);
            let met = match need.on {
                DependencyOn::Ok => status == Some(TaskStatus::Completed),
                DependencyOn::Any => status.is_some_and(TaskStatus::is_terminal),
            };
            promise!(met, "task {} begins though {}, which it depends on, is {status:?}", new.id, need.id);
        }
        Ok(())
    }

    /// The core that these rows give.
    pub(crate) fn restore(&self, settings: Settings, now: Micros) -> Scheduler {
        let live = self.tasks.values().filter(|row| !row.state.status.is_terminal());
        let rows = Rows {
            tasks: live.map(|row| (row.new.clone(), row.state.clone())).collect(),
            attempts: self.attempts.values().cloned().collect(),
            workers: self.workers.values().cloned().collect(),
            shares: self.shares.values().cloned().collect(),
            quotas: Vec::new(),
            reservations: self.reservations.values().cloned().collect(),
            ended: self.ended(),
            checkpoints: BTreeMap::new(),
        };
        Scheduler::restore(settings, now, rows)
    }
}

/// What planted bugs make of the rows.
impl Database {
    pub(crate) fn without_one_waiting(&self) -> Self {
        let mut rows = self.clone();
        let waiting = rows.tasks.iter().find(|(_, row)| row.state.status == TaskStatus::Queued).map(|(id, _)| *id);
        rows.tasks.retain(|id, _| Some(*id) != waiting);
        rows
    }

    pub(crate) fn without_reservations(&self) -> Self {
        Self { reservations: BTreeMap::new(), ..self.clone() }
    }

    pub(crate) fn without_cancels(&self) -> Self {
        let mut rows = self.clone();
        for row in rows.tasks.values_mut().filter(|row| !row.state.status.is_terminal()) {
            row.state.cancelled_by = None;
        }
        rows
    }

    pub(crate) fn all_waiting(&self) -> Self {
        let mut rows = self.clone();
        for row in rows.tasks.values_mut().filter(|row| row.state.status.is_active()) {
            (row.state.status, row.state.attempt) = (TaskStatus::Queued, None);
        }
        rows.attempts.clear();
        rows
    }
}
