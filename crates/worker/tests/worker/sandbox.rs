//! Processes in a sandbox: exact exits, whole trees, what they see and may write.

use crate::rig::{helper, new_attempt, survivors, until, until_exists};
use fetchml_api::{AttemptId, FailureCause};
use fetchml_worker::{
    cgroup::Resources,
    executor::AttemptDir,
    isolation::{Contents, Isolation, Sandboxes},
    shim::{Exit, ExitCause, Helper, LaunchSpec, Mount},
};
use std::{fs, path::Path};
use tempfile::TempDir;

/// A data directory that only its owner may enter, as `mktemp -d` makes it, with one attempt in it.
pub(crate) struct Rig {
    pub(crate) data: TempDir,
    pub(crate) helper: Helper,
    pub(crate) sandboxes: Sandboxes,
    pub(crate) attempt: AttemptId,
    pub(crate) dir: AttemptDir,
}

impl Rig {
    pub(crate) async fn new(isolation: Isolation) -> Self {
        let data = TempDir::new().unwrap();
        let helper = helper().await;
        let sandboxes = Sandboxes::probe(isolation, &helper, data.path()).await.unwrap();
        let attempt = new_attempt();
        let dir = AttemptDir::new(data.path(), attempt);
        dir.create().unwrap();
        dir.create_files().unwrap();
        Self { data, helper, sandboxes, attempt, dir }
    }

    pub(crate) async fn bubblewrap() -> Self {
        let rig = Self::new(Isolation::Required).await;
        assert_eq!(rig.sandboxes.name(), "bubblewrap");
        rig
    }

    pub(crate) fn shell(&self, script: &str) -> LaunchSpec {
        self.with(script, Contents { network: true, ..Contents::default() })
    }

    pub(crate) fn with(&self, script: &str, contents: Contents<'_>) -> LaunchSpec {
        LaunchSpec {
            attempt: self.attempt,
            dir: self.dir.root().to_owned(),
            argv: vec!["/bin/sh".into(), "-c".into(), script.into()],
            env: vec![
                ("PATH".into(), "/usr/bin:/bin".into()),
                ("FETCHML_ATTEMPT_ID".into(), self.attempt.to_string().into()),
                ("DIR".into(), self.dir.output().into()),
            ],
            cwd: self.dir.work(),
            time_limit_s: None,
            grace_s: 1,
            confinement: self.sandboxes.confine(&self.dir, 0, contents),
            fence: None,
        }
    }

    pub(crate) async fn run(&self, script: &str) -> Exit {
        self.helper.launch(self.shell(script)).await.unwrap().wait().await
    }

    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.dir.log()).unwrap_or_default()).into_owned()
    }
}

#[tokio::test]
async fn exit_codes_and_signals_come_through_bubblewrap_exactly() {
    for code in [0, 1, 7, 137, 255] {
        let exit = Rig::bubblewrap().await.run(&format!("exit {code}")).await;
        assert_eq!((exit.cause, exit.exit_code, exit.signal), (ExitCause::Exit, Some(code), None), "{exit:?}");
    }
    for signal in [1, 9, 11, 15] {
        let exit = Rig::bubblewrap().await.run(&format!("kill -{signal} $$")).await;
        assert_eq!((exit.cause, exit.exit_code, exit.signal), (ExitCause::Signal, None, Some(signal)), "{exit:?}");
    }
}

#[tokio::test]
async fn a_program_that_cannot_start_in_a_sandbox_is_explained() {
    for (program, code) in [("/nonexistent/program", 127), ("no-such-program-here", 127), ("/etc/passwd", 126)] {
        let rig = Rig::bubblewrap().await;
        let mut spec = rig.shell("");
        spec.argv = vec![program.into()];
        let exit = rig.helper.launch(spec).await.unwrap().wait().await;
        assert_eq!((exit.cause, exit.exit_code), (ExitCause::LaunchFailed, Some(code)), "{program}: {exit:?}");
    }
}

#[tokio::test]
async fn a_sandbox_that_cannot_be_made_is_the_workers_fault() {
    let rig = Rig::bubblewrap().await;
    let contents = Contents { mounts: vec![Mount::read_only("/nonexistent/data")], ..Contents::default() };
    let exit = rig.helper.launch(rig.with("true", contents)).await.unwrap().wait().await;
    assert_eq!((exit.cause, exit.exit_code), (ExitCause::LaunchFailed, None), "{exit:?}");
    let error = exit.error.clone().unwrap();
    assert!(error.contains("sandbox could not be set up") && error.contains("/nonexistent/data"), "{error}");
    assert_eq!(exit.outcome().cause, Some(FailureCause::Launch));
}

