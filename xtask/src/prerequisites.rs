//! What a test run or the demo needs from the machine, and how it is had where it is missing.

use crate::command::{root, run, succeeds, target_dir};
use anyhow::{Result, bail};
use std::{fs, path::PathBuf, process::Command};

/// Makes sure that `python3 -m venv` works.
pub(crate) fn python_with_venv() -> Result<()> {
    let works = || succeeds(Command::new("python3").args(["-c", "import venv, ensurepip"]));
    if works() {
        return Ok(());
    }
    apt_install(&["python3", "python3-venv"])?;
    if works() {
        return Ok(());
    }
    bail!("python3 with the venv module is needed; install it (Debian: apt-get install python3 python3-venv)")
}

/// Makes sure that the worker's tests have what isolates tasks.
pub(crate) fn bubblewrap() -> Result<()> {
    let works = || succeeds(Command::new("bwrap").arg("--version"));
    if !works() {
        apt_install(&["bubblewrap"])?;
    }
    if works() { Ok(()) } else { bail!("bubblewrap is needed; install it (Debian: apt-get install bubblewrap)") }
}

/// Makes sure that tests have bad networks: namespaces, and packets that are dropped.
pub(crate) fn networks() -> Result<()> {
    // Where Debian has them is on root's path only.
    let works = || succeeds(Command::new("sh").args(["-c", "PATH=$PATH:/usr/sbin:/sbin; ip -V && nft -V"]));
    if !works() {
        apt_install(&["iproute2", "nftables"])?;
    }
    if works() { Ok(()) } else { bail!("ip and nft are needed (Debian: apt-get install iproute2 nftables)") }
}

/// Makes sure that there is a PyTorch to train with: Debian's, which is small and for the CPU.
pub(crate) fn torch() -> Result<()> {
    // The interpreter that a sandbox shows.
    let works = || succeeds(Command::new("/usr/bin/python3").args(["-c", "import torch, sklearn"]));
    if !works() {
        apt_install(&["python3-torch", "python3-sklearn"])?;
    }
    if works() {
        Ok(())
    } else {
        bail!("PyTorch and scikit-learn are needed (Debian: apt-get install python3-torch python3-sklearn)")
    }
}

/// Makes sure that tests can make system calls fail and clocks jump.
pub(crate) fn faults() -> Result<()> {
    let has = |tool: &str| succeeds(Command::new(tool).arg("--version"));
    if !(has("strace") && has("faketime")) {
        apt_install(&["strace", "faketime"])?;
    }
    let works = has("strace") && has("faketime");
    if works { Ok(()) } else { bail!("strace and faketime are needed (Debian: apt-get install strace faketime)") }
}

/// Makes sure that tests can make certificates.
pub(crate) fn certificates() -> Result<()> {
    let works = || succeeds(Command::new("openssl").arg("version"));
    if !works() {
        apt_install(&["openssl"])?;
    }
    if works() { Ok(()) } else { bail!("openssl is needed; install it (Debian: apt-get install openssl)") }
}

/// Makes sure that the tests of containers have podman, docker and a registry. The tests start their own.
pub(crate) fn container_engines() -> Result<()> {
    const PROGRAMS: [(&str, &[&str]); 5] = [
        ("podman", &["podman", "runc", "conmon", "netavark", "catatonit"]),
        ("newuidmap", &["uidmap", "fuse-overlayfs", "slirp4netns"]),
        ("busybox", &["busybox-static"]),
        ("dockerd", &["docker.io"]),
        ("docker-registry", &["docker-registry"]),
    ];
    let missing = || PROGRAMS.into_iter().filter(|(program, _)| !is_on_path(program));
    let packages: Vec<&str> = missing().flat_map(|(_, packages)| packages).copied().collect();
    if !packages.is_empty() {
        apt_install(&packages)?;
    }
    match missing().next() {
        None => Ok(()),
        Some((program, packages)) => {
            bail!("{program} is needed; install it (Debian: apt-get install {})", packages.join(" "))
        }
    }
}

fn is_on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).chain(["/usr/sbin".into()]).any(|dir| dir.join(program).exists())
}

