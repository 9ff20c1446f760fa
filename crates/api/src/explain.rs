//! Why a task has not started, and what would let it start.

use crate::{
    ids::{TaskId, WorkerId},
    time::Micros,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Why a task has not started: what must change first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WaitReason {
    /// It is on its workers already.
    Placed,
    /// It has ended.
    Ended,
    /// It would be placed at once.
    Starts,
    /// Something has just changed, and it is placed or not within a second.
    Deciding,
    /// Other tasks must end first.
    Dependency,
    /// As many of its array run as may.
    ArrayLimit,
    /// An attempt failed, and the next is made after a pause.
    Backoff,
    /// Its user has as many tasks running as the quota allows.
    QuotaRunning,
    /// Its user has, with this task, more GPUs than the quota allows.
    QuotaGpus,
    /// No worker is connected.
    NoWorkers,
    /// No worker could run it, were it empty.
    NothingFits,
    /// Fewer workers could run it than it needs at once.
    TooFewWorkers,
    /// Workers that could run it take no work: they are drained, unfit or offline.
    Unavailable,
    /// Devices it needs are withheld or faulty.
    GpusUnavailable,
    /// GPUs it needs are set aside for reservations, or its own does not hold enough of them yet.
    Reserved,
    /// There is room, but it is held for a task that has waited longer.
    Held,
    /// Workers that could run it are full, and other tasks go before it.
    Behind,
    /// Workers that could run it are full; it is next.
    Busy,
}

/// What a task needs of a worker.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Constraint {
    /// An engine for its image.
    Image,
    /// A slot.
    Slots,
    /// Cores.
    Cpu,
    /// Memory, GiB.
    MemoryGb,
    /// GPUs of any type.
    Gpus,
    /// GPUs of its type.
    GpuType,
}

/// What a worker means for a task.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It has room for it now.
    Fits,
    /// It has room, which is held for another task.
    Held,
    /// It could run it, and has no room now.
    Full,
    /// It could run it, but devices are set aside for reservations, or not for the one of the task.
    Reserved,
    /// It could run it if all its devices were available.
    GpusUnavailable,
    /// It could run it, but an operator has drained it.
    Draining,
    /// It could run it, but drains itself.
    Unfit,
    /// It could run it, but is not heard.
    Offline,
    /// A rule keeps the task off it, after an attempt there failed.
    Excluded,
    /// It could not run it even if it were empty.
    Lacks,
}

/// One thing that stands in the way on some workers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Obstacle {
    /// What the task needs.
    pub constraint: Constraint,
    /// How much of it.
    pub wanted: i64,
    /// The most that one of these workers has: free now, or at all where the verdict is `lacks`.
    pub most: i64,
}

/// A worker by name.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct WorkerName {
    /// The worker.
    #[schema(value_type = String)]
    pub id: WorkerId,
    /// Its name.
    pub name: String,
}

/// Workers that mean the same for a task.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct WorkerGroup {
    /// What they mean.
    pub verdict: Verdict,
    /// What stands in the way there.
    pub obstacles: Vec<Obstacle>,
    /// In one sentence.
    pub summary: String,
    /// How many workers these are.
    pub count: i64,
    /// The first of them.
    pub workers: Vec<WorkerName>,
}

/// What a change would do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ChangeEffect {
    /// The task would start at once.
    Starts,
    /// It would be the next to start.
    GoesFirst,
    /// There would be room for it, unless what goes before it takes that.
    MakesRoom,
}

/// What could be changed. In order of what it costs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    /// Submitted with this time limit, seconds.
    TimeLimitS,
    /// With this priority.
    Priority,
    /// Submitted with less memory, GiB.
    MemoryGb,
    /// Submitted with fewer cores.
    Cpu,
    /// Submitted for GPUs of any type.
    GpuType,
    /// Submitted with fewer GPUs.
    Gpu,
    /// Submitted for fewer workers.
    NodeCount,
    /// A drained worker is taken back.
    Undrain,
    /// Withheld or faulty devices are available again.
    Gpus,
    /// A quota of running tasks is raised to this.
    QuotaRunning,
    /// A quota of GPUs is raised to this.
    QuotaGpus,
    /// Workers are added, as many as this.
    Workers,
}

/// A change that would let a task start, or let it go first.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Change {
    /// What is changed.
    pub kind: ChangeKind,
    /// To what.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<i64>,
    /// What that would do.
    pub effect: ChangeEffect,
    /// In one sentence.
    pub summary: String,
}

/// What an estimate is made of.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EstimateBasis {
    /// It is known.
    Certain,
    /// Time limits of what runs: it is then at the latest, if nothing else comes before.
    TimeLimits,
    /// How long tasks have run on the same workers lately: a guess.
    RunTimes,
}

/// When a task is likely to start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct StartEstimate {
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub at: Micros,
    /// What that is made of.
    pub basis: EstimateBasis,
}

/// Why a task has not started.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Explanation {
    /// The task; absent: it was not created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub task_id: Option<TaskId>,
    /// What must change first.
    pub reason: WaitReason,
    /// The same in one sentence.
    pub summary: String,
    /// Tasks and arrays that must end first, the first of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub waits_for: Vec<TaskId>,
    /// Tasks that go before it and wait for workers that could run it, too; at most 1,000 are counted.
    pub ahead: i64,
    /// When it is likely to start; absent: nobody knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimated_start: Option<StartEstimate>,
    /// What would let it start, the cheapest first.
    pub changes: Vec<Change>,
    /// Every worker, those together that mean the same; the most promising first.
    pub workers: Vec<WorkerGroup>,
    /// For a task that was not created: body fields this server does not know and ignored.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

impl WaitReason {
    /// The word used in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Placed => "placed",
            Self::Ended => "ended",
            Self::Starts => "starts",
            Self::Deciding => "deciding",
            Self::Dependency => "dependency",
            Self::ArrayLimit => "array_limit",
            Self::Backoff => "backoff",
            Self::QuotaRunning => "quota_running",
            Self::QuotaGpus => "quota_gpus",
            Self::NoWorkers => "no_workers",
            Self::NothingFits => "nothing_fits",
            Self::TooFewWorkers => "too_few_workers",
            Self::Unavailable => "unavailable",
            Self::GpusUnavailable => "gpus_unavailable",
            Self::Reserved => "reserved",
            Self::Held => "held",
            Self::Behind => "behind",
            Self::Busy => "busy",
        }
    }
}

impl Verdict {
    /// The word used in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fits => "fits",
            Self::Held => "held",
            Self::Full => "full",
            Self::Reserved => "reserved",
            Self::GpusUnavailable => "gpus_unavailable",
            Self::Draining => "draining",
            Self::Unfit => "unfit",
            Self::Offline => "offline",
            Self::Excluded => "excluded",
            Self::Lacks => "lacks",
        }
    }
}
