//! `fetchml cancel`.

use crate::{failure::Exit, session::ServerFlags, terminal};
use clap::Args;
use serde_json::json;
use std::path::Path;

/// Stop tasks, waiting or running
#[derive(Args, Debug)]
#[command(before_long_help = "Example:\n  fetchml cancel @last")]
pub(crate) struct Cancel {
    /// Ids, the beginning or end of one, or @last
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerFlags,
}

impl Cancel {
    pub(super) async fn run(self, config: Option<&Path>) -> anyhow::Result<Exit> {
        let session = self.server.session(config)?;
        let mut answers = Vec::new();
        for text in &self.ids {
            let id = session.task_id(text).await?;
            // DELETE hides an ended task; someone who wants to stop one does not want that.
            let task = session.client.task(id).await?;
            let cancelled = !task.status.is_terminal();
            if cancelled {
                session.client.cancel(id).await?;
            }
            if self.json {
                answers.push(json!({"id": id, "cancelled": cancelled, "status_before": task.status}));
            } else if cancelled {
                terminal::say(&format!("task {id} is being cancelled"));
            } else {
                terminal::say_warning(&format!("task {id} is over already: {}", task.status.as_str()));
            }
        }
        if self.json {
            terminal::print_json(&answers)?;
        }
        Ok(Exit::Success)
    }
}
