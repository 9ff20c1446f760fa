//! `fetchml undrain`.

use super::workers::find;
use crate::{failure::Exit, session::ServerFlags, terminal};
use clap::Args;
use serde_json::json;
use std::path::Path;

/// Let a drained worker take work again (operators and admins)
#[derive(Args, Debug)]
#[command(before_long_help = "Example:\n  fetchml undrain gpu-box-3")]
pub(crate) struct Undrain {
    /// Its id, or its name
    worker: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerFlags,
}

impl Undrain {
    pub(super) async fn run(self, config: Option<&Path>) -> anyhow::Result<Exit> {
        let client = self.server.session(config)?.client;
        let workers = client.workers().await?;
        let worker = find(&workers, &self.worker)?;
        client.worker_undrain(worker.id).await?;
        let (name, unfit) = (terminal::plain(&worker.name), worker.unfit.as_deref().map(terminal::plain));
        if self.json {
            terminal::print_json(&json!({"id": worker.id, "name": worker.name, "unfit": worker.unfit}))?;
        } else if let Some(reason) = unfit {
            terminal::say_warning(&format!("worker {name} still takes nothing new by its own word: {reason}"));
        } else {
            terminal::say(&format!("worker {name} takes work again"));
        }
        Ok(Exit::Success)
    }
}
