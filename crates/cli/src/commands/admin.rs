//! `fetchml admin`.

use crate::{failure::Exit, quantity, session::ServerFlags, terminal};
use clap::{Args, Subcommand};
use comfy_table::Cell;
use fetchml_api::{GcKind, GcReport, GcState};
use fetchml_client::Client;
use std::{fmt::Write as _, path::Path, time::Duration};

/// Look after the server (admins only)
#[derive(Args, Debug)]
#[command(before_long_help = "Example:\n  fetchml admin gc --dry-run")]
pub(crate) struct Admin {
    #[command(subcommand)]
    command: AdminCommand,
}

#[derive(Subcommand, Debug)]
enum AdminCommand {
    Gc(Gc),
}

/// Delete what is not needed any more: files of tasks that ended long ago, and what nothing refers to
///
/// The server does this by itself every hour. What a task that has not ended needs is never deleted.
#[derive(Args, Debug)]
#[command(before_long_help = "Examples:\n  fetchml admin gc --dry-run   what would be deleted, and whose it is\n  \
    fetchml admin gc             delete it now")]
struct Gc {
    /// Delete nothing, only say what would be deleted
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerFlags,
}

/// Pause between two looks at a collection that takes long.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Users shown.
const USERS_SHOWN: usize = 10;

impl Admin {
    pub(super) async fn run(self, config: Option<&Path>) -> anyhow::Result<Exit> {
        match self.command {
            AdminCommand::Gc(command) => command.run(config).await,
        }
    }
}

impl Gc {
    async fn run(self, config: Option<&Path>) -> anyhow::Result<Exit> {
        let client = self.server.session(config)?.client;
        let report = to_its_end(&client, client.gc(self.dry_run).await?).await?;
        let exit = if report.state == GcState::Finished { Exit::Success } else { Exit::Error };
        if self.json {
            terminal::print_json(&report)?;
            return Ok(exit);
        }
        show(&report)?;
        Ok(exit)
    }
}

/// Waits for a collection that takes longer than an answer.
async fn to_its_end(client: &Client, mut report: GcReport) -> anyhow::Result<GcReport> {
    if report.state == GcState::Running {
        terminal::say_aside("it takes a while; the server goes on with it if this command is stopped");
    }
    while report.state == GcState::Running {
        tokio::time::sleep(LOOK_EVERY).await;
        match client.gc_status().await?.last {
            Some(last) if last.started_at == report.started_at => report = last,
            // The server was started again, or another collection has begun since.
            _ => report.state = GcState::Stopped,
        }
    }
    Ok(report)
}

fn show(report: &GcReport) -> anyhow::Result<()> {
    let mut table = terminal::table(["KIND", "COUNT", "SIZE", "WHAT"]);
    let some = report.removed.iter().filter(|count| count.count > 0);
    for count in some.clone() {
        let size = if count.kind == GcKind::Tasks { "-".into() } else { quantity::show_bytes(count.bytes) };
        table.add_row([
            Cell::new(count.kind.as_str()),
            terminal::number(count.count),
            terminal::number(size),
            Cell::new(meaning(count.kind)),
        ]);
    }
    if some.count() > 0 {
        terminal::print_table(&table)?;
    }
    if !report.users.is_empty() {
        let mut table = terminal::table(["USER", "TASKS", "SIZE"]);
        for user in report.users.iter().take(USERS_SHOWN) {
            let size = terminal::number(quantity::show_bytes(user.bytes));
            table.add_row([Cell::new(terminal::plain(&user.user_id)), terminal::number(user.tasks), size]);
        }
        terminal::print("")?;
        terminal::print_table(&table)?;
    }
    say_sum(report);
    Ok(())
}

fn say_sum(report: &GcReport) {
    let freed = quantity::show_bytes(report.freed_bytes);
    let nothing = report.removed.iter().all(|count| count.count == 0);
    let text = match (nothing, report.dry_run) {
        (true, true) => "nothing would be deleted".to_owned(),
        (true, false) => "nothing was to be deleted".to_owned(),
        (false, true) => format!("{freed} of the disk would be free again"),
        (false, false) => format!("{freed} of the disk are free again"),
    };
    let oldest = report.oldest.map(|at| format!("; the oldest task ended on {}", quantity::show_time(at)));
    terminal::say(&(text + &oldest.unwrap_or_default()));
    if let Some(disk) = &report.disk {
        let used = quantity::show_bytes(disk.total_bytes.saturating_sub(disk.free_bytes));
        let total = quantity::show_bytes(disk.total_bytes);
        terminal::say(&format!("the disk was {} % full before: {used} of {total}", disk.used_percent));
    }
    terminal::say_aside(&rules(report));
    for problem in &report.problems {
        terminal::say_warning(&terminal::plain(problem));
    }
    if report.state != GcState::Finished {
        terminal::say_warning("it ended early; the next collection goes on from there");
    } else if report.dry_run && !nothing {
        terminal::say_hint("`fetchml admin gc` deletes it now; the server does so by itself within the hour");
    }
}

/// The rules in a line.
fn rules(report: &GcReport) -> String {
    let rules = &report.rules;
    let kept = |days| match days {
        0 => "for ever".to_owned(),
        1 => "1 day".to_owned(),
        days => format!("{days} days"),
    };
    let mut text = format!(
        "kept: files of ended tasks {}, ended tasks {}, files of deleted tasks {}",
        kept(rules.retention_days),
        kept(rules.task_retention_days),
        match rules.deleted_retention_days {
            0 => "not at all".to_owned(),
            days => kept(days),
        }
    );
    if rules.disk_high_percent < 100 {
        let _ = write!(
            text,
            "; above {} % of the disk the oldest files go sooner, until it is {} % full",
            rules.disk_high_percent, rules.disk_low_percent
        );
    }
    text
}

const fn meaning(kind: GcKind) -> &'static str {
    match kind {
        GcKind::Tasks => "ended tasks, with all that is known of them",
        GcKind::Logs => "what ended tasks printed",
        GcKind::Metrics => "what ended tasks measured, and what they used",
        GcKind::Artifacts => "files that ended tasks left",
        GcKind::Checkpoints => "files that ended tasks could have gone on from",
        GcKind::Snapshots => "code that no task names any more",
        GcKind::Blobs => "stored files that nothing refers to any more: the disk space of the lines above",
        GcKind::Uploads => "uploads that broke off",
    }
}
