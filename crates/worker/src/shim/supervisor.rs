//! Watching one process tree to its end: why it is ended, SIGTERM, grace, SIGKILL, and what is recorded.

use super::{
    confine::Layer,
    confined,
    fence::Watch,
    init::Report,
    process::{ShimContext, timespec},
    record::{Exit, ExitCause, StopRequest, files, process_start_time, read_record},
    tree,
    wire::StartRequest,
};
use crate::{cgroup::Cgroup, limits};
use fetchml_api::FailureCause;
use nix::sys::signalfd::SignalFd;
use rustix::{
    event::{PollFd, PollFlags, poll},
    fd::OwnedFd,
    io::Errno,
    process::{Pid, Signal, WaitOptions, WaitStatus, wait},
};
use std::{
    fs::File,
    io::{self, Read as _},
    os::fd::AsFd as _,
    path::Path,
    time::{Duration, Instant},
};

/// A started process.
#[derive(Debug)]
pub(super) struct Started {
    /// Child of the shim: the user's process, or what stands for its sandbox.
    pub(super) pid: Pid,
    pub(super) sandbox: Option<Sandbox>,
}

/// How the user's process in a sandbox ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Status {
    code: Option<i32>,
    signal: Option<i32>,
}

impl From<WaitStatus> for Status {
    fn from(status: WaitStatus) -> Self {
        Self { code: status.exit_status(), signal: status.terminating_signal() }
    }
}

/// What is heard from inside a sandbox.
#[derive(Debug)]
pub(super) struct Sandbox {
    /// Until it has said its last word.
    speaks: Option<File>,
    /// Not yet a whole line.
    rest: Vec<u8>,
    /// Processes of the sandbox itself, from the shim's child down: ended only by SIGKILL, as their end
    /// is the end of everything inside.
    own_processes: usize,
    started: bool,
    not_started: Option<i32>,
    status: Option<Status>,
    leftovers: bool,
    /// Words that are no report: bubblewrap's, when it fails.
    complaint: String,
    cgroup: Option<Cgroup>,
    /// The kernel killed in it for want of memory.
    out_of_memory: bool,
    /// What of it is not among the shim's descendants.
    outside: Option<Outside>,
}

/// A container: its processes are the engine's, and reached through the runner, which is the shim's child.
#[derive(Debug, Default)]
struct Outside {
    /// Its first process, by number and start time.
    first: Option<(i32, u64)>,
    /// Nothing of it runs.
    gone: bool,
    /// How often it was tried to take it away after its runner had ended without doing so.
    tries: u32,
}

impl Outside {
    /// Whether something of it may still run: what has once begun, until its first process is seen to be dead.
    fn may_live(&self) -> bool {
        let is_seen = |(pid, start_time): (i32, u64)| {
            Pid::from_raw(pid).is_some_and(|pid| process_start_time(pid).is_ok_and(|time| time == start_time))
        };
        !self.gone && (self.tries < limits::TAKE_AWAY_TRIES || self.first.is_some_and(is_seen))
    }
}

impl Sandbox {
    pub(super) fn new(speaks: OwnedFd, layer: &Layer, cgroup: Option<Cgroup>) -> Self {
        let own_processes = match layer {
            // The one outside that waits, and process 1.
            Layer::Bubblewrap(_) => 2,
            Layer::Landlock | Layer::Open => 1,
            // The runner passes on what it is told.
            Layer::Container(_) => 0,
        };
        let outside = matches!(layer, Layer::Container(_)).then(Outside::default);
        Self {
            speaks: Some(speaks.into()),
            rest: Vec::new(),
            own_processes,
            started: false,
            not_started: None,
            status: None,
            leftovers: false,
            complaint: String::new(),
            cgroup,
            out_of_memory: false,
            outside,
        }
    }

