//! `fetchml audit`.

use crate::{failure::Exit, quantity, session::ServerFlags, terminal};
use clap::{Args, Subcommand};
use comfy_table::Cell;
use fetchml_api::{AuditEvent, AuditKind, AuditOrder, AuditQuery, Micros};
use std::{path::Path, time::Duration};

/// Read and verify the log of who did what (operators and admins)
#[derive(Args, Debug)]
#[command(before_long_help = "Examples:\n  fetchml audit events --user ada\n  fetchml audit verify")]
pub(crate) struct Audit {
    #[command(subcommand)]
    command: AuditCommand,
}

#[derive(Subcommand, Debug)]
enum AuditCommand {
    Events(Events),
    Verify(Verify),
    Root(Root),
}

/// List events, newest first
#[derive(Args, Debug)]
#[command(before_long_help = "Examples:\n  fetchml audit events --since 1d --type auth_attempt\n  \
    fetchml audit events --resource tasks/0199a3f0-1111-7000-8000-000000000001 --oldest-first\n  \
    fetchml audit events --from 2026-11-01T00:00:00Z --to 2026-12-01T00:00:00Z --limit 1000 --json")]
struct Events {
    /// Only events of this kind: `job_queued`, `job_started`, `job_completed`, `file_access`, `auth_attempt`,
    /// `plugin_configured`, `scheduler_drain` or `audit_verified`
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<AuditKind>,
    /// Only what this user did
    #[arg(long)]
    user: Option<String>,
    /// Only what was done to this, such as tasks/ID or keys/ID
    #[arg(long)]
    resource: Option<String>,
    /// Only events of this instant or later
    #[arg(long, value_name = "INSTANT", value_parser = parse_instant)]
    from: Option<Micros>,
    /// Only events of this instant or earlier
    #[arg(long, value_name = "INSTANT", value_parser = parse_instant)]
    to: Option<Micros>,
    /// Only events within this time, such as 90m, 12h or 7d
    #[arg(long, value_name = "TIME", value_parser = quantity::parse_timeout, conflicts_with = "from")]
    since: Option<Duration>,
    /// In the order in which they were written
    #[arg(long)]
    oldest_first: bool,
    /// Go on behind the event with this number: the last of the page before
    #[arg(long, value_name = "NUMBER")]
    after: Option<u64>,
    /// Number of lines, at most 1000
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(i64).range(0..=fetchml_api::limits::LIST_LIMIT_MAX))]
    limit: i64,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerFlags,
}

/// Have the server verify its whole log
///
/// Ends with 1 when an event is not proven unchanged.
#[derive(Args, Debug)]
#[command(before_long_help = "Example:\n  fetchml audit verify")]
struct Verify {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerFlags,
}

/// Show the hash of the latest event, to be kept elsewhere
#[derive(Args, Debug)]
#[command(before_long_help = "Example:\n  fetchml audit root --json >> roots.jsonl")]
struct Root {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerFlags,
}

fn parse_instant(text: &str) -> Result<Micros, String> {
    text.parse().map_err(|_| "must be an instant such as 2026-01-31T12:00:00Z".to_owned())
}

impl Audit {
    pub(super) async fn run(self, config: Option<&Path>) -> anyhow::Result<Exit> {
        match self.command {
            AuditCommand::Events(command) => command.run(config).await,
            AuditCommand::Verify(command) => command.run(config).await,
            AuditCommand::Root(command) => command.run(config).await,
        }
    }
}

impl Events {
    async fn run(self, config: Option<&Path>) -> anyhow::Result<Exit> {
        let since = self.since.map(|since| {
            let since = i64::try_from(since.as_micros()).unwrap_or(i64::MAX);
            Micros(quantity::now().0.saturating_sub(since).max(0))
        });
        let query = AuditQuery {
            from: self.from.or(since),
            to: self.to,
            event_type: self.kind,
            user_id: self.user,
            resource: self.resource,
            limit: Some(self.limit),
            offset: None,
            after: self.after,
            order: Some(if self.oldest_first { AuditOrder::Asc } else { AuditOrder::Desc }),
        };
        let page = self.server.session(config)?.client.audit_events(&query).await?;
        if self.json {
            terminal::print_json(&page)?;
            return Ok(Exit::Success);
        }
        let mut table = terminal::table(["NUMBER", "TIME", "TYPE", "ACTION", "USER", "RESOURCE", "FROM", "DONE"]);
        for event in &page.events {
            table.add_row(row(event));
        }
        terminal::print_table(&table)?;
        if let Some(last) = page.events.last().filter(|_| page.total > page.events.len() as i64) {
            let number = last.sequence_num;
            terminal::say_aside(&format!("{} events in all; --after {number} shows what follows", page.total));
        }
        Ok(Exit::Success)
    }
}

fn row(event: &AuditEvent) -> Vec<Cell> {
    let done = match (&event.error, event.success) {
        (_, true) => "yes".to_owned(),
        (Some(error), false) => format!("no: {}", terminal::plain(error)),
        (None, false) => "no".to_owned(),
    };
    vec![
        terminal::number(event.sequence_num),
        Cell::new(quantity::show_time(event.timestamp)),
        Cell::new(event.event_type),
        Cell::new(terminal::plain(&event.action)),
        Cell::new(terminal::plain(&event.user_id)),
        Cell::new(terminal::plain(&event.resource)),
        Cell::new(event.ip_address.as_deref().map_or_else(|| "-".into(), terminal::plain)),
        Cell::new(done),
    ]
}

impl Verify {
    async fn run(self, config: Option<&Path>) -> anyhow::Result<Exit> {
        let client = self.server.session(config)?.client;
        let mut told = 0;
        let shows = !self.json && terminal::stderr_is_terminal();
        let result = client
            .audit_verify(|progress| {
                let percent = progress.checked_events * 100 / progress.total_events.max(1);
                if shows && percent > told {
                    told = percent;
                    terminal::say_aside(&format!("{percent} % of {} events", progress.total_events));
                }
            })
            .await?;
        let exit = if result.valid { Exit::Success } else { Exit::DIFFERENT };
        if self.json {
            terminal::print_json(&result)?;
            return Ok(exit);
        }
        match result.first_tampered {
            None => {
                terminal::print(&format!("the log verifies: {} events, none was changed", result.total_events))?;
                terminal::print(&format!("the last one's hash is {}", result.chain_root_hash))?;
            }
            Some(first) => {
                terminal::print(&format!(
                    "the log does not verify: event {first} of {} is the first that is not proven unchanged",
                    result.total_events
                ))?;
                terminal::say_hint(&format!(
                    "`fetchml audit events --oldest-first --after {}` shows what stands there",
                    first.saturating_sub(1)
                ));
            }
        }
        Ok(exit)
    }
}

impl Root {
    async fn run(self, config: Option<&Path>) -> anyhow::Result<Exit> {
        let root = self.server.session(config)?.client.audit_root().await?;
        if self.json {
            terminal::print_json(&root)?;
            return Ok(Exit::Success);
        }
        terminal::print(&format!("{} events in log {} at {}", root.total_events, root.log_id, root.timestamp))?;
        terminal::print(&root.root_hash)?;
        Ok(Exit::Success)
    }
}
