//! Tasks that name an image, from submit to files: by podman as root and as a user, through deaths of everything.

use crate::support::{DEADLINE, Lab, eventually};
use fetchml_api::{CreateTaskRequest, DatasetSpec, FailureCause, TaskId, TaskStatus};
use fetchml_testkit::engine::{HOST_IMAGE, TestEngine};
use serde_json::Value;
use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::PathBuf,
    process::Command,
};

const TRAIN: &str = "\
import json, os, pathlib, sys
out, checkpoint = (pathlib.Path(os.environ[name]) for name in ('FETCHML_OUTPUT_DIR', 'FETCHML_CHECKPOINT_DIR'))
step = int((checkpoint / 'step').read_text()) if (checkpoint / 'step').exists() else 0
print('from', step, 'as', os.getuid(), 'with', sys.argv[1:])
(checkpoint / 'step').write_text(str(step + 1))
(out / 'model.bin').write_bytes(bytes(range(256)) * 64)
with open(os.environ['FETCHML_METRICS'], 'a') as metrics:
    print(json.dumps({'step': step, 'loss': 0.5}), file=metrics)
";

async fn lab_with(engine: &TestEngine) -> Lab {
    let mut lab = Lab::new().containers(engine);
    lab.serve().await;
    lab.worker(1).await;
    lab
}

/// What `submit --json` printed, and the task's id.
async fn submitted(lab: &Lab, arguments: &[&str]) -> (Value, TaskId) {
    let made: Value = serde_json::from_str(&lab.output(arguments).await).expect("JSON");
    let id = made["id"].as_str().expect("an id").parse().expect("an id");
    (made, id)
}

async fn submit(lab: &Lab, args: &str) -> TaskId {
    let (image, args) = (Some(HOST_IMAGE.into()), Some(args.into()));
    let request = CreateTaskRequest { job_name: "boxed".into(), image, args, ..Default::default() };
    lab.client().submit(&request, true).await.expect("the task is accepted").id
}

