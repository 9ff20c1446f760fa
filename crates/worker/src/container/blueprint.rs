//! A container in the words of the engine's API: no capabilities, no new privileges, a read-only system, only what is
//! mounted writable, only the limits and devices given. Two forms of the same, as podman takes devices by CDI name in
//! its own form only.

use super::{ATTEMPT_LABEL, Container, Enforced, WORKER_LABEL, program::Program};
use crate::{
    executor::ATTEMPT_ID_VARIABLE,
    shim::{Confinement, Mount},
};
use bollard::models::{ContainerCreateBody, DeviceRequest, HealthConfig, HostConfig, Mount as EngineMount, MountType};
use serde_json::{Value, json};
use std::{collections::HashMap, io, path::Path};

/// Where the container has this program.
pub(super) const PROGRAM_DIR: &str = "/run/fetchml/program";
/// Where its first process finds the runner.
pub(super) const LINK: &str = "/run/fetchml/link";
/// Turned off for the first process: the loader must not bring the image's libraries into it. The user's process gets
/// what the image says.
pub(crate) const LOADER_VARIABLES: [&str; 4] = ["LD_PRELOAD", "LD_AUDIT", "LD_LIBRARY_PATH", "GLIBC_TUNABLES"];
/// The period over which cpu time is counted, microseconds: the kernel's default.
const CPU_PERIOD_US: u64 = 100_000;

/// All that is to be said about one container.
#[derive(Debug)]
pub(super) struct Blueprint<'a> {
    container: &'a Container,
    confinement: &'a Confinement,
    /// The first process.
    command: Vec<String>,
    env: HashMap<String, String>,
    labels: HashMap<String, String>,
    mounts: Vec<(String, String, bool)>,
    shm_bytes: u64,
}

impl<'a> Blueprint<'a> {
    pub(super) fn new(container: &'a Container, confinement: &'a Confinement, program: &Program) -> io::Result<Self> {
        let own = [Mount::read_only(&program.dir).at(PROGRAM_DIR), Mount::read_only(&container.link).at(LINK)];
        // Without groups of its own a container would be shown those of the machine, and all names in them.
        let is_unlimited = container.enforced == Enforced::NONE;
        let covered = is_unlimited.then(|| Mount::read_only(&container.empty).at("/sys/fs/cgroup"));
        let mounts = confinement.mounts.iter().chain(&own).chain(&covered);
        let mounts = mounts.map(|mount| Ok((text(&mount.source)?, text(&mount.target)?, mount.writable)));
        let mut env: HashMap<String, String> =
            LOADER_VARIABLES.iter().map(|name| ((*name).to_owned(), String::new())).collect();
        // By which what a killed shim leaves behind is found.
        env.insert(ATTEMPT_ID_VARIABLE.to_owned(), container.attempt.to_string());
        let labels = HashMap::from([
            (WORKER_LABEL.to_owned(), container.worker.to_string()),
            (ATTEMPT_LABEL.to_owned(), container.attempt.to_string()),
        ]);
        Ok(Self {
            container,
            confinement,
            command: program.command(LINK),
            env,
            labels,
            mounts: mounts.collect::<io::Result<_>>()?,
            shm_bytes: confinement.resources.memory_bytes.unwrap_or_else(half_of_memory),
        })
    }

    /// Whether it has devices that docker's form cannot name to podman.
    pub(super) fn needs_libpod(&self) -> bool {
        self.container.engine == super::EngineKind::Podman && !self.container.devices.is_empty()
    }

