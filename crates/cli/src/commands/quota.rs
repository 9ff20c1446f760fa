//! `fetchml quota`.

use crate::{
    failure::{Exit, Failure},
    session::ServerFlags,
    terminal,
};
use clap::{Args, Subcommand};
use comfy_table::Cell;
use fetchml_api::{Quota as Limits, QuotaInfo, QuotaScope, Role};
use serde_json::json;
use std::path::Path;

/// Show and set how much users may have at once (admins only)
#[derive(Args, Debug)]
#[command(before_long_help = "Examples:\n  fetchml quota ls\n  fetchml quota set --user ada --gpus 8\n  \
    fetchml quota set --role user --running 20 --gpus 4\n  fetchml quota rm --user ada")]
pub(crate) struct Quota {
    #[command(subcommand)]
    command: QuotaCommand,
}

#[derive(Subcommand, Debug)]
enum QuotaCommand {
    Ls(Ls),
    Set(Set),
    Rm(Rm),
}

/// List the quotas, those set here and those in the server's configuration
#[derive(Args, Debug)]
#[command(before_long_help = "Example:\n  fetchml quota ls")]
struct Ls {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerFlags,
}

/// Whom a quota is for.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
struct Scope {
    /// One user
    #[arg(long)]
    user: Option<String>,
    /// Everybody who acts in a role: admin, operator or user
    #[arg(long)]
    role: Option<Role>,
}

/// Set a quota, in place of the one that was set before
#[derive(Args, Debug)]
#[command(before_long_help = "Examples:\n  fetchml quota set --user ada --gpus 8\n  \
    fetchml quota set --role user --running 20 --queued 1000")]
struct Set {
    #[command(flatten)]
    scope: Scope,
    /// Tasks running at once
    #[arg(long)]
    running: Option<u32>,
    /// Tasks waiting at once
    #[arg(long)]
    queued: Option<u32>,
    /// GPUs at once
    #[arg(long)]
    gpus: Option<u32>,
    /// Highest priority, 1 to 10
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=10))]
    max_priority: Option<u8>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerFlags,
}

/// Take back a quota that was set; what is configured counts again
#[derive(Args, Debug)]
#[command(before_long_help = "Example:\n  fetchml quota rm --user ada")]
struct Rm {
    #[command(flatten)]
    scope: Scope,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerFlags,
}

impl Quota {
    pub(super) async fn run(self, config: Option<&Path>) -> anyhow::Result<Exit> {
        match self.command {
            QuotaCommand::Ls(command) => command.run(config).await,
            QuotaCommand::Set(command) => command.run(config).await,
            QuotaCommand::Rm(command) => command.run(config).await,
        }
    }
}

impl Ls {
    async fn run(self, config: Option<&Path>) -> anyhow::Result<Exit> {
        let list = self.server.session(config)?.client.quotas().await?;
        if self.json {
            terminal::print_json(&list)?;
            return Ok(Exit::Success);
        }
        let header = ["ROLE", "USER", "RUNNING", "WAITING", "GPUS", "HIGHEST PRIORITY", "SOURCE"];
        let mut table = terminal::table(header);
        for quota in &list.quotas {
            table.add_row(row(quota));
        }
        terminal::print_table(&table)?;
        Ok(Exit::Success)
    }
}

impl Set {
    async fn run(self, config: Option<&Path>) -> anyhow::Result<Exit> {
        let Self { running, queued, gpus, max_priority, .. } = self;
        let limits = Limits { running, queued, gpus, max_priority };
        if limits == Limits::default() {
            return Err(Failure::usage("a quota limits something")
                .hint("give one or more of --running, --queued, --gpus, --max-priority; `fetchml quota rm` removes one")
                .into());
        }
        let set = self.server.session(config)?.client.quota_put(&self.scope.read(), &limits).await?;
        if self.json {
            terminal::print_json(&set)?;
        } else {
            terminal::say(&format!("the quota of {} is set", self.scope.name()));
        }
        Ok(Exit::Success)
    }
}

impl Rm {
    async fn run(self, config: Option<&Path>) -> anyhow::Result<Exit> {
        self.server.session(config)?.client.quota_delete(&self.scope.read()).await?;
        if self.json {
            terminal::print_json(&json!({"removed": self.scope.name()}))?;
        } else {
            terminal::say(&format!("the quota of {} is removed", self.scope.name()));
        }
        Ok(Exit::Success)
    }
}

impl Scope {
    fn read(&self) -> QuotaScope {
        match (&self.user, self.role) {
            (Some(user), _) => QuotaScope::User(user.clone()),
            (None, Some(role)) => QuotaScope::Role(role),
            (None, None) => unreachable!("clap asks for one of the two"),
        }
    }

    fn name(&self) -> String {
        match self.read() {
            QuotaScope::User(user) => format!("user {user}"),
            QuotaScope::Role(role) => format!("role {}", role.as_str()),
        }
    }
}

fn row(info: &QuotaInfo) -> Vec<Cell> {
    let number = |limit: Option<u32>| terminal::number(limit.map_or_else(|| "-".to_owned(), |limit| limit.to_string()));
    let QuotaInfo { role, user_id, source, quota } = info;
    vec![
        Cell::new(role.map_or("-", Role::as_str)),
        Cell::new(user_id.as_deref().map_or_else(|| "-".to_owned(), terminal::plain)),
        number(quota.running),
        number(quota.queued),
        number(quota.gpus),
        number(quota.max_priority.map(u32::from)),
        Cell::new(source.as_str()),
    ]
}
