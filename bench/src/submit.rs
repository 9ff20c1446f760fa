//! Durable submits: each 201 counted here is a committed task. No worker is connected, so nothing runs.

use crate::{
    Setup,
    http::{Answer, Connection},
    load::{self, Plan},
    probe::quantile,
    report::{Report, Target},
    server::Server,
};
use anyhow::{Result, bail};
use std::time::{Duration, Instant};

const CLIENTS: usize = 64;
const MEASURED: Duration = Duration::from_secs(8);
const LONE_SUBMITS: usize = 1_000;
const BODY: &str = r#"{"job_name":"bench","entrypoint":"/bin/true"}"#;
/// Up to this fdatasync p50 the disk counts as fast, seconds.
pub(crate) const FAST_DISK: f64 = 1e-3;

pub(crate) fn measure(setup: &Setup, report: &mut Report) -> Result<()> {
    let server = Server::start(setup, "serve", "submit")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut alone = lone_client(&server).await?;
        let p99_target = (5.0 * setup.fdatasync_p50 + 5e-3) * 1e3;
        report.add("submit by one client, p50", quantile(&mut alone, 0.50), "ms", Target::None);
        report.add("submit by one client, p99", quantile(&mut alone, 0.99), "ms", Target::Below(p99_target));

        let requests = vec![server.request("POST", "/v1/tasks", BODY)];
        let many = load::repeat(&server, Plan { requests, clients: CLIENTS, measured: MEASURED, status: 201 }).await?;
        let target = if setup.fdatasync_p50 <= FAST_DISK { 3_000.0 } else { 1_500.0 };
        report.add("submits by 64 clients", many.rate, "/s", Target::AtLeast(target));
        report.add("submits by 64 clients, p50", many.p50_ms, "ms", Target::None);
        report.add("submits by 64 clients, p99", many.p99_ms, "ms", Target::None);
        report.add("server CPU per submit", many.server_us, "us", Target::None);

        let mut connection = Connection::open(server.address).await?;
        let queued = server.get(&mut connection, "/v1/queue").await?["queued"].as_u64();
        let acknowledged = many.all + LONE_SUBMITS as u64;
        if queued != Some(acknowledged) {
            bail!("{acknowledged} submits were acknowledged, but the queue holds {queued:?}");
        }
        anyhow::Ok(())
    })?;
    drop(runtime);
    server.stop()
}

/// Latencies of one client that submits one after the other, ms.
async fn lone_client(server: &Server) -> Result<Vec<f64>> {
    let request = server.request("POST", "/v1/tasks", BODY);
    let mut connection = Connection::open(server.address).await?;
    let mut times = Vec::with_capacity(LONE_SUBMITS);
    for _ in 0..LONE_SUBMITS {
        times.push(submit(&mut connection, &request).await?.as_secs_f64() * 1e3);
    }
    Ok(times)
}

/// One acknowledged submit and the time it took.
pub(crate) async fn submit(connection: &mut Connection, request: &[u8]) -> Result<Duration> {
    let started = Instant::now();
    submitted(connection, request).await?;
    Ok(started.elapsed())
}

/// The answer to an acknowledged submit.
pub(crate) async fn submitted(connection: &mut Connection, request: &[u8]) -> Result<Answer> {
    let answer = connection.exchange(request).await?;
    if answer.status != 201 {
        bail!("POST /v1/tasks: {}: {}", answer.status, String::from_utf8_lossy(&answer.body));
    }
    Ok(answer)
}
