//! Tasks in containers of podman, as root and as a user, and of docker: the same promises as in a sandbox.

use crate::{
    agent_peer,
    rig::{helper, survivors, until, until_exists},
};
use fetchml_api::{Demand, FailureCause, Gpu, Network, WorkerId, link::Assignment};
use fetchml_testkit::engine::{BUSYBOX_IMAGE, HOST_IMAGE, TestEngine};
use fetchml_worker::{
    container::{Containers, EngineChoice, EngineKind, IMAGE_FILE, ImageRequest, LimitsRule, Options, container_name},
    executor::{self, AttemptDir, Execution},
    shim::{Exit, ExitCause, Fence, Helper, LaunchSpec, LeaseMark, Mount, Running, boot_id},
    staging::StageError,
};
use rustix::{
    process::{Pid, Signal, kill_process},
    time::{ClockId, clock_gettime},
};
use std::{fs, os::unix::fs::MetadataExt as _, path::PathBuf};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

/// An engine, and a worker's data directory that only its owner may enter.
struct Rig {
    engine: TestEngine,
    data: TempDir,
    helper: Helper,
    containers: Containers,
}

/// An attempt of a task in a container.
struct Job {
    assignment: Assignment,
    dir: AttemptDir,
    mounts: Vec<Mount>,
    gpus: Vec<Gpu>,
    image: &'static str,
}

impl Rig {
    async fn podman() -> Self {
        Self::with(TestEngine::podman(), Options::default()).await
    }

    async fn with(engine: TestEngine, options: Options) -> Self {
        let data = TempDir::new().unwrap();
        let worker = WorkerId(uuid::Uuid::new_v4());
        let options = Options { socket: Some(engine.socket()), ..options };
        let containers = Containers::probe(&options, worker, data.path()).await.unwrap();
        Self { engine, data, helper: helper().await, containers }
    }

    /// `sh -c script` in an image that has this machine's programs.
    fn script(&self, script: &str) -> Job {
        self.job(HOST_IMAGE, &format!("sh -c '{script}'"))
    }

    fn job(&self, image: &'static str, command: &str) -> Job {
        let assignment = agent_peer::assignment(command);
        let dir = AttemptDir::new(self.data.path(), assignment.attempt);
        dir.create().unwrap();
        dir.create_files().unwrap();
        Job { assignment, dir, mounts: Vec::new(), gpus: Vec::new(), image }
    }

    async fn image(&self, job: &Job, name: &str) -> Result<fetchml_worker::container::Image, StageError> {
        let (log, cancel) = (job.dir.log(), CancellationToken::new());
        self.containers.bring_in(ImageRequest { name, dir: job.dir.root(), log: &log, cancel: &cancel }).await
    }

    async fn spec(&self, job: &Job) -> LaunchSpec {
        let image = self.image(job, job.image).await.unwrap();
        let execution = Execution {
            rendezvous: None,
            assignment: &job.assignment,
            dir: &job.dir,
            slot: 3,
            secrets: &[],
            python: None,
            gpus: &job.gpus,
            mounts: job.mounts.clone(),
            devices: Vec::new(),
        };
        // What was said about the image is no part of what the task says.
        fs::remove_file(job.dir.log()).unwrap();
        executor::container(&execution, &self.containers, &image).unwrap()
    }

    async fn start(&self, job: &Job) -> Running {
        self.helper.launch(self.spec(job).await).await.unwrap()
    }

    async fn run(&self, job: &Job) -> Exit {
        self.start(job).await.wait().await
    }

    fn assert_nothing_left(&self, job: &Job) {
        assert_eq!(survivors(job.assignment.attempt), Vec::<PathBuf>::new());
        assert!(!self.engine.containers().contains(&container_name(job.assignment.attempt)));
    }
}

impl Job {
    fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.dir.log()).unwrap_or_default()).into_owned()
    }
}

fn kill(pid: u32) {
    kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), Signal::KILL).unwrap();
}

