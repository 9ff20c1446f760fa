//! A small world around the core: it keeps the rows that effects write, and after every step checks
//! all that must always hold.

use fetchml_api::{
    AttemptEpoch, AttemptId, AttemptRecord, AuditDraft, Capabilities, Demand, Dependency, DependencyOn, FailureCause,
    Gpu, GpuState, LogAction, LogRuleMatch, Micros, QuotaRecord, QuotaScope, ReservationId, ReservationRecord, Role,
    ShareRecord, SlotKind, TaskId, TaskState, TaskStatus, WorkerId, WorkerRecord,
    link::{Held, Outcome, Report},
    time::SECOND,
};
use fetchml_scheduler::{Answer, ArrayOf, Effect, Event, Lease, Message, NewTask, Rows, Scheduler, Settings};
use std::collections::BTreeMap;
use uuid::Uuid;

pub(crate) fn task(n: u32) -> TaskId {
    TaskId(Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0000 + u128::from(n)))
}

pub(crate) fn worker(n: u32) -> WorkerId {
    WorkerId(Uuid::from_u128(0x0180_0000_0000_7000_8000_0000_0000_0000 + u128::from(n)))
}

pub(crate) fn reservation(n: u32) -> ReservationId {
    ReservationId(Uuid::from_u128(0x01a0_0000_0000_7000_8000_0000_0000_0000 + u128::from(n)))
}

/// The number a task or worker was named by.
pub(crate) fn number(id: Uuid) -> u32 {
    id.as_u128() as u32
}

/// A task to submit: one core, priority 5, user `ada`, unless said otherwise.
#[derive(Clone, Debug)]
pub(crate) struct T(pub(crate) NewTask);

pub(crate) fn t(n: u32) -> T {
    let demand = Demand {
        slot: SlotKind::Batch,
        cpu: 1,
        memory_gb: 0,
        gpu: 0,
        gpu_type: None,
        nodes: 1,
        image: false,
        reservation: None,
    };
    T(NewTask {
        id: task(n),
        user_id: "ada".into(),
        demand,
        priority: 5,
        role: Role::Admin,
        max_retries: 0,
        time_limit_s: None,
        lease: Lease::AsSet,
        depends_on: [].into(),
        broken_by: None,
        array: None,
    })
}

impl T {
    pub(crate) fn cpu(mut self, cpu: u32) -> Self {
        self.0.demand.cpu = cpu;
        self
    }
    pub(crate) fn memory(mut self, gib: u32) -> Self {
        self.0.demand.memory_gb = gib;
        self
    }
    pub(crate) fn gpu(mut self, count: u32) -> Self {
        self.0.demand.gpu = count;
        self
    }
    pub(crate) fn gpu_type(mut self, name: &str) -> Self {
        self.0.demand.gpu_type = Some(name.into());
        self
    }
    pub(crate) fn image(mut self) -> Self {
        self.0.demand.image = true;
        self
    }
    pub(crate) fn service(mut self) -> Self {
        self.0.demand.slot = SlotKind::Service;
        self
    }
    pub(crate) fn priority(mut self, priority: u8) -> Self {
        self.0.priority = priority;
        self
    }
    pub(crate) fn user(mut self, user: &str) -> Self {
        self.0.user_id = user.into();
        self
    }
    pub(crate) fn nodes(mut self, nodes: u32) -> Self {
        self.0.demand.nodes = nodes;
        self
    }
    /// To run on the GPUs of a reservation.
    pub(crate) fn reserved(mut self, n: u32) -> Self {
        self.0.demand.reservation = Some(reservation(n));
        self
    }
    pub(crate) fn limit(mut self, seconds: u32) -> Self {
        self.0.time_limit_s = Some(seconds);
        self
    }
    pub(crate) fn role(mut self, role: Role) -> Self {
        self.0.role = role;
        self
    }
    pub(crate) fn lease(mut self, lease: Lease) -> Self {
        self.0.lease = lease;
        self
    }
    /// Depends on tasks: they must have completed.
    pub(crate) fn after(self, tasks: &[u32]) -> Self {
        self.needs(tasks, DependencyOn::Ok)
    }
    /// Depends on tasks: they must have ended.
    pub(crate) fn after_any(self, tasks: &[u32]) -> Self {
        self.needs(tasks, DependencyOn::Any)
    }
    fn needs(mut self, tasks: &[u32], on: DependencyOn) -> Self {
        let more = tasks.iter().map(|&n| Dependency { id: task(n), on });
        self.0.depends_on = self.0.depends_on.iter().copied().chain(more).collect();
        self
    }
    /// An array of so many tasks, numbered from this one on; of the array's number `array`.
    pub(crate) fn array(self, array: u32, count: u32, max_running: Option<u32>) -> Vec<NewTask> {
        let first = number(self.0.id.0);
        let array = Some(ArrayOf { id: task(array), max_running });
        (first..first + count).map(|n| NewTask { id: task(n), array, ..self.0.clone() }).collect()
    }
    pub(crate) fn retries(mut self, retries: u32) -> Self {
        self.0.max_retries = retries;
        self
    }
}

