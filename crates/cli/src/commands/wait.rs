//! `fetchml wait`.

use super::follow;
use crate::{
    failure::{EXIT_CODES, Exit},
    quantity,
    session::ServerFlags,
    terminal,
};
use clap::Args;
use std::{path::Path, time::Duration};

/// Wait until a task is over; the exit code tells how it ended
#[derive(Args, Debug)]
#[command(
    before_long_help = "Examples:\n  fetchml wait @last && echo done\n  fetchml wait @last --timeout 2h",
    after_long_help = EXIT_CODES
)]
pub(crate) struct Wait {
    /// Id, the beginning or end of one, or @last
    id: String,
    /// Give up after this long (90, 45s, 1h30m) with exit code 124; the task goes on
    #[arg(long, value_name = "TIME", value_parser = quantity::parse_timeout)]
    timeout: Option<Duration>,
    /// Print the ended task as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerFlags,
}

impl Wait {
    pub(super) async fn run(self, config: Option<&Path>) -> anyhow::Result<Exit> {
        let session = self.server.session(config)?;
        let id = session.task_id(&self.id).await?;
        let wait = session.client.wait(id, follow::say_state);
        let ended = match self.timeout {
            None => wait.await?,
            Some(timeout) => {
                let Ok(ended) = tokio::time::timeout(timeout, wait).await else {
                    terminal::say_error(&format!("task {id} is not over after {} s; it goes on", timeout.as_secs()));
                    return Ok(Exit::TimedOut);
                };
                ended?
            }
        };
        if self.json {
            terminal::print_json(&ended)?;
        } else {
            follow::say_summary(&session.client, &ended).await;
        }
        Ok(Exit::of(&ended))
    }
}
