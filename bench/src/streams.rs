//! Open streams of the scheduler's state: the server's memory, and how late events come.

use crate::{
    Setup,
    http::Connection,
    probe::quantile,
    processes,
    report::{Report, Target},
    server::Server,
    submit::submit,
};
use anyhow::{Context as _, Result, bail};
use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
    time::{MissedTickBehavior, interval, timeout},
};

const OPEN: usize = 5_000;
const READERS: usize = 1_000;
const EVENTS: usize = 500;
const PER_SECOND: u64 = 50;
/// Longest wait for any event.
const SILENCE: Duration = Duration::from_secs(30);
/// What stands before the number of a task in its event.
const MARK: &[u8] = br#""job_name":"event-"#;

pub(crate) fn measure(setup: &Setup, report: &mut Report) -> Result<()> {
    let server = Server::start(setup, "serve", "streams")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let measured = runtime.block_on(async {
        memory(&server, report).await?;
        latency(&server, report).await
    });
    drop(runtime);
    measured.with_context(|| format!("log of the server:\n{}", server.log()))?;
    server.stop()
}

/// A stream whose first events have come.
async fn open(server: &Server) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(server.address).await?;
    stream.write_all(&server.request("GET", "/v1/scheduler/status/stream", "")).await?;
    let mut seen = Vec::with_capacity(1 << 10);
    while !seen.windows(13).any(|window| window == b"event: status") {
        let read = timeout(SILENCE, stream.read_buf(&mut seen)).await.context("no first event")??;
        if read == 0 {
            bail!("a stream was refused: {}", String::from_utf8_lossy(&seen));
        }
    }
    Ok(stream)
}

async fn memory(server: &Server, report: &mut Report) -> Result<()> {
    let mut streams = Vec::with_capacity(OPEN);
    for _ in 0..OPEN {
        streams.push(open(server).await?);
    }
    let resident = processes::memory(server.pid())?.resident_mib;
    report.add(format!("resident with {OPEN} open streams"), resident, "MiB", Target::Below(200.0));
    Ok(())
}

/// Tasks are submitted at a steady pace; every reader notes when it sees each.
async fn latency(server: &Server, report: &mut Report) -> Result<()> {
    let sent = Arc::new(Mutex::new(vec![None::<Instant>; EVENTS]));
    let mut readers = JoinSet::new();
    for _ in 0..READERS {
        readers.spawn(read_all(open(server).await?, Arc::clone(&sent)));
    }
    let cpu_before = processes::cpu_of(server.pid())?;
    let mut connection = Connection::open(server.address).await?;
    let mut pace = interval(Duration::from_secs(1) / PER_SECOND as u32);
    pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let began = Instant::now();
    for number in 0..EVENTS {
        pace.tick().await;
        let body = format!(r#"{{"job_name":"event-{number}","entrypoint":"/bin/true"}}"#);
        let request = server.request("POST", "/v1/tasks", &body);
        sent.lock().expect("no reader panics")[number] = Some(Instant::now());
        submit(&mut connection, &request).await?;
    }
    let rate = EVENTS as f64 / began.elapsed().as_secs_f64();
    let mut times = Vec::with_capacity(READERS * EVENTS);
    while let Some(reader) = readers.join_next().await {
        times.extend(reader??);
    }
    let cpu = processes::cpu_of(server.pid())? - cpu_before;
    report.add(format!("events to {READERS} readers"), rate, "events/s", Target::AtLeast(0.9 * PER_SECOND as f64));
    report.add("event to client, p50", quantile(&mut times, 0.50), "ms", Target::None);
    report.add("event to client, p99", quantile(&mut times, 0.99), "ms", Target::Below(500.0));
    let delivered = (READERS * EVENTS) as f64;
    report.add("server CPU per event and reader", cpu * 1e6 / delivered, "us", Target::None);
    Ok(())
}

/// Milliseconds from the submit of each task to its first event; fails when one is left out.
async fn read_all(mut stream: TcpStream, sent: Arc<Mutex<Vec<Option<Instant>>>>) -> Result<Vec<f64>> {
    let mut times = Vec::with_capacity(EVENTS);
    let mut buffer: Vec<u8> = Vec::with_capacity(16 << 10);
    while times.len() < EVENTS {
        let read = timeout(SILENCE, stream.read_buf(&mut buffer)).await.context("no event for long")??;
        if read == 0 {
            bail!("a stream ended");
        }
        let now = Instant::now();
        // Whole lines only.
        let Some(end) = buffer.iter().rposition(|byte| *byte == b'\n') else { continue };
        for line in buffer[..end].split(|byte| *byte == b'\n').filter(|line| line.starts_with(b"data:")) {
            let Some(at) = line.windows(MARK.len()).position(|window| window == MARK) else { continue };
            let digits = line[at + MARK.len()..].split(|byte| *byte == b'"').next().unwrap_or_default();
            let number: usize = std::str::from_utf8(digits)?.parse().context("the number of an event")?;
            if number != times.len() {
                bail!("event {number} came where {} was next", times.len());
            }
            let began = sent.lock().expect("no reader panics")[number].context("an event before its submit")?;
            times.push((now - began).as_secs_f64() * 1e3);
        }
        buffer.drain(..=end);
    }
    Ok(times)
}