/// A worker to join: as many batch slots as cores, one service slot.
#[derive(Clone, Debug)]
pub(crate) struct W {
    n: u32,
    capabilities: Capabilities,
    batch: u32,
    service: u32,
}

pub(crate) fn w(n: u32, cores: u32) -> W {
    let capabilities = Capabilities { cpu_cores: cores, memory_gb: 16, ..Capabilities::default() };
    W { n, capabilities, batch: cores, service: 1 }
}

impl W {
    pub(crate) fn gpus(mut self, names: &[&str]) -> Self {
        let gpus = (0..).zip(names);
        self.capabilities.gpus = gpus
            .map(|(index, name)| Gpu {
                index,
                uuid: format!("GPU-{index}"),
                name: (*name).into(),
                memory_bytes: 1 << 30,
                ..Gpu::default()
            })
            .collect();
        self.capabilities.gpu_count = names.len() as u32;
        self
    }
    /// The devices, with these in another state.
    pub(crate) fn devices(&self, states: &[(u32, GpuState)]) -> Vec<Gpu> {
        let mut gpus = self.capabilities.gpus.clone();
        for (index, state) in states {
            let gpu = gpus.iter_mut().find(|gpu| gpu.index == *index).expect("it has that device");
            gpu.state = *state;
            gpu.reason = (*state != GpuState::Available).then(|| format!("is {}", state.as_str()));
        }
        gpus
    }
    pub(crate) fn containers(mut self) -> Self {
        self.capabilities.executors = vec!["process".into(), "podman".into()];
        self
    }
    pub(crate) fn slots(mut self, batch: u32, service: u32) -> Self {
        (self.batch, self.service) = (batch, service);
        self
    }
    pub(crate) fn memory(mut self, gib: u32) -> Self {
        self.capabilities.memory_gb = gib;
        self
    }
    /// Its hello.
    pub(crate) fn joined(self, inventory: Vec<Held>) -> Event {
        Event::WorkerJoined {
            worker: worker(self.n),
            name: format!("box{}", self.n),
            capabilities: self.capabilities,
            batch_slots: self.batch,
            service_slots: self.service,
            inventory,
            unfit: None,
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) spec: NewTask,
    pub(crate) state: TaskState,
    /// The status that the audit log says.
    pub(crate) replayed: TaskStatus,
}

pub(crate) struct World {
    pub(crate) core: Scheduler,
    pub(crate) now: Micros,
    pub(crate) rows: BTreeMap<TaskId, Row>,
    pub(crate) attempts: BTreeMap<AttemptId, AttemptRecord>,
    pub(crate) workers: BTreeMap<WorkerId, WorkerRecord>,
    pub(crate) shares: BTreeMap<String, ShareRecord>,
    pub(crate) quotas: BTreeMap<QuotaScope, QuotaRecord>,
    pub(crate) reservations: BTreeMap<ReservationId, ReservationRecord>,
    /// Milliseconds of cores and of GPUs that the store counts, by user.
    pub(crate) used: BTreeMap<String, (u64, u64)>,
    pub(crate) settings: Settings,
    /// When attempts left checkpoints.
    pub(crate) checkpoints: BTreeMap<AttemptId, Micros>,
    /// What was sent since the last look.
    pub(crate) sent: Vec<String>,
    /// What was audited since the last look.
    pub(crate) audited: Vec<String>,
    last_epoch: AttemptEpoch,
}

pub(crate) const START: Micros = Micros(1_764_000_000_000_000);

impl World {
    pub(crate) fn new() -> Self {
        Self::with(Settings::default())
    }

