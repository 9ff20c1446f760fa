//! Tasks as the API shows them and takes them.

use crate::{
    array::ArraySpec,
    dataset::{Dataset, DatasetSpec},
    dependency::Dependency,
    failure::{Failure, RetryRule},
    ids::{AttemptId, ExperimentId, ReservationId, TaskId, WorkerId},
    log_rule::LogAction,
    notify::Notify,
    provenance::Source,
    record::{TaskSpec, TaskState},
    retention::FilesDeleted,
    time::Micros,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::{IntoParams, ToSchema};

/// Where a task is in its life: `queued -> preparing -> running -> collecting -> completed | failed`;
/// a retry goes back to `queued`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TaskStatus {
    /// Waiting to be placed.
    Queued,
    /// On a worker: code and environment are being staged.
    Preparing,
    /// User code runs.
    Running,
    /// User code has ended; logs and artifacts are being uploaded.
    Collecting,
    /// Ended well.
    Completed,
    /// Ended otherwise, cancelled included.
    Failed,
}

impl TaskStatus {
    /// All, in the order of a life.
    pub const ALL: [Self; 6] =
        [Self::Queued, Self::Preparing, Self::Running, Self::Collecting, Self::Completed, Self::Failed];

    /// The word used in JSON and in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Preparing => "preparing",
            Self::Running => "running",
            Self::Collecting => "collecting",
            Self::Completed => "completed",
            Self::Failed => "failed",
        }
    }

    /// Whether the task will not change any more.
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Completed | Self::Failed)
    }

    /// Whether it is on a worker.
    pub const fn is_active(self) -> bool {
        matches!(self, Self::Preparing | Self::Running | Self::Collecting)
    }
}

impl std::str::FromStr for TaskStatus {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|s| s.as_str() == text).ok_or_else(|| {
            format!("unknown status {text:?}; one of queued, preparing, running, collecting, completed, failed")
        })
    }
}

/// A node of a task and its worker.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct NodeAssignment {
    /// Rank of the node, from 0.
    pub node_id: i32,
    /// Its worker.
    #[schema(value_type = String)]
    pub worker_id: WorkerId,
    /// Whether the worker holds the slot and is ready.
    pub slot_assigned: bool,
}

/// A task.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Task {
    /// Unique task identifier
    #[schema(value_type = String)]
    pub id: TaskId,
    /// Name for people; need not be unique.
    #[schema(pattern = "^[a-zA-Z0-9_-]+$", max_length = 64)]
    pub job_name: String,
    /// Where it is in its life.
    pub status: TaskStatus,
    /// Priority asked for.
    #[schema(minimum = 1, maximum = 10, default = 5)]
    pub priority: i32,
    /// When it was submitted.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Micros,
    /// When user code of the current or last attempt started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub started_at: Option<Micros>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ended_at: Option<Micros>,
    /// Worker of the current or last attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub worker_id: Option<WorkerId>,
    /// One sentence: what happened, what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The last 64 KiB of the log as UTF-8; not in lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
    /// Entrypoint script or command executed for this task
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<String>,
    /// Arguments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub args: Option<String>,
    /// `sha256:<hex>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_id: Option<String>,
    /// The image of its container, by its full name; absent: none, the worker's own system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Names of its data sets.
    #[serde(default)]
    pub datasets: Vec<String>,
    /// The same as it gets them: names are looked up once, at the submit.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dataset_specs: Vec<DatasetSpec>,
    /// Cores.
    pub cpu: i32,
    /// Memory, GiB; 0: nothing reserved.
    pub memory_gb: i32,
    /// Whole GPUs.
    pub gpu: i32,
    /// Token that the device name must hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu_type: Option<String>,
    /// Who submitted it.
    pub user_id: String,
    /// Counted retries used.
    pub retry_count: i32,
    /// Counted retries allowed.
    pub max_retries: i32,
    /// Free requeues used: restarts that were not the task's fault.
    pub requeue_count: i32,
    /// Longest time in `running`, seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_limit_s: Option<i64>,
    /// Whether it has a network; absent: on.
    #[serde(default, skip_serializing_if = "Network::is_default")]
    pub network: Network,
    /// What happens when its worker is not heard any more; absent: fence.
    #[serde(default, skip_serializing_if = "OnLost::is_default")]
    pub on_lost: OnLost,
    /// Its own time until then, seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost_after_s: Option<i64>,
    /// Longest time without a word in its log or metrics, seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stall_after_s: Option<i64>,
    /// The task from whose checkpoint it started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume_from: Option<TaskId>,
    /// Where its files came from, as far as its submitter said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    /// The experiment that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub experiment_id: Option<ExperimentId>,
    /// The task that it repeats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub rerun_of: Option<TaskId>,
    /// The reservation on whose GPUs it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub reservation_id: Option<ReservationId>,
    /// What must have ended before it is placed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub depends_on: Vec<Dependency>,
    /// Whether it waits for what it depends on, or for others of its array to end; absent: no. While it does it is
    /// `queued`, but its priority does not age.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub blocked: bool,
    /// The array it is a task of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, nullable = false)]
    pub array_id: Option<TaskId>,
    /// Its index in the array.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub array_index: Option<i64>,
    /// Environment; values are `***` for everyone but the owner.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Names of secrets of its owner that are in its environment.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<String>,
    /// Free labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// Worker node assignments
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub node_assignments: Vec<NodeAssignment>,
    /// Effective priority with aging applied: `priority` plus time queued over the aging interval.
    pub priority_aged: f64,
    /// Who is told of it by mail, and of what.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub notify: Option<Notify>,
    /// The current or last attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub attempt_id: Option<AttemptId>,
    /// Workers it is not placed on any more: a log rule of the server said so of an attempt there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub excluded_workers: Vec<WorkerId>,
    /// Why it failed, for programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// Its log, artifacts and checkpoints are deleted; not in lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files_deleted: Option<FilesDeleted>,
    /// On create only: body fields this server does not know and ignored.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// Whether a task has a network.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// That of the worker.
    #[default]
    On,
    /// Loopback only.
    None,
}

