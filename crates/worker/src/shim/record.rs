//! What a shim leaves in the attempt's directory, and the proof of who a process is.

use crate::cgroup::Cgroup;
use fetchml_api::{AttemptId, FailureCause, link::Outcome};
use rustix::process::Pid;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::Path,
};

/// Names of the files in an attempt's directory.
pub mod files {
    /// Locked by the shim for its life.
    pub const LOCK: &str = "lock";
    /// Who the shim is.
    pub const SHIM: &str = "shim.json";
    /// The user's process' standard output and error.
    pub const LOG: &str = "log";
    /// A request to stop.
    pub const STOP: &str = "stop.json";
    /// How the attempt ended.
    pub const EXIT: &str = "exit.json";

    /// What a record is written as before it is renamed into place.
    pub fn beside(name: &str) -> String {
        format!(".{name}.new")
    }
}

/// What the lock file holds once user code may have run.
pub(super) const GO_MARK: &[u8] = b"go";

/// Who a shim is: enough to tell it from any other process that has its process id later.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct ShimRecord {
    /// The boot it lives in.
    pub(super) boot_id: String,
    /// Its process id.
    pub(super) pid: i32,
    /// When it started, clock ticks since boot.
    pub(super) start_time: u64,
    /// Its attempt.
    pub(super) attempt: AttemptId,
    /// The control group of its processes, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) cgroup: Option<Cgroup>,
}

/// A request to stop, as the agent writes it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct StopRequest {
    /// Why: recorded in the exit.
    pub(super) cause: FailureCause,
    /// Time between SIGTERM and SIGKILL, seconds.
    pub(super) grace_s: u32,
}

/// Why an attempt's process ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitCause {
    /// The main process exited by itself.
    Exit,
    /// A signal that the shim did not send ended the main process.
    Signal,
    /// It ended badly after the kernel killed one of its processes for want of memory.
    OutOfMemory,
    /// The time limit passed.
    Timeout,
    /// The agent asked for it, for this cause.
    Stopped(FailureCause),
    /// The program could not be started. With an exit code (126, 127, as a shell would give) the
    /// task is at fault, without one the worker.
    LaunchFailed,
    /// No user code ran: the shim ended before it could.
    NeverStarted,
    /// User code may have run and nobody saw its end.
    Lost,
}

/// How an attempt's process ended.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Exit {
    /// Why.
    pub cause: ExitCause,
    /// Exit code of the main process, when it ended by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Signal that ended the main process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// One sentence about a failed start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// When user code was started, milliseconds since 1970 UTC; 0 when unknown.
    pub started_at_ms: i64,
    /// When the last process of the tree was dead, milliseconds since 1970 UTC; 0 when unknown.
    pub ended_at_ms: i64,
}

impl Exit {
    /// An exit of which nothing but the cause is known.
    pub(super) fn unseen(cause: ExitCause) -> Self {
        Self { cause, exit_code: None, signal: None, error: None, started_at_ms: 0, ended_at_ms: 0 }
    }

    /// Whether the main process exited by itself with code 0.
    pub fn is_success(&self) -> bool {
        self.cause == ExitCause::Exit && self.exit_code == Some(0)
    }

    /// The outcome to report, still without length of the log and artifacts.
    pub fn outcome(&self) -> Outcome {
        let (cause, error) = match self.cause {
            ExitCause::Exit if self.exit_code == Some(0) => (None, None),
            ExitCause::Exit => {
                let code = self.exit_code.map_or_else(|| "unknown".to_owned(), |code| code.to_string());
                (Some(FailureCause::ExitNonzero), Some(format!("the process exited with code {code}; see its log")))
            }
            ExitCause::Signal => (Some(FailureCause::Signal), Some(self.signal_sentence())),
            ExitCause::OutOfMemory => (
                Some(FailureCause::OomHost),
                Some(
                    "the task used more memory than it may and was killed; ask for more with memory_gb or use less"
                        .to_owned(),
                ),
            ),
            ExitCause::Timeout => {
                (Some(FailureCause::Timeout), Some("the time limit passed and the process was stopped".to_owned()))
            }
            ExitCause::Stopped(cause) => (Some(cause), None),
            ExitCause::LaunchFailed if self.exit_code.is_some() => {
                (Some(FailureCause::ExitNonzero), self.error.clone())
            }
            ExitCause::LaunchFailed => (Some(FailureCause::Launch), self.error.clone()),
            ExitCause::NeverStarted => {
                (Some(FailureCause::Launch), Some("its supervisor ended before the process was started".to_owned()))
            }
            ExitCause::Lost => (
                Some(FailureCause::Lost),
                Some("the process and its supervisor ended unseen, so its exit code is unknown".to_owned()),
            ),
        };
        Outcome { cause, exit_code: self.exit_code, signal: self.signal, error, ..Outcome::default() }
    }

