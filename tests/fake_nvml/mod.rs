//! A library that stands in for NVIDIA's where a test runs on a machine without a GPU: `fake_nvml.c`,
//! compiled by the C compiler that the project needs anyway.

use std::{fs, path::PathBuf, process::Command};
use tempfile::TempDir;

/// The library, and the machine that it tells of.
pub(crate) struct FakeNvml {
    dir: TempDir,
}

impl FakeNvml {
    /// A library that tells of this machine: lines as `fake_nvml.c` explains them.
    pub(crate) fn new(machine: &str) -> Self {
        Self::without(&[], machine)
    }

    /// The same from an older driver, which lacks these functions.
    pub(crate) fn without(functions: &[&str], machine: &str) -> Self {
        let fake = Self { dir: tempfile::tempdir().expect("a directory") };
        let mut compiler = Command::new(std::env::var_os("CC").unwrap_or_else(|| "cc".into()));
        compiler.args(["-shared", "-fPIC", "-Wall", "-Werror", "-o"]).arg(fake.library());
        compiler.args(functions.iter().map(|function| format!("-D{function}=lacking_{function}")));
        compiler.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fake_nvml/fake_nvml.c"));
        let output = compiler.output().expect("a C compiler; install gcc");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        fake.set(machine);
        fake
    }

    /// Where the library is.
    pub(crate) fn library(&self) -> PathBuf {
        self.dir.path().join("libnvidia-ml-fake.so")
    }

    /// Changes the machine, at once for whoever looks.
    pub(crate) fn set(&self, machine: &str) {
        let (file, new) = (self.dir.path().join("libnvidia-ml-fake.so.txt"), self.dir.path().join("new"));
        fs::write(&new, unindented(machine)).expect("written");
        fs::rename(new, file).expect("renamed");
    }
}

fn unindented(text: &str) -> String {
    text.lines().flat_map(|line| [line.trim_start(), "\n"]).collect()
}
