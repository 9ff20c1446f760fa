//! `fetchml usage`.

use crate::{failure::Exit, session::ServerFlags, terminal};
use clap::Args;
use comfy_table::Cell;
use fetchml_api::{Experiment, Holding, Usage as Used};
use std::path::Path;

/// Show what was used, and what is held now: your own, for admins everybody's
#[derive(Args, Debug)]
#[command(before_long_help = "Examples:\n  fetchml usage\n  fetchml usage --user ada --json")]
pub(crate) struct Usage {
    /// Only this user
    #[arg(long)]
    user: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerFlags,
}

impl Usage {
    pub(super) async fn run(self, config: Option<&Path>) -> anyhow::Result<Exit> {
        let client = self.server.session(config)?.client;
        let report = client.usage(self.user.as_deref()).await?;
        if self.json {
            terminal::print_json(&report)?;
            return Ok(Exit::Success);
        }
        let mut table = terminal::table(["USER", "EXPERIMENT", "CPU HOURS", "GPU HOURS", "IDLE GPU HOURS", "IDLE"]);
        // Names of experiments are a courtesy: ids say as much.
        let experiments = client.experiments(None).await.unwrap_or_default();
        for used in &report.usage {
            table.add_row(row(used, &experiments));
        }
        terminal::print_table(&table)?;
        let mut table = terminal::table(["USER", "RUNNING", "WAITING", "GPUS", "SHARE"]);
        for holding in &report.holdings {
            table.add_row(holding_row(holding));
        }
        terminal::print("")?;
        terminal::print_table(&table)?;
        Ok(Exit::Success)
    }
}

fn row(used: &Used, experiments: &[Experiment]) -> Vec<Cell> {
    let experiment = used.experiment_id.as_deref().map_or("-", |id| {
        let known = experiments.iter().find(|experiment| experiment.id.to_string() == id);
        known.map_or(id, |experiment| experiment.name.as_str())
    });
    let idle = (used.gpu_seconds > 0.0).then(|| format!("{:.0} %", 100.0 * used.idle_gpu_seconds / used.gpu_seconds));
    vec![
        Cell::new(terminal::plain(&used.user_id)),
        Cell::new(terminal::plain(experiment)),
        terminal::number(hours(used.cpu_seconds)),
        terminal::number(hours(used.gpu_seconds)),
        terminal::number(hours(used.idle_gpu_seconds)),
        terminal::number(idle.unwrap_or_else(|| "-".to_owned())),
    ]
}

fn hours(seconds: f64) -> String {
    format!("{:.2}", seconds / 3_600.0)
}

/// What is held, each with the limit there is.
fn holding_row(holding: &Holding) -> Vec<Cell> {
    let of = |held: u64, limit: Option<u32>| match limit {
        Some(limit) => format!("{held} of {limit}"),
        None => held.to_string(),
    };
    vec![
        Cell::new(terminal::plain(&holding.user_id)),
        terminal::number(of(holding.tasks_running.into(), holding.quota.running)),
        terminal::number(of(holding.tasks_queued.into(), holding.quota.queued)),
        terminal::number(of(holding.gpus, holding.quota.gpus)),
        terminal::number(format!("{:.1} %", holding.share * 100.0)),
    ]
}
