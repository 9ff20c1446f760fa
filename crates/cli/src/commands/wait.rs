//! `fetchml wait`.

use super::{arrays, follow};
use crate::{
    failure::{EXIT_CODES, Exit},
    quantity,
    session::ServerFlags,
    terminal,
};
use clap::Args;
use fetchml_api::{Task, TaskArray};
use std::{path::Path, time::Duration};

/// Wait until a task or array is over; the exit code tells how it ended
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

enum Ended {
    Task(Box<Task>),
    Array(TaskArray),
}

impl Wait {
    pub(super) async fn run(self, config: Option<&Path>) -> anyhow::Result<Exit> {
        let session = self.server.session(config)?;
        let id = session.task_id(&self.id).await?;
        let wait = async {
            match session.client.wait(id, follow::say_state).await {
                Ok(task) => Ok(Ended::Task(Box::new(task))),
                Err(error) => {
                    let array = arrays::instead(&session, id, error).await?;
                    arrays::wait(&session, array).await.map(Ended::Array)
                }
            }
        };
        let ended = match self.timeout {
            None => wait.await?,
            Some(timeout) => {
                let Ok(ended) = tokio::time::timeout(timeout, wait).await else {
                    terminal::say_error(&format!("{id} is not over after {} s; it goes on", timeout.as_secs()));
                    return Ok(Exit::TimedOut);
                };
                ended?
            }
        };
        let ended = match ended {
            Ended::Task(task) => task,
            Ended::Array(array) => {
                if self.json {
                    terminal::print_json(&array)?;
                } else {
                    terminal::say(&format!("{} is over: {}", array.job_name, arrays::counts(&array)));
                }
                return Ok(arrays::exit(&array));
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
