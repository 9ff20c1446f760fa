//! The engine behind its socket on this machine: podman or docker, by the API of docker that both speak. Asks and
//! tells; decides nothing.

use super::{ATTEMPT_LABEL, WORKER_LABEL, images::Image, libpod};
use crate::limits;
use bollard::{
    API_DEFAULT_VERSION, Docker,
    errors::Error,
    models::{ContainerCreateBody, CreateImageInfo},
    query_parameters::{
        CreateContainerOptions, CreateImageOptions, ListContainersOptions, LogsOptions, RemoveContainerOptions,
    },
};
use fetchml_api::{AttemptId, WorkerId};
use futures_util::{Stream, StreamExt as _};
use serde::{Deserialize, Serialize};
use std::{collections::HashMap, fmt, path::Path};

/// Which engine it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EngineKind {
    /// podman.
    Podman,
    /// docker.
    Docker,
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Podman => "podman",
            Self::Docker => "docker",
        })
    }
}

/// Which limits an engine keeps.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Enforced {
    /// Of memory.
    pub memory: bool,
    /// Of cpu time.
    pub cpus: bool,
    /// Of the number of processes.
    pub processes: bool,
}

impl Enforced {
    /// All of them.
    pub const ALL: Self = Self { memory: true, cpus: true, processes: true };
    /// None of them.
    pub const NONE: Self = Self { memory: false, cpus: false, processes: false };

    /// The names of those that are not kept.
    pub(super) fn missing(self) -> Vec<&'static str> {
        let all = [("memory", self.memory), ("cpu", self.cpus), ("processes", self.processes)];
        all.into_iter().filter(|(_, kept)| !kept).map(|(name, _)| name).collect()
    }
}

/// Why the engine did not do something.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum EngineError {
    /// It said no.
    #[error("{message}")]
    Refused {
        /// HTTP status; 0 where it came in the middle of an answer.
        status: u16,
        /// Its own words.
        message: String,
    },
    /// It did not answer.
    #[error("the container engine does not answer: {0}")]
    Silent(String),
}

impl EngineError {
    /// Whether what was asked for does not exist.
    pub(super) fn is_missing(&self) -> bool {
        matches!(self, Self::Refused { status: 404, .. })
    }

    /// Whether something of that name exists already.
    pub(super) fn is_conflict(&self) -> bool {
        matches!(self, Self::Refused { status: 409, .. })
    }
}

impl From<Error> for EngineError {
    fn from(error: Error) -> Self {
        match error {
            Error::DockerResponseServerError { status_code: status, message } => Self::Refused { status, message },
            Error::DockerStreamError { error: message } => Self::Refused { status: 0, message },
            other => Self::Silent(other.to_string()),
        }
    }
}

/// What an engine says about itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Facts {
    pub(super) kind: EngineKind,
    pub(super) version: String,
    /// Runs as a user who is not root.
    pub(super) rootless: bool,
    pub(super) cgroup_version: String,
    pub(super) enforced: Enforced,
}

/// A container of this worker.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Found {
    id: String,
    /// Whose it is.
    pub(crate) attempt: Option<AttemptId>,
}

impl Found {
    pub(super) fn id(&self) -> &str {
        &self.id
    }
}

/// A connection to an engine. Each request opens one of its own, so an engine that was restarted is found again.
#[derive(Clone, Debug)]
pub(crate) struct Engine(Docker);

impl Engine {
    /// Agrees with the engine on a version of the API.
    pub(crate) async fn connect(socket: &Path) -> Result<Self, EngineError> {
        let path = socket.to_str().ok_or_else(|| EngineError::Silent("its socket's path is not UTF-8".to_owned()))?;
        let docker = Docker::connect_with_unix(path, limits::ENGINE_ANSWER.as_secs(), API_DEFAULT_VERSION)?;
        Ok(Self(docker.negotiate_version().await?))
    }

