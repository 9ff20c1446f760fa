//! `cargo xtask bench`: builds the release binaries and runs the load generator of `bench/`.

use crate::command::{cargo, run as run_command, target_dir};
use anyhow::{Context as _, Result};
use std::process::{Command, ExitCode};

pub(crate) fn run(args: &[String]) -> Result<ExitCode> {
    run_command(cargo().args(["build", "--release", "--package", "fetchml", "--package", "fetchml-bench"]))?;
    let program = target_dir()?.join("release/fetchml-bench");
    let status = Command::new(&program).args(args).status().with_context(|| format!("{}", program.display()))?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
