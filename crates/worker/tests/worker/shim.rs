//! Shims: exit codes, whole trees, deaths of agent, helper and shim.

use crate::rig::{helper, helper_command, new_attempt, shell, survivors, until, until_exists};
use fetchml_api::FailureCause;
use fetchml_worker::shim::{Exit, ExitCause, Helper, Reattached, reattach};
use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Child, Command, Stdio},
};
use tempfile::TempDir;

/// Runs a script to its end.
async fn run(script: &str) -> (TempDir, Exit) {
    let dir = TempDir::new().unwrap();
    let exit = helper().await.launch(shell(dir.path(), new_attempt(), script)).await.unwrap().wait().await;
    (dir, exit)
}

fn log(dir: &TempDir) -> String {
    fs::read_to_string(dir.path().join("log")).unwrap()
}

#[tokio::test]
async fn exit_codes_and_signals_are_exact() {
    for code in [0, 1, 7, 255] {
        let (_dir, exit) = run(&format!("exit {code}")).await;
        assert_eq!((exit.cause, exit.exit_code, exit.signal), (ExitCause::Exit, Some(code), None));
        assert_eq!(exit.is_success(), code == 0);
        assert!(exit.started_at_ms > 0 && exit.ended_at_ms >= exit.started_at_ms);
    }
    for signal in [1, 9, 11, 15] {
        let (_dir, exit) = run(&format!("kill -{signal} $$")).await;
        assert_eq!((exit.cause, exit.exit_code, exit.signal), (ExitCause::Signal, None, Some(signal)));
    }
}

#[tokio::test]
async fn a_program_that_cannot_start_is_explained() {
    let helper = helper().await;
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("plain"), "x").unwrap();
    fs::write(dir.path().join("lost-interpreter"), "#!/nonexistent/sh\n").unwrap();
    fs::set_permissions(dir.path().join("lost-interpreter"), fs::Permissions::from_mode(0o755)).unwrap();
    for (number, (program, code, words)) in [
        ("/nonexistent/program", 127, "no such program"),
        ("no-such-program-here", 127, "no such program"),
        (dir.path().join("plain").to_str().unwrap(), 126, "permission denied"),
        (dir.path().join("lost-interpreter").to_str().unwrap(), 127, "interpreter"),
    ]
    .into_iter()
    .enumerate()
    {
        let attempt_dir = dir.path().join(number.to_string());
        fs::create_dir(&attempt_dir).unwrap();
        let mut spec = shell(&attempt_dir, new_attempt(), "");
        spec.argv = vec![program.into()];
        let exit = helper.launch(spec).await.unwrap().wait().await;
        assert_eq!((exit.cause, exit.exit_code), (ExitCause::LaunchFailed, Some(code)), "{program}: {exit:?}");
        assert!(exit.error.as_deref().unwrap().contains(words), "{exit:?}");
        assert_eq!(exit.outcome().cause, Some(FailureCause::ExitNonzero));
    }
}

#[tokio::test]
async fn the_process_starts_clean() {
    let dir = TempDir::new().unwrap();
    // Not through a shell, which would clean up by itself.
    for (attempt, argv, said) in [
        ("signals", ["grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"], ["SigBlk:\t0000", "SigIgn:\t0000"]),
        ("files", ["find", "/proc/self/fd", "-printf", "%f->%l,"], ["0->/dev/null,", "2->"]),
    ] {
        let attempt_dir = dir.path().join(attempt);
        fs::create_dir(&attempt_dir).unwrap();
        let mut spec = shell(&attempt_dir, new_attempt(), "");
        spec.argv = argv.map(Into::into).into();
        assert!(helper().await.launch(spec).await.unwrap().wait().await.is_success());
        let log = fs::read_to_string(attempt_dir.join("log")).unwrap();
        assert!(said.iter().all(|words| log.contains(words)), "{log}");
        assert!(!log.contains("socket:") && !log.contains("lock,") && !log.contains("signalfd"), "{log}");
        // Signals 32 and 33 are glibc's own and ignored in whatever its posix_spawn started.
        for (_, mask) in log.lines().filter_map(|line| line.split_once(":\t")) {
            assert_eq!(u64::from_str_radix(mask, 16).unwrap() & 0x7fff_ffff, 0, "{log}");
        }
    }
}

#[tokio::test]
async fn a_megabyte_of_garbage_is_kept_byte_for_byte() {
    let dir = TempDir::new().unwrap();
    let mut state = 1_u64;
    let garbage: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 33) as u8
    })
    .take(1 << 20)
    .collect();
    fs::write(dir.path().join("garbage"), &garbage).unwrap();
    let spec = shell(dir.path(), new_attempt(), "cat garbage; cat garbage >&2");
    assert!(helper().await.launch(spec).await.unwrap().wait().await.is_success());
    assert!(fs::read(dir.path().join("log")).unwrap() == [&garbage[..], &garbage[..]].concat());
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

