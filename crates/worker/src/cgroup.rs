//! Control groups of attempts, version 1 and 2: limits of memory, cpu and processes, killing by group,
//! and whether the kernel killed for want of memory. Where the groups are not ours to make there are
//! none, and [`crate::shim`] falls back to resource limits.

use crate::limits;
use fetchml_api::AttemptId;
use rustix::{
    io::Errno,
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};
use serde::{Deserialize, Serialize};
use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

/// Where the kernel shows control groups.
const ROOT: &str = "/sys/fs/cgroup";
/// Below the worker's own group.
const PARENT: &str = "fetchml";
/// The period over which cpu time is counted, microseconds: the kernel's default.
const CPU_PERIOD_US: u64 = 100_000;

/// What an attempt may use.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Resources {
    /// Memory and swap together, bytes.
    pub memory_bytes: Option<u64>,
    /// Whole cores' worth of time.
    pub cpus: Option<u32>,
    /// Processes and threads.
    pub processes: Option<u32>,
}

/// Which controllers' groups this worker can make, and where.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Cgroups {
    version: Version,
    /// Parents of the attempts' groups. Version 2: all the same directory.
    memory: Option<PathBuf>,
    cpu: Option<PathBuf>,
    pids: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Version {
    V1,
    V2,
}

impl fmt::Display for Cgroups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = match self.version {
            Version::V1 => "cgroup v1",
            Version::V2 => "cgroup v2",
        };
        let all = [("memory", &self.memory), ("cpu", &self.cpu), ("pids", &self.pids)];
        let names: Vec<&str> = all.iter().filter(|(_, dir)| dir.is_some()).map(|(name, _)| *name).collect();
        write!(f, "{version}: {}", names.join(", "))
    }
}

impl Cgroups {
    /// What this process may make; `None`: nothing.
    pub fn find() -> Option<Self> {
        Self::find_in(Path::new(ROOT), &fs::read_to_string("/proc/self/cgroup").ok()?)
    }

    /// `own` is in the form of `/proc/self/cgroup`.
    fn find_in(root: &Path, own: &str) -> Option<Self> {
        let found = if root.join("cgroup.controllers").exists() {
            Self::find_v2(root, own)?
        } else {
            let parent = |controller| v1_parent(root, own, controller);
            Self { version: Version::V1, memory: parent("memory"), cpu: parent("cpu"), pids: parent("pids") }
        };
        let any = found.memory.is_some() || found.cpu.is_some() || found.pids.is_some();
        any.then_some(found)
    }

    /// In version 2 a group has either processes or groups with controllers: what is in the worker's own
    /// group moves to one below it.
    fn find_v2(root: &Path, own: &str) -> Option<Self> {
        let own = own.lines().find_map(|line| line.strip_prefix("0::"))?;
        let mut own = root.join(own.trim_start_matches('/'));
        // An earlier agent of this service moved here.
        if own.file_name().is_some_and(|name| name == "agent") && own.parent()?.join(PARENT).exists() {
            own.pop();
        }
        let offered = fs::read_to_string(own.join("cgroup.controllers")).ok()?;
        let wanted: Vec<&str> = ["memory", "cpu", "pids"]
            .into_iter()
            .filter(|name| offered.split_whitespace().any(|o| o == *name))
            .collect();
        let parent = own.join(PARENT);
        let made = || -> io::Result<()> {
            if own != root {
                make_dir(&own.join("agent"))?;
                for pid in fs::read_to_string(own.join("cgroup.procs"))?.lines() {
                    fs::write(own.join("agent").join("cgroup.procs"), pid)?;
                }
            }
            make_dir(&parent)?;
            for name in &wanted {
                fs::write(own.join("cgroup.subtree_control"), format!("+{name}"))?;
                fs::write(parent.join("cgroup.subtree_control"), format!("+{name}"))?;
            }
            Ok(())
        };
        if let Err(error) = made() {
            tracing::debug!(%error, dir = %own.display(), "no control groups of our own");
            return None;
        }
        let dir = |name| wanted.contains(&name).then(|| parent.clone());
        Some(Self { version: Version::V2, memory: dir("memory"), cpu: dir("cpu"), pids: dir("pids") })
    }