#[tokio::test]
async fn the_attempts_directories_are_writable_and_the_rest_is_not() {
    let rig = Rig::bubblewrap().await;
    let set = TempDir::new().unwrap();
    fs::write(set.path().join("rows"), "1,2\n").unwrap();
    fs::write(rig.dir.work().join("train.sh"), "echo trained").unwrap();
    let script = r#"
        sh train.sh && echo w > made-here && echo o > "$DIR/model" && echo t > /tmp/scratch && echo log >> /dev/stdout
        echo gone > /dev/stdout
        cat /data/rows
        for path in / /usr /etc /dev /data /run /proc/sys/kernel; do
            touch "$path/intruder" 2>/dev/null && echo "WROTE $path"
        done
        ls "$(dirname "$(dirname "$DIR")")"
        exit 0
    "#;
    let contents = Contents { mounts: vec![Mount::read_only(set.path()).at("/data")], ..Contents::default() };
    let exit = rig.helper.launch(rig.with(script, contents)).await.unwrap().wait().await;
    let log = rig.log();
    assert!(exit.is_success(), "{exit:?} {log}");
    assert!(log.contains("trained\n") && log.contains("log\n") && log.contains("1,2\n"), "{log}");
    assert!(!log.contains("WROTE") && !log.contains("gone"), "{log}");
    // Of the attempts it sees its own alone.
    assert!(log.ends_with(&format!("{}\n", rig.attempt)), "{log}");
    for path in [rig.dir.output().join("model"), rig.dir.work().join("made-here"), rig.dir.tmp().join("scratch")] {
        assert!(path.exists(), "{}", path.display());
    }
}

/// Ignores SIGTERM in every process: a child, a double-forked one, one in a session of its own.
const STUBBORN: &str = r#"
    trap '' TERM HUP INT
    sleep 1000 &
    (setsid sh -c 'trap "" TERM; sleep 1000 & sleep 1000' &)
    ((sh -c 'sleep 1000 & sleep 1000' &) &)
    env -i setsid sleep 1000 &
    touch "$DIR/up"
    sleep 1000
"#;

/// Promise G10 in a sandbox, and without one in `shim`.
#[tokio::test]
async fn g10_stop_leaves_no_survivor_of_a_sandbox() {
    let rig = Rig::bubblewrap().await;
    let mut running = rig.helper.launch(rig.shell(STUBBORN)).await.unwrap();
    until_exists(&rig.dir.output().join("up")).await;
    until("the whole tree to be up", || (survivors(rig.attempt).len() >= 8).then_some(())).await;
    running.stop(FailureCause::Cancelled, 1).unwrap();
    let exit = running.wait().await;
    assert_eq!((exit.cause, exit.signal), (ExitCause::Stopped(FailureCause::Cancelled), Some(9)));
    assert_eq!(survivors(rig.attempt), Vec::<std::path::PathBuf>::new());
}

#[tokio::test]
async fn sigterm_reaches_the_process_in_a_sandbox_and_its_grace_counts() {
    let rig = Rig::bubblewrap().await;
    let script = r#"trap 'echo saved; exit 3' TERM; touch "$DIR/up"; while :; do sleep 0.01; done"#;
    let mut running = rig.helper.launch(rig.shell(script)).await.unwrap();
    until_exists(&rig.dir.output().join("up")).await;
    running.stop(FailureCause::Preempted, 20).unwrap();
    let exit = running.wait().await;
    assert_eq!((exit.cause, exit.exit_code), (ExitCause::Stopped(FailureCause::Preempted), Some(3)));
    assert!(rig.log().contains("saved\n"), "{}", rig.log());
}

#[tokio::test]
async fn leftovers_in_a_sandbox_are_ended_and_the_code_is_kept() {
    let rig = Rig::bubblewrap().await;
    let exit = rig.run("(setsid sh -c 'trap \"\" TERM; sleep 1000; sleep 1000' &); exit 5").await;
    assert_eq!((exit.cause, exit.exit_code), (ExitCause::Exit, Some(5)));
    assert!(survivors(rig.attempt).is_empty());
}

