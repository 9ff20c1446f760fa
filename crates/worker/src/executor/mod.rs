//! What to start for an attempt: where its files lie, its command and its environment. Decides, and
//! starts nothing: [`crate::shim`] does that.

mod command;
mod environment;
mod layout;

pub use command::CommandError;
pub use layout::AttemptDir;

use crate::{
    cgroup::Resources,
    isolation::{Contents, Sandboxes},
    limits,
    shim::{LaunchSpec, Mount},
    staging::PythonEnvironment,
};
use fetchml_api::{AttemptSecret, Demand, Gpu, Network, link::Assignment};
use std::{path::PathBuf, sync::Arc};

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
    let env = environment::variables(execution, sandboxes);
    let path = env.iter().rev().find(|(name, _)| name == "PATH").map(|(_, value)| value.clone()).unwrap_or_default();
    let argv = command::argv(&assignment.spec, &dir.work(), &path, python)?;
    let contents = Contents {
        python,
        mounts: execution.mounts.clone(),
        devices: execution.devices.clone(),
        network: assignment.spec.network == Network::On,
        resources: resources(&assignment.spec.demand),
    };
    Ok(LaunchSpec {
        attempt: assignment.attempt,
        dir: dir.root().to_owned(),
        argv,
        env,
        cwd: dir.work(),
        time_limit_s: assignment.spec.time_limit_s,
        grace_s: assignment.grace_s,
        confinement: sandboxes.confine(dir, execution.slot, contents),
        fence: None,
    })
}