    /// Takes what has been said so far; whether the user's process was among it started.
    fn listen(&mut self) -> bool {
        let before = self.started;
        let mut buffer = [0; 1024];
        while let Some(mut speaks) = self.speaks.as_ref() {
            match speaks.read(&mut buffer) {
                Ok(0) => self.speaks = None,
                Ok(length) => self.hear(&buffer[..length]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        self.started && !before
    }

    fn hear(&mut self, bytes: &[u8]) {
        self.rest.extend_from_slice(bytes);
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            match serde_json::from_slice(&line) {
                Ok(Report::Started) => self.started = true,
                Ok(Report::NotStarted { errno }) => self.not_started = Some(errno),
                Ok(Report::Ended { code, signal, leftovers, out_of_memory }) => {
                    self.status = Some(Status { code, signal });
                    self.leftovers = leftovers;
                    self.out_of_memory |= out_of_memory;
                }
                Ok(Report::Inside { pid, start_time }) => {
                    if let Some(outside) = &mut self.outside {
                        outside.first = Some((pid, start_time));
                    }
                }
                Ok(Report::Gone) => {
                    if let Some(outside) = &mut self.outside {
                        outside.gone = true;
                    }
                }
                Err(_) => self.complain(&line),
            }
        }
        if self.rest.len() > limits::SANDBOX_COMPLAINT_BYTES {
            self.rest.clear();
        }
    }

    fn complain(&mut self, line: &[u8]) {
        if self.complaint.len() < limits::SANDBOX_COMPLAINT_BYTES {
            let separator = if self.complaint.is_empty() { "" } else { "; " };
            self.complaint = format!("{}{separator}{}", self.complaint, String::from_utf8_lossy(line).trim());
        }
    }

    /// The exit when no user code ran, for this or that reason.
    fn failure(&self, request: &StartRequest) -> Option<Exit> {
        if let Some(errno) = self.not_started {
            let exit = request.program.launch_failed(&io::Error::from_raw_os_error(errno));
            let in_image = |error| if self.outside.is_some() { format!("in the image, {error}") } else { error };
            return Some(Exit { error: exit.error.map(in_image), ..exit });
        }
        // What was cut off between its first process and its first word may have run.
        let may_have_run = self.outside.as_ref().is_some_and(|outside| outside.first.is_some());
        let has_run = self.started || (may_have_run && self.complaint.is_empty());
        (!has_run).then(|| {
            let why = if self.complaint.is_empty() { "it was killed" } else { &self.complaint };
            let what = if self.outside.is_some() { "container" } else { "sandbox" };
            let error = format!("the task's {what} could not be set up on this worker: {why}");
            Exit { error: Some(error), ..Exit::unseen(ExitCause::LaunchFailed) }
        })
    }
}

/// Why the tree is being ended, and when SIGTERM turns into SIGKILL.
struct Ending {
    /// `None`: the main process ended first, and only leftovers remain.
    cause: Option<ExitCause>,
    kill_at: Instant,
}

/// Watches one process tree.
pub(super) struct Supervisor<'a> {
    context: &'a ShimContext,
    signals: &'a SignalFd,
    request: &'a StartRequest,
    dir: &'a Path,
    /// Child of the shim.
    child: Pid,
    /// How that ended.
    child_status: Option<Status>,
    sandbox: Option<Sandbox>,
    time_limit: Option<Instant>,
    fence: Option<Watch>,
    ending: Option<Ending>,
}

impl<'a> Supervisor<'a> {
    pub(super) fn new(
        context: &'a ShimContext,
        signals: &'a SignalFd,
        request: &'a StartRequest,
        dir: &'a Path,
        started: Started,
    ) -> Self {
        // Without a timer the fence is the agent's alone.
        let fence = request.fence.as_ref().and_then(|fence| Watch::start(fence, request.grace_s).ok());
        let time_limit = request.time_limit_s.map(|s| Instant::now() + Duration::from_secs(s.into()));
        let Started { pid: child, sandbox } = started;
        Self { context, signals, request, dir, child, child_status: None, sandbox, time_limit, fence, ending: None }
    }

    /// To the end of the last process.
    pub(super) fn supervise(mut self) -> Exit {
        loop {
            if self.reap() {
                if !self.may_live_outside() {
                    return self.exit();
                }
                self.take_away();
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
                    if pid == self.child {
                        self.child_status = Some(status.into());
                    }
                }
                Err(Errno::INTR) => {}
                Ok(None) => return false,
                Err(_) => return true,
            }
        }
    }

    /// Whether something of a container may run although its runner has ended.
    fn may_live_outside(&mut self) -> bool {
        let Some(sandbox) = &mut self.sandbox else { return false };
        sandbox.listen();
        sandbox.outside.as_ref().is_some_and(Outside::may_live)
    }

    /// Has another runner take away what one has left that was killed.
    fn take_away(&mut self) {
        let confinement = self.request.confinement.as_ref();
        let (Some(confinement), Some(sandbox)) = (confinement, &mut self.sandbox) else { return };
        let (Some(container), Some(outside)) = (confinement.container(), &mut sandbox.outside) else { return };
        if outside.tries > 0 {
            std::thread::sleep(limits::ENGINE_RETRY);
        }
        outside.tries += 1;
        if let Ok((_, hear)) = confined::take_away(self.context, self.request, confinement, container) {
            sandbox.speaks = Some(hear.into());
        }
    }

    /// Whether the main process has ended and what it left is to be ended too.
    fn is_main_over(&self) -> bool {
        self.child_status.is_some() || self.sandbox.as_ref().is_some_and(|sandbox| sandbox.leftovers)
    }

    /// Begins to end the tree when it is time, and kills when the grace is over.
    fn act(&mut self) {
        let outside = self.sandbox.as_ref().and_then(|sandbox| sandbox.outside.as_ref());
        if outside.is_some_and(|outside| outside.tries > 0) {
            // All that is left is on its way out.
            return;
        }
        let is_outside = outside.is_some();
        let now = Instant::now();
        if self.ending.is_none() {
            if self.is_main_over() {
                self.end(None, limits::LEFTOVER_GRACE);
            } else if self.time_limit.is_some_and(|limit| limit <= now) {
                self.end(Some(ExitCause::Timeout), Duration::from_secs(self.request.grace_s.into()));
            } else if let Some(grace) = self.fence.as_mut().and_then(|fence| fence.must_stop(&self.context.boot_id)) {
                self.end(Some(ExitCause::Stopped(FailureCause::Lost)), grace);
            }
        }
        let kill_at = self.ending.as_ref().map(|ending| ending.kill_at);
        if is_outside && kill_at.is_some_and(|at| at <= now && now < at + limits::RUNNER_KILL_WAIT) {
            // A runner that can still do it takes its container away.
            tree::signal_descendants(Signal::QUIT, 0);
        } else if kill_at.is_some_and(|at| at <= now) {
            // Again each time a process dies or `KILL_RESCAN` passes, until none is left: what is
            // forked while others are killed is met by the next pass. A sandbox dies at once, with its
            // first process.
            tree::signal_descendants(Signal::KILL, 0);
            if let Some(cgroup) = self.sandbox.as_ref().and_then(|sandbox| sandbox.cgroup.as_ref()) {
                cgroup.kill();
            }
        }
    }

