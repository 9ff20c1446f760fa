//! What this machine has: cores and memory. Looks once, changes nothing. Its GPUs: [`crate::gpu`].

use fetchml_api::Capabilities;

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
}
