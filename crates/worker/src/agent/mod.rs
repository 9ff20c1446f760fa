//! The agent: one worker's decisions and its word to the server. It starts from what its data
//! directory holds, runs what the server assigns, and ends without ending its tasks.
//!
//! [`core`] owns the attempts; [`link`] the connection; [`spool`] and [`logs`] what is still to be
//! told; [`attempt`] runs one attempt; [`admission`] says who may run; [`lease`] how long without
//! the server.

mod admission;
mod artifacts;
mod attempt;
mod checkpoints;
mod clock;
mod core;
mod diagnosis;
mod disk;
mod identity;
mod lease;
mod link;
mod log_part;
mod logs;
mod metrics;
mod outbox;
mod provenance;
mod recovery;
mod secrets;
mod spare;
mod spool;
mod stall;
mod trash;

pub(crate) use identity::write_json;

use crate::{
    container::{self, Containers, EngineChoice},
    gpu::{self, Gpus},
    hardware,
    isolation::{Isolation, Sandboxes},
    limits,
    shim::Helper,
    staging::{BlobCache, Cache, DatasetSettings, Datasets, Environments},
    usage::Table,
};
use admission::{Admission, Room};
use attempt::Workshop;
use core::Core;
use fetchml_api::{
    WorkerId,
    link::{ByteStream, Hello, PROTOCOL},
};
use fetchml_client::{Client, Trust, shown_url};
use identity::DataDir;
use lease::Lease;
use link::{Link, Target};
use logs::Logs;
use outbox::SharedSpool;
use spool::Spool;
use std::{
    ffi::OsString,
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::{
    sync::{Semaphore, mpsc, oneshot, watch},
    task::{AbortHandle, JoinHandle},
};

/// How to run a worker.
#[derive(Clone)]
pub struct Options {
    /// The server, such as `http://127.0.0.1:9101`.
    pub server_url: String,
    /// A key of role worker or admin. Secret.
    pub key: String,
    /// How the server is known, where it speaks TLS.
    pub trust: Trust,
    /// Where the worker keeps everything; one agent at a time.
    pub data_dir: PathBuf,
    /// Name for people; absent: the host's name.
    pub name: Option<String>,
    /// Attempts of kind batch run at once; absent: one for each core.
    pub batch_slots: Option<u32>,
    /// Attempts of kind service run at once.
    pub service_slots: u32,
    /// Log bytes kept of one attempt.
    pub log_quota_bytes: u64,
    /// How users' processes are kept in their place.
    pub isolation: Isolation,
    /// Where its GPUs come from.
    pub gpus: gpu::Source,
    /// Where data sets may come from, and what they may take.
    pub datasets: DatasetSettings,
    /// Disk that files of snapshots and Python environments may take, bytes; absent: a part of it.
    pub cache_bytes: Option<u64>,
    /// What it does with tasks that name an image.
    pub containers: container::Options,
    /// Command that ends in [`crate::shim::helper_main`]. Its program, with [`crate::shim::INIT`] for its first
    /// argument, ends in [`crate::shim::init_main`], and with [`container::RUNNER`] in [`container::runner_main`].
    pub helper_command: Vec<OsString>,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("server_url", &self.server_url)
            .field("key", &"***")
            .field("trust", &self.trust)
            .field("data_dir", &self.data_dir)
            .field("name", &self.name)
            .field("batch_slots", &self.batch_slots)
            .field("service_slots", &self.service_slots)
            .field("log_quota_bytes", &self.log_quota_bytes)
            .field("isolation", &self.isolation)
            .field("gpus", &self.gpus)
            .field("containers", &self.containers)
            .field("cache_bytes", &self.cache_bytes)
            .field("datasets", &self.datasets)
            .field("helper_command", &self.helper_command)
            .finish()
    }
}

/// Why a worker cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// Another agent has the data directory.
    #[error("the data directory {} is in use by another worker; stop it or name another with --data-dir", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// Tasks that run belong to the directory that this one was copied from.
    #[error(
        "the data directory {} is a copy of one whose tasks run; name a new directory, a worker must not have another's",
        path.display()
    )]
    Copied {
        /// The directory.
        path: PathBuf,
    },
    /// The data directory cannot be used.
    #[error("the data directory {} cannot be used", path.display())]
    DataDir {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The server's address or the key is not well formed.
    #[error("cannot use server {url:?}: {problem}")]
    Server {
        /// What was given.
        url: String,
        /// What is wrong.
        problem: String,
    },
    /// The isolation that is required does not work here.
    #[error("tasks cannot be isolated: {0}")]
    Isolation(String),
    /// The container engine that is asked for does not work here.
    #[error("containers cannot be run: {0}")]
    Containers(String),
    /// The process that starts tasks cannot be started.
    #[error("the helper that starts tasks cannot be started")]
    Helper(#[source] io::Error),
}

/// Why a worker ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ExitReason {
    /// It was asked to.
    ShutDown,
    /// The server will never take it, for this reason.
    Refused(String),
    /// A fault in the agent itself.
    Failed(String),
}

