//! Reads: one task, active and ended, and what it costs to authenticate a request.

use crate::{
    Setup,
    http::Connection,
    load::{self, Load, Plan},
    report::{Report, Target},
    server::Server,
    submit::submitted,
};
use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use std::time::{Duration, Instant};

const CLIENTS: usize = 16;
/// Tasks that are read in turns.
const ACTIVE: usize = 1_000;
const ENDED: usize = 64;
/// All tasks must have ended by then.
const DEADLINE: Duration = Duration::from_mins(1);
const WAITING: &str = r#"{"job_name":"bench","entrypoint":"/bin/true","metadata":{"model":"resnet","sweep":"12"}}"#;
/// Writes 4,000 lines of 25 bytes: more than the 64 KiB that are shown.
const TALKING: &str = r#"{"job_name":"bench","entrypoint":"/usr/bin/seq","args":"-f step%020g 4000"}"#;

pub(crate) fn measure(setup: &Setup, report: &mut Report) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let server = Server::start(setup, "serve", "read")?;
    let (active, open, authenticated) = runtime.block_on(async {
        let ids = submit_all(&server, WAITING, ACTIVE).await?;
        let active = load::repeat(&server, Plan::reads(reads_of(&server, &ids), CLIENTS)).await?;
        let open = load::repeat(&server, Plan::reads(vec![server.request("GET", "/health", "")], CLIENTS)).await?;
        let authenticated =
            load::repeat(&server, Plan::reads(vec![server.request("GET", "/v1/whoami", "")], CLIENTS)).await?;
        anyhow::Ok((active, open, authenticated))
    })?;
    server.stop()?;
    add(report, "reads of active tasks", &active, 15_000.0);
    let authentication = authenticated.server_us - open.server_us;
    report.add("GET /health, server CPU", open.server_us, "us", Target::None);
    report.add("GET /v1/whoami, server CPU", authenticated.server_us, "us", Target::None);
    report.add("authentication of a request", authentication, "us", Target::Below(30.0));

    let server = Server::start_with(setup, "up", "read-ended", &[("FETCHML_ISOLATION", "none")])?;
    let ended = runtime.block_on(async {
        let ids = submit_all(&server, TALKING, ENDED).await?;
        wait_for_all(&server, &ids).await?;
        load::repeat(&server, Plan::reads(reads_of(&server, &ids), CLIENTS)).await
    })?;
    drop(runtime);
    server.stop()?;
    add(report, "reads of ended tasks with 64 KiB", &ended, 3_000.0);
    Ok(())
}

fn add(report: &mut Report, what: &str, load: &Load, rate: f64) {
    report.add(what, load.rate, "/s", Target::AtLeast(rate));
    report.add(format!("{what}, p50"), load.p50_ms, "ms", Target::None);
    report.add(format!("{what}, p99"), load.p99_ms, "ms", Target::None);
    report.add(format!("{what}, server CPU"), load.server_us, "us", Target::None);
}

fn reads_of(server: &Server, ids: &[String]) -> Vec<Vec<u8>> {
    ids.iter().map(|id| server.request("GET", &format!("/v1/tasks/{id}"), "")).collect()
}

async fn submit_all(server: &Server, body: &str, count: usize) -> Result<Vec<String>> {
    let request = server.request("POST", "/v1/tasks", body);
    let mut connection = Connection::open(server.address).await?;
    let mut ids = Vec::with_capacity(count);
    for _ in 0..count {
        let answer = submitted(&mut connection, &request).await?;
        let task: Value = serde_json::from_slice(&answer.body)?;
        ids.push(task["id"].as_str().context("a task without an id")?.to_owned());
    }
    Ok(ids)
}

async fn wait_for_all(server: &Server, ids: &[String]) -> Result<()> {
    let mut connection = Connection::open(server.address).await?;
    let until = Instant::now() + DEADLINE;
    for id in ids {
        loop {
            let task = server.get(&mut connection, &format!("/v1/tasks/{id}?wait=10s")).await?;
            match task["status"].as_str() {
                Some("completed") => {
                    let shown = task["output"].as_str().map_or(0, str::len);
                    if shown != 64 << 10 {
                        bail!("{shown} bytes of output are shown");
                    }
                    break;
                }
                Some("failed") => bail!("a task failed: {task}"),
                _ if Instant::now() > until => bail!("a task has not ended after {DEADLINE:?}: {task}"),
                _ => {}
            }
        }
    }
    Ok(())
}
