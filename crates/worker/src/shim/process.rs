//! The shim itself: a process with one thread, forked by the helper, that runs one attempt.
//!
//! It writes `exit.json` only when no process of the attempt is left: being the subreaper of all of
//! them, it knows that from having no child any more.

use super::{
    record::{Exit, ExitCause, GO_MARK, ShimRecord, Stat, StopRequest, files, read_json, write_json},
    tree,
    wire::{GO, Reply, StartRequest},
};
use crate::limits;
use nix::{
    spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawn},
    sys::{signal::SigSet, signalfd::SignalFd},
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fd::OwnedFd,
    fs::{FlockOperation, flock},
    io::Errno,
    process::{Pid, Signal, WaitOptions, WaitStatus, getpid, set_child_subreaper, setsid, wait},
};
use std::{
    ffi::{CString, OsStr, OsString},
    fs::{self, File},
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsFd as _, AsRawFd as _},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// What a shim takes over from the helper that forked it.
pub(super) struct ShimContext {
    /// The current boot.
    pub(super) boot_id: String,
    /// `/dev/null`, open for reading and writing.
    pub(super) null: File,
}

/// Runs one attempt and exits.
pub(super) fn shim_main(context: &ShimContext, signals: &SignalFd, request: &StartRequest, socket: OwnedFd) -> ! {
    let dir = request.dir();
    let mut agent = File::from(socket);
    let code = match prepare(context, &dir, request) {
        Ok((lock, record)) => {
            let ready = Reply::Ready { pid: record.pid, start_time: record.start_time };
            if say(&mut agent, &ready).is_ok() && wait_for_go(&mut agent) {
                drop(agent);
                run(signals, request, &dir, &lock)
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
fn run(signals: &SignalFd, request: &StartRequest, dir: &Path, mut lock: &File) -> i32 {
    // From here on user code may have run: without an exit record the attempt is lost.
    if lock.write_all(GO_MARK).is_err() {
        return 1;
    }
    let started_at_ms = now_ms();
    let exit = match start(request, dir) {
        Ok(main) => Supervisor::new(signals, request, dir, main).supervise(),
        Err(error) => launch_failed(request, &error),
    };
    let exit = Exit { started_at_ms, ended_at_ms: now_ms(), ..exit };
    for _ in 0..limits::EXIT_RECORD_TRIES {
        if write_json(dir, files::EXIT, &exit).is_ok() {
            return 0;
        }
        // A full disk, most likely. What ran for days is worth a wait for room.
        std::thread::sleep(limits::EXIT_RECORD_RETRY);
    }
    // The attempt will be seen as lost.
    1
}

/// Starts the user's process: both outputs into the log, its own process group in the shim's
/// session, default signals and an empty mask, no descriptor above standard error.
///
/// By `posix_spawn`, which copies no page table. Not by `Command`: that passes the shim's blocked
/// signals on, and unblocking them here for a moment would let a SIGTERM end the shim.
fn start(request: &StartRequest, dir: &Path) -> io::Result<Pid> {
    let log = File::options().create(true).append(true).open(dir.join(files::LOG))?;
    let program =
        request.argv.first().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "there is no command"))?;
    let path = resolve(program, request);
    let argv = request.argv.iter().map(|word| Ok(CString::new(word.as_bytes())?)).collect::<io::Result<Vec<_>>>()?;
    let env = request.env.iter().map(|(name, value)| {
        let entry = [name.as_bytes(), b"=", value.as_bytes()].concat();
        Ok(CString::new(entry)?)
    });
    let env = env.collect::<io::Result<Vec<_>>>()?;

    let mut files = PosixSpawnFileActions::init()?;
    // Standard input is the shim's own: `/dev/null`.
    for output in [1, 2] {
        files.add_dup2(log.as_raw_fd(), output)?;
    }
    let mut attributes = PosixSpawnAttr::init()?;
    attributes.set_flags(
        PosixSpawnFlags::POSIX_SPAWN_SETPGROUP
            | PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF
            | PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK,
    )?;
    attributes.set_sigdefault(&SigSet::all())?;
    attributes.set_sigmask(&SigSet::empty())?;

    // The process inherits it; the shim itself must not keep a directory busy.
    rustix::process::chdir(&request.cwd)?;
    let started = posix_spawn(path.as_path(), &files, &attributes, &argv, &env);
    rustix::process::chdir("/")?;
    Pid::from_raw(started?.as_raw()).ok_or_else(|| io::Error::other("posix_spawn gave no process id"))
}

/// Finds a bare command name in the task's own PATH: with a path in hand the program is started
/// without copying this process first, and the error says what was looked for.
fn resolve(program: &OsStr, request: &StartRequest) -> PathBuf {
    use std::os::unix::fs::PermissionsExt as _;
    if program.as_bytes().contains(&b'/') {
        return program.into();
    }
    let path = request.env.iter().rev().find(|(name, _)| name == "PATH").map_or_else(OsString::new, |(_, v)| v.clone());
    std::env::split_paths(&path)
        .map(|dir| Path::new(&request.cwd).join(dir).join(program))
        .find(|file| fs::metadata(file).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0))
        // Not found: a name with a slash that does not exist either, so that the start fails.
        .unwrap_or_else(|| Path::new("/nonexistent").join(program))
}

/// Exit record of a program that did not start: the task's fault where a shell would say 126 or 127.
fn launch_failed(request: &StartRequest, error: &io::Error) -> Exit {
    let program = request.argv.first().map(|p| p.to_string_lossy().into_owned()).unwrap_or_default();
    let (exit_code, error) = match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOENT | Errno::NOTDIR) if !Path::new(&request.cwd).is_dir() => {
            (None, format!("the working directory {} does not exist", Path::new(&request.cwd).display()))
        }
        Some(Errno::NOENT | Errno::NOTDIR) => {
            (Some(127), format!("{program}: no such program; check its name, and the interpreter in its first line"))
        }
        Some(Errno::ACCESS | Errno::PERM) => {
            (Some(126), format!("{program}: permission denied; is it executable (chmod +x) where it was submitted?"))
        }
        Some(Errno::NOEXEC) => (
            Some(126),
            format!("{program}: not a program this machine can run; a script needs a first line like #!/bin/sh"),
        ),
        Some(Errno::TOOBIG) => (Some(126), format!("{program}: arguments and environment are too long")),
        _ if error.kind() == io::ErrorKind::InvalidInput => (Some(126), format!("{program}: {error}")),
        _ => (None, format!("{program} could not be started: {error}")),
    };
    Exit { exit_code, error: Some(error), ..Exit::unseen(ExitCause::LaunchFailed) }
}

