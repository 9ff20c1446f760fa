//! One attempt from its assignment to its outcome, as a task of its own: stage, wait for the turn,
//! start, watch, collect. It tells the core what happened and obeys its orders; it decides nothing
//! about other attempts and reports nothing to the server by itself.

use crate::{
    agent::{
        artifacts,
        checkpoints::{self, Checkpoints},
        diagnosis,
        lease::Lease,
        logs::{self, Logs},
        metrics::Metrics,
        secrets::Learning,
        stall::StallWatch,
    },
    container::{Containers, Image, ImageRequest},
    executor::{self, AttemptDir, Execution, Rendezvous},
    gpu::Gpus,
    isolation::Sandboxes,
    limits,
    redact::Redactor,
    shim::{Exit, ExitCause, Fence, Helper, LaunchSpec, LeaseMark, Running},
    staging::{
        self, BlobCache, Cache, DatasetRequest, Datasets, EnvironmentRequest, Environments, Kept, PythonEnvironment,
        StageError, StagedDatasets,
    },
    usage::Table,
};
use fetchml_api::{
    AttemptId, FailureCause, OnLost, WorkerId,
    link::{Assignment, ByteStream, Outcome},
};
use fetchml_client::Client;
use std::{
    fmt, fs, io,
    net::{Ipv4Addr, TcpListener},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::{Semaphore, mpsc, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

/// What all attempts share.
#[derive(Debug)]
pub(crate) struct Workshop {
    pub(crate) worker_id: WorkerId,
    pub(crate) client: Client,
    pub(crate) helper: Arc<Helper>,
    pub(crate) cache: Arc<Cache>,
    pub(crate) blobs: BlobCache,
    pub(crate) environments: Environments,
    pub(crate) datasets: Arc<Datasets>,
    pub(crate) uploads: Semaphore,
    pub(crate) gpus: Gpus,
    pub(crate) sandboxes: Sandboxes,
    pub(crate) containers: Option<Containers>,
    pub(crate) lease: Arc<Lease>,
    pub(crate) lease_file: PathBuf,
    pub(crate) boot_id: String,
    pub(crate) logs: Logs,
    pub(crate) metrics: Logs,
    pub(crate) processes: Table,
}

/// What the core wants of an attempt. The latest counts.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Orders {
    /// It is its turn: user code may start.
    pub(crate) go: bool,
    /// All nodes of its gang are ready: user code may start.
    pub(crate) release: Option<Rendezvous>,
    /// It must end.
    pub(crate) stop: Option<Stop>,
}

/// Why and how to end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Stop {
    pub(crate) cause: FailureCause,
    /// Time between SIGTERM and SIGKILL, seconds.
    pub(crate) grace_s: u32,
}

/// What happened to an attempt.
#[derive(Debug)]
pub(crate) enum Progress {
    /// Everything is at hand; it waits for its turn.
    Staged,
    /// A node of a gang waits for its release; this port is free.
    Ready(u16),
    /// The process was started.
    Started,
    /// The process tree is dead, or there never was one; with the outcome when nothing is to be collected.
    Dead(Option<Outcome>),
    /// Log and files are at the server.
    Ended(Outcome),
}

/// From where an attempt goes on.
#[derive(Debug)]
pub(crate) enum Begin {
    /// From staging.
    Staging,
    /// Its process runs.
    Running(Running),
    /// Its process has ended.
    Exited(Exit),
    /// It ended in a way that left no exit.
    Over(Outcome),
}

/// Runs one attempt.
#[derive(Debug)]
pub(crate) struct Runner {
    pub(crate) shop: Arc<Workshop>,
    pub(crate) assignment: Arc<Assignment>,
    pub(crate) dir: AttemptDir,
    /// A number that no other attempt at hand has.
    pub(crate) slot: u32,
    pub(crate) orders: watch::Receiver<Orders>,
    pub(crate) progress: mpsc::Sender<(AttemptId, Progress)>,
    pub(crate) checkpoints: Checkpoints,
    pub(crate) metrics: Metrics,
    /// What keeps its secrets out of all that leaves the worker, once they are known.
    pub(crate) redactor: Option<Arc<Redactor>>,
    /// Whether user code ran: what is in its directories is its own.
    pub(crate) ran: bool,
    /// Whether this agent started it.
    pub(crate) is_new: bool,
    /// Keeps its environment while it runs.
    pub(crate) environment: Option<Kept>,
    /// Keeps its data sets while it runs.
    pub(crate) datasets: StagedDatasets,
}

