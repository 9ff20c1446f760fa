//! Tasks that try to get out of their sandbox: `escape/probes.py` tries each way, with bait laid outside for it.

use crate::support::{DEADLINE, Lab, eventually};
use fetchml_api::{TaskId, TaskStatus};
use fetchml_testkit::engine::{HOST_IMAGE, TestEngine};
use rustix::process::geteuid;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            fs::{MetadataExt as _, PermissionsExt as _},
            net::{SocketAddr, UnixListener},
        },
    },
    path::{Path, PathBuf},
};
use tempfile::TempDir;

const PROBES: &str = include_str!("escape/probes.py");
/// What every bait file holds.
const BAIT: &str = "bait-7f3a9c";
/// Fewer would mean that some were not tried.
const PROBES_MIN: usize = 100;
/// A user that exists on no machine: what an agent that is not root runs as.
const SOMEBODY: u32 = 64_123;

/// What lies outside for the probes to find, gone with the test.
struct Bait {
    json: Value,
    /// Bait files that are read as they lie, by the names of their probes.
    readable: Vec<String>,
    _dirs: Vec<TempDir>,
    _sockets: [UnixListener; 2],
}

/// Lays bait: the worker's and the server's own files, files of another task, files that anybody may read.
async fn lay_bait(lab: &Lab) -> Bait {
    let other = lab
        .submit("bash -c 'echo bait-7f3a9c | tee $FETCHML_OUTPUT_DIR/model $FETCHML_CHECKPOINT_DIR/step; sleep 1000'")
        .await;
    let task = lab.until(other, TaskStatus::Running).await;
    let attempt = task.attempt_id.expect("it runs").to_string();
    let worker = lab.path("worker1");
    let dir = worker.join("attempts").join(&attempt);
    let mut files: BTreeMap<String, PathBuf> = BTreeMap::new();
    let mut file = |name: &str, path: PathBuf| files.insert(name.to_owned(), path);
    for name in ["output/model", "checkpoint/step", "log", "assignment.json", "shim.json", "lock"] {
        let path = dir.join(name);
        eventually(&format!("{} exists", path.display()), DEADLINE, async || path.exists().then_some(())).await;
        file(&format!("other_task_{}", name.replace(['/', '.'], "_")), path);
    }
    file("worker_key", lab.path("worker.key"));
    for entry in fs::read_dir(&worker).expect("the worker's directory").flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_file()) {
            file(&format!("worker_{}", entry.file_name().display()).replace('.', "_"), entry.path());
        }
    }
    for name in ["admin.key", "fetchml.db"] {
        file(&format!("server_{}", name.replace('.', "_")), lab.data_dir().join(name));
    }
    let mut dirs = Vec::new();
    for place in ["/var/tmp", "/tmp", "/dev/shm"] {
        let dir = tempfile::Builder::new().prefix("fetchml-bait-").tempdir_in(place).expect("a directory");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("its mode");
        for (name, mode) in [("everyones", 0o666), ("owners", 0o600)] {
            let path = dir.path().join(name);
            fs::write(&path, BAIT).expect("bait");
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("its mode");
            file(&format!("{name}_in{}", place.replace('/', "_")), path);
        }
        dirs.push(dir);
    }
    let socket_file = dirs[0].path().join("socket");
    let abstract_socket = format!("fetchml-bait-{}", lab.listen());
    let address = SocketAddr::from_abstract_name(&abstract_socket).expect("an address");
    let sockets = [
        UnixListener::bind(&socket_file).expect("a socket"),
        UnixListener::bind_addr(&address).expect("an abstract socket"),
    ];
    fs::set_permissions(&socket_file, fs::Permissions::from_mode(0o777)).expect("its mode");
    let directories = json!({ "worker": worker, "other_task": dir, "server": lab.data_dir(), "bait": dirs[0].path(),
        "home": "/home", "root": "/root", "logs": "/var/log", "cgroups": "/sys/fs/cgroup" });
    let device = fs::metadata(lab.data_dir()).expect("a directory").dev();
    let (host, port) = lab.listen().rsplit_once(':').expect("an address");
    let readable = files.keys().filter(|name| !name.starts_with("worker_lock")).map(|n| format!("read_{n}")).collect();
    let json = json!({
        "files": files,
        "directories": directories,
        "agent_pid": lab.workers[0].pid(),
        "block_devices": block_devices(),
        "root_device": [rustix::fs::major(device), rustix::fs::minor(device)],
        "abstract_socket": abstract_socket,
        "socket_file": socket_file,
        "server": [host, port.parse::<u16>().expect("a port")],
        "forbidden_variables": ["FETCHML_API_KEY", "FETCHML_KEY_FILE", "FETCHML_CANARY", "LAB_CANARY", "SSH_AUTH_SOCK"],
        "kernel_key": KERNEL_KEY,
    });
    Bait { json, readable, _dirs: dirs, _sockets: sockets }
}

fn block_devices() -> Vec<String> {
    let partitions = fs::read_to_string("/proc/partitions").unwrap_or_default();
    let names = partitions.lines().skip(2).filter_map(|line| line.split_whitespace().nth(3));
    names.map(|name| format!("/dev/{name}")).filter(|path| Path::new(path).exists()).take(3).collect()
}

