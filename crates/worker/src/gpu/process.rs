//! Whose the processes on a device are. Asked on the thread that may hang: the kernel may make whoever reads
//! of a process wait for as long as a driver keeps that one.
//!
//! NVML names them by ids that a worker in a process namespace of its own may not know: there, what is not
//! visible on a device that a task has is taken for the task's own.

use crate::{executor::ATTEMPT_ID_VARIABLE, limits, shim::is_in_tree_of};
use fetchml_api::AttemptId;
use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

/// What CUDA's multi-process service calls its server, as far as the kernel keeps it: it stands between
/// the GPU and the processes that use it, which are listed as well.
const MPS_SERVER: &str = "nvidia-cuda-mps";

/// A process on a device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Process {
    pub(super) pid: u32,
    /// What it is called, where it is visible.
    pub(super) name: Option<String>,
    pub(super) owner: Owner,
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {}", self.pid)?;
        match &self.name {
            Some(name) => write!(f, " ({name})"),
            None => Ok(()),
        }
    }
}

/// Whose a process is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Owner {
    /// An attempt's.
    Attempt(AttemptId),
    /// The driver's.
    Driver,
    /// It is not visible: it ended and its memory is still being freed, or it is of another namespace.
    Unknown,
    /// Somebody else's.
    Stranger,
}

impl Process {
    /// What there is to know of a process; `attempts` are those that have devices, with their directories.
    pub(super) fn of(pid: u32, attempts: &[(AttemptId, PathBuf)]) -> Self {
        let Ok(name) = fs::read_to_string(format!("/proc/{pid}/comm")) else {
            return Self { pid, name: None, owner: Owner::Unknown };
        };
        let name: String = name.trim().chars().filter(|c| !c.is_control()).take(limits::PROCESS_NAME_CHARS).collect();
        let owner = if name == MPS_SERVER {
            Owner::Driver
        } else if let Some(attempt) = attempt_of(pid, attempts) {
            Owner::Attempt(attempt)
        } else if Path::new("/proc").join(pid.to_string()).exists() {
            Owner::Stranger
        } else {
            // It ended meanwhile.
            Owner::Unknown
        };
        Self { pid, name: Some(name), owner }
    }
}

fn attempt_of(pid: u32, attempts: &[(AttemptId, PathBuf)]) -> Option<AttemptId> {
    if let Some((attempt, _)) = attempts.iter().find(|(_, dir)| is_in_tree_of(dir, pid.cast_signed())) {
        return Some(*attempt);
    }
    // A container's processes are no children of the shim: their control group or their environment tells.
    let read = |file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let (groups, environment) = (read("cgroup"), read("environ"));
    let is_of = |attempt: &AttemptId| {
        let mark = format!("{ATTEMPT_ID_VARIABLE}={attempt}");
        String::from_utf8_lossy(&groups).contains(&attempt.to_string())
            || environment.split(|byte| *byte == 0).any(|entry| entry == mark.as_bytes())
    };
    attempts.iter().map(|(attempt, _)| *attempt).find(is_of)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn the_mark_of_an_attempt_tells_its_processes_from_others() {
        let attempt = AttemptId(uuid::Uuid::from_u128(7));
        let dir = tempfile::tempdir().unwrap();
        let sleep = |mark: Option<AttemptId>| {
            let mut command = Command::new("sleep");
            if let Some(mark) = mark {
                command.env(ATTEMPT_ID_VARIABLE, mark.to_string());
            }
            command.arg("1000").spawn().unwrap()
        };
        let (mut ours, mut other) = (sleep(Some(attempt)), sleep(None));
        let owner = |pid| Process::of(pid, &[(attempt, dir.path().to_owned())]).owner;
        // Until it is `sleep`, a fork has the environment of this test.
        while owner(ours.id()) != Owner::Attempt(attempt) {
            std::thread::yield_now();
        }
        assert_eq!(owner(other.id()), Owner::Stranger);
        assert_eq!(
            Process::of(other.id(), &[(AttemptId(uuid::Uuid::from_u128(8)), "/".into())]).owner,
            Owner::Stranger
        );
        for child in [&mut ours, &mut other] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert_eq!(owner(ours.id()), Owner::Unknown);
    }
}