    fn signal_sentence(&self) -> String {
        match self.signal {
            Some(9) => "the process was killed by signal 9 (SIGKILL), which is often the system running out of \
                        memory; ask for more with memory_gb or use less"
                .to_owned(),
            Some(signal) => format!("the process was ended by signal {signal}; see its log"),
            None => "the process was ended by a signal".to_owned(),
        }
    }
}

/// The identity of the current boot of this machine.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// The fields of `/proc/<pid>/stat` that are used here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Stat {
    /// State letter: `Z` is a zombie.
    pub(super) state: u8,
    /// Parent.
    pub(super) parent: i32,
    /// Session.
    pub(super) session: i32,
    /// Start time, clock ticks since boot.
    pub(super) start_time: u64,
}

impl Stat {
    /// Of another process.
    pub(super) fn of(pid: Pid) -> io::Result<Self> {
        Self::parse(&fs::read(format!("/proc/{}/stat", pid.as_raw_nonzero()))?)
    }

    /// Of this process.
    pub(super) fn of_self() -> io::Result<Self> {
        Self::parse(&fs::read("/proc/self/stat")?)
    }

    /// The command's name stands in parentheses and may hold anything, parentheses and spaces
    /// included: what follows the last `)` is fields without surprises.
    fn parse(stat: &[u8]) -> io::Result<Self> {
        let parse = || {
            let after = stat.iter().rposition(|byte| *byte == b')')? + 1;
            let text = std::str::from_utf8(stat.get(after..)?).ok()?;
            // Field 3 (state) is the first here; 4 is the parent, 6 the session, 22 the start time.
            let fields: Vec<&str> = text.split_ascii_whitespace().take(20).collect();
            Some(Self {
                state: *fields.first()?.as_bytes().first()?,
                parent: fields.get(1)?.parse().ok()?,
                session: fields.get(3)?.parse().ok()?,
                start_time: fields.get(19)?.parse().ok()?,
            })
        };
        parse().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "/proc/<pid>/stat is not as expected"))
    }
}

/// When a process started, clock ticks since boot.
pub(crate) fn process_start_time(pid: Pid) -> io::Result<u64> {
    Ok(Stat::of(pid)?.start_time)
}

/// Writes a JSON file so that a reader sees all of it or none: write beside, then rename. Not
/// synced: after a power cut the boot id tells that nothing can still run.
pub(super) fn write_json(dir: &Path, name: &str, value: &impl Serialize) -> io::Result<()> {
    let temporary = dir.join(files::beside(name));
    let bytes = serde_json::to_vec(value)?;
    // Cut after writing, not before: ext4 writes a file that was emptied first to disk when it is closed.
    let mut file = File::options().create(true).write(true).truncate(false).open(&temporary)?;
    file.write_all(&bytes)?;
    file.set_len(bytes.len() as u64)?;
    drop(file);
    if name == files::EXIT {
        fetchml_failpoint::reach("shim.exit_written");
    }
    fs::rename(&temporary, dir.join(name))
}

