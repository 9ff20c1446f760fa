//! `fetchml queue`.

use crate::{failure::Exit, session::ServerFlags, terminal};
use clap::Args;
use std::path::Path;

/// Show how much waits and runs
#[derive(Args, Debug)]
#[command(before_long_help = "Example:\n  fetchml queue")]
pub(crate) struct Queue {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerFlags,
}

impl Queue {
    pub(super) async fn run(self, config: Option<&Path>) -> anyhow::Result<Exit> {
        let queue = self.server.session(config)?.client.queue().await?;
        if self.json {
            terminal::print_json(&queue)?;
            return Ok(Exit::Success);
        }
        let mut table = terminal::table(["QUEUED", "RUNNING", "COMPLETED TODAY", "FAILED TODAY", "WORKERS"]);
        table
            .add_row([queue.queued, queue.running, queue.completed, queue.failed, queue.workers].map(terminal::number));
        terminal::print_table(&table)?;
        if queue.workers == 0 && queue.queued > 0 {
            terminal::say_hint("no worker is connected: `fetchml worker --server URL --key-file FILE` adds one");
        }
        Ok(Exit::Success)
    }
}