    /// What must be limited otherwise.
    pub(crate) fn not_limited(&self, resources: Resources) -> Resources {
        Resources {
            memory_bytes: resources.memory_bytes.filter(|_| self.memory.is_none()),
            cpus: resources.cpus.filter(|_| self.cpu.is_none()),
            processes: resources.processes.filter(|_| self.pids.is_none()),
        }
    }

    /// The group of an attempt, whether it is there or not.
    pub(crate) fn group(&self, attempt: AttemptId) -> Cgroup {
        let dir = |parent: &PathBuf| parent.join(attempt.to_string());
        let mut dirs: Vec<PathBuf> = [&self.memory, &self.cpu, &self.pids].into_iter().flatten().map(dir).collect();
        dirs.dedup();
        Cgroup { version: self.version, memory: self.memory.as_ref().map(dir), dirs }
    }

    /// Makes the group of an attempt, empty.
    ///
    /// # Errors
    /// When a directory cannot be made or a limit is refused; nothing is left then.
    pub(crate) fn create(&self, attempt: AttemptId, resources: Resources) -> io::Result<Cgroup> {
        let group = self.group(attempt);
        let dir = |parent: &Option<PathBuf>| parent.as_ref().map(|parent| parent.join(attempt.to_string()));
        let (memory, cpu, pids) = (dir(&self.memory), dir(&self.cpu), dir(&self.pids));
        let limit = || -> io::Result<()> {
            group.dirs.iter().try_for_each(|dir| make_dir(dir))?;
            if let (Some(dir), Some(bytes)) = (&memory, resources.memory_bytes) {
                self.limit_memory(dir, bytes)?;
            }
            if let (Some(dir), Some(cpus)) = (&cpu, resources.cpus) {
                let quota = u64::from(cpus) * CPU_PERIOD_US;
                match self.version {
                    Version::V1 => put(dir, "cpu.cfs_quota_us", &quota.to_string())?,
                    Version::V2 => put(dir, "cpu.max", &format!("{quota} {CPU_PERIOD_US}"))?,
                }
            }
            if let (Some(dir), Some(processes)) = (&pids, resources.processes) {
                put(dir, "pids.max", &processes.to_string())?;
            }
            Ok(())
        };
        match limit() {
            Ok(()) => Ok(group),
            Err(error) => {
                group.remove();
                Err(error)
            }
        }
    }

    fn limit_memory(&self, dir: &Path, bytes: u64) -> io::Result<()> {
        let bytes = bytes.to_string();
        match self.version {
            Version::V1 => {
                put(dir, "memory.limit_in_bytes", &bytes)?;
                if_there(put(dir, "memory.memsw.limit_in_bytes", &bytes))
            }
            Version::V2 => {
                put(dir, "memory.max", &bytes)?;
                if_there(put(dir, "memory.swap.max", "0"))
            }
        }
    }
}

/// The control group of one attempt.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Cgroup {
    version: Version,
    memory: Option<PathBuf>,
    dirs: Vec<PathBuf>,
}

impl Cgroup {
    /// Whether it was made.
    pub(crate) fn is_there(&self) -> bool {
        self.dirs.iter().all(|dir| dir.is_dir())
    }

    /// Moves this process into it, and all that it will fork.
    pub(crate) fn join(&self) -> io::Result<()> {
        self.dirs.iter().try_for_each(|dir| put(dir, "cgroup.procs", "0"))
    }

    /// How many of its processes the kernel killed for want of memory.
    pub(crate) fn oom_kills(&self) -> u64 {
        let Some(dir) = &self.memory else { return 0 };
        let file = match self.version {
            Version::V1 => "memory.oom_control",
            Version::V2 => "memory.events",
        };
        read_field(&dir.join(file), "oom_kill").unwrap_or(0)
    }

    /// Processor time used by all that ever was in it, microseconds; none where it is not counted.
    pub(crate) fn cpu_us(&self) -> Option<u64> {
        match self.version {
            Version::V1 => {
                let nanoseconds = self.dirs.iter().find_map(|dir| read_number(&dir.join("cpuacct.usage")));
                Some(nanoseconds? / 1_000)
            }
            Version::V2 => read_field(&self.dirs.first()?.join("cpu.stat"), "usage_usec"),
        }
    }