#[tokio::test]
async fn stop_kills_double_forks_sessions_and_processes_that_ignore_sigterm() {
    let (dir, attempt) = (TempDir::new().unwrap(), new_attempt());
    let mut running = helper().await.launch(shell(dir.path(), attempt, STUBBORN)).await.unwrap();
    until_exists(&dir.path().join("up")).await;
    until("the whole tree to be up", || (survivors(attempt).len() >= 8).then_some(())).await;
    running.stop(FailureCause::Cancelled, 1).unwrap();
    let exit = running.wait().await;
    assert_eq!((exit.cause, exit.signal), (ExitCause::Stopped(FailureCause::Cancelled), Some(9)));
    assert_eq!(survivors(attempt), Vec::<std::path::PathBuf>::new());
}

#[tokio::test]
async fn a_tree_that_forks_without_end_is_killed() {
    let (dir, attempt) = (TempDir::new().unwrap(), new_attempt());
    let script = r#"trap '' TERM; touch "$DIR/up"; while :; do (setsid sleep 1000 &); sleep 0.002; done"#;
    let mut running = helper().await.launch(shell(dir.path(), attempt, script)).await.unwrap();
    until("a crowd", || (survivors(attempt).len() > 20).then_some(())).await;
    running.stop(FailureCause::Cancelled, 0).unwrap();
    assert_eq!(running.wait().await.cause, ExitCause::Stopped(FailureCause::Cancelled));
    assert!(survivors(attempt).is_empty());
}

#[tokio::test]
async fn a_process_that_heeds_sigterm_has_its_grace() {
    let dir = TempDir::new().unwrap();
    let script = r#"trap 'echo saved; exit 3' TERM; touch "$DIR/up"; while :; do sleep 0.01; done"#;
    let mut running = helper().await.launch(shell(dir.path(), new_attempt(), script)).await.unwrap();
    until_exists(&dir.path().join("up")).await;
    running.stop(FailureCause::Preempted, 20).unwrap();
    let exit = running.wait().await;
    assert_eq!((exit.cause, exit.exit_code), (ExitCause::Stopped(FailureCause::Preempted), Some(3)));
    assert!(log(&dir).contains("saved\n"));
    running.stop(FailureCause::Cancelled, 0).expect("stopping what has ended is no error");
}

#[tokio::test]
async fn a_second_stop_shortens_the_grace() {
    let dir = TempDir::new().unwrap();
    let script = r#"trap '' TERM; touch "$DIR/up"; while :; do sleep 0.05; done"#;
    let mut running = helper().await.launch(shell(dir.path(), new_attempt(), script)).await.unwrap();
    until_exists(&dir.path().join("up")).await;
    running.stop(FailureCause::Cancelled, 3_600).unwrap();
    running.stop(FailureCause::Preempted, 0).unwrap();
    let exit = tokio::time::timeout(std::time::Duration::from_secs(20), running.wait()).await.unwrap();
    assert!(matches!(exit.cause, ExitCause::Stopped(_)));
}

#[tokio::test]
async fn the_time_limit_stops_the_tree() {
    let (dir, attempt) = (TempDir::new().unwrap(), new_attempt());
    let mut spec = shell(dir.path(), attempt, "sleep 1000 & sleep 1000");
    spec.time_limit_s = Some(1);
    let exit = helper().await.launch(spec).await.unwrap().wait().await;
    assert_eq!((exit.cause, exit.signal), (ExitCause::Timeout, Some(15)));
    assert!(survivors(attempt).is_empty());
}

#[tokio::test]
async fn leftovers_of_a_main_process_that_ended_are_killed() {
    let (dir, attempt) = (TempDir::new().unwrap(), new_attempt());
    let spec = shell(dir.path(), attempt, "(setsid sh -c 'trap \"\" TERM; sleep 1000; sleep 1000' &); exit 5");
    let exit = helper().await.launch(spec).await.unwrap().wait().await;
    assert_eq!((exit.cause, exit.exit_code), (ExitCause::Exit, Some(5)));
    assert!(survivors(attempt).is_empty());
}

