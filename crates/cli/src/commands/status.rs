//! `fetchml status`.

use super::workers;
use crate::{failure::Exit, quantity, session::ServerFlags, terminal};
use clap::Args;
use fetchml_api::{SchedulerStatus, Worker};
use fetchml_client::{Client, Incoming};
use futures_util::StreamExt as _;
use std::{collections::BTreeMap, path::Path};

/// Show queue depths, what runs, and the workers
///
/// With --watch it goes on until Ctrl-C: on a terminal the picture stays current; elsewhere each change is
/// a line.
#[derive(Args, Debug)]
#[command(before_long_help = "Examples:\n  fetchml status\n  fetchml status --watch")]
pub(crate) struct Status {
    /// Go on showing it as it changes
    #[arg(short, long)]
    watch: bool,
    /// Print JSON; with --watch one line for each event, with its name and id
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerFlags,
}

impl Status {
    pub(super) async fn run(self, config: Option<&Path>) -> anyhow::Result<Exit> {
        let client = self.server.session(config)?.client;
        if self.watch {
            return watch(&client, self.json).await;
        }
        let status = client.status().await?;
        if self.json {
            terminal::print_json(&status)?;
            return Ok(Exit::Success);
        }
        terminal::print(&picture(&status, &client.workers().await?))?;
        if status.workers_active == 0 && status.batch_queue_depth > 0 {
            terminal::say_hint("no worker takes work: `fetchml worker --server URL --key-file FILE` adds one");
        }
        Ok(Exit::Success)
    }
}

async fn watch(client: &Client, json: bool) -> anyhow::Result<Exit> {
    let mut events = std::pin::pin!(client.status_follow());
    let mut seen = Seen::default();
    while let Some(incoming) = events.next().await {
        let event = match incoming? {
            Incoming::Event(event) => event,
            Incoming::Reconnecting { reason, delay } => {
                terminal::say_warning(&format!(
                    "{reason}; trying again in {}",
                    quantity::show_micros(delay.as_micros() as i64)
                ));
                continue;
            }
        };
        if json {
            let data: serde_json::Value = serde_json::from_str(&event.data)?;
            let line = serde_json::json!({"id": event.id, "event": event.event, "data": data});
            terminal::print(&line.to_string())?;
            continue;
        }
        let changed = seen.take(&event.event, &event.data);
        if let Some(status) = seen.status.filter(|_| changed) {
            if terminal::stdout_is_terminal() {
                terminal::repaint(&picture(&status, seen.workers.values()))?;
            } else if event.event == "status" {
                terminal::print(&line(&status))?;
            }
        }
    }
    Ok(Exit::Success)
}

/// What the stream has told so far.
#[derive(Default)]
struct Seen {
    status: Option<SchedulerStatus>,
    workers: BTreeMap<fetchml_api::WorkerId, Worker>,
}

impl Seen {
    /// Whether the event changed the picture. What this version does not understand does not.
    fn take(&mut self, name: &str, data: &str) -> bool {
        match name {
            "status" => match serde_json::from_str(data) {
                Ok(status) => self.status = Some(status),
                Err(_) => return false,
            },
            "worker" => match serde_json::from_str::<Worker>(data) {
                Ok(worker) => drop(self.workers.insert(worker.id, worker)),
                Err(_) => return false,
            },
            "reset" => *self = Self::default(),
            _ => return false,
        }
        true
    }
}

fn picture<'a>(status: &SchedulerStatus, workers: impl IntoIterator<Item = &'a Worker>) -> String {
    let mut table = terminal::table([
        "QUEUED",
        "SERVICES QUEUED",
        "RUNNING",
        "COMPLETED 24H",
        "RESERVATIONS",
        "WORKERS",
        "ACTIVE",
        "DRAINING",
    ]);
    table.add_row(
        [
            status.batch_queue_depth,
            status.service_queue_depth,
            status.tasks_running,
            status.tasks_completed_24h,
            status.reservations_active,
            status.workers_total,
            status.workers_active,
            status.workers_draining,
        ]
        .map(terminal::number),
    );
    format!("{}\n{}", terminal::table_text(&table), terminal::table_text(&workers::table(workers)))
}

/// One line for logs and pipes.
fn line(status: &SchedulerStatus) -> String {
    format!(
        "{} queued {} services_queued {} running {} completed_24h {} workers_active {}/{}",
        status.timestamp,
        status.batch_queue_depth,
        status.service_queue_depth,
        status.tasks_running,
        status.tasks_completed_24h,
        status.workers_active,
        status.workers_total
    )
}