impl Runner {
    /// To the end. Dropping it leaves a started process to its shim.
    pub(crate) async fn run(mut self, begin: Begin) {
        let learning = self.learn_secrets(&begin);
        let mut outcome = match begin {
            Begin::Staging => match self.stage_and_start().await {
                Ok(running) => {
                    self.is_new = true;
                    self.watch(running).await
                }
                Err(outcome) => outcome,
            },
            Begin::Running(running) => self.watch(running).await,
            Begin::Exited(exit) => {
                self.ran = true;
                outcome_of(&exit)
            }
            Begin::Over(outcome) => outcome,
        };
        fetchml_failpoint::reach("agent.exited");
        self.clear_container(&outcome).await;
        self.leave_gpus(&mut outcome).await;
        self.collect(outcome, learning).await;
    }

    /// Its devices are the next one's when this is over. A fault of one of them explains a failure.
    async fn leave_gpus(&self, outcome: &mut Outcome) {
        let Assignment { attempt, gpus, .. } = &*self.assignment;
        if gpus.is_empty() {
            return;
        }
        self.shop.gpus.released(*attempt).await;
        if self.ran {
            diagnosis::refine(outcome, &self.dir.log(), self.shop.gpus.fault(gpus));
        }
    }

    async fn tell(&self, progress: Progress) {
        // The core is gone only when the whole agent is.
        let _ = self.progress.send((self.assignment.attempt, progress)).await;
    }

    /// Everything up to a started process.
    async fn stage_and_start(&mut self) -> Result<Running, Outcome> {
        let cancel = CancellationToken::new();
        let staged = {
            let staging = stage(&self.shop, &self.assignment, &self.dir, &cancel);
            tokio::pin!(staging);
            tokio::select! {
                staged = &mut staging => staged.map_err(|error| error.outcome()),
                stop = stopped(&mut self.orders) => {
                    // A builder is a tree of processes: it is told, and awaited until it is dead.
                    cancel.cancel();
                    let _ = tokio::time::timeout(limits::STAGING_STOP_MAX, staging).await;
                    Err(outcome_of_stop(stop))
                }
            }
        };
        let mut staged = staged?;
        self.environment = staged.kept.take();
        self.datasets = std::mem::take(&mut staged.datasets);
        if !self.orders.borrow().go {
            self.tell(Progress::Staged).await;
        }
        let orders = ordered(&mut self.orders, |orders| orders.go || orders.stop.is_some()).await;
        if let Some(stop) = orders.stop {
            return Err(outcome_of_stop(stop));
        }
        let rendezvous = if self.assignment.spec.demand.nodes > 1 { Some(self.meet().await?) } else { None };
        let granted = self.shop.gpus.grant(&self.assignment.gpus).map_err(|problem| launch_failed(&problem))?;
        let secrets = self.take_secrets().await?;
        let execution = Execution {
            rendezvous: rendezvous.as_ref(),
            assignment: &self.assignment,
            dir: &self.dir,
            slot: self.slot,
            python: staged.python.as_ref(),
            secrets: &secrets,
            gpus: &granted.gpus,
            mounts: self.datasets.mounts.clone(),
            devices: granted.nodes,
        };
        let spec = match (&staged.image, &self.shop.containers) {
            (Some(image), Some(containers)) => {
                executor::container(&execution, containers, image).map_err(|error| error.outcome())?
            }
            _ => executor::process(&execution, &self.shop.sandboxes).map_err(|error| error.outcome())?,
        };
        let spec = LaunchSpec { fence: self.fence(), ..spec };
        match self.shop.helper.launch(spec).await {
            Ok(running) => {
                self.tell(Progress::Started).await;
                Ok(running)
            }
            Err(error) => Err(launch_failed(&error)),
        }
    }