/// Reads what [`write_json`] wrote; `None` when there is no such file.
pub(super) fn read_json<T: DeserializeOwned>(dir: &Path, name: &str) -> io::Result<Option<T>> {
    match fs::read(dir.join(name)) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// A line of the lock file after its mark: a record for which the disk had no room.
#[derive(Serialize, Deserialize)]
struct Squeezed<T> {
    name: String,
    value: T,
}

/// As [`write_json`], for what must be said on a full disk too, or a tree that fills it could neither be
/// stopped nor ended: then it goes behind the mark in the lock file, whose block is there already.
pub(super) fn write_record(dir: &Path, name: &str, value: &impl Serialize) -> io::Result<()> {
    let error = match write_json(dir, name, value) {
        Err(error) if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => error,
        other => return other,
    };
    let mut lock = File::options().append(true).open(dir.join(files::LOCK))?;
    if lock.metadata()?.len() < GO_MARK.len() as u64 {
        return Err(error);
    }
    // In one write, begun and ended by a line break: what was cut off before it spoils nothing.
    let line = serde_json::to_string(&Squeezed { name: name.to_owned(), value })?;
    lock.write_all(format!("\n{line}\n").as_bytes())
}

/// Reads what [`write_record`] wrote, wherever it found room.
pub(super) fn read_record<T: DeserializeOwned>(dir: &Path, name: &str) -> io::Result<Option<T>> {
    if let Some(value) = read_json(dir, name)? {
        return Ok(Some(value));
    }
    let lock = match fs::read(dir.join(files::LOCK)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let lines = lock.split(|byte| *byte == b'\n').rev();
    let mut records = lines.filter_map(|line| serde_json::from_slice::<Squeezed<serde_json::Value>>(line).ok());
    let found = records.find(|record| record.name == name);
    Ok(found.map(|record| serde_json::from_value(record.value)).transpose()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_name_cannot_forge_fields() {
        let line = b"42 (a) Z 1 (b)) S 7 8 9 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 123456 0 0";
        let stat = Stat::parse(line).unwrap();
        assert_eq!(stat, Stat { state: b'S', parent: 7, session: 9, start_time: 123_456 });
        assert!(Stat::parse(b"42 (a").is_err());
        assert!(Stat::parse(b"").is_err());
    }

    #[test]
    fn a_record_is_found_in_the_lock_file_too() {
        let dir = tempfile::TempDir::new().unwrap();
        let read = || read_record::<StopRequest>(dir.path(), files::STOP).unwrap();
        assert_eq!(read(), None);
        let line = r#"{"name":"stop.json","value":{"cause":"quota","grace_s":7}}"#;
        fs::write(dir.path().join(files::LOCK), format!("go\n{{\"name\":\"st\n{line}\n")).unwrap();
        assert_eq!(read(), Some(StopRequest { cause: FailureCause::Quota, grace_s: 7 }));
        assert_eq!(read_record::<Exit>(dir.path(), files::EXIT).unwrap(), None);
        let sooner = StopRequest { cause: FailureCause::Cancelled, grace_s: 1 };
        write_record(dir.path(), files::STOP, &sooner).unwrap();
        assert_eq!(read(), Some(sooner));
    }

    #[test]
    fn only_a_seen_exit_code_of_zero_is_success() {
        let exit = |cause, exit_code| Exit { exit_code, ..Exit::unseen(cause) };
        assert_eq!(exit(ExitCause::Exit, Some(0)).outcome().cause, None);
        for (exit, cause) in [
            (exit(ExitCause::Exit, Some(3)), FailureCause::ExitNonzero),
            (exit(ExitCause::Exit, None), FailureCause::ExitNonzero),
            (exit(ExitCause::Lost, None), FailureCause::Lost),
            (exit(ExitCause::NeverStarted, None), FailureCause::Launch),
            (exit(ExitCause::LaunchFailed, Some(127)), FailureCause::ExitNonzero),
            (exit(ExitCause::LaunchFailed, None), FailureCause::Launch),
            (exit(ExitCause::Timeout, Some(0)), FailureCause::Timeout),
            (exit(ExitCause::Stopped(FailureCause::Cancelled), Some(0)), FailureCause::Cancelled),
        ] {
            assert!(!exit.is_success());
            assert_eq!(exit.outcome().cause, Some(cause));
        }
    }
}
