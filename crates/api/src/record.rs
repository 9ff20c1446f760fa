//! Durable state: what the scheduler decides, the store keeps and a restart restores. These types
//! are shared so that the scheduler and the store need not know each other.

use crate::{
    array::ArrayMember,
    dataset::Dataset,
    dependency::Dependency,
    failure::FailureCause,
    ids::{AttemptEpoch, AttemptId, ExperimentId, KeyId, ReservationId, TaskId, WorkerId},
    key::Role,
    link::Outcome,
    log_rule::LogRuleMatch,
    notify::Notify,
    provenance::Source,
    task::{Network, NodeAssignment, OnLost, TaskStatus},
    time::Micros,
    worker::{Capabilities, SlotKind},
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;
use uuid::Uuid;

/// What a task needs from a worker. Part of the immutable [`TaskSpec`].
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Demand {
    /// Kind of slot.
    pub slot: SlotKind,
    /// Cores.
    pub cpu: u32,
    /// Memory, GiB; 0: nothing reserved.
    pub memory_gb: u32,
    /// Whole GPUs.
    pub gpu: u32,
    /// Token that the device name must hold, any case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu_type: Option<String>,
    /// Workers it runs on at the same time; each must have all of the above.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub nodes: u32,
    /// Whether it runs in a container.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub image: bool,
    /// It runs on the GPUs of this reservation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reservation: Option<ReservationId>,
}

const fn one() -> u32 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
const fn is_one(nodes: &u32) -> bool {
    *nodes == 1
}

/// The part of a task that never changes after its submit.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TaskSpec {
    /// The task.
    pub id: TaskId,
    /// Who submitted it.
    pub user_id: String,
    /// Name for people.
    pub job_name: String,
    /// When it was submitted.
    pub created_at: Micros,
    /// What it needs.
    pub demand: Demand,
    /// Script or command; absent: `args` alone is the command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<String>,
    /// Arguments, split by shell rules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub args: Option<String>,
    /// `sha256:<hex>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_id: Option<String>,
    /// The image of its container, by its full name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Extra environment of the process.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Names of the submitter's secrets that are in its environment too; never their values.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<String>,
    /// Free labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// Role in which its submitter acted, for quotas.
    #[serde(default = "user")]
    pub role: Role,
    /// Counted retries allowed.
    pub max_retries: u32,
    /// Longest time in `running`, seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_limit_s: Option<u32>,
    /// Whether it has a network.
    #[serde(default, skip_serializing_if = "Network::is_default")]
    pub network: Network,
    /// What happens when its worker is not heard any more.
    #[serde(default, skip_serializing_if = "OnLost::is_default")]
    pub on_lost: OnLost,
    /// Its own time until then, seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost_after_s: Option<u32>,
    /// Longest time without a word in its log or metrics, seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stall_after_s: Option<u32>,
    /// Its data sets, in the order of the request.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub datasets: Vec<Dataset>,
    /// The task whose checkpoint the first attempt starts from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume_from: Option<TaskId>,
    /// Where its files came from, as far as its submitter said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    /// The experiment that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub experiment_id: Option<ExperimentId>,
    /// The task that it repeats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rerun_of: Option<TaskId>,
    /// What must have ended before it is placed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub depends_on: Vec<Dependency>,
    /// Which task of which array it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub array: Option<ArrayMember>,
    /// Who is told of it by mail, and of what.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notify: Option<Notify>,
}

const fn user() -> Role {
    Role::User
}

