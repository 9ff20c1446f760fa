//! What this worker does with containers: decided once at the start, by asking the engines that are there.

use super::{
    Container,
    engine::{Enforced, Engine, EngineError, EngineKind, Facts, Found},
    gpus,
    images::{Image, Pulls},
    rules::ImageRules,
};
use crate::{
    executor::Execution,
    limits,
    shim::{Confinement, Identity, Layer, Mount},
};
use fetchml_api::{AttemptId, WorkerId};
use rustix::process::{getegid, geteuid};
use std::{
    ffi::OsString,
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};
use tokio::time::{Instant, sleep};

/// Which engine the worker's owner wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum EngineChoice {
    /// The first that answers, podman before docker; none is no error.
    #[default]
    Auto,
    /// This one, or the worker does not start.
    Only(EngineKind),
    /// No containers.
    None,
}

impl FromStr for EngineChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "podman" => Ok(Self::Only(EngineKind::Podman)),
            "docker" => Ok(Self::Only(EngineKind::Docker)),
            "none" => Ok(Self::None),
            other => Err(format!("{other:?} is not a container engine: auto, podman, docker or none")),
        }
    }
}

/// What happens where an engine cannot limit what a container uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum LimitsRule {
    /// Such an engine is not used.
    #[default]
    Required,
    /// Containers run with the limits that there are.
    Auto,
}

impl FromStr for LimitsRule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "required" => Ok(Self::Required),
            "auto" => Ok(Self::Auto),
            other => Err(format!("{other:?} is not a rule for limits of containers: required or auto")),
        }
    }
}

/// What the worker's owner wants of containers.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Options {
    /// By which engine.
    pub engine: EngineChoice,
    /// Where it listens; absent: where engines usually do.
    pub socket: Option<PathBuf>,
    /// Without limits, too?
    pub limits: LimitsRule,
    /// Of which images.
    pub images: ImageRules,
}

/// The containers of a worker.
#[derive(Debug)]
pub struct Containers {
    socket: PathBuf,
    facts: Facts,
    rules: ImageRules,
    pulls: Pulls,
    worker: WorkerId,
    data_dir: PathBuf,
}

impl Containers {
    /// Finds an engine that answers. `Err`: there are no containers here, for this reason.
    ///
    /// # Errors
    /// One sentence.
    pub async fn probe(options: &Options, worker: WorkerId, data_dir: &Path) -> Result<Self, String> {
        let wanted = match options.engine {
            EngineChoice::None => return Err("turned off".to_owned()),
            EngineChoice::Auto => None,
            EngineChoice::Only(kind) => Some(kind),
        };
        let sockets = options.socket.as_ref().map_or_else(usual_sockets, |socket| vec![socket.clone()]);
        let mut problems = Vec::new();
        for socket in sockets {
            if options.socket.is_none() && !socket.exists() {
                continue;
            }
            match look(&socket, wanted, options.limits).await {
                Ok(facts) => {
                    let (rules, data_dir) = (options.images.clone(), data_dir.to_owned());
                    return Ok(Self { socket, facts, rules, pulls: Pulls::default(), worker, data_dir });
                }
                Err(problem) => problems.push(format!("{}: {problem}", socket.display())),
            }
        }
        if problems.is_empty() {
            let name = wanted.map_or_else(|| "podman or docker".to_owned(), |kind| kind.to_string());
            return Err(format!("no socket of {name} was found where they usually are"));
        }
        Err(problems.join("; "))
    }

    /// The engine: `podman` or `docker`.
    pub fn kind(&self) -> EngineKind {
        self.facts.kind
    }

    /// Its name and version.
    pub fn engine_name(&self) -> String {
        format!("{} {}", self.facts.kind, self.facts.version)
    }

    pub(super) fn rules(&self) -> &ImageRules {
        &self.rules
    }

    pub(super) fn pulls(&self) -> &Pulls {
        &self.pulls
    }

    /// Where the copies of this program lie that containers see.
    pub(crate) fn program_dir(&self) -> PathBuf {
        self.data_dir.join("program")
    }

    /// One line for people: which engine, what it cannot do, which images.
    pub fn describe(&self) -> String {
        let who = if self.facts.rootless { ", as this user" } else { "" };
        let missing = self.facts.enforced.missing();
        let limits = if missing.is_empty() { String::new() } else { format!("; NOT limited: {}", missing.join(", ")) };
        let (name, socket) = (self.engine_name(), self.socket.display());
        format!("{name}{who} ({socket}){limits}; images: {}", self.rules)
    }

    /// A connection to the engine, which may be starting again.
    pub(super) async fn engine(&self) -> Result<Engine, EngineError> {
        let deadline = Instant::now() + limits::ENGINE_WAIT;
        loop {
            match Engine::connect(&self.socket).await {
                Err(_) if Instant::now() < deadline => sleep(limits::ENGINE_RETRY).await,
                other => return other,
            }
        }
    }

