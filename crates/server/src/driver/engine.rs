//! The turn: step a batch, commit its effects in one transaction, then act on them. And what
//! happens when a commit fails.

use super::{
    DriverSettings, LiveTasks, TaskChanged,
    clock::Clock,
    command::{
        CancelAnswer, ChangeAnswer, CommandError, Input, Item, JoinAnswer, NewTaskDraft, Question, Reading, Reply,
        SessionHandle, Submitted, UsageNow,
    },
    idle::IdleGpus,
    ids::TaskIds,
    told::{Look, Told},
    views::Views,
};
use crate::{
    auth::Actor,
    instruments::Instruments,
    limits,
    once::{Once, counts_since},
};
use fetchml_api::{
    ArrayMember, AttemptRecord, AuditDraft, AuditKind, Dataset, Dependency, GpuUsage, HealthStatus, Micros, OnLost,
    Reservation, ReservationRecord, ShareRecord, Task, TaskId, TaskSpec, Worker, WorkerId,
    link::{Assignment, Hello, Report, SpooledReport, ToWorker},
};
use fetchml_scheduler::{
    Answer, ArrayOf, Effect, Event, Lease, Message, NewReservation, NewTask, Refusal, Rows, Scheduler, Settings,
};
use fetchml_store::{ChangeDraft, OnceRecord, Restored, Store, StoreError, StoredTask, UsageRow, Write};
use std::{
    collections::{BTreeMap, HashMap},
    io::Write as _,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::{mpsc, watch};
use tracing::{error, info, warn};

/// Name of the incarnation in the store's meta table.
const INCARNATION: &str = "incarnation";

pub(super) struct Engine {
    store: Store,
    settings: DriverSettings,
    clock: Clock,
    core: Scheduler,
    ids: TaskIds,
    /// Immutable parts of all tasks that the core holds.
    specs: HashMap<TaskId, Arc<TaskSpec>>,
    sessions: HashMap<WorkerId, Session>,
    views: Arc<Views>,
    instruments: Arc<Instruments>,
    told: Told,
    idle: IdleGpus,
    /// Set while the store cannot be written: when to try next, and after how long again.
    outage: Option<Outage>,
}

struct Session {
    handle: SessionHandle,
    agent_run: u64,
    heard: Instant,
    /// What the worker's devices do, as it last said.
    gpu_usage: Vec<GpuUsage>,
}

struct Outage {
    next_probe: Instant,
    backoff: Duration,
    reason: String,
}

/// Everything a turn has decided and not yet done.
#[derive(Default)]
struct Turn {
    writes: Vec<Write>,
    sends: Vec<(WorkerId, Message)>,
    changed: Vec<TaskChanged>,
    /// Immutable parts of the tasks submitted in this turn.
    submitted: HashMap<TaskId, Arc<TaskSpec>>,
    /// Requests of this turn that were done before, or earlier in it: the hash of the body and the task, by id.
    done: HashMap<String, (String, StoredTask)>,
    /// Highest spool number dealt with, per worker.
    acks: BTreeMap<WorkerId, u64>,
    /// Beats that the core has heard. Answered earlier, one could renew the lease at a worker whose
    /// silence the core is about to find too long.
    beats: Vec<(WorkerId, u64)>,
    joined: Vec<(WorkerId, Session)>,
    /// What users have used, as the turn leaves it.
    shares: BTreeMap<String, ShareRecord>,
    /// Reservations as the turn leaves them.
    reservations: Vec<Reservation>,
    /// Workers as they are shown from now on.
    look: Option<Look>,
}

/// What a command comes to, once its turn is durable.
enum Outcome {
    Submitted(Box<Submitted>),
    KeyTaken,
    Cancelled(CancelAnswer),
    Changed(ChangeAnswer),
    Reserved(Box<Reservation>),
    NotAllowed(Refusal),
    Joined(JoinAnswer),
    Read(Box<Reading>),
    Nothing,
}

impl Engine {
    /// Takes the next incarnation and restores the core.
    pub(super) async fn boot(
        store: Store,
        settings: DriverSettings,
        instruments: Arc<Instruments>,
    ) -> Result<Self, StoreError> {
        let stored = store.meta(INCARNATION).await?.and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        let beside = read_incarnation(&settings.incarnation_file);
        let incarnation = 1 + stored.max(beside);
        store.commit(vec![Write::MetaPut { name: INCARNATION, value: incarnation.to_string() }]).await?;
        write_incarnation(&settings.incarnation_file, incarnation)
            .map_err(|e| StoreError::Unavailable(format!("{}: {e}", settings.incarnation_file.display())))?;
        let restored = store.restore().await?;
        let clock = Clock::start(restored.last_time);
        let mut engine = Self {
            store,
            clock,
            core: Scheduler::new(core_settings(&settings, incarnation, 0)),
            ids: TaskIds::after(restored.last_task_id),
            settings,
            specs: HashMap::new(),
            sessions: HashMap::new(),
            views: Arc::new(Views::new()),
            instruments,
            told: Told::nothing(&restored.completed_by_minute),
            idle: IdleGpus::default(),
            outage: None,
        };
        info!(incarnation, tasks = restored.tasks.len(), workers = restored.workers.len(), "state restored");
        engine.views.set_incarnation(incarnation);
        engine.adopt(restored, incarnation, 0);
        Ok(engine)
    }

    pub(super) fn views(&self) -> Arc<Views> {
        Arc::clone(&self.views)
    }

    pub(super) const fn clock(&self) -> Clock {
        self.clock
    }

    /// Puts restored rows in place of whatever the core held.
    fn adopt(&mut self, restored: Restored, incarnation: u64, epochs_used: u64) {
        self.told = Told::nothing(&restored.completed_by_minute);
        let live: LiveTasks = restored.tasks.iter().map(|task| (task.state.id, task.clone())).collect();
        self.specs = restored.tasks.iter().map(|task| (task.state.id, Arc::clone(&task.spec))).collect();
        let tasks = restored.tasks.into_iter().map(|StoredTask { spec, state }| {
            let depends_on = if state.blocked { spec.depends_on.clone() } else { Vec::new() };
            (NewTask { depends_on: depends_on.into(), ..new_task(&spec, state.priority) }, state)
        });
        let rows = Rows {
            tasks: tasks.collect(),
            attempts: restored.attempts,
            workers: restored.workers,
            shares: restored.shares,
            quotas: restored.quotas,
            reservations: restored.reservations,
            ended: restored.ended,
            checkpoints: restored.checkpoints,
        };
        let settings = core_settings(&self.settings, incarnation, epochs_used);
        self.core = Scheduler::restore(settings, self.clock.now(), rows);
        for wanted in self.specs.values().filter_map(|spec| datasets_wanted(spec)) {
            let mut none = Vec::new();
            self.core.step(self.clock.now(), wanted, &mut none);
            debug_assert!(none.is_empty(), "a preference has no effects");
        }
        // Dropping the outboxes ends the sessions: the workers come back with inventory and spool.
        self.sessions.clear();
        self.views.set_incarnation(incarnation);
        self.views.replace_live(live);
        self.views.replace_reservations(self.core.reservations().map(Reservation::from));
        self.show_workers(self.core.workers(self.clock.now()));
    }

    /// Runs until told to stop or until the disk fails to sync.
    pub(super) async fn run(mut self, mut inbox: mpsc::Receiver<Item>, mut stopping: watch::Receiver<bool>) {
        let mut batch = Vec::with_capacity(limits::DRIVER_BATCH);
        loop {
            let wake = self.next_wake();
            tokio::select! {
                biased;
                _ = stopping.wait_for(|stop| *stop) => break,
                received = inbox.recv_many(&mut batch, limits::DRIVER_BATCH) => if received == 0 { break },
                () = tokio::time::sleep_until(wake.into()) => {}
            }
            if self.outage.is_some() && !self.probe().await {
                self.refuse(batch.drain(..));
                continue;
            }
            let (commands, began) = (batch.len(), Instant::now());
            let fine = self.turn(std::mem::take(&mut batch)).await;
            if commands > 0 {
                self.instruments.turned(commands, began.elapsed());
            }
            if !fine {
                break;
            }
        }
        inbox.close();
        while let Ok(item) = inbox.try_recv() {
            item.reply.fail(&CommandError::ShuttingDown);
        }
    }

    fn next_wake(&self) -> Instant {
        let now = Instant::now();
        let mut wake = now + limits::DRIVER_IDLE;
        if let Some(outage) = &self.outage {
            return wake.min(outage.next_probe);
        }
        if let Some(deadline) = self.core.next_deadline() {
            wake = wake.min(self.clock.instant_of(deadline));
        }
        wake.min(self.told.due())
    }

    /// One turn. Returns false when the process must exit.
    async fn turn(&mut self, items: Vec<Item>) -> bool {
        let done = match self.done_before(&items).await {
            Ok(done) => done,
            Err(error) => {
                self.begin_outage(error.to_string()).await;
                self.refuse(items.into_iter());
                return true;
            }
        };
        let (turn, outcomes) = self.decide(&items, done);
        fetchml_failpoint::reach("driver.decided");
        let Err(error) = self.commit(&turn).await else {
            fetchml_failpoint::reach("driver.committed");
            self.act(turn);
            fetchml_failpoint::reach("driver.acted");
            reply(items, outcomes);
            return true;
        };
        match error {
            StoreError::Data(problem) if items.len() == 1 => {
                error!(%problem, "the database refused a command");
                let refused = CommandError::Refused(problem);
                for item in items {
                    item.reply.fail(&refused);
                }
                self.rebuild().await;
            }
            StoreError::Data(problem) if items.is_empty() => {
                // Placements alone never carry a user's data: this is a bug, and going on would spin.
                self.begin_outage(format!("internal rows were refused: {problem}")).await;
            }
            StoreError::Data(_) => {
                // Somebody's row is at fault: from the durable state, one by one, only its own
                // command fails.
                self.rebuild().await;
                for item in items {
                    if self.outage.is_some() {
                        self.refuse(std::iter::once(item));
                    } else if !Box::pin(self.turn(vec![item])).await {
                        return false;
                    }
                }
            }
            StoreError::Unavailable(reason) | StoreError::Unknown(reason) => {
                self.begin_outage(reason).await;
                self.refuse(items.into_iter());
            }
            StoreError::Fatal(reason) => {
                error!(%reason, "the disk failed to sync; exiting, because memory may be ahead of what is durable");
                self.views.set_health(HealthStatus::Unhealthy, Some("the disk failed".into()));
                self.views.set_fatal();
                self.refuse(items.into_iter());
                return false;
            }
        }
        true
    }

    async fn commit(&self, turn: &Turn) -> Result<(), StoreError> {
        if turn.writes.is_empty() {
            return Ok(());
        }
        self.store.commit(turn.writes.clone()).await.map(drop)
    }

    /// What of a batch was done before: one look at the store for all of it.
    async fn done_before(&self, items: &[Item]) -> Result<HashMap<String, (String, StoredTask)>, StoreError> {
        let once = items.iter().filter_map(|item| match &item.input {
            Input::Submit(draft) => draft.once.as_ref(),
            _ => None,
        });
        let ids: Vec<String> = once.map(|once| once.id.clone()).collect();
        let found = self.store.once(&ids, counts_since(self.clock.now())).await?;
        Ok(found.into_iter().map(|(record, task)| (record.id, (record.body_sha256, task))).collect())
    }

    /// Steps the core through a batch. Nothing leaves the engine yet.
    fn decide(&mut self, items: &[Item], done: HashMap<String, (String, StoredTask)>) -> (Turn, Vec<Outcome>) {
        let mut turn = Turn { done, ..Turn::default() };
        let now = self.clock.now();
        if self.step(now, Event::TimePassed, None, &mut turn) != Answer::Unchanged {
            // A worker may have fallen silent.
            self.told.outdate();
        }
        let mut outcomes: Vec<_> = items.iter().map(|item| self.apply(&item.input, now, &mut turn)).collect();
        self.step(now, Event::TurnEnded, None, &mut turn);
        for (item, outcome) in items.iter().zip(&mut outcomes) {
            if let Input::Ask(question) = &item.input {
                // Of what is placed when the turn is over.
                *outcome = Outcome::Read(Box::new(self.answer(question, now, &turn)));
            }
        }
        turn.writes.extend(self.idle.take_due().into_iter().map(Write::UsageAdd));
        turn.writes.extend(std::mem::take(&mut turn.shares).into_values().map(Write::SharePut));
        turn.look = self.told.look(&self.core, now);
        if let Some(look) = &mut turn.look {
            turn.writes.extend(look.changes.drain(..).map(Write::Change));
        }
        (turn, outcomes)
    }

    fn apply(&mut self, input: &Input, now: Micros, turn: &mut Turn) -> Outcome {
        match input {
            Input::Submit(draft) => self.apply_submit(draft, now, turn),
            Input::Cancel { task, by } => {
                let event = Event::CancelRequested { task: *task, by: by.user_id.clone() };
                Outcome::Cancelled(self.step(now, event, Some(by), turn).into())
            }
            Input::CancelArray { array, by } => {
                let event = Event::ArrayCancelRequested { array: *array, by: by.user_id.clone() };
                Outcome::Cancelled(self.step(now, event, Some(by), turn).into())
            }
            Input::Join { hello, session } => Outcome::Joined(self.apply_join(hello, session, now, turn)),
            Input::Priority { task, priority, by, role } => {
                let (task, priority, role) = (*task, *priority, *role);
                let event = Event::PriorityRequested { task, priority, by: by.user_id.clone(), role };
                Outcome::Changed(self.step(now, event, Some(by), turn).into())
            }
            Input::Quota { scope, quota, by } => {
                let event = Event::QuotaRequested { scope: scope.clone(), quota: *quota, by: by.user_id.clone() };
                Outcome::Changed(self.step(now, event, Some(by), turn).into())
            }
            Input::Reserve { new, by } => self.apply_reserve(new, by, now, turn),
            Input::Release { reservation, by } => {
                let event = Event::ReleaseRequested { reservation: *reservation, by: by.user_id.clone() };
                Outcome::Changed(self.step(now, event, Some(by), turn).into())
            }
            Input::Drain { worker, mode, by } => {
                let event = Event::DrainRequested { worker: *worker, mode: *mode, by: by.user_id.clone() };
                Outcome::Changed(self.step(now, event, Some(by), turn).into())
            }
            Input::Undrain { worker, by } => {
                let event = Event::UndrainRequested { worker: *worker, by: by.user_id.clone() };
                Outcome::Changed(self.step(now, event, Some(by), turn).into())
            }
            // Answered at the end of the turn.
            Input::Ask(_) => Outcome::Nothing,
            Input::Heard { worker, session, beat } => {
                if self.is_current(*worker, *session, turn) {
                    self.count_idle(*worker);
                    self.step(now, Event::WorkerHeard { worker: *worker }, None, turn);
                    let checked = Event::WorkerChecked { worker: *worker, unfit: beat.unfit.clone() };
                    self.step(now, checked, None, turn);
                    if let Some(gpus) = &beat.gpus {
                        self.step(now, Event::GpusChanged { worker: *worker, gpus: gpus.clone() }, None, turn);
                    }
                    turn.beats.push((*worker, beat.sent_ms));
                    if let Some(session) = self.sessions.get_mut(worker) {
                        session.heard = Instant::now();
                        if let Some(usage) = &beat.gpu_usage {
                            session.gpu_usage.clone_from(usage);
                        }
                    }
                    self.told.outdate();
                }
                Outcome::Nothing
            }
            Input::Reports { worker, session, reports } => {
                if self.is_current(*worker, *session, turn) {
                    self.apply_reports(*worker, reports, now, turn);
                }
                Outcome::Nothing
            }
            Input::Checkpoint { attempt } => {
                self.step(now, Event::CheckpointSaved { attempt: *attempt }, None, turn);
                Outcome::Nothing
            }
            Input::DatasetsHeld { worker, session, held } => {
                if self.is_current(*worker, *session, turn) {
                    self.step(now, Event::DatasetsHeld { worker: *worker, datasets: held.to_vec() }, None, turn);
                    self.told.outdate();
                }
                Outcome::Nothing
            }
            Input::Closed { worker, session } => {
                if self.is_current(*worker, *session, turn) {
                    self.sessions.remove(worker);
                    self.step(now, Event::WorkerDisconnected { worker: *worker }, None, turn);
                    self.told.outdate();
                }
                Outcome::Nothing
            }
        }
    }

    /// What devices did nothing since their worker was last heard.
    fn count_idle(&mut self, worker: WorkerId) {
        let Some(session) = self.sessions.get(&worker) else { return };
        for usage in &session.gpu_usage {
            let holder = self.core.device_holder(worker, usage.index).and_then(|task| self.specs.get(&task));
            if let Some(spec) = holder {
                self.idle.look(spec, usage, session.heard.elapsed());
            }
        }
    }

    fn answer(&self, question: &Question, now: Micros, turn: &Turn) -> Reading {
        match question {
            Question::Holdings { user, role } => {
                let used = self.core.usage_running(now).filter_map(|(task, cpu_ms, gpu_ms)| {
                    let spec = self.specs.get(&task).or_else(|| turn.submitted.get(&task))?;
                    Some(UsageRow { cpu_ms, gpu_ms, ..usage_of(spec) })
                });
                let used = self.idle.waiting().chain(used).collect();
                let own = self.core.holding(now, user, *role);
                Reading::Holdings(Box::new(UsageNow { own, holdings: self.core.holdings(now), used }))
            }
            Question::Explain(task) => Reading::Explained(self.core.explain(*task).map(Box::new)),
            Question::ExplainNew(draft) => {
                let new = NewTask {
                    depends_on: draft.needs.as_slice().into(),
                    broken_by: draft.broken_by,
                    ..new_task(&draft.spec, draft.priority)
                };
                let count = draft.array.as_ref().map_or(1, fetchml_api::ArraySpec::count);
                match self.core.explain_new(&new, count) {
                    Ok(explanation) => Reading::Explained(Some(Box::new(explanation))),
                    Err(refusal) => Reading::NotAllowed(refusal),
                }
            }
        }
    }

    fn apply_submit(&mut self, draft: &NewTaskDraft, now: Micros, turn: &mut Turn) -> Outcome {
        if let Some((body, task)) = draft.once.as_ref().and_then(|once| turn.done.get(&once.id)) {
            let is_same = draft.once.as_ref().is_some_and(|once| once.body_sha256 == *body);
            let before = || Outcome::Submitted(Box::new(Submitted { task: task.clone(), replayed: true }));
            return if is_same { before() } else { Outcome::KeyTaken };
        }
        let specs = self.specs_of(draft, now);
        let needs: Arc<[Dependency]> = draft.needs.as_slice().into();
        let new = |spec: &Arc<TaskSpec>| NewTask {
            depends_on: Arc::clone(&needs),
            broken_by: draft.broken_by,
            ..new_task(spec, draft.priority)
        };
        let (first, is_array) = (Arc::clone(&specs[0]), draft.array.is_some());
        let event = if is_array {
            Event::ArraySubmitted(specs.iter().map(new).collect())
        } else {
            Event::TaskSubmitted(new(&first))
        };
        turn.submitted.extend(specs.iter().map(|spec| (spec.id, Arc::clone(spec))));
        if let Answer::Refused(refusal) = self.step(now, event, Some(&draft.by), turn) {
            for spec in specs {
                turn.submitted.remove(&spec.id);
            }
            return Outcome::NotAllowed(refusal);
        }
        if let Some(of) = first.rerun_of {
            turn.writes.push(Write::Audit(rerun(&first, of, &draft.by, now)));
        }
        for wanted in specs.iter().filter_map(|spec| datasets_wanted(spec)) {
            self.step(now, wanted, None, turn);
        }
        // The answer shows the task as submitted, even when it is placed in the same turn.
        let state = self.core.task(first.id).expect("a task that was just submitted is held by the core");
        let task = StoredTask { spec: first, state };
        if let Some(Once { id, body_sha256 }) = draft.once.clone() {
            turn.done.insert(id.clone(), (body_sha256.clone(), task.clone()));
            let record = OnceRecord { id, body_sha256, state: task.state.clone(), created_at: now };
            turn.writes.push(Write::OncePut { record, counts_since: counts_since(now) });
        }
        Outcome::Submitted(Box::new(Submitted { task, replayed: false }))
    }

    /// The immutable parts of what is submitted, their ids in order.
    fn specs_of(&mut self, draft: &NewTaskDraft, now: Micros) -> Vec<Arc<TaskSpec>> {
        let ids = &mut self.ids;
        let array_id = draft.array.as_ref().map(|_| ids.next(now));
        let mut one = |array: Option<ArrayMember>| {
            Arc::new(TaskSpec { id: ids.next(now), created_at: now, array, ..draft.spec.clone() })
        };
        let (Some(array), Some(id)) = (&draft.array, array_id) else { return vec![one(None)] };
        let count = u32::try_from(array.count()).expect("an array has at most 10,000 tasks");
        let max_running = array.max_running();
        array.indices().map(|index| one(Some(ArrayMember { id, index, count, max_running }))).collect()
    }

    fn apply_reserve(&mut self, new: &NewReservation, by: &Actor, now: Micros, turn: &mut Turn) -> Outcome {
        let id = self.ids.next_reservation(now);
        let event = Event::ReservationRequested(NewReservation { id, ..new.clone() });
        if let Answer::Refused(refusal) = self.step(now, event, Some(by), turn) {
            return Outcome::NotAllowed(refusal);
        }
        let record = self.core.reservation(id).expect("a reservation that was just made is held by the core");
        Outcome::Reserved(Box::new(Reservation::from(record)))
    }

    fn apply_join(&mut self, hello: &Hello, handle: &SessionHandle, now: Micros, turn: &mut Turn) -> JoinAnswer {
        let worker = hello.worker_id;
        let other = turn.joined.iter().rev().find(|(id, _)| *id == worker).map(|(_, session)| session);
        if let Some(open) = other.or_else(|| self.sessions.get(&worker))
            && open.agent_run != hello.agent_run
            && open.heard.elapsed() < limits::CLONE_SILENCE
            && !open.handle.outbox.is_closed()
        {
            return JoinAnswer::Refused {
                reason: format!(
                    "another agent with worker id {worker} is connected; a data directory must not be copied"
                ),
            };
        }
        if hello.incarnation_seen > self.views.incarnation() {
            // The database is older than what this worker has seen: never reissue its epochs.
            self.raise_incarnation(hello.incarnation_seen, turn);
        }
        let audit = handle.by.did(AuditKind::AuthAttempt, "worker_join", format!("workers/{worker}"));
        turn.writes.push(Write::Audit(AuditDraft { at: now, ..audit }));
        let event = Event::WorkerJoined {
            worker,
            name: hello.name.clone(),
            capabilities: hello.capabilities.clone(),
            batch_slots: hello.batch_slots,
            service_slots: hello.service_slots,
            inventory: hello.inventory.clone(),
            unfit: hello.unfit.clone(),
        };
        self.step(now, event, None, turn);
        self.step(now, Event::DatasetsHeld { worker, datasets: hello.datasets.clone() }, None, turn);
        let (keep, forget): (Vec<_>, Vec<_>) =
            hello.inventory.iter().map(|held| held.attempt).partition(|attempt| self.core.holds(worker, *attempt));
        let keep = keep.into_iter().map(|attempt| (attempt, self.core.rank(worker, attempt))).collect();
        let session = Session {
            handle: handle.clone(),
            agent_run: hello.agent_run,
            heard: Instant::now(),
            gpu_usage: Vec::new(),
        };
        turn.joined.push((worker, session));
        self.told.outdate();
        JoinAnswer::Welcome { incarnation: self.views.incarnation(), forget, keep }
    }

    fn raise_incarnation(&mut self, seen: u64, turn: &mut Turn) {
        let incarnation = seen.saturating_add(1);
        warn!(
            seen,
            incarnation, "a worker has seen a later incarnation than the database: was it restored from a backup?"
        );
        if let Err(error) = write_incarnation(&self.settings.incarnation_file, incarnation) {
            warn!(%error, "cannot write the incarnation file");
        }
        self.core.raise_incarnation(incarnation);
        self.views.set_incarnation(incarnation);
        turn.writes.push(Write::MetaPut { name: INCARNATION, value: incarnation.to_string() });
    }

    fn apply_reports(&mut self, worker: WorkerId, reports: &[SpooledReport], now: Micros, turn: &mut Turn) {
        for SpooledReport { seq, attempt, task, epoch, report, provenance } in reports {
            let holds = self.core.attempt(*attempt).is_some_and(|known| {
                (known.task_id, known.epoch) == (*task, *epoch) && self.core.holds(worker, *attempt)
            });
            if let Some(provenance) = provenance.as_ref().filter(|_| holds) {
                let (node, provenance) = (self.core.rank(worker, *attempt), provenance.clone());
                turn.writes.push(Write::ProvenancePut { attempt: *attempt, node, provenance });
            }
            let event = Event::AttemptReported {
                worker,
                attempt: *attempt,
                task: *task,
                epoch: *epoch,
                report: report.clone(),
            };
            let answer = self.step(now, event, None, turn);
            if answer == Answer::Done
                && matches!(report, Report::Ended(_))
                && let Some(change) = turn.changed.iter_mut().rev().find(|change| change.task.state.id == *task)
            {
                change.attempt_over = Some(*attempt);
            }
            let ack = turn.acks.entry(worker).or_default();
            *ack = (*ack).max(*seq);
        }
    }

    /// Whether a session is the worker's current one, counting joins of this very turn.
    fn is_current(&self, worker: WorkerId, session: u64, turn: &Turn) -> bool {
        let joined = turn.joined.iter().rev().find(|(id, _)| *id == worker).map(|(_, session)| session);
        joined.or_else(|| self.sessions.get(&worker)).is_some_and(|open| open.handle.id == session)
    }

    /// Steps the core once and sorts its effects into the turn.
    /// Says of a submit what it may not show.
    fn name_values(&self, draft: &mut AuditDraft, turn: &Turn) {
        let id = draft.resource.strip_prefix("tasks/").and_then(|id| id.parse().ok());
        let Some(spec) = id.and_then(|id: TaskId| turn.submitted.get(&id)) else { return };
        let values = &self.settings.values;
        let mut name = |what: &str, hash| drop(draft.metadata.insert(what.to_owned(), hash));
        name("arguments_hmac", values.of(&(&spec.entrypoint, &spec.args)));
        if !spec.env.is_empty() {
            name("env_hmac", values.of(&spec.env));
        }
    }

    fn step(&mut self, now: Micros, event: Event, by: Option<&Actor>, turn: &mut Turn) -> Answer {
        let mut effects = Vec::new();
        let submits = matches!(event, Event::TaskSubmitted(_) | Event::ArraySubmitted(_));
        let answer = self.core.step(now, event, &mut effects);
        for effect in effects {
            match effect {
                Effect::InsertTask(state) => {
                    let spec =
                        turn.submitted.get(&state.id).expect("only a submit inserts a task, and it left its spec");
                    let task = StoredTask { spec: Arc::clone(spec), state };
                    turn.writes.push(Write::TaskInsert(Arc::clone(&task.spec), task.state.clone()));
                    self.change(task, now, turn);
                }
                Effect::UpdateTask(state) => {
                    let Some(spec) = self.specs.get(&state.id).or_else(|| turn.submitted.get(&state.id)) else {
                        unreachable!("the core holds only tasks whose spec the driver holds");
                    };
                    let task = StoredTask { spec: Arc::clone(spec), state };
                    turn.writes.push(Write::TaskUpdate(task.state.clone()));
                    self.change(task, now, turn);
                }
                Effect::PutAttempt(attempt) => self.put_attempt(attempt, turn),
                Effect::PutWorker(worker) => {
                    self.told.outdate();
                    turn.writes.push(Write::WorkerPut(worker));
                }
                Effect::PutShare(record) => {
                    turn.shares.insert(record.user_id.clone(), record);
                }
                Effect::PutReservation(record) => self.put_reservation(record, now, turn),
                Effect::PutQuota(record) => turn.writes.push(Write::QuotaPut(record)),
                Effect::AddUsage { task, cpu_ms, gpu_ms } => {
                    let spec = self.specs.get(&task).or_else(|| turn.submitted.get(&task));
                    let spec = spec.expect("the core holds only tasks whose spec the driver holds");
                    turn.writes.push(Write::UsageAdd(UsageRow { cpu_ms, gpu_ms, ..usage_of(spec) }));
                }
                Effect::Audit(mut draft) => {
                    if let Some(by) = by {
                        by.sign(&mut draft);
                    }
                    if submits {
                        self.name_values(&mut draft, turn);
                    }
                    turn.writes.push(Write::Audit(draft));
                }
                Effect::Send { worker, message } => {
                    self.told.outdate();
                    turn.sends.push((worker, message));
                }
            }
        }
        answer
    }

    /// Records an attempt; with its end its secrets are nobody's any more.
    fn put_attempt(&self, attempt: AttemptRecord, turn: &mut Turn) {
        let spec = self.specs.get(&attempt.task_id).or_else(|| turn.submitted.get(&attempt.task_id));
        let has_secrets = spec.is_some_and(|spec| !spec.secrets.is_empty());
        let release = (attempt.phase.is_over() && has_secrets).then_some(attempt.id);
        turn.writes.push(Write::AttemptPut(attempt));
        turn.writes.extend(release.map(|attempt| Write::SecretsRelease { attempt }));
    }

    /// Records a reservation's change, also for streams and views.
    fn put_reservation(&mut self, record: ReservationRecord, now: Micros, turn: &mut Turn) {
        let shown = Reservation::from(&record);
        turn.writes.push(Write::ReservationPut(record));
        turn.writes.push(Write::Change(ChangeDraft {
            at: now,
            kind: "reservation",
            entity: shown.id.to_string(),
            body: serde_json::to_string(&shown).expect("a reservation has only string keys and whole numbers"),
        }));
        self.told.outdate();
        turn.reservations.push(shown);
    }

    /// Records a task's change for streams and views.
    fn change(&mut self, task: StoredTask, now: Micros, turn: &mut Turn) {
        let mut shown = Task::from_records(&task.spec, &task.state, now, self.settings.aging_interval_s);
        shown.mask_env();
        turn.writes.push(Write::Change(ChangeDraft {
            at: now,
            kind: "job",
            entity: task.state.id.to_string(),
            body: serde_json::to_string(&shown).expect("a task has only string keys and finite numbers"),
        }));
        self.told.outdate();
        self.told.ended(task.state.status, task.state.ended_at);
        turn.changed.push(TaskChanged { task, attempt_over: None });
    }

    /// Does what a durable turn has decided.
    fn act(&mut self, turn: Turn) {
        self.instruments.submitted(turn.submitted.len());
        self.specs.extend(turn.submitted);
        for (worker, session) in turn.joined {
            info!(%worker, session = session.handle.id, "worker joined");
            self.sessions.insert(worker, session);
        }
        for (worker, message) in turn.sends {
            if let Some(message) = self.to_worker(message) {
                if matches!(message, ToWorker::Assign(_)) {
                    self.instruments.placed();
                }
                self.send(worker, message);
            }
        }
        for (worker, sent_ms) in turn.beats {
            self.send(worker, ToWorker::BeatAck { sent_ms });
        }
        for (worker, seq) in turn.acks {
            self.send(worker, ToWorker::Ack { seq });
        }
        for change in &turn.changed {
            let state = &change.task.state;
            if state.status.is_terminal() && self.specs.remove(&state.id).is_some() {
                self.instruments.ended(state.status, state.cause);
            }
        }
        self.views.set_reservations(turn.reservations);
        self.views.publish(turn.changed);
        match turn.look {
            Some(look) => self.show_workers(look.workers),
            None => self.show_status(),
        }
    }

    fn to_worker(&self, message: Message) -> Option<ToWorker> {
        Some(match message {
            Message::Assign { attempt, task, number, epoch, node, gpus } => ToWorker::Assign(Box::new(Assignment {
                attempt,
                number,
                epoch,
                // Gone only when the task ended later in the same turn: nothing to run then.
                spec: TaskSpec::clone(self.specs.get(&task)?),
                gpus,
                node,
                grace_s: limits::GRACE_S,
            })),
            Message::Cancel { attempt, cause } => ToWorker::Cancel { attempt, cause, grace_s: limits::GRACE_S },
            Message::Revoke { attempt } => ToWorker::Revoke { attempt },
            Message::Forget { attempt } => ToWorker::Forget { attempt },
            Message::Release { attempt, address, port } => ToWorker::Release { attempt, address, port },
            Message::Drain { on } => ToWorker::Drain { on },
        })
    }

    fn send(&mut self, worker: WorkerId, message: ToWorker) {
        let Some(session) = self.sessions.get(&worker) else { return };
        if session.handle.outbox.try_send(message).is_err() {
            // Full or closed. The session ends; the worker joins again and everything is repeated.
            warn!(%worker, "a worker does not take its messages; its session is closed");
            self.sessions.remove(&worker);
            let mut ignored = Vec::new();
            self.core.step(self.clock.now(), Event::WorkerDisconnected { worker }, &mut ignored);
            debug_assert!(ignored.is_empty(), "the state of a link is volatile");
            self.told.outdate();
        }
    }

    /// Restores the core from what is durable. On failure an outage begins.
    async fn rebuild(&mut self) {
        let (incarnation, epochs_used) = (self.views.incarnation(), self.core.epochs_used());
        match self.store.restore().await {
            Ok(restored) => self.adopt(restored, incarnation, epochs_used),
            Err(error) => {
                error!(%error, "cannot restore the state");
                self.pause(error.to_string(), limits::PROBE_FIRST);
            }
        }
    }

    /// Rebuilds once and refuses work until a probe write passes.
    async fn begin_outage(&mut self, reason: String) {
        error!(%reason, "the store cannot be written");
        self.rebuild().await;
        self.pause(reason, limits::PROBE_FIRST);
    }

    fn pause(&mut self, reason: String, backoff: Duration) {
        self.views.set_health(HealthStatus::Degraded, Some("the database cannot be written".into()));
        self.outage = Some(Outage { next_probe: Instant::now() + backoff, backoff, reason });
    }

    /// Whether the outage is over.
    async fn probe(&mut self) -> bool {
        let Some(outage) = &self.outage else { return true };
        if Instant::now() < outage.next_probe {
            return false;
        }
        let backoff = (outage.backoff * 2).min(limits::PROBE_LONGEST);
        if let Err(error) = self.store.probe_write().await {
            warn!(%error, "the store still cannot be written");
            self.pause(error.to_string(), backoff);
            return false;
        }
        // What the failed commit left is settled now; the core starts again from it.
        let (incarnation, epochs_used) = (self.views.incarnation(), self.core.epochs_used());
        match self.store.restore().await {
            Ok(restored) => {
                info!(after = %outage.reason, "the store can be written again");
                self.outage = None;
                self.adopt(restored, incarnation, epochs_used);
                self.views.set_health(HealthStatus::Healthy, None);
                true
            }
            Err(error) => {
                self.pause(error.to_string(), backoff);
                false
            }
        }
    }

    fn refuse(&mut self, items: impl Iterator<Item = Item>) {
        let error = CommandError::Unavailable {
            reason: "the database cannot be written now; nothing was lost, try again".into(),
            retry_after_s: limits::RETRY_AFTER_S,
        };
        for item in items {
            if let Input::Reports { worker, .. } | Input::Heard { worker, .. } | Input::DatasetsHeld { worker, .. } =
                &item.input
            {
                // Unacknowledged reports must come again: the session ends.
                self.sessions.remove(worker);
            }
            item.reply.fail(&error);
        }
    }

    /// With what their devices do, which streams are not told of: it changes all the time.
    fn show_workers(&mut self, mut workers: Vec<Worker>) {
        for worker in &mut workers {
            let usage = self.sessions.get(&worker.id).map_or(&[][..], |session| &session.gpu_usage);
            for gpu in &mut worker.capabilities.gpus {
                let found = usage.iter().find(|usage| usage.index == gpu.index);
                gpu.utilization_percent = found.and_then(|usage| usage.utilization_percent);
                gpu.memory_used_bytes = found.and_then(|usage| usage.memory_used_bytes);
            }
        }
        self.views.set_workers(workers);
        self.views.set_gpus_held(self.core.devices_held() as u64);
        self.show_status();
    }

    fn show_status(&mut self) {
        let workers = self.views.workers();
        self.views.set_status(self.told.status(&self.core, &workers, self.clock.now()));
    }
}

fn reply(items: Vec<Item>, outcomes: Vec<Outcome>) {
    for (item, outcome) in items.into_iter().zip(outcomes) {
        // A caller that is gone needs no answer: its command is done all the same.
        match (item.reply, outcome) {
            (Reply::Submit(reply), Outcome::Submitted(submitted)) => drop(reply.send(Ok(*submitted))),
            (Reply::Submit(reply), Outcome::KeyTaken) => drop(reply.send(Err(CommandError::KeyTaken))),
            (Reply::Submit(reply), Outcome::NotAllowed(refusal)) => {
                drop(reply.send(Err(CommandError::NotAllowed(refusal))));
            }
            (Reply::Cancel(reply), Outcome::Cancelled(answer)) => drop(reply.send(Ok(answer))),
            (Reply::Change(reply), Outcome::Changed(answer)) => drop(reply.send(Ok(answer))),
            (Reply::Reserve(reply), Outcome::Reserved(shown)) => drop(reply.send(Ok(*shown))),
            (Reply::Reserve(reply), Outcome::NotAllowed(refusal)) => {
                drop(reply.send(Err(CommandError::NotAllowed(refusal))));
            }
            (Reply::Join(reply), Outcome::Joined(answer)) => drop(reply.send(Ok(answer))),
            (Reply::Tell(reply), Outcome::Read(reading)) => drop(reply.send(Ok(*reading))),
            (Reply::None, Outcome::Nothing) => {}
            _ => unreachable!("each input has one kind of outcome"),
        }
    }
}

/// A row to which use of a task is added.
pub(super) fn usage_of(spec: &TaskSpec) -> UsageRow {
    let experiment_id = spec.experiment_id.map(|id| id.to_string());
    UsageRow { user_id: spec.user_id.clone(), experiment_id, ..UsageRow::default() }
}

/// What of a task the core knows, but for what it depends on.
fn new_task(spec: &TaskSpec, priority: u8) -> NewTask {
    NewTask {
        id: spec.id,
        user_id: spec.user_id.clone(),
        demand: spec.demand.clone(),
        priority,
        role: spec.role,
        time_limit_s: spec.time_limit_s,
        max_retries: spec.max_retries,
        lease: lease(spec),
        depends_on: [].into(),
        broken_by: None,
        array: spec.array.map(|array| ArrayOf { id: array.id, max_running: array.max_running }),
    }
}

/// Who asked to run a task again: not always its user.
fn rerun(spec: &TaskSpec, of: TaskId, by: &Actor, now: Micros) -> AuditDraft {
    let mut draft = by.did(AuditKind::JobQueued, "rerun", format!("tasks/{}", spec.id));
    draft.metadata.extend([("of".to_owned(), of.to_string()), ("owner".to_owned(), spec.user_id.clone())]);
    AuditDraft { at: now, ..draft }
}

/// What placement should know of a task's data sets.
fn datasets_wanted(spec: &TaskSpec) -> Option<Event> {
    let datasets: Vec<_> = spec.datasets.iter().map(Dataset::key).collect();
    (!datasets.is_empty()).then_some(Event::DatasetsWanted { task: spec.id, datasets })
}

/// How long a task's attempts outlive the silence of their worker.
fn lease(spec: &TaskSpec) -> Lease {
    match (spec.on_lost, spec.lost_after_s) {
        (OnLost::Keep, _) => Lease::Kept,
        (OnLost::Fence, Some(seconds)) => Lease::Seconds(seconds),
        (OnLost::Fence, None) => Lease::AsSet,
    }
}

fn core_settings(settings: &DriverSettings, incarnation: u64, epochs_used: u64) -> Settings {
    Settings {
        incarnation,
        epochs_used,
        aging_interval_s: settings.aging_interval_s,
        lost_after_s: settings.lost_after_s,
        hold_after_s: settings.hold_after_s,
        prepare_timeout_s: settings.prepare_timeout_s,
        quotas: settings.quotas.clone(),
        preempt_batch: settings.preemption.batch,
        preempt_service: settings.preemption.service,
        preempt_cooldown_s: settings.preemption.cooldown_s,
        ..Settings::default()
    }
}

fn read_incarnation(path: &Path) -> u64 {
    std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// Write, sync, rename, sync the directory.
fn write_incarnation(path: &Path, incarnation: u64) -> std::io::Result<()> {
    let temporary = path.with_extension("new");
    let mut file = std::fs::File::create(&temporary)?;
    writeln!(file, "{incarnation}")?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    path.parent().map_or(Ok(()), |parent| std::fs::File::open(parent)?.sync_all())
}