    fn end(&mut self, cause: Option<ExitCause>, grace: Duration) {
        self.ending = Some(Ending { cause, kill_at: Instant::now() + grace });
        self.ask_to_end();
    }

    fn ask_to_end(&self) {
        let spared = self.sandbox.as_ref().map_or(0, |sandbox| sandbox.own_processes);
        tree::signal_descendants(Signal::TERM, spared);
        // A stopped process acts on SIGTERM only when it continues.
        tree::signal_descendants(Signal::CONT, spared);
    }

    /// Sleeps until something happens; whether a SIGTERM came.
    fn wait(&mut self) -> bool {
        let now = Instant::now();
        let left = match &self.ending {
            Some(ending) if ending.kill_at <= now => Some(limits::KILL_RESCAN),
            Some(ending) => Some(ending.kill_at - now),
            None => self.time_limit.map(|limit| limit.saturating_duration_since(now)),
        };
        let mut fds = Vec::with_capacity(3);
        fds.push(PollFd::from_borrowed_fd(self.signals.as_fd(), PollFlags::IN));
        if let Some(speaks) = self.sandbox.as_ref().and_then(|sandbox| sandbox.speaks.as_ref()) {
            fds.push(PollFd::new(speaks, PollFlags::IN));
        }
        // A timer that has run down stays readable: nobody has to be woken by it again.
        if let Some(fence) = self.fence.as_ref().filter(|_| self.ending.is_none()) {
            fds.push(PollFd::new(fence.timer(), PollFlags::IN));
        }
        // An interrupted wait only makes the caller look again.
        let _ = poll(&mut fds, left.map(timespec).as_ref());
        drop(fds);
        if self.sandbox.as_mut().is_some_and(Sandbox::listen) && self.ending.is_some() {
            // It started while it was asked to end already.
            self.ask_to_end();
        }
        let mut asked = false;
        while let Ok(Some(signal)) = self.signals.read_signal() {
            asked |= signal.ssi_signo == Signal::TERM.as_raw() as u32;
        }
        asked
    }

    /// SIGTERM with a `stop.json` is the agent's request. Without one it is somebody else's and
    /// ignored: the tree must not be left without its shim.
    fn on_stop_request(&mut self) {
        let Ok(Some(stop)) = read_record::<StopRequest>(self.dir, files::STOP) else { return };
        let kill_at = Instant::now() + Duration::from_secs(stop.grace_s.into());
        let is_main_over = self.is_main_over();
        match &mut self.ending {
            // Already ending: a second request can only make it sooner.
            Some(ending) => ending.kill_at = ending.kill_at.min(kill_at),
            None if !is_main_over => {
                self.end(Some(ExitCause::Stopped(stop.cause)), Duration::from_secs(stop.grace_s.into()));
            }
            None => {}
        }
    }

    /// What is to be recorded, once no process is left.
    fn exit(&mut self) -> Exit {
        let status = match &mut self.sandbox {
            None => self.child_status,
            Some(sandbox) => {
                sandbox.listen();
                if let Some(cgroup) = sandbox.cgroup.take() {
                    sandbox.out_of_memory = cgroup.oom_kills() > 0;
                    cgroup.remove();
                }
                if let Some(exit) = sandbox.failure(self.request) {
                    // Stopped before it could start is not a start that failed.
                    let stopped = self.ending.as_ref().and_then(|ending| ending.cause);
                    return stopped.filter(|_| sandbox.not_started.is_none()).map_or(exit, Exit::unseen);
                }
                // Without a word about its end it was killed from outside, and all in it at once.
                Some(sandbox.status.unwrap_or(Status { code: None, signal: Some(Signal::KILL.as_raw()) }))
            }
        };
        let Some(Status { code, signal }) = status else { return Exit::unseen(ExitCause::Lost) };
        let own = if signal.is_some() { ExitCause::Signal } else { ExitCause::Exit };
        let own = match &self.sandbox {
            // One that lives on after a part of it was killed has dealt with it.
            Some(sandbox) if sandbox.out_of_memory && code != Some(0) => ExitCause::OutOfMemory,
            _ => own,
        };
        let cause = self.ending.as_ref().and_then(|ending| ending.cause).unwrap_or(own);
        Exit { exit_code: code, signal, ..Exit::unseen(cause) }
    }
}