#[tokio::test]
async fn a_killed_shim_takes_its_sandbox_along() {
    let rig = Rig::bubblewrap().await;
    let mut running = rig.helper.launch(rig.shell(STUBBORN)).await.unwrap();
    until_exists(&rig.dir.output().join("up")).await;
    let pid = rustix::process::Pid::from_raw(running.pid().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    assert_eq!(running.wait().await.cause, ExitCause::Lost);
    until("nothing of it runs", || survivors(rig.attempt).is_empty().then_some(())).await;
}

#[tokio::test]
async fn without_network_there_is_loopback_only() {
    let script = "cat /proc/net/dev | tail -n +3 | cut -d: -f1 | tr -d ' ' | grep -v '^lo$' | wc -l";
    for (network, devices) in [(true, false), (false, true)] {
        let rig = Rig::bubblewrap().await;
        let contents = Contents { network, ..Contents::default() };
        assert!(rig.helper.launch(rig.with(script, contents)).await.unwrap().wait().await.is_success());
        assert_eq!(rig.log().trim() == "0", devices, "network {network}: {}", rig.log());
    }
}

#[tokio::test]
async fn landlock_alone_shuts_files_off() {
    let rig = Rig::new(Isolation::None).await;
    let sandboxes = Sandboxes::landlock(&rig.helper, rig.data.path()).await.unwrap();
    let rig = Rig { sandboxes, ..rig };
    let secret = rig.data.path().join("agent.key");
    fs::write(&secret, "secret").unwrap();
    let script = format!(
        "cat {0} && echo READ; cat /etc/shadow && echo READ; echo x > {0} && echo WROTE; echo o > $DIR/model; exit 4",
        secret.display()
    );
    let exit = rig.run(&script).await;
    let log = rig.log();
    assert_eq!((exit.cause, exit.exit_code), (ExitCause::Exit, Some(4)), "{exit:?} {log}");
    assert!(!log.contains("READ") && !log.contains("WROTE") && !log.contains("secret"), "{log}");
    assert!(rig.dir.output().join("model").exists());
    assert!(Path::new(&secret).exists());
}

#[tokio::test]
async fn a_memory_bomb_ends_as_out_of_memory_and_touches_nobody_else() {
    let rig = Rig::bubblewrap().await;
    let resources = Resources { memory_bytes: Some(64 << 20), cpus: Some(1), processes: Some(50) };
    let contents = Contents { resources, ..Contents::default() };
    let bomb = "python3 -c 'x = []\nwhile True: x.append(bytearray(1 << 20))'";
    let mut spec = rig.with("", contents);
    spec.argv = vec!["/bin/sh".into(), "-c".into(), bomb.into()];
    let exit = rig.helper.launch(spec).await.unwrap().wait().await;
    let outcome = exit.outcome();
    assert_eq!((exit.cause, outcome.cause), (ExitCause::OutOfMemory, Some(FailureCause::OomHost)), "{exit:?}");
    assert!(outcome.error.unwrap().contains("more memory than it may"));
    assert!(survivors(rig.attempt).is_empty());
}

#[tokio::test]
async fn a_fork_bomb_stops_at_its_limit_and_dies_whole() {
    let rig = Rig::bubblewrap().await;
    let resources = Resources { processes: Some(40), ..Resources::default() };
    let contents = Contents { resources, ..Contents::default() };
    let script = r#"touch "$DIR/up"; for i in $(seq 1000); do setsid sleep 1000 & done; wait"#;
    let mut running = rig.helper.launch(rig.with(script, contents)).await.unwrap();
    until_exists(&rig.dir.output().join("up")).await;
    until("it is refused", || rig.log().contains("fork").then_some(())).await;
    assert!(survivors(rig.attempt).len() <= 42, "{}", survivors(rig.attempt).len());
    running.stop(FailureCause::Cancelled, 0).unwrap();
    running.wait().await;
    assert!(survivors(rig.attempt).is_empty());
}

#[tokio::test]
async fn without_isolation_a_memory_limit_counts_too() {
    let rig = Rig::new(Isolation::None).await;
    let resources = Resources { memory_bytes: Some(64 << 20), ..Resources::default() };
    let contents = Contents { resources, network: true, ..Contents::default() };
    let spec = rig.with("python3 -c 'x = bytearray(1 << 30)'; exit 9", contents);
    let exit = rig.helper.launch(spec).await.unwrap().wait().await;
    assert_eq!((exit.cause, exit.exit_code), (ExitCause::OutOfMemory, Some(9)), "{exit:?}");
}

#[tokio::test]
async fn a_group_is_gone_with_its_attempt() {
    let rig = Rig::bubblewrap().await;
    assert!(rig.run("exit 0").await.is_success());
    let name = rig.attempt.to_string();
    let found = walk(Path::new("/sys/fs/cgroup")).into_iter().find(|dir| dir.ends_with(&name));
    assert_eq!(found, None);
}

fn walk(dir: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let below = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    below.flat_map(|entry| [vec![entry.path()], walk(&entry.path())].concat()).collect()
}