    /// Says that this node is ready, and waits until all are.
    async fn meet(&mut self) -> Result<Rendezvous, Outcome> {
        // Kept open until the release, so that nobody here takes the port meanwhile.
        let port = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).map_err(|error| launch_failed(&error))?;
        let number = port.local_addr().map_err(|error| launch_failed(&error))?.port();
        self.tell(Progress::Ready(number)).await;
        let orders = ordered(&mut self.orders, |orders| orders.release.is_some() || orders.stop.is_some()).await;
        match orders {
            Orders { stop: Some(stop), .. } => Err(outcome_of_stop(stop)),
            Orders { release, .. } => Ok(release.expect("waited for")),
        }
    }

    /// What ends the process when neither server nor agent is heard any more.
    fn fence(&self) -> Option<Fence> {
        let spec = &self.assignment.spec;
        let (sent_ms, lost_after_s) = self.shop.lease.mark();
        (spec.on_lost == OnLost::Fence).then(|| Fence {
            file: self.shop.lease_file.clone(),
            mark: LeaseMark { boot_id: self.shop.boot_id.clone(), sent_ms, lost_after_s },
            own_s: spec.lost_after_s,
        })
    }

    /// Watches the process and passes on orders to stop.
    async fn watch(&mut self, mut running: Running) -> Outcome {
        self.ran = true;
        let grace_s = self.assignment.grace_s;
        let mut watch =
            self.assignment.spec.stall_after_s.map(|after_s| StallWatch::new(&self.dir, after_s, Instant::now()));
        let (mut stalled, mut asked) = (None, None);
        let keep = self.checkpoints.keep();
        let measure = self.metrics.keep(running.pid(), self.is_new);
        tokio::pin!(keep, measure);
        loop {
            let wanted = self.orders.borrow_and_update().stop.or(stalled);
            if let Some(stop) = wanted.filter(|stop| asked != Some(*stop)) {
                match running.stop(stop.cause, stop.grace_s) {
                    Ok(()) => asked = Some(stop),
                    Err(error) => {
                        tracing::error!(attempt = %self.assignment.attempt, %error, "cannot stop an attempt; trying on");
                    }
                }
            }
            let retry = wanted.is_some() && asked != wanted;
            tokio::select! {
                exit = running.wait() => return outcome_of(&exit),
                // Of a gang the first node keeps the checkpoint.
                () = &mut keep, if self.assignment.node == 0 => {}
                () = &mut measure => {}
                () = at(watch.as_ref().map(StallWatch::look_at)) => {
                    if watch.as_mut().is_some_and(|watch| watch.is_stalled(Instant::now())) {
                        stalled = Some(Stop { cause: FailureCause::Stalled, grace_s });
                        watch = None;
                    }
                }
                changed = self.orders.changed() => if changed.is_err() { std::future::pending::<()>().await },
                () = tokio::time::sleep(Duration::from_secs(1)), if retry => {}
            }
        }
    }

    /// What a shim that was killed left in the engine.
    async fn clear_container(&self, outcome: &Outcome) {
        if let Some(containers) = &self.shop.containers
            && self.assignment.spec.image.is_some()
            && outcome.cause == Some(FailureCause::Lost)
        {
            containers.remove(self.assignment.attempt).await;
        }
    }

    /// Brings log and files to the server. Without any this costs nothing.
    async fn collect(&mut self, mut outcome: Outcome, learning: Option<Learning>) {
        self.environment = None;
        let output = self.dir.output();
        let no_log = fs::symlink_metadata(self.dir.log()).map_or(true, |log| log.len() == 0);
        let no_output = artifacts::is_empty(&output).unwrap_or(false);
        // Before user code ran it may be half of an earlier one.
        let no_checkpoint = !self.ran || self.assignment.node > 0 || self.checkpoints.is_empty();
        let no_metrics = self.metrics.is_empty();
        if no_log && no_output && no_checkpoint && no_metrics && learning.is_none() {
            self.hide_secrets(&mut outcome);
            self.tell(Progress::Dead(Some(outcome))).await;
            return;
        }
        self.tell(Progress::Dead(None)).await;
        if let Some(learning) = learning {
            // It ends only by being known, or with this runner.
            self.redactor = learning.await.unwrap_or_else(|_| Some(Arc::new(Redactor::everything())));
        }
        let log = self.shop.logs.finish(self.assignment.attempt, self.dir.root());
        let files = async {
            if no_output {
                Ok(Vec::new())
            } else {
                artifacts::collect(output, &self.shop.client, &self.shop.uploads).await
            }
        };
        let checkpoint = async {
            if !no_checkpoint {
                self.checkpoints.finish().await;
            }
        };
        let metrics = async { if no_metrics { Some(0) } else { self.metrics.finish(self.ran).await } };
        let (log, files, (), metrics) = tokio::join!(log, files, checkpoint, metrics);
        let (Ok(log_bytes), Some(metrics_bytes)) = (log, metrics) else {
            // Their task dropped it: the attempt was forgotten meanwhile.
            return;
        };
        (outcome.log_bytes, outcome.metrics_bytes) = (log_bytes, metrics_bytes);
        match files {
            Ok(artifacts) => outcome.artifacts = artifacts,
            Err(failure) => add_failure(&mut outcome, &failure),
        }
        self.hide_secrets(&mut outcome);
        fetchml_failpoint::reach("agent.collected");
        self.tell(Progress::Ended(outcome)).await;
    }
}