    /// Memory in use, bytes, without what was read from files and could be given back at once; none where it is not
    /// counted.
    pub(crate) fn memory_bytes(&self) -> Option<u64> {
        let dir = self.memory.as_ref()?;
        let (all, inactive) = match self.version {
            Version::V1 => ("memory.usage_in_bytes", "total_inactive_file"),
            Version::V2 => ("memory.current", "inactive_file"),
        };
        let all = read_number(&dir.join(all))?;
        Some(all.saturating_sub(read_field(&dir.join("memory.stat"), inactive).unwrap_or(0)))
    }

    /// Kills everything in it, wherever it is in the tree of processes; how many were met.
    pub(crate) fn kill(&self) -> usize {
        if self.version == Version::V2 && self.dirs.iter().all(|dir| put(dir, "cgroup.kill", "1").is_ok()) {
            return self.dirs.iter().map(|dir| processes(dir).len()).sum();
        }
        // A process that is gone meanwhile and whose number another has: it is not in the group then, so
        // the group is looked at again once the handle is held.
        let kill = |dir: &PathBuf, pid: Pid| {
            let Ok(handle) = pidfd_open(pid, PidfdFlags::empty()) else { return false };
            processes(dir).contains(&pid) && pidfd_send_signal(handle, Signal::KILL).is_ok()
        };
        self.dirs.iter().map(|dir| processes(dir).into_iter().filter(|pid| kill(dir, *pid)).count()).sum()
    }

    /// Takes it away, once nothing is in it.
    pub(crate) fn remove(&self) {
        for dir in &self.dirs {
            for _ in 0..limits::CGROUP_REMOVE_TRIES {
                match fs::remove_dir(dir) {
                    // A process that was reaped may count for a moment longer.
                    Err(error) if error.raw_os_error() == Some(Errno::BUSY.raw_os_error()) => {
                        std::thread::sleep(limits::CGROUP_REMOVE_RETRY);
                    }
                    _ => break,
                }
            }
        }
    }
}

/// The count in a file of a control group, of either version.
pub(crate) fn oom_kills_in(text: &str) -> u64 {
    field_in(text, "oom_kill").unwrap_or(0)
}

fn v1_parent(root: &Path, own: &str, controller: &str) -> Option<PathBuf> {
    let path = own.lines().find_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        controllers.split(',').any(|name| name == controller).then_some(path)
    })?;
    // In a container the path may be that of the host.
    let below = root.join(controller);
    [below.join(path.trim_start_matches('/')), below]
        .into_iter()
        .filter(|dir| dir.is_dir())
        .map(|dir| dir.join(PARENT))
        .find(|dir| make_dir(dir).is_ok() && is_ours(dir))
}

/// Whether groups can be made in it.
fn is_ours(parent: &Path) -> bool {
    rustix::fs::access(parent, rustix::fs::Access::WRITE_OK).is_ok()
}

