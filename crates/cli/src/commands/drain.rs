//! `fetchml drain`.

use super::workers::find;
use crate::{
    failure::{Exit, Failure},
    session::ServerFlags,
    terminal,
};
use clap::Args;
use fetchml_api::{Worker, WorkerId, WorkerStatus};
use fetchml_client::Client;
use serde_json::json;
use std::{
    path::Path,
    time::{Duration, Instant},
};

/// How often the worker is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// The same until the drain is shown.
const LOOK_FIRST: Duration = Duration::from_millis(50);
/// A drain that is not shown by then was taken back.
const SHOWN_WITHIN: Duration = Duration::from_secs(10);

/// Let a worker take nothing new, and wait until it is empty (operators and admins)
#[derive(Args, Debug)]
#[command(before_long_help = "Examples:\n  fetchml drain gpu-box-3           what it runs goes on to its end\n  \
    fetchml drain --force gpu-box-3   stop it there, and queue it again")]
pub(crate) struct Drain {
    /// Its id, or its name
    worker: String,
    /// Stop what it runs and queue it again at no cost to its owners
    #[arg(long)]
    force: bool,
    /// The machine is dead for certain: what it ran is queued again at once, without waiting for its lease to end
    #[arg(long, conflicts_with = "force")]
    declare_dead: bool,
    /// Return at once, while it still runs something
    #[arg(long)]
    no_wait: bool,
    /// Print the worker as JSON when it is done
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerFlags,
}

impl Drain {
    pub(super) async fn run(self, config: Option<&Path>) -> anyhow::Result<Exit> {
        let client = self.server.session(config)?.client;
        let workers = client.workers().await?;
        let worker = find(&workers, &self.worker)?;
        let (id, name) = (worker.id, terminal::plain(&worker.name));
        if self.declare_dead && worker.status != WorkerStatus::Offline {
            return Err(Failure::new(format!("worker {name} is connected, so it is not dead"))
                .hint("--force stops what it runs and queues it again")
                .into());
        }
        client.worker_drain(id, self.force, self.declare_dead).await?;
        terminal::say(&format!("worker {name} takes nothing new; `fetchml undrain {name}` takes that back"));
        let mut shown = until_drained(&client, id, &name).await?;
        if !self.no_wait {
            shown = until_empty(&client, shown, &name).await?;
        }
        if self.json {
            terminal::print_json(&json!({"id": id, "name": worker.name, "active_tasks": shown.active_tasks}))?;
        } else if shown.active_tasks.is_empty() {
            terminal::say(&format!("worker {name} is empty: it can be switched off"));
        }
        Ok(Exit::Success)
    }
}

/// The worker as it is shown once the drain counts: before, it may hold more than is shown.
async fn until_drained(client: &Client, id: WorkerId, name: &str) -> anyhow::Result<Worker> {
    let shown_by = Instant::now() + SHOWN_WITHIN;
    loop {
        let worker = client.worker(id).await?;
        if worker.status != WorkerStatus::Active {
            return Ok(worker);
        }
        if Instant::now() > shown_by {
            let failure = Failure::new(format!("worker {name} takes work: somebody has taken the drain back"));
            return Err(failure.hint("drain it again if it is still to be empty").into());
        }
        tokio::time::sleep(LOOK_FIRST).await;
    }
}

/// Waits until the worker holds nothing, and says how many tasks are left whenever that changes.
async fn until_empty(client: &Client, mut worker: Worker, name: &str) -> anyhow::Result<Worker> {
    let mut said = None;
    while !worker.active_tasks.is_empty() {
        let now = (worker.active_tasks.len(), worker.status);
        if said != Some(now) {
            terminal::say_aside(&progress(&worker, name));
            said = Some(now);
        }
        tokio::time::sleep(LOOK_EVERY).await;
        worker = client.worker(worker.id).await?;
        if worker.status == WorkerStatus::Active {
            worker = until_drained(client, worker.id, name).await?;
        }
    }
    Ok(worker)
}

fn progress(worker: &Worker, name: &str) -> String {
    let count = worker.active_tasks.len();
    let tasks = if count == 1 { "1 task".to_owned() } else { format!("{count} tasks") };
    match worker.status {
        WorkerStatus::Offline => format!(
            "{tasks} left on {name}, which cannot be reached: waiting until its lease ends (--declare-dead if the \
             machine is dead for certain)"
        ),
        WorkerStatus::Active | WorkerStatus::Draining => {
            format!("{tasks} left on {name}; the drain goes on if this command is stopped")
        }
    }
}
