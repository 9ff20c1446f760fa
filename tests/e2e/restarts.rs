//! A restart of the server or of a worker's agent kills no task.

use crate::support::Lab;
use fetchml_api::{CreateTaskRequest, TaskId, TaskStatus};
use std::fs;

/// A task that prints a line, waits until the test lets it go on, and prints the rest.
async fn start_gated(lab: &Lab) -> (TaskId, std::path::PathBuf) {
    let gate = lab.path("gate");
    let script = format!(
        "echo first; while [ ! -e {gate} ]; do sleep 0.05; done; for i in $(seq 1 200); do echo line $i; done; echo last",
        gate = gate.display()
    );
    let id = lab.submit(&format!("bash -c '{script}'")).await;
    lab.until(id, TaskStatus::Running).await;
    (id, gate)
}

async fn assert_whole(lab: &Lab, id: TaskId, attempt: Option<fetchml_api::AttemptId>) {
    let task = lab.until(id, TaskStatus::Completed).await;
    assert_eq!((task.retry_count, task.requeue_count), (0, 0), "the task was not run again");
    assert_eq!(task.attempt_id, attempt, "it is the same attempt");
    let lines: Vec<String> = (1..=200).map(|i| format!("line {i}")).collect();
    assert_eq!(lab.log(id).await, format!("first\n{}\nlast\n", lines.join("\n")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g3_a_task_survives_kill_9_of_the_server() {
    let mut lab = Lab::with_worker().await;
    let (id, gate) = start_gated(&lab).await;
    let before = lab.client().task(id).await.unwrap();

    lab.kill_server();
    // The task goes on, and ends, while there is no server.
    fs::write(&gate, "").unwrap();
    lab.serve().await;

    assert_whole(&lab, id, before.attempt_id).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g4_a_task_survives_kill_9_of_the_agent() {
    let mut lab = Lab::with_worker().await;
    let (id, gate) = start_gated(&lab).await;
    let before = lab.client().task(id).await.unwrap();

    lab.workers.pop().unwrap().kill();
    fs::write(&gate, "").unwrap();
    lab.worker(1).await;

    assert_whole(&lab, id, before.attempt_id).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g3_fifty_running_tasks_survive_kill_9_of_the_server() {
    const TASKS: usize = 50;
    let mut lab = Lab::new().worker_wrapped(&["/usr/bin/env", "FETCHML_SLOTS=50"]);
    lab.serve().await;
    lab.worker(1).await;
    let gate = lab.path("gate");
    let mut tasks = Vec::new();
    for code in 0..TASKS {
        let script = format!("while [ ! -e {} ]; do sleep 0.2; done; exit {code}", gate.display());
        let args = Some(format!("bash -c '{script}'"));
        let request = CreateTaskRequest { job_name: "e2e".into(), args, cpu: Some(0), ..Default::default() };
        tasks.push(lab.client().submit(&request, true).await.unwrap().id);
    }
    let mut before = Vec::new();
    for task in &tasks {
        before.push(lab.until(*task, TaskStatus::Running).await);
    }
    lab.kill_server();
    lab.serve().await;
    lab.workers_active(1).await;
    for before in &before {
        let after = lab.client().task(before.id).await.unwrap();
        assert_eq!((after.status, after.attempt_id), (TaskStatus::Running, before.attempt_id));
        assert_eq!(after.started_at, before.started_at);
    }
    fs::write(&gate, "").unwrap();
    for (code, before) in before.iter().enumerate() {
        let status = if code == 0 { TaskStatus::Completed } else { TaskStatus::Failed };
        let after = lab.until(before.id, status).await;
        let exit_code = after.failure.as_ref().map_or(Some(0), |failure| failure.exit_code);
        assert_eq!(exit_code, Some(i32::try_from(code).unwrap()));
        assert_eq!((after.attempt_id, after.requeue_count), (before.attempt_id, 0), "it was not run again");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g4_an_upgrade_of_the_program_on_disk_loses_nothing() {
    let mut lab = Lab::new().sandboxed().workers_from_a_copy();
    lab.serve().await;
    lab.worker(1).await;
    // In a sandbox: no gate outside is seen, so it is told by a signal.
    let script = "trap \"go=1\" USR1; echo first; while [ -z \"$go\" ]; do sleep 0.05; done; echo last; exit 9";
    let old = lab.submit(&format!("bash -c '{script}'")).await;
    let before = lab.until(old, TaskStatus::Running).await;
    lab.replace_worker_program();
    // The agent of the old program still starts tasks.
    let between = lab.submit("echo between").await;
    lab.until(between, TaskStatus::Completed).await;
    lab.kill_worker(0);
    lab.restart_worker(0).await;
    let new = lab.submit("echo new").await;
    lab.until(new, TaskStatus::Completed).await;
    assert_eq!(lab.client().task(old).await.unwrap().status, TaskStatus::Running);
    let attempt = before.attempt_id.unwrap();
    crate::support::eventually("the task heeds its signal", crate::support::DEADLINE, async || {
        signal_attempt(&attempt.to_string());
        lab.client().task(old).await.ok().filter(|task| task.status.is_terminal())
    })
    .await;
    let after = lab.until(old, TaskStatus::Failed).await;
    assert_eq!(after.failure.and_then(|failure| failure.exit_code), Some(9));
    assert_eq!((after.attempt_id, after.requeue_count), (before.attempt_id, 0));
    assert_eq!(lab.log(old).await, "first\nlast\n");
}

/// Sends SIGUSR1 to the shells of an attempt.
fn signal_attempt(attempt: &str) {
    let mark = format!("FETCHML_ATTEMPT_ID={attempt}");
    for entry in fs::read_dir("/proc").expect("/proc").flatten() {
        let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
        let is_shell = fs::read_to_string(entry.path().join("comm")).is_ok_and(|name| name.trim() == "bash");
        if is_shell
            && environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
            && let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok())
        {
            let pid = rustix::process::Pid::from_raw(pid).expect("not 0");
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::USR1);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g4_a_failing_exit_code_is_exact_after_both_were_killed() {
    let mut lab = Lab::with_worker().await;
    let gate = lab.path("gate");
    let script = format!("while [ ! -e {} ]; do sleep 0.05; done; exit 37", gate.display());
    let id = lab.submit(&format!("bash -c '{script}'")).await;
    lab.until(id, TaskStatus::Running).await;

    lab.workers.pop().unwrap().kill();
    lab.kill_server();
    fs::write(&gate, "").unwrap();
    lab.serve().await;
    lab.worker(1).await;

    let task = lab.until(id, TaskStatus::Failed).await;
    let failure = task.failure.unwrap();
    assert_eq!(failure.cause, fetchml_api::FailureCause::ExitNonzero);
    assert_eq!(failure.exit_code, Some(37));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clean_stop_leaves_tasks_to_their_shims() {
    let mut lab = Lab::new();
    lab.up(&[]).await;
    let (id, gate) = start_gated(&lab).await;
    let before = lab.client().task(id).await.unwrap();

    let mut server = lab.server.take().unwrap();
    assert_eq!(server.terminate().await, Some(0), "{}", server.stderr());
    fs::write(&gate, "").unwrap();
    lab.up(&[]).await;

    assert_whole(&lab, id, before.attempt_id).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stop_tasks_stops_tasks() {
    let mut lab = Lab::new();
    lab.up(&["--stop-tasks"]).await;
    let pid_file = lab.path("pid");
    let id = lab.submit(&format!("bash -c 'echo $$ > {}; exec sleep 600'", pid_file.display())).await;
    lab.until(id, TaskStatus::Running).await;
    let pid = crate::support::eventually("the task wrote its pid", crate::support::DEADLINE, async || {
        fs::read_to_string(&pid_file).ok().filter(|text| text.ends_with('\n'))
    })
    .await;

    let mut server = lab.server.take().unwrap();
    assert_eq!(server.terminate().await, Some(0), "{}", server.stderr());
    assert!(!fs::exists(format!("/proc/{}", pid.trim())).unwrap(), "the task is gone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g4_after_a_reboot_an_exit_on_record_is_exact_and_what_ran_is_lost() {
    let lab = Lab::new();
    let boot = lab.path("boot_id");
    let begin_boot = |name: &str| fs::write(&boot, format!("{name}\n")).unwrap();
    begin_boot("00000000-0000-4000-8000-000000000001");
    // The worker sees a boot of its own.
    let mount = format!("mount --bind {} /proc/sys/kernel/random/boot_id && exec \"$@\"", boot.display());
    let own_mounts = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", &mount, "sh"];
    let mut lab = lab.worker_wrapped(&[&["/usr/bin/env", "FETCHML_SLOTS=2"], &own_mounts[..]].concat());
    lab.serve().await;
    lab.worker(1).await;
    let submit = async |script: String| {
        let args = Some(format!("bash -c '{script}'"));
        let request = CreateTaskRequest { job_name: "reboot".into(), args, cpu: Some(0), ..Default::default() };
        let id = lab.client().submit(&request, true).await.unwrap().id;
        lab.until(id, TaskStatus::Running).await
    };
    let gate = lab.path("gate");
    let ends = submit(format!("while [ ! -e {} ]; do sleep 0.05; done; echo said; exit 9", gate.display())).await;
    let runs = submit("[ $FETCHML_ATTEMPT = 2 ] || sleep 1000; echo again".to_owned()).await;
    let of = |attempt: fetchml_api::AttemptId| lab.path("worker1/attempts").join(attempt.to_string());
    let (recorded, shim) =
        (of(ends.attempt_id.unwrap()).join("exit.json"), of(runs.attempt_id.unwrap()).join("shim.json"));
    let shim: serde_json::Value = serde_json::from_slice(&fs::read(shim).unwrap()).unwrap();
    assert_eq!(shim["boot_id"], "00000000-0000-4000-8000-000000000001");

    lab.kill_worker(0);
    fs::write(&gate, "").unwrap();
    crate::support::eventually("the exit is on record", crate::support::DEADLINE, async || {
        recorded.exists().then_some(())
    })
    .await;
    // Everything dies with the machine, the shim before it can say a word.
    let pid = |value: &serde_json::Value| rustix::process::Pid::from_raw(value.as_i64().unwrap() as i32).unwrap();
    rustix::process::kill_process(pid(&shim["pid"]), rustix::process::Signal::KILL).unwrap();
    kill_attempt(&runs.attempt_id.unwrap().to_string());
    begin_boot("00000000-0000-4000-8000-000000000002");
    lab.restart_worker(0).await;

    let ended = lab.until(ends.id, TaskStatus::Failed).await;
    assert_eq!(ended.failure.and_then(|failure| failure.exit_code), Some(9));
    assert_eq!((ended.attempt_id, ended.requeue_count), (ends.attempt_id, 0));
    assert_eq!(lab.log(ends.id).await, "said\n");
    let again = lab.until(runs.id, TaskStatus::Completed).await;
    assert_eq!((again.requeue_count, again.retry_count), (1, 0), "an exit that nobody saw is lost, never 0");
    assert_eq!(lab.log(runs.id).await, "again\n");
}

/// Kills every process of an attempt.
fn kill_attempt(attempt: &str) {
    let mark = format!("FETCHML_ATTEMPT_ID={attempt}");
    for entry in fs::read_dir("/proc").expect("procfs").flatten() {
        let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
        if environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
            && let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok())
        {
            let pid = rustix::process::Pid::from_raw(pid).expect("not 0");
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}
