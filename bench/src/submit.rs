//! Durable submits: each 201 counted here is a committed task. No worker is connected, so nothing runs.

use crate::{
    Setup,
    http::Connection,
    probe::quantile,
    processes,
    report::{Report, Target},
    server::Server,
};
use anyhow::{Result, bail};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::task::JoinSet;

const CLIENTS: usize = 64;
const WARM_UP: Duration = Duration::from_millis(500);
const MEASURED: Duration = Duration::from_secs(8);
const LONE_SUBMITS: usize = 1_000;
const BODY: &str = r#"{"job_name":"bench","entrypoint":"/bin/true"}"#;
/// Up to this fdatasync p50 the disk counts as fast, seconds.
pub(crate) const FAST_DISK: f64 = 1e-3;

pub(crate) fn measure(setup: &Setup, report: &mut Report) -> Result<()> {
    let server = Arc::new(Server::start(setup, "serve", "submit")?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut alone = lone_client(&server).await?;
        let p99_target = (5.0 * setup.fdatasync_p50 + 5e-3) * 1e3;
        report.add("submit by one client, p50", quantile(&mut alone, 0.50), "ms", Target::None);
        report.add("submit by one client, p99", quantile(&mut alone, 0.99), "ms", Target::Below(p99_target));

        let cpu_before = processes::cpu_of(server.pid())?;
        let many = many_clients(&server).await?;
        let cpu = processes::cpu_of(server.pid())? - cpu_before;
        let mut latencies = many.latencies_ms;
        let target = if setup.fdatasync_p50 <= FAST_DISK { 3_000.0 } else { 1_500.0 };
        report.add("submits by 64 clients", many.rate, "/s", Target::AtLeast(target));
        report.add("submits by 64 clients, p50", quantile(&mut latencies, 0.50), "ms", Target::None);
        report.add("submits by 64 clients, p99", quantile(&mut latencies, 0.99), "ms", Target::None);
        report.add("server CPU per submit", cpu * 1e6 / many.all as f64, "us", Target::None);

        let mut connection = Connection::open(server.address).await?;
        let queued = server.get(&mut connection, "/v1/queue").await?["queued"].as_u64();
        let acknowledged = many.all + LONE_SUBMITS as u64;
        if queued != Some(acknowledged) {
            bail!("{acknowledged} submits were acknowledged, but the queue holds {queued:?}");
        }
        anyhow::Ok(())
    })?;
    drop(runtime);
    match Arc::try_unwrap(server) {
        Ok(server) => server.stop(),
        Err(_) => bail!("a client still runs"),
    }
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

/// What many clients saw.
struct Many {
    /// Acknowledged submits per second in the measured time.
    rate: f64,
    /// Of these.
    latencies_ms: Vec<f64>,
    /// All acknowledged ones, warm-up included.
    all: u64,
}

async fn many_clients(server: &Arc<Server>) -> Result<Many> {
    let started = Instant::now();
    let from = started + WARM_UP;
    let until = from + MEASURED;
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let server = Arc::clone(server);
        clients.spawn(async move {
            let request = server.request("POST", "/v1/tasks", BODY);
            let mut connection = Connection::open(server.address).await?;
            let (mut measured, mut all) = (Vec::new(), 0_u64);
            while Instant::now() < until {
                let took = submit(&mut connection, &request).await?;
                all += 1;
                if (from..until).contains(&Instant::now()) {
                    measured.push(took.as_secs_f64() * 1e3);
                }
            }
            anyhow::Ok((measured, all))
        });
    }
    let mut many = Many { rate: 0.0, latencies_ms: Vec::new(), all: 0 };
    while let Some(client) = clients.join_next().await {
        let (measured, all) = client??;
        many.latencies_ms.extend(measured);
        many.all += all;
    }
    many.rate = many.latencies_ms.len() as f64 / MEASURED.as_secs_f64();
    Ok(many)
}

/// One acknowledged submit and the time it took.
pub(crate) async fn submit(connection: &mut Connection, request: &[u8]) -> Result<Duration> {
    let started = Instant::now();
    let answer = connection.exchange(request).await?;
    if answer.status != 201 {
        bail!("POST /v1/tasks: {}: {}", answer.status, String::from_utf8_lossy(&answer.body));
    }
    Ok(started.elapsed())
}