    pub(crate) fn with(settings: Settings) -> Self {
        Self {
            core: Scheduler::new(settings.clone()),
            now: START,
            rows: BTreeMap::new(),
            attempts: BTreeMap::new(),
            workers: BTreeMap::new(),
            shares: BTreeMap::new(),
            quotas: BTreeMap::new(),
            checkpoints: BTreeMap::new(),
            reservations: BTreeMap::new(),
            used: BTreeMap::new(),
            settings,
            sent: Vec::new(),
            audited: Vec::new(),
            last_epoch: AttemptEpoch::default(),
        }
    }

    pub(crate) fn step(&mut self, event: Event) -> Answer {
        let submitted = match &event {
            Event::TaskSubmitted(new) => std::slice::from_ref(new),
            Event::ArraySubmitted(tasks) => tasks,
            _ => &[],
        };
        for new in submitted {
            if !self.rows.contains_key(&new.id) {
                self.apply_submit(new.clone());
            }
        }
        let mut effects = Vec::new();
        let answer = self.core.step(self.now, event, &mut effects);
        if matches!(answer, Answer::NotActive | Answer::Refused(_)) {
            assert_eq!(effects, [], "a refusal has no effects");
        }
        if answer == Answer::Stale {
            assert!(matches!(&effects[..], [Effect::Send { message: Message::Forget { .. }, .. }]), "{effects:?}");
        }
        if let Answer::Refused(_) = answer {
            self.rows.retain(|_, row| row.state.priority > 0);
        }
        for effect in effects {
            self.apply(effect);
        }
        self.check();
        answer
    }

    fn apply_submit(&mut self, spec: NewTask) {
        // A stand-in until the effect brings the state; a submit without InsertTask fails in `check`.
        let state = TaskState {
            id: spec.id,
            status: TaskStatus::Failed,
            priority: 0,
            queued_since: Micros(0),
            waited_before: 0,
            blocked: false,
            not_before: None,
            attempt: None,
            epoch: None,
            worker_id: None,
            started_at: None,
            ended_at: None,
            retry_count: 0,
            requeue_count: 0,
            attempt_count: 0,
            cancelled_by: None,
            cause: None,
            exit_code: None,
            signal: None,
            error: None,
            hidden: false,
            log_rule: None,
            excluded_workers: Vec::new(),
            nodes: Vec::new(),
        };
        self.rows.insert(spec.id, Row { spec, state, replayed: TaskStatus::Queued });
    }

    fn apply(&mut self, effect: Effect) {
        match effect {
            Effect::InsertTask(state) => {
                let row = self.rows.get_mut(&state.id).expect("only submitted tasks are inserted");
                assert_eq!(row.state.priority, 0, "a task is inserted once");
                row.state = state;
            }
            Effect::UpdateTask(state) => {
                let row = self.rows.get_mut(&state.id).expect("only inserted tasks are updated");
                assert!(!row.state.status.is_terminal(), "an ended task does not change: {state:?}");
                assert!(row.state.epoch <= state.epoch, "epochs of a task grow");
                row.state = state;
            }
            Effect::PutAttempt(record) => {
                if let Some(before) = self.attempts.get(&record.id) {
                    let forward = before.phase < record.phase;
                    let nodes = !record.nodes.is_empty() && before.phase <= record.phase;
                    let stopped = before.preempted_for != record.preempted_for && before.phase == record.phase;
                    assert!(forward || nodes || stopped, "an attempt goes forward: {before:?} {record:?}");
                    assert_eq!((before.epoch, before.task_id), (record.epoch, record.task_id));
                } else {
                    assert!(record.epoch > self.last_epoch, "epochs grow");
                    self.last_epoch = record.epoch;
                    let has = &self.workers[&record.worker_id].capabilities.gpus;
                    for index in &record.gpus {
                        let device = has.iter().find(|gpu| gpu.index == *index).expect("its worker has it");
                        assert_eq!(device.state, GpuState::Available, "{device:?} is given to {record:?}");
                    }
                    self.assert_not_set_aside(&record);
                }
                self.attempts.insert(record.id, record);
            }
            Effect::PutWorker(record) => {
                self.workers.insert(record.id, record);
            }
            Effect::PutShare(record) => {
                self.shares.insert(record.user_id.clone(), record);
            }
            Effect::PutQuota(record) => {
                self.quotas.insert(record.scope.clone(), record);
            }
            Effect::PutReservation(record) => {
                let before = self.reservations.get(&record.id).map(|record| record.status);
                assert!(before <= Some(record.status), "a reservation goes forward: {before:?} {record:?}");
                self.reservations.insert(record.id, record);
            }
            Effect::AddUsage { task, cpu_ms, gpu_ms } => {
                let used = self.used.entry(self.rows[&task].spec.user_id.clone()).or_default();
                *used = (used.0 + cpu_ms, used.1 + gpu_ms);
            }
            Effect::Audit(draft) => self.apply_audit(&draft),
            Effect::Send { worker, message } => {
                let line = format!("w{}: {}", number(worker.0), self.said(&message));
                self.sent.push(line);
            }
        }
    }

