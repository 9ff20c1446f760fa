//! Many clients that repeat requests for a while, each over a connection of its own.

use crate::{http::Connection, probe::quantile, processes, server::Server};
use anyhow::{Result, bail};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::task::JoinSet;

const WARM_UP: Duration = Duration::from_millis(500);

/// What is repeated.
pub(crate) struct Plan {
    /// Each client begins at another one.
    pub(crate) requests: Vec<Vec<u8>>,
    pub(crate) clients: usize,
    pub(crate) measured: Duration,
    /// Of every answer, else the run fails.
    pub(crate) status: u16,
}

impl Plan {
    /// Reads for 5 s.
    pub(crate) fn reads(requests: Vec<Vec<u8>>, clients: usize) -> Self {
        Self { requests, clients, measured: Duration::from_secs(5), status: 200 }
    }
}

/// What the clients saw.
pub(crate) struct Load {
    /// Answers per second in the measured time.
    pub(crate) rate: f64,
    /// All answers, those of the warm-up included.
    pub(crate) all: u64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    /// CPU time of the server for a request, microseconds.
    pub(crate) server_us: f64,
}

pub(crate) async fn repeat(server: &Server, plan: Plan) -> Result<Load> {
    let Plan { requests, clients, measured: lasts, status } = plan;
    let requests = Arc::new(requests);
    let cpu_before = processes::cpu_of(server.pid())?;
    let from = Instant::now() + WARM_UP;
    let until = from + lasts;
    let mut running = JoinSet::new();
    for client in 0..clients {
        let (requests, mut connection) = (Arc::clone(&requests), Connection::open(server.address).await?);
        running.spawn(async move {
            let (mut measured, mut all) = (Vec::new(), 0_u64);
            let mut next = client * requests.len() / clients;
            let mut began = Instant::now();
            while began < until {
                let answer = connection.exchange(&requests[next % requests.len()]).await?;
                if answer.status != status {
                    bail!("{}: {}", answer.status, String::from_utf8_lossy(&answer.body));
                }
                next += 1;
                all += 1;
                let now = Instant::now();
                if (from..until).contains(&now) {
                    measured.push((now - began).as_secs_f64() * 1e3);
                }
                began = now;
            }
            Ok((measured, all))
        });
    }
    let (mut times, mut all) = (Vec::new(), 0);
    while let Some(client) = running.join_next().await {
        let (measured, count) = client??;
        times.extend(measured);
        all += count;
    }
    let cpu = processes::cpu_of(server.pid())? - cpu_before;
    Ok(Load {
        rate: times.len() as f64 / lasts.as_secs_f64(),
        all,
        p50_ms: quantile(&mut times, 0.50),
        p99_ms: quantile(&mut times, 0.99),
        server_us: cpu * 1e6 / all as f64,
    })
}