#[tokio::test]
async fn a_foreign_sigterm_does_not_part_a_shim_from_its_tree() {
    let dir = TempDir::new().unwrap();
    let script = r#"touch "$DIR/up"; while [ ! -e "$DIR/end" ]; do sleep 0.01; done; exit 4"#;
    let mut running = helper().await.launch(shell(dir.path(), new_attempt(), script)).await.unwrap();
    until_exists(&dir.path().join("up")).await;
    for signal in ["-TERM", "-INT", "-HUP"] {
        assert!(Command::new("kill").args([signal, &running.pid().to_string()]).status().unwrap().success());
    }
    fs::write(dir.path().join("end"), "").unwrap();
    assert_eq!(running.wait().await.exit_code, Some(4));
}

#[tokio::test]
async fn a_shim_is_small() {
    let dir = TempDir::new().unwrap();
    let mut running = helper().await.launch(shell(dir.path(), new_attempt(), "sleep 1000")).await.unwrap();
    let status = fs::read_to_string(format!("/proc/{}/status", running.pid())).unwrap();
    let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let kib: u64 = rss.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(kib < 8 << 10, "{kib} KiB");
    running.stop(FailureCause::Cancelled, 1).unwrap();
    running.wait().await;
}

#[tokio::test]
async fn without_go_nothing_runs() {
    let dir = TempDir::new().unwrap();
    let helper = helper().await;
    let prepared = helper.prepare(shell(dir.path(), new_attempt(), r#"touch "$DIR/ran""#)).await.unwrap();
    let shim = format!("/proc/{}", prepared.pid());
    assert!(Path::new(&shim).exists());
    drop(prepared);
    until("the shim to end", || (!Path::new(&shim).exists()).then_some(())).await;
    assert!(matches!(reattach(dir.path()).unwrap(), Reattached::NeverRan));
    assert!(!dir.path().join("ran").exists() && !dir.path().join("exit.json").exists());
}

#[tokio::test]
async fn an_attempt_runs_once() {
    let dir = TempDir::new().unwrap();
    let helper = helper().await;
    let spec = shell(dir.path(), new_attempt(), "exit 0");
    helper.launch(spec.clone()).await.unwrap().wait().await;
    let error = helper.launch(spec).await.unwrap_err();
    assert!(error.to_string().contains("has run already"), "{error}");
}

#[tokio::test]
async fn a_dead_helper_is_started_again_and_its_shims_live_on() {
    let (first, second) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let helper = helper().await;
    let script = r#"while [ ! -e "$DIR/end" ]; do sleep 0.01; done; exit 6"#;
    let mut running = helper.launch(shell(first.path(), new_attempt(), script)).await.unwrap();
    let pid = helper.pid().await.unwrap();
    assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
    let exit = helper.launch(shell(second.path(), new_attempt(), "exit 3")).await.unwrap().wait().await;
    assert_eq!(exit.exit_code, Some(3));
    fs::write(first.path().join("end"), "").unwrap();
    assert_eq!(running.wait().await.exit_code, Some(6));
}

/// Plays the agent in a process of its own, which a test kills: this test, started again.
#[tokio::test]
#[ignore = "started by other tests, with what to do in the environment"]
async fn agent_double() {
    let dir = std::path::PathBuf::from(std::env::var_os("TEST_DIR").unwrap());
    let attempt = std::env::var("TEST_ATTEMPT").unwrap().parse().unwrap();
    let helper = Helper::start(&helper_command()).await.unwrap();
    let spec = shell(&dir, attempt, &std::env::var("TEST_SCRIPT").unwrap());
    let prepared = helper.prepare(spec).await.unwrap();
    let shim = prepared.pid();
    let _held: Box<dyn std::any::Any> =
        if std::env::var_os("TEST_GO").is_some() { Box::new(prepared.go().await.unwrap()) } else { Box::new(prepared) };
    println!("\nprepared {shim} {}", helper.pid().await.unwrap());
    std::future::pending::<()>().await;
}

/// The double, its shim's and its helper's process id.
fn start_double(dir: &Path, attempt: fetchml_api::AttemptId, script: &str, go: bool) -> (Child, u32, u32) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "shim::agent_double", "--ignored", "--nocapture"]);
    command.env("TEST_DIR", dir).env("TEST_ATTEMPT", attempt.to_string()).env("TEST_SCRIPT", script);
    if go {
        command.env("TEST_GO", "1");
    }
    let mut double = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(double.stdout.take().unwrap()).lines();
    let line = lines.map_while(Result::ok).find(|line| line.starts_with("prepared ")).expect("the double says so");
    let pids: Vec<u32> = line.split(' ').skip(1).map(|pid| pid.parse().unwrap()).collect();
    (double, pids[0], pids[1])
}

