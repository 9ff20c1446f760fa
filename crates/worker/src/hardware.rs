//! What this machine has: cores, memory, GPUs. Looks once, changes nothing.

use fetchml_api::{Capabilities, Gpu};
use nvml_wrapper::{Nvml, error::NvmlError};
use std::ffi::OsStr;

/// Names another NVML library than the system's.
pub const NVML_LIBRARY_VARIABLE: &str = "FETCHML_NVML_LIBRARY";

const BYTES_PER_GIB: u64 = 1 << 30;

/// Finds out what tasks can use here. Limits of the control group count; a machine without NVIDIA's
/// library has no GPUs. Blocks for a moment: NVML takes up to a second to start.
pub fn probe() -> Capabilities {
    let gpus = gpus().unwrap_or_else(|error| {
        tracing::debug!(%error, "no GPUs: NVML is not usable");
        Vec::new()
    });
    Capabilities {
        gpu_count: gpus.len() as u32,
        gpu_type: gpus.first().map(|gpu| gpu.name.clone()),
        cpu_cores: std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32),
        memory_gb: u32::try_from(memory_bytes() / BYTES_PER_GIB).unwrap_or(u32::MAX),
        gpus,
        executors: vec!["process".to_owned()],
        isolation: "none".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        hostname: sysinfo::System::host_name().unwrap_or_else(|_| "localhost".to_owned()),
    }
}

/// Memory of the machine, or of the control group where that is less, bytes.
fn memory_bytes() -> u64 {
    let Ok(mut system) = sysinfo::System::new() else { return 0 };
    system.refresh_memory();
    let limit = system.cgroup_limits().map_or(u64::MAX, |limits| limits.total_memory);
    system.total_memory().min(limit)
}

fn gpus() -> Result<Vec<Gpu>, NvmlError> {
    let library = std::env::var_os(NVML_LIBRARY_VARIABLE);
    gpus_of(library.as_deref())
}

fn gpus_of(library: Option<&OsStr>) -> Result<Vec<Gpu>, NvmlError> {
    let nvml = match library {
        Some(library) => Nvml::builder().lib_path(library).init()?,
        None => Nvml::init()?,
    };
    let gpu = |index| {
        let device = nvml.device_by_index(index)?;
        Ok(Gpu { index, uuid: device.uuid()?, name: device.name()?, memory_bytes: device.memory_info()?.total })
    };
    let found = (0..nvml.device_count()?).filter_map(|index| match gpu(index) {
        Ok(gpu) => Some(gpu),
        // One broken device must not hide the others.
        Err::<_, NvmlError>(error) => {
            tracing::warn!(%error, index, "a GPU does not answer and is left out");
            None
        }
    });
    Ok(found.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_the_library_has_no_gpus_and_no_fault() {
        assert!(gpus_of(Some(OsStr::new("/nonexistent/libnvidia-ml.so.1"))).is_err());
        let found = probe();
        assert!(found.cpu_cores >= 1);
        assert_eq!(found.gpu_count as usize, found.gpus.len());
        assert_eq!(found.executors, ["process"]);
    }
}
