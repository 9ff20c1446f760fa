//! What a sandbox is asked to be: plain data, decided by the executor and carried out by the shim.

use crate::{
    cgroup::{Cgroups, Resources},
    container::Container,
};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// A file or directory that a sandboxed process sees.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Mount {
    /// Where it lies on this machine; absolute, must exist.
    pub source: PathBuf,
    /// Where the process finds it; absolute. Another place than `source` needs bubblewrap.
    pub target: PathBuf,
    /// Whether the process may write there. What is writable is given to the sandbox's user.
    pub writable: bool,
}

impl Mount {
    /// Read-only, at its own path.
    pub fn read_only(path: impl Into<PathBuf>) -> Self {
        let source = path.into();
        Self { target: source.clone(), source, writable: false }
    }

    /// Writable, at its own path.
    pub fn writable(path: impl Into<PathBuf>) -> Self {
        Self { writable: true, ..Self::read_only(path) }
    }

    /// Seen at another path.
    #[must_use]
    pub fn at(self, target: impl Into<PathBuf>) -> Self {
        Self { target: target.into(), ..self }
    }
}

/// What keeps a process in its place.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layer {
    /// Namespaces by this bubblewrap, and Landlock inside where the kernel has it.
    Bubblewrap(PathBuf),
    /// Landlock alone: files are shut off, processes and network are not.
    Landlock,
    /// Nothing but the limits.
    Open,
    /// A container of podman or docker, and Landlock inside where the kernel has it.
    Container(Box<Container>),
}

/// The user and group that a process of a root worker becomes first of all.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Identity {
    /// User id.
    pub uid: u32,
    /// Group id; there are no further groups.
    pub gid: u32,
}

/// A sandbox.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Confinement {
    /// By what.
    pub layer: Layer,
    /// As whom; absent: as the worker's own user.
    pub identity: Option<Identity>,
    /// What is seen besides the system's own programs, in this order: a later one covers an earlier one.
    pub mounts: Vec<Mount>,
    /// Device nodes besides `/dev/null` and its like.
    pub devices: Vec<PathBuf>,
    /// Whether there is a network besides loopback.
    pub network: bool,
    /// What it may use.
    pub resources: Resources,
    /// By which these limits are kept; without, by resource limits of its processes.
    pub cgroups: Option<Cgroups>,
    /// Hidden also where permissions would show it: the worker's data directory.
    pub hidden: PathBuf,
}

/// Directories of programs and libraries, read-only in every sandbox where they exist.
pub(super) const SYSTEM_DIRS: [&str; 7] = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/opt"];

/// What a sandbox has of `/etc`: names of users and hosts, the linker's cache, certificates, the time
/// zone. No secret of the machine.
pub(super) const ETC: [&str; 10] = [
    "passwd",
    "group",
    "nsswitch.conf",
    "hosts",
    "resolv.conf",
    "ld.so.cache",
    "ssl/certs",
    "alternatives",
    "localtime",
    "ca-certificates",
];

/// Device nodes that every process may use.
pub(super) const DEVICES: [&str; 6] =
    ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"];

impl Confinement {
    /// The container, if it is one.
    pub(super) fn container(&self) -> Option<&Container> {
        match &self.layer {
            Layer::Container(container) => Some(container),
            Layer::Bubblewrap(_) | Layer::Landlock | Layer::Open => None,
        }
    }

    /// Where files may be written.
    pub(super) fn writable_targets(&self) -> impl Iterator<Item = &Path> {
        self.mounts.iter().filter(|mount| mount.writable).map(|mount| mount.target.as_path())
    }
}
