//! Names of GPUs as the Container Device Interface has them. The files that describe the devices are written by
//! `nvidia-ctk cdi generate`, and read by the engine; here they are only searched for the names in them. By UUID alone:
//! an index means another device to each who counts them.

use fetchml_api::Gpu;
use std::{fs, path::Path};

/// Where engines look for descriptions.
const DIRS: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];
const KIND: &str = "nvidia.com/gpu";

/// How the worker numbers devices that it makes up: nothing stands behind them.
const SIMULATED: &str = "simulated-";

/// The names of the given devices.
pub(super) fn cdi_names(gpus: &[Gpu], given: &[u32]) -> Result<Vec<String>, String> {
    let is_given = |gpu: &&Gpu| given.contains(&gpu.index) && !gpu.uuid.starts_with(SIMULATED);
    let uuids: Vec<&str> = gpus.iter().filter(is_given).map(|gpu| gpu.uuid.as_str()).collect();
    if uuids.is_empty() {
        return Ok(Vec::new());
    }
    names_in(&descriptions(&DIRS.map(Path::new)), &uuids)
}

/// Every description there is, as text.
fn descriptions(dirs: &[&Path]) -> String {
    let entries = dirs.iter().filter_map(|dir| fs::read_dir(dir).ok()).flatten().flatten();
    let files = entries.filter(|entry| entry.path().extension().is_some_and(|e| e == "json" || e == "yaml"));
    files.filter_map(|file| fs::read_to_string(file.path()).ok()).filter(|text| text.contains(KIND)).collect()
}

fn names_in(descriptions: &str, uuids: &[&str]) -> Result<Vec<String>, String> {
    match uuids.iter().find(|uuid| !descriptions.contains(**uuid)) {
        None => Ok(uuids.iter().map(|uuid| format!("{KIND}={uuid}")).collect()),
        Some(unknown) => Err(format!(
            "the GPU {unknown} cannot be given to a container: no file in {} describes it by that name; write one with \
             `nvidia-ctk cdi generate --device-name-strategy=uuid --output=/etc/cdi/nvidia.yaml`",
            DIRS.join(" or ")
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_named_by_uuid_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(descriptions(&[dir.path()]), "");
        fs::write(dir.path().join("other.json"), r#"{"kind": "vendor.com/nic", "devices": [{"name": "GPU-a"}]}"#)
            .unwrap();
        let text = "kind: nvidia.com/gpu\ndevices:\n- name: GPU-b\n- name: \"0\"\n";
        fs::write(dir.path().join("nvidia.yaml"), text).unwrap();
        let found = descriptions(&[dir.path(), Path::new("/nonexistent")]);
        assert_eq!(names_in(&found, &["GPU-b"]).unwrap(), ["nvidia.com/gpu=GPU-b"]);
        assert!(names_in(&found, &["GPU-b", "GPU-a"]).unwrap_err().starts_with("the GPU GPU-a cannot be given"));
        let gpu = |index, uuid: &str| Gpu { index, uuid: uuid.into(), ..Gpu::default() };
        let gpus = [gpu(0, "simulated-0"), gpu(1, "GPU-nowhere")];
        assert_eq!(cdi_names(&gpus, &[0]).unwrap(), Vec::<String>::new());
        assert!(cdi_names(&gpus, &[1]).is_err());
    }
}
