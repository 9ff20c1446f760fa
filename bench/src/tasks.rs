//! `/bin/true` from submit to `completed` through `fetchml up`, beside a loop that only starts and
//! awaits the same program as many at a time, in the same run: without isolation, and in bubblewrap.

use crate::{
    Setup,
    http::Connection,
    probe::quantile,
    processes,
    report::{Report, Target},
    server::Server,
    submit::{FAST_DISK, submit},
};
use anyhow::{Context as _, Result, bail};
use std::{
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};
use tokio::task::JoinSet;

const CLIENTS: usize = 16;
const BODY: &str = r#"{"job_name":"bench","entrypoint":"/bin/true"}"#;
/// All tasks must have ended by then.
const DEADLINE: Duration = Duration::from_mins(3);
/// Tasks submitted one after the other to an idle worker.
const ALONE: usize = 100;
/// Target for the median from submit to running: this much and three times the disk's fdatasync.
const RUNNING_MS: f64 = 30.0;

/// How tasks are kept apart in a run.
struct Case {
    isolation: &'static str,
    name: &'static str,
    tasks: usize,
    target: f64,
    /// What the bare loop starts.
    bare: &'static [&'static str],
}

const CASES: [Case; 2] = [
    Case { isolation: "none", name: "/bin/true", tasks: 2_000, target: 0.40, bare: &["/bin/true"] },
    Case {
        isolation: "required",
        name: "/bin/true in bubblewrap",
        tasks: 400,
        target: 0.5,
        // The namespaces and mounts that every sandbox has.
        bare: &[
            "bwrap",
            "--unshare-user",
            "--disable-userns",
            "--unshare-pid",
            "--unshare-ipc",
            "--unshare-uts",
            "--unshare-cgroup-try",
            "--as-pid-1",
            "--new-session",
            "--die-with-parent",
            "--cap-drop",
            "ALL",
            "--clearenv",
            "--ro-bind",
            "/usr",
            "/usr",
            "--symlink",
            "usr/bin",
            "/bin",
            "--symlink",
            "usr/lib",
            "/lib",
            "--symlink",
            "usr/lib64",
            "/lib64",
            "--proc",
            "/proc",
            "--dev",
            "/dev",
            "--",
            "/bin/true",
        ],
    },
];

pub(crate) fn measure(setup: &Setup, report: &mut Report) -> Result<()> {
    for case in &CASES {
        if case.bare[0] == "bwrap" && Command::new("bwrap").arg("--version").output().is_err() {
            eprintln!("bubblewrap is not installed: not measured");
            continue;
        }
        measure_case(setup, case, report)?;
    }
    Ok(())
}