impl Network {
    /// Whether it is what a task has that says nothing.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// What becomes of an attempt whose worker is not heard any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnLost {
    /// After `lost_after_s` it is stopped there and queued again: no two copies run.
    #[default]
    Fence,
    /// It goes on, and is waited for.
    Keep,
}

impl OnLost {
    /// Whether it is what a task has that says nothing.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// A page of tasks, newest first.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
pub struct TaskList {
    /// The page; `output` is left out.
    pub tasks: Vec<Task>,
    /// All matches.
    pub total: i64,
    /// Page size asked for.
    pub limit: i64,
    /// Matches skipped.
    pub offset: i64,
}

/// Counts over the whole queue.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct QueueStats {
    /// Tasks waiting to run
    pub queued: i64,
    /// Tasks currently executing: preparing, running or collecting
    pub running: i64,
    /// Tasks completed today: since 00:00 UTC
    pub completed: i64,
    /// Tasks failed today: since 00:00 UTC
    pub failed: i64,
    /// Active workers
    pub workers: i64,
}

/// Asks for a new task. On the wire this is read by [`crate::validate::create_task`], which reports
/// every problem at once; the derive serves clients and the document.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct CreateTaskRequest {
    /// Name for people; rerunning a name is normal.
    #[schema(pattern = "^[a-zA-Z0-9_-]+$", max_length = 64, example = "digits")]
    pub job_name: String,
    /// Higher runs first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 10, default = 5, nullable = false)]
    pub priority: Option<i32>,
    /// Command-line arguments for the entrypoint, split by shell rules (no shell runs).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 32768, nullable = false)]
    pub args: Option<String>,
    /// Entrypoint script or command (e.g., train.py, run.sh, /bin/bash -c "echo hello"): `*.py` runs by the
    /// environment's Python, `*.sh` by bash, an executable itself, anything else is split by shell rules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 32768, nullable = false, example = "train.py")]
    pub entrypoint: Option<String>,
    /// Reference to experiment snapshot: `sha256:<hex>` from `POST /v1/snapshots`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub snapshot_id: Option<String>,
    /// Container image to run in, `[registry/]name[:tag|@sha256:...]`, by a worker with podman or docker. It is pulled
    /// where it is missing; one with tag `latest` or none is looked up anew each time. Its own Python is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 512, nullable = false, example = "python:3.12-slim")]
    pub image: Option<String>,
    /// Names of data sets: of `GET /v1/datasets`, or of `dataset_specs`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub datasets: Vec<String>,
    /// Data sets with their sources; without a source, a registered one under another `mount_path`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dataset_specs: Vec<DatasetSpec>,
    /// CPU cores requested; absent: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 4096, nullable = false)]
    pub cpu: Option<i32>,
    /// Memory (GB) requested, in GiB; absent: nothing reserved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 65536, nullable = false)]
    pub memory_gb: Option<i32>,
    /// GPUs requested; absent: 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 64, nullable = false)]
    pub gpu: Option<i32>,
    /// Free labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// A whole token of the GPU's device name, any case, such as `H100`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 64, nullable = false)]
    pub gpu_type: Option<String>,
    /// Workers that run it at the same time, each with the cores, memory and GPUs asked for; absent: 1. No user
    /// code starts before all are ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 4096, nullable = false)]
    pub node_count: Option<i32>,
    /// How often a failure of the task's own is tried again; absent: 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 10, nullable = false)]
    pub max_retries: Option<i32>,
    /// Longest time in `running`, seconds; absent: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 31_536_000, nullable = false)]
    pub time_limit_s: Option<i64>,
    /// Whether the task has a network; absent: on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub network: Option<Network>,
    /// What happens when the worker is not heard for `lost_after_s`; absent: fence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub on_lost: Option<OnLost>,
    /// How long the worker may be silent before the task is lost, seconds; absent: as the server is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 10, maximum = 2_592_000, nullable = false)]
    pub lost_after_s: Option<i64>,
    /// A process that writes nothing to its log or metrics for so long is stopped, seconds; absent: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 10, maximum = 2_592_000, nullable = false)]
    pub stall_after_s: Option<i64>,
    /// Id of a task: this one starts with the files that one left in its checkpoint directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub resume_from: Option<TaskId>,
    /// The commit that the files of the task are of; only recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub source: Option<Source>,
    /// The experiment that it belongs to (`POST /v1/experiments`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub experiment_id: Option<ExperimentId>,
    /// An own reservation (`POST /v1/scheduler/reservations`) on whose GPUs it runs. It keeps them until it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub reservation_id: Option<ReservationId>,
    /// Tasks and arrays that must have ended before this one is placed: ids, which means that they must have ended
    /// well, or objects of `id` and `on`. When one that must end well does not, this task ends as `failed`, cause
    /// `dependency`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 1000)]
    pub depends_on: Vec<Dependency>,
    /// Makes an array: a task for each of these indices, all or none, with an id each. Ranges, single indices and ranges
    /// with a step; after `%` the most tasks that run at once. The answer is the first of the tasks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, max_length = 65536, nullable = false, example = "0-9,20,30-40:2%4")]
    pub array: Option<ArraySpec>,
    /// Extra environment variables of the process. Names beginning with `FETCHML_` are refused.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Names of own secrets (`PUT /v1/secrets/{name}`) that the process gets as environment variables. Each attempt
    /// gets the values of when it starts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 32)]
    pub secrets: Vec<String>,
    /// Sends mail about it, once for an array, where the server sends mail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub notify: Option<Notify>,
}