    fn network(&self) -> &'static str {
        if self.confinement.network { "host" } else { "none" }
    }

    fn memory(&self) -> Option<i64> {
        self.confinement.resources.memory_bytes.filter(|_| self.container.enforced.memory).map(signed)
    }

    fn cpu_quota(&self) -> Option<i64> {
        let cpus = self.confinement.resources.cpus.filter(|_| self.container.enforced.cpus)?;
        Some(signed(u64::from(cpus) * CPU_PERIOD_US))
    }

    fn processes(&self) -> Option<i64> {
        self.confinement.resources.processes.filter(|_| self.container.enforced.processes).map(i64::from)
    }

    /// In docker's form.
    pub(super) fn body(self) -> ContainerCreateBody {
        let devices = self.container.devices.clone();
        let host = HostConfig {
            // The mounts' sources are this machine's own, as are the users who own them.
            userns_mode: Some("host".to_owned()),
            network_mode: Some(self.network().to_owned()),
            readonly_rootfs: Some(true),
            cap_drop: Some(vec!["ALL".to_owned()]),
            // Files of attempts carry no label of containers; what shuts them off is that nothing else is mounted.
            security_opt: Some(vec!["no-new-privileges".to_owned(), "label=disable".to_owned()]),
            memory: self.memory(),
            memory_swap: self.memory(),
            cpu_period: self.cpu_quota().map(|_| signed(CPU_PERIOD_US)),
            cpu_quota: self.cpu_quota(),
            pids_limit: self.processes(),
            shm_size: Some(signed(self.shm_bytes)),
            mounts: Some(self.mounts.into_iter().map(engine_mount).collect()),
            device_requests: (!devices.is_empty()).then(|| {
                vec![DeviceRequest { driver: Some("cdi".to_owned()), device_ids: Some(devices), ..Default::default() }]
            }),
            ..HostConfig::default()
        };
        ContainerCreateBody {
            image: Some(self.container.image.clone()),
            user: Some(self.container.user.clone()),
            entrypoint: Some(self.command[..1].to_vec()),
            cmd: Some(self.command[1..].to_vec()),
            env: Some(self.env.iter().map(|(name, value)| format!("{name}={value}")).collect()),
            working_dir: Some("/".to_owned()),
            labels: Some(self.labels),
            healthcheck: self
                .container
                .has_healthcheck
                .then(|| HealthConfig { test: Some(vec!["NONE".to_owned()]), ..Default::default() }),
            host_config: Some(host),
            ..ContainerCreateBody::default()
        }
    }

    /// In podman's own form.
    pub(super) fn specification(&self, name: &str) -> Value {
        let mounts = self.mounts.iter().map(|(source, target, writable)| {
            let access = if *writable { "rw" } else { "ro" };
            json!({ "type": "bind", "source": source, "destination": target, "options": ["rbind", "rprivate", access] })
        });
        json!({
            "name": name,
            "image": self.container.image,
            "user": self.container.user,
            "entrypoint": self.command[..1],
            "command": self.command[1..],
            "env": self.env,
            "work_dir": "/",
            "labels": self.labels,
            "healthconfig": self.container.has_healthcheck.then(|| json!({ "Test": ["NONE"] })),
            "userns": { "nsmode": "host" },
            "netns": { "nsmode": self.network() },
            "read_only_filesystem": true,
            "cap_drop": ["ALL"],
            "no_new_privileges": true,
            "selinux_opts": ["disable"],
            "resource_limits": {
                "memory": self.memory().map(|bytes| json!({ "limit": bytes, "swap": bytes })),
                "cpu": self.cpu_quota().map(|quota| json!({ "quota": quota, "period": CPU_PERIOD_US })),
                "pids": self.processes().map(|limit| json!({ "limit": limit })),
            },
            "shm_size": self.shm_bytes,
            "mounts": mounts.collect::<Vec<_>>(),
            "devices": self.container.devices.iter().map(|name| json!({ "path": name })).collect::<Vec<_>>(),
        })
    }
}

fn engine_mount((source, target, writable): (String, String, bool)) -> EngineMount {
    EngineMount {
        typ: Some(MountType::BIND),
        source: Some(source),
        target: Some(target),
        read_only: Some(!writable),
        ..EngineMount::default()
    }
}

/// As the system gives a tmpfs, where no limit is set: engines' own 64 MiB are too small for data loaders.
fn half_of_memory() -> u64 {
    let info = rustix::system::sysinfo();
    let unit = u64::from(info.mem_unit.max(1));
    (info.totalram.saturating_mul(unit) / 2).max(64 << 20)
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn text(path: &Path) -> io::Result<String> {
    let not_utf8 = || io::Error::new(io::ErrorKind::InvalidInput, format!("{} is not UTF-8", path.display()));
    path.to_str().map(ToOwned::to_owned).ok_or_else(not_utf8)
}
