//! `fetchml workers`.

use crate::{failure::Exit, quantity, session::ServerFlags, terminal};
use clap::Args;
use comfy_table::{Cell, Table};
use fetchml_api::Worker;
use std::path::Path;

/// List the workers and what they have
#[derive(Args, Debug)]
#[command(before_long_help = "Example:\n  fetchml workers")]
pub(crate) struct Workers {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerFlags,
}

impl Workers {
    pub(super) async fn run(self, config: Option<&Path>) -> anyhow::Result<Exit> {
        let workers = self.server.session(config)?.client.workers().await?;
        if self.json {
            terminal::print_json(&workers)?;
            return Ok(Exit::Success);
        }
        terminal::print_table(&table(&workers))?;
        Ok(Exit::Success)
    }
}

/// A row for each worker.
pub(super) fn table<'a>(workers: impl IntoIterator<Item = &'a Worker>) -> Table {
    let mut table = terminal::table(["ID", "NAME", "STATUS", "SLOTS", "CPU", "MEMORY", "GPU", "TASKS", "HEARD"]);
    for worker in workers {
        table.add_row(row(worker));
    }
    table
}

fn row(worker: &Worker) -> Vec<Cell> {
    let has = &worker.capabilities;
    let slots = &worker.slots;
    let gpu = match (has.gpu_count, &has.gpu_type) {
        (0, _) => "-".into(),
        (count, Some(kind)) => format!("{count} x {}", terminal::plain(kind)),
        (count, None) => count.to_string(),
    };
    vec![
        Cell::new(worker.id),
        Cell::new(terminal::plain(&worker.name)),
        terminal::worker_status(worker.status),
        Cell::new(format!("{}/{} free", slots.batch_available, slots.batch_total)),
        terminal::number(has.cpu_cores),
        Cell::new(format!("{} GiB", has.memory_gb)),
        Cell::new(gpu),
        terminal::number(worker.active_tasks.len()),
        Cell::new(format!("{} ago", quantity::show_micros(quantity::now().since(worker.last_heartbeat)))),
    ]
}
