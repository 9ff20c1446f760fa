//! The agent's side: starting shims through the helper, watching and stopping them.

use super::{
    confine::Confinement,
    fence::Fence,
    reattach::{has_go_mark, kill_orphans, open_identified},
    record::{Exit, ExitCause, ShimRecord, StopRequest, boot_id, files, read_record, write_record},
    spawn::Program,
    wire::{GO, Reply, StartRequest, send_with_descriptor},
};
use crate::limits;
use fetchml_api::{AttemptId, FailureCause};
use rustix::{
    fd::{AsFd as _, BorrowedFd, OwnedFd},
    process::{Signal, pidfd_send_signal},
};
use secrecy::zeroize::Zeroizing;
use std::{
    ffi::OsString,
    fmt, io,
    path::PathBuf,
    process::Stdio,
    sync::atomic::{AtomicU64, Ordering},
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Interest, unix::AsyncFd},
    net::UnixStream,
    process::{Child, Command},
    sync::Mutex,
};

/// What to run and where.
#[derive(Clone, PartialEq, Eq)]
pub struct LaunchSpec {
    /// The attempt.
    pub attempt: AttemptId,
    /// Its directory, which must exist; absolute.
    pub dir: PathBuf,
    /// Program and arguments, exactly as given. A program without a slash is looked for in the PATH
    /// of `env`.
    pub argv: Vec<OsString>,
    /// The whole environment.
    pub env: Vec<(OsString, OsString)>,
    /// Working directory; absolute.
    pub cwd: PathBuf,
    /// Longest run, seconds.
    pub time_limit_s: Option<u32>,
    /// Time between SIGTERM and SIGKILL when that passes, seconds.
    pub grace_s: u32,
    /// The sandbox; none: the process runs as the worker does.
    pub confinement: Option<Confinement>,
    /// The lease that ends it also when the agent is gone; none: it is never ended for that.
    pub fence: Option<Fence>,
}

/// Without the values of the environment, which may be secrets.
impl fmt::Debug for LaunchSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.env.iter().map(|(name, _)| name).collect();
        f.debug_struct("LaunchSpec")
            .field("attempt", &self.attempt)
            .field("dir", &self.dir)
            .field("argv", &self.argv)
            .field("env", &names)
            .field("confinement", &self.confinement)
            .finish_non_exhaustive()
    }
}

/// The fork helper. Its process is started again when it has died.
#[derive(Debug)]
pub struct Helper {
    command: Vec<OsString>,
    boot_id: String,
    starts: AtomicU64,
    process: Mutex<Option<Process>>,
}

#[derive(Debug)]
struct Process {
    socket: UnixStream,
    /// Which start of the helper this is.
    number: u64,
    /// A request was begun and not finished: the stream is out of step and of no more use.
    torn: bool,
    /// Held so that the process is reaped.
    child: Child,
}

impl Helper {
    /// Starts the helper: `helper_command` must end in [`super::helper_main`].
    ///
    /// # Errors
    /// When the program cannot be started.
    pub async fn start(helper_command: &[OsString]) -> io::Result<Self> {
        let helper = Self {
            command: helper_command.to_vec(),
            boot_id: boot_id()?,
            starts: AtomicU64::new(0),
            process: Mutex::new(None),
        };
        *helper.process.lock().await = Some(helper.spawn()?);
        Ok(helper)
    }

    /// Process id of the helper as it is now.
    pub async fn pid(&self) -> Option<u32> {
        self.process.lock().await.as_ref().and_then(|process| process.child.id())
    }

    fn spawn(&self) -> io::Result<Process> {
        let (ours, theirs) = UnixStream::pair()?;
        let theirs = theirs.into_std()?;
        theirs.set_nonblocking(false)?;
        let (program, rest) = self
            .command
            .split_first()
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the helper's command is empty"))?;
        let child = Command::new(program)
            .args(rest)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .kill_on_drop(false)
            .spawn()?;
        let number = self.starts.fetch_add(1, Ordering::Relaxed);
        Ok(Process { socket: ours, number, torn: false, child })
    }

    /// Starts a shim and lets it run the user's process.
    ///
    /// # Errors
    /// When there can be no shim. A program that cannot be started is no error here: its exit says so.
    pub async fn launch(&self, spec: LaunchSpec) -> io::Result<Running> {
        let prepared = self.prepare(spec).await?;
        fetchml_failpoint::reach("agent.prepared");
        let running = prepared.go().await?;
        fetchml_failpoint::reach("agent.released");
        Ok(running)
    }