/// A key in the keyring of the session that the worker was started in, as a login leaves Kerberos tickets.
const KERNEL_KEY: &str = "fetchml-bait";
/// Starts the rest of its arguments with that key in its session's keyring.
const WITH_KEY: &str = r#"
import ctypes, os, platform, sys
add, ctl = {"x86_64": (248, 250), "aarch64": (217, 219)}[platform.machine()]
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall(ctl, 1, b"fetchml-bait-session")
serial = libc.syscall(add, b"user", b"fetchml-bait", b"ticket", 6, -3)
assert serial > 0, os.strerror(ctypes.get_errno())
assert libc.syscall(ctl, 5, serial, ctypes.c_ulong(0x3f3f3f3f)) == 0
os.execv(sys.argv[1], sys.argv[1:])
"#;

/// Submits the probes with this bait.
async fn probe(lab: &Lab, bait: &Value, network: &str, image: Option<&str>) -> TaskId {
    let mut bait = bait.clone();
    bait["network"] = json!(network == "on");
    bait["container"] = json!(image.is_some());
    let dir = lab.project("probes", &[("probes.py", PROBES), ("bait.json", &bait.to_string())]);
    let dir = dir.to_str().expect("UTF-8");
    let options = ["submit", "--json", "--name", "escape", "--dir", dir, "--network", network];
    let image: Vec<&str> = image.into_iter().flat_map(|image| ["--image", image]).collect();
    let task = lab.output(&[&options[..], &image, &["--", "/usr/bin/python3", "probes.py"]].concat()).await;
    let task: Value = serde_json::from_str(&task).expect("JSON");
    task["id"].as_str().expect("an id").parse().expect("an id")
}

/// Runs all probes and asserts that every way was shut.
async fn assert_all_held(lab: &Lab, image: Option<&str>) {
    let bait = lay_bait(lab).await;
    for network in ["none", "on"] {
        let task = probe(lab, &bait.json, network, image).await;
        lab.until(task, TaskStatus::Completed).await;
        let log = lab.log(task).await;
        let log = if image.is_some() { log.split_once('\n').expect("a line about its image").1 } else { &log };
        let open: Vec<_> = log.lines().filter(|line| !line.starts_with("held ")).collect();
        let count = log.lines().filter(|line| line.starts_with("held ")).count();
        assert_eq!(open, [format!("probed {count}")], "{log}");
        assert!(count >= PROBES_MIN, "only {count} probes: {log}");
        assert!(!log.contains(BAIT), "{log}");
    }
    for (name, path) in bait.json["files"].as_object().expect("files") {
        assert!(Path::new(path.as_str().expect("a path")).exists(), "{name} is gone");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_way_out_of_a_sandbox_whose_agent_is_root() {
    assert!(geteuid().is_root(), "this test needs root: run `sudo -E cargo xtask test`");
    let mut lab = Lab::new().sandboxed().worker_wrapped(&["/usr/bin/python3", "-c", WITH_KEY]);
    lab.serve().await;
    lab.worker(1).await;
    assert_all_held(&lab, None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_way_out_of_a_sandbox_whose_agent_is_a_user() {
    let mut lab = Lab::new().sandboxed().worker_wrapped(&["/usr/bin/python3", "-c", WITH_KEY]);
    if geteuid().is_root() {
        lab = lab.workers_run_as(SOMEBODY);
    }
    lab.serve().await;
    lab.worker(1).await;
    assert_all_held(&lab, None).await;
}

/// The sandbox beside it is none, so that bait of another task lies about as it would on any machine.
async fn no_way_out_of_a_container(engine: &TestEngine) {
    let mut lab = Lab::new().containers(engine).worker_wrapped(&["/usr/bin/python3", "-c", WITH_KEY]);
    lab.serve().await;
    lab.worker(1).await;
    assert_all_held(&lab, Some(HOST_IMAGE)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_way_out_of_podman_whose_agent_is_root() {
    no_way_out_of_a_container(&TestEngine::podman()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_way_out_of_podman_whose_agent_is_a_user() {
    no_way_out_of_a_container(&TestEngine::rootless()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_bait_is_real() {
    let mut lab = Lab::new().worker_wrapped(&["/usr/bin/python3", "-c", WITH_KEY]);
    lab.serve().await;
    lab.worker(1).await;
    let bait = lay_bait(&lab).await;
    let harmless = ["list_worker", "list_other_task", "list_server", "list_bait", "other_attempts"];
    let more = ["hosts_abstract_socket", "hosts_socket_file", "keys_of_the_kernel"];
    let more = more.iter().chain(&["symbolic_link_to_a_foreign_file", "climbing_out_of_the_working_directory"]);
    let only: Vec<_> = harmless.iter().chain(more).map(ToString::to_string).chain(bait.readable.clone()).collect();
    let mut json = bait.json.clone();
    json["only"] = json!(only);
    let task = probe(&lab, &json, "on", None).await;
    lab.until(task, TaskStatus::Completed).await;
    let log = lab.log(task).await;
    for name in &only {
        assert!(log.contains(&format!("ESCAPED {name}: ")), "{name} finds nothing even without a sandbox:\n{log}");
    }
}
