//! A `fetchml` process to measure, with a data directory of its own.

use crate::{Setup, http, processes};
use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command},
    thread,
    time::{Duration, Instant},
};

const START_TIMEOUT: Duration = Duration::from_secs(30);
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

/// A running server. Dropping it kills what still runs.
pub(crate) struct Server {
    child: Child,
    dir: PathBuf,
    pub(crate) address: SocketAddr,
    /// The admin key of its first start.
    pub(crate) key: String,
    /// From just before the process was started to the first answered request.
    pub(crate) first_answer: Duration,
}

impl Server {
    /// `command`: `up` or `serve`; `name`: of its fresh data directory.
    pub(crate) fn start(setup: &Setup, command: &str, name: &str) -> Result<Self> {
        Self::start_with(setup, command, name, &[])
    }

    /// The same, with further environment variables.
    pub(crate) fn start_with(setup: &Setup, command: &str, name: &str, env: &[(&str, &str)]) -> Result<Self> {
        let dir = setup.dir.join(name);
        fs::create_dir_all(&dir)?;
        let address = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?;
        let log = File::create(dir.join("log"))?;
        let mut process = Command::new(&setup.program);
        for (variable, _) in std::env::vars_os() {
            if variable.to_string_lossy().starts_with("FETCHML_") {
                process.env_remove(variable);
            }
        }
        process.arg(command).arg("--data-dir").arg(dir.join("data")).arg("--listen").arg(address.to_string());
        process.env("FETCHML_RATE_LIMITS", "off").env("XDG_CONFIG_HOME", dir.join("config"));
        process.envs(env.iter().copied());
        process.stdin(std::process::Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let started = Instant::now();
        let child = process.spawn().with_context(|| format!("starting {}", setup.program.display()))?;
        let mut server = Self { child, dir, address, key: String::new(), first_answer: Duration::ZERO };
        while !answers(address) {
            if server.child.try_wait()?.is_some() || started.elapsed() > START_TIMEOUT {
                bail!("fetchml {command} did not start:\n{}", server.log());
            }
            thread::sleep(Duration::from_millis(1));
        }
        server.first_answer = started.elapsed();
        let key_file = server.dir.join("data/admin.key");
        fs::read_to_string(&key_file)
            .with_context(|| format!("reading {}", key_file.display()))?
            .trim()
            .clone_into(&mut server.key);
        Ok(server)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    /// The bytes of a request with the admin key.
    pub(crate) fn request(&self, method: &str, path: &str, body: &str) -> Vec<u8> {
        http::request(method, path, self.address, &self.key, body)
    }

    /// One GET for JSON.
    pub(crate) async fn get(&self, connection: &mut http::Connection, path: &str) -> Result<Value> {
        let answer = connection.exchange(&self.request("GET", path, "")).await?;
        if answer.status != 200 {
            bail!("GET {path}: {}: {}", answer.status, String::from_utf8_lossy(&answer.body));
        }
        Ok(serde_json::from_slice(&answer.body)?)
    }

    /// Asks it to stop, waits until it is gone and removes its directory.
    pub(crate) fn stop(mut self) -> Result<()> {
        kill_process(self.raw_pid()?, Signal::TERM)?;
        let asked = Instant::now();
        while self.child.try_wait()?.is_none() {
            if asked.elapsed() > STOP_TIMEOUT {
                bail!("fetchml did not stop on SIGTERM:\n{}", self.log());
            }
            thread::sleep(Duration::from_millis(5));
        }
        processes::reap_orphans();
        remove(&self.dir);
        Ok(())
    }

    fn raw_pid(&self) -> Result<Pid> {
        i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("the process has no id")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// What cannot be removed goes with the whole run's folder.
fn remove(dir: &Path) {
    let _ = fs::remove_dir_all(dir);
}

/// Whether `GET /health` is answered.
fn answers(address: SocketAddr) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        write!(stream, "GET /health HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
        let mut start = [0; 12];
        stream.read_exact(&mut start)?;
        Ok(start == *b"HTTP/1.1 200")
    };
    ask().unwrap_or(false)
}