/// The part of a task that the scheduler changes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TaskState {
    /// The task.
    pub id: TaskId,
    /// Where it is in its life.
    pub status: TaskStatus,
    /// Priority asked for, 1..=10.
    pub priority: u8,
    /// When it last entered the queue.
    pub queued_since: Micros,
    /// Time spent queued before that, microseconds.
    pub waited_before: i64,
    /// Whether it waits for something else than room: for what it depends on, or for its turn within its array.
    /// It is queued, but the time does not count.
    #[serde(default)]
    pub blocked: bool,
    /// Not placed before this instant (backoff).
    pub not_before: Option<Micros>,
    /// The current attempt; none while queued.
    pub attempt: Option<AttemptId>,
    /// Its epoch: the greatest this task ever had (kept while queued again).
    pub epoch: Option<AttemptEpoch>,
    /// Worker of the current or last attempt.
    pub worker_id: Option<WorkerId>,
    /// When user code of the current or last attempt started.
    pub started_at: Option<Micros>,
    /// When the task reached its terminal state.
    pub ended_at: Option<Micros>,
    /// Counted retries used.
    pub retry_count: u32,
    /// Free requeues used.
    pub requeue_count: u32,
    /// Attempts made so far.
    pub attempt_count: u32,
    /// Who asked to cancel, and it is not done yet or was done.
    pub cancelled_by: Option<String>,
    /// Cause of the last failure.
    pub cause: Option<FailureCause>,
    /// Exit code of the last attempt.
    pub exit_code: Option<i32>,
    /// Signal of the last attempt.
    pub signal: Option<i32>,
    /// One sentence: what happened, what to do.
    pub error: Option<String>,
    /// Hidden from reads (a DELETE of an ended task).
    pub hidden: bool,
    /// The rule that the log of the last failed attempt matched.
    pub log_rule: Option<LogRuleMatch>,
    /// The nodes of the current or last attempt, where it has several.
    #[serde(default)]
    pub nodes: Vec<NodeAssignment>,
    /// Workers that rules keep this task off; one for each attempt at most.
    pub excluded_workers: Vec<WorkerId>,
}

/// Where an attempt is in its life, as far as the server durably knows.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AttemptPhase {
    /// Placed; the worker has not said anything yet.
    Assigned,
    /// The worker holds it: staging, or waiting for a local slot.
    Accepted,
    /// A node that waits for the others; an attempt of which every node may start.
    Ready,
    /// User code runs.
    Running,
    /// User code is dead, its slot and devices are free; logs and artifacts are being uploaded.
    Collecting,
    /// Over, and reported.
    Ended,
    /// Given up: its worker was lost, or it was taken back before it started.
    Abandoned,
}

impl AttemptPhase {
    /// The word used in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Assigned => "assigned",
            Self::Accepted => "accepted",
            Self::Ready => "ready",
            Self::Running => "running",
            Self::Collecting => "collecting",
            Self::Ended => "ended",
            Self::Abandoned => "abandoned",
        }
    }

    /// Whether the attempt is over.
    pub const fn is_over(self) -> bool {
        matches!(self, Self::Ended | Self::Abandoned)
    }
}

/// The part of an attempt that runs on one of several workers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NodeRecord {
    /// Where it runs. No two nodes of an attempt share a worker.
    pub worker_id: WorkerId,
    /// Devices given to it, by index on its worker.
    pub gpus: Vec<u32>,
    /// Where it is.
    pub phase: AttemptPhase,
    /// Where the other nodes reach it, once it is ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// A port that was free there, once it is ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

/// One try of a task.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AttemptRecord {
    /// The task for which it is being stopped, or was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preempted_for: Option<TaskId>,
    /// The attempt.
    pub id: AttemptId,
    /// Its task.
    pub task_id: TaskId,
    /// Number among the task's attempts, from 1.
    pub number: u32,
    /// Its epoch.
    pub epoch: AttemptEpoch,
    /// Where it runs.
    pub worker_id: WorkerId,
    /// Devices given to it, by index on its worker.
    pub gpus: Vec<u32>,
    /// Where it is.
    pub phase: AttemptPhase,
    /// When it was placed.
    pub created_at: Micros,
    /// When user code started.
    pub started_at: Option<Micros>,
    /// When it was over.
    pub ended_at: Option<Micros>,
    /// How it ended, when it was reported. Of several nodes: what ends it, as soon as that is known.
    pub outcome: Option<Outcome>,
    /// All nodes by rank, where there are several; `worker_id` and `gpus` are those of the first.
    #[serde(default)]
    pub nodes: Vec<NodeRecord>,
}