    /// What is set aside goes to the task of the reservation only, and that task gets nothing else.
    fn assert_not_set_aside(&self, attempt: &AttemptRecord) {
        let own = self.rows[&attempt.task_id].spec.demand.reservation;
        let nodes = attempt.nodes.iter().map(|node| (node.worker_id, &node.gpus));
        let places: Vec<_> = nodes.chain(std::iter::once((attempt.worker_id, &attempt.gpus))).collect();
        for (worker, gpus) in places {
            for gpu in gpus {
                let owner = self.reservations.values().find(|record| {
                    record.earmarks.iter().any(|earmark| earmark.worker_id == worker && earmark.gpus.contains(gpu))
                });
                assert_eq!(owner.map(|record| record.id), own, "GPU {gpu} of {worker} is given to {attempt:?}");
            }
        }
    }

    fn apply_audit(&mut self, draft: &AuditDraft) {
        if let Some(id) = draft.resource.strip_prefix("reservations/") {
            let id: ReservationId = id.parse().expect("a reservation's id");
            let task = draft.metadata.get("task").map(|task| number(task.parse::<TaskId>().expect("an id").0));
            let task = task.map(|task| format!(" t{task}")).unwrap_or_default();
            self.audited.push(format!("r{} {} by {}{task}", number(id.0), draft.action, draft.user_id));
            return;
        }
        if draft.resource.starts_with("quotas/") {
            self.audited.push(format!("{} {} by {}", draft.resource, draft.action, draft.user_id));
            return;
        }
        if let Some(rest) = draft.resource.strip_prefix("workers/") {
            let (id, device) = rest.split_once('/').unwrap_or((rest, ""));
            let id: WorkerId = id.parse().expect("a worker's id");
            let who =
                if device.is_empty() { format!("w{}", number(id.0)) } else { format!("w{} {device}", number(id.0)) };
            let why = draft.error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
            self.audited.push(format!("{who} {} by {}{why}", draft.action, draft.user_id));
            return;
        }
        let id: TaskId =
            (draft.resource.strip_prefix("tasks/")).and_then(|id| id.parse().ok()).expect("it is about a task");
        let row = self.rows.get_mut(&id).expect("the task is known");
        assert!(!row.replayed.is_terminal(), "one terminal event, and nothing after it: {draft:?}");
        row.replayed = draft.metadata["status"].parse().expect("a status");
        // What a table is about is said by the messages it compares.
        if matches!(draft.action.as_str(), "assign" | "return" | "collect" | "unblock") {
            return;
        }
        let cause = draft.metadata.get("cause").map(|cause| format!(" {cause}")).unwrap_or_default();
        self.audited.push(format!("t{} {} by {}{cause}", number(id.0), draft.action, draft.user_id));
    }

    fn said(&self, message: &Message) -> String {
        let of = |attempt: &AttemptId| match self.attempts.get(attempt) {
            Some(record) => format!("t{}#{}", number(record.task_id.0), record.number),
            None => "a stranger".to_owned(),
        };
        match message {
            Message::Assign { attempt, gpus, node, .. } => {
                let node =
                    if self.attempts[attempt].nodes.is_empty() { String::new() } else { format!(" node {node}") };
                let gpus = if gpus.is_empty() { String::new() } else { format!(" gpus {gpus:?}") };
                format!("assign {}{node}{gpus}", of(attempt))
            }
            Message::Release { attempt, address, port } => format!("release {} {address}:{port}", of(attempt)),
            Message::Cancel { attempt, cause } => format!("cancel {} {}", of(attempt), cause.as_str()),
            Message::Revoke { attempt } => format!("revoke {}", of(attempt)),
            Message::Forget { attempt } => format!("forget {}", of(attempt)),
            Message::Drain { on } => format!("drain {}", if *on { "on" } else { "off" }),
        }
    }

