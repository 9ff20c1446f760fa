//! `cargo xtask demo`: what a newcomer types first. Builds FetchML, starts `fetchml up`, trains
//! `examples/digits` through it and shows the states, the live log, the accuracy and the files.

use crate::{
    command::{cargo, root, run as run_command, shown, target_dir},
    prerequisites::python_with_venv,
    supervised::Supervised,
};
use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use signal_hook::consts::{SIGINT, SIGTERM};
use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// FetchML's own port, taken when it is free.
const PORT: u16 = 9101;
/// How long the server may take until it answers.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// The demo has failed below this.
const ACCURACY_MIN: f64 = 0.9;

pub(crate) fn run(args: &[String]) -> Result<ExitCode> {
    let once = match args {
        [] => false,
        [flag] if flag == "--once" => true,
        _ => bail!("usage: cargo xtask demo [--once]"),
    };
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // The first one ends the demo in order; a second one ends it at once.
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&interrupted))?;
        signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
    }
    let demo = Demo::prepare()?;
    let mut server = demo.start_server(&interrupted)?;
    let accuracy = demo.train(&interrupted)?;
    if once {
        step("Stop the server");
        drop(server);
    } else {
        demo.say_what_next();
        while !interrupted.load(Ordering::Relaxed) {
            if let Some(status) = server.ended()? {
                bail!("fetchml up ended with {status}; its log: {}", demo.server_log().display());
            }
            thread::sleep(Duration::from_millis(100));
        }
        println!("\nstopping ...");
        drop(server);
    }
    if accuracy <= ACCURACY_MIN {
        bail!("the accuracy is {accuracy:.4}, but more than {ACCURACY_MIN} was expected");
    }
    println!("\nThe demo ended well: accuracy {accuracy:.4}.");
    Ok(ExitCode::SUCCESS)
}

/// Where the parts of the demo lie.
struct Demo {
    program: PathBuf,
    /// `target/demo`: data directory, log of the server, fetched files.
    dir: PathBuf,
    address: SocketAddr,
}

impl Demo {
    /// Builds FetchML. A development build: its first result comes much sooner than a release's.
    fn prepare() -> Result<Self> {
        python_with_venv()?;
        step("Build FetchML (only the first time takes minutes)");
        run_command(cargo().args(["build", "--package", "fetchml"]))?;
        let target = target_dir()?;
        let dir = target.join("demo");
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let address = free_address()?;
        Ok(Self { program: target.join("debug/fetchml"), dir, address })
    }

    fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    fn server_log(&self) -> PathBuf {
        self.dir.join("server.log")
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Starts `fetchml up` and waits until it answers.
    fn start_server(&self, interrupted: &AtomicBool) -> Result<Supervised> {
        step("Start the server and one worker");
        let mut up = Command::new(&self.program);
        up.arg("up").arg("--data-dir").arg(self.data_dir()).arg("--listen").arg(self.address.to_string());
        // The profile that `up` writes for the CLI stays inside the demo.
        up.env("XDG_CONFIG_HOME", self.dir.join("config"));
        println!("$ {}", shown(&up));
        let log = fs::File::create(self.server_log())?;
        let mut server = Supervised::start(&up, "TERM", "", log.try_clone()?.into(), log.into())?;
        let started = Instant::now();
        while !answers(self.address) {
            if server.ended()?.is_some() || started.elapsed() > START_TIMEOUT {
                let log = fs::read_to_string(self.server_log()).unwrap_or_default();
                bail!("fetchml up did not start:\n{log}");
            }
            stop_if(interrupted)?;
            thread::sleep(Duration::from_millis(20));
        }
        println!("{} answers after {} ms", self.url(), started.elapsed().as_millis());
        Ok(server)
    }

    /// Submits the example, follows it to its end and returns the accuracy it reached.
    fn train(&self, interrupted: &AtomicBool) -> Result<f64> {
        step("Submit examples/digits and follow it (the first time its Python environment is built)");
        let mut submit = self.fetchml(&["submit", "--follow", "--name", "digits", "train.py"]);
        submit.current_dir(root().join("examples/digits"));
        println!("$ cd examples/digits && {}", shown(&submit));
        let status = submit.status().with_context(|| format!("cannot start {}", shown(&submit)))?;
        stop_if(interrupted)?;
        if !status.success() {
            bail!("the training failed: {status}; the server's log: {}", self.server_log().display());
        }

        let tasks: Value = serde_json::from_str(&self.answer(&["tasks", "--json"])?)?;
        let id = tasks["tasks"][0]["id"].as_str().context("`fetchml tasks --json` shows no task")?.to_owned();

        step("What the server knows of it");
        self.show(&["show", &id])?;
        step("What it left behind");
        self.show(&["artifacts", "ls", &id])?;
        let result = self.dir.join("result");
        // Of an earlier demo.
        let _ = fs::remove_dir_all(&result);
        self.show(&["artifacts", "get", &id, "--output", &short(&result)])?;
        let (picture, metrics) = (result.join("confusion_matrix.png"), result.join("metrics.json"));
        let metrics: Value = serde_json::from_str(&fs::read_to_string(&metrics)?)?;
        let accuracy = metrics["accuracy"].as_f64().context("metrics.json names no accuracy")?;
        if !picture.is_file() {
            bail!("the training left no confusion_matrix.png");
        }
        println!("\naccuracy: {accuracy:.4}\npicture:  {}", short(&picture));
        Ok(accuracy)
    }

    fn say_what_next(&self) {
        let program = short(&self.program);
        println!(
            "\nThe server goes on running. In another terminal, in this directory:\n\n  \
             export FETCHML_URL={} FETCHML_API_KEY=$(cat {})\n  \
             {program} tasks\n  \
             {program} queue\n  \
             {program} submit --follow --dir examples/digits train.py --epochs 40 --lr 0.003\n\n\
             Ctrl-C stops it here.",
            self.url(),
            short(&self.data_dir().join("admin.key")),
        );
    }

    /// The CLI as a user of this server.
    fn fetchml(&self, args: &[&str]) -> Command {
        let key = fs::read_to_string(self.data_dir().join("admin.key")).unwrap_or_default();
        let mut command = Command::new(&self.program);
        command.args(args);
        command.env("FETCHML_URL", self.url()).env("FETCHML_API_KEY", key.trim());
        command.env("XDG_CONFIG_HOME", self.dir.join("config")).env("XDG_STATE_HOME", self.dir.join("state"));
        command
    }

    fn show(&self, args: &[&str]) -> Result<()> {
        let mut command = self.fetchml(args);
        println!("$ {}", shown(&command));
        run_command(&mut command)
    }

    fn answer(&self, args: &[&str]) -> Result<String> {
        crate::command::stdout_of(self.fetchml(args).stdin(Stdio::null()))
    }
}

fn step(what: &str) {
    println!("\n== {what}");
}

fn stop_if(interrupted: &AtomicBool) -> Result<()> {
    if interrupted.load(Ordering::Relaxed) {
        bail!("interrupted");
    }
    Ok(())
}

/// A path below the current directory is shown relative to it.
fn short(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(here).unwrap_or(path).display().to_string()
}

fn free_address() -> Result<SocketAddr> {
    let listener = TcpListener::bind(("127.0.0.1", PORT)).or_else(|_| TcpListener::bind(("127.0.0.1", 0)));
    Ok(listener.context("no free port on 127.0.0.1")?.local_addr()?)
}

/// Whether `GET /health` answers 200.
fn answers(address: SocketAddr) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        write!(stream, "GET /health HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer.starts_with("HTTP/1.1 200 "))
    };
    ask().unwrap_or(false)
}
