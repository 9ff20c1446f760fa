//! What goes into the store and what comes out: writes, queries and their answers.

use crate::{outbox::OutboxWrite, retention::Collect};
use fetchml_api::{
    Artifact, AttemptId, AttemptRecord, AuditDraft, Checkpoint, EditExperimentRequest, Experiment, ExperimentId, KeyId,
    KeyRecord, Micros, Provenance, QuotaRecord, RegisteredDataset, ReservationId, ReservationRecord, SecretInfo,
    SecretRecord, ShareRecord, SnapshotRecord, TaskId, TaskSpec, TaskState, TaskStatus, WorkerRecord,
};
use std::{collections::BTreeMap, sync::Arc};

pub use fetchml_audit::AuditRow;

/// One durable change. A list of these is committed in one transaction, whole or not at all.
#[derive(Clone, Debug)]
pub enum Write {
    /// A new task.
    TaskInsert(Arc<TaskSpec>, TaskState),
    /// The changing part of a task.
    TaskUpdate(TaskState),
    /// A new or changed attempt; its outcome's artifacts go to their own table.
    AttemptPut(AttemptRecord),
    /// A new or changed worker.
    WorkerPut(WorkerRecord),
    /// What a user has used, for fair shares.
    SharePut(ShareRecord),
    /// Adds to what a user has used in all within an experiment.
    UsageAdd(UsageRow),
    /// A quota that was set.
    QuotaPut(QuotaRecord),
    /// A new or changed reservation.
    ReservationPut(ReservationRecord),
    /// A new key. A known id is refused for data.
    KeyInsert(KeyRecord),
    /// A key stops working. Repeating it changes nothing.
    KeyRevoke {
        /// The key.
        id: KeyId,
        /// When.
        at: Micros,
    },
    /// A stored snapshot. Repeating it changes nothing.
    SnapshotPut(SnapshotRecord),
    /// The latest checkpoint of an attempt.
    CheckpointPut(Checkpoint),
    /// How a worker runs a node of an attempt. Another one takes its place.
    ProvenancePut {
        /// The attempt.
        attempt: AttemptId,
        /// Rank of the node.
        node: u32,
        /// What the worker said.
        provenance: Box<Provenance>,
    },
    /// An ended task is hidden from reads. Repeating it changes nothing.
    TaskHide {
        /// The task.
        id: TaskId,
        /// When.
        at: Micros,
    },
    /// Somebody is told that a snapshot is there. Refused when it is not.
    SnapshotUse {
        /// `sha256:<hex>`.
        id: String,
        /// When.
        at: Micros,
    },
    /// Somebody is told that a task has checkpoints. Refused when it has none.
    CheckpointUse {
        /// The task.
        task: TaskId,
        /// When.
        at: Micros,
    },
    /// Something is not needed any more.
    Collect(Collect),
    /// A data set under a new name. A known name is refused for data.
    DatasetInsert(RegisteredDataset),
    /// A data set is forgotten. An unknown name is refused for data.
    DatasetDelete {
        /// Its name.
        name: String,
        /// When.
        at: Micros,
    },
    /// What a request made that is done once. Takes the place of one that counts no more, and of all such.
    OncePut {
        /// The request.
        record: OnceRecord,
        /// Those from before count no more.
        counts_since: Micros,
    },
    /// A new experiment. A known id is refused for data.
    ExperimentInsert(Experiment),
    /// An experiment is changed; what is none stays. An unknown id is refused for data.
    ExperimentEdit {
        /// Which.
        id: ExperimentId,
        /// What of it.
        edit: EditExperimentRequest,
        /// When.
        at: Micros,
    },
    /// Webhooks, and what is to be delivered.
    Outbox(OutboxWrite),
    /// A new value of a secret, which becomes the current one. The one before is kept while an attempt has it.
    SecretPut(SecretRecord),
    /// A secret is no more. Its value is kept while an attempt has it; repeating it changes nothing.
    SecretDelete {
        /// Whose.
        user_id: String,
        /// Name.
        name: String,
    },
    /// Gives an attempt that has not started the current values of those of these secrets that there are. What it was
    /// given before stays.
    SecretsBind {
        /// The attempt.
        attempt: AttemptId,
        /// Whose.
        user_id: String,
        /// Names.
        names: Vec<String>,
    },
    /// An attempt is over: values that only it had are gone.
    SecretsRelease {
        /// The attempt.
        attempt: AttemptId,
    },
    /// A named value of the installation, such as `incarnation` or `log_id`.
    MetaPut {
        /// Name.
        name: &'static str,
        /// Value.
        value: String,
    },
    /// An audit event; the writer numbers and chains it.
    Audit(AuditDraft),
    /// A change event for streams; the writer numbers it.
    Change(ChangeDraft),
}

/// A request that is done once, and what it made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OnceRecord {
    /// Names user, operation and key.
    pub id: String,
    /// Names its body.
    pub body_sha256: String,
    /// The task as it was submitted.
    pub state: TaskState,
    /// When.
    pub created_at: Micros,
}

/// What a user's attempts that are over have used in all, within one experiment or outside of any.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct UsageRow {
    /// The user.
    pub user_id: String,
    /// The experiment; none: tasks of no experiment.
    pub experiment_id: Option<String>,
    /// Cores times milliseconds.
    pub cpu_ms: u64,
    /// GPUs times milliseconds.
    pub gpu_ms: u64,
    /// GPUs times milliseconds in which they were seen to do nothing.
    pub idle_gpu_ms: u64,
}