/// Query of `GET /v1/tasks`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
pub struct TaskListQuery {
    /// Only this status.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(inline, nullable = false)]
    pub status: Option<TaskStatus>,
    /// Page size, 0..=1000.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(minimum = 0, maximum = 1000, default = 50, nullable = false)]
    pub limit: Option<i64>,
    /// Matches to skip.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(minimum = 0, default = 0, nullable = false)]
    pub offset: Option<i64>,
    /// Filter by user who submitted the task
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(nullable = false)]
    pub user_id: Option<String>,
    /// Only this name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(nullable = false)]
    pub job_name: Option<String>,
    /// Only tasks of this experiment.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>, format = "uuid", nullable = false)]
    pub experiment_id: Option<ExperimentId>,
    /// Only tasks of this array.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>, format = "uuid", nullable = false)]
    pub array_id: Option<TaskId>,
    /// Only tasks that were created later.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>, format = DateTime, nullable = false)]
    pub created_after: Option<Micros>,
    /// Only tasks that were created earlier.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>, format = DateTime, nullable = false)]
    pub created_before: Option<Micros>,
    /// Only tasks whose metadata has these entries. Sent as `metadata.KEY=VALUE`.
    #[serde(skip)]
    #[param(ignore)]
    pub metadata: BTreeMap<String, String>,
    /// Only tasks older than this one (keyset paging: pass the last id of the page before).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>, format = "uuid", nullable = false)]
    pub after: Option<TaskId>,
}