    /// What it is and can.
    pub(super) async fn facts(&self, socket: &Path) -> Result<Facts, EngineError> {
        let version = self.0.version().await?;
        let info = self.0.info().await?;
        let components = version.components.unwrap_or_default();
        let is_podman = components.iter().any(|component| component.name.to_lowercase().contains("podman"));
        let cgroup_version = info.cgroup_version.map_or_else(|| "1".to_owned(), |version| version.to_string());
        let kept = |limit: Option<bool>| limit.unwrap_or(false);
        let said = Enforced {
            memory: kept(info.memory_limit),
            cpus: kept(info.cpu_cfs_quota),
            processes: kept(info.pids_limit),
        };
        let options = info.security_options.unwrap_or_default();
        let (rootless, enforced) = if is_podman {
            let host = libpod::host(socket).await?;
            let has = |name: &str| host.controllers.iter().any(|controller| controller == name);
            match (host.rootless, cgroup_version.as_str()) {
                (false, _) => (false, said),
                // It says that it limits, and does not.
                (true, "1") => (true, Enforced::NONE),
                (true, _) => (true, Enforced { memory: has("memory"), cpus: has("cpu"), processes: has("pids") }),
            }
        } else {
            (options.iter().any(|option| option == "name=rootless"), said)
        };
        Ok(Facts {
            kind: if is_podman { EngineKind::Podman } else { EngineKind::Docker },
            version: version.version.unwrap_or_else(|| "of an unknown version".to_owned()),
            rootless,
            cgroup_version,
            enforced,
        })
    }

    /// An image that is here; `None`: it is not.
    pub(super) async fn image(&self, name: &str) -> Result<Option<Image>, EngineError> {
        let found = match self.0.inspect_image(name).await.map_err(EngineError::from) {
            Err(error) if error.is_missing() => return Ok(None),
            other => other?,
        };
        let id = found.id.ok_or_else(|| EngineError::Silent("it told no id of the image".to_owned()))?;
        let id = if id.contains(':') { id } else { format!("sha256:{id}") };
        let config = found.config.unwrap_or_default();
        Ok(Some(Image {
            id,
            digests: found.repo_digests.unwrap_or_default(),
            env: config.env.unwrap_or_default(),
            has_healthcheck: config.healthcheck.is_some(),
        }))
    }

    /// Fetches an image from its registry and says how it goes.
    pub(super) fn pull(&self, name: &str) -> impl Stream<Item = Result<CreateImageInfo, EngineError>> + Unpin + use<> {
        let options = CreateImageOptions { from_image: Some(name.to_owned()), ..Default::default() };
        self.0.create_image(Some(options), None, None).map(|event| event.map_err(Into::into)).boxed()
    }

    /// Makes a container, not started.
    pub(super) async fn create(&self, name: &str, body: ContainerCreateBody) -> Result<(), EngineError> {
        let options = CreateContainerOptions { name: Some(name.to_owned()), ..Default::default() };
        Ok(self.0.create_container(Some(options), body).await.map(drop)?)
    }

    pub(super) async fn start(&self, name: &str) -> Result<(), EngineError> {
        Ok(self.0.start_container(name, None).await?)
    }

    /// Kills and removes a container with the volumes that were made for it; one that is gone is no error.
    pub(crate) async fn remove(&self, name: &str) -> Result<(), EngineError> {
        let options = RemoveContainerOptions { force: true, v: true, link: false };
        match self.0.remove_container(name, Some(options)).await.map_err(EngineError::from) {
            Err(error) if !error.is_missing() => Err(error),
            _ => Ok(()),
        }
    }

    /// Whether a container that was started has ended, and whether the kernel killed it for want of memory.
    pub(super) async fn ended(&self, name: &str) -> Result<(bool, bool), EngineError> {
        let state = self.0.inspect_container(name, None).await?.state.unwrap_or_default();
        let is_over = !state.running.unwrap_or(false) && state.started_at.is_some_and(|at| !at.starts_with("0001"));
        Ok((is_over, state.oom_killed.unwrap_or(false)))
    }

    /// The end of what a container's own first process wrote.
    pub(super) async fn last_words(&self, name: &str) -> String {
        let options = LogsOptions { stdout: true, stderr: true, tail: "20".to_owned(), ..Default::default() };
        let mut lines = self.0.logs(name, Some(options));
        let mut text = Vec::new();
        while let Some(Ok(line)) = lines.next().await {
            text.extend_from_slice(&line.into_bytes());
            if text.len() > limits::SANDBOX_COMPLAINT_BYTES {
                break;
            }
        }
        String::from_utf8_lossy(&text).trim().replace('\n', "; ")
    }

    /// Containers of a worker, whatever they do, with their attempts.
    pub(super) async fn of_worker(&self, worker: WorkerId) -> Result<Vec<Found>, EngineError> {
        let filters = HashMap::from([("label".to_owned(), vec![format!("{WORKER_LABEL}={worker}")])]);
        let options = ListContainersOptions { all: true, filters: Some(filters), ..Default::default() };
        let found = self.0.list_containers(Some(options)).await?;
        Ok(found
            .into_iter()
            .filter_map(|container| {
                let attempt = container.labels.as_ref().and_then(|labels| labels.get(ATTEMPT_LABEL)?.parse().ok());
                Some(Found { id: container.id?, attempt })
            })
            .collect())
    }
}
