//! Workers as the API shows them and as they describe themselves.

use crate::{
    dataset::DatasetKey,
    ids::{TaskId, WorkerId},
    time::Micros,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Which kind of slot a task takes: batch work, or a long-running service such as a notebook.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SlotKind {
    /// Training and other work that ends by itself.
    Batch,
    /// Notebooks and tools.
    Service,
}

/// One GPU device: a whole GPU, or a MIG device where its GPU is split.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Gpu {
    /// Index on its worker, from 0. A device keeps it over restarts of the worker.
    pub index: u32,
    /// NVML's UUID, or `simulated-<index>`.
    pub uuid: String,
    /// Device name, such as `NVIDIA H100 80GB HBM3`.
    pub name: String,
    /// Device memory, bytes; 0: not known.
    pub memory_bytes: u64,
    /// UUID of the GPU that a MIG device is part of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_uuid: Option<String>,
    /// Profile of a MIG device, such as `1g.10gb`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mig_profile: Option<String>,
    /// Whether tasks are placed on it.
    #[serde(default)]
    pub state: GpuState,
    /// Why not, in one sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How busy it was at the last look, at most 10 s ago; absent: not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub utilization_percent: Option<u32>,
    /// Memory in use at the last look, bytes; absent: not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_used_bytes: Option<u64>,
}

/// Whether tasks are placed on a device. A task that runs on it already is left alone in any case.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum GpuState {
    /// They are.
    #[default]
    Available,
    /// Not now: a process that no task started uses it. It is given back by itself.
    Withheld,
    /// Not until somebody has looked after it: it has a fault, or does not answer.
    Unhealthy,
}

impl GpuState {
    /// The word used in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Available => "available",
            Self::Withheld => "withheld",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// What a device does at the moment. Kept nowhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct GpuUsage {
    /// [`Gpu::index`].
    pub index: u32,
    /// How busy it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub utilization_percent: Option<u32>,
    /// Memory in use, bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_used_bytes: Option<u64>,
}

/// What a worker has.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Capabilities {
    /// Number of GPUs
    pub gpu_count: u32,
    /// GPU type (e.g., A100, H100): the name of the first device
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu_type: Option<String>,
    /// Cores usable for tasks.
    pub cpu_cores: u32,
    /// Memory usable for tasks, GiB, rounded down.
    pub memory_gb: u32,
    /// The devices.
    #[serde(default)]
    pub gpus: Vec<Gpu>,
    /// Executors this worker can use; `process` always, `podman` or `docker` where it runs containers.
    #[serde(default)]
    pub executors: Vec<String>,
    /// The engine of its containers and its version, such as `podman 5.4.2`; absent: it runs none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container_engine: Option<String>,
    /// How user code is isolated: `bubblewrap`, `landlock` or `none`.
    #[serde(default)]
    pub isolation: String,
    /// Version of the worker's binary.
    #[serde(default)]
    pub version: String,
    /// Host name.
    #[serde(default)]
    pub hostname: String,
}

impl Capabilities {
    /// Takes over the devices, with their number and type.
    pub fn set_gpus(&mut self, gpus: Vec<Gpu>) {
        self.gpu_count = gpus.len() as u32;
        self.gpu_type = gpus.first().map(|gpu| gpu.name.clone());
        self.gpus = gpus;
    }

    /// Whether it can run containers.
    pub fn runs_containers(&self) -> bool {
        self.executors.iter().any(|name| name == "podman" || name == "docker")
    }
}

/// Slots of a worker.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Slots {
    /// Free batch slots.
    pub batch_available: u32,
    /// All batch slots.
    pub batch_total: u32,
    /// Free service slots.
    pub service_available: u32,
    /// All service slots.
    pub service_total: u32,
}

/// Whether a worker takes work.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WorkerStatus {
    /// Connected and taking work.
    Active,
    /// Finishing what it has, taking nothing new.
    Draining,
    /// Not heard for 15 s or not connected.
    Offline,
}

impl WorkerStatus {
    /// The word used in JSON and in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Draining => "draining",
            Self::Offline => "offline",
        }
    }
}

/// A worker.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Worker {
    /// Worker unique identifier
    #[schema(value_type = String)]
    pub id: WorkerId,
    /// Name for people: the host name unless set.
    pub name: String,
    /// When worker connected
    #[schema(value_type = String, format = DateTime)]
    pub connected_at: Micros,
    /// Last heartbeat timestamp
    #[schema(value_type = String, format = DateTime)]
    pub last_heartbeat: Micros,
    /// What it has.
    pub capabilities: Capabilities,
    /// Its slots.
    pub slots: Slots,
    /// IDs of tasks currently running on this worker
    #[schema(value_type = Vec<String>)]
    pub active_tasks: Vec<TaskId>,
    /// Whether it takes work.
    pub status: WorkerStatus,
    /// Why it takes nothing new by its own word: what its checks found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unfit: Option<String>,
    /// Data sets in its cache, by SHA-256 (of the source, where a task declares no hash): tasks that need them are
    /// placed here rather than on a worker that fits as well; not in streams
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub datasets: Vec<DatasetKey>,
}
