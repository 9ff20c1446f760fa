//! Containers: tasks that name an image run in one, by podman or docker.
//!
//! The shim stays the owner of the attempt, as for every other. Its child is a [`runner`], this binary again,
//! which alone speaks to the engine: it makes the container, starts it, and takes it away. Inside, the first
//! process is this binary once more ([`crate::shim::INIT`]), brought in by a mount together with the libraries it
//! needs ([`program`]), so that it runs in any image. It dials back to the runner, gets what to run and the
//! attempt's log file, and from then on does what it does in a sandbox: it starts the user's process with both
//! outputs in the log, and reports how it ended. Neither engine nor runner is in the path of a byte of the log,
//! and when the runner is gone, so is the container: its first process ends with the connection.
//!
//! The agent finds the engine once ([`probe`]), and brings images in before a task starts ([`images`]).

mod blueprint;
mod engine;
mod gpus;
mod images;
mod libpod;
mod probe;
mod program;
mod rules;
mod runner;

pub(crate) use blueprint::LOADER_VARIABLES;
pub(crate) use engine::Found;
pub use engine::{Enforced, EngineKind};
pub use images::{IMAGE_FILE, Image, ImageRequest};
pub use probe::{Containers, EngineChoice, LimitsRule, Options};
pub(crate) use program::forget_others;
pub use rules::ImageRules;
pub(crate) use runner::REMOVE;
pub use runner::{RUNNER, runner_main};

use fetchml_api::{AttemptId, WorkerId};
use serde::{Deserialize, Serialize};
use std::{ffi::OsString, path::PathBuf};

/// Label of every container of a worker: its id.
pub(crate) const WORKER_LABEL: &str = "fetchml.worker";
/// Label of every container: its attempt.
pub(crate) const ATTEMPT_LABEL: &str = "fetchml.attempt";

/// The name of an attempt's container.
pub fn container_name(attempt: AttemptId) -> String {
    format!("fetchml-{attempt}")
}

/// A container to make: plain data, decided by the agent and carried out by the [`runner`]. What is in it besides
/// stands in the [`crate::shim::Confinement`] around it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Container {
    /// Whose socket `socket` is.
    pub engine: EngineKind,
    /// Where the engine listens.
    pub socket: PathBuf,
    /// The attempt.
    pub attempt: AttemptId,
    /// The worker.
    pub worker: WorkerId,
    /// The image's id, so that it is the one that was looked at.
    pub image: String,
    /// Variables that the image sets, each `NAME=value`.
    pub image_env: Vec<String>,
    /// Whether the image asks for commands to be run in it: they would be nobody's.
    pub has_healthcheck: bool,
    /// `uid:gid` inside.
    pub user: String,
    /// Programs to take in place of the command's first word, in this order, when the image lacks it.
    pub instead: Vec<OsString>,
    /// CDI names of the devices given to it.
    pub devices: Vec<String>,
    /// Which limits the engine keeps.
    pub enforced: Enforced,
    /// Where the copy of this program lies that containers see.
    pub program_dir: PathBuf,
    /// An empty directory, which covers what a container should not see: the runner makes it.
    pub empty: PathBuf,
    /// Where the container's first process finds the runner: a socket that the runner makes.
    pub link: PathBuf,
}
