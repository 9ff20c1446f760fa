//! The shim itself: a process with one thread, forked by the helper, that runs one attempt.
//!
//! It writes `exit.json` only when no process of the attempt is left: being the subreaper of all of
//! them, it knows that from having no child any more.

use super::{
    confined,
    record::{Exit, GO_MARK, ShimRecord, Stat, files, write_json, write_record},
    supervisor::{Started, Supervisor},
    wire::{GO, Reply, StartRequest},
};
use crate::limits;
use nix::sys::signalfd::SignalFd;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fd::OwnedFd,
    fs::{FlockOperation, flock},
    io::Errno,
    process::{getpid, set_child_subreaper, setsid},
};
use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    os::{fd::AsFd as _, unix::fs::OpenOptionsExt as _},
    path::Path,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// What a shim takes over from the helper that forked it.
pub(super) struct ShimContext {
    /// The current boot.
    pub(super) boot_id: String,
    /// `/dev/null`, open for reading and writing.
    pub(super) null: File,
    /// This program, also when its file has been replaced meanwhile.
    pub(super) binary: OwnedFd,
}

/// Runs one attempt and exits.
pub(super) fn shim_main(context: &ShimContext, signals: &SignalFd, mut request: StartRequest, socket: OwnedFd) -> ! {
    fetchml_failpoint::reach("shim.forked");
    let dir = request.dir();
    let mut agent = File::from(socket);
    let code = match prepare(context, &dir, &request) {
        Ok((lock, record)) => {
            fetchml_failpoint::reach("shim.recorded");
            let ready = Reply::Ready { pid: record.pid, start_time: record.start_time };
            if say(&mut agent, &ready).is_ok() && wait_for_go(&mut agent) {
                drop(agent);
                run(context, signals, &mut request, &dir, &lock)
            } else {
                0
            }
        }
        Err(error) => {
            let error = format!("the shim could not be set up in {}: {error}", dir.display());
            let _ = say(&mut agent, &Reply::Failed { error });
            1
        }
    };
    std::process::exit(code)
}

/// Takes the lock and records who this is.
fn prepare(context: &ShimContext, dir: &Path, request: &StartRequest) -> io::Result<(File, ShimRecord)> {
    setsid()?;
    // The agent's terminal and pipes must not be held open by a process that outlives it.
    rustix::stdio::dup2_stderr(&context.null)?;
    set_child_subreaper(Some(getpid()))?;
    let lock = File::options().create(true).append(true).open(dir.join(files::LOCK))?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|error| match error {
        Errno::WOULDBLOCK => io::Error::new(io::ErrorKind::ResourceBusy, "another shim runs this attempt"),
        other => other.into(),
    })?;
    if lock.metadata()?.len() > 0 || dir.join(files::EXIT).exists() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "this attempt has run already"));
    }
    let record = ShimRecord {
        boot_id: context.boot_id.clone(),
        pid: getpid().as_raw_nonzero().get(),
        start_time: Stat::of_self()?.start_time,
        attempt: request.attempt,
        cgroup: request.cgroup(),
    };
    write_json(dir, files::SHIM, &record)?;
    Ok((lock, record))
}

fn say(agent: &mut File, reply: &Reply) -> io::Result<()> {
    let mut line = serde_json::to_vec(reply)?;
    line.push(b'\n');
    agent.write_all(&line)
}

/// Whether the agent said `go` in time; its death ends the wait at once.
fn wait_for_go(agent: &mut File) -> bool {
    let deadline = Instant::now() + limits::SHIM_GO_WAIT;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut fds = [PollFd::new(&*agent, PollFlags::IN)];
        match poll(&mut fds, Some(&timespec(left))) {
            Err(Errno::INTR) => {}
            Ok(0) | Err(_) => return false,
            Ok(_) => {
                let mut byte = [0];
                return agent.read(&mut byte).is_ok_and(|n| n == 1) && byte[0] == GO;
            }
        }
    }
}

/// Runs the user's process to its end and records it. Returns the shim's own exit code.
fn run(context: &ShimContext, signals: &SignalFd, request: &mut StartRequest, dir: &Path, mut lock: &File) -> i32 {
    fetchml_failpoint::reach("shim.released");
    // From here on user code may have run: without an exit record the attempt is lost.
    if lock.write_all(GO_MARK).is_err() {
        return 1;
    }
    fetchml_failpoint::reach("shim.marked");
    let started_at_ms = now_ms();
    let started = start(context, request, dir);
    request.program.forget_environment();
    let exit = match started {
        Ok(started) => {
            fetchml_failpoint::reach("shim.started");
            Supervisor::new(context, signals, request, dir, started).supervise()
        }
        Err(error) => request.program.launch_failed(&error),
    };
    fetchml_failpoint::reach("shim.ended");
    let exit = Exit { started_at_ms, ended_at_ms: now_ms(), ..exit };
    for _ in 0..limits::EXIT_RECORD_TRIES {
        if write_record(dir, files::EXIT, &exit).is_ok() {
            return 0;
        }
        // A full disk, most likely. What ran for days is worth a wait for room.
        std::thread::sleep(limits::EXIT_RECORD_RETRY);
    }
    // The attempt will be seen as lost.
    1
}

/// Starts the user's process with both outputs into the log: in its sandbox, or as it is.
fn start(context: &ShimContext, request: &StartRequest, dir: &Path) -> io::Result<Started> {
    let log = File::options().create(true).append(true).mode(0o600).open(dir.join(files::LOG))?;
    match &request.confinement {
        None => Ok(Started { pid: request.program.spawn(log.as_fd())?, sandbox: None }),
        Some(confinement) => {
            let (pid, sandbox) = confined::start(context, request, confinement, &log)
                .map_err(|error| io::Error::other(format!("its sandbox could not be set up: {error}")))?;
            Ok(Started { pid, sandbox: Some(sandbox) })
        }
    }
}

pub(super) fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(duration.subsec_nanos()),
    }
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}
