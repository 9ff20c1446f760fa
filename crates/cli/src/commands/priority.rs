//! `fetchml priority`.

use crate::{failure::Exit, session::ServerFlags, terminal};
use clap::Args;
use std::path::Path;

/// Give a task another priority, whether it waits or runs
#[derive(Args, Debug)]
#[command(before_long_help = "Example:\n  fetchml priority @last 7")]
pub(crate) struct Priority {
    /// Id, the beginning or end of one, or @last
    task: String,
    /// 1 to 10, higher runs first
    #[arg(value_name = "PRIORITY", value_parser = clap::value_parser!(i32).range(1..=10))]
    wanted: i32,
    /// Print the task as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerFlags,
}

impl Priority {
    pub(super) async fn run(self, config: Option<&Path>) -> anyhow::Result<Exit> {
        let session = self.server.session(config)?;
        let id = session.task_id(&self.task).await?;
        let task = session.client.priority_set(id, self.wanted).await?;
        if self.json {
            terminal::print_json(&task)?;
        } else {
            let aged = task.priority_aged;
            terminal::say(&format!("task {id} has priority {}, {aged:.1} with what it has waited", task.priority));
            if task.status.is_active() {
                terminal::say_aside("it is on a worker already; the priority counts when it is queued again");
            }
        }
        Ok(Exit::Success)
    }
}
