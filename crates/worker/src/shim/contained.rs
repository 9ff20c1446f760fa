//! The first process of a container, as far as it differs from that of a sandbox: it dials the runner for what to run
//! and for the log file, and ends with that connection. Being process 1 of its namespace, it takes everything inside
//! along.

use super::{init::InitRequest, spawn::Program, wire::receive_with_descriptor};
use crate::container::{Container, LOADER_VARIABLES};
use nix::sys::{
    signal::{SigSet, Signal, kill},
    signalfd::{SfdFlags, SignalFd},
};
use rustix::{
    event::{PollFd, PollFlags, poll},
    fd::OwnedFd,
    io::Errno,
    process::{Resource, Rlimit, getpid, setrlimit},
};
use std::{
    ffi::{OsStr, OsString},
    fs,
    io::{self, Read as _},
    os::{fd::AsFd as _, unix::net::UnixStream},
    path::Path,
};

/// By which the runner asks that every process inside be told to end.
pub(crate) const STOP_BYTE: u8 = b't';

/// Where an image that sets no PATH has its programs.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The way to the runner.
#[derive(Debug)]
pub(super) struct Link {
    stream: UnixStream,
    /// Readable when a child has ended.
    children: SignalFd,
    /// Whether the container has a group of its own in which its memory is limited.
    limits_memory: bool,
}

impl Link {
    /// Dials the runner; gives what to run and where its output goes.
    pub(super) fn dial(path: &OsStr) -> io::Result<(Self, InitRequest, OwnedFd)> {
        if !getpid().is_init() {
            return Err(io::Error::other("a container needs processes of its own"));
        }
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGCHLD);
        mask.thread_block()?;
        let children = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        let stream = UnixStream::connect(Path::new(path))?;
        let socket = OwnedFd::from(stream.try_clone()?);
        let (body, log) = receive_with_descriptor(&socket)?
            .ok_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, "the runner is gone"))?;
        // What is wrong with it is not repeated: it may hold secrets.
        let unreadable = |_| io::Error::new(io::ErrorKind::InvalidData, "its request cannot be read");
        let request: InitRequest = serde_json::from_slice(&body).map_err(unreadable)?;
        let limits_memory = request.confinement.container().is_some_and(|container| container.enforced.memory);
        Ok((Self { stream, children, limits_memory }, request, log))
    }

    /// The way for reports.
    pub(super) fn speaks(&self) -> io::Result<OwnedFd> {
        self.stream.as_fd().try_clone_to_owned()
    }

    /// Whether the kernel has killed in this container for want of memory. Its group is what it sees as the whole.
    pub(super) fn is_out_of_memory(&self) -> bool {
        let files = ["/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control"];
        let text = files.iter().find_map(|file| fs::read_to_string(file).ok());
        self.limits_memory && text.is_some_and(|text| crate::cgroup::oom_kills_in(&text) > 0)
    }

    /// Sleeps until a child has ended. Does not return when the runner is gone: this process ends then, and all
    /// processes of its namespace with it.
    pub(super) fn wait(&self) -> io::Result<()> {
        loop {
            let mut ready = [
                PollFd::from_borrowed_fd(self.children.as_fd(), PollFlags::IN),
                PollFd::new(&self.stream, PollFlags::IN),
            ];
            match poll(&mut ready, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            if !ready[1].revents().is_empty() {
                self.obey();
            }
            if !ready[0].revents().is_empty() {
                while self.children.read_signal()?.is_some() {}
                return Ok(());
            }
        }
    }

    fn obey(&self) {
        let mut order = [0];
        match (&self.stream).read(&mut order) {
            Ok(1) if order[0] == STOP_BYTE => {
                // Everything but this process. One that is stopped acts on SIGTERM only when it continues.
                let all = nix::unistd::Pid::from_raw(-1);
                let _ = kill(all, Signal::SIGTERM);
                let _ = kill(all, Signal::SIGCONT);
            }
            Ok(1..) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(0) | Err(_) => std::process::exit(1),
        }
    }
}

/// Makes a program that was thought up outside one of this container's: with the image's variables, and whichever of
/// its interpreters there is.
pub(super) fn adapt(program: &mut Program, container: &Container) {
    let image = container.image_env.iter().map(|variable| {
        let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
        (OsString::from(name), OsString::from(value))
    });
    let mut env: Vec<(OsString, OsString)> = vec![("PATH".into(), DEFAULT_PATH.into())];
    env.extend(image);
    // What descriptions of devices add, and no more of the rest than the image says anyway.
    let added = std::env::vars_os().filter(|(name, _)| !LOADER_VARIABLES.iter().any(|loader| name == loader));
    env.extend(added);
    env.append(&mut program.env);
    program.env = env;
    let found = program.argv.first().is_some_and(|word| program.resolve(word).is_some());
    if !found && let Some(other) = container.instead.iter().find(|word| program.resolve(word).is_some()) {
        program.argv[0].clone_from(other);
    }
}

/// What the engine does not limit, as far as this process can.
pub(super) fn limit(container: &Container, memory_bytes: Option<u64>) -> io::Result<()> {
    let most = |bytes| Rlimit { current: Some(bytes), maximum: Some(bytes) };
    // A dump of gigabytes belongs to nobody's output.
    setrlimit(Resource::Core, most(0))?;
    if let Some(bytes) = memory_bytes.filter(|_| !container.enforced.memory) {
        setrlimit(Resource::Data, most(bytes))?;
    }
    Ok(())
}