fn measure_case(setup: &Setup, case: &Case, report: &mut Report) -> Result<()> {
    let cpu_at_start = processes::cpu_of_ended_children()?;
    let env = [("FETCHML_ISOLATION", case.isolation)];
    let server = Arc::new(Server::start_with(setup, "up", &format!("tasks-{}", case.isolation), &env)?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let run = runtime.block_on(through_fetchml(&server, case.tasks));
    drop(runtime);
    let mut run = run.with_context(|| format!("log of the server:\n{}", server.log()))?;
    match Arc::try_unwrap(server) {
        Ok(server) => server.stop()?,
        Err(_) => bail!("a client still runs"),
    }
    // All of it has ended and been waited for: server, worker, helper, shims, tasks.
    let cpu = processes::cpu_of_ended_children()? - cpu_at_start - run.cpu_before;
    let bare = bare_loop(run.slots, case)?;
    let rate = case.tasks as f64 / run.seconds;
    let fast = setup.fdatasync_p50 <= FAST_DISK;
    let target = if fast { Target::AtLeast(case.target) } else { Target::None };
    let name = case.name;
    report.add("slots", run.slots as f64, "", Target::None);
    report.add(format!("{name} through fetchml up"), rate, "/s", Target::None);
    report.add(format!("{name} by a bare loop"), bare, "/s", Target::None);
    report.add("ratio of the two", rate / bare, "", target);
    report.add("CPU per task, all processes", cpu * 1e6 / (case.tasks + ALONE) as f64, "us", Target::None);
    let running_ms = RUNNING_MS + 3.0 * setup.fdatasync_p50 * 1e3;
    let target = if case.isolation == "none" { Target::Below(running_ms) } else { Target::None };
    report.add("submit to running when idle, p50", quantile(&mut run.to_running_ms, 0.5), "ms", target);
    Ok(())
}

/// What the run through FetchML showed.
struct Run {
    slots: usize,
    /// First submit to last end.
    seconds: f64,
    /// CPU the server had taken before the first submit, seconds.
    cpu_before: f64,
    /// From submit to running of each task that found an idle worker, milliseconds.
    to_running_ms: Vec<f64>,
}

async fn through_fetchml(server: &Arc<Server>, tasks: usize) -> Result<Run> {
    let mut connection = Connection::open(server.address).await?;
    let slots = wait_for_slots(server, &mut connection).await?;
    let cpu_before = processes::cpu_of(server.pid())?;
    let mut to_running_ms = Vec::new();
    for _ in 0..ALONE {
        to_running_ms.push(alone(server, &mut connection).await?);
    }
    let started = Instant::now();
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let server = Arc::clone(server);
        let count = tasks / CLIENTS;
        clients.spawn(async move {
            let request = server.request("POST", "/v1/tasks", BODY);
            let mut connection = Connection::open(server.address).await?;
            for _ in 0..count {
                submit(&mut connection, &request).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(client) = clients.join_next().await {
        client??;
    }
    loop {
        let queue = server.get(&mut connection, "/v1/queue").await?;
        let count = |name: &str| queue[name].as_u64().unwrap_or(0);
        if count("failed") > 0 {
            let failed = server.get(&mut connection, "/v1/tasks?status=failed&limit=1").await?;
            bail!("a task failed: {}", failed["tasks"][0]["error"]);
        }
        if count("completed") >= (tasks + ALONE) as u64 {
            return Ok(Run { slots, seconds: started.elapsed().as_secs_f64(), cpu_before, to_running_ms });
        }
        if started.elapsed() > DEADLINE {
            bail!("after {DEADLINE:?} the queue is {queue}");
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Submits one task, waits for its end, and says how long it took to run, by the server's own clock.
async fn alone(server: &Server, connection: &mut Connection) -> Result<f64> {
    let answer = connection.exchange(&server.request("POST", "/v1/tasks", BODY)).await?;
    let submitted: serde_json::Value = serde_json::from_slice(&answer.body)?;
    let id = submitted["id"].as_str().with_context(|| format!("no task: {submitted}"))?;
    let started = Instant::now();
    loop {
        let task = server.get(connection, &format!("/v1/tasks/{id}")).await?;
        if task["status"] == "completed" {
            let time = |name: &str| -> Result<jiff::Timestamp> {
                Ok(task[name].as_str().with_context(|| format!("{name} is missing"))?.parse()?)
            };
            let waited = time("started_at")?.duration_since(time("created_at")?);
            return Ok(waited.as_secs_f64() * 1e3);
        }
        if started.elapsed() > DEADLINE {
            bail!("the task is {task}");
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Batch slots of the one worker, once it takes work.
async fn wait_for_slots(server: &Server, connection: &mut Connection) -> Result<usize> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let answer = server.get(connection, "/v1/scheduler/workers").await?;
        let worker = answer.get("workers").unwrap_or(&answer)[0].clone();
        if worker["status"] == "active"
            && let Some(slots) = worker["slots"]["batch_total"].as_u64()
        {
            return Ok(slots as usize);
        }
        if Instant::now() > deadline {
            bail!("the worker did not come: {answer}");
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Processes per second when `slots` threads only start the program and wait for it.
fn bare_loop(slots: usize, case: &Case) -> Result<f64> {
    let left = AtomicUsize::new(case.tasks);
    let started = Instant::now();
    thread::scope(|scope| {
        let threads: Vec<_> = (0..slots)
            .map(|_| {
                scope.spawn(|| -> Result<()> {
                    while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok() {
                        let status = Command::new(case.bare[0])
                            .args(&case.bare[1..])
                            .stdin(Stdio::null())
                            .stdout(Stdio::null())
                            .status()?;
                        if !status.success() {
                            bail!("{} failed", case.name);
                        }
                    }
                    Ok(())
                })
            })
            .collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("the loop does not panic"))
    })?;
    Ok(case.tasks as f64 / started.elapsed().as_secs_f64())
}