impl AttemptRecord {
    /// Whether it has a part on a worker that is not over.
    pub fn is_on(&self, worker: WorkerId) -> bool {
        if self.nodes.is_empty() {
            return self.worker_id == worker;
        }
        self.nodes.iter().any(|node| node.worker_id == worker && !node.phase.is_over())
    }
}

/// A worker, as far as it outlives a restart of the server. Link state and last-heard are volatile.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WorkerRecord {
    /// The worker.
    pub id: WorkerId,
    /// Name for people.
    pub name: String,
    /// What it has.
    pub capabilities: Capabilities,
    /// Batch slots.
    pub batch_slots: u32,
    /// Service slots.
    pub service_slots: u32,
    /// Takes nothing new, because an operator said so.
    pub draining: bool,
    /// What it holds is stopped and queued again, too. Only while draining.
    #[serde(default)]
    pub evicting: bool,
    /// Why it takes nothing new by its own word: what its checks found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unfit: Option<String>,
    /// When it last said hello.
    pub connected_at: Micros,
}

/// What a user has used, halved for every seven days since, as of an instant: what fair shares
/// compare. The use of attempts that run since then is not in it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ShareRecord {
    /// The user.
    pub user_id: String,
    /// Cores times milliseconds.
    pub cpu_ms: u64,
    /// GiB of memory times milliseconds.
    pub memory_gb_ms: u64,
    /// GPUs times milliseconds.
    pub gpu_ms: u64,
    /// As of when.
    pub as_of: Micros,
}

/// How much a user may have at once; what is absent has no limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Quota {
    /// Tasks on workers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running: Option<u32>,
    /// Tasks that wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queued: Option<u32>,
    /// GPUs of tasks on workers and of reservations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpus: Option<u32>,
    /// Highest priority of a task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_priority: Option<u8>,
}

/// Whom a quota is for.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum QuotaScope {
    /// Everybody who acts in a role.
    Role(Role),
    /// One user, whatever the role.
    User(String),
}

/// A quota that was set.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct QuotaRecord {
    /// Whom it is for.
    pub scope: QuotaScope,
    /// How much.
    pub quota: Quota,
}

/// A stored API key: never its secret.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyRecord {
    /// Public id.
    pub id: KeyId,
    /// The user it acts for.
    pub user_id: String,
    /// What it may do.
    pub role: Role,
    /// A label for people.
    pub name: Option<String>,
    /// HMAC-SHA-256 of the whole key under the server's pepper, 32 bytes.
    pub digest: Vec<u8>,
    /// When it was made.
    pub created_at: Micros,
    /// When it stops working by itself.
    pub expires_at: Option<Micros>,
    /// When it was revoked.
    pub revoked_at: Option<Micros>,
}

/// A stored snapshot. Its manifest is the blob with the id's hash.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SnapshotRecord {
    /// `sha256:<hex>`.
    pub id: String,
    /// Who stored it first.
    pub user_id: String,
    /// Number of files and links.
    pub file_count: u64,
    /// Sum of file sizes, bytes.
    pub size_bytes: u64,
    /// When it was first stored.
    pub created_at: Micros,
    /// When somebody was last told that it is there; behind the truth by at most an hour.
    pub used_at: Micros,
}

/// A stored value of a secret, sealed: only the server's key, outside of the database, opens it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SecretRecord {
    /// This value; each time a secret is set it is another.
    pub id: Uuid,
    /// Whose it is.
    pub user_id: String,
    /// Name of the secret.
    pub name: String,
    /// When the secret was first set.
    pub created_at: Micros,
    /// When this value was set.
    pub updated_at: Micros,
    /// Which of the server's keys sealed it.
    pub key_version: u32,
    /// Nonce, ciphertext, tag.
    pub sealed: Vec<u8>,
}
