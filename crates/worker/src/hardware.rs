//! What this machine has: cores and memory. Looks once, changes nothing. Its GPUs: [`crate::gpu`].

use fetchml_api::{Capabilities, Host};
use std::{fs, path::Path};

const BYTES_PER_GIB: u64 = 1 << 30;

/// Finds out what tasks can use here, apart from GPUs. Limits of the control group count.
pub fn probe() -> Capabilities {
    Capabilities {
        cpu_cores: std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32),
        memory_gb: u32::try_from(memory_bytes() / BYTES_PER_GIB).unwrap_or(u32::MAX),
        executors: vec!["process".to_owned()],
        container_engine: None,
        isolation: "none".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        hostname: sysinfo::System::host_name().unwrap_or_else(|_| "localhost".to_owned()),
        ..Capabilities::default()
    }
}

/// What this machine is, for whoever wants to run something again as it ran here.
pub fn host() -> Host {
    let found = probe();
    let uname = rustix::system::uname();
    let text = |text: &std::ffi::CStr| text.to_string_lossy().into_owned();
    Host {
        hostname: found.hostname,
        os: value_in(Path::new("/etc/os-release"), "PRETTY_NAME", '='),
        kernel: text(uname.release()),
        arch: text(uname.machine()),
        cpu_model: value_in(Path::new("/proc/cpuinfo"), "model name", ':'),
        cpu_cores: found.cpu_cores,
        memory_bytes: memory_bytes(),
        gpu_driver: fs::read_to_string("/sys/module/nvidia/version").ok().map(|version| version.trim().to_owned()),
        fetchml: found.version,
    }
}

/// From lines of a name and a value, which may be quoted.
fn value_in(file: &Path, name: &str, between: char) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let value = text.lines().find_map(|line| {
        let (found, value) = line.split_once(between)?;
        (found.trim() == name).then(|| value.trim().trim_matches('"').to_owned())
    });
    value.filter(|value| !value.is_empty())
}

/// Memory of the machine, or of the control group where that is less, bytes.
fn memory_bytes() -> u64 {
    let Ok(mut system) = sysinfo::System::new() else { return 0 };
    system.refresh_memory();
    let limit = system.cgroup_limits().map_or(u64::MAX, |limits| limits.total_memory);
    system.total_memory().min(limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_has_cores_and_a_name() {
        let found = probe();
        assert!(found.cpu_cores >= 1 && !found.hostname.is_empty());
        assert_eq!((found.gpu_count, found.executors), (0, vec!["process".to_owned()]));
    }

    #[test]
    fn a_machine_is_described() {
        let host = host();
        assert!(!host.kernel.is_empty() && !host.arch.is_empty() && host.memory_bytes > 1 << 20, "{host:?}");
        assert_eq!(host.fetchml, env!("CARGO_PKG_VERSION"));
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "NAME=\"x\"\nPRETTY_NAME=\"Lab OS 1 \"\nmodel name\t: A CPU @ 3 GHz\nempty=\"\"\n").unwrap();
        assert_eq!(value_in(&file, "PRETTY_NAME", '=').as_deref(), Some("Lab OS 1 "));
        assert_eq!(value_in(&file, "model name", ':').as_deref(), Some("A CPU @ 3 GHz"));
        assert_eq!((value_in(&file, "empty", '='), value_in(&file, "more", '=')), (None, None));
        assert_eq!(value_in(&dir.path().join("none"), "x", '='), None);
    }
}