impl fmt::Display for ExitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ShutDown => f.write_str("shut down"),
            Self::Refused(reason) => write!(f, "refused by the server: {reason}"),
            Self::Failed(reason) => write!(f, "failed: {reason}"),
        }
    }
}

/// A shutdown, and whom to tell when tasks are stopped and reported.
#[derive(Debug)]
pub(crate) struct Shutdown {
    stop_tasks: bool,
    done: oneshot::Sender<()>,
}

/// A running worker. Dropped, it ends like after a kill: tasks go on under their shims, and the next
/// agent takes them up.
#[derive(Debug)]
pub struct Worker {
    id: WorkerId,
    isolation: String,
    gpus: Gpus,
    containers: String,
    connected: watch::Receiver<bool>,
    shutdown: mpsc::Sender<Shutdown>,
    core: JoinHandle<ExitReason>,
    link: AbortHandle,
    ended: Option<ExitReason>,
}

impl Worker {
    /// Takes the data directory, takes up what an earlier agent left, and begins to connect.
    pub async fn start(options: Options) -> Result<Self, StartError> {
        let bad_server =
            |problem: String| StartError::Server { url: shown_url(&options.server_url).to_owned(), problem };
        // It is the stricter one, and shows nothing of what it refuses that may be a password.
        let client = Client::trusting(&options.server_url, &options.key, &options.trust);
        let client = client.map_err(|error| bad_server(error.to_string()))?;
        let target = Target::new(&options.server_url, &options.key, &options.trust).map_err(bad_server)?;
        let data = DataDir::open(&options.data_dir)?;
        let id = data.worker_id();
        let in_data_dir = |source| StartError::DataDir { path: data.path().to_owned(), source };
        let mut capabilities = tokio::task::spawn_blocking(hardware::probe)
            .await
            .map_err(|error| in_data_dir(io::Error::other(format!("the hardware probe failed: {error}"))))?;
        let batch_slots = options.batch_slots.unwrap_or(capabilities.cpu_cores).max(1);
        capabilities.hostname = presentable(&capabilities.hostname);
        let name = presentable(options.name.as_deref().unwrap_or(&capabilities.hostname));
        let left = recovery::find(&data)?;
        let gpus = Gpus::start(options.gpus.clone(), data.path(), &recovery::devices(&left)).await;
        let spool = Spool::open(&data.path().join("spool"), data.boot_id()).map_err(in_data_dir)?;
        let spool = Arc::new(SharedSpool::new(spool));
        let helper = Arc::new(Helper::start(&options.helper_command).await.map_err(StartError::Helper)?);
        let sandboxes =
            Sandboxes::probe(options.isolation, &helper, data.path()).await.map_err(StartError::Isolation)?;
        capabilities.isolation = sandboxes.name().into();
        let isolation = sandboxes.describe();
        let host = tokio::task::spawn_blocking(hardware::host)
            .await
            .map_err(|error| in_data_dir(io::Error::other(format!("the hardware probe failed: {error}"))))?;
        let (containers, said) = find_containers(&options.containers, &data).await?;
        if let Some(containers) = &containers {
            capabilities.executors.push(containers.kind().to_string());
            capabilities.container_engine = Some(containers.engine_name());
            if let Some(helper) = helper.pid().await {
                container::forget_others(
                    &containers.program_dir(),
                    &Path::new("/proc").join(helper.to_string()).join("exe"),
                );
            }
        }
        let logs = Logs::start(ByteStream::Log, options.log_quota_bytes);
        // What is taken of metrics is limited where it is taken.
        let metrics = Logs::start(ByteStream::Metrics, u64::MAX);
        let lease = match data.lease_mark() {
            Some(mark) => Lease::new(mark.sent_ms, mark.lost_after_s),
            None => Lease::new(0, 0),
        };
        let lease = Arc::new(lease);
        let (dir, limit) = (data.path().to_owned(), options.cache_bytes);
        let cache = tokio::task::spawn_blocking(move || Cache::open(&dir, limit)).await;
        let cache = cache.map_err(io::Error::other).flatten().map_err(in_data_dir)?;
        let (dir, wanted) = (data.path().to_owned(), options.datasets.clone());
        let datasets = tokio::task::spawn_blocking(move || Datasets::open(&dir, wanted)).await;
        let datasets = Arc::new(datasets.map_err(io::Error::other).flatten().map_err(in_data_dir)?);
        let changes = datasets.changes();
        let shop = Arc::new(Workshop {
            worker_id: id,
            client,
            blobs: BlobCache::new(Arc::clone(&cache)),
            environments: Environments::new(Arc::clone(&cache), data.path(), Arc::clone(&helper), sandboxes.clone()),
            cache,
            datasets,
            helper,
            uploads: Semaphore::new(limits::UPLOADS_AT_ONCE),
            gpus: gpus.clone(),
            sandboxes,
            containers,
            lease: Arc::clone(&lease),
            lease_file: data.lease_file(),
            boot_id: data.boot_id().to_owned(),
            logs: logs.clone(),
            metrics: metrics.clone(),
            processes: Table::default(),
            host,
        });
        let caches = disk::Caches { files: Arc::clone(&shop.cache), datasets: Arc::clone(&shop.datasets) };
        let room = Room::of(&capabilities, batch_slots, options.service_slots);
        let hello = Hello {
            protocol: PROTOCOL,
            worker_id: id,
            agent_run: agent_run(),
            name,
            capabilities,
            batch_slots,
            service_slots: options.service_slots,
            incarnation_seen: 0,
            inventory: Vec::new(),
            unfit: None,
            datasets: Vec::new(),
        };
        if let Some(containers) = &shop.containers {
            let runs = |attempt| {
                left.iter().any(|(taken, begin)| {
                    taken.assignment.attempt == attempt && matches!(begin, attempt::Begin::Running(_))
                })
            };
            let mut found = containers.all().await;
            found.retain(|container| !container.attempt.is_some_and(runs));
            containers.sweep(found).await;
        }
        let events = mpsc::channel(limits::CORE_EVENTS);
        let to_core = events.0.clone();
        let (connected_in, connected) = watch::channel(false);
        let (shutdown, asked) = mpsc::channel(1);
        let mut core = Core::new(
            data,
            hello,
            shop,
            Arc::clone(&spool),
            Arc::clone(&lease),
            connected_in,
            Admission::new(room),
            events,
        );
        for (taken, begin) in left {
            core.take_up(taken, begin);
        }
        disk::watch(options.data_dir.clone(), options.log_quota_bytes, caches, to_core.clone());
        let core = tokio::spawn(core.run(asked));
        let link = Link { target, core: to_core, spool, logs, metrics, lease, gpus: gpus.clone(), datasets: changes };
        let link = tokio::spawn(link.run()).abort_handle();
        Ok(Self { id, isolation, gpus, containers: said, connected, shutdown, core, link, ended: None })
    }

