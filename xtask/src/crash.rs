//! `cargo xtask crash`: the long form of the crash test, which `cargo xtask test` runs in its short
//! form. Every run is told apart by its seed alone.

use crate::command::{cargo, shown};
use anyhow::{Context as _, Result, bail};
use std::process::{ExitCode, Stdio};

const CYCLES: u64 = 200;
const SEED: u64 = 1;
/// The test that is run.
const TEST: &str = "crash::";

pub(crate) fn run(args: &[String]) -> Result<ExitCode> {
    let (mut cycles, mut seed) = (CYCLES, SEED);
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let value = match arg.as_str() {
            "--cycles" => &mut cycles,
            "--seed" => &mut seed,
            other => bail!("unknown argument {other:?}; known: --cycles N, --seed S"),
        };
        let text = args.next().with_context(|| format!("{arg} needs a number"))?;
        *value = text.parse().with_context(|| format!("{arg} {text}: not a number"))?;
    }
    let mut command = cargo();
    command.args(["test", "--package", "fetchml", "--test", "e2e", "--", TEST, "--nocapture"]);
    command.env("FETCHML_CRASH_CYCLES", cycles.to_string()).env("FETCHML_CRASH_SEED", seed.to_string());
    println!("{cycles} cycles of seed {seed}");
    let status = command.stdin(Stdio::null()).status().with_context(|| format!("cannot start {}", shown(&command)))?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
