//! `fetchml cancel`.

use super::arrays;
use crate::{
    failure::Exit,
    session::{ServerFlags, Session},
    terminal,
};
use clap::Args;
use fetchml_api::TaskArray;
use serde_json::{Value, json};
use std::path::Path;

/// Stop tasks or whole arrays, waiting or running
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
            let task = match session.client.task(id).await {
                Ok(task) => task,
                Err(error) => {
                    let array = arrays::instead(&session, id, error).await?;
                    answers.extend(self.cancel_array(&session, &array).await?);
                    continue;
                }
            };
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

    /// What there is to print as JSON.
    async fn cancel_array(&self, session: &Session, array: &TaskArray) -> anyhow::Result<Option<Value>> {
        let (id, cancelled) = (array.id, !array.is_over());
        if cancelled {
            session.client.array_cancel(id).await?;
        }
        if self.json {
            return Ok(Some(json!({"id": id, "cancelled": cancelled, "tasks": array.count})));
        }
        if cancelled {
            terminal::say(&format!("what is left of array {id} is being cancelled ({})", arrays::counts(array)));
        } else {
            terminal::say_warning(&format!("array {id} is over already: {}", arrays::counts(array)));
        }
        Ok(None)
    }
}
