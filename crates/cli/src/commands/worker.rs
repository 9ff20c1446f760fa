//! `fetchml worker`.

use super::{
    dataset_sources::{self, DatasetFlags},
    serving::{self, Signals},
    workers,
};
use crate::{
    environment,
    failure::{Exit, Failure},
    session::TrustFlags,
    settings::{Flags, Layers, WorkerSettings, read_key_file},
    terminal,
};
use clap::Args;
use fetchml_api::limits::{GPU_MAX, GPU_TYPE_CHARS};
use fetchml_client::{Client, ClientError, Trust};
use fetchml_worker::{
    ExitReason, Options, StartError, container,
    gpu::{Source, Timing},
    isolation::Isolation,
};
use std::{
    path::{Path, PathBuf},
    str::FromStr,
};

/// Flags of everything that contains a worker.
#[derive(Args, Debug)]
pub(super) struct SlotFlags {
    /// Name of the worker [env: FETCHML_WORKER_NAME] [default: the host name]
    #[arg(long)]
    name: Option<String>,
    /// Tasks at the same time [env: FETCHML_SLOTS] [default: the cores]
    #[arg(long, value_name = "COUNT")]
    slots: Option<u32>,
    /// Notebooks and tools at the same time [env: FETCHML_SERVICE_SLOTS] [default: 4]
    #[arg(long, value_name = "COUNT")]
    service_slots: Option<u32>,
    /// Offer simulated GPUs instead of the machine's, to try out scheduling; 0: no GPU at all [env: FETCHML_GPUS]
    #[arg(long, value_name = "COUNT")]
    gpus: Option<u32>,
    /// What simulated GPUs are called, such as H100 [env: FETCHML_GPU_TYPE]
    #[arg(long, value_name = "NAME")]
    gpu_type: Option<String>,
    /// How tasks are isolated: required, auto or none [env: FETCHML_ISOLATION] [default: required; auto for `up` on loopback]
    #[arg(long, value_name = "HOW")]
    isolation: Option<String>,
    /// What runs tasks that name an image: auto, podman, docker or none [env: FETCHML_CONTAINER_ENGINE] [default: auto]
    #[arg(long, value_name = "ENGINE")]
    container_engine: Option<String>,
    /// Where that engine listens [env: FETCHML_CONTAINER_SOCKET] [default: where engines usually do]
    #[arg(long, value_name = "PATH")]
    container_socket: Option<PathBuf>,
    /// Only an engine that can limit memory, cpu and processes: required, or auto [env: FETCHML_CONTAINER_LIMITS] [default: required]
    #[arg(long, value_name = "HOW")]
    container_limits: Option<String>,
    /// Images that tasks may name, such as 'ghcr.io/lab/*,python:3.*' [env: FETCHML_ALLOW_IMAGES] [default: any]
    #[arg(long, value_name = "PATTERNS")]
    allow_images: Option<String>,
    /// Disk that files of snapshots and Python environments may take, such as 50G [env: FETCHML_CACHE] [default: a fifth of it]
    #[arg(long, value_name = "SIZE")]
    cache: Option<String>,
    #[command(flatten)]
    datasets: DatasetFlags,
}

impl SlotFlags {
    pub(super) fn add_to(&self, flags: Flags) -> Flags {
        let flags = self.datasets.add_to(flags);
        flags
            .set("worker.name", "--name", self.name.clone())
            .set("worker.slots", "--slots", self.slots)
            .set("worker.service_slots", "--service-slots", self.service_slots)
            .set("worker.gpus", "--gpus", self.gpus)
            .set("worker.gpu_type", "--gpu-type", self.gpu_type.clone())
            .set("worker.isolation", "--isolation", self.isolation.clone())
            .set("worker.container_engine", "--container-engine", self.container_engine.clone())
            .set(
                "worker.container_socket",
                "--container-socket",
                self.container_socket.as_ref().map(|path| path.to_string_lossy().into_owned()),
            )
            .set("worker.container_limits", "--container-limits", self.container_limits.clone())
            .set("worker.allow_images", "--allow-images", self.allow_images.clone())
            .set("worker.cache", "--cache", self.cache.clone())
    }
}

/// Run a worker that takes tasks from a server
#[derive(Args, Debug)]
#[command(
    before_long_help = "Example:\n  fetchml worker --server http://10.0.0.5:9101 --key-file worker.key --data-dir /data/fetchml"
)]
pub(crate) struct Worker {
    /// Address of the server [env: FETCHML_SERVER]
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    /// File that holds a key with the role worker [env: FETCHML_KEY_FILE]
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    #[command(flatten)]
    trust: TrustFlags,
    /// Where attempts, environments and files are kept [default: `worker` in FETCHML_DATA_DIR or its default]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    #[command(flatten)]
    slots: SlotFlags,
    /// Stop running tasks at the end instead of leaving them
    #[arg(long)]
    stop_tasks: bool,
}

