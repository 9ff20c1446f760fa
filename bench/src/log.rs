//! A gigabyte of log at full speed. Half of it is written while the worker's agent lives, half while it is dead: the
//! task must not notice. The same bytes written to a plain file in the same run say what this disk takes.

use crate::{
    Setup,
    report::{Report, Target},
    server::Server,
};
use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use std::{
    env,
    fs::{self, File},
    io::Read as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// The argument that makes this program the task.
pub(crate) const WRITER: &str = "__write-log";

const BLOCK_BYTES: usize = 64 << 10;
const HALF_BYTES: usize = 512 << 20;
const MIB: f64 = 1_048_576.0;
/// How long anything may take.
const DEADLINE: Duration = Duration::from_mins(10);
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Target for the growth of the server's resident memory, MiB.
const SERVER_GROWTH_MIB: f64 = 16.0;
/// Target for the rate with a dead agent over that with a living one. It is above 1 where cores are few: a dead agent
/// reads nothing.
const UNHINDERED: f64 = 0.8;

/// Block number `n` of the log: no two are alike, and lines are long.
pub(crate) fn block(n: usize, bytes: &mut [u8]) {
    let mut state = n as u64;
    for chunk in bytes.chunks_mut(8) {
        // SplitMix64 (Steele, Lea, Flood 2014).
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        chunk.copy_from_slice(&(z ^ (z >> 31)).to_le_bytes()[..chunk.len()]);
    }
}

/// How one half went.
struct Half {
    seconds: f64,
    /// Longest time that one write took, seconds.
    longest: f64,
}

/// The task: writes both halves to its standard output, waits for `DIR/go` between them, and leaves `DIR/half0` and
/// `DIR/half1`.
pub(crate) fn write_log(dir: &Path) -> Result<()> {
    for half in 0..2 {
        if half == 1 {
            wait_for("the word to go on", || dir.join("go").exists())?;
        }
        let went = write_half(half, &mut std::io::stdout().lock())?;
        // In place at once, for who waits for it.
        let (beside, file) = (dir.join("beside"), dir.join(format!("half{half}")));
        fs::write(&beside, format!("{} {}", went.seconds, went.longest))?;
        fs::rename(beside, file)?;
    }
    Ok(())
}

fn write_half(half: usize, to: &mut impl std::io::Write) -> Result<Half> {
    let mut bytes = vec![0; BLOCK_BYTES];
    let blocks = HALF_BYTES / BLOCK_BYTES;
    let mut went = Half { seconds: 0.0, longest: 0.0 };
    for n in 0..blocks {
        block(half * blocks + n, &mut bytes);
        let began = Instant::now();
        to.write_all(&bytes)?;
        to.flush()?;
        let took = began.elapsed().as_secs_f64();
        went.seconds += took;
        went.longest = went.longest.max(took);
    }
    Ok(went)
}

pub(crate) fn measure(setup: &Setup, report: &mut Report) -> Result<()> {
    let plain = setup.dir.join("plain");
    let bare = write_half(0, &mut File::create(&plain)?)?;
    fs::remove_file(plain)?;

    let server = Server::start(setup, "serve", "log")?;
    let lab = Lab::new(setup, &server)?;
    let mut agent = lab.agent()?;
    let notes = setup.dir.join("log-notes");
    fs::create_dir(&notes)?;
    let idle = resident_mib(server.pid())?;
    let watch = Watch::start(server.pid());

    let task = lab.submit(&notes)?;
    let with_agent = half(&notes, 0)?;
    agent.kill()?;
    agent.wait()?;
    File::create(notes.join("go"))?;
    let without_agent = half(&notes, 1)?;
    let back = Instant::now();
    let mut agent = lab.agent()?;
    lab.cli(&["wait", &task])?;
    let caught_up = back.elapsed().as_secs_f64();
    let peak = watch.stop();
    lab.check(&task)?;
    agent.kill()?;
    agent.wait()?;
    server.stop()?;

    let rate = |half: &Half| HALF_BYTES as f64 / MIB / half.seconds;
    report.add("log to a plain file", rate(&bare), "MiB/s", Target::None);
    report.add("log of a task", rate(&with_agent), "MiB/s", Target::None);
    report.add("ratio", rate(&with_agent) / rate(&bare), "", Target::None);
    report.add("log of a task, agent dead", rate(&without_agent), "MiB/s", Target::None);
    report.add(
        "ratio to one with its agent",
        rate(&without_agent) / rate(&with_agent),
        "",
        Target::AtLeast(UNHINDERED),
    );
    report.add("longest write, agent dead", without_agent.longest * 1e3, "ms", Target::None);
    report.add("agent's start to all stored", caught_up, "s", Target::None);
    report.add("server memory grown by", peak - idle, "MiB", Target::Below(SERVER_GROWTH_MIB));
    Ok(())
}

/// What is done by commands, as a user would.
struct Lab<'a> {
    setup: &'a Setup,
    server: &'a Server,
    worker_key: PathBuf,
}