/// The whole way of one task, and of another that goes on from it.
async fn from_submit_to_files(engine: &TestEngine, user_inside: u32, owner: u32) {
    let lab = lab_with(engine).await;
    let worker = &lab.client().workers().await.expect("workers")[0].capabilities;
    assert_eq!(worker.executors, ["process", "podman"]);
    assert!(worker.container_engine.as_ref().expect("an engine").starts_with("podman "), "{worker:?}");
    let dir = lab.project("lab", &[("train.py", TRAIN), ("requirements.txt", "nothing-that-exists==9\n")]);
    let dir = dir.to_str().expect("UTF-8");
    let base = ["submit", "--json", "--dir", dir, "--image", HOST_IMAGE, "--network", "none", "--memory", "1"];
    let (made, id) = submitted(&lab, &[&base[..], &["train.py", "--epochs", "3"]].concat()).await;
    assert_eq!(made["image"], HOST_IMAGE);
    let task = lab.until(id, TaskStatus::Completed).await;
    let log = lab.log(id).await;
    let (image, task_words) = log.split_once('\n').expect("lines");
    assert!(image.starts_with(&format!("fetchml: image {HOST_IMAGE}: sha256:")), "{log}");
    assert_eq!(
        task_words,
        format!(
            "fetchml: requirements.txt is not installed in a container: the image's own Python is used as it is\n\
             from 0 as {user_inside} with ['--epochs', '3']\n"
        )
    );
    let into = lab.path("got");
    lab.output(&["artifacts", "get", &id.to_string(), "--output", into.to_str().expect("UTF-8")]).await;
    assert_eq!(
        fs::read(into.join("model.bin")).expect("a model"),
        (0..=255).cycle().take(256 * 64).collect::<Vec<u8>>()
    );
    let attempt = lab.path("worker1/attempts").join(task.attempt_id.expect("an attempt").to_string());
    if let Ok(model) = fs::metadata(attempt.join("output/model.bin")) {
        assert_eq!(model.uid(), owner);
    }
    let (_, next) = submitted(&lab, &[&base[..], &["--resume-from", &id.to_string(), "train.py"]].concat()).await;
    lab.until(next, TaskStatus::Completed).await;
    assert!(lab.log(next).await.contains("from 1 as "));
    assert_eq!(engine.containers(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_in_podman_goes_from_submit_to_files() {
    from_submit_to_files(&TestEngine::podman(), 200_000, 200_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_in_a_users_podman_goes_from_submit_to_files() {
    let engine = TestEngine::rootless();
    from_submit_to_files(&engine, 0, engine.user()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_users_podman_cannot_limit_is_said_and_memory_is_limited_all_the_same() {
    let engine = TestEngine::rootless();
    let lab = lab_with(&engine).await;
    let said = lab.workers[0].stderr();
    let line = said.lines().find(|line| line.starts_with("  containers ")).expect("it says what it does");
    assert!(line.contains("podman ") && line.contains(", as this user"), "{line}");
    if std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        return;
    }
    assert!(line.contains("NOT limited: memory, cpu, processes"), "{line}");
    let dir = lab.project("big", &[("big.py", "x = bytearray(2 << 30)\n")]);
    let submit = ["submit", "--json", "--dir", dir.to_str().unwrap(), "--image", HOST_IMAGE, "--memory", "1", "big.py"];
    let (_, id) = submitted(&lab, &submit).await;
    lab.until(id, TaskStatus::Failed).await;
    assert!(lab.log(id).await.contains("MemoryError"));
    // Without the owner's word such an engine is not used, and one that was named is missed.
    let mut strict = Lab::new().containers_with(&engine, &[]);
    strict.serve().await;
    let url = strict.url();
    let mut worker = strict.enter_worker(1, &url).await;
    assert_ne!(worker.wait().await, Some(0));
    let said = worker.stderr();
    assert!(said.contains("cannot limit memory, cpu, processes here (cgroup v1, rootless)"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_that_cannot_be_had_ends_the_task_at_once() {
    let engine = TestEngine::podman();
    let mut lab = Lab::new().containers_with(&engine, &["--allow-images", "localhost/*"]);
    lab.serve().await;
    lab.worker(1).await;
    for (image, said) in [("localhost/none:1", "there is no image"), ("python:3", "is not allowed on this worker")] {
        let request = CreateTaskRequest {
            job_name: "none".into(),
            image: Some(image.into()),
            args: Some("true".into()),
            max_retries: Some(3),
            ..Default::default()
        };
        let id = lab.client().submit(&request, true).await.unwrap().id;
        let task = lab.until(id, TaskStatus::Failed).await;
        let failure = task.failure.unwrap();
        assert_eq!((failure.cause, failure.retryable), (FailureCause::Image, false));
        assert_eq!((task.retry_count, task.requeue_count), (0, 0));
        assert!(task.error.as_ref().unwrap().contains(said), "{:?}", task.error);
    }
}

/// A script that prints a line, waits for a file in its output directory, prints another and ends with 37.
const GATED: &str =
    "sh -c 'echo first; while [ ! -e $FETCHML_OUTPUT_DIR/go ]; do sleep 0.05; done; echo last; exit 37'";

/// Starts it; the file it waits for.
async fn start_gated(lab: &Lab) -> (TaskId, PathBuf) {
    let id = submit(lab, GATED).await;
    let task = lab.until(id, TaskStatus::Running).await;
    let attempt = lab.path("worker1/attempts").join(task.attempt_id.expect("an attempt").to_string());
    let log = attempt.join("log");
    eventually("it runs", DEADLINE, async || fs::read_to_string(&log).ok().filter(|text| text.ends_with("first\n")))
        .await;
    (id, attempt.join("output/go"))
}

/// Promise G4 in a container, with the engine's service dead for a part of the time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g4_a_container_survives_kill_9_of_agent_server_and_engine() {
    let mut engine = TestEngine::podman();
    let mut lab = lab_with(&engine).await;
    let (id, gate) = start_gated(&lab).await;
    let before = lab.client().task(id).await.unwrap();
    lab.kill_worker(0);
    engine.kill();
    lab.kill_server();
    fs::write(&gate, "").unwrap();
    lab.serve().await;
    engine.restart();
    lab.restart_worker(0).await;
    let task = lab.until(id, TaskStatus::Failed).await;
    assert_eq!(task.failure.and_then(|failure| failure.exit_code), Some(37));
    assert_eq!((task.attempt_id, task.requeue_count), (before.attempt_id, 0));
    let log = lab.log(id).await;
    assert!(log.ends_with("first\nlast\n") && log.matches("first").count() == 1, "{log}");
    eventually("no container is left", DEADLINE, async || engine.containers().is_empty().then_some(())).await;
}

/// A shim that dies while there is no agent takes its container along, and so does its runner; a restarted agent
/// clears away what is left in the engine, also of attempts that it never heard of.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn containers_that_nobody_needs_are_gone_after_a_restart() {
    let engine = TestEngine::podman();
    let mut lab = lab_with(&engine).await;
    let worker = lab.client().workers().await.unwrap()[0].id;
    let (id, _) = start_gated(&lab).await;
    let task = lab.client().task(id).await.unwrap();
    let attempt = task.attempt_id.unwrap().to_string();
    lab.kill_worker(0);
    let shim = fs::read(lab.path("worker1/attempts").join(&attempt).join("shim.json")).unwrap();
    let shim: Value = serde_json::from_slice(&shim).unwrap();
    let shim = rustix::process::Pid::from_raw(i32::try_from(shim["pid"].as_i64().unwrap()).unwrap()).unwrap();
    rustix::process::kill_process(shim, rustix::process::Signal::KILL).unwrap();
    eventually("nothing of it runs", DEADLINE, async || (!runs(&attempt)).then_some(())).await;
    let unknown = format!("fetchml.attempt={}", "01a20ade-af2e-7000-8bb0-b90b3dc89500");
    let (own, other) =
        (format!("fetchml.worker={worker}"), format!("fetchml.worker={}", "01a20ade-af2e-7000-8bb0-b90b3dc89500"));
    engine.run(&["create", "--name", "left", "--label", &own, "--label", &unknown, HOST_IMAGE, "true"]);
    engine.run(&["create", "--name", "others", "--label", &other, "--label", &unknown, HOST_IMAGE, "true"]);
    lab.restart_worker(0).await;
    let again = eventually("it is queued again", DEADLINE, async || {
        let task = lab.client().task(id).await.ok()?;
        (task.requeue_count == 1 && task.status == TaskStatus::Running).then_some(task)
    })
    .await;
    let now = format!("fetchml-{}", again.attempt_id.unwrap());
    let containers = eventually("its container is there", DEADLINE, async || {
        let containers = engine.containers();
        containers.contains(&now).then_some(containers)
    })
    .await;
    assert!(containers.len() == 2 && containers.contains(&"others".to_owned()), "{containers:?}");
    lab.output(&["cancel", &id.to_string()]).await;
    lab.until(id, TaskStatus::Failed).await;
}

/// A secret is in the environment of the process, and neither in what the engine knows of its container nor in its log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_reaches_the_process_and_not_its_engine() {
    const SECRET: &str = "not-for-the-engine-4711";
    let engine = TestEngine::podman();
    let lab = lab_with(&engine).await;
    let set = crate::support::run_with_input(lab.command(&["secrets", "set", "TOKEN"]), SECRET.as_bytes()).await;
    assert!(set.status.success(), "{}", crate::support::shown(&set));
    let request = CreateTaskRequest {
        job_name: "boxed".into(),
        image: Some(HOST_IMAGE.into()),
        args: Some(
            "sh -c 'echo $TOKEN; printf %s $TOKEN | wc -c > $FETCHML_OUTPUT_DIR/length; echo said; \
             while [ ! -e $FETCHML_OUTPUT_DIR/go ]; do sleep 0.05; done'"
                .into(),
        ),
        secrets: vec!["TOKEN".into()],
        ..Default::default()
    };
    let id = lab.client().submit(&request, true).await.expect("the task is accepted").id;
    let task = lab.until(id, TaskStatus::Running).await;
    let attempt = task.attempt_id.expect("an attempt").to_string();
    let output = lab.path("worker1/attempts").join(&attempt).join("output");
    let length = eventually("it has said it", DEADLINE, async || {
        fs::read_to_string(output.join("length")).ok().filter(|text| text.ends_with('\n'))
    })
    .await;
    assert_eq!(length.trim(), SECRET.len().to_string());
    let known = engine.run(&["inspect", &format!("fetchml-{attempt}")]);
    assert!(known.contains(&attempt) && !known.contains(SECRET), "{known}");
    fs::write(output.join("go"), "").unwrap();
    lab.until(id, TaskStatus::Completed).await;
    let log = lab.log(id).await;
    assert!(log.contains(&"*".repeat(SECRET.len())) && !log.contains(SECRET), "{log}");
}

/// Data sets are seen where they are wanted, whatever isolates the worker's other tasks, and changed by nobody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_in_podman_reads_its_data_sets_and_cannot_change_them() {
    const SCRIPT: &str = "sh -c '
        cat /data/iris.csv $FETCHML_DATASET_DIR/tree/train/iris.csv
        for file in /data/iris.csv $FETCHML_DATASET_DIR/tree/train/iris.csv; do
            (echo x >> $file) 2>/dev/null && echo CHANGED
            rm -f $file 2>/dev/null && echo REMOVED
            chmod u+w $file 2>/dev/null && echo UNLOCKED
        done
        touch $FETCHML_DATASET_DIR/tree/new 2>/dev/null && echo ADDED
        exit 0'";
    let files = tempfile::tempdir().unwrap();
    fs::create_dir_all(files.path().join("set/train")).unwrap();
    let file = files.path().join("set/train/iris.csv");
    fs::write(&file, "5.1,3.5\n").unwrap();
    let archive = files.path().join("set.tar");
    let packed = Command::new("tar").arg("-C").arg(files.path().join("set")).arg("-cf").arg(&archive).arg(".").status();
    assert!(packed.unwrap().success());
    // One of the workers is another user's.
    fs::set_permissions(files.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let set = |name: &str, source: &std::path::Path, mount_path: Option<&str>, unpack| DatasetSpec {
        name: Some(name.into()),
        source: Some(format!("file://{}", source.display())),
        mount_path: mount_path.map(Into::into),
        unpack: Some(unpack),
        ..Default::default()
    };
    let request = CreateTaskRequest {
        job_name: "boxed".into(),
        image: Some(HOST_IMAGE.into()),
        args: Some(SCRIPT.into()),
        dataset_specs: vec![set("iris", &file, Some("/data/iris.csv"), false), set("tree", &archive, None, true)],
        ..Default::default()
    };
    for engine in [TestEngine::podman(), TestEngine::rootless()] {
        let dir = files.path().to_str().unwrap();
        let mut lab = Lab::new().containers_with(&engine, &["--container-limits", "auto", "--dataset-dir", dir]);
        lab.serve().await;
        lab.worker(1).await;
        for _ in 0..2 {
            let id = lab.client().submit(&request, true).await.expect("the task is accepted").id;
            lab.until(id, TaskStatus::Completed).await;
            let log = lab.log(id).await;
            assert!(log.ends_with("\n5.1,3.5\n5.1,3.5\n"), "{log}");
        }
    }
}

/// Whether a process with an attempt's mark lives.
fn runs(attempt: &str) -> bool {
    let mark = format!("FETCHML_ATTEMPT_ID={attempt}");
    fs::read_dir("/proc").expect("/proc").flatten().any(|process| {
        fs::read(process.path().join("environ"))
            .is_ok_and(|environment| environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes()))
    })
}

/// Where `cargo xtask test` keeps what `examples/digits` needs.
fn digits_environment() -> PathBuf {
    // <target>/<profile>/fetchml
    let target = std::path::Path::new(env!("CARGO_BIN_EXE_fetchml")).ancestors().nth(2).expect("a target directory");
    let dir = target.join("digits-environment");
    assert!(dir.join("built-from").exists(), "{} is missing: `cargo xtask test` builds it", dir.display());
    dir
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_digits_example_is_trained_in_podman() {
    let environment = digits_environment();
    let engine = TestEngine::podman_showing(&[&environment]);
    let lab = lab_with(&engine).await;
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/digits");
    let python = environment.join("bin/python");
    let submit = ["submit", "--follow", "--dir", example, "--image", HOST_IMAGE, "--network", "none", "--"];
    let said = lab.output(&[&submit[..], &[python.to_str().unwrap(), "train.py", "--epochs", "3"]].concat()).await;
    assert!(said.contains("epoch   3/3") && said.contains("test accuracy 0.8"), "{said}");
    let into = lab.path("got");
    lab.output(&["artifacts", "get", "@last", "--output", into.to_str().unwrap()]).await;
    for file in ["model.joblib", "metrics.json", "confusion_matrix.png"] {
        assert!(fs::metadata(into.join(file)).unwrap().len() > 0, "{file}");
    }
}