/// Why the tree is being ended, and when SIGTERM turns into SIGKILL.
struct Ending {
    /// `None`: the main process ended first, and only leftovers remain.
    cause: Option<ExitCause>,
    kill_at: Instant,
}

/// Watches one process tree.
struct Supervisor<'a> {
    signals: &'a SignalFd,
    request: &'a StartRequest,
    dir: &'a Path,
    main: Pid,
    status: Option<WaitStatus>,
    time_limit: Option<Instant>,
    ending: Option<Ending>,
}

impl<'a> Supervisor<'a> {
    fn new(signals: &'a SignalFd, request: &'a StartRequest, dir: &'a Path, main: Pid) -> Self {
        let time_limit = request.time_limit_s.map(|s| Instant::now() + Duration::from_secs(s.into()));
        Self { signals, request, dir, main, status: None, time_limit, ending: None }
    }

    fn supervise(mut self) -> Exit {
        loop {
            if self.reap() {
                return self.exit();
            }
            self.act();
            if self.wait() {
                self.on_stop_request();
            }
        }
    }

    /// Collects every process that ended; whether none is left.
    fn reap(&mut self) -> bool {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => {
                    if pid == self.main {
                        self.status = Some(status);
                    }
                }
                Err(Errno::INTR) => {}
                Ok(None) => return false,
                Err(_) => return true,
            }
        }
    }

    /// Begins to end the tree when it is time, and kills when the grace is over.
    fn act(&mut self) {
        let now = Instant::now();
        if self.ending.is_none() {
            if self.status.is_some() {
                self.end(None, limits::LEFTOVER_GRACE);
            } else if self.time_limit.is_some_and(|limit| limit <= now) {
                self.end(Some(ExitCause::Timeout), Duration::from_secs(self.request.grace_s.into()));
            }
        }
        if self.ending.as_ref().is_some_and(|ending| ending.kill_at <= now) {
            // Again each time a process dies or `KILL_RESCAN` passes, until none is left: what is
            // forked while others are killed is met by the next pass.
            tree::signal_descendants(Signal::KILL);
        }
    }

    fn end(&mut self, cause: Option<ExitCause>, grace: Duration) {
        self.ending = Some(Ending { cause, kill_at: Instant::now() + grace });
        tree::signal_descendants(Signal::TERM);
        // A stopped process acts on SIGTERM only when it continues.
        tree::signal_descendants(Signal::CONT);
    }

    /// Sleeps until something happens; whether a SIGTERM came.
    fn wait(&self) -> bool {
        let now = Instant::now();
        let left = match &self.ending {
            Some(ending) if ending.kill_at <= now => Some(limits::KILL_RESCAN),
            Some(ending) => Some(ending.kill_at - now),
            None => self.time_limit.map(|limit| limit.saturating_duration_since(now)),
        };
        let mut fds = [PollFd::from_borrowed_fd(self.signals.as_fd(), PollFlags::IN)];
        // An interrupted wait only makes the caller look again.
        let _ = poll(&mut fds, left.map(timespec).as_ref());
        let mut asked = false;
        while let Ok(Some(signal)) = self.signals.read_signal() {
            asked |= signal.ssi_signo == Signal::TERM.as_raw() as u32;
        }
        asked
    }

    /// SIGTERM with a `stop.json` is the agent's request. Without one it is somebody else's and
    /// ignored: the tree must not be left without its shim.
    fn on_stop_request(&mut self) {
        let Ok(Some(stop)) = read_json::<StopRequest>(self.dir, files::STOP) else { return };
        let kill_at = Instant::now() + Duration::from_secs(stop.grace_s.into());
        match &mut self.ending {
            // Already ending: a second request can only make it sooner.
            Some(ending) => ending.kill_at = ending.kill_at.min(kill_at),
            None if self.status.is_none() => {
                self.end(Some(ExitCause::Stopped(stop.cause)), Duration::from_secs(stop.grace_s.into()));
            }
            None => {}
        }
    }

    fn exit(&self) -> Exit {
        let Some(status) = self.status else { return Exit::unseen(ExitCause::Lost) };
        let (exit_code, signal) = (status.exit_status(), status.terminating_signal());
        let own = if signal.is_some() { ExitCause::Signal } else { ExitCause::Exit };
        let cause = self.ending.as_ref().and_then(|ending| ending.cause).unwrap_or(own);
        Exit { exit_code, signal, ..Exit::unseen(cause) }
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(duration.subsec_nanos()),
    }
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}
