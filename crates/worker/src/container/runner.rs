//! The runner: the shim's child that stands for one container, and the only process that speaks to the engine about it.
//!
//! It makes and starts the container, waits for its first process to dial in, hands it the command and the log file,
//! passes its reports on to the shim, and takes the container away when that process has ended. SIGTERM is passed on to
//! every process inside; SIGQUIT, or the shim's death, ends the container at once. As long as the connection to the
//! first process stands, the engine is not needed: it may be restarted meanwhile.
//!
//! Standard input is the request, standard output the log, standard error the way to the shim.

use super::{Container, blueprint::Blueprint, container_name, engine::Engine, libpod, program::Program};
use crate::{
    limits,
    shim::{Confinement, InitRequest, Layer, Report, STOP_BYTE, process_start_time, send_with_descriptor},
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fd::OwnedFd,
    process::{Pid, PidfdFlags, Signal, geteuid, pidfd_open, pidfd_send_signal, set_parent_process_death_signal},
};
use secrecy::zeroize::Zeroizing;
use std::{
    fs::{self, Permissions},
    io::{self, Read as _, Write as _},
    os::{fd::AsRawFd as _, unix::fs::PermissionsExt as _},
    path::Path,
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, Interest, unix::AsyncFd},
    net::{UnixListener, UnixStream},
    signal::unix::{Signal as Signals, SignalKind, signal},
    time::{Instant, sleep, timeout},
};

/// The argument that makes this binary a runner.
pub const RUNNER: &str = "__container";
/// A further argument: the container is to be taken away, and nothing else.
pub(crate) const REMOVE: &str = "remove";

/// Runs one container to its end and exits.
pub fn runner_main() -> ! {
    let code = match run() {
        Ok(()) => 0,
        Err(error) => {
            // Read by the shim.
            eprintln!("{error}");
            1
        }
    };
    std::process::exit(code)
}

fn run() -> Result<(), String> {
    // The shim's death is the container's end. It may have come before this line, which the pipe to it shows.
    let _ = set_parent_process_death_signal(Some(Signal::QUIT));
    let mut pipe = [PollFd::from_borrowed_fd(rustix::stdio::stderr(), PollFlags::empty())];
    let nobody_hears = poll(&mut pipe, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))
        .is_ok_and(|_| pipe[0].revents().contains(PollFlags::ERR));
    if nobody_hears {
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("no runtime: {error}"))?;
    runtime.block_on(async {
        // First of all: from here on a signal is an order.
        let orders = Orders::new().map_err(|error| format!("no signals: {error}"))?;
        let mut body = Zeroizing::new(Vec::new());
        io::stdin()
            .lock()
            .take(limits::SHIM_REQUEST_BYTES as u64)
            .read_to_end(&mut body)
            .map_err(|error| format!("no request: {error}"))?;
        // What is wrong with it is not repeated: it may hold secrets.
        let unreadable = |_| "its request cannot be read".to_owned();
        let request: InitRequest = serde_json::from_slice(&body).map_err(unreadable)?;
        let Layer::Container(container) = &request.confinement.layer else {
            return Err("this is no request for a container".to_owned());
        };
        let runner = Runner { container, confinement: &request.confinement, name: container_name(container.attempt) };
        if std::env::args_os().nth(2).is_some_and(|word| word == REMOVE) {
            return runner.remove(limits::REMOVE_WAIT).await;
        }
        runner.run(&body, orders).await
    })
}

/// What the shim orders by signals.
#[derive(Debug)]
struct Orders {
    end: Signals,
    kill: Signals,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Order {
    /// Ask every process inside to end.
    End,
    /// Kill them.
    Kill,
}

impl Orders {
    fn new() -> io::Result<Self> {
        Ok(Self { end: signal(SignalKind::terminate())?, kill: signal(SignalKind::quit())? })
    }

    async fn next(&mut self) -> Order {
        tokio::select! {
            _ = self.kill.recv() => Order::Kill,
            _ = self.end.recv() => Order::End,
        }
    }
}

#[derive(Debug)]
struct Runner<'a> {
    container: &'a Container,
    confinement: &'a Confinement,
    name: String,
}

/// The first process of the container, once it has dialled in.
#[derive(Debug)]
struct Inside {
    stream: UnixStream,
    /// By which its end, and with it that of everything inside, is seen, whatever the engine does; absent where
    /// this process cannot see it.
    process: Option<AsyncFd<OwnedFd>>,
}

