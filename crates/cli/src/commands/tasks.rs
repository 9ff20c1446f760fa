//! `fetchml tasks`.

use crate::{failure::Exit, quantity, session::ServerFlags, terminal};
use clap::Args;
use comfy_table::Cell;
use fetchml_api::{Micros, Task, TaskListQuery, TaskStatus, Worker, WorkerId};
use std::path::Path;

/// List tasks, newest first
#[derive(Args, Debug)]
#[command(before_long_help = "Examples:\n  fetchml tasks\n  fetchml tasks --status running --user ada")]
pub(crate) struct Tasks {
    /// Only tasks in this state: queued, preparing, running, collecting, completed or failed
    #[arg(long)]
    status: Option<TaskStatus>,
    /// Only tasks of this user
    #[arg(long)]
    user: Option<String>,
    /// Only tasks with this name
    #[arg(long)]
    name: Option<String>,
    /// Number of tasks, at most 1000
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(i64).range(0..=fetchml_api::limits::LIST_LIMIT_MAX))]
    limit: i64,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerFlags,
}

impl Tasks {
    pub(super) async fn run(self, config: Option<&Path>) -> anyhow::Result<Exit> {
        let session = self.server.session(config)?;
        let query = TaskListQuery {
            status: self.status,
            limit: Some(self.limit),
            user_id: self.user,
            job_name: self.name,
            ..Default::default()
        };
        let list = session.client.tasks(&query).await?;
        if self.json {
            terminal::print_json(&list)?;
            return Ok(Exit::Success);
        }
        // Names of workers are a courtesy: the list is worth showing without them.
        let workers = session.client.workers().await.unwrap_or_default();
        let mut table = terminal::table(["ID", "STATUS", "NAME", "USER", "PRIORITY", "AGE", "RUN TIME", "WORKER"]);
        let now = quantity::now();
        for task in &list.tasks {
            table.add_row(row(task, &workers, now));
        }
        terminal::print_table(&table)?;
        let shown = list.tasks.len() as i64;
        if list.total > shown {
            terminal::say_aside(&format!("{shown} of {} tasks; --limit shows more", list.total));
        }
        if list.total == 0 && query.status.is_none() && query.user_id.is_none() && query.job_name.is_none() {
            terminal::say_hint("nothing was submitted yet: `fetchml submit --follow train.py` runs a script");
        }
        Ok(Exit::Success)
    }
}

/// How long user code ran, or runs by now.
pub(super) fn run_time(task: &Task, now: Micros) -> Option<i64> {
    Some(task.ended_at.unwrap_or(now).since(task.started_at?))
}

/// The name of a task's worker, or its id.
pub(super) fn worker_name(task: &Task, workers: &[Worker]) -> Option<String> {
    task.worker_id.map(|id| name_of(id, workers))
}

/// The name of a worker, or its id.
pub(super) fn name_of(id: WorkerId, workers: &[Worker]) -> String {
    let named = workers.iter().find(|worker| worker.id == id);
    named.map_or_else(|| id.to_string(), |worker| terminal::plain(&worker.name))
}

fn row(task: &Task, workers: &[Worker], now: Micros) -> Vec<Cell> {
    let dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
    let aged = task.priority_aged - f64::from(task.priority);
    let priority = if aged >= 0.1 && task.status == TaskStatus::Queued {
        format!("{} ({:.1})", task.priority, task.priority_aged)
    } else {
        task.priority.to_string()
    };
    vec![
        Cell::new(task.id),
        terminal::status(task.status),
        Cell::new(&task.job_name),
        Cell::new(&task.user_id),
        Cell::new(priority),
        Cell::new(quantity::show_micros(now.since(task.created_at))),
        Cell::new(dash(run_time(task, now).map(quantity::show_micros))),
        Cell::new(dash(worker_name(task, workers))),
    ]
}
