//! The first process inside a sandbox, by `/proc/self/fd` from the fork helper's own binary: it shuts
//! itself in, starts the user's process, reaps what is left to it, and tells the shim the exact status,
//! which bubblewrap would only give as 128 + signal.
//!
//! Standard input is the request, standard output the log, standard error the way to the shim. In a container, where
//! it is given the way to the runner, all three come over that: see [`super::contained`].

use super::{
    confine::{Confinement, Layer},
    contained::{self, Link},
    landlock, seccomp,
    spawn::Program,
};
use crate::limits;
use rustix::{
    fd::OwnedFd,
    io::Errno,
    process::{
        DumpableBehavior, Pid, WaitOptions, WaitStatus, getpid, set_child_subreaper, set_dumpable_behavior, wait,
    },
};
use secrecy::zeroize::Zeroizing;
use serde::{Deserialize, Serialize};
use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Read as _, Write as _},
    os::fd::AsFd as _,
};

/// The argument that makes the helper's binary this process.
pub const INIT: &str = "__init";

/// What to do inside.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct InitRequest {
    pub(super) program: Program,
    pub(crate) confinement: Confinement,
}

/// What the shim is told, one line of JSON each.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Report {
    /// The user's process runs.
    Started,
    /// It could not be started, for this error of the system.
    NotStarted { errno: i32 },
    /// It ended.
    Ended {
        code: Option<i32>,
        signal: Option<i32>,
        /// Others that it left behind still run.
        leftovers: bool,
        /// The kernel killed in its container for want of memory.
        #[serde(default)]
        out_of_memory: bool,
    },
    /// By the runner of a container: its first process, as this machine knows it.
    Inside { pid: i32, start_time: u64 },
    /// By the runner of a container: nothing of it runs.
    Gone,
}

/// Runs as the first process of a sandbox and exits with it.
pub fn init_main() -> ! {
    let code = match run() {
        Ok(()) => 0,
        Err(error) => {
            // Still connected to the shim when this can happen.
            eprintln!("fetchml: the sandbox failed from within: {error}");
            1
        }
    };
    std::process::exit(code)
}

fn run() -> io::Result<()> {
    fetchml_fork::close_on_exec_above_stderr()?;
    let Beginning { mut request, report, log, link } = match std::env::args_os().nth(2) {
        Some(path) => Beginning::dialled(&path)?,
        None => Beginning::inherited()?,
    };
    rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
    if let Layer::Container(container) = &request.confinement.layer {
        contained::adapt(&mut request.program, container);
        contained::limit(container, request.confinement.resources.memory_bytes)?;
    }

    // What the user's process leaves behind comes here, also where this is not process 1.
    set_child_subreaper(Some(getpid()))?;
    // Short of memory, the kernel is to take the user's processes before this one, the shim or the agent.
    let _ = std::fs::write("/proc/self/oom_score_adj", limits::OOM_SCORE.to_string());
    landlock::restrict(&request.confinement, log.as_fd())?;
    if link.is_some() {
        seccomp::forbid_user_namespaces()?;
    }
    let started = request.program.spawn(log.as_fd());
    let _ = std::fs::write("/proc/self/oom_score_adj", "0");
    // A descendant must not look into this process and speak in its name.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    let main = match started {
        Ok(main) => main,
        Err(error) => {
            say(&report, Report::NotStarted { errno: error.raw_os_error().unwrap_or(libc::EINVAL) })?;
            return Ok(());
        }
    };
    drop(request);
    close_outputs(&report, log)?;
    say(&report, Report::Started)?;
    reap(&report, main, link.as_ref())
}

/// What this process has at its start.
struct Beginning {
    request: InitRequest,
    report: File,
    log: OwnedFd,
    link: Option<Link>,
}

impl Beginning {
    /// From the shim.
    fn inherited() -> io::Result<Self> {
        let report = File::from(rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stderr(), 3)?);
        let log = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3)?;
        let mut body = Zeroizing::new(Vec::new());
        io::stdin().lock().take(limits::SHIM_REQUEST_BYTES as u64).read_to_end(&mut body)?;
        // What is wrong with it is not repeated: it may hold secrets.
        let unreadable = |_| io::Error::new(io::ErrorKind::InvalidData, "its request cannot be read");
        Ok(Self { request: serde_json::from_slice(&body).map_err(unreadable)?, report, log, link: None })
    }

    /// From the runner of this container.
    fn dialled(path: &OsStr) -> io::Result<Self> {
        let (link, request, log) = Link::dial(path)?;
        Ok(Self { request, report: link.speaks()?.into(), log, link: Some(link) })
    }
}

/// The log belongs to the user's process from here on.
fn close_outputs(report: &File, log: OwnedFd) -> io::Result<()> {
    drop(log);
    let null = File::options().write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdout(&null)?;
    // What goes wrong from here on still reaches the shim.
    rustix::stdio::dup2_stderr(report)?;
    Ok(())
}

/// Until no process is left.
fn reap(report: &File, main: Pid, link: Option<&Link>) -> io::Result<()> {
    let mut ended: Option<WaitStatus> = None;
    let mut told = false;
    loop {
        let only_looks = link.is_some() || (ended.is_some() && !told);
        let options = if only_looks { WaitOptions::NOHANG } else { WaitOptions::empty() };
        match wait(options) {
            Ok(Some((pid, status))) if pid == main => ended = Some(status),
            Ok(Some(_)) | Err(Errno::INTR) => {}
            // Only when it was not waited for: others are left.
            Ok(None) => {
                if ended.is_some() && !told {
                    tell_end(report, ended, true, link)?;
                    told = true;
                }
                if let Some(link) = link {
                    link.wait()?;
                }
            }
            Err(Errno::CHILD) => {
                return if told { Ok(()) } else { tell_end(report, ended, false, link) };
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn tell_end(report: &File, status: Option<WaitStatus>, leftovers: bool, link: Option<&Link>) -> io::Result<()> {
    let code = status.and_then(WaitStatus::exit_status);
    let signal = status.and_then(WaitStatus::terminating_signal);
    // In a sandbox the shim looks for itself.
    let out_of_memory = link.is_some_and(Link::is_out_of_memory);
    say(report, Report::Ended { code, signal, leftovers, out_of_memory })
}

fn say(mut report: &File, what: Report) -> io::Result<()> {
    let mut line = serde_json::to_vec(&what)?;
    line.push(b'\n');
    report.write_all(&line)
}
