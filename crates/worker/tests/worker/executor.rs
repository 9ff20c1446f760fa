//! From an assignment to a command and its environment.

use crate::rig::new_attempt;
use fetchml_api::{
    AttemptEpoch, Demand, FailureCause, Gpu, Micros, Network, OnLost, SlotKind, TaskId, TaskSpec, link::Assignment,
};
use fetchml_worker::{
    executor::{self, AttemptDir, CommandError, Execution},
    isolation::Sandboxes,
    shim::LaunchSpec,
    staging::PythonEnvironment,
};
use std::{collections::BTreeMap, ffi::OsStr, fs, os::unix::fs::PermissionsExt as _};
use tempfile::TempDir;

struct Attempt {
    _data: TempDir,
    dir: AttemptDir,
    assignment: Assignment,
}

/// An attempt whose snapshot holds `train.py`, `run.sh`, an executable `tool`, `data.txt` and `my job.py`.
fn attempt(entrypoint: Option<&str>, args: Option<&str>) -> Attempt {
    let data = TempDir::new().unwrap();
    let assignment = Assignment {
        node: 0,
        attempt: new_attempt(),
        number: 2,
        epoch: AttemptEpoch { incarnation: 1, n: 1 },
        spec: TaskSpec {
            id: TaskId(uuid::Uuid::from_u128(7)),
            user_id: "ann".into(),
            job_name: "job".into(),
            created_at: Micros(0),
            demand: Demand {
                slot: SlotKind::Batch,
                cpu: 1,
                memory_gb: 0,
                gpu: 0,
                gpu_type: None,
                nodes: 1,
                image: false,
                reservation: None,
            },
            entrypoint: entrypoint.map(Into::into),
            args: args.map(Into::into),
            snapshot_id: None,
            image: None,
            env: BTreeMap::new(),
            secrets: Vec::new(),
            metadata: BTreeMap::new(),
            role: fetchml_api::Role::User,
            max_retries: 0,
            time_limit_s: Some(60),
            network: Network::On,
            on_lost: OnLost::Fence,
            lost_after_s: None,
            stall_after_s: None,
            resume_from: None,
            experiment_id: None,
            source: None,
            rerun_of: None,
            datasets: Vec::new(),
            depends_on: Vec::new(),
            array: None,
            notify: None,
        },
        gpus: vec![],
        grace_s: 30,
    };
    let dir = AttemptDir::new(data.path(), assignment.attempt);
    dir.create().unwrap();
    for (name, mode) in
        [("train.py", 0o644), ("run.sh", 0o644), ("tool", 0o755), ("data.txt", 0o644), ("my job.py", 0o644)]
    {
        fs::write(dir.work().join(name), "").unwrap();
        fs::set_permissions(dir.work().join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    Attempt { _data: data, dir, assignment }
}

fn process(attempt: &Attempt, python: Option<&PythonEnvironment>, gpus: &[Gpu]) -> Result<LaunchSpec, CommandError> {
    let Attempt { assignment, dir, .. } = attempt;
    let execution = Execution {
        assignment,
        rendezvous: None,
        dir,
        slot: 0,
        python,
        secrets: &[],
        gpus,
        mounts: Vec::new(),
        devices: Vec::new(),
    };
    executor::process(&execution, &Sandboxes::none(dir.root()))
}

fn argv(entrypoint: Option<&str>, args: Option<&str>, python: Option<&PythonEnvironment>) -> Vec<String> {
    let attempt = attempt(entrypoint, args);
    let spec = process(&attempt, python, &[]).unwrap();
    let work = format!("{}/", attempt.dir.work().display());
    spec.argv.iter().map(|word| word.to_str().unwrap().replace(&work, "WORK/")).collect()
}

#[test]
fn entry_points_become_commands() {
    let environment =
        PythonEnvironment { root: "/envs/1".into(), hash: "1".repeat(64), reused: true, prefixes: Vec::new() };
    let python = Some(&environment);
    for (entrypoint, args, expected) in [
        (
            "train.py",
            Some("--epochs 3 --name 'a b'"),
            vec!["/envs/1/bin/python", "train.py", "--epochs", "3", "--name", "a b"],
        ),
        ("train.py --lr 1", Some("--x"), vec!["/envs/1/bin/python", "train.py", "--lr", "1", "--x"]),
        ("my job.py", None, vec!["/envs/1/bin/python", "my job.py"]),
        ("python -m train", None, vec!["/envs/1/bin/python", "-m", "train"]),
        ("python3 train.py", None, vec!["/envs/1/bin/python", "train.py"]),
        ("tool", Some("'$HOME' ; rm"), vec!["WORK/tool", "$HOME", ";", "rm"]),
        ("./tool a", None, vec!["WORK/./tool", "a"]),
        ("/bin/echo 'x  y'", None, vec!["/bin/echo", "x  y"]),
    ] {
        assert_eq!(argv(Some(entrypoint), args, python), expected, "{entrypoint}");
    }
    assert!(argv(Some("run.sh"), None, None)[0].ends_with("/bash"));
    assert_eq!(argv(None, Some("/bin/echo hi"), None), ["/bin/echo", "hi"]);
    let python3 = argv(Some("train.py"), None, None);
    assert!(python3[0].ends_with("/python3"), "{python3:?}");
}

#[test]
fn what_cannot_start_is_the_tasks_fault_and_says_why() {
    for (entrypoint, args, code, words) in [
        (
            Some("trian.py"),
            None,
            127,
            "trian.py does not exist in the snapshot; files at the top: data.txt, my job.py, run.sh",
        ),
        (Some("no/such.sh"), None, 127, "no/such.sh does not exist in the snapshot"),
        (Some("bin/none"), None, 127, "bin/none does not exist"),
        (Some("no-such-program-here x"), None, 127, "neither a file of the snapshot nor a program"),
        (Some("data.txt"), None, 126, "not executable"),
        (Some("echo 'open"), None, 2, "unclosed quote"),
        (Some("train.py"), Some("\"open"), 2, "args has an unclosed quote"),
        (None, Some("  "), 2, "no command"),
        (Some(" "), None, 2, "no command"),
    ] {
        let attempt = attempt(entrypoint, args);
        let error = process(&attempt, None, &[]).unwrap_err();
        assert_eq!(error.exit_code, code, "{error}");
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(error.outcome().cause, Some(FailureCause::ExitNonzero));
    }
}

#[test]
fn the_environment_is_an_allow_list_with_fetchmls_own_on_top() {
    let mut attempt = attempt(Some("train.py"), None);
    attempt.assignment.gpus = vec![1];
    let env = &mut attempt.assignment.spec.env;
    env.insert("LR".into(), "0.1".into());
    env.insert("HOME".into(), "/mine".into());
    env.insert("FETCHML_TASK_ID".into(), "forged".into());
    let gpu = Gpu { index: 1, uuid: "GPU-1".into(), name: "H100".into(), memory_bytes: 1, ..Gpu::default() };
    let python = PythonEnvironment { root: "/envs/1".into(), hash: "1".repeat(64), reused: true, prefixes: Vec::new() };
    let spec = process(&attempt, Some(&python), &[gpu]).unwrap();
    let last = |name: &str| spec.env.iter().rev().find(|(n, _)| n == name).map(|(_, v)| v.as_os_str());
    for (name, value) in [
        ("FETCHML_TASK_ID", "00000000-0000-0000-0000-000000000007"),
        ("FETCHML_ATTEMPT", "2"),
        ("FETCHML_JOB_NAME", "job"),
        ("CUDA_VISIBLE_DEVICES", "GPU-1"),
        ("PYTHONUNBUFFERED", "1"),
        ("LR", "0.1"),
        ("HOME", "/mine"),
    ] {
        assert_eq!(last(name), Some(OsStr::new(value)), "{name}");
    }
    assert!(last("PATH").unwrap().to_str().unwrap().starts_with("/envs/1/bin:"));
    assert_eq!(last("FETCHML_OUTPUT_DIR"), Some(attempt.dir.output().as_os_str()));
    assert_eq!(last("FETCHML_METRICS"), Some(attempt.dir.metrics().as_os_str()));
    // Set for the test's own process by cargo: nothing of it goes on.
    assert_eq!(last("CARGO_MANIFEST_DIR"), None);
    assert_eq!((spec.time_limit_s, spec.grace_s), (Some(60), 30));
}
