//! The fork helper: a process with one thread that forks a shim for each start request and reaps
//! those that end. It holds no state worth keeping; when its socket closes, it exits and the shims
//! stay.

use super::{
    process::{self, ShimContext},
    record::boot_id,
    wire::{StartRequest, receive_with_descriptor},
};
use fetchml_fork::Fork;
use nix::sys::{
    signal::{SigSet, Signal},
    signalfd::{SfdFlags, SignalFd},
};
use rustix::{
    event::{PollFd, PollFlags, poll},
    fd::OwnedFd,
    io::Errno,
    process::{WaitOptions, wait},
};
use std::{fs::File, io};

/// Runs the fork helper on standard input until that closes. For a fresh process only: it must have
/// a single thread.
pub fn helper_main() -> ! {
    let code = match run() {
        Ok(()) => 0,
        Err(error) => {
            // Standard error is the agent's log; nothing else hears from a helper.
            eprintln!("fetchml fork helper: {error}");
            1
        }
    };
    std::process::exit(code)
}

fn run() -> io::Result<()> {
    let agent = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    fetchml_fork::close_on_exec_above_stderr()?;
    // Out of the terminal's process group: Ctrl-C is for the agent. Fails only for the leader of a
    // group, which is out already.
    let _ = rustix::process::setsid();
    rustix::process::chdir("/")?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    let signals = block_signals()?;
    let binary = File::open("/proc/self/exe")?.into();
    let context = ShimContext { boot_id: boot_id()?, null, binary };
    loop {
        let mut ready = [
            PollFd::new(&agent, PollFlags::IN),
            PollFd::from_borrowed_fd(std::os::fd::AsFd::as_fd(&signals), PollFlags::IN),
        ];
        match poll(&mut ready, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let agent_spoke = !ready[0].revents().is_empty();
        if !ready[1].revents().is_empty() {
            while signals.read_signal()?.is_some() {}
            reap()?;
        }
        if agent_spoke {
            let Some((request, socket)) = receive(&agent)? else { return Ok(()) };
            fetchml_failpoint::reach("helper.received");
            if let Fork::Child = fetchml_fork::fork()? {
                drop(agent);
                process::shim_main(&context, &signals, request, socket);
            }
        }
    }
}

/// Blocks the signals that would end a helper or a shim, and gives a descriptor to read SIGCHLD and
/// SIGTERM from. Forked processes inherit this; a user's process is given an empty mask again.
fn block_signals() -> io::Result<SignalFd> {
    let mut mask = SigSet::empty();
    for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGPIPE] {
        mask.add(signal);
    }
    mask.thread_block()?;
    Ok(SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
}

fn reap() -> io::Result<()> {
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) | Err(Errno::CHILD) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// The next request and the socket that came with it; `None` when the agent is gone.
fn receive(agent: &OwnedFd) -> io::Result<Option<(StartRequest, OwnedFd)>> {
    let Some((body, socket)) = receive_with_descriptor(agent)? else { return Ok(None) };
    // What is wrong with it is not repeated: it may hold secrets.
    let request = serde_json::from_slice(&body).map_err(|error| {
        let place = format!("a request cannot be read, in column {}; restart the worker", error.column());
        io::Error::new(io::ErrorKind::InvalidData, place)
    })?;
    Ok(Some((request, socket)))
}
