"""What the server answers and takes, typed.

Made from the API document by `tools/generate_models.py`; do not edit. A newer server may send values
and fields that are not listed here: fields are dropped, values are kept as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, TypedDict


AttemptId = str
AttemptPhase = Literal[
    "assigned",
    "accepted",
    "ready",
    "running",
    "collecting",
    "ended",
    "abandoned",
]
ChangeEffect = Literal[
    "starts",
    "goes_first",
    "makes_room",
]
ChangeKind = Literal[
    "time_limit_s",
    "priority",
    "memory_gb",
    "cpu",
    "gpu_type",
    "gpu",
    "node_count",
    "undrain",
    "gpus",
    "quota_running",
    "quota_gpus",
    "workers",
]
CollectReason = Literal[
    "age",
    "deleted",
    "disk",
]
Constraint = Literal[
    "image",
    "slots",
    "cpu",
    "memory_gb",
    "gpus",
    "gpu_type",
]
DependencyOn = Literal[
    "ok",
    "any",
]
EstimateBasis = Literal[
    "certain",
    "time_limits",
    "run_times",
]
ExperimentId = str
ExperimentStatus = Literal[
    "active",
    "archived",
    "deleted",
]
FailureCause = Literal[
    "exit_nonzero",
    "signal",
    "oom_host",
    "oom_gpu",
    "timeout",
    "stalled",
    "lost",
    "launch",
    "plugin",
    "dataset",
    "environment",
    "image",
    "snapshot",
    "secret",
    "cancelled",
    "dependency",
    "quota",
    "preempted",
]
GpuState = Literal[
    "available",
    "withheld",
    "unhealthy",
]
HealthStatus = Literal[
    "healthy",
    "degraded",
    "unhealthy",
]
LogAction = Literal[
    "do_not_retry",
    "exclude_worker",
]
Network = Literal[
    "on",
    "none",
]
NotifyOn = Literal[
    "running",
    "completed",
    "failed",
]
OnLost = Literal[
    "fence",
    "keep",
]
ReservationId = str
TaskId = str
TaskStatus = Literal[
    "queued",
    "preparing",
    "running",
    "collecting",
    "completed",
    "failed",
]
Verdict = Literal[
    "fits",
    "held",
    "full",
    "reserved",
    "gpus_unavailable",
    "draining",
    "unfit",
    "offline",
    "excluded",
    "lacks",
]
WaitReason = Literal[
    "placed",
    "ended",
    "starts",
    "deciding",
    "dependency",
    "array_limit",
    "backoff",
    "quota_running",
    "quota_gpus",
    "no_workers",
    "nothing_fits",
    "too_few_workers",
    "unavailable",
    "gpus_unavailable",
    "reserved",
    "held",
    "behind",
    "busy",
]
WorkerStatus = Literal[
    "active",
    "draining",
    "offline",
]

@dataclass(frozen=True, kw_only=True, slots=True)
class Artifact:
    """One file from the output directory."""
    path: str
    """Path below the output directory, `/` between parts, never absolute, never with `..`."""
    sha256: str
    """SHA-256 of the bytes, lower-case hex."""
    size_bytes: int
    """Size, bytes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ArtifactList:
    """The artifacts of one attempt."""
    artifacts: list[Artifact]
    """Ordered by path."""
    attempt_id: AttemptId | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class AttemptEpoch:
    """Orders the attempts of all tasks over all lives of the server: first by the server's
    incarnation (grows by one at each start and restore), then by a counter within it. Written
    `3.17`."""
    incarnation: int
    """The server's incarnation that made the attempt."""
    n: int
    """Position within the incarnation, from 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BadLine:
    """A line of which something could not be used."""
    line: int
    """Its number in the file, from 1."""
    problem: str
    """What is wrong with it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Capabilities:
    """What a worker has."""
    container_engine: str | None = None
    """The engine of its containers and its version, such as `podman 5.4.2`; absent: it runs
    none."""
    cpu_cores: int
    """Cores usable for tasks."""
    executors: list[str] = field(default_factory=list)
    """Executors this worker can use; `process` always, `podman` or `docker` where it runs
    containers."""
    gpu_count: int
    """Number of GPUs"""
    gpu_type: str | None = None
    """GPU type (e.g., A100, H100): the name of the first device"""
    gpus: list[Gpu] = field(default_factory=list)
    """The devices."""
    hostname: str | None = None
    """Host name."""
    isolation: str | None = None
    """How user code is isolated: `bubblewrap`, `landlock` or `none`."""
    memory_gb: int
    """Memory usable for tasks, GiB, rounded down."""
    version: str | None = None
    """Version of the worker's binary."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """A change that would let a task start, or let it go first."""
    effect: ChangeEffect
    """What that would do."""
    kind: ChangeKind
    """What is changed."""
    summary: str
    """In one sentence."""
    value: int | None = None
    """To what."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CreateTaskRequest:
    """Asks for a new task. On the wire this is read by [`crate::validate::create_task`], which
    reports every problem at once; the derive serves clients and the document."""
    args: str | None = None
    """Command-line arguments for the entrypoint, split by shell rules (no shell runs)."""
    array: str | None = None
    """Makes an array: a task for each of these indices, all or none, with an id each. Ranges,
    single indices and ranges with a step; after `%` the most tasks that run at once. The answer is
    the first of the tasks."""
    cpu: int | None = None
    """CPU cores requested; absent: 1."""
    dataset_specs: list[DatasetSpec] = field(default_factory=list)
    """Data sets with their sources; without a source, a registered one under another
    `mount_path`."""
    datasets: list[str] = field(default_factory=list)
    """Names of data sets: of `GET /v1/datasets`, or of `dataset_specs`."""
    depends_on: list[Dependency] = field(default_factory=list)
    """Tasks and arrays that must have ended before this one is placed: ids, which means that they
    must have ended well, or objects of `id` and `on`. When one that must end well does not, this
    task ends as `failed`, cause `dependency`."""
    entrypoint: str | None = None
    """Entrypoint script or command (e.g., train.py, run.sh, /bin/bash -c "echo hello"): `*.py` runs
    by the environment's Python, `*.sh` by bash, an executable itself, anything else is split by
    shell rules."""
    env: dict[str, str] = field(default_factory=dict)
    """Extra environment variables of the process. Names beginning with `FETCHML_` are refused."""
    experiment_id: ExperimentId | None = None
    """The experiment that it belongs to (`POST /v1/experiments`)."""
    gpu: int | None = None
    """GPUs requested; absent: 0."""
    gpu_type: str | None = None
    """A whole token of the GPU's device name, any case, such as `H100`."""
    image: str | None = None
    """Container image to run in, `[registry/]name[:tag|@sha256:...]`, by a worker with podman or
    docker. It is pulled where it is missing; one with tag `latest` or none is looked up anew each
    time. Its own Python is used."""
    job_name: str
    """Name for people; rerunning a name is normal."""
    lost_after_s: int | None = None
    """How long the worker may be silent before the task is lost, seconds; absent: as the server is
    set."""
    max_retries: int | None = None
    """How often a failure of the task's own is tried again; absent: 0."""
    memory_gb: int | None = None
    """Memory (GB) requested, in GiB; absent: nothing reserved."""
    metadata: dict[str, str] = field(default_factory=dict)
    """Free labels."""
    network: Network | None = None
    """Whether the task has a network; absent: on."""
    node_count: int | None = None
    """Workers that run it at the same time, each with the cores, memory and GPUs asked for; absent:
    1. No user code starts before all are ready."""
    notify: Notify | None = None
    """Sends mail about it, once for an array, where the server sends mail."""
    on_lost: OnLost | None = None
    """What happens when the worker is not heard for `lost_after_s`; absent: fence."""
    priority: int | None = None
    """Higher runs first."""
    reservation_id: ReservationId | None = None
    """An own reservation (`POST /v1/scheduler/reservations`) on whose GPUs it runs. It keeps them
    until it ends."""
    resume_from: TaskId | None = None
    """Id of a task: this one starts with the files that one left in its checkpoint directory."""
    secrets: list[str] = field(default_factory=list)
    """Names of own secrets (`PUT /v1/secrets/{name}`) that the process gets as environment
    variables. Each attempt gets the values of when it starts."""
    snapshot_id: str | None = None
    """Reference to experiment snapshot: `sha256:<hex>` from `POST /v1/snapshots`."""
    source: Source | None = None
    """The commit that the files of the task are of; only recorded."""
    stall_after_s: int | None = None
    """A process that writes nothing to its log or metrics for so long is stopped, seconds; absent:
    never."""
    time_limit_s: int | None = None
    """Longest time in `running`, seconds; absent: no limit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetFacts:
    """A data set as a task had it."""
    mount_path: str
    """Where the task saw it."""
    name: str
    """Its name."""
    sha256: str
    """SHA-256 of its bytes, lower-case hex."""
    size_bytes: int
    """Size, bytes."""
    source: str
    """Where it came from."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetSpec:
    """A data set named in a task. Without `source` the name is one of `GET /v1/datasets`."""
    mount_path: str | None = None
    """Where the task sees it, read-only; absent: `$FETCHML_DATASET_DIR/<name>`."""
    name: str | None = None
    """Name for people, and of the file below `$FETCHML_DATASET_DIR`: letters, digits, `_`, `-` and
    `.`."""
    sha256: str | None = None
    """Expected SHA-256, lower-case hex. With it, any other bytes are refused."""
    source: str | None = None
    """Where it comes from: the URL of one file, `https://`, `http://`, `s3://` or `file://`."""
    unpack: bool | None = None
    """Whether the file is a tar, tar.gz or zip archive that the task sees as a directory; absent:
    no."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Dependency:
    """A task or array that must have ended first."""
    id: str
    """Id of a task, or of an array, which means all of its tasks."""
    on: DependencyOn | None = None
    """How it must have ended; absent: ok."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EnforcedLimits:
    """What was enforced of what a task asked for."""
    by: str | None = None
    """By what, such as `cgroup v2: memory, cpu, pids` or `rlimit`; absent: nothing was limited."""
    cpus: int | None = None
    """Cores' worth of time; absent: none."""
    memory_bytes: int | None = None
    """Memory, bytes; absent: none."""
    processes: int | None = None
    """Processes and threads; absent: none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Experiment:
    """Tasks that belong together"""
    commit_id: str | None = None
    """The snapshot of its newest task that has one; absent: none has"""
    created_at: datetime
    """When it was made"""
    description: str | None = None
    """What it is about"""
    id: ExperimentId
    """The experiment"""
    name: str
    """Its name; others may have the same"""
    status: ExperimentStatus
    """Whether it takes tasks"""
    user_id: str
    """Who made it"""
    warnings: list[str] = field(default_factory=list)
    """Unknown fields of the request, which were ignored"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Explanation:
    """Why a task has not started."""
    ahead: int
    """Tasks that go before it and wait for workers that could run it, too; at most 1,000 are
    counted."""
    changes: list[Change]
    """What would let it start, the cheapest first."""
    estimated_start: StartEstimate | None = None
    reason: WaitReason
    """What must change first."""
    summary: str
    """The same in one sentence."""
    task_id: str | None = None
    """The task; absent: it was not created."""
    waits_for: list[str] = field(default_factory=list)
    """Tasks and arrays that must end first, the first of them."""
    warnings: list[str] = field(default_factory=list)
    """For a task that was not created: body fields this server does not know and ignored."""
    workers: list[WorkerGroup]
    """Every worker, those together that mean the same; the most promising first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """Why a task failed, for programs."""
    cause: FailureCause
    """The cause."""
    exit_code: int | None = None
    """Exit code of the process, when it ended by itself."""
    log_rule: LogRuleMatch | None = None
    """The server's rule that its log matched."""
    retryable: bool
    """Whether the system may run the task again on its own (within its limits)."""
    signal: int | None = None
    """Signal that ended the process."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FilesDeleted:
    """That the log, artifacts and checkpoints of a task are deleted."""
    at: datetime
    """When."""
    reason: CollectReason
    """Why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpu:
    """One GPU device: a whole GPU, or a MIG device where its GPU is split."""
    index: int
    """Index on its worker, from 0. A device keeps it over restarts of the worker."""
    memory_bytes: int
    """Device memory, bytes; 0: not known."""
    memory_used_bytes: int | None = None
    """Memory in use at the last look, bytes; absent: not known."""
    mig_profile: str | None = None
    """Profile of a MIG device, such as `1g.10gb`."""
    name: str
    """Device name, such as `NVIDIA H100 80GB HBM3`."""
    parent_uuid: str | None = None
    """UUID of the GPU that a MIG device is part of."""
    reason: str | None = None
    """Why not, in one sentence."""
    state: GpuState | None = None
    """Whether tasks are placed on it."""
    utilization_percent: int | None = None
    """How busy it was at the last look, at most 10 s ago; absent: not known."""
    uuid: str
    """NVML's UUID, or `simulated-<index>`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GrantedGpu:
    """A GPU that was given to an attempt."""
    index: int
    """Index on its worker."""
    memory_bytes: int
    """Device memory, bytes."""
    name: str
    """Device name."""
    uuid: str
    """NVML's UUID."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Health:
    """Answer of `/health`."""
    reason: str | None = None
    """One sentence when the status is not `healthy`."""
    status: HealthStatus
    """How the server is."""
    timestamp: datetime
    """The server's time."""
    version: str
    """Version of the server."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Holding:
    """What a user has at this moment, and may have."""
    gpus: int
    """GPUs of these tasks."""
    quota: Quota
    """How much the user may have at once, as of the last submit."""
    share: float
    """The user's share of all workers, lately and now: 1 is all of what is scarcest. Among tasks of
    one level of priority those of the lowest share go first."""
    tasks_queued: int
    """Tasks that wait."""
    tasks_running: int
    """Tasks that are preparing or running."""
    user_id: str
    """The user."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Host:
    """A worker's machine."""
    arch: str
    """Machine architecture, such as `x86_64`."""
    cpu_cores: int
    """Cores usable for tasks."""
    cpu_model: str | None = None
    """Processor."""
    fetchml: str
    """Version of the worker's binary."""
    gpu_driver: str | None = None
    """Version of NVIDIA's driver."""
    hostname: str
    """Its name."""
    kernel: str
    """Release of the kernel."""
    memory_bytes: int
    """Memory usable for tasks, bytes."""
    os: str | None = None
    """Operating system, such as `Debian GNU/Linux 12 (bookworm)`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageFacts:
    """The image that a container was made of."""
    digest: str
    """The digest under which its registry has it; its id where none does."""
    engine: str
    """Who ran it, such as `podman 5.4.2`."""
    image: str
    """Its full name, without tag and digest."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LogFacts:
    """The log of one node."""
    sha256: str | None = None
    """SHA-256 of that, lower-case hex."""
    size_bytes: int
    """Length of what the task itself wrote, the end of the log, bytes; before it stands what
    FetchML wrote while it staged."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LogRuleMatch:
    """A rule that matched the end of a failed attempt's log."""
    action: LogAction | None = None
    """What it does; absent: it only gives cause or sentence."""
    pattern: str
    """The rule's regular expression."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ManifestAttempt:
    """Which attempt a manifest is of."""
    created_at: datetime
    """When it was placed."""
    ended_at: datetime | None = None
    """When it was over."""
    epoch: AttemptEpoch
    """Its place among the attempts of all tasks."""
    id: str
    """The attempt."""
    number: int
    """Its number among the task's, from 1."""
    phase: AttemptPhase
    """Where it is."""
    started_at: datetime | None = None
    """When user code started."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ManifestNode:
    """One node of an attempt."""
    node: int
    """Its rank."""
    provenance: Provenance | None = None
    worker_id: str
    """Its worker."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ManifestOutcome:
    """How a run ended."""
    cause: FailureCause | None = None
    error: str | None = None
    """In one sentence."""
    exit_code: int | None = None
    """Exit code."""
    signal: int | None = None
    """Signal."""
    success: bool
    """Whether it ended well."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ManifestTask:
    """The task of a run."""
    created_at: datetime
    """When."""
    id: str
    """The task."""
    requeue_count: int
    """Free requeues used so far."""
    rerun_of: str | None = None
    """The task that it repeats."""
    retry_count: int
    """Counted retries used so far."""
    user_id: str
    """Who submitted it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricPoint:
    """A value at one step."""
    step: float
    """`step` of its line; without one the number of the line, from 1. Of a sample: its number, from
    1."""
    time: datetime
    """`time` or `_timestamp` of its line; without them when the worker saw it."""
    value: float
    """The value."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricSeries:
    """All values of one name."""
    count: int
    """Values within the steps asked for."""
    last: MetricPoint
    """The last that was written."""
    max: float
    """The largest."""
    min: float
    """The smallest of them."""
    points: list[MetricPoint]
    """In the order they were written: all of them, or, where there are more than `points`, the
    first, last, smallest and largest of each of equally many (M4)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeAssignment:
    """A node of a task and its worker."""
    node_id: int
    """Rank of the node, from 0."""
    slot_assigned: bool
    """Whether the worker holds the slot and is ready."""
    worker_id: str
    """Its worker."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Notify:
    """Mail about a task"""
    email: str
    """Who gets it; others than the task's user see `***`"""
    on: list[NotifyOn] = field(default_factory=list)
    """What is said; absent: how it ended"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Obstacle:
    """One thing that stands in the way on some workers."""
    constraint: Constraint
    """What the task needs."""
    most: int
    """The most that one of these workers has: free now, or at all where the verdict is `lacks`."""
    wanted: int
    """How much of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One problem of a request body."""
    field: str
    """Path of the field, such as `env.PATH` or `datasets[2]`; empty for the body as a whole."""
    problem: str
    """What is wrong and what would be right."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Provenance:
    """What only the worker knows of how it ran an attempt."""
    datasets: list[DatasetFacts] = field(default_factory=list)
    """Its data sets."""
    gpus: list[GrantedGpu] = field(default_factory=list)
    """The GPUs it had, in the order in which it saw them."""
    host: Host
    """Its machine."""
    image: ImageFacts | None = None
    isolation: str
    """How user code was isolated: `bubblewrap`, `landlock`, `none`, or a container engine."""
    limits: EnforcedLimits
    """What was limited."""
    python: PythonFacts | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class PythonFacts:
    """The Python environment that a snapshot asked for."""
    environment: str
    """Hash of what was asked for and of the interpreter, hex: an equal one is not built again on a
    worker."""
    packages: list[str]
    """Every installed distribution, `name==version` or `name @ address`, in order: what was
    resolved."""
    requirements: str
    """The file that asked for it."""
    version: str
    """Implementation and version, such as `cpython 3.11.7`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class QueueStats:
    """Counts over the whole queue."""
    completed: int
    """Tasks completed today: since 00:00 UTC"""
    failed: int
    """Tasks failed today: since 00:00 UTC"""
    queued: int
    """Tasks waiting to run"""
    running: int
    """Tasks currently executing: preparing, running or collecting"""
    workers: int
    """Active workers"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Quota:
    """How much a user may have at once; what is absent has no limit."""
    gpus: int | None = None
    """GPUs of tasks on workers and of reservations."""
    max_priority: int | None = None
    """Highest priority of a task."""
    queued: int | None = None
    """Tasks that wait."""
    running: int | None = None
    """Tasks on workers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunManifest:
    """`run_manifest.json`: enough to run an attempt again exactly, and to see whether two runs were
    the same."""
    artifacts: list[Artifact]
    """Files it left, by path."""
    attempt: ManifestAttempt
    """The attempt."""
    files_deleted_at: datetime | None = None
    """When its log and files were deleted, their time of keeping being over; then `artifacts` is
    empty."""
    log: LogFacts | None = None
    nodes: list[ManifestNode]
    """The nodes, by rank."""
    outcome: ManifestOutcome | None = None
    schema: int
    """[`RUN_MANIFEST_SCHEMA`]."""
    seeds: dict[str, str]
    """Variables of `env` that set a seed."""
    spec: CreateTaskRequest
    """What was run, as `POST /v1/tasks` takes it, with the defaults filled in, and the digest of
    the image and the hashes of data sets as they were found. Values of `env` are `***` for everyone
    but the owner; secrets stand in it by name."""
    task: ManifestTask
    """The task."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SchedulerStatus:
    """Queue depths, workers and what runs."""
    batch_queue_depth: int
    """Tasks that wait for a batch slot"""
    reservations_active: int
    """Reservations that are active or claimed"""
    service_queue_depth: int
    """Services that wait for a service slot"""
    tasks_completed_24h: int
    """Tasks completed in the last 24 hours, counted by whole minutes"""
    tasks_running: int
    """Tasks preparing, running or collecting"""
    timestamp: datetime
    """When this was so"""
    workers_active: int
    """Workers connected and taking work"""
    workers_draining: int
    """Workers finishing what they have"""
    workers_total: int
    """Workers known, those included that went away less than a day ago"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Slots:
    """Slots of a worker."""
    batch_available: int
    """Free batch slots."""
    batch_total: int
    """All batch slots."""
    service_available: int
    """Free service slots."""
    service_total: int
    """All service slots."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """The version control of the directory that a task was submitted from."""
    branch: str | None = None
    """The branch, if one was checked out."""
    commit: str
    """The commit that was checked out, lower-case hex."""
    dirty: bool | None = None
    """Whether files differed from it; absent: not known."""
    remote: str | None = None
    """Where it is pushed to, without user and password."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StartEstimate:
    """When a task is likely to start."""
    at: datetime
    """When."""
    basis: EstimateBasis
    """What that is made of."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """A task."""
    args: str | None = None
    """Arguments."""
    array_id: str | None = None
    """The array it is a task of."""
    array_index: int | None = None
    """Its index in the array."""
    attempt_id: str | None = None
    """The current or last attempt."""
    blocked: bool | None = None
    """Whether it waits for what it depends on, or for others of its array to end; absent: no. While
    it does it is `queued`, but its priority does not age."""
    cpu: int
    """Cores."""
    created_at: datetime
    """When it was submitted."""
    dataset_specs: list[DatasetSpec] = field(default_factory=list)
    """The same as it gets them: names are looked up once, at the submit."""
    datasets: list[str] = field(default_factory=list)
    """Names of its data sets."""
    depends_on: list[Dependency] = field(default_factory=list)
    """What must have ended before it is placed."""
    ended_at: datetime | None = None
    """When it ended."""
    entrypoint: str | None = None
    """Entrypoint script or command executed for this task"""
    env: dict[str, str] = field(default_factory=dict)
    """Environment; values are `***` for everyone but the owner."""
    error: str | None = None
    """One sentence: what happened, what to do."""
    excluded_workers: list[str] = field(default_factory=list)
    """Workers it is not placed on any more: a log rule of the server said so of an attempt
    there."""
    experiment_id: ExperimentId | None = None
    """The experiment that it belongs to."""
    failure: Failure | None = None
    files_deleted: FilesDeleted | None = None
    gpu: int
    """Whole GPUs."""
    gpu_type: str | None = None
    """Token that the device name must hold."""
    id: str
    """Unique task identifier"""
    image: str | None = None
    """The image of its container, by its full name; absent: none, the worker's own system."""
    job_name: str
    """Name for people; need not be unique."""
    lost_after_s: int | None = None
    """Its own time until then, seconds."""
    max_retries: int
    """Counted retries allowed."""
    memory_gb: int
    """Memory, GiB; 0: nothing reserved."""
    metadata: dict[str, str] = field(default_factory=dict)
    """Free labels."""
    network: Network | None = None
    """Whether it has a network; absent: on."""
    node_assignments: list[NodeAssignment] = field(default_factory=list)
    """Worker node assignments"""
    notify: Notify | None = None
    """Who is told of it by mail, and of what."""
    on_lost: OnLost | None = None
    """What happens when its worker is not heard any more; absent: fence."""
    output: str | None = None
    """The last 64 KiB of the log as UTF-8; not in lists."""
    priority: int
    """Priority asked for."""
    priority_aged: float
    """Effective priority with aging applied: `priority` plus time queued over the aging
    interval."""
    requeue_count: int
    """Free requeues used: restarts that were not the task's fault."""
    rerun_of: str | None = None
    """The task that it repeats."""
    reservation_id: str | None = None
    """The reservation on whose GPUs it runs."""
    resume_from: TaskId | None = None
    retry_count: int
    """Counted retries used."""
    secrets: list[str] = field(default_factory=list)
    """Names of secrets of its owner that are in its environment."""
    snapshot_id: str | None = None
    """`sha256:<hex>`."""
    source: Source | None = None
    stall_after_s: int | None = None
    """Longest time without a word in its log or metrics, seconds."""
    started_at: datetime | None = None
    """When user code of the current or last attempt started."""
    status: TaskStatus
    """Where it is in its life."""
    time_limit_s: int | None = None
    """Longest time in `running`, seconds."""
    user_id: str
    """Who submitted it."""
    warnings: list[str] = field(default_factory=list)
    """On create only: body fields this server does not know and ignored."""
    worker_id: str | None = None
    """Worker of the current or last attempt."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskList:
    """A page of tasks, newest first."""
    limit: int
    """Page size asked for."""
    offset: int
    """Matches skipped."""
    tasks: list[Task]
    """The page; `output` is left out."""
    total: int
    """All matches."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskMetrics:
    """What an attempt has measured, and what was measured of it."""
    attempt_id: AttemptId | None = None
    bad_lines: int
    """Lines of which something could not be used: no JSON object, or a value in it that is no
    finite number."""
    dropped_bytes: int
    """Bytes that the task wrote beyond the limit of one attempt, which are not kept."""
    dropped_values: int
    """Values of names beyond the limit of one attempt, which are not kept."""
    first_bad_line: BadLine | None = None
    lines: int
    """Lines read from the task's file."""
    series: dict[str, MetricSeries]
    """By name, what the task wrote."""
    system: dict[str, MetricSeries]
    """By name, samples of what the attempt used of its machine."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """What tasks of a user have used, those of one experiment or those of none."""
    cpu_seconds: float
    """Cores times seconds, while user code ran (with GPUs: while these were set aside)."""
    experiment_id: str | None = None
    """The experiment; absent: tasks of no experiment."""
    gpu_seconds: float
    """GPUs times seconds, from when they were set aside until the processes were dead."""
    idle_gpu_seconds: float
    """The part of `gpu_seconds` in which the GPU was seen to do nothing: below 5 % busy when the
    worker last looked. GPUs that do not tell how busy they are do not count."""
    user_id: str
    """Whose tasks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class UsageReport:
    """What has been used and is held."""
    holdings: list[Holding]
    """What is held now, by user: everybody who has tasks that have not ended, or ever used
    anything."""
    usage: list[Usage]
    """Everything used since the server's first start, what runs now included, by user and
    experiment."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Worker:
    """A worker."""
    active_tasks: list[str]
    """IDs of tasks currently running on this worker"""
    capabilities: Capabilities
    """What it has."""
    connected_at: datetime
    """When worker connected"""
    datasets: list[str] = field(default_factory=list)
    """Data sets in its cache, by SHA-256 (of the source, where a task declares no hash): tasks that
    need them are placed here rather than on a worker that fits as well; not in streams"""
    id: str
    """Worker unique identifier"""
    last_heartbeat: datetime
    """Last heartbeat timestamp"""
    name: str
    """Name for people: the host name unless set."""
    slots: Slots
    """Its slots."""
    status: WorkerStatus
    """Whether it takes work."""
    unfit: str | None = None
    """Why it takes nothing new by its own word: what its checks found."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerGroup:
    """Workers that mean the same for a task."""
    count: int
    """How many workers these are."""
    obstacles: list[Obstacle]
    """What stands in the way there."""
    summary: str
    """In one sentence."""
    verdict: Verdict
    """What they mean."""
    workers: list[WorkerName]
    """The first of them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerName:
    """A worker by name."""
    id: str
    """The worker."""
    name: str
    """Its name."""


class TaskFields(TypedDict, total=False):
    """Asks for a new task"""
    args: str
    """Command-line arguments for the entrypoint, split by shell rules (no shell runs)."""
    array: str
    """Makes an array: a task for each of these indices, all or none, with an id each. Ranges,
    single indices and ranges with a step; after `%` the most tasks that run at once. The answer is
    the first of the tasks."""
    cpu: int
    """CPU cores requested; absent: 1."""
    dataset_specs: Sequence[DatasetSpecFields]
    """Data sets with their sources; without a source, a registered one under another
    `mount_path`."""
    datasets: Sequence[str]
    """Names of data sets: of `GET /v1/datasets`, or of `dataset_specs`."""
    depends_on: Sequence[str | DependencyFields]
    """Tasks and arrays that must have ended before this one is placed: ids, which means that they
    must have ended well, or objects of `id` and `on`. When one that must end well does not, this
    task ends as `failed`, cause `dependency`."""
    entrypoint: str
    """Entrypoint script or command (e.g., train.py, run.sh, /bin/bash -c "echo hello"): `*.py` runs
    by the environment's Python, `*.sh` by bash, an executable itself, anything else is split by
    shell rules."""
    env: Mapping[str, str]
    """Extra environment variables of the process. Names beginning with `FETCHML_` are refused."""
    experiment_id: ExperimentId
    """The experiment that it belongs to (`POST /v1/experiments`)."""
    gpu: int
    """GPUs requested; absent: 0."""
    gpu_type: str
    """A whole token of the GPU's device name, any case, such as `H100`."""
    image: str
    """Container image to run in, `[registry/]name[:tag|@sha256:...]`, by a worker with podman or
    docker. It is pulled where it is missing; one with tag `latest` or none is looked up anew each
    time. Its own Python is used."""
    job_name: str
    """Name for people; rerunning a name is normal."""
    lost_after_s: int
    """How long the worker may be silent before the task is lost, seconds; absent: as the server is
    set."""
    max_retries: int
    """How often a failure of the task's own is tried again; absent: 0."""
    memory_gb: int
    """Memory (GB) requested, in GiB; absent: nothing reserved."""
    metadata: Mapping[str, str]
    """Free labels."""
    network: Network
    """Whether the task has a network; absent: on."""
    node_count: int
    """Workers that run it at the same time, each with the cores, memory and GPUs asked for; absent:
    1. No user code starts before all are ready."""
    notify: NotifyFields
    """Sends mail about it, once for an array, where the server sends mail."""
    on_lost: OnLost
    """What happens when the worker is not heard for `lost_after_s`; absent: fence."""
    priority: int
    """Higher runs first."""
    reservation_id: ReservationId
    """An own reservation (`POST /v1/scheduler/reservations`) on whose GPUs it runs. It keeps them
    until it ends."""
    resume_from: TaskId
    """Id of a task: this one starts with the files that one left in its checkpoint directory."""
    secrets: Sequence[str]
    """Names of own secrets (`PUT /v1/secrets/{name}`) that the process gets as environment
    variables. Each attempt gets the values of when it starts."""
    snapshot_id: str
    """Reference to experiment snapshot: `sha256:<hex>` from `POST /v1/snapshots`."""
    source: SourceFields
    """The commit that the files of the task are of; only recorded."""
    stall_after_s: int
    """A process that writes nothing to its log or metrics for so long is stopped, seconds; absent:
    never."""
    time_limit_s: int
    """Longest time in `running`, seconds; absent: no limit."""