/// The first failure is the cause; what went wrong after it is only said.
fn add_failure(outcome: &mut Outcome, failure: &artifacts::CollectError) {
    if outcome.cause.is_none() {
        outcome.cause = Some(failure.cause);
        outcome.transient = failure.transient;
        outcome.error = Some(failure.message.clone());
    } else {
        let before = outcome.error.take().map(|error| format!("{error}; also: ")).unwrap_or_default();
        outcome.error = Some(format!("{before}{}", failure.message));
    }
    if let Some(error) = &mut outcome.error {
        error.truncate(error.floor_char_boundary(fetchml_api::limits::ERROR_BYTES));
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// Waits for an order.
async fn ordered(orders: &mut watch::Receiver<Orders>, wanted: impl FnMut(&Orders) -> bool) -> Orders {
    let found = orders.wait_for(wanted).await.map(|orders| orders.clone());
    match found {
        Ok(orders) => orders,
        // The core is gone: nothing is decided any more.
        Err(_) => std::future::pending().await,
    }
}

/// Waits for an order to stop.
pub(crate) async fn stopped(orders: &mut watch::Receiver<Orders>) -> Stop {
    let orders = ordered(orders, |orders| orders.stop.is_some()).await;
    orders.stop.expect("waited for")
}

/// What an attempt starts with.
#[derive(Debug, Default)]
struct Staged {
    python: Option<PythonEnvironment>,
    image: Option<Image>,
    /// Keeps the environment in the cache.
    kept: Option<Kept>,
    datasets: StagedDatasets,
}

/// Code, data sets, and environment or image. Without any of them nothing is copied and nothing is asked.
async fn stage(
    shop: &Workshop,
    assignment: &Assignment,
    dir: &AttemptDir,
    cancel: &CancellationToken,
) -> Result<Staged, StageError> {
    let local = |error: io::Error| StageError {
        cause: FailureCause::Launch,
        transient: true,
        message: format!("the attempt's directory cannot be made on this worker: {error}"),
    };
    dir.create().map_err(local)?;
    if shop.sandboxes.is_on() || assignment.spec.image.is_some() {
        dir.create_files().map_err(local)?;
    }
    checkpoints::restore(&shop.client, assignment, dir).await?;
    let (work, log) = (dir.work(), dir.log());
    let snapshot_id = assignment.spec.snapshot_id.as_deref();
    if let Some(snapshot_id) = snapshot_id {
        staging::materialize(&shop.client, &shop.blobs, snapshot_id, &work).await?;
    }
    let remaps = assignment.spec.image.is_some() || shop.sandboxes.remaps();
    let wanted = DatasetRequest { datasets: &assignment.spec.datasets, dir, remaps, cancel };
    let datasets = shop.datasets.stage(wanted).await?;
    let mut staged = Staged { datasets, ..Staged::default() };
    if let Some(name) = assignment.spec.image.as_deref() {
        let containers = shop.containers.as_ref().ok_or_else(|| StageError {
            cause: FailureCause::Launch,
            transient: true,
            message: "this worker has no container engine any more".to_owned(),
        })?;
        let image = containers.bring_in(ImageRequest { name, dir: dir.root(), log: &log, cancel }).await?;
        if let Some(file) = staging::requirements_file(&work) {
            let text = format!("{file} is not installed in a container: the image's own Python is used as it is");
            staging::note(FailureCause::Image, &log, &text)?;
        }
        staged.image = Some(image);
        return Ok(staged);
    }
    let Some(snapshot_id) = snapshot_id else { return Ok(staged) };
    let request = EnvironmentRequest { snapshot_root: &work, snapshot_id, log: &log, cancel };
    let Some((python, kept)) = shop.environments.prepare(request).await? else { return Ok(staged) };
    fs::write(dir.environment(), &python.hash).map_err(local)?;
    (staged.python, staged.kept) = (Some(python), Some(kept));
    Ok(staged)
}

/// Keeps the environment of an attempt that an earlier agent started.
pub(crate) fn keep_environment(shop: &Workshop, dir: &AttemptDir) -> Option<Kept> {
    let hash = fs::read_to_string(dir.environment()).ok()?;
    let pin = shop.environments.keep(&hash);
    if pin.is_none() {
        tracing::warn!(dir = %dir.root().display(), hash, "the environment of a running attempt is not there");
    }
    pin
}

/// Removes what an interrupted staging left. The log stays: its bytes may be at the server already.
pub(crate) fn clear_staging(dir: &AttemptDir) -> io::Result<()> {
    for part in [dir.work(), dir.output(), dir.checkpoint(), dir.tmp(), dir.home(), dir.datasets()] {
        match fs::remove_dir_all(part) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// What the acknowledged part of its log was, as far as this worker remembers.
pub(crate) fn log_mark(dir: &AttemptDir) -> u64 {
    logs::mark_read(dir.root(), ByteStream::Log)
}

/// The outcome of an exit, with a sentence for each stop.
pub(crate) fn outcome_of(exit: &Exit) -> Outcome {
    let mut outcome = exit.outcome();
    if let ExitCause::Stopped(cause) = exit.cause {
        outcome.error = Some(stop_sentence(cause).to_owned());
    }
    outcome
}

/// The outcome of an attempt that was stopped before user code ran.
pub(crate) fn outcome_of_stop(stop: Stop) -> Outcome {
    Outcome { cause: Some(stop.cause), error: Some(stop_sentence(stop.cause).to_owned()), ..Outcome::default() }
}

/// The outcome of an attempt that this worker could not start.
pub(crate) fn launch_failed(error: &impl fmt::Display) -> Outcome {
    Outcome {
        cause: Some(FailureCause::Launch),
        transient: true,
        error: Some(format!("this worker could not start the task: {error}")),
        ..Outcome::default()
    }
}

/// The outcome of an attempt whose end nobody saw.
pub(crate) fn lost(why: &str) -> Outcome {
    Outcome {
        cause: Some(FailureCause::Lost),
        error: Some(format!("the exit was seen by nobody: {why}")),
        ..Outcome::default()
    }
}

fn stop_sentence(cause: FailureCause) -> &'static str {
    match cause {
        FailureCause::Cancelled => "cancelled",
        FailureCause::Lost => "stopped by the worker, which could not reach the server until the lease ran out",
        FailureCause::Preempted => "stopped to make room or because the worker was shut down; it is queued again",
        FailureCause::Timeout => "the time limit passed and the process was stopped",
        FailureCause::Stalled => {
            "wrote nothing to its log or metrics for stall_after_s and was stopped; see where its log ends"
        }
        FailureCause::Quota => {
            "stopped: the worker's disk was almost full and this task took the most of it; write less, or delete \
             what is not needed any more"
        }
        _ => "stopped by the server",
    }
}