fn make_dir(dir: &Path) -> io::Result<()> {
    match fs::create_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

fn put(dir: &Path, file: &str, text: &str) -> io::Result<()> {
    let path = dir.join(file);
    fs::write(&path, text).map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

/// A kernel without swap accounting has no file for it.
fn if_there(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => Ok(()),
        other => other,
    }
}

fn read_number(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// From lines of a name and a number.
fn read_field(file: &Path, name: &str) -> Option<u64> {
    field_in(&fs::read_to_string(file).ok()?, name)
}

fn field_in(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

fn processes(dir: &Path) -> Vec<Pid> {
    let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Resources = Resources { memory_bytes: Some(1 << 30), cpus: Some(2), processes: Some(99) };

    fn attempt() -> AttemptId {
        AttemptId(uuid::Uuid::from_u128(1))
    }

    #[test]
    fn limits_are_written_as_version_2_wants_them() {
        let root = tempfile::tempdir().unwrap();
        let own = root.path().join("system.slice/fetchml.service");
        fs::create_dir_all(&own).unwrap();
        fs::write(root.path().join("cgroup.controllers"), "cpuset cpu io memory pids").unwrap();
        fs::write(own.join("cgroup.controllers"), "cpu memory pids").unwrap();
        fs::write(own.join("cgroup.procs"), "41\n42\n").unwrap();
        let found = Cgroups::find_in(root.path(), "0::/system.slice/fetchml.service\n").unwrap();
        assert_eq!(found.to_string(), "cgroup v2: memory, cpu, pids");
        assert_eq!(found.not_limited(LIMITS), Resources::default());
        // A plain file keeps the last write alone: what matters is that the worker left its own group.
        assert_eq!(fs::read_to_string(own.join("agent/cgroup.procs")).unwrap(), "42");
        assert_eq!(fs::read_to_string(own.join("fetchml/cgroup.subtree_control")).unwrap(), "+pids");

        let group = found.create(attempt(), LIMITS).unwrap();
        let dir = own.join("fetchml").join(attempt().to_string());
        let read = |name: &str| fs::read_to_string(dir.join(name)).unwrap();
        assert_eq!((read("memory.max"), read("memory.swap.max")), ("1073741824".into(), "0".into()));
        assert_eq!((read("cpu.max"), read("pids.max")), ("200000 100000".into(), "99".into()));
        group.join().unwrap();
        assert_eq!(read("cgroup.procs"), "0");
        assert_eq!(group.oom_kills(), 0);
        fs::write(dir.join("memory.events"), "low 0\noom 3\noom_kill 2\noom_group_kill 0\n").unwrap();
        assert_eq!(group.oom_kills(), 2);
        assert_eq!((group.cpu_us(), group.memory_bytes()), (None, None));
        fs::write(dir.join("cpu.stat"), "usage_usec 7000\nuser_usec 6000\n").unwrap();
        fs::write(dir.join("memory.current"), "5000\n").unwrap();
        fs::write(dir.join("memory.stat"), "anon 3000\ninactive_file 1500\n").unwrap();
        assert_eq!((group.cpu_us(), group.memory_bytes()), (Some(7_000), Some(3_500)));
        group.kill();
        assert_eq!(read("cgroup.kill"), "1");

        // A restarted agent starts where the first one went.
        fs::create_dir_all(own.join("agent")).unwrap();
        fs::write(own.join("agent/cgroup.controllers"), "").unwrap();
        let again = Cgroups::find_in(root.path(), "0::/system.slice/fetchml.service/agent\n").unwrap();
        assert_eq!(again, found);
    }

    #[test]
    fn version_1_is_taken_controller_by_controller() {
        let root = tempfile::tempdir().unwrap();
        for dir in ["memory/docker/x", "pids"] {
            fs::create_dir_all(root.path().join(dir)).unwrap();
        }
        let own = "5:memory:/docker/x\n4:cpu,cpuacct:/docker/x\n3:pids:/not/here\n0::/\n";
        let found = Cgroups::find_in(root.path(), own).unwrap();
        assert_eq!(found.to_string(), "cgroup v1: memory, pids");
        assert_eq!(found.not_limited(LIMITS), Resources { cpus: Some(2), ..Resources::default() });
        let group = found.create(attempt(), LIMITS).unwrap();
        let memory = root.path().join("memory/docker/x/fetchml").join(attempt().to_string());
        assert_eq!(fs::read_to_string(memory.join("memory.limit_in_bytes")).unwrap(), "1073741824");
        fs::write(memory.join("memory.oom_control"), "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n").unwrap();
        assert_eq!(group.oom_kills(), 1);
        fs::write(memory.join("memory.usage_in_bytes"), "5000\n").unwrap();
        fs::write(memory.join("memory.stat"), "inactive_file 1\ntotal_inactive_file 1500\n").unwrap();
        fs::write(memory.join("cpuacct.usage"), "7000999\n").unwrap();
        assert_eq!((group.cpu_us(), group.memory_bytes()), (Some(7_000), Some(3_500)));
        let pids = root.path().join("pids/fetchml").join(attempt().to_string());
        assert_eq!(fs::read_to_string(pids.join("pids.max")).unwrap(), "99");
        assert!(Cgroups::find_in(&root.path().join("nothing"), own).is_none());
    }
}
