//! Measures a built `fetchml` as a user meets it: real processes, a real disk, HTTP on loopback, the
//! load generator on the same cores. `cargo xtask bench` builds and runs it; docs/bench.md explains it.

mod dataset;
mod http;
mod idle;
mod list;
mod load;
mod log;
mod probe;
mod processes;
mod read;
mod report;
mod server;
mod start;
mod streams;
mod submit;
mod tasks;

use anyhow::{Context as _, Result, bail};
use report::Report;
use std::{env, fs, path::PathBuf};

/// What can be measured, in the order in which it is.
const ALL: [&str; 9] = ["start", "idle", "submit", "read", "list", "streams", "tasks", "log", "dataset"];

/// What every measurement needs.
struct Setup {
    /// The program to measure, beside this one.
    program: PathBuf,
    /// A fresh folder on a real disk (below the target directory).
    dir: PathBuf,
    /// Median of a 4 KiB append with fdatasync in that folder, seconds.
    fdatasync_p50: f64,
}

fn main() -> Result<()> {
    let mut arguments = env::args().skip(1);
    if arguments.next().as_deref() == Some(log::WRITER) {
        return log::write_log(arguments.next().context("a directory")?.as_ref());
    }
    let mut json = false;
    let mut wanted = Vec::new();
    for arg in env::args().skip(1) {
        match arg.as_str() {
            "--json" => json = true,
            name if ALL.contains(&name) => wanted.push(arg),
            other => bail!("unknown argument {other:?}; known: {}, --json", ALL.join(", ")),
        }
    }
    let exe = env::current_exe()?;
    let beside = exe.parent().context("this program lies in no folder")?;
    let program = beside.join("fetchml");
    if !program.exists() {
        bail!("{} does not exist; `cargo xtask bench` builds it", program.display());
    }
    let base = beside.join("bench");
    fs::create_dir_all(&base)?;
    let dir = tempfile::Builder::new().prefix("run-").tempdir_in(&base)?;
    // Shims outlive their parents on purpose; as orphans they come to us, and so does their CPU time.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;

    let probe = probe::run(dir.path())?;
    let setup = Setup { program, dir: dir.path().to_path_buf(), fdatasync_p50: probe.p50 };
    let mut report = Report::new(&probe);
    for name in ALL {
        if !wanted.is_empty() && !wanted.iter().any(|w| w == name) {
            continue;
        }
        eprintln!("measuring: {name}");
        match name {
            "start" => start::measure(&setup, &mut report),
            "idle" => idle::measure(&setup, &mut report),
            "submit" => submit::measure(&setup, &mut report),
            "read" => read::measure(&setup, &mut report),
            "list" => list::measure(&setup, &mut report),
            "streams" => streams::measure(&setup, &mut report),
            "tasks" => tasks::measure(&setup, &mut report),
            "log" => log::measure(&setup, &mut report),
            "dataset" => dataset::measure(&setup, &mut report),
            _ => unreachable!("every name of ALL is matched"),
        }
        .with_context(|| format!("measuring {name}"))?;
    }
    report.print(json)
}