/// Where in its history a task's effective priority is measured.
///
/// # Source
/// Effective priority = priority + time queued / aging interval, time queued being the sum of all
/// stays in the queue (microseconds) until `now`.
pub fn priority_aged(state: &TaskState, now: Micros, aging_interval_s: i64) -> f64 {
    let queued_now =
        if state.status == TaskStatus::Queued && !state.blocked { now.since(state.queued_since).max(0) } else { 0 };
    let waited = state.waited_before.saturating_add(queued_now) as f64;
    f64::from(state.priority) + waited / (aging_interval_s.max(1) as f64 * crate::time::SECOND as f64)
}

impl Task {
    /// Puts the two durable parts of a task together as the API shows them, without `output`. The
    /// values of `env` stay as they are: callers mask them for everyone but the owner.
    pub fn from_records(spec: &TaskSpec, state: &TaskState, now: Micros, aging_interval_s: i64) -> Self {
        let assigned = state.worker_id.filter(|_| state.status != TaskStatus::Queued);
        Self {
            id: spec.id,
            job_name: spec.job_name.clone(),
            status: state.status,
            priority: i32::from(state.priority),
            created_at: spec.created_at,
            started_at: state.started_at,
            ended_at: state.ended_at,
            worker_id: state.worker_id,
            error: state.error.clone().filter(|_| state.status != TaskStatus::Completed),
            output: None,
            entrypoint: spec.entrypoint.clone(),
            args: spec.args.clone(),
            snapshot_id: spec.snapshot_id.clone(),
            image: spec.image.clone(),
            datasets: spec.datasets.iter().map(|dataset| dataset.name.clone()).collect(),
            dataset_specs: spec.datasets.iter().map(Dataset::to_spec).collect(),
            cpu: spec.demand.cpu as i32,
            memory_gb: spec.demand.memory_gb as i32,
            gpu: spec.demand.gpu as i32,
            gpu_type: spec.demand.gpu_type.clone(),
            user_id: spec.user_id.clone(),
            retry_count: state.retry_count as i32,
            max_retries: spec.max_retries as i32,
            requeue_count: state.requeue_count as i32,
            time_limit_s: spec.time_limit_s.map(i64::from),
            network: spec.network,
            on_lost: spec.on_lost,
            lost_after_s: spec.lost_after_s.map(i64::from),
            stall_after_s: spec.stall_after_s.map(i64::from),
            resume_from: spec.resume_from,
            source: spec.source.clone(),
            experiment_id: spec.experiment_id,
            rerun_of: spec.rerun_of,
            reservation_id: spec.demand.reservation,
            depends_on: spec.depends_on.clone(),
            blocked: state.blocked && state.status == TaskStatus::Queued,
            array_id: spec.array.map(|array| array.id),
            array_index: spec.array.map(|array| i64::from(array.index)),
            env: spec.env.clone(),
            secrets: spec.secrets.clone(),
            metadata: spec.metadata.clone(),
            node_assignments: match assigned {
                Some(_) if !state.nodes.is_empty() => state.nodes.clone(),
                Some(worker_id) => {
                    vec![NodeAssignment { node_id: 0, worker_id, slot_assigned: state.status.is_active() }]
                }
                None => Vec::new(),
            },
            priority_aged: priority_aged(state, now, aging_interval_s),
            notify: spec.notify.clone(),
            attempt_id: state.attempt,
            excluded_workers: state.excluded_workers.clone(),
            failure: state.cause.filter(|_| state.status == TaskStatus::Failed).map(|cause| Failure {
                cause,
                retryable: cause.retry_rule(false) != RetryRule::Final
                    && state.log_rule.as_ref().is_none_or(|rule| rule.action != Some(LogAction::DoNotRetry)),
                exit_code: state.exit_code,
                signal: state.signal,
                log_rule: state.log_rule.clone(),
            }),
            files_deleted: None,
            warnings: Vec::new(),
        }
    }

    /// Replaces every `env` value, and the address that is told of it, by `***`.
    pub fn mask_env(&mut self) {
        let addresses = self.notify.iter_mut().map(|notify| &mut notify.email);
        self.env.values_mut().chain(addresses).for_each(|value| "***".clone_into(value));
    }

    /// Leaves out what it runs and what it wrote, and by which its files could be read: that a task is there, whose it
    /// is and how it stands is left.
    pub fn hide_content(&mut self) {
        self.mask_env();
        (self.entrypoint, self.args, self.output) = (None, None, None);
        (self.snapshot_id, self.source) = (None, None);
        self.dataset_specs.clear();
    }
}