#[tokio::test]
async fn exits_come_through_exactly_and_nothing_is_left() {
    let rig = Rig::podman().await;
    for (script, code, signal) in [
        ("exit 0", Some(0), None),
        ("exit 7", Some(7), None),
        // What engines would give for both is one number.
        ("exit 137", Some(137), None),
        ("kill -9 $$", None, Some(9)),
        ("kill -11 $$", None, Some(11)),
    ] {
        let job = rig.script(script);
        let exit = rig.run(&job).await;
        let cause = if signal.is_some() { ExitCause::Signal } else { ExitCause::Exit };
        assert_eq!(
            (exit.cause, exit.exit_code, exit.signal),
            (cause, code, signal),
            "{script}: {exit:?} {}",
            job.log()
        );
        rig.assert_nothing_left(&job);
    }
    for (command, code, said) in [
        ("no-such-program", 127, "in the image, no-such-program: no such program"),
        ("/etc/passwd", 126, "permission denied"),
    ] {
        let exit = rig.run(&rig.job(HOST_IMAGE, command)).await;
        assert_eq!((exit.cause, exit.exit_code), (ExitCause::LaunchFailed, Some(code)), "{command}: {exit:?}");
        assert!(exit.error.as_ref().unwrap().contains(said), "{exit:?}");
    }
}

#[tokio::test]
async fn every_byte_of_the_log_is_there_in_its_order() {
    let rig = Rig::podman().await;
    let job = rig.job(HOST_IMAGE, "write.py");
    let script = "import os\nfor n in range(200):\n    os.write(1 + n % 2, b'%d\\n' % n)\nfor n in range(64):\n    \
                  os.write(1, bytes(range(256)) * 512)\nos.write(2, b'\\xff\\x00end')\n";
    fs::write(job.dir.work().join("write.py"), script).unwrap();
    assert!(rig.run(&job).await.is_success(), "{}", job.log());
    let mut expected: Vec<u8> = (0..200).flat_map(|n| format!("{n}\n").into_bytes()).collect();
    expected.extend((0..64 * 512).flat_map(|_| 0..=255_u8));
    expected.extend(b"\xff\0end");
    assert_eq!(fs::read(job.dir.log()).unwrap(), expected);
}

#[tokio::test]
async fn a_container_has_what_is_its_own_and_nothing_more() {
    let rig = Rig::podman().await;
    let set = TempDir::new().unwrap();
    fs::write(set.path().join("rows"), "1,2\n").unwrap();
    let script = r#"
        echo w > made-here && echo o > "$FETCHML_OUTPUT_DIR/model" && echo t > /tmp/scratch && echo h > "$HOME/h"
        echo "{}" >> "$FETCHML_METRICS" && echo log >> /dev/stdout; (echo gone > /dev/stdout) 2>/dev/null
        cat /data/rows; id -u; test "$(pwd)" = "$FETCHML_SNAPSHOT_DIR" && echo home $USER $TMPDIR
        for path in / /usr /etc /dev /data /run /run/fetchml /run/fetchml/program /proc/sys/kernel; do
            touch "$path/intruder" 2>/dev/null && echo "WROTE $path"
        done
        ls "$(dirname "$FETCHML_SNAPSHOT_DIR")/.."
        grep -e CapEff -e CapBnd -e NoNewPrivs -e "Seccomp:" /proc/self/status | tr -s "\t" " "
        grep -c : /proc/net/dev
        cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu.max 2>/dev/null | cut -d" " -f1
        cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null
        df -k /dev/shm | tail -1 | tr -s " " | cut -d" " -f2
    "#;
    let mut job = rig.script(script);
    job.mounts.push(Mount::read_only(set.path()).at("/data"));
    job.assignment.spec.network = Network::None;
    job.assignment.spec.demand.cpu = 2;
    job.assignment.spec.demand.memory_gb = 1;
    let exit = rig.run(&job).await;
    let own = job.assignment.attempt.to_string();
    let log = job.log();
    assert!(exit.is_success(), "{exit:?} {log}");
    let none = "0000000000000000";
    let (effective, bounding) = (format!("CapEff: {none}"), format!("CapBnd: {none}"));
    let mut expected = vec!["log", "1,2", "200003", "home fetchml /tmp", &own, &effective, &bounding];
    expected.extend(["NoNewPrivs: 1", "Seccomp: 2", "1", "200000", "6144", "1048576"]);
    assert_eq!(log.lines().collect::<Vec<_>>(), expected);
    let files = ["output/model", "work/made-here", "tmp/scratch", "home/h", "metrics.jsonl"];
    for file in files.map(|file| job.dir.root().join(file)) {
        assert_eq!(fs::metadata(&file).unwrap().uid(), 200_003, "{}", file.display());
    }
    assert!(!job.dir.root().join("link").exists(), "the way to the runner is shut");
    rig.assert_nothing_left(&job);

    let mut job = rig.script("grep -c : /proc/net/dev");
    job.assignment.spec.network = Network::On;
    assert!(rig.run(&job).await.is_success());
    assert_ne!(job.log(), "1\n", "the worker's network");
}

