//! `/bin/true` from submit to `completed` through `fetchml up`, beside a loop that only starts and
//! awaits the same program as many at a time, in the same run.

use crate::{
    Setup,
    http::Connection,
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

const TASKS: usize = 2_000;
const CLIENTS: usize = 16;
const _: () = assert!(TASKS.is_multiple_of(CLIENTS), "every client submits as many");
const BODY: &str = r#"{"job_name":"bench","entrypoint":"/bin/true"}"#;
/// All tasks must have ended by then.
const DEADLINE: Duration = Duration::from_mins(3);
const TARGET_RATIO: f64 = 0.35;

pub(crate) fn measure(setup: &Setup, report: &mut Report) -> Result<()> {
    let cpu_at_start = processes::cpu_of_ended_children()?;
    let server = Arc::new(Server::start(setup, "up", "tasks")?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let run = runtime.block_on(through_fetchml(&server));
    drop(runtime);
    let run = run.with_context(|| format!("log of the server:\n{}", server.log()))?;
    match Arc::try_unwrap(server) {
        Ok(server) => server.stop()?,
        Err(_) => bail!("a client still runs"),
    }
    // All of it has ended and been waited for: server, worker, helper, shims, tasks.
    let cpu = processes::cpu_of_ended_children()? - cpu_at_start - run.cpu_before;
    let bare = bare_loop(run.slots)?;
    let rate = TASKS as f64 / run.seconds;
    let target = if setup.fdatasync_p50 <= FAST_DISK { Target::AtLeast(TARGET_RATIO) } else { Target::None };
    report.add("slots", run.slots as f64, "", Target::None);
    report.add("/bin/true through fetchml up", rate, "/s", Target::None);
    report.add("/bin/true by a bare loop", bare, "/s", Target::None);
    report.add("ratio of the two", rate / bare, "", target);
    report.add("CPU per task, all processes", cpu * 1e6 / TASKS as f64, "us", Target::None);
    Ok(())
}

/// What the run through FetchML showed.
struct Run {
    slots: usize,
    /// First submit to last end.
    seconds: f64,
    /// CPU the server had taken before the first submit, seconds.
    cpu_before: f64,
}

async fn through_fetchml(server: &Arc<Server>) -> Result<Run> {
    let mut connection = Connection::open(server.address).await?;
    let slots = wait_for_slots(server, &mut connection).await?;
    let cpu_before = processes::cpu_of(server.pid())?;
    let started = Instant::now();
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let server = Arc::clone(server);
        let count = TASKS / CLIENTS;
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
        if count("completed") >= TASKS as u64 {
            return Ok(Run { slots, seconds: started.elapsed().as_secs_f64(), cpu_before });
        }
        if started.elapsed() > DEADLINE {
            bail!("after {DEADLINE:?} the queue is {queue}");
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
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

/// Processes per second when `slots` threads only start `/bin/true` and wait for it.
fn bare_loop(slots: usize) -> Result<f64> {
    let left = AtomicUsize::new(TASKS);
    let started = Instant::now();
    thread::scope(|scope| {
        let threads: Vec<_> = (0..slots)
            .map(|_| {
                scope.spawn(|| -> Result<()> {
                    while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok() {
                        let status = Command::new("/bin/true").stdin(Stdio::null()).stdout(Stdio::null()).status()?;
                        if !status.success() {
                            bail!("/bin/true failed");
                        }
                    }
                    Ok(())
                })
            })
            .collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("the loop does not panic"))
    })?;
    Ok(TASKS as f64 / started.elapsed().as_secs_f64())
}
