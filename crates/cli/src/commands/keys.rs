//! `fetchml keys`.

use crate::{failure::Exit, quantity, session::ServerFlags, terminal};
use clap::{Args, Subcommand};
use comfy_table::Cell;
use fetchml_api::{CreateKeyRequest, KeyId, KeyInfo, Micros, Role};
use serde_json::json;
use std::path::Path;

/// Make, list and revoke API keys (admins only)
#[derive(Args, Debug)]
#[command(before_long_help = "Example:\n  fetchml keys create --role user --user ada")]
pub(crate) struct Keys {
    #[command(subcommand)]
    command: KeysCommand,
}

#[derive(Subcommand, Debug)]
enum KeysCommand {
    Create(Create),
    List(List),
    Revoke(Revoke),
}

/// Make a key; it is shown once
#[derive(Args, Debug)]
#[command(before_long_help = "Examples:\n  fetchml keys create --role user --user ada\n  \
    fetchml keys create --role viewer --user dashboard --expires 30\n  \
    fetchml keys create --role worker --user lab --name gpu-box-3 --json")]
struct Create {
    /// What the key may do: admin, operator, user, viewer or worker
    #[arg(long)]
    role: Role,
    /// The user the key acts for
    #[arg(long)]
    user: String,
    /// A label for people
    #[arg(long)]
    name: Option<String>,
    /// Days until the key stops working [default: never]
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..=3650))]
    expires: Option<u32>,
    /// Instant at which the key stops working, such as 2030-01-31T12:00:00Z
    #[arg(long, value_name = "INSTANT", conflicts_with = "expires")]
    expires_at: Option<Micros>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerFlags,
}

/// List all keys, revoked ones included
#[derive(Args, Debug)]
#[command(before_long_help = "Example:\n  fetchml keys list")]
struct List {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerFlags,
}

/// Make a key useless at once
#[derive(Args, Debug)]
#[command(before_long_help = "Example:\n  fetchml keys revoke k5q2mzr7hxwd")]
struct Revoke {
    /// The key's id, as `keys list` shows it
    id: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerFlags,
}

impl Keys {
    pub(super) async fn run(self, config: Option<&Path>) -> anyhow::Result<Exit> {
        match self.command {
            KeysCommand::Create(command) => command.run(config).await?,
            KeysCommand::List(command) => command.run(config).await?,
            KeysCommand::Revoke(command) => command.run(config).await?,
        }
        Ok(Exit::Success)
    }
}

impl Create {
    async fn run(self, config: Option<&Path>) -> anyhow::Result<()> {
        let request = CreateKeyRequest {
            role: self.role,
            user_id: self.user,
            name: self.name,
            expires_at: self.expires_at,
            expires_days: self.expires,
        };
        let created = self.server.session(config)?.client.keys_create(&request).await?;
        if self.json {
            return terminal::print_json(&created);
        }
        terminal::print(&created.key)?;
        let info = &created.info;
        terminal::say(&format!("key {} for {} with role {}", info.id, info.user_id, info.role.as_str()));
        terminal::say_hint("keep it now: it cannot be shown again");
        Ok(())
    }
}

impl List {
    async fn run(self, config: Option<&Path>) -> anyhow::Result<()> {
        let keys = self.server.session(config)?.client.keys_list().await?;
        if self.json {
            return terminal::print_json(&json!({ "keys": keys }));
        }
        let mut table = terminal::table(["ID", "USER", "ROLE", "NAME", "CREATED", "STATE"]);
        for key in &keys {
            let name = key.name.as_deref().map_or_else(|| "-".into(), terminal::plain);
            let created = quantity::show_time(key.created_at);
            table.add_row([
                Cell::new(&key.id),
                Cell::new(&key.user_id),
                Cell::new(key.role.as_str()),
                Cell::new(name),
                Cell::new(created),
                Cell::new(state(key)),
            ]);
        }
        Ok(terminal::print_table(&table)?)
    }
}

fn state(key: &KeyInfo) -> String {
    match (key.revoked_at, key.expires_at) {
        (Some(_), _) => "revoked".into(),
        (None, Some(at)) if at <= quantity::now() => "expired".into(),
        (None, Some(at)) => format!("until {}", quantity::show_time(at)),
        (None, None) => "works".into(),
    }
}

impl Revoke {
    async fn run(self, config: Option<&Path>) -> anyhow::Result<()> {
        let id = KeyId(self.id);
        self.server.session(config)?.client.keys_revoke(&id).await?;
        if self.json {
            return terminal::print_json(&json!({ "id": id, "revoked": true }));
        }
        terminal::say(&format!("key {id} is revoked"));
        Ok(())
    }
}
