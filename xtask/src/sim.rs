//! `cargo xtask sim`: the long form of the simulation, which `cargo xtask test` runs in its short form.

use crate::command::{cargo, shown};
use anyhow::{Context as _, Result};
use std::process::{ExitCode, Stdio};

pub(crate) fn run(args: &[String]) -> Result<ExitCode> {
    let mut command = cargo();
    command.args(["run", "--release", "--quiet", "--package", "fetchml-sim", "--"]).args(args);
    // Optimised, and yet with the assertions that are the point of it.
    command.env("CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS", "true").env("CARGO_PROFILE_RELEASE_LTO", "off");
    let target = crate::command::root().join("target/sim");
    command.env("CARGO_TARGET_DIR", target);
    let status = command.stdin(Stdio::null()).status().with_context(|| format!("cannot start {}", shown(&command)))?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