    /// All that must hold after every step.
    fn check(&self) {
        self.core.assert_invariants();
        let restored = self.restored();
        restored.assert_invariants();
        assert_eq!(restored.durable_state(), self.core.durable_state(), "restore(rows) is the durable state");
        for (id, row) in &self.rows {
            assert_eq!(self.core.task(*id).is_none(), row.state.status.is_terminal(), "ended tasks leave, others stay");
            assert_eq!(row.replayed, row.state.status, "replay(audit) is the tasks: {row:?}");
        }
    }

    /// A second core from the rows.
    pub(crate) fn restored(&self) -> Scheduler {
        let live = self.rows.values().filter(|row| !row.state.status.is_terminal());
        let tasks = live.map(|row| (row.spec.clone(), row.state.clone())).collect();
        let attempts = self.attempts.values().filter(|record| !record.phase.is_over()).cloned().collect();
        let workers = self.workers.values().cloned().collect();
        let quotas = self.quotas.values().cloned().collect();
        let shares = self.shares.values().cloned().collect();
        let reservations = self.reservations.values().cloned().collect();
        let rows = Rows {
            tasks,
            attempts,
            workers,
            shares,
            quotas,
            reservations,
            ended: self.ended(),
            checkpoints: self.checkpoints.clone(),
        };
        Scheduler::restore(self.settings.clone(), self.now, rows)
    }

    /// What has ended of tasks and arrays, and whether well.
    fn ended(&self) -> BTreeMap<TaskId, bool> {
        let mut ended = BTreeMap::new();
        for row in self.rows.values().filter(|row| row.state.status.is_terminal()) {
            let well = row.state.status == TaskStatus::Completed;
            ended.insert(row.spec.id, well);
            if let Some(array) = row.spec.array {
                *ended.entry(array.id).or_insert(true) &= well;
            }
        }
        ended
    }

    /// The server restarts: what is volatile is gone.
    pub(crate) fn restart(&mut self) {
        self.settings.incarnation += 1;
        self.settings.epochs_used = 0;
        self.core = self.restored();
    }

    pub(crate) fn join(&mut self, w: W) -> Vec<String> {
        self.join_holding(w, &[])
    }

    pub(crate) fn join_holding(&mut self, w: W, tasks: &[u32]) -> Vec<String> {
        let held = |n: &u32| {
            let state = &self.rows[&task(*n)].state;
            Held {
                attempt: state.attempt.expect("it is active"),
                task: task(*n),
                epoch: state.epoch.expect("it is active"),
                log_acked: 0,
                metrics_acked: 0,
            }
        };
        let inventory = tasks.iter().map(held).collect();
        self.join_with(w, inventory)
    }

    pub(crate) fn join_with(&mut self, w: W, inventory: Vec<Held>) -> Vec<String> {
        self.sent.clear();
        self.step(w.joined(inventory));
        std::mem::take(&mut self.sent)
    }

    pub(crate) fn submit(&mut self, t: T) {
        assert_eq!(self.step(Event::TaskSubmitted(t.0)), Answer::Done);
    }

    pub(crate) fn submit_array(&mut self, tasks: Vec<NewTask>) {
        assert_eq!(self.step(Event::ArraySubmitted(tasks)), Answer::Done);
    }

    /// The current attempt of a task has left a checkpoint.
    pub(crate) fn saves(&mut self, n: u32) {
        let attempt = self.state(n).attempt.expect("it is active");
        self.checkpoints.insert(attempt, self.now);
        assert_eq!(self.step(Event::CheckpointSaved { attempt }), Answer::Done);
    }

    /// Tasks that are blocked.
    pub(crate) fn blocked(&self) -> usize {
        let blocked = |row: &&Row| row.state.blocked && row.state.status == TaskStatus::Queued;
        self.rows.values().filter(blocked).count()
    }

    /// Ends turns until nothing is left to follow from what has ended.
    pub(crate) fn settle(&mut self) -> usize {
        (1..10_000)
            .find(|_| {
                self.step(Event::TurnEnded);
                self.core.next_deadline().is_none_or(|at| at > self.now)
            })
            .expect("it comes to an end")
    }