#[tokio::test]
async fn an_image_needs_no_library_and_brings_its_own_variables() {
    let rig = Rig::podman().await;
    let lines = ["env", "PATH=/bin", "LANG=xx", "LD_PRELOAD=/nonexistent/lib.so", "A=image", "B=image"];
    let changes: Vec<String> = lines[1..].iter().map(|variable| format!("--change=ENV {variable}")).collect();
    let changes: Vec<&str> = changes.iter().map(String::as_str).collect();
    rig.engine.make("localhost/variables:1", BUSYBOX_IMAGE, &changes);
    let mut job = rig.job("localhost/variables:1", "/bin/busybox env");
    job.assignment.spec.env = [("A".to_owned(), "task".to_owned())].into();
    assert!(rig.run(&job).await.is_success(), "{}", job.log());
    let log = job.log();
    for line in ["PATH=/bin", "LANG=xx", "LD_PRELOAD=/nonexistent/lib.so", "A=task", "B=image", "PYTHONUNBUFFERED=1"] {
        assert!(log.lines().any(|said| said == line), "{line}: {log}");
    }
    assert_eq!(log.matches("A=").count(), 1, "{log}");

    // No bash in it: sh. An executable of the snapshot, which is on no PATH.
    let job = rig.job("localhost/variables:1", "run.sh a");
    fs::write(job.dir.work().join("run.sh"), "echo ran $1; exit 4\n").unwrap();
    assert_eq!(rig.run(&job).await.exit_code, Some(4), "{}", job.log());
    assert_eq!(job.log(), "ran a\n");
    let exit = rig.run(&rig.job("localhost/variables:1", "python -V")).await;
    assert_eq!(exit.exit_code, Some(127), "{exit:?}");
}

/// Ignores SIGTERM in every process: a child, a double-forked one, one in a session of its own.
const STUBBORN: &str = r#"
    trap "" TERM HUP INT
    sleep 1000 &
    (setsid sh -c "trap : TERM; sleep 1000 & sleep 1000" &)
    ((sh -c "sleep 1000 & sleep 1000" &) &)
    touch "$FETCHML_OUTPUT_DIR/up"
    sleep 1000
"#;