    /// The worker's id: the same over all its starts.
    pub fn id(&self) -> WorkerId {
        self.id
    }

    /// How tasks are isolated, in one line for people.
    pub fn isolation(&self) -> &str {
        &self.isolation
    }

    /// Its GPUs.
    pub fn gpus(&self) -> &Gpus {
        &self.gpus
    }

    /// What is done with tasks that name an image, in one line for people.
    pub fn containers(&self) -> &str {
        &self.containers
    }

    /// Resolves when the server has welcomed this agent for the first time; never, if it ends before.
    pub async fn connected(&self) {
        if self.connected.clone().wait_for(|connected| *connected).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Waits until the agent ends by itself, and says why.
    pub async fn wait(&mut self) -> ExitReason {
        if let Some(reason) = &self.ended {
            return reason.clone();
        }
        let reason = match (&mut self.core).await {
            Ok(reason) => reason,
            Err(error) => ExitReason::Failed(error.to_string()),
        };
        self.link.abort();
        self.ended = Some(reason.clone());
        reason
    }

    /// Ends the agent. Tasks stay with their shims, unless `stop_tasks`: then what has not started is
    /// given back, what runs is stopped and reported, within [`limits::SHUTDOWN_MAX`].
    pub async fn shutdown(mut self, stop_tasks: bool) {
        let (done, is_done) = oneshot::channel();
        if !stop_tasks {
            self.link.abort();
        }
        if self.shutdown.send(Shutdown { stop_tasks, done }).await.is_ok() {
            // Dropped unanswered when nothing is to be waited for.
            let _ = is_done.await;
        }
        self.wait().await;
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.link.abort();
        self.core.abort();
    }
}

/// The containers of this worker, and what is to be said about them.
async fn find_containers(
    wanted: &container::Options,
    data: &DataDir,
) -> Result<(Option<Containers>, String), StartError> {
    match Containers::probe(wanted, data.worker_id(), data.path()).await {
        Ok(containers) => {
            let said = containers.describe();
            Ok((Some(containers), said))
        }
        Err(problem) if matches!(wanted.engine, EngineChoice::Only(_)) || wanted.socket.is_some() => {
            Err(StartError::Containers(problem))
        }
        Err(problem) => Ok((None, format!("none ({problem})"))),
    }
}

/// A name as a server takes it: of printable characters, not too long.
fn presentable(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(fetchml_api::limits::NAME_CHARS).collect()
}

/// Tells two runs of the agent apart.
fn agent_run() -> u64 {
    let mut random = [0; 8];
    // Without randomness the clock still differs between two runs of one machine.
    match getrandom::fill(&mut random) {
        Ok(()) => u64::from_ne_bytes(random),
        Err(_) => clock::boottime_ms(),
    }
}