impl Runner<'_> {
    async fn run(&self, request: &[u8], orders: Orders) -> Result<(), String> {
        let (engine, program, listener) = match self.prepare().await {
            Ok(ready) => ready,
            Err(error) => {
                // There never was a container.
                say(&Report::Gone);
                return Err(error);
            }
        };
        let result = self.live(&engine, &program, listener, request, orders).await;
        let _ = fs::remove_file(&self.container.link);
        let is_dead = result == Ok(true);
        let removed = self.remove(if is_dead { limits::REMOVE_DEAD_WAIT } else { limits::REMOVE_WAIT }).await;
        if is_dead && removed.is_err() {
            // Nothing of it runs; the agent takes away what is left when the engine is back.
            say(&Report::Gone);
        }
        result.map(drop)
    }

    /// Everything before the engine is asked for a container.
    async fn prepare(&self) -> Result<(Engine, Program, UnixListener), String> {
        let program = Program::at_hand(&self.container.program_dir)
            .map_err(|error| format!("a copy of this program for containers could not be made: {error}"))?;
        fs::create_dir_all(&self.container.empty)
            .map_err(|error| format!("{}: {error}", self.container.empty.display()))?;
        let listener =
            listen(&self.container.link).map_err(|error| format!("{}: {error}", self.container.link.display()))?;
        Ok((self.connect().await?, program, listener))
    }

    /// From its making to the end of all that runs inside; whether that was seen.
    async fn live(
        &self,
        engine: &Engine,
        program: &Program,
        listener: UnixListener,
        request: &[u8],
        mut orders: Orders,
    ) -> Result<bool, String> {
        self.create(engine, program).await?;
        engine.start(&self.name).await.map_err(|error| error.to_string())?;
        let inside = tokio::select! {
            inside = self.dialled_in(&listener) => inside.map_err(|error| error.to_string())?,
            why = self.ended_early(engine) => return Err(why),
            // Nothing has run yet, whatever the order.
            _ = orders.next() => return Ok(false),
            () = sleep(limits::DIAL_WAIT) => {
                return Err("its first process did not reach the worker".to_owned());
            }
        };
        // Nobody else gets in.
        drop(listener);
        let _ = fs::remove_file(&self.container.link);
        Ok(self.talk(engine, inside, request, &mut orders).await)
    }

    async fn connect(&self) -> Result<Engine, String> {
        let deadline = Instant::now() + limits::ENGINE_WAIT;
        loop {
            match Engine::connect(&self.container.socket).await {
                Ok(engine) => return Ok(engine),
                Err(error) if Instant::now() >= deadline => return Err(error.to_string()),
                Err(_) => sleep(limits::ENGINE_RETRY).await,
            }
        }
    }

    async fn create(&self, engine: &Engine, program: &Program) -> Result<(), String> {
        let blueprint = || Blueprint::new(self.container, self.confinement, program).map_err(|error| error.to_string());
        let create = async |blueprint: Blueprint<'_>| {
            if blueprint.needs_libpod() {
                libpod::create(&self.container.socket, &blueprint.specification(&self.name)).await
            } else {
                engine.create(&self.name, blueprint.body()).await
            }
        };
        let created = match create(blueprint()?).await {
            // An attempt runs once: what has its name is left of a try that never came to run anything.
            Err(error) if error.is_conflict() => {
                engine.remove(&self.name).await.map_err(|error| error.to_string())?;
                create(blueprint()?).await
            }
            other => other,
        };
        created.map_err(|error| error.to_string())
    }

    /// Waits for the first process. Whoever else finds the way to the socket is not listened to.
    async fn dialled_in(&self, listener: &UnixListener) -> io::Result<Inside> {
        loop {
            let (stream, _) = listener.accept().await?;
            let peer = stream.peer_cred()?;
            if peer.uid() != self.user_outside() {
                continue;
            }
            let pid = peer.pid().and_then(Pid::from_raw);
            let process = pid.map(|pid| pidfd_open(pid, PidfdFlags::NONBLOCK)).transpose()?;
            #[expect(deprecated, reason = "its successor is unsafe for descriptors that change; an `OwnedFd` cannot")]
            let process = process.map(|process| AsyncFd::with_interest(process, Interest::READABLE)).transpose()?;
            if let Some(pid) = pid {
                let start_time = process_start_time(pid)?;
                say(&Report::Inside { pid: pid.as_raw_nonzero().get(), start_time });
            }
            return Ok(Inside { stream, process });
        }
    }

    /// As whom the user of the container counts on this machine.
    fn user_outside(&self) -> u32 {
        let inside = self.container.user.split(':').next().and_then(|uid| uid.parse().ok());
        inside.filter(|uid| *uid != 0).unwrap_or_else(|| geteuid().as_raw())
    }

    /// Resolves when the container ended before its first process dialled in, and says why.
    async fn ended_early(&self, engine: &Engine) -> String {
        loop {
            sleep(limits::DIAL_LOOK_EVERY).await;
            if let Ok((true, _)) = engine.ended(&self.name).await {
                let words = engine.last_words(&self.name).await;
                return format!("its first process ended at once: {words}");
            }
        }
    }

    /// Hands over what to run, and passes reports and orders on until the first process has ended; whether
    /// that was seen.
    async fn talk(&self, engine: &Engine, inside: Inside, request: &[u8], orders: &mut Orders) -> bool {
        let Inside { mut stream, process } = inside;
        let mut reports = Reports::default();
        // The other side's end is seen below.
        let _ = send_with_descriptor(&mut stream, request, rustix::stdio::stdout()).await;
        loop {
            tokio::select! {
                more = reports.hear(&mut stream) => if !more { break },
                order = orders.next() => match order {
                    Order::End => drop(stream.write_all(&[STOP_BYTE]).await),
                    Order::Kill => break,
                },
            }
        }
        // The first process ends with it, and everything else inside with that one.
        drop(stream);
        let is_dead = match &process {
            Some(process) => ends(process).await,
            None => false,
        };
        if !reports.ended {
            let out_of_memory = engine.ended(&self.name).await.is_ok_and(|(_, out_of_memory)| out_of_memory);
            let signal = Some(Signal::KILL.as_raw());
            say(&Report::Ended { code: None, signal, leftovers: false, out_of_memory });
        }
        is_dead
    }

    /// Kills and removes the container, and says so.
    async fn remove(&self, wait: Duration) -> Result<(), String> {
        let deadline = Instant::now() + wait;
        loop {
            let removed = async { Engine::connect(&self.container.socket).await?.remove(&self.name).await };
            match removed.await {
                Ok(()) => {
                    say(&Report::Gone);
                    return Ok(());
                }
                Err(error) if Instant::now() >= deadline => return Err(error.to_string()),
                Err(_) => sleep(limits::ENGINE_RETRY).await,
            }
        }
    }
}