class DatasetSpecFields(TypedDict, total=False):
    """A data set named in a task"""
    mount_path: str
    """Where the task sees it, read-only; absent: `$FETCHML_DATASET_DIR/<name>`."""
    name: str
    """Name for people, and of the file below `$FETCHML_DATASET_DIR`: letters, digits, `_`, `-` and
    `.`."""
    sha256: str
    """Expected SHA-256, lower-case hex. With it, any other bytes are refused."""
    source: str
    """Where it comes from: the URL of one file, `https://`, `http://`, `s3://` or `file://`."""
    unpack: bool
    """Whether the file is a tar, tar.gz or zip archive that the task sees as a directory; absent:
    no."""


class DependencyFields(TypedDict, total=False):
    """A task or array that must have ended first."""
    id: str
    """Id of a task, or of an array, which means all of its tasks."""
    on: DependencyOn
    """How it must have ended; absent: ok."""


class NotifyFields(TypedDict, total=False):
    """Mail about a task"""
    email: str
    """Who gets it; others than the task's user see `***`"""
    on: Sequence[NotifyOn]
    """What is said; absent: how it ended"""


class SourceFields(TypedDict, total=False):
    """The version control of the directory that a task was submitted from."""
    branch: str
    """The branch, if one was checked out."""
    commit: str
    """The commit that was checked out, lower-case hex."""
    dirty: bool
    """Whether files differed from it; absent: not known."""
    remote: str
    """Where it is pushed to, without user and password."""