#[tokio::test]
async fn an_agent_killed_between_spawn_and_go_leaves_no_user_code() {
    let (dir, attempt) = (TempDir::new().unwrap(), new_attempt());
    let (mut double, shim, helper) = start_double(dir.path(), attempt, r#"touch "$DIR/ran""#, false);
    double.kill().unwrap();
    double.wait().unwrap();
    // At once: what is about to end is not taken for something that runs.
    assert!(matches!(reattach(dir.path()).unwrap(), Reattached::NeverRan));
    for pid in [shim, helper] {
        until("shim and helper to end", || (!is_alive(pid)).then_some(())).await;
    }
    assert!(!dir.path().join("ran").exists() && survivors(attempt).is_empty());
}

#[tokio::test]
async fn a_shim_outlives_agent_and_helper_and_its_exit_code_is_exact() {
    let (dir, attempt) = (TempDir::new().unwrap(), new_attempt());
    let script = r#"echo one; while [ ! -e "$DIR/end" ]; do sleep 0.01; done; echo two; exit 42"#;
    let (mut double, shim, helper) = start_double(dir.path(), attempt, script, true);
    double.kill().unwrap();
    double.wait().unwrap();
    let _ = Command::new("kill").args(["-9", &helper.to_string()]).status();
    until("the helper to end", || (!is_alive(helper)).then_some(())).await;
    let Reattached::Running(mut running) = reattach(dir.path()).unwrap() else { panic!("the shim should live") };
    assert_eq!(running.pid(), shim);
    fs::write(dir.path().join("end"), "").unwrap();
    assert_eq!(running.wait().await.exit_code, Some(42));
    assert_eq!(log(&dir), "one\ntwo\n");
    let Reattached::Ended(exit) = reattach(dir.path()).unwrap() else { panic!("the exit is on record") };
    assert_eq!((exit.cause, exit.exit_code), (ExitCause::Exit, Some(42)));
}

#[tokio::test]
async fn a_restarted_agent_can_stop_what_its_predecessor_started() {
    let (dir, attempt) = (TempDir::new().unwrap(), new_attempt());
    let (mut double, ..) = start_double(dir.path(), attempt, STUBBORN, true);
    double.kill().unwrap();
    double.wait().unwrap();
    until_exists(&dir.path().join("up")).await;
    let Reattached::Running(mut running) = reattach(dir.path()).unwrap() else { panic!("the shim should live") };
    running.stop(FailureCause::Cancelled, 0).unwrap();
    assert_eq!(running.wait().await.cause, ExitCause::Stopped(FailureCause::Cancelled));
    assert!(survivors(attempt).is_empty());
}

#[tokio::test]
async fn a_killed_shim_means_lost_and_its_tree_dies() {
    let (dir, attempt) = (TempDir::new().unwrap(), new_attempt());
    let script = r#"(setsid sleep 1000 &); touch "$DIR/up"; sleep 1000; exit 0"#;
    let mut running = helper().await.launch(shell(dir.path(), attempt, script)).await.unwrap();
    until_exists(&dir.path().join("up")).await;
    assert!(Command::new("kill").args(["-9", &running.pid().to_string()]).status().unwrap().success());
    let exit = running.wait().await;
    assert_eq!((exit.cause, exit.exit_code), (ExitCause::Lost, None));
    assert!(!exit.is_success());
    until("its tree to die", || survivors(attempt).is_empty().then_some(())).await;
    assert!(matches!(reattach(dir.path()).unwrap(), Reattached::Lost));
}

#[tokio::test]
async fn another_process_with_the_recorded_id_is_not_taken_for_the_shim() {
    let dir = TempDir::new().unwrap();
    let write = |file: &str, text: &str| fs::write(dir.path().join(file), text).unwrap();
    let boot = fetchml_worker::shim::boot_id().unwrap();
    let record = |boot: &str, start_time: u64| {
        let pid = std::process::id();
        format!(r#"{{"boot_id":"{boot}","pid":{pid},"start_time":{start_time},"attempt":"{}"}}"#, new_attempt())
    };
    write("lock", "go");
    // Held by somebody, and the process id is alive: ours.
    let lock = fs::File::open(dir.path().join("lock")).unwrap();
    lock.lock().unwrap();
    // In the future, so that nothing is old enough to be killed as an orphan of it.
    write("shim.json", &record(&boot, u64::MAX));
    assert!(matches!(reattach(dir.path()).unwrap(), Reattached::Lost));
    write("shim.json", &record("00000000-0000-0000-0000-000000000000", 1));
    assert!(matches!(reattach(dir.path()).unwrap(), Reattached::Lost));
    write("lock", "");
    assert!(matches!(reattach(dir.path()).unwrap(), Reattached::NeverRan));
}

fn is_alive(pid: u32) -> bool {
    // A zombie that nobody reaps (this container's first process may not) is dead all the same.
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}