/// Makes sure that pages for browsers can be built: Node.js 18 or later and npm.
pub(crate) fn node() -> Result<()> {
    let works = |tool: &str| succeeds(Command::new(tool).arg("--version"));
    if !works("node") {
        apt_install(&["nodejs"])?;
    }
    if !works("npm") {
        apt_install(&["npm"])?;
    }
    let works = works("node") && works("npm");
    if works { Ok(()) } else { bail!("Node.js and npm are needed (Debian: apt-get install nodejs npm)") }
}

/// Makes sure that there is a browser to look at pages with.
pub(crate) fn browser() -> Result<()> {
    let works = || is_on_path("chromium");
    if !works() {
        apt_install(&["chromium", "fonts-dejavu-core"])?;
    }
    if works() { Ok(()) } else { bail!("Chromium is needed (Debian: apt-get install chromium fonts-dejavu-core)") }
}

/// A Python environment for `examples/digits`, by the system's own Python, which containers of tests see.
pub(crate) fn digits_environment() -> Result<()> {
    python_environment("digits-environment", "examples/digits/requirements.txt")
}

/// A Python environment for `examples/verify_audit.py`.
pub(crate) fn audit_environment() -> Result<()> {
    python_environment("audit-environment", "crates/audit/tests/python/requirements.txt")
}

/// A Python environment in the target directory, made anew when what it is made from changes.
fn python_environment(name: &str, requirements: &str) -> Result<()> {
    let file = root().join(requirements);
    let wanted = fs::read_to_string(&file)?;
    let dir = target_dir()?.join(name);
    let marker = dir.join("built-from");
    if fs::read_to_string(&marker).is_ok_and(|built| built == wanted) {
        return Ok(());
    }
    println!("building a Python environment by {requirements}");
    let _ = fs::remove_dir_all(&dir);
    run(Command::new("/usr/bin/python3").args(["-m", "venv"]).arg(&dir))?;
    let mut pip = Command::new(dir.join("bin/python"));
    run(pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"]).arg(&file))?;
    Ok(fs::write(marker, wanted)?)
}

/// Directory of PostgreSQL's programs; installs the server's package where there is none.
pub(crate) fn postgres_programs() -> Result<PathBuf> {
    if let Some(dir) = find_postgres() {
        return Ok(dir);
    }
    // Only the programs are wanted, not a cluster that Debian would make and start.
    let common = PathBuf::from("/etc/postgresql-common");
    let _ = fs::create_dir_all(&common);
    let _ = fs::write(common.join("createcluster.conf"), "create_main_cluster = false\n");
    apt_install(&["postgresql"])?;
    match find_postgres() {
        Some(dir) => Ok(dir),
        None => bail!("PostgreSQL's initdb was not found; install PostgreSQL 14 or later"),
    }
}

/// The newest PostgreSQL in Debian's layout, else whatever `pg_config` on the path names.
fn find_postgres() -> Option<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let version = entry.file_name().to_str()?.parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .filter(|(_, dir)| dir.join("initdb").exists() && dir.join("postgres").exists())
        .collect();
    found.sort();
    if let Some((_, dir)) = found.pop() {
        return Some(dir);
    }
    let output = Command::new("pg_config").arg("--bindir").output().ok()?;
    let dir = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim());
    (dir.join("initdb").exists() && dir.join("postgres").exists()).then_some(dir)
}

/// Installs Debian packages, as root or by sudo without a password.
fn apt_install(packages: &[&str]) -> Result<()> {
    let names = packages.join(" ");
    if !succeeds(Command::new("apt-get").arg("--version")) {
        bail!("{names} is missing and this is no Debian system; install it by hand");
    }
    let root = succeeds(Command::new("sh").args(["-c", "[ \"$(id -u)\" = 0 ]"]));
    if !root && !succeeds(Command::new("sudo").args(["-n", "true"])) {
        bail!("{names} is missing; run: sudo apt-get install {names}");
    }
    let apt = || {
        let mut command = if root { Command::new("env") } else { Command::new("sudo") };
        command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq", "-o", "Dpkg::Use-Pty=0"]);
        command
    };
    println!("installing {names}");
    run(apt().arg("update"))?;
    run(apt().args(["install", "-y", "--no-install-recommends"]).args(packages))
}
