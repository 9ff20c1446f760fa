//! What the core is told and what it decides: the whole surface between the pure scheduler and the
//! driver that owns it.

use crate::dependency::ArrayOf;
use fetchml_api::{
    AttemptEpoch, AttemptId, AttemptRecord, AuditDraft, Capabilities, DatasetKey, Demand, Dependency, FailureCause,
    Gpu, Quota, QuotaRecord, QuotaScope, ReservationId, ReservationRecord, Role, ShareRecord, TaskId, TaskState,
    WorkerId, WorkerRecord,
    link::{Held, Report},
};
use std::sync::Arc;

/// A task that entered the system: only what scheduling needs. The rest of the task never enters
/// the core.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewTask {
    /// The task.
    pub id: TaskId,
    /// Who submitted it.
    pub user_id: String,
    /// What it needs.
    pub demand: Demand,
    /// 1..=10.
    pub priority: u8,
    /// Role in which the user acted, for quotas.
    pub role: Role,
    /// Counted retries allowed.
    pub max_retries: u32,
    /// Longest time user code runs, seconds.
    pub time_limit_s: Option<u32>,
    /// How long its attempts outlive the silence of their worker.
    pub lease: Lease,
    /// What must have ended before. All of an array name the same. On submit none of it has ended.
    pub depends_on: Arc<[Dependency]>,
    /// Of what it depends on, something that had ended before the submit, and not as it had to.
    pub broken_by: Option<TaskId>,
    /// The array it is of.
    pub array: Option<ArrayOf>,
}

/// GPUs that a user wants set aside.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewReservation {
    /// The reservation; ids order by when they were made.
    pub id: ReservationId,
    /// Who made it.
    pub user_id: String,
    /// Role in which the user acted, for quotas.
    pub role: Role,
    /// GPUs per node; at least 1.
    pub gpu_count: u32,
    /// Token that the device names must hold, any case.
    pub gpu_type: Option<String>,
    /// Nodes; at least 1.
    pub node_count: u32,
    /// How long it waits for a task once all GPUs are held; at least 1.
    pub expires_minutes: u32,
}

/// How long an attempt outlives the silence of its worker before it is given up.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Lease {
    /// As long as the settings say.
    #[default]
    AsSet,
    /// So many seconds.
    Seconds(u32),
    /// For ever: until the worker comes back, or is declared dead.
    Kept,
}

impl Lease {
    /// In seconds; none: for ever.
    pub(crate) fn seconds(self, as_set: i64) -> Option<i64> {
        match self {
            Self::AsSet => Some(as_set),
            Self::Seconds(seconds) => Some(seconds.into()),
            Self::Kept => None,
        }
    }
}

/// What becomes of the attempts of a worker that is drained.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Drain {
    /// They go on to their end.
    Finish,
    /// They are stopped and their tasks queued again at no cost; what runs on a worker that cannot be
    /// reached is waited for until its lease ends.
    Evict,
    /// The worker is dead for certain: what runs there is given up at once. One that is connected is
    /// not dead; what it holds is evicted.
    DeclareDead,
}

/// Something that happened. Stamped with logical time by the driver; the core never asks.
#[derive(Clone, PartialEq, Debug)]
pub enum Event {
    /// A validated task was submitted.
    TaskSubmitted(NewTask),
    /// A validated array was submitted: its tasks, which differ only in their ids. All of them enter, or none.
    ArraySubmitted(Vec<NewTask>),
    /// A user asked to stop a task.
    CancelRequested {
        /// The task.
        task: TaskId,
        /// Who asked.
        by: String,
    },
    /// A user asked to stop all tasks of an array.
    ArrayCancelRequested {
        /// The array.
        array: TaskId,
        /// Who asked.
        by: String,
    },
    /// A user asked for another priority of a task that has not ended.
    PriorityRequested {
        /// The task.
        task: TaskId,
        /// 1..=10.
        priority: u8,
        /// Who asked.
        by: String,
        /// In which role.
        role: Role,
    },
    /// An administrator set how much a user, or who acts in a role, may have at once.
    QuotaRequested {
        /// Whom it is for.
        scope: QuotaScope,
        /// How much, in place of what was set before.
        quota: Quota,
        /// Who asked.
        by: String,
    },
    /// A user asked for GPUs to be set aside.
    ReservationRequested(NewReservation),
    /// A user asked to give up a reservation.
    ReleaseRequested {
        /// The reservation.
        reservation: ReservationId,
        /// Who asked.
        by: String,
    },
    /// An operator asked that a worker takes nothing new.
    DrainRequested {
        /// The worker.
        worker: WorkerId,
        /// What becomes of the attempts it holds.
        mode: Drain,
        /// Who asked.
        by: String,
    },
    /// An operator asked that a worker takes work again.
    UndrainRequested {
        /// The worker.
        worker: WorkerId,
        /// Who asked.
        by: String,
    },
    /// A worker's own checks found something wrong with it, or that all is well again.
    WorkerChecked {
        /// The worker.
        worker: WorkerId,
        /// What is wrong: it takes nothing new. None: nothing is.
        unfit: Option<String>,
    },
    /// A worker opened a session (first, again, or in place of an older one).
    WorkerJoined {
        /// The worker.
        worker: WorkerId,
        /// Name for people.
        name: String,
        /// What it has.
        capabilities: Capabilities,
        /// Batch slots.
        batch_slots: u32,
        /// Service slots.
        service_slots: u32,
        /// Attempts it holds.
        inventory: Vec<Held>,
        /// What its own checks found wrong: it takes nothing new.
        unfit: Option<String>,
    },
    /// A heartbeat, or any other message, arrived from a worker.
    WorkerHeard {
        /// The worker.
        worker: WorkerId,
    },
    /// What a worker says of its devices, all of them, is not what it said before.
    GpusChanged {
        /// The worker.
        worker: WorkerId,
        /// Its devices.
        gpus: Vec<Gpu>,
    },
    /// The link of a worker closed. Its attempts keep their lease.
    WorkerDisconnected {
        /// The worker.
        worker: WorkerId,
    },
    /// A worker reported about one of its attempts.
    AttemptReported {
        /// The worker that sent it.
        worker: WorkerId,
        /// The attempt.
        attempt: AttemptId,
        /// Its task.
        task: TaskId,
        /// Its epoch.
        epoch: AttemptEpoch,
        /// What happened.
        report: Report,
    },
    /// An attempt left a checkpoint, which is stored.
    CheckpointSaved {
        /// The attempt.
        attempt: AttemptId,
    },
    /// A task, just submitted or restored, needs data sets: it goes rather where they are.
    DatasetsWanted {
        /// The task.
        task: TaskId,
        /// What it needs.
        datasets: Vec<DatasetKey>,
    },
    /// A worker said which data sets it holds.
    DatasetsHeld {
        /// The worker.
        worker: WorkerId,
        /// All of them, the last used first.
        datasets: Vec<DatasetKey>,
    },
    /// Nothing but time passed.
    TimePassed,
    /// The batch is complete: place what can be placed. The driver ends every turn with this.
    TurnEnded,
}

