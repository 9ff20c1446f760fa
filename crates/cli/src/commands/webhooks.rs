//! `fetchml webhooks`.

use crate::{
    failure::{Exit, Failure},
    quantity,
    session::{ServerFlags, Session, is_part},
    terminal,
};
use clap::{Args, Subcommand};
use comfy_table::Cell;
use fetchml_api::{CreateWebhookRequest, Webhook, WebhookEvent, WebhookId};
use serde_json::json;
use std::path::Path;

/// Make, list and delete webhooks: URLs that hear of your tasks
///
/// The server sends a signed request when a task of yours ends, or whenever it changes, and again until it is
/// answered with 2xx.
#[derive(Args, Debug)]
#[command(
    before_long_help = "Examples:\n  fetchml webhooks create https://example.org/hooks/fetchml > webhook.secret\n  \
        fetchml webhooks list"
)]
pub(crate) struct Webhooks {
    #[command(subcommand)]
    command: WebhooksCommand,
}

#[derive(Subcommand, Debug)]
enum WebhooksCommand {
    Create(Create),
    #[command(alias = "ls")]
    List(List),
    #[command(alias = "rm")]
    Delete(Delete),
}

/// Make a webhook and print the secret that its requests are signed with, once
#[derive(Args, Debug)]
#[command(
    before_long_help = "Examples:\n  fetchml webhooks create https://example.org/hooks/fetchml > webhook.secret\n  \
        fetchml webhooks create https://example.org/hooks --event task.running --event task.failed"
)]
struct Create {
    /// Where requests are sent: https:// or http://
    #[arg(value_name = "URL")]
    target: String,
    /// What it hears of; may be repeated: task.queued, task.preparing, task.running, task.collecting, task.completed, task.failed [default: task.completed, task.failed]
    #[arg(long = "event", value_name = "EVENT")]
    events: Vec<WebhookEvent>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerFlags,
}

/// List your webhooks and how deliveries go; admins see everybody's
#[derive(Args, Debug)]
#[command(before_long_help = "Example:\n  fetchml webhooks list")]
struct List {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerFlags,
}

/// Delete a webhook: nothing more is sent to it
#[derive(Args, Debug)]
#[command(before_long_help = "Example:\n  fetchml webhooks delete 01a20b11-5c3e-7000-9c0f-5d0e1f7a2b33")]
struct Delete {
    /// Its id, or the beginning or end of it
    webhook: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerFlags,
}

impl Webhooks {
    pub(super) async fn run(self, config: Option<&Path>) -> anyhow::Result<Exit> {
        match self.command {
            WebhooksCommand::Create(command) => command.run(config).await?,
            WebhooksCommand::List(command) => command.run(config).await?,
            WebhooksCommand::Delete(command) => command.run(config).await?,
        }
        Ok(Exit::Success)
    }
}

impl Create {
    async fn run(self, config: Option<&Path>) -> anyhow::Result<()> {
        let request = CreateWebhookRequest { url: self.target, events: self.events };
        let made = self.server.session(config)?.client.webhook_create(&request).await?;
        if self.json {
            return terminal::print_json(&made);
        }
        terminal::print(made.secret.expose())?;
        terminal::say(&format!("webhook {} hears of {}", made.webhook.id, events(&made.webhook)));
        terminal::say_hint("keep the secret now: it cannot be shown again");
        Ok(())
    }
}

fn events(webhook: &Webhook) -> String {
    webhook.events.iter().map(|event| event.as_str()).collect::<Vec<_>>().join(", ")
}

impl List {
    async fn run(self, config: Option<&Path>) -> anyhow::Result<()> {
        let webhooks = self.server.session(config)?.client.webhooks().await?;
        if self.json {
            return terminal::print_json(&json!({ "webhooks": webhooks }));
        }
        let mut table = terminal::table(["ID", "USER", "EVENTS", "WAITING", "FAILED", "URL", "LAST ERROR"]);
        for webhook in &webhooks {
            table.add_row([
                Cell::new(webhook.id),
                Cell::new(terminal::plain(&webhook.user_id)),
                Cell::new(events(webhook)),
                terminal::number(webhook.waiting),
                terminal::number(webhook.failed),
                Cell::new(terminal::plain(&webhook.url)),
                Cell::new(last_error(webhook)),
            ]);
        }
        terminal::print_table(&table)?;
        if webhooks.is_empty() {
            terminal::say_hint("`fetchml webhooks create URL` makes one");
        }
        Ok(())
    }
}

fn last_error(webhook: &Webhook) -> String {
    let Some(error) = &webhook.error else { return "-".to_owned() };
    let again = webhook.next_attempt_at.map(|at| format!("; next try {}", quantity::show_time(at)));
    format!("{}{}", terminal::plain(error), again.unwrap_or_default())
}

impl Delete {
    async fn run(self, config: Option<&Path>) -> anyhow::Result<()> {
        let session = self.server.session(config)?;
        let id = find(&session, &self.webhook).await?;
        session.client.webhook_delete(id).await?;
        if self.json {
            return terminal::print_json(&json!({ "id": id, "deleted": true }));
        }
        terminal::say(&format!("webhook {id} is deleted"));
        Ok(())
    }
}

async fn find(session: &Session, text: &str) -> anyhow::Result<WebhookId> {
    if let Ok(id) = text.parse() {
        return Ok(id);
    }
    Ok(pick(session.client.webhooks().await?.iter().map(|webhook| webhook.id), text)?)
}

fn pick(ids: impl Iterator<Item = WebhookId>, text: &str) -> Result<WebhookId, Failure> {
    let part = text.to_ascii_lowercase();
    let mut found = ids.filter(|id| is_part(&part, id));
    match (found.next(), found.next()) {
        (Some(id), None) => Ok(id),
        (None, _) => {
            Err(Failure::new(format!("no webhook has an id like {text:?}")).hint("`fetchml webhooks list` lists them"))
        }
        (Some(one), Some(other)) => Err(Failure::usage(format!("several webhooks are meant by {text:?}"))
            .hint(format!("give the whole id of one, such as {one} or {other}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_an_id_must_be_long_enough_and_mean_one() {
        let (a, b) = ("01900000-0000-7000-8000-00000000000a", "01900000-0000-7000-8000-00000000000b");
        let pick = |text| pick([a, b].map(|id| id.parse().unwrap()).into_iter(), text).map(|id| id.to_string());
        assert_eq!(pick("8000-00000000000A").unwrap(), a);
        assert_eq!(pick(b).unwrap(), b);
        assert!(pick("a").is_err(), "too short");
        assert!(pick("01900000").unwrap_err().to_string().contains("several"));
        assert!(pick("0000000000ff").is_err());
    }
}