impl Worker {
    pub(super) fn run(self, config: Option<&Path>) -> anyhow::Result<Exit> {
        let text = |path: &Option<PathBuf>| path.as_ref().map(|path| path.to_string_lossy().into_owned());
        let flags = self.trust.add_to(Flags::default(), "worker.ca_cert", "worker.tls_fingerprint");
        let flags = self
            .slots
            .add_to(flags)
            .set("worker.server", "--server", self.server.clone())
            .set("worker.key_file", "--key-file", text(&self.key_file))
            .set("worker.data_dir", "--data-dir", text(&self.data_dir));
        let layers = Layers::load(config, flags)?;
        let (settings, trust) = (layers.worker()?, layers.worker_trust()?);
        let server = settings.server.clone().ok_or_else(|| {
            Failure::usage("no server is named").hint("give --server URL; `fetchml up` starts server and worker in one")
        })?;
        let key_file = settings.key_file.clone().ok_or_else(|| {
            Failure::usage("no key file is named")
                .hint("make a key with `fetchml keys create --role worker --user lab > worker.key` and give --key-file")
        })?;
        let key = read_key_file(&key_file)?;
        // The same check the client does, so that a wrong file is told at once and without showing it.
        let client = Client::trusting(&server, &key, &trust)?;
        serving::start_log("info")?;
        serving::block_on(async {
            let mut signals = Signals::new()?;
            // A server that is away is waited for; one that is not the right one is told at once.
            if let Err(error @ ClientError::Untrusted { .. }) = client.health().await {
                return Err(error.into());
            }
            let home = Home { url: server.clone(), key, trust };
            let mut worker = start(home, &settings, Isolation::Required, None).await?;
            terminal::say(&format!("FetchML {} worker for {server}", env!("FETCHML_VERSION")));
            terminal::say(&format!("  data      {}", settings.data_dir.display()));
            say_what_it_does(&worker);
            tokio::select! {
                () = signals.received() => {}
                reason = worker.wait() => return Err(failed(&reason)),
            }
            terminal::say(if self.stop_tasks {
                "stopping, and all running tasks with it"
            } else {
                "stopping; running tasks go on and are found again at the next start"
            });
            serving::unless_urged(&mut signals, worker.shutdown(self.stop_tasks)).await?;
            Ok(Exit::Success)
        })
    }
}

/// The server that a worker takes tasks from, and how the two know each other.
pub(super) struct Home {
    /// Its address.
    pub(super) url: String,
    /// The worker's key.
    pub(super) key: String,
    /// How the server is known.
    pub(super) trust: Trust,
}

/// Starts the worker these settings describe. Its tasks may open so many files at first; absent: as many as this process.
pub(super) async fn start(
    home: Home,
    settings: &WorkerSettings,
    isolation: Isolation,
    open_files: Option<u64>,
) -> anyhow::Result<fetchml_worker::Worker> {
    let isolation = match &settings.isolation {
        Some(wanted) => wanted.parse().map_err(Failure::usage)?,
        None => isolation,
    };
    let gpus = gpu_source(settings)?;
    let options = Options {
        server_url: home.url,
        key: home.key,
        trust: home.trust,
        data_dir: settings.data_dir.clone(),
        name: settings.name.clone(),
        batch_slots: settings.slots,
        service_slots: settings.service_slots,
        log_quota_bytes: u64::from(settings.log_quota_mib) << 20,
        isolation,
        gpus,
        containers: containers(settings)?,
        cache_bytes: settings.cache_bytes()?,
        datasets: dataset_sources::of(settings)?,
        helper_command: serving::helper_command(open_files)?,
    };
    fetchml_worker::Worker::start(options).await.map_err(|error| match error {
        StartError::Isolation(_) => Failure::new(error.to_string())
            .hint("install bubblewrap, or give --isolation auto (what works here) or none (trusted users only)")
            .into(),
        StartError::Containers(_) => Failure::new(error.to_string())
            .hint("start its socket (systemctl start podman.socket), or give --container-engine auto or none")
            .into(),
        error => error.into(),
    })
}

/// Where these settings say that GPUs come from.
fn gpu_source(settings: &WorkerSettings) -> Result<Source, Failure> {
    let Some(count) = settings.gpus else {
        if settings.gpu_type.is_some() {
            return Err(Failure::usage("a GPU type without a number of simulated GPUs")
                .hint("give --gpus COUNT too; the type of real GPUs is what their driver says"));
        }
        return Ok(Source::Nvml { library: settings.nvml_library.clone(), timing: Timing::default() });
    };
    if i64::from(count) > GPU_MAX {
        return Err(Failure::usage(format!("{count} simulated GPUs are too many: at most {GPU_MAX}")));
    }
    let kind = settings.gpu_type.clone();
    let is_name = |kind: &str| {
        !kind.trim().is_empty() && kind.chars().count() <= GPU_TYPE_CHARS && !kind.contains(char::is_control)
    };
    if kind.as_deref().is_some_and(|kind| !is_name(kind)) {
        return Err(Failure::usage(format!("a GPU type is 1 to {GPU_TYPE_CHARS} printable characters, such as H100")));
    }
    Ok(Source::Simulated { count, kind })
}

/// What is wanted of containers.
fn containers(settings: &WorkerSettings) -> anyhow::Result<container::Options> {
    fn parsed<T: FromStr<Err = String> + Default>(text: Option<&String>) -> Result<T, Failure> {
        text.map_or_else(|| Ok(T::default()), |text| text.parse().map_err(Failure::usage))
    }
    Ok(container::Options {
        engine: parsed(settings.container_engine.as_ref())?,
        socket: settings.container_socket.clone(),
        limits: parsed(settings.container_limits.as_ref())?,
        images: parsed(settings.allow_images.as_ref())?,
    })
}

/// How tasks are kept in their place here.
pub(super) fn say_what_it_does(worker: &fetchml_worker::Worker) {
    terminal::say(&format!("  isolation {}", worker.isolation()));
    terminal::say(&format!("  containers {}", worker.containers()));
    let gpus = worker.gpus().devices();
    if !gpus.is_empty() {
        terminal::say(&format!("  gpus      {}", workers::gpus(&gpus)));
    }
}

/// Why a worker ended by itself.
pub(super) fn failed(reason: &ExitReason) -> anyhow::Error {
    Failure::new(format!("the worker ended: {reason}"))
        .hint(format!("check its key file ({}) and the server's address", environment::KEY_FILE))
        .into()
}
