//! Many clients that repeat requests for a while, each over a connection of its own.

use crate::{http::Connection, probe::quantile, processes, server::Server};
use anyhow::{Result, bail};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::task::JoinSet;

const WARM_UP: Duration = Duration::from_millis(500);
const MEASURED: Duration = Duration::from_secs(5);

/// What the clients saw.
pub(crate) struct Load {
    /// Answers with 200 per second in the measured time.
    pub(crate) rate: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    /// CPU time of the server for a request, microseconds.
    pub(crate) server_us: f64,
}

/// `clients` clients repeat the requests, each beginning at another one.
pub(crate) async fn repeat(server: &Server, requests: Vec<Vec<u8>>, clients: usize) -> Result<Load> {
    let requests = Arc::new(requests);
    let cpu_before = processes::cpu_of(server.pid())?;
    let from = Instant::now() + WARM_UP;
    let until = from + MEASURED;
    let mut running = JoinSet::new();
    for client in 0..clients {
        let (requests, mut connection) = (Arc::clone(&requests), Connection::open(server.address).await?);
        running.spawn(async move {
            let (mut measured, mut all) = (Vec::new(), 0_u64);
            let mut next = client * requests.len() / clients;
            let mut began = Instant::now();
            while began < until {
                let answer = connection.exchange(&requests[next % requests.len()]).await?;
                if answer.status != 200 {
                    bail!("{}: {}", answer.status, String::from_utf8_lossy(&answer.body));
                }
                next += 1;
                all += 1;
                let now = Instant::now();
                if now >= from {
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
        rate: times.len() as f64 / MEASURED.as_secs_f64(),
        p50_ms: quantile(&mut times, 0.50),
        p99_ms: quantile(&mut times, 0.99),
        server_us: cpu * 1e6 / all as f64,
    })
}