impl<'a> Lab<'a> {
    fn new(setup: &'a Setup, server: &'a Server) -> Result<Self> {
        let lab = Self { setup, server, worker_key: setup.dir.join("worker.key") };
        let key = lab.cli(&["keys", "create", "--role", "worker", "--user", "bench", "--json"])?;
        let key: Value = serde_json::from_str(&key)?;
        fs::write(&lab.worker_key, key["key"].as_str().context("a key")?)?;
        Ok(lab)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.setup.program);
        command.args(arguments).env("HOME", &self.setup.dir).stdin(Stdio::null());
        command.env("FETCHML_URL", format!("http://{}", self.server.address)).env("FETCHML_API_KEY", &self.server.key);
        command
    }

    /// Standard output of a command that must succeed.
    fn cli(&self, arguments: &[&str]) -> Result<String> {
        let output = self.command(arguments).output()?;
        if !output.status.success() {
            bail!("fetchml {arguments:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// A worker's agent, the same worker each time.
    fn agent(&self) -> Result<Child> {
        let log = File::options().create(true).append(true).open(self.setup.dir.join("worker.log"))?;
        let mut command = self.command(&["worker", "--isolation", "none"]);
        command.arg("--server").arg(format!("http://{}", self.server.address)).arg("--key-file").arg(&self.worker_key);
        command.arg("--data-dir").arg(self.setup.dir.join("worker")).stdout(log.try_clone()?).stderr(log);
        Ok(command.spawn()?)
    }

    /// The id of the task that prints.
    fn submit(&self, notes: &Path) -> Result<String> {
        let (program, notes) = (env::current_exe()?, notes.to_owned());
        let words = [program.to_str(), notes.to_str()].map(|word| word.context("a path in UTF-8"));
        let [program, notes] = words;
        let task = self.cli(&["submit", "--no-snapshot", "--json", "--", program?, WRITER, notes?])?;
        let task: Value = serde_json::from_str(&task)?;
        Ok(task["id"].as_str().context("an id")?.to_owned())
    }

    /// What is stored is what was written.
    fn check(&self, task: &str) -> Result<()> {
        let mut written = Sha256::new();
        let mut bytes = vec![0; BLOCK_BYTES];
        for n in 0..2 * HALF_BYTES / BLOCK_BYTES {
            block(n, &mut bytes);
            written.update(&bytes);
        }
        let mut reader = self.command(&["logs", task]).stdout(Stdio::piped()).spawn()?;
        let mut out = reader.stdout.take().context("it is piped")?;
        let mut stored = Sha256::new();
        loop {
            match out.read(&mut bytes)? {
                0 => break,
                n => stored.update(&bytes[..n]),
            }
        }
        if !reader.wait()?.success() || stored.finalize() != written.finalize() {
            bail!("the stored log is not what the task wrote");
        }
        Ok(())
    }
}

fn half(notes: &Path, number: usize) -> Result<Half> {
    let file = notes.join(format!("half{number}"));
    wait_for("half of the log", || file.exists())?;
    let text = fs::read_to_string(file)?;
    let (seconds, longest) = text.split_once(' ').context("two numbers")?;
    Ok(Half { seconds: seconds.parse()?, longest: longest.parse()? })
}

fn wait_for(what: &str, is_so: impl Fn() -> bool) -> Result<()> {
    let began = Instant::now();
    while !is_so() {
        if began.elapsed() > DEADLINE {
            bail!("waited {DEADLINE:?} for {what}");
        }
        thread::sleep(LOOK_EVERY);
    }
    Ok(())
}

/// Samples the resident memory of a process.
struct Watch {
    over: Arc<AtomicBool>,
    thread: thread::JoinHandle<f64>,
}

impl Watch {
    fn start(pid: u32) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&over);
        let thread = thread::spawn(move || {
            let mut peak = 0.0_f64;
            while !told.load(Ordering::Relaxed) {
                peak = peak.max(resident_mib(pid).unwrap_or(0.0));
                thread::sleep(LOOK_EVERY);
            }
            peak
        });
        Self { over, thread }
    }

    /// The most that was seen, MiB.
    fn stop(self) -> f64 {
        self.over.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or(f64::NAN)
    }
}

/// Of the process itself.
fn resident_mib(pid: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("a process has resident memory")?;
    let kib: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib / 1024.0)
}
