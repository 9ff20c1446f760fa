//! Pages of a million tasks.

use crate::{
    Setup,
    http::Connection,
    load::{self, Plan},
    report::{Report, Target},
    server::Server,
    submit::submit,
};
use anyhow::{Context as _, Result, bail};
use std::time::Instant;

const CLIENTS: usize = 4;
const TASKS: u64 = 1_000_000;
/// Tasks of one request.
const ARRAY: u64 = 10_000;
/// Where pages are read, by `after`: so many of the tasks are newer.
const DEPTHS: [u64; 3] = [0, 500_000, 990_000];
const OFFSETS: usize = 20;

pub(crate) fn measure(setup: &Setup, report: &mut Report) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let server = Server::start(setup, "serve", "list")?;
    runtime.block_on(async {
        let mut connection = Connection::open(server.address).await?;
        fill(&server, &mut connection).await?;
        for depth in DEPTHS {
            let (name, path) = if depth == 0 {
                ("pages of 50, the first".to_owned(), "/v1/tasks?limit=50".to_owned())
            } else {
                let before = server.get(&mut connection, &format!("/v1/tasks?limit=1&offset={depth}")).await?;
                let id = before["tasks"][0]["id"].as_str().context("a page without a task")?;
                (format!("pages of 50, {depth} deep"), format!("/v1/tasks?limit=50&after={id}"))
            };
            let load = load::repeat(&server, Plan::reads(vec![server.request("GET", &path, "")], CLIENTS)).await?;
            report.add(&name, load.rate, "/s", Target::AtLeast(1_500.0));
            report.add(format!("{name}, p99"), load.p99_ms, "ms", Target::Below(30.0));
        }
        let mut slowest = 0.0_f64;
        for _ in 0..OFFSETS {
            let began = Instant::now();
            let page = server.get(&mut connection, "/v1/tasks?limit=50&offset=900000").await?;
            slowest = slowest.max(began.elapsed().as_secs_f64() * 1e3);
            if page["tasks"].as_array().map(Vec::len) != Some(50) || page["total"] != TASKS {
                bail!("the page at offset 900000 is not whole");
            }
        }
        report.add(format!("offset=900000, slowest of {OFFSETS}"), slowest, "ms", Target::Below(150.0));
        anyhow::Ok(())
    })?;
    drop(runtime);
    server.stop()
}

async fn fill(server: &Server, connection: &mut Connection) -> Result<()> {
    let body = format!(r#"{{"job_name":"bench","entrypoint":"/bin/true","array":"0-{}"}}"#, ARRAY - 1);
    let request = server.request("POST", "/v1/tasks", &body);
    for made in (0..TASKS).step_by(ARRAY as usize) {
        if made % 100_000 == 0 {
            eprintln!("submitted {made} of {TASKS} tasks");
        }
        submit(connection, &request).await?;
    }
    Ok(())
}