    /// Ends the turn; what was sent since the last look.
    pub(crate) fn turn(&mut self) -> Vec<String> {
        self.step(Event::TurnEnded);
        std::mem::take(&mut self.sent)
    }

    pub(crate) fn cancel(&mut self, n: u32, by: &str) -> Answer {
        self.step(Event::CancelRequested { task: task(n), by: by.into() })
    }

    /// A rightful report about the current or last attempt of a task.
    pub(crate) fn report(&mut self, n: u32, report: Report) -> Answer {
        let event = self.reported(n, report);
        self.step(event)
    }

    /// A report from every node of the current attempt of a task; late ones change nothing.
    pub(crate) fn report_all(&mut self, n: u32, report: &Report) {
        let Some(record) = self.core.task(task(n)).and_then(|state| self.attempts.get(&state.attempt?)).cloned() else {
            return;
        };
        let nodes = record.nodes.iter().map(|node| node.worker_id);
        let workers: Vec<_> = if record.nodes.is_empty() { vec![record.worker_id] } else { nodes.collect() };
        for worker in workers {
            let (attempt, epoch, report) = (record.id, record.epoch, report.clone());
            self.step(Event::AttemptReported { worker, attempt, task: task(n), epoch, report });
        }
    }

    pub(crate) fn reported(&self, n: u32, report: Report) -> Event {
        let state = &self.rows[&task(n)].state;
        let record =
            self.attempts.values().filter(|a| a.task_id == task(n)).max_by_key(|a| a.epoch).expect("it was placed");
        assert_eq!(Some(record.epoch), state.epoch);
        Event::AttemptReported {
            worker: record.worker_id,
            attempt: record.id,
            task: task(n),
            epoch: record.epoch,
            report,
        }
    }

    pub(crate) fn reports(&mut self, n: u32, reports: &[Report]) {
        for report in reports {
            assert_eq!(self.report(n, report.clone()), Answer::Done, "{report:?}");
        }
    }

    pub(crate) fn heard(&mut self, n: u32) -> Answer {
        self.step(Event::WorkerHeard { worker: worker(n) })
    }

    pub(crate) fn pass_ms(&mut self, milliseconds: i64) {
        self.now = Micros(self.now.0 + milliseconds * (SECOND / 1_000));
        self.step(Event::TimePassed);
    }

    pub(crate) fn pass(&mut self, seconds: i64) {
        self.pass_ms(seconds * 1_000);
    }

    pub(crate) fn state(&self, n: u32) -> &TaskState {
        &self.rows[&task(n)].state
    }

    /// Status, counts, cause and sentence of a task in one line.
    pub(crate) fn says(&self, n: u32) -> String {
        let s = self.state(n);
        let mut parts = vec![s.status.as_str().to_owned()];
        let counts = [("retries", s.retry_count), ("requeues", s.requeue_count)];
        parts.extend(counts.iter().filter(|(_, count)| *count > 0).map(|(name, count)| format!("{name} {count}")));
        parts.extend(s.cause.map(|cause| cause.as_str().to_owned()));
        let error = s.error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
        parts.join(", ") + &error
    }

    /// The core's own text, with short names, times and ids.
    pub(crate) fn text(&self) -> String {
        let mut text = self.core.to_string();
        for n in 0..64 {
            text =
                text.replace(&task(n).to_string(), &format!("t{n}")).replace(&worker(n).to_string(), &format!("w{n}"));
            text = text.replace(&reservation(n).to_string(), &format!("r{n}"));
        }
        text
    }
}

pub(crate) fn ok() -> Report {
    Report::Ended(Outcome { exit_code: Some(0), ..Outcome::default() })
}

pub(crate) fn failed(cause: FailureCause) -> Report {
    Report::Ended(Outcome { cause: Some(cause), ..Outcome::default() })
}

pub(crate) fn exit(code: i32) -> Report {
    Report::Ended(Outcome { cause: Some(FailureCause::ExitNonzero), exit_code: Some(code), ..Outcome::default() })
}

/// A failure whose log matched a rule.
pub(crate) fn ruled(cause: FailureCause, action: LogAction) -> Report {
    let log_rule = Some(LogRuleMatch { pattern: "words".into(), action: Some(action) });
    Report::Ended(Outcome { cause: Some(cause), log_rule, ..Outcome::default() })
}