/// Promise G10 in a container.
#[tokio::test]
async fn g10_stop_leaves_no_survivor_of_a_container() {
    let rig = Rig::podman().await;
    let job = rig.script(STUBBORN);
    let mut running = rig.start(&job).await;
    until_exists(&job.dir.output().join("up")).await;
    until("the whole tree to be up", || (survivors(job.assignment.attempt).len() >= 8).then_some(())).await;
    running.stop(FailureCause::Cancelled, 1).unwrap();
    let exit = running.wait().await;
    assert_eq!((exit.cause, exit.signal), (ExitCause::Stopped(FailureCause::Cancelled), Some(9)));
    rig.assert_nothing_left(&job);

    let job = rig.script(r#"trap "echo saved; exit 3" TERM; touch "$FETCHML_OUTPUT_DIR/up"; while :; do :; done"#);
    let mut running = rig.start(&job).await;
    until_exists(&job.dir.output().join("up")).await;
    running.stop(FailureCause::Preempted, 60).unwrap();
    let exit = running.wait().await;
    assert_eq!((exit.cause, exit.exit_code), (ExitCause::Stopped(FailureCause::Preempted), Some(3)));
    assert_eq!(job.log(), "saved\n");

    // What a main process leaves behind is ended too, and its code is kept.
    let job = rig.script(r#"(setsid sh -c "trap : TERM; sleep 1000; sleep 1000" &); exit 5"#);
    let exit = rig.run(&job).await;
    assert_eq!((exit.cause, exit.exit_code), (ExitCause::Exit, Some(5)));
    rig.assert_nothing_left(&job);

    let mut job = rig.script("sleep 1000");
    job.assignment.spec.time_limit_s = Some(1);
    assert_eq!(rig.run(&job).await.cause, ExitCause::Timeout);
    rig.assert_nothing_left(&job);
}

/// Promise G2: a lease that ran out ends a container by its shim alone.
#[tokio::test]
async fn g2_a_lease_that_ran_out_ends_a_container() {
    const LEASE_S: u32 = 6;
    let rig = Rig::podman().await;
    let job = rig.script(STUBBORN);
    let spec = rig.spec(&job).await;
    let now = clock_gettime(ClockId::Boottime);
    let sent_ms = now.tv_sec.unsigned_abs() * 1_000 + now.tv_nsec.unsigned_abs() / 1_000_000;
    let mark = LeaseMark { boot_id: boot_id().unwrap(), sent_ms, lost_after_s: LEASE_S };
    let fence = Fence { file: rig.data.path().join("lease.json"), mark, own_s: None };
    let mut running = rig.helper.launch(LaunchSpec { fence: Some(fence), grace_s: 30, ..spec }).await.unwrap();
    let exit = running.wait().await;
    assert_eq!(exit.cause, ExitCause::Stopped(FailureCause::Lost));
    // Dead before the server gives it up. Whoever counts on that must be able to take the end in the record for it.
    let given_up_ms = exit.started_at_ms + i64::from(LEASE_S) * 1_000;
    let slack_ms = 3_000;
    assert!(exit.ended_at_ms < given_up_ms + slack_ms, "{exit:?}");
    rig.assert_nothing_left(&job);
}

#[tokio::test]
async fn limits_of_memory_and_processes_are_kept() {
    let rig = Rig::podman().await;
    let mut job = rig.job(HOST_IMAGE, "bomb.py");
    fs::write(job.dir.work().join("bomb.py"), "x = []\nwhile True: x.append(bytearray(64 << 20))\n").unwrap();
    job.assignment.spec.demand.memory_gb = 1;
    let exit = rig.run(&job).await;
    assert_eq!((exit.cause, exit.outcome().cause), (ExitCause::OutOfMemory, Some(FailureCause::OomHost)), "{exit:?}");
    rig.assert_nothing_left(&job);

    let job = rig.script(r#"touch "$FETCHML_OUTPUT_DIR/up"; for i in $(seq 4000); do sleep 1000 & done; wait"#);
    let mut running = rig.start(&job).await;
    until_exists(&job.dir.output().join("up")).await;
    until("it is refused", || job.log().contains("fork").then_some(())).await;
    running.stop(FailureCause::Cancelled, 0).unwrap();
    running.wait().await;
    rig.assert_nothing_left(&job);
}

#[tokio::test]
async fn whoever_is_killed_the_container_goes_along() {
    let rig = Rig::podman().await;
    let job = rig.script(STUBBORN);
    let mut running = rig.start(&job).await;
    until_exists(&job.dir.output().join("up")).await;
    kill(running.pid());
    assert_eq!(running.wait().await.cause, ExitCause::Lost);
    until("nothing of it runs", || survivors(job.assignment.attempt).is_empty().then_some(())).await;

    // The runner: what ended is known, and the shim has the rest taken away.
    let job = rig.script(STUBBORN);
    let mut running = rig.start(&job).await;
    until_exists(&job.dir.output().join("up")).await;
    kill(child_of(running.pid()));
    let exit = running.wait().await;
    assert_eq!((exit.cause, exit.exit_code, exit.signal), (ExitCause::Signal, None, Some(9)), "{exit:?}");
    rig.assert_nothing_left(&job);

    // Its first process, by the engine's own command.
    let job = rig.script(STUBBORN);
    let mut running = rig.start(&job).await;
    until_exists(&job.dir.output().join("up")).await;
    rig.engine.run(&["kill", &container_name(job.assignment.attempt)]);
    let exit = running.wait().await;
    assert_eq!((exit.cause, exit.signal), (ExitCause::Signal, Some(9)), "{exit:?}");
    rig.assert_nothing_left(&job);
}

fn child_of(pid: u32) -> u32 {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    children.split_whitespace().next().expect("a child").parse().unwrap()
}

#[tokio::test]
async fn an_engine_that_is_killed_takes_nothing_along() {
    let mut rig = Rig::podman().await;
    let script = r#"echo one; while [ ! -e "$FETCHML_OUTPUT_DIR/end" ]; do sleep 0.01; done; echo two; exit 42"#;
    let job = rig.script(script);
    let mut running = rig.start(&job).await;
    until("it runs", || (job.log() == "one\n").then_some(())).await;
    rig.engine.kill();
    rig.engine.restart();
    fs::write(job.dir.output().join("end"), "").unwrap();
    let exit = running.wait().await;
    assert_eq!((exit.cause, exit.exit_code), (ExitCause::Exit, Some(42)), "{exit:?}");
    assert_eq!(job.log(), "one\ntwo\n");
    rig.assert_nothing_left(&job);

    // Still dead when the task ends: the exit is known, and the end is not waited for.
    let job = rig.script(script);
    let mut running = rig.start(&job).await;
    until("it runs", || (job.log() == "one\n").then_some(())).await;
    rig.engine.kill();
    fs::write(job.dir.output().join("end"), "").unwrap();
    assert_eq!(running.wait().await.exit_code, Some(42));
    assert!(survivors(job.assignment.attempt).is_empty());

    // Dead at the start: nothing runs, and the worker is at fault.
    rig.engine.restart();
    let spec = rig.spec(&rig.script("exit 0")).await;
    rig.engine.kill();
    let exit = rig.helper.launch(spec).await.unwrap().wait().await;
    assert_eq!(exit.outcome().cause, Some(FailureCause::Launch), "{exit:?}");
    assert!(exit.error.unwrap().contains("does not answer"));
    rig.engine.restart();
}

#[tokio::test]
async fn an_engine_that_will_not_do_is_refused_in_a_sentence() {
    let engine = TestEngine::rootless();
    let data = TempDir::new().unwrap();
    let probe = async |engine_choice, socket, limits| {
        let options = Options { engine: engine_choice, socket: Some(socket), limits, ..Options::default() };
        Containers::probe(&options, WorkerId(uuid::Uuid::new_v4()), data.path()).await.unwrap_err()
    };
    let said = probe(EngineChoice::Auto, engine.socket(), LimitsRule::Auto).await;
    assert!(said.contains("of a user who is not root"), "{said}");
    let said = probe(EngineChoice::Only(EngineKind::Docker), engine.socket(), LimitsRule::Auto).await;
    assert!(said.contains("it is podman, not docker"), "{said}");
    let said = probe(EngineChoice::Auto, data.path().join("none.sock"), LimitsRule::Auto).await;
    assert!(said.contains("none.sock: "), "{said}");
    assert_eq!(probe(EngineChoice::None, engine.socket(), LimitsRule::Auto).await, "turned off");
}

/// What a task's log says about its image, and the record of it.
async fn brought_in(rig: &Rig, name: &str) -> (Result<serde_json::Value, StageError>, String) {
    let job = rig.script("exit 0");
    let brought = rig.image(&job, name).await;
    let record = brought.map(|_| serde_json::from_slice(&fs::read(job.dir.root().join(IMAGE_FILE)).unwrap()).unwrap());
    (record, job.log())
}

async fn images_come_from_their_registry(rig: Rig) {
    let registry = rig.engine.registry();
    let name = |image: &str| format!("{}/lab/{image}", registry.host);
    for image in ["tool:1", "tool:latest"] {
        rig.engine.push(BUSYBOX_IMAGE, &name(image));
    }
    let (record, log) = brought_in(&rig, &name("tool:1")).await;
    let record = record.unwrap();
    let digest = record["digest"].as_str().unwrap();
    assert!(digest.starts_with("sha256:") && record["id"] != record["digest"], "{record}");
    assert_eq!(record["image"], name("tool:1"));
    let engine = rig.containers.engine_name();
    assert_eq!(record["engine"], engine);
    assert_eq!(log, format!("fetchml: image {0}: pulling\nfetchml: image {0}: {digest}\n", name("tool:1")));
    // By its digest it is the same, and here already.
    let (again, log) = brought_in(&rig, &format!("{}@{digest}", name("tool"))).await;
    assert_eq!(again.unwrap()["id"], record["id"]);
    assert!(!log.contains("pulling"), "{log}");
    // One that is here is used; one whose name says nothing is looked up each time.
    assert!(!brought_in(&rig, &name("tool:1")).await.1.contains("pulling"));
    for _ in 0..2 {
        assert!(brought_in(&rig, &name("tool")).await.1.contains("pulling"));
    }
    for (wrong, said) in [(name("tool:9"), "check its name"), (name("none:1"), "check its name")] {
        let error = brought_in(&rig, &wrong).await.0.unwrap_err();
        assert_eq!((error.cause, error.transient), (FailureCause::Image, false), "{error}");
        assert!(error.message.contains(said), "{error}");
    }
    let host = registry.host.clone();
    drop(registry);
    let (here, log) = brought_in(&rig, &format!("{host}/lab/tool")).await;
    assert_eq!(here.unwrap()["id"], record["id"]);
    assert!(log.contains("the one that is here is used"), "{log}");
    let error = brought_in(&rig, &format!("{host}/lab/tool:9")).await.0.unwrap_err();
    assert_eq!((error.cause, error.transient), (FailureCause::Image, true), "{error}");
    // A registry that has trouble of its own.
    let double = std::net::TcpListener::bind(&host).unwrap();
    std::thread::spawn(move || {
        for stream in double.incoming() {
            let answer = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
            let _ = stream.and_then(|mut stream| {
                let _ = std::io::Read::read(&mut stream, &mut [0; 1024]);
                std::io::Write::write_all(&mut stream, answer.as_bytes())
            });
        }
    });
    let error = brought_in(&rig, &format!("{host}/lab/tool:9")).await.0.unwrap_err();
    assert_eq!((error.cause, error.transient), (FailureCause::Image, true), "{error}");
}

#[tokio::test]
async fn podman_pulls_what_is_missing() {
    images_come_from_their_registry(Rig::podman().await).await;
}

#[tokio::test]
async fn docker_pulls_what_is_missing() {
    images_come_from_their_registry(Rig::with(TestEngine::docker(), Options::default()).await).await;
}

#[tokio::test]
async fn images_that_are_not_allowed_or_not_there_are_explained() {
    let options = Options { images: "localhost/*, ghcr.io/lab/*".parse().unwrap(), ..Options::default() };
    let rig = Rig::with(TestEngine::podman(), options).await;
    for (name, said) in [
        ("python:3", "the image python:3 is not allowed on this worker; its owner allows: localhost/*, ghcr.io/lab/*"),
        ("localhost/none:1", "there is no image localhost/none:1 on this worker"),
    ] {
        let error = brought_in(&rig, name).await.0.unwrap_err();
        assert_eq!((error.cause, error.transient), (FailureCause::Image, false), "{error}");
        assert!(error.message.starts_with(said), "{error}");
    }
    let (record, _) = brought_in(&rig, HOST_IMAGE).await;
    let record = record.unwrap();
    assert_eq!(record["image"], HOST_IMAGE);
    assert!(record["id"].as_str().unwrap().starts_with("sha256:"), "{record}");
}

/// A file that describes a device, as `nvidia-ctk cdi generate` writes one for each GPU.
struct Description(PathBuf);

impl Drop for Description {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[tokio::test]
async fn gpus_are_given_by_their_cdi_names() {
    let rig = Rig::podman().await;
    let uuid = format!("GPU-test-{}", std::process::id());
    let dir = PathBuf::from("/var/run/cdi");
    fs::create_dir_all(&dir).unwrap();
    let description = serde_json::json!({
        "cdiVersion": "0.3.0", "kind": "nvidia.com/gpu",
        "devices": [{ "name": uuid, "containerEdits": {
            "deviceNodes": [{ "path": "/dev/fake-gpu", "hostPath": "/dev/zero" }], "env": ["FAKE_GPU=yes"] } }],
    });
    let description_file = Description(dir.join(format!("{uuid}.json")));
    fs::write(&description_file.0, description.to_string()).unwrap();
    let script = r#"
        head -c 3 /dev/fake-gpu | wc -c; echo $FAKE_GPU $CUDA_VISIBLE_DEVICES; id -u
        grep -e CapEff -e NoNewPrivs -e "Seccomp:" /proc/self/status | tr -s "\t" " "
        for path in / /usr /etc /run; do touch $path/intruder 2>/dev/null && echo WROTE $path; done
        grep -c : /proc/net/dev
        cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null
        cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu.max 2>/dev/null | cut -d" " -f1
        cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null
        df -k /dev/shm | tail -1 | tr -s " " | cut -d" " -f2; exit 9
    "#;
    let mut job = rig.script(script);
    job.assignment.spec.network = Network::None;
    job.assignment.spec.demand = Demand { cpu: 2, memory_gb: 1, gpu: 1, ..job.assignment.spec.demand };
    job.assignment.gpus = vec![4];
    job.gpus = vec![Gpu { index: 4, uuid: uuid.clone(), ..Gpu::default() }];
    let exit = rig.run(&job).await;
    assert_eq!(exit.exit_code, Some(9), "{exit:?} {}", job.log());
    let given = format!("yes {uuid}");
    let capabilities = format!("CapEff: {}", "0".repeat(16));
    let expected = ["3", &given, "200003", &capabilities, "NoNewPrivs: 1", "Seccomp: 2", "1"];
    let limits = ["1073741824", "200000", "6144", "1048576"];
    assert_eq!(job.log().lines().collect::<Vec<_>>(), [&expected[..], &limits].concat());
    rig.assert_nothing_left(&job);
}

#[tokio::test]
async fn docker_keeps_the_same_promises() {
    let mut rig = Rig::with(TestEngine::docker(), Options::default()).await;
    assert!(rig.containers.describe().starts_with("docker "), "{}", rig.containers.describe());
    for (script, code, signal) in [("exit 137", Some(137), None), ("kill -9 $$", None, Some(9))] {
        let job = rig.job(BUSYBOX_IMAGE, &format!("/bin/busybox sh -c '{script}'"));
        let exit = rig.run(&job).await;
        assert_eq!((exit.exit_code, exit.signal), (code, signal), "{script}: {exit:?} {}", job.log());
        rig.assert_nothing_left(&job);
    }
    let script = r"
        for path in / /bin /etc /dev /run; do busybox touch $path/intruder 2>/dev/null && echo WROTE $path; done
        busybox id -u; busybox grep -e CapEff -e NoNewPrivs /proc/self/status; echo o > $FETCHML_OUTPUT_DIR/model
        busybox grep -c : /proc/net/dev; busybox cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null
    ";
    let mut job = rig.job(BUSYBOX_IMAGE, &format!("/bin/busybox sh -c '{script}'"));
    job.assignment.spec.network = Network::None;
    job.assignment.spec.demand.memory_gb = 1;
    assert!(rig.run(&job).await.exit_code.is_some());
    assert_eq!(job.log(), "200003\nCapEff:\t0000000000000000\nNoNewPrivs:\t1\n1\n2048\n");
    assert_eq!(fs::metadata(job.dir.output().join("model")).unwrap().uid(), 200_003);

    let bomb = "x=x; while true; do x=$x$x$x$x; done";
    let mut job = rig.job(BUSYBOX_IMAGE, &format!("/bin/busybox sh -c '{bomb}'"));
    job.assignment.spec.demand.memory_gb = 1;
    let exit = rig.run(&job).await;
    assert_eq!(exit.cause, ExitCause::OutOfMemory, "{exit:?} {}", job.log());

    let job = rig
        .job(BUSYBOX_IMAGE, "/bin/busybox sh -c 'trap : TERM; (busybox sleep 1000 &); echo up; while :; do :; done'");
    let mut running = rig.start(&job).await;
    until("it runs", || (job.log() == "up\n").then_some(())).await;
    rig.engine.kill();
    rig.engine.restart();
    running.stop(FailureCause::Cancelled, 0).unwrap();
    assert_eq!(running.wait().await.cause, ExitCause::Stopped(FailureCause::Cancelled));
    rig.assert_nothing_left(&job);
}
