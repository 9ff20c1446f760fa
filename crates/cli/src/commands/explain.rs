//! `fetchml explain`.

use crate::{failure::Exit, quantity, session::ServerFlags, terminal};
use clap::Args;
use comfy_table::Cell;
use fetchml_api::{EstimateBasis, Explanation, WorkerGroup};
use std::{fmt::Write as _, path::Path};

/// Say why a task has not started, and what would let it start
#[derive(Args, Debug)]
#[command(before_long_help = "Example:\n  fetchml explain @last")]
pub(crate) struct Explain {
    /// Id, the beginning or end of one, or @last
    task: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerFlags,
}

impl Explain {
    pub(super) async fn run(self, config: Option<&Path>) -> anyhow::Result<Exit> {
        let session = self.server.session(config)?;
        let id = session.task_id(&self.task).await?;
        let explanation = session.client.explain(id).await?;
        if self.json {
            terminal::print_json(&explanation)?;
        } else {
            terminal::print(&text(&explanation))?;
        }
        Ok(Exit::Success)
    }
}

/// The reason first, then what helps, then every worker.
pub(super) fn text(explanation: &Explanation) -> String {
    let mut text = format!("{}\n", terminal::plain(&explanation.summary));
    for need in &explanation.waits_for {
        let _ = writeln!(text, "  waits for  {need}");
    }
    if let Some(estimate) = explanation.estimated_start.filter(|estimate| estimate.at > quantity::now()) {
        let wait = quantity::show_micros(estimate.at.since(quantity::now()));
        let basis = match estimate.basis {
            EstimateBasis::Certain => "",
            EstimateBasis::TimeLimits => " at the latest, by the time limits of what runs",
            EstimateBasis::RunTimes => ", by how long tasks have run there lately",
        };
        let _ = write!(text, "\nlikely to start in {wait}{basis}\n");
    }
    if !explanation.changes.is_empty() {
        text += "\nwhat would help, the cheapest first:\n";
        for change in &explanation.changes {
            let _ = writeln!(text, "  {}", terminal::plain(&change.summary));
        }
    }
    if !explanation.workers.is_empty() {
        let mut table = terminal::table(["WORKERS", "NAMES", "WHAT THEY MEAN FOR IT"]);
        for group in &explanation.workers {
            table.add_row(row(group));
        }
        let _ = write!(text, "\n{}", terminal::table_text(&table));
    }
    text
}

fn row(group: &WorkerGroup) -> Vec<Cell> {
    let names: Vec<String> = group.workers.iter().map(|worker| terminal::plain(&worker.name)).collect();
    let more = if usize::try_from(group.count).is_ok_and(|count| count > names.len()) { ", ..." } else { "" };
    vec![terminal::number(group.count), Cell::new(names.join(", ") + more), Cell::new(terminal::plain(&group.summary))]
}
