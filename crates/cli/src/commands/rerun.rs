//! `fetchml rerun`.

use super::{follow, submit::parse_pair};
use crate::{
    failure::{EXIT_CODES, Exit},
    session::ServerFlags,
    terminal,
};
use clap::Args;
use serde_json::{Map, Value, json};
use std::path::Path;

/// Run a task again, exactly or with changes
///
/// The new task has the same command, files, requirements of packages, environment, resources and limits. An image and data sets are those that it ran with, by digest and hash, whatever their names mean today. Values of
/// secrets are today's.
#[derive(Args, Debug)]
#[command(
    before_long_help = "Examples:\n  fetchml rerun @last\n  fetchml rerun --follow --env SEED=2 @last\n  \
        fetchml rerun --change '{\"gpu\": 2, \"args\": null}' @last",
    after_long_help = EXIT_CODES
)]
pub(crate) struct Rerun {
    /// Id, the beginning or end of one, or @last
    id: String,
    /// Name of the new task [default: the same]
    #[arg(long)]
    name: Option<String>,
    /// Another value of an environment variable, or a new one; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_pair)]
    env: Vec<(String, String)>,
    /// Other changes: a JSON merge patch of the request, null takes away
    #[arg(long, value_name = "JSON", value_parser = parse_changes)]
    change: Option<Map<String, Value>>,
    /// Show states and log until the task ends; the exit code tells how it ended
    #[arg(short, long)]
    follow: bool,
    /// Print the task as JSON; with --follow at its end, instead of its log
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerFlags,
}

fn parse_changes(text: &str) -> Result<Map<String, Value>, String> {
    serde_json::from_str(text).map_err(|error| format!("must be a JSON object of changes: {error}"))
}

impl Rerun {
    pub(super) async fn run(self, config: Option<&Path>) -> anyhow::Result<Exit> {
        let session = self.server.session(config)?;
        let id = session.task_id(&self.id).await?;
        let task = session.client.rerun(id, &self.changes()).await?;
        session.remember(task.id);
        if self.follow {
            return follow::to_the_end(&session.client, &task, self.json).await;
        }
        if self.json {
            terminal::print_json(&task)?;
        } else {
            terminal::print(&task.id.to_string())?;
            terminal::say_hint(&format!("`fetchml diff {id} {}` compares them when it has ended", task.id));
        }
        Ok(Exit::Success)
    }

    fn changes(&self) -> Map<String, Value> {
        let mut changes = self.change.clone().unwrap_or_default();
        if let Some(name) = &self.name {
            changes.insert("job_name".to_owned(), json!(name));
        }
        if !self.env.is_empty() {
            let env = changes.entry("env").or_insert_with(|| json!({}));
            if !env.is_object() {
                *env = json!({});
            }
            for (name, value) in &self.env {
                env[name] = json!(value);
            }
        }
        changes
    }
}
