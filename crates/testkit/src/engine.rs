//! Container engines for tests: a podman (as root, or as a user who is not) or docker of the test's own, with its own
//! storage and socket, gone with the test. No registry is needed: its images are made here.
//!
//! Containers of an engine made by [`TestEngine::podman`] see this machine's `/usr`, so that [`HOST_IMAGE`], which
//! holds nothing but links into it, has a shell, Python and whatever else is installed here.

use std::{
    fmt::Write as _,
    fs,
    io::Write as _,
    net::{TcpListener, TcpStream},
    os::unix::{
        fs::{PermissionsExt as _, chown, symlink},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// An image of links into `/usr`, which is this machine's own in a container.
pub const HOST_IMAGE: &str = "localhost/host:1";
/// An image of one static program, `/bin/busybox`, and no library at all.
pub const BUSYBOX_IMAGE: &str = "localhost/busybox:1";
/// The user of an engine that is not root's. It exists on no machine.
pub const USER: u32 = 64_124;

const DEADLINE: Duration = Duration::from_mins(1);

/// Which engine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Podman,
    Rootless,
    Docker,
}

/// A running engine.
#[derive(Debug)]
pub struct TestEngine {
    dir: TempDir,
    kind: Kind,
    service: Child,
    /// Where its registry would be.
    registry_port: u16,
}

impl TestEngine {
    /// podman as root, whose containers see this machine's `/usr`.
    ///
    /// # Panics
    /// It cannot be had.
    pub fn podman() -> Self {
        Self::start(Kind::Podman, &[])
    }

    /// The same, whose containers see these directories too, at their own paths.
    ///
    /// # Panics
    /// It cannot be had.
    pub fn podman_showing(directories: &[&Path]) -> Self {
        Self::start(Kind::Podman, directories)
    }

    /// podman of [`USER`], whose containers see this machine's `/usr`. Needs root to become that.
    ///
    /// # Panics
    /// It cannot be had.
    pub fn rootless() -> Self {
        Self::start(Kind::Rootless, &[])
    }

    /// docker, which has [`BUSYBOX_IMAGE`] only.
    ///
    /// # Panics
    /// It cannot be had.
    pub fn docker() -> Self {
        Self::start(Kind::Docker, &[])
    }

    fn start(kind: Kind, shown: &[&Path]) -> Self {
        let program = if kind == Kind::Docker { "dockerd" } else { "podman" };
        assert!(on_path(program), "{program} is needed: `cargo xtask test` installs it");
        assert!(rustix::process::geteuid().is_root(), "tests of containers need root: run `sudo -E cargo xtask test`");
        let dir = tempfile::Builder::new().prefix("fetchml-engine-").tempdir().expect("a directory");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("its mode");
        let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let registry_port = free.local_addr().expect("bound").port();
        write_configuration(dir.path(), registry_port, shown);
        if kind == Kind::Rootless {
            lay_out_user(dir.path());
        }
        // A child that is never asked anything stands in until the service runs.
        let service = Command::new("true").spawn().expect("true starts");
        let mut engine = Self { dir, kind, service, registry_port };
        engine.restart();
        if kind != Kind::Docker {
            engine.import(HOST_IMAGE, host_image);
        }
        engine.import(BUSYBOX_IMAGE, busybox_image);
        engine
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("engine.sock")
    }

    /// The user as whom it runs.
    pub fn user(&self) -> u32 {
        if self.kind == Kind::Rootless { USER } else { 0 }
    }

    /// Kills its service. Containers go on.
    ///
    /// # Panics
    /// It cannot be killed.
    pub fn kill(&mut self) {
        self.service.kill().expect("the service can be killed");
        self.service.wait().expect("the service can be reaped");
    }

    /// Starts its service again, or for the first time.
    ///
    /// # Panics
    /// It does not answer.
    pub fn restart(&mut self) {
        let _ = self.service.wait();
        // docker's containerd dies with it, and may stay a zombie that looks alive where process 1 reaps nobody.
        for left in ["engine.sock", "pid", "run/containerd/containerd.pid"] {
            let _ = fs::remove_file(self.dir.path().join(left));
        }
        let mut command = match self.kind {
            Kind::Docker => self.dockerd(),
            Kind::Podman | Kind::Rootless => {
                let mut command = self.command();
                command.args(["system", "service", "--time=0"]).arg(format!("unix://{}", self.socket().display()));
                command
            }
        };
        let log = fs::File::options().create(true).append(true).open(self.dir.path().join("log")).expect("a log");
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a log")).stderr(log).process_group(0);
        // conmon leaves files where it was started.
        command.current_dir(self.dir.path());
        self.service = command.spawn().expect("the engine starts");
        let end = Instant::now() + DEADLINE;
        while std::os::unix::net::UnixStream::connect(self.socket()).is_err() {
            assert!(
                Instant::now() < end && matches!(self.service.try_wait(), Ok(None)),
                "no engine: {}",
                fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// What a command of its own command line prints, without its service.
    ///
    /// # Panics
    /// The command fails.
    pub fn run(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// A command of its own command line, whatever becomes of it.
    ///
    /// # Panics
    /// It cannot be started.
    pub fn output(&self, arguments: &[&str]) -> Output {
        self.command().args(arguments).stdin(Stdio::null()).output().expect("the engine's command starts")
    }

    /// Names of all its containers, whatever they do.
    ///
    /// # Panics
    /// They cannot be listed.
    pub fn containers(&self) -> Vec<String> {
        self.run(&["ps", "--all", "--format", "{{.Names}}"]).lines().map(ToOwned::to_owned).collect()
    }

    /// Makes an image from another with changes such as `--change=ENV A=b`.
    ///
    /// # Panics
    /// It cannot be made.
    pub fn make(&self, name: &str, from: &str, changes: &[&str]) {
        let container = self.run(&["create", from, "/bin/busybox"]);
        self.run(&[&["commit"], changes, &[&container, name]].concat());
        self.run(&["rm", &container]);
    }

    /// Starts a registry, the one that this engine may use without TLS.
    ///
    /// # Panics
    /// It cannot be had.
    pub fn registry(&self) -> TestRegistry {
        TestRegistry::start(self.registry_port, &self.dir.path().join("registry"))
    }

    /// Stores an image in the registry under a name of it, and nowhere else.
    ///
    /// # Panics
    /// It cannot be stored.
    pub fn push(&self, image: &str, name: &str) {
        self.run(&["tag", image, name]);
        let insecure: &[&str] = if self.kind == Kind::Docker { &[] } else { &["--tls-verify=false"] };
        self.run(&[&["push"], insecure, &[name]].concat());
        self.run(&["rmi", name]);
    }

    fn import(&self, name: &str, lay_out: fn(&Path)) {
        let root = tempfile::tempdir().expect("a directory");
        lay_out(root.path());
        let tar = Command::new("tar").arg("-C").arg(root.path()).args(["-c", "."]).output().expect("tar starts");
        let mut import = self.command();
        let import =
            import.args(["import", "-", name]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut import = import.spawn().expect("the engine's command starts");
        import.stdin.take().expect("it is piped").write_all(&tar.stdout).expect("it reads");
        let output = import.wait_with_output().expect("it ends");
        assert!(output.status.success(), "no image: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Its command line.
    fn command(&self) -> Command {
        let dir = self.dir.path();
        if self.kind == Kind::Docker {
            let mut command = Command::new("docker");
            command.arg("--host").arg(format!("unix://{}", self.socket().display()));
            return command;
        }
        let mut command = match self.kind {
            Kind::Rootless => as_user(dir),
            _ => Command::new("podman"),
        };
        command.arg("--root").arg(dir.join("root")).arg("--runroot").arg(dir.join("run"));
        command.args(["--storage-driver", "overlay"]);
        command.env("CONTAINERS_CONF", dir.join("containers.conf"));
        command.env("CONTAINERS_REGISTRIES_CONF", dir.join("registries.conf"));
        command
    }

    fn dockerd(&self) -> Command {
        let at = |name: &str| self.dir.path().join(name);
        let mut command = Command::new("dockerd");
        command.args(["--iptables=false", "--ip6tables=false", "--bridge=none", "--live-restore"]);
        command.arg("--data-root").arg(at("root")).arg("--exec-root").arg(at("run")).arg("--pidfile").arg(at("pid"));
        command.args(["--insecure-registry", "127.0.0.0/8"]);
        command.arg("--host").arg(format!("unix://{}", self.socket().display()));
        command
    }
}

impl Drop for TestEngine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- engine\n{}", fs::read_to_string(self.dir.path().join("log")).unwrap_or_default());
        }
        match self.kind {
            Kind::Docker => {
                for container in self.output(&["ps", "--all", "--quiet"]).stdout.split(|b| *b == b'\n') {
                    let _ = self.output(&["rm", "--force", &String::from_utf8_lossy(container)]);
                }
                // With its containerd; a killed one would leave that.
                let pid = rustix::process::Pid::from_child(&self.service);
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            }
            Kind::Podman | Kind::Rootless => {
                let _ = self.output(&["rm", "--all", "--force", "--time", "0"]);
                let _ = self.service.kill();
            }
        }
        let _ = self.service.wait();
        kill_all_of(self.dir.path());
        let _ =
            Command::new("umount").arg("-R").arg(self.dir.path().join("root/overlay")).stderr(Stdio::null()).status();
    }
}

/// A registry of images on this machine, gone with its test.
#[derive(Debug)]
pub struct TestRegistry {
    /// Where it is: the beginning of its images' names.
    pub host: String,
    service: Child,
}

impl TestRegistry {
    fn start(port: u16, dir: &Path) -> Self {
        assert!(on_path("docker-registry"), "docker-registry is needed: `cargo xtask test` installs it");
        fs::create_dir_all(dir).expect("a directory");
        let host = format!("127.0.0.1:{port}");
        let storage = dir.join("data");
        let text = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {host}\n",
            storage.display()
        );
        fs::write(dir.join("config.yml"), text).expect("its configuration");
        let log = fs::File::options().create(true).append(true).open(dir.join("log")).expect("a log");
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(dir.join("config.yml")).stdin(Stdio::null());
        command.stdout(log.try_clone().expect("a log")).stderr(log);
        let service = command.spawn().expect("the registry starts");
        let end = Instant::now() + DEADLINE;
        while TcpStream::connect(&host).is_err() {
            assert!(Instant::now() < end, "no registry");
            std::thread::sleep(Duration::from_millis(10));
        }
        Self { host, service }
    }
}

impl Drop for TestRegistry {
    fn drop(&mut self) {
        let _ = self.service.kill();
        let _ = self.service.wait();
    }
}

/// Ends what an engine leaves behind: podman's pause process, docker's containerd.
fn kill_all_of(dir: &Path) {
    let needle = dir.as_os_str().as_encoded_bytes();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let names = |file: &str| {
            fs::read(entry.path().join(file)).is_ok_and(|bytes| bytes.windows(needle.len()).any(|part| part == needle))
        };
        if (names("cmdline") || names("environ"))
            && let Some(pid) = rustix::process::Pid::from_raw(pid)
            && pid != rustix::process::getpid()
        {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}

fn write_configuration(dir: &Path, registry_port: u16, shown: &[&Path]) {
    let limit = |resource| rustix::process::getrlimit(resource).maximum.unwrap_or(4_096).min(4_096);
    let (files, processes) = (limit(rustix::process::Resource::Nofile), limit(rustix::process::Resource::Nproc));
    let mut text = String::new();
    let always = ["/usr", "/etc/alternatives"].map(Path::new);
    let volumes = always.iter().chain(shown).map(|path| format!("\"{0}:{0}:ro\"", path.display()));
    let _ = writeln!(text, "[containers]\nvolumes = [{}]", volumes.collect::<Vec<_>>().join(", "));
    // Ours may not raise its limits.
    let _ = writeln!(text, "default_ulimits = [\"nofile={files}:{files}\", \"nproc={processes}:{processes}\"]");
    // Not every machine has systemd, and Debian's crun wants all or nothing of control groups.
    let _ = writeln!(text, "[engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\nruntime = \"runc\"");
    fs::write(dir.join("containers.conf"), text).expect("its configuration");
    let registries = format!(
        "unqualified-search-registries = []\n[[registry]]\nlocation = \"127.0.0.1:{registry_port}\"\ninsecure = true\n"
    );
    fs::write(dir.join("registries.conf"), registries).expect("its configuration");
}

/// Files that say who [`USER`] is and which further ids are its own, to be seen in place of the machine's.
fn lay_out_user(dir: &Path) {
    for name in ["home", "run", "root", "xdg"] {
        fs::create_dir_all(dir.join(name)).expect("a directory");
        chown(dir.join(name), Some(USER), Some(USER)).expect("given to its user");
        fs::set_permissions(dir.join(name), fs::Permissions::from_mode(0o700)).expect("its mode");
    }
    // Its socket is made here.
    chown(dir, Some(USER), Some(USER)).expect("given to its user");
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let home = dir.join("home");
    let user = format!("{passwd}fetchml-user:x:{USER}:{USER}::{}:/bin/sh\n", home.display());
    fs::write(dir.join("passwd"), user).expect("a file");
    for name in ["subuid", "subgid"] {
        fs::write(dir.join(name), "fetchml-user:3000000:65536\n").expect("a file");
    }
}

/// A podman of that user, in a mount namespace where the machine knows it.
fn as_user(dir: &Path) -> Command {
    let script = r#"for name in passwd subuid subgid; do mount --bind "$DIR/$name" "/etc/$name"; done
        cd "$DIR"; exec setpriv --reuid "$USER_ID" --regid "$USER_ID" --clear-groups podman "$@""#;
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script, "sh"]);
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command.env("DIR", dir).env("USER_ID", USER.to_string());
    command.env("HOME", dir.join("home")).env("XDG_RUNTIME_DIR", dir.join("xdg"));
    command
}

fn host_image(root: &Path) {
    for name in ["bin", "lib", "lib64", "sbin"] {
        symlink(format!("usr/{name}"), root.join(name)).expect("a link");
    }
    for name in ["usr", "etc/alternatives", "tmp", "proc", "dev", "sys", "run"] {
        fs::create_dir_all(root.join(name)).expect("a directory");
    }
}

fn busybox_image(root: &Path) {
    for name in ["bin", "etc", "tmp", "usr"] {
        fs::create_dir_all(root.join(name)).expect("a directory");
    }
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).exists());
    let busybox = busybox.expect("busybox-static is needed: `cargo xtask test` installs it");
    fs::copy(busybox, root.join("bin/busybox")).expect("busybox");
    symlink("busybox", root.join("bin/sh")).expect("a link");
}

fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).exists())
}
