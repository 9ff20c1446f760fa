//! The device nodes that a task needs for its GPUs, and no others.

use super::look::{Part, Seen};
use std::{
    fs::{self, FileType},
    os::unix::fs::FileTypeExt as _,
    path::{Path, PathBuf},
};

/// Nodes that every process with a GPU needs. They give access to no GPU by themselves.
const COMMON: [&str; 3] = ["nvidiactl", "nvidia-uvm", "nvidia-uvm-tools"];

/// Where device nodes are.
#[derive(Clone, Debug)]
pub(super) struct Nodes {
    dev: PathBuf,
    /// The driver's list of what may be opened: a file for each MIG instance.
    capabilities: PathBuf,
    /// What a node is. Tests that may not make devices take something else.
    is_node: fn(&FileType) -> bool,
}

impl Nodes {
    /// The machine's.
    pub(super) fn system() -> Self {
        Self {
            dev: "/dev".into(),
            capabilities: "/proc/driver/nvidia/capabilities".into(),
            is_node: FileType::is_char_device,
        }
    }

    /// The nodes of these devices, those that exist.
    pub(super) fn of<'a>(&self, devices: impl IntoIterator<Item = &'a Seen>) -> Vec<PathBuf> {
        let mut nodes: Vec<PathBuf> = Vec::new();
        let mut add = |node: PathBuf| {
            let is_node = fs::symlink_metadata(&node).is_ok_and(|found| (self.is_node)(&found.file_type()));
            if is_node && !nodes.contains(&node) {
                nodes.push(node);
            }
        };
        for seen in devices {
            let Some(minor) = seen.minor else { continue };
            for name in COMMON {
                add(self.dev.join(name));
            }
            add(self.dev.join(format!("nvidia{minor}")));
            for access in seen.part.iter().flat_map(|part| self.access(minor, part)) {
                if let Some(minor) = device_file_minor(&access) {
                    add(self.dev.join("nvidia-caps").join(format!("nvidia-cap{minor}")));
                }
            }
        }
        nodes
    }

    /// The files that say which nodes open a MIG device: one of its GPU instance, one of its compute instance.
    fn access(&self, minor: u32, part: &Part) -> [PathBuf; 2] {
        let instance = self.capabilities.join(format!("gpu{minor}/mig/gi{}", part.gpu_instance));
        [instance.join("access"), instance.join(format!("ci{}/access", part.compute_instance))]
    }
}

/// Of lines such as `DeviceFileMinor: 21`.
fn device_file_minor(access: &Path) -> Option<u32> {
    let text = fs::read_to_string(access).ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix("DeviceFileMinor:"))?;
    value.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, Mode, mknodat};

    fn seen(minor: u32, part: Option<(u32, u32)>) -> Seen {
        let part = part.map(|(gpu_instance, compute_instance)| Part {
            parent_uuid: "GPU-1".into(),
            profile: None,
            gpu_instance,
            compute_instance,
        });
        Seen {
            nvml_index: 9,
            uuid: "GPU-1".into(),
            name: "H100".into(),
            memory_bytes: 1,
            minor: Some(minor),
            part,
            figures: None,
            processes: None,
            fault: None,
        }
    }

    /// What `/dev` and `/proc/driver` hold on a machine with two GPUs, one of them split in two.
    fn machine() -> (tempfile::TempDir, Nodes) {
        let dir = tempfile::tempdir().unwrap();
        let nodes = Nodes {
            dev: dir.path().join("dev"),
            capabilities: dir.path().join("capabilities"),
            is_node: FileType::is_fifo,
        };
        fs::create_dir_all(nodes.dev.join("nvidia-caps")).unwrap();
        for name in ["nvidiactl", "nvidia-uvm", "nvidia0", "nvidia1", "nvidia-caps/nvidia-cap1"] {
            make_node(&nodes.dev.join(name));
        }
        for (access, minor) in [("gi1/access", 12), ("gi1/ci0/access", 13), ("gi2/access", 21), ("gi2/ci0/access", 22)]
        {
            let file = nodes.capabilities.join("gpu1/mig").join(access);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, format!("DeviceFileMinor: {minor}\nDeviceFileMode: 292\nDeviceFileModify: 1\n")).unwrap();
            make_node(&nodes.dev.join(format!("nvidia-caps/nvidia-cap{minor}")));
        }
        (dir, nodes)
    }

    /// Something that any user may make, and that is neither file nor link.
    fn make_node(path: &Path) {
        mknodat(CWD, path, rustix::fs::FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    }

    fn names(nodes: &Nodes, devices: &[Seen]) -> Vec<String> {
        let found = nodes.of(devices);
        found.iter().map(|node| node.strip_prefix(&nodes.dev).unwrap().to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn a_task_gets_the_nodes_of_its_gpus_only() {
        let (_dir, nodes) = machine();
        assert_eq!(names(&nodes, &[]), [""; 0]);
        assert_eq!(names(&nodes, &[seen(0, None)]), ["nvidiactl", "nvidia-uvm", "nvidia0"]);
        assert_eq!(names(&nodes, &[seen(1, None), seen(0, None)]), ["nvidiactl", "nvidia-uvm", "nvidia1", "nvidia0"]);
        assert_eq!(names(&nodes, &[seen(7, None)]), ["nvidiactl", "nvidia-uvm"], "what is not there is not given");
        assert_eq!(names(&nodes, &[Seen { minor: None, ..seen(0, None) }]), [""; 0], "a simulated device has none");
    }

    #[test]
    fn a_mig_device_comes_with_the_nodes_of_its_instances() {
        let (_dir, nodes) = machine();
        let one = ["nvidiactl", "nvidia-uvm", "nvidia1", "nvidia-caps/nvidia-cap21", "nvidia-caps/nvidia-cap22"];
        assert_eq!(names(&nodes, &[seen(1, Some((2, 0)))]), one);
        assert_eq!(names(&nodes, &[seen(1, Some((3, 0)))]), one[..3]);
    }

    #[test]
    fn a_file_or_a_link_in_place_of_a_node_is_not_given() {
        let (dir, nodes) = machine();
        fs::remove_file(nodes.dev.join("nvidia0")).unwrap();
        std::os::unix::fs::symlink("nvidia1", nodes.dev.join("nvidia0")).unwrap();
        fs::remove_file(nodes.dev.join("nvidiactl")).unwrap();
        fs::write(nodes.dev.join("nvidiactl"), "").unwrap();
        assert_eq!(names(&nodes, &[seen(0, None)]), ["nvidia-uvm"]);
        drop(dir);
    }
}