/// Something to do about it. Nothing of it happens before the whole turn is durable.
#[derive(Clone, PartialEq, Debug)]
pub enum Effect {
    /// Insert a task; the driver adds its immutable part.
    InsertTask(TaskState),
    /// Write the changed part of a task. Also tells streams.
    UpdateTask(TaskState),
    /// Insert or update an attempt.
    PutAttempt(AttemptRecord),
    /// Insert or update a worker.
    PutWorker(WorkerRecord),
    /// Write what a user has used, for fair shares. Before or after the rows of its tasks.
    PutShare(ShareRecord),
    /// Write a quota that was set.
    PutQuota(QuotaRecord),
    /// Insert or update a reservation. Also tells streams.
    PutReservation(ReservationRecord),
    /// Add to what the store counts as used by a task's user and experiment.
    AddUsage {
        /// The task.
        task: TaskId,
        /// Cores times milliseconds.
        cpu_ms: u64,
        /// GPUs times milliseconds.
        gpu_ms: u64,
    },
    /// Append to the audit log.
    Audit(AuditDraft),
    /// Send to a worker, if it is connected; repeated by the core when it joins again.
    Send {
        /// The worker.
        worker: WorkerId,
        /// What to send.
        message: Message,
    },
}

/// A message to a worker, without what the driver adds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Message {
    /// Run an attempt of a task; the driver adds the task's immutable part.
    Assign {
        /// The attempt.
        attempt: AttemptId,
        /// Its task.
        task: TaskId,
        /// Number among the task's attempts.
        number: u32,
        /// Its epoch.
        epoch: AttemptEpoch,
        /// Rank of the node.
        node: u32,
        /// Devices by index.
        gpus: Vec<u32>,
    },
    /// Stop an attempt.
    Cancel {
        /// The attempt.
        attempt: AttemptId,
        /// Why.
        cause: FailureCause,
    },
    /// Give an attempt back if user code has not started.
    Revoke {
        /// The attempt.
        attempt: AttemptId,
    },
    /// The attempt is over for the server.
    Forget {
        /// The attempt.
        attempt: AttemptId,
    },
    /// Start a node of a gang.
    Release {
        /// The attempt.
        attempt: AttemptId,
        /// Where the first node is reached.
        address: String,
        /// The port that was free there.
        port: u16,
    },
    /// Nothing new comes, or may come again. Only shown.
    Drain {
        /// Whether draining is on.
        on: bool,
    },
}

/// Why a command is not allowed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// So many tasks of the user wait already.
    Queued {
        /// The quota.
        limit: u32,
    },
    /// The user may have no more tasks on workers than this.
    Running {
        /// The quota.
        limit: u32,
    },
    /// The user may have no more GPUs than this.
    Gpus {
        /// The quota.
        limit: u32,
    },
    /// Something that the task depends on has ended meanwhile: how must be looked up.
    DependencyEnded,
    /// The user's tasks go up to this priority.
    Priority {
        /// The highest.
        limit: u8,
    },
    /// With what the user has already it would be more GPUs than this.
    GpusInUse {
        /// The quota.
        limit: u32,
        /// What the user has.
        has: u64,
    },
    /// No workers that take work have as many GPUs that are not reserved.
    NotEnough {
        /// How many of the type there are, on all workers together.
        unreserved: u32,
    },
    /// A reservation cannot be had, or not be released.
    Claim(ClaimRefusal),
}

/// Why a task may not have a reservation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClaimRefusal {
    /// It has expired, or never was.
    Unknown,
    /// It is another user's.
    Foreign,
    /// A task has it already.
    Claimed {
        /// The task.
        task: TaskId,
    },
    /// It is for one task.
    Several,
    /// The task asks for something else.
    DoesNotFit {
        /// The GPUs per node, when the task asks for more or for none.
        gpus: Option<u32>,
        /// The nodes, when the task asks for more.
        nodes: Option<u32>,
        /// Whether the GPUs may be of another type.
        other_type: bool,
    },
}

/// What became of a command. A refusal produces no effects.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// Done; the effects say what.
    Done,
    /// The core does not know the task or worker: it has ended, or never was.
    NotActive,
    /// Not allowed.
    Refused(Refusal),
    /// Already so; nothing changed.
    Unchanged,
    /// The report is of no current attempt and changed nothing (the worker is told to forget it).
    Stale,
}
