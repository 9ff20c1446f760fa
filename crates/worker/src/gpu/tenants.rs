//! Which attempt has which devices, and what its log is told of them.

use super::process::{Owner, Process};
use crate::{executor::AttemptDir, limits};
use fetchml_api::{AttemptId, Gpu, GpuState};
use std::{
    collections::BTreeMap,
    fs::OpenOptions,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

#[derive(Debug)]
struct Tenant {
    dir: PathBuf,
    indexes: Vec<u32>,
    notes: u32,
    /// Whether the last look knew of it.
    known: bool,
}

/// The attempts that have devices.
#[derive(Debug, Default)]
pub(super) struct Tenants(BTreeMap<AttemptId, Tenant>);

impl Tenants {
    pub(super) fn add(&mut self, attempt: AttemptId, dir: &Path, indexes: &[u32]) {
        self.0.insert(attempt, Tenant { dir: dir.to_owned(), indexes: indexes.to_vec(), notes: 0, known: false });
    }

    /// Whether it had any.
    pub(super) fn remove(&mut self, attempt: AttemptId) -> bool {
        self.0.remove(&attempt).is_some()
    }

    pub(super) fn has(&self, attempt: AttemptId) -> bool {
        self.0.contains_key(&attempt)
    }

    pub(super) fn is_of(&self, attempt: AttemptId, index: u32) -> bool {
        self.0.get(&attempt).is_some_and(|tenant| tenant.indexes.contains(&index))
    }

    /// Whether a process has no business on a device.
    pub(super) fn is_strange(&self, index: u32, process: &Process) -> bool {
        match process.owner {
            Owner::Attempt(attempt) => !self.is_of(attempt, index),
            // Where an attempt has the device, it may be the attempt's.
            Owner::Unknown => !self.have(index),
            // Before a look knew of an attempt, its processes were strangers too.
            Owner::Stranger => self.are_known(index),
            Owner::Driver => false,
        }
    }

    /// Whether any attempt has a device.
    fn have(&self, index: u32) -> bool {
        self.0.values().any(|tenant| tenant.indexes.contains(&index))
    }

    /// Whether the last look knew who has a device.
    fn are_known(&self, index: u32) -> bool {
        self.0.values().filter(|tenant| tenant.indexes.contains(&index)).all(|tenant| tenant.known)
    }

    /// A look ended that knew of these.
    pub(super) fn know(&mut self, attempts: &[AttemptId]) {
        for attempt in attempts {
            if let Some(tenant) = self.0.get_mut(attempt) {
                tenant.known = true;
            }
        }
    }

    /// All of them, with their directories.
    pub(super) fn all(&self) -> Vec<(AttemptId, PathBuf)> {
        self.0.iter().map(|(attempt, tenant)| (*attempt, tenant.dir.clone())).collect()
    }

    /// Writes into the logs of attempts that a device of theirs is no longer as it should be: nothing is done
    /// to them, but it may explain what they do next.
    pub(super) fn note(&mut self, before: &[Gpu], after: &[Gpu]) {
        let was =
            |index: u32| before.iter().find(|gpu| gpu.index == index).map_or(GpuState::Available, |gpu| gpu.state);
        for gpu in after.iter().filter(|gpu| gpu.state != GpuState::Available && gpu.state != was(gpu.index)) {
            let reason = gpu.reason.as_deref().unwrap_or_default();
            let line = format!("fetchml: GPU {} ({}) is {}: {reason}\n", gpu.index, gpu.name, gpu.state.as_str());
            for (attempt, tenant) in self.0.iter_mut().filter(|(_, tenant)| tenant.indexes.contains(&gpu.index)) {
                tenant.notes += 1;
                if tenant.notes <= limits::GPU_NOTES_MAX
                    && let Err(error) = append(&AttemptDir::at(&tenant.dir).log(), &line)
                {
                    tracing::debug!(%attempt, %error, "its log is not told of its GPUs");
                }
            }
        }
    }
}

/// To a log that is there: in one write, as its process writes to it as well.
fn append(log: &Path, line: &str) -> io::Result<()> {
    let mut log = OpenOptions::new().append(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(log)?;
    log.write_all(line.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_business_on_a_device() {
        let [ours, other] = [1, 2].map(|n| AttemptId(uuid::Uuid::from_u128(n)));
        let process = |owner| Process { pid: 7, name: None, owner };
        let mut tenants = Tenants::default();
        let strange = |tenants: &Tenants| {
            [Owner::Stranger, Owner::Unknown, Owner::Driver, Owner::Attempt(ours), Owner::Attempt(other)]
                .map(|owner| tenants.is_strange(0, &process(owner)))
        };
        assert_eq!(strange(&tenants), [true, true, false, true, true], "nobody has it");
        tenants.add(ours, Path::new("/nowhere"), &[0, 3]);
        tenants.add(other, Path::new("/nowhere"), &[1]);
        assert_eq!(strange(&tenants), [false, false, false, false, true], "no look knew whose it is");
        tenants.know(&[ours]);
        assert_eq!(strange(&tenants), [true, false, false, false, true], "one has it");
        assert!(tenants.remove(ours) && !tenants.remove(ours));
        assert_eq!(strange(&tenants), [true, true, false, true, true], "nobody has it any more");
    }

    #[test]
    fn a_log_is_told_of_its_devices_only_and_not_for_ever() {
        let data = tempfile::tempdir().unwrap();
        let attempt = AttemptId(uuid::Uuid::from_u128(1));
        let dir = AttemptDir::new(data.path(), attempt);
        dir.create().unwrap();
        let gpu =
            |index, state| Gpu { index, name: "H100".into(), state, reason: Some("why".into()), ..Gpu::default() };
        let (well, ill) = (
            [gpu(0, GpuState::Available), gpu(1, GpuState::Available)],
            [gpu(0, GpuState::Unhealthy), gpu(1, GpuState::Withheld)],
        );
        let mut tenants = Tenants::default();
        tenants.add(attempt, dir.root(), &[1]);
        tenants.note(&well, &ill);
        assert!(!dir.log().exists(), "nothing is begun for this");
        std::fs::write(dir.log(), "said\n").unwrap();
        for _ in 0..2 * limits::GPU_NOTES_MAX {
            tenants.note(&ill, &ill);
            tenants.note(&ill, &well);
            tenants.note(&well, &ill);
        }
        let log = std::fs::read_to_string(dir.log()).unwrap();
        let lines: Vec<&str> = log.lines().collect();
        assert_eq!(lines[..2], ["said", "fetchml: GPU 1 (H100) is withheld: why"]);
        assert_eq!(lines.len() as u32, limits::GPU_NOTES_MAX);
    }
}