    /// Takes away what is left of an attempt's container.
    pub(crate) async fn remove(&self, attempt: AttemptId) {
        let removed = async { self.engine().await?.remove(&super::container_name(attempt)).await };
        if let Err(error) = removed.await {
            tracing::warn!(%attempt, %error, "its container could not be removed; it is tried again later");
        }
    }

    /// Every container of this worker, whatever it does.
    pub(crate) async fn all(&self) -> Vec<Found> {
        let found = async { Engine::connect(&self.socket).await?.of_worker(self.worker).await };
        found.await.unwrap_or_else(|error: EngineError| {
            tracing::warn!(%error, "the containers of this worker cannot be listed");
            Vec::new()
        })
    }

    /// Takes away containers that nobody needs any more.
    pub(crate) async fn sweep(&self, containers: Vec<Found>) {
        let swept = async {
            for container in containers {
                let attempt = container.attempt.map(tracing::field::display);
                tracing::info!(container = container.id(), attempt, "a container that nobody needs is removed");
                Engine::connect(&self.socket).await?.remove(container.id()).await?;
            }
            Ok::<_, EngineError>(())
        };
        if let Err(error) = swept.await {
            tracing::warn!(%error, "containers that nobody needs could not be removed; it is tried again later");
        }
    }

    /// The container of an attempt.
    ///
    /// # Errors
    /// One sentence, when its GPUs cannot be given to a container.
    pub(crate) fn confine(
        &self,
        execution: &Execution<'_>,
        image: &Image,
        instead: Vec<OsString>,
    ) -> Result<Confinement, String> {
        let Execution { assignment, dir, slot, gpus, .. } = *execution;
        let contents = execution.contents();
        let identity = (geteuid().is_root() && !self.facts.rootless).then_some({
            let id = limits::SANDBOX_ID_FIRST + slot;
            Identity { uid: id, gid: id }
        });
        let user = match identity {
            Some(Identity { uid, gid }) => format!("{uid}:{gid}"),
            // Root of a namespace in which it is this user, without any capability.
            None if self.facts.rootless => "0:0".to_owned(),
            None => format!("{}:{}", geteuid().as_raw(), getegid().as_raw()),
        };
        let container = Container {
            engine: self.facts.kind,
            socket: self.socket.clone(),
            attempt: assignment.attempt,
            worker: self.worker,
            image: image.id.clone(),
            image_env: image.env.clone(),
            has_healthcheck: image.has_healthcheck,
            user,
            instead,
            devices: gpus::cdi_names(gpus, &assignment.gpus)?,
            enforced: self.facts.enforced,
            program_dir: self.program_dir(),
            empty: dir.root().join("empty"),
            link: dir.root().join("link"),
        };
        let mut mounts = vec![Mount::writable(dir.tmp()).at("/tmp"), Mount::writable(dir.tmp()).at("/var/tmp")];
        mounts.extend([dir.work(), dir.output(), dir.checkpoint(), dir.home(), dir.metrics()].map(Mount::writable));
        mounts.extend(contents.mounts);
        Ok(Confinement {
            layer: Layer::Container(Box::new(container)),
            identity,
            mounts,
            devices: Vec::new(),
            network: contents.network,
            resources: contents.resources,
            cgroups: None,
            hidden: self.data_dir.clone(),
        })
    }
}

impl fmt::Display for EngineChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Only(kind) => kind.fmt(f),
            Self::None => f.write_str("none"),
        }
    }
}

/// Whether this engine will do.
async fn look(socket: &Path, wanted: Option<EngineKind>, limits_rule: LimitsRule) -> Result<Facts, String> {
    let asked = async { Engine::connect(socket).await?.facts(socket).await };
    let facts = tokio::time::timeout(limits::ENGINE_PROBE, asked)
        .await
        .map_err(|_| "it does not answer".to_owned())?
        .map_err(|error| error.to_string())?;
    if let Some(wanted) = wanted.filter(|wanted| *wanted != facts.kind) {
        return Err(format!("it is {}, not {wanted}", facts.kind));
    }
    if facts.rootless && geteuid().is_root() {
        return Err(format!(
            "it is {} of a user who is not root, and files of a root worker would be closed to it",
            facts.kind
        ));
    }
    let missing = facts.enforced.missing();
    if limits_rule == LimitsRule::Required && facts.enforced != Enforced::ALL {
        return Err(format!(
            "{} {} cannot limit {} here (cgroup v{}{}); --container-limits auto runs containers all the same",
            facts.kind,
            facts.version,
            missing.join(", "),
            facts.cgroup_version,
            if facts.rootless { ", rootless" } else { "" },
        ));
    }
    Ok(facts)
}

/// Where engines listen: the user's own first, podman before docker.
fn usual_sockets() -> Vec<PathBuf> {
    let user = geteuid();
    let own = PathBuf::from(format!("/run/user/{}", user.as_raw()));
    let mut sockets = Vec::new();
    if !user.is_root() {
        sockets.extend([own.join("podman/podman.sock"), own.join("docker.sock")]);
    }
    sockets.extend(["/run/podman/podman.sock", "/var/run/docker.sock"].map(PathBuf::from));
    sockets
}