/// A change event before the writer numbers it.
#[derive(Clone, Debug)]
pub struct ChangeDraft {
    /// When.
    pub at: Micros,
    /// `job`, `worker`, `reservation` or `status`.
    pub kind: &'static str,
    /// Id of what changed.
    pub entity: String,
    /// JSON shown to streams.
    pub body: String,
}

/// What a commit did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Committed {
    /// Number of the last audit event after this commit; 0: none yet.
    pub audit_sequence: u64,
    /// Number of the last change event after this commit; 0: none yet.
    pub change_sequence: u64,
}

/// Why a commit or a read failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The database refuses these rows: constraint, type, size. Nothing was written; other commits go on.
    #[error("the database refuses this data: {0}")]
    Data(String),
    /// Full, busy, disconnected before COMMIT. Nothing was written; try again later.
    #[error("the database cannot be written now: {0}")]
    Unavailable(String),
    /// The connection broke during COMMIT: it may or may not be durable. Ask the store.
    #[error("the outcome of the commit is unknown: {0}")]
    Unknown(String),
    /// The disk failed to sync: what is in memory may be more than what is durable. Exit.
    #[error("the disk failed: {0}")]
    Fatal(String),
}

/// Filter of a task list; all that are set must match.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TaskFilter {
    /// Status.
    pub status: Option<TaskStatus>,
    /// Submitter.
    pub user_id: Option<String>,
    /// Name.
    pub job_name: Option<String>,
    /// Number of nodes.
    pub node_count: Option<i64>,
    /// The reservation that it claimed.
    pub reservation: Option<ReservationId>,
    /// Array.
    pub array: Option<TaskId>,
    /// Only of this experiment.
    pub experiment: Option<ExperimentId>,
    /// Created later than this.
    pub created_after: Option<Micros>,
    /// Created earlier than this.
    pub created_before: Option<Micros>,
    /// Entries that its metadata has. Every task that matches otherwise is read for this.
    pub metadata: BTreeMap<String, String>,
    /// Only tasks with a smaller id.
    pub before: Option<TaskId>,
    /// Matches to skip.
    pub offset: i64,
    /// Most tasks to return.
    pub limit: i64,
}

impl TaskFilter {
    /// Whether it asks for a time of creation.
    pub(crate) const fn by_creation(&self) -> bool {
        self.created_after.is_some() || self.created_before.is_some()
    }
}

/// A task as stored.
#[derive(Clone, PartialEq, Debug)]
pub struct StoredTask {
    /// Immutable part.
    pub spec: Arc<TaskSpec>,
    /// Changing part.
    pub state: TaskState,
}

/// An array, as its tasks' rows say.
#[derive(Clone, PartialEq, Debug)]
pub struct StoredArray {
    /// The oldest of its tasks that is not hidden.
    pub first: StoredTask,
    /// How its tasks are.
    pub counts: ArrayCounts,
}

/// How the tasks of an array are.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ArrayCounts {
    /// All that there are rows of.
    pub tasks: i64,
    /// Those that are not hidden, by status.
    pub shown: BTreeMap<TaskStatus, i64>,
    /// Whether all have ended.
    pub is_over: bool,
    /// Whether none has failed.
    pub is_well: bool,
}

/// What is told of a secret without reading its value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SecretHead {
    /// Name and times.
    pub info: SecretInfo,
    /// Length of its sealed value, bytes.
    pub sealed_bytes: u64,
}

/// All that a restart needs: tasks that have not ended, their live attempts, all workers.
#[derive(Clone, Debug, Default)]
pub struct Restored {
    /// Tasks not ended, in id order.
    pub tasks: Vec<StoredTask>,
    /// The current attempt of each active task.
    pub attempts: Vec<AttemptRecord>,
    /// Every worker ever admitted.
    pub workers: Vec<WorkerRecord>,
    /// What users have used, for fair shares.
    pub shares: Vec<ShareRecord>,
    /// Quotas that were set.
    pub quotas: Vec<QuotaRecord>,
    /// Reservations that have not expired, in id order.
    pub reservations: Vec<ReservationRecord>,
    /// Arrays of these tasks, and what blocked ones depend on and is not among them: whether what has ended of it ended well.
    pub ended: BTreeMap<TaskId, bool>,
    /// When these attempts left their last checkpoints.
    pub checkpoints: BTreeMap<AttemptId, Micros>,
    /// Greatest task id ever stored, to seed the id generator.
    pub last_task_id: Option<TaskId>,
    /// Latest time stored anywhere: logical time does not go behind it.
    pub last_time: Micros,
    /// Of the last day before that: minute since 1970, and how many tasks completed in it.
    pub completed_by_minute: Vec<(i64, i64)>,
}

/// Counts for `/v1/queue`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct QueueCounts {
    /// Queued.
    pub queued: i64,
    /// Preparing, running, collecting.
    pub running: i64,
    /// Completed since the given instant.
    pub completed: i64,
    /// Failed since the given instant.
    pub failed: i64,
}

/// A row of the change log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChangeRow {
    /// Position, from 1.
    pub sequence: u64,
    /// `job`, `worker`, `reservation` or `status`.
    pub kind: String,
    /// Id of what changed.
    pub entity: String,
    /// JSON.
    pub body: String,
}

/// Artifacts of an attempt, as stored.
pub type StoredArtifacts = Option<(AttemptId, Vec<Artifact>)>;
