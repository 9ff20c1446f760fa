//! What to start for an attempt: where its files lie, its command and its environment. Decides, and
//! starts nothing: [`crate::shim`] does that.

mod command;
mod environment;
mod layout;

pub use command::CommandError;
pub use layout::AttemptDir;

use crate::{
    cgroup::Resources,
    container::{Containers, Image},
    isolation::{Contents, Sandboxes},
    limits,
    shim::{Confinement, LaunchSpec, Mount},
    staging::PythonEnvironment,
};
use command::Programs;
use fetchml_api::{
    AttemptSecret, Demand, FailureCause, Gpu, Network,
    link::{Assignment, Outcome},
};
use std::{ffi::OsString, path::PathBuf, sync::Arc};

/// Set for each attempt's processes to its id, which also lets what a killed shim leaves behind be
/// found.
pub const ATTEMPT_ID_VARIABLE: &str = "FETCHML_ATTEMPT_ID";

/// Where the nodes of a gang meet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rendezvous {
    /// Address of the first node.
    pub address: Arc<str>,
    /// The port that was free there.
    pub port: u16,
}

/// An attempt with all that was staged for it.
#[derive(Clone, Debug)]
pub struct Execution<'a> {
    /// What the server assigned.
    pub assignment: &'a Assignment,
    /// Where it meets the other nodes, if there are any.
    pub rendezvous: Option<&'a Rendezvous>,
    /// Where its files lie.
    pub dir: &'a AttemptDir,
    /// A small number that no other attempt at hand has.
    pub slot: u32,
    /// Its Python environment.
    pub python: Option<&'a PythonEnvironment>,
    /// Its secrets, for its environment.
    pub secrets: &'a [AttemptSecret],
    /// Its GPUs.
    pub gpus: &'a [Gpu],
    /// What it sees besides its own directories, such as datasets.
    pub mounts: Vec<Mount>,
    /// Device nodes of the GPUs given to it.
    pub devices: Vec<PathBuf>,
}

/// Whose system a task sees.
#[derive(Clone, Copy, Debug)]
enum Surroundings<'a> {
    /// The worker's.
    Worker(&'a Sandboxes),
    /// That of its image.
    Image,
}

/// Why an attempt cannot be started in a container.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ContainerError {
    /// The task's own fault.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// This worker's.
    #[error("{0}")]
    Worker(String),
}

impl ContainerError {
    /// The outcome to report.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Command(error) => error.outcome(),
            Self::Worker(error) => Outcome {
                cause: Some(FailureCause::Launch),
                transient: true,
                error: Some(error.clone()),
                ..Outcome::default()
            },
        }
    }
}

/// What a task may use, of what it asked for.
fn resources(demand: &Demand) -> Resources {
    Resources {
        // Zero is "nothing reserved": it may use what is there.
        memory_bytes: (demand.memory_gb > 0).then(|| u64::from(demand.memory_gb) << 30),
        cpus: (demand.cpu > 0).then_some(demand.cpu),
        processes: Some(limits::PROCESSES_PER_CPU.saturating_mul(demand.cpu.saturating_add(1))),
    }
}

/// Turns an attempt into what the process executor starts.
///
/// # Errors
/// When the task names nothing that can be started: the task's own fault.
pub fn process(execution: &Execution<'_>, sandboxes: &Sandboxes) -> Result<LaunchSpec, CommandError> {
    let Execution { assignment, dir, python, .. } = *execution;
    let env = environment::variables(execution, Surroundings::Worker(sandboxes));
    let path = env.iter().rev().find(|(name, _)| name == "PATH").map(|(_, value)| value.clone()).unwrap_or_default();
    let argv = command::argv(&assignment.spec, &dir.work(), Programs::Here { path: &path, python })?;
    let confinement = sandboxes.confine(dir, execution.slot, execution.contents());
    Ok(execution.launch(argv, env, confinement))
}

/// Turns an attempt into what is started in a container of its image.
///
/// # Errors
/// When the task names nothing that can be started, or its GPUs cannot be given to a container.
pub fn container(
    execution: &Execution<'_>,
    containers: &Containers,
    image: &Image,
) -> Result<LaunchSpec, ContainerError> {
    let env = environment::variables(execution, Surroundings::Image);
    let argv = command::argv(&execution.assignment.spec, &execution.dir.work(), Programs::InImage)?;
    let instead = argv.first().map(|program| Programs::InImage.instead(program)).unwrap_or_default();
    let confinement = containers.confine(execution, image, instead).map_err(ContainerError::Worker)?;
    Ok(execution.launch(argv, env, Some(confinement)))
}

impl<'a> Execution<'a> {
    /// What it is given besides its own directories.
    pub(crate) fn contents(&self) -> Contents<'a> {
        Contents {
            python: self.python,
            mounts: self.mounts.clone(),
            devices: self.devices.clone(),
            network: self.assignment.spec.network == Network::On,
            resources: resources(&self.assignment.spec.demand),
        }
    }

    fn launch(
        &self,
        argv: Vec<OsString>,
        env: Vec<(OsString, OsString)>,
        confinement: Option<Confinement>,
    ) -> LaunchSpec {
        let Assignment { attempt, spec, grace_s, .. } = self.assignment;
        LaunchSpec {
            attempt: *attempt,
            dir: self.dir.root().to_owned(),
            argv,
            env,
            cwd: self.dir.work(),
            time_limit_s: spec.time_limit_s,
            grace_s: *grace_s,
            confinement,
            fence: None,
        }
    }
}
