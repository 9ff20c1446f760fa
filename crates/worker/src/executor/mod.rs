//! What to start for an attempt: where its files lie, its command and its environment. Decides, and
//! starts nothing: [`crate::shim`] does that.

mod command;
mod environment;
mod layout;

pub use command::CommandError;
pub use layout::AttemptDir;

use crate::{shim::LaunchSpec, staging::PythonEnvironment};
use fetchml_api::{Gpu, link::Assignment};

/// Set for each attempt's processes to its id, which also lets what a killed shim leaves behind be
/// found.
pub const ATTEMPT_ID_VARIABLE: &str = "FETCHML_ATTEMPT_ID";

/// Turns an assignment whose snapshot lies in `dir` into what the process executor starts.
///
/// # Errors
/// When the task names nothing that can be started: the task's own fault.
pub fn process(
    assignment: &Assignment,
    dir: &AttemptDir,
    python: Option<&PythonEnvironment>,
    gpus: &[Gpu],
) -> Result<LaunchSpec, CommandError> {
    let env = environment::variables(assignment, dir, python, gpus);
    let path = env.iter().rev().find(|(name, _)| name == "PATH").map(|(_, value)| value.clone()).unwrap_or_default();
    let argv = command::argv(&assignment.spec, &dir.work(), &path, python)?;
    Ok(LaunchSpec {
        attempt: assignment.attempt,
        dir: dir.root().to_owned(),
        argv,
        env,
        cwd: dir.work(),
        time_limit_s: assignment.spec.time_limit_s,
        grace_s: assignment.grace_s,
    })
}