    /// Starts a shim that has recorded itself and waits for [`Prepared::go`].
    ///
    /// # Errors
    /// When there can be no shim.
    pub async fn prepare(&self, spec: LaunchSpec) -> io::Result<Prepared> {
        let request = StartRequest {
            attempt: spec.attempt,
            dir: spec.dir.clone().into_os_string(),
            program: Program { argv: spec.argv, env: spec.env, cwd: spec.cwd.into_os_string() },
            confinement: spec.confinement,
            fence: spec.fence,
            time_limit_s: spec.time_limit_s,
            grace_s: spec.grace_s,
        };
        let body = Zeroizing::new(serde_json::to_vec(&request)?);
        if body.len() > limits::SHIM_REQUEST_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "arguments and environment are too long"));
        }
        // Once more with a fresh helper if this one died: without `go` nothing has run.
        let mut asked = None;
        let (socket, reply) = match self.ask(&body, &mut asked).await {
            Ok(answer) => answer,
            Err(error) => {
                tracing::warn!(%error, "the fork helper did not answer; it is started again");
                self.discard(asked).await;
                self.ask(&body, &mut asked).await?
            }
        };
        let (pid, start_time) = match reply {
            Reply::Ready { pid, start_time } => (pid, start_time),
            Reply::Failed { error } => return Err(io::Error::other(error)),
        };
        let record = ShimRecord {
            boot_id: self.boot_id.clone(),
            pid,
            start_time,
            attempt: spec.attempt,
            cgroup: request.cgroup(),
        };
        let process = open_identified(&record)
            .ok_or_else(|| io::Error::new(io::ErrorKind::BrokenPipe, "the shim ended before it was told to go"))?;
        Ok(Prepared { socket, running: Running::new(spec.dir, record, process)? })
    }

    /// Lets go of the helper of that number, unless somebody else has done so and a newer one works.
    async fn discard(&self, number: Option<u64>) {
        let mut process = self.process.lock().await;
        if process.as_ref().map(|process| process.number) == number {
            process.take();
        }
    }

    /// `asked` becomes the number of the helper that was asked.
    async fn ask(&self, body: &[u8], asked: &mut Option<u64>) -> io::Result<(UnixStream, Reply)> {
        let (ours, theirs) = UnixStream::pair()?;
        let theirs = theirs.into_std()?;
        theirs.set_nonblocking(false)?;
        self.send(body, theirs.as_fd(), asked).await?;
        drop(theirs);
        let mut reader = BufReader::new(ours).take(limits::SHIM_REPLY_BYTES);
        let mut line = Vec::new();
        tokio::time::timeout(limits::SHIM_READY_WAIT, reader.read_until(b'\n', &mut line))
            .await
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no shim was ready in time"))??;
        if line.is_empty() {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the fork helper or the shim died"));
        }
        Ok((reader.into_inner().into_inner(), serde_json::from_slice(&line)?))
    }

    async fn send(&self, body: &[u8], socket: BorrowedFd<'_>, asked: &mut Option<u64>) -> io::Result<()> {
        let mut guard = self.process.lock().await;
        if guard.as_ref().is_none_or(|process| process.torn) {
            *guard = Some(self.spawn()?);
        }
        let process = guard.as_mut().expect("a helper was started above if there was none");
        process.torn = true;
        *asked = Some(process.number);
        send_with_descriptor(&mut process.socket, body, socket).await?;
        process.torn = false;
        Ok(())
    }
}

/// A shim that waits for `go`. Dropped without it, the shim ends and nothing has run.
#[derive(Debug)]
pub struct Prepared {
    socket: UnixStream,
    running: Running,
}

impl Prepared {
    /// Lets user code run.
    ///
    /// # Errors
    /// When the shim is gone; then nothing ran.
    pub async fn go(mut self) -> io::Result<Running> {
        self.socket.write_all(&[GO]).await?;
        Ok(self.running)
    }

    /// Process id of the shim.
    pub fn pid(&self) -> u32 {
        self.running.pid()
    }
}

/// A shim that lives, as far as is known.
#[derive(Debug)]
pub struct Running {
    dir: PathBuf,
    record: ShimRecord,
    process: AsyncFd<OwnedFd>,
}

impl Running {
    pub(super) fn new(dir: PathBuf, record: ShimRecord, process: OwnedFd) -> io::Result<Self> {
        #[expect(deprecated, reason = "its successor is unsafe for descriptors that change; an `OwnedFd` cannot")]
        let process = AsyncFd::with_interest(process, Interest::READABLE)?;
        Ok(Self { dir, record, process })
    }

    /// Waits for the shim's end and says how the attempt ended. When the shim was killed, what it
    /// left behind is killed first, and the exit is [`ExitCause::Lost`].
    pub async fn wait(&mut self) -> Exit {
        // A process handle is readable when the process has ended, and stays so.
        if let Err(error) = self.process.readable().await {
            tracing::error!(%error, dir = %self.dir.display(), "cannot watch a shim");
        }
        match read_record(&self.dir, files::EXIT) {
            Ok(Some(exit)) => return exit,
            Ok(None) => {}
            Err(error) => tracing::error!(%error, dir = %self.dir.display(), "unreadable exit record"),
        }
        if !has_go_mark(&self.dir) {
            return Exit::unseen(ExitCause::NeverStarted);
        }
        kill_orphans(&self.record);
        Exit::unseen(ExitCause::Lost)
    }

    /// Asks the shim to stop its tree: SIGTERM, `grace_s` seconds, SIGKILL. Asking again can only
    /// make it sooner. An attempt that has ended already is no error.
    ///
    /// # Errors
    /// When the request cannot be written, such as on a full disk.
    pub fn stop(&self, cause: FailureCause, grace_s: u32) -> io::Result<()> {
        write_record(&self.dir, files::STOP, &StopRequest { cause, grace_s })?;
        match pidfd_send_signal(self.process.get_ref(), Signal::TERM) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Process id of the shim.
    pub fn pid(&self) -> u32 {
        self.record.pid.unsigned_abs()
    }
}