/// What the first process says, line by line.
#[derive(Debug, Default)]
struct Reports {
    rest: Vec<u8>,
    ended: bool,
}

impl Reports {
    /// Passes on what has been said; `false` at the end.
    async fn hear(&mut self, stream: &mut UnixStream) -> bool {
        let mut buffer = [0; 1024];
        let Ok(length @ 1..) = stream.read(&mut buffer).await else { return false };
        self.rest.extend_from_slice(&buffer[..length]);
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            match serde_json::from_slice(&line) {
                // The rest is for this side to say.
                Ok(Report::Inside { .. } | Report::Gone) => {}
                Ok(report) => {
                    self.ended |= matches!(report, Report::Ended { .. });
                    say(&report);
                }
                Err(_) => eprint!("{}", String::from_utf8_lossy(&line)),
            }
        }
        if self.rest.len() > limits::SANDBOX_COMPLAINT_BYTES {
            self.rest.clear();
        }
        true
    }
}

/// Waits for a process that is about to end, and kills it where it does not; whether it has ended.
async fn ends(process: &AsyncFd<OwnedFd>) -> bool {
    if timeout(limits::CONTAINER_END_WAIT, process.readable()).await.is_ok() {
        return true;
    }
    let _ = pidfd_send_signal(process.get_ref(), Signal::KILL);
    timeout(limits::CONTAINER_END_WAIT, process.readable()).await.is_ok()
}

/// A socket at a path of any length.
fn listen(path: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let (dir, name) = path.parent().zip(path.file_name()).ok_or(io::ErrorKind::InvalidInput)?;
    let dir = fs::File::open(dir)?;
    let short = Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(name);
    let listener = UnixListener::bind(short)?;
    // The task's user is another one. The directory that it lies in is open to the worker's user alone.
    fs::set_permissions(path, Permissions::from_mode(0o666))?;
    Ok(listener)
}

/// Tells the shim. When that is gone, so is this process.
fn say(report: &Report) {
    if let Ok(mut line) = serde_json::to_vec(report) {
        line.push(b'\n');
        let _ = io::stderr().write_all(&line);
    }
}
