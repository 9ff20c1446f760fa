//! The environment variables of a task: an allow-list of the worker's own, FetchML's, then the
//! task's.

use super::{ATTEMPT_ID_VARIABLE, Execution, Surroundings};
use crate::staging::PythonEnvironment;
use fetchml_api::Gpu;
use std::{
    ffi::{OsStr, OsString},
    path::Path,
};

/// Variables with this prefix are FetchML's; a task cannot set them.
const RESERVED_PREFIX: &str = "FETCHML_";
/// Where programs are when the worker itself has no PATH.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// All variables, later ones overriding earlier ones of the same name.
pub(super) fn variables(execution: &Execution<'_>, surroundings: Surroundings<'_>) -> Vec<(OsString, OsString)> {
    let Execution { assignment, rendezvous, dir, python, secrets, gpus, .. } = *execution;
    let spec = &assignment.spec;
    let mut all: Vec<(OsString, OsString)> = Vec::with_capacity(20 + spec.env.len());
    let mut set = |name: &str, value: OsString| all.push((name.into(), value));
    let own = |name: &str, default: &str| std::env::var_os(name).unwrap_or_else(|| default.into());

    match surroundings {
        Surroundings::Worker(sandboxes) => {
            let path = own("PATH", DEFAULT_PATH);
            let path = if sandboxes.is_on() { visible_path(&path) } else { path };
            set("PATH", search_path(&path, python));
            set("LANG", own("LANG", "C.UTF-8"));
            set("TMPDIR", if sandboxes.remaps() { "/tmp".into() } else { dir.tmp().into() });
            set("USER", if sandboxes.is_on() { "fetchml".into() } else { own("USER", "fetchml") });
        }
        // Where programs are and what language they speak is the image's own matter.
        Surroundings::Image => {
            set("TMPDIR", "/tmp".into());
            set("USER", "fetchml".into());
        }
    }
    set("HOME", dir.home().into());
    if let Some(python) = python {
        set("VIRTUAL_ENV", python.root.clone().into());
    }
    set("PYTHONUNBUFFERED", "1".into());
    set("CUDA_VISIBLE_DEVICES", visible_devices(&assignment.gpus, gpus).into());
    if let Some(rendezvous) = rendezvous {
        // One process of each node counts as one rank; a launcher such as torchrun makes more of it.
        let (rank, size) = (assignment.node.to_string(), spec.demand.nodes.to_string());
        set("MASTER_ADDR", rendezvous.address.to_string().into());
        set("MASTER_PORT", rendezvous.port.to_string().into());
        set("NODE_RANK", rank.clone().into());
        set("NNODES", size.clone().into());
        set("RANK", rank.into());
        set("WORLD_SIZE", size.into());
    }
    for (name, value) in spec.env.iter().filter(|(name, _)| !name.starts_with(RESERVED_PREFIX)) {
        set(name, value.into());
    }
    for secret in secrets.iter().filter(|secret| !secret.name.starts_with(RESERVED_PREFIX)) {
        set(&secret.name, secret.value.expose().into());
    }
    set("FETCHML_TASK_ID", spec.id.to_string().into());
    set("FETCHML_ATTEMPT", assignment.number.to_string().into());
    set(ATTEMPT_ID_VARIABLE, assignment.attempt.to_string().into());
    set("FETCHML_JOB_NAME", spec.job_name.clone().into());
    if let Some(array) = spec.array {
        set("FETCHML_ARRAY_ID", array.id.to_string().into());
        set("FETCHML_ARRAY_INDEX", array.index.to_string().into());
        set("FETCHML_ARRAY_COUNT", array.count.to_string().into());
    }
    set("FETCHML_SNAPSHOT_DIR", dir.work().into());
    set("FETCHML_DATASET_DIR", dir.datasets().into());
    set("FETCHML_OUTPUT_DIR", dir.output().into());
    set("FETCHML_CHECKPOINT_DIR", dir.checkpoint().into());
    set("FETCHML_METRICS", dir.metrics().into());
    all
}

/// The part of the worker's own path that a sandbox shows.
fn visible_path(own: &OsStr) -> OsString {
    const SHOWN: [&str; 4] = ["/usr", "/bin", "/sbin", "/opt"];
    let shown = std::env::split_paths(own).filter(|dir| SHOWN.iter().any(|top| dir.starts_with(Path::new(top))));
    match std::env::join_paths(shown) {
        Ok(path) if !path.is_empty() => path,
        _ => DEFAULT_PATH.into(),
    }
}

/// The environment's programs first.
fn search_path(own: &OsStr, python: Option<&PythonEnvironment>) -> OsString {
    let Some(python) = python else { return own.to_owned() };
    let mut path = python.bin().into_os_string();
    path.push(":");
    path.push(own);
    path
}

/// UUIDs of the given devices: an index means another device to each library that reorders them. The
/// index where a device has no UUID of NVIDIA's form. Empty without devices, so that a task that asked
/// for none sees none.
fn visible_devices(given: &[u32], gpus: &[Gpu]) -> String {
    let name = |index: &u32| {
        let gpu = gpus.iter().find(|gpu| gpu.index == *index);
        gpu.filter(|gpu| gpu.uuid.starts_with("GPU-") || gpu.uuid.starts_with("MIG-"))
            .map_or_else(|| index.to_string(), |gpu| gpu.uuid.clone())
    };
    given.iter().map(name).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sandbox_searches_only_where_it_can_see() {
        assert_eq!(visible_path("/root/.pyenv/shims:/usr/bin:/bin:/home/a/bin".as_ref()), "/usr/bin:/bin");
        assert_eq!(visible_path("/root/bin".as_ref()), DEFAULT_PATH);
    }

    #[test]
    fn devices_are_named_by_uuid_and_none_is_empty() {
        let gpu = |index, uuid: &str| Gpu {
            index,
            uuid: uuid.into(),
            name: "H100".into(),
            memory_bytes: 1,
            ..Gpu::default()
        };
        let gpus = [gpu(0, "GPU-a"), gpu(1, "simulated-1"), gpu(2, "GPU-c")];
        assert_eq!(visible_devices(&[2, 0], &gpus), "GPU-c,GPU-a");
        assert_eq!(visible_devices(&[1, 7], &gpus), "1,7");
        assert_eq!(visible_devices(&[], &gpus), "");
    }
}
