//! `fetchml tasks`.

use super::{arrays, submit};
use crate::{
    failure::Exit,
    quantity,
    session::{ServerFlags, Session},
    terminal,
};
use clap::Args;
use comfy_table::Cell;
use fetchml_api::{Micros, Task, TaskArray, TaskListQuery, TaskStatus, Worker, WorkerId};
use std::{path::Path, time::Duration};

/// List tasks, newest first
#[derive(Args, Debug)]
#[command(
    before_long_help = "Examples:\n  fetchml tasks\n  fetchml tasks --status running --user ada\n  fetchml tasks --since 1d --meta model=resnet50"
)]
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
    /// Only tasks of this experiment: its name or id
    #[arg(long, value_name = "NAME")]
    experiment: Option<String>,
    /// Only tasks with this label; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = submit::parse_pair)]
    meta: Vec<(String, String)>,
    /// Only tasks that were submitted within this time, such as 90m, 12h or 7d
    #[arg(long, value_name = "TIME", value_parser = quantity::parse_timeout)]
    since: Option<Duration>,
    /// Only tasks of this array, each of them
    #[arg(long, value_name = "ID")]
    array: Option<String>,
    /// Number of lines, at most 1000; an array is one
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
            experiment_id: match &self.experiment {
                Some(text) => Some(super::experiments::find(&session, text).await?.id),
                None => None,
            },
            metadata: submit::to_map("--meta", &self.meta)?,
            created_after: self.since.map(|since| {
                let since = i64::try_from(since.as_micros()).unwrap_or(i64::MAX);
                Micros(quantity::now().0.saturating_sub(since).max(0))
            }),
            array_id: match &self.array {
                Some(text) => Some(session.task_id(text).await?),
                None => None,
            },
            ..Default::default()
        };
        if self.json {
            terminal::print_json(&session.client.tasks(&query).await?)?;
            return Ok(Exit::Success);
        }
        let list = Listing::read(&session, &query).await?;
        // Names of workers are a courtesy: the list is worth showing without them.
        let workers = session.client.workers().await.unwrap_or_default();
        let mut table = terminal::table(["ID", "STATUS", "NAME", "USER", "PRIORITY", "AGE", "RUN TIME", "WORKER"]);
        let now = quantity::now();
        for line in &list.lines {
            table.add_row(match line {
                Line::Task(task) => row(task, &workers, now),
                Line::Array(array) => array_row(array, now),
            });
        }
        terminal::print_table(&table)?;
        if list.has_more {
            terminal::say_aside(&format!("{} tasks in all; --limit shows more", list.total));
        }
        let all = TaskListQuery { limit: query.limit, ..Default::default() };
        if list.total == 0 && query == all {
            terminal::say_hint("nothing was submitted yet: `fetchml submit --follow train.py` runs a script");
        }
        Ok(Exit::Success)
    }
}

/// What a line of the list is about.
enum Line {
    Task(Box<Task>),
    Array(TaskArray),
}

/// The list, each array being one line of it.
struct Listing {
    lines: Vec<Line>,
    total: i64,
    has_more: bool,
}

impl Listing {
    /// The tasks of an array have ids that follow one another: behind the first of them the list goes on.
    async fn read(session: &Session, query: &TaskListQuery) -> anyhow::Result<Self> {
        let most = query.limit.unwrap_or_default();
        let (mut lines, mut total, mut after) = (Vec::new(), None, None);
        loop {
            let left = most - lines.len() as i64;
            let page = session.client.tasks(&TaskListQuery { limit: Some(left), after, ..query.clone() }).await?;
            let total = *total.get_or_insert(page.total);
            let is_last = (page.tasks.len() as i64) < left;
            let mut skips = false;
            for task in page.tasks {
                after = Some(task.id);
                match task.array_id.filter(|_| query.array_id.is_none()) {
                    None => lines.push(Line::Task(Box::new(task))),
                    Some(id) => {
                        // Gone only when it was deleted just now.
                        let Some(array) = session.client.array(id).await? else { continue };
                        after = Some(array.first_task);
                        lines.push(Line::Array(array));
                        skips = true;
                        break;
                    }
                }
            }
            let is_full = lines.len() as i64 >= most;
            if is_full || (is_last && !skips) {
                return Ok(Self { lines, total, has_more: is_full && !is_last });
            }
        }
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

fn array_row(array: &TaskArray, now: Micros) -> Vec<Cell> {
    let dash = || Cell::new("-");
    vec![
        Cell::new(array.id),
        Cell::new(arrays::counts(array)),
        Cell::new(format!("{} [{}]", array.job_name, array.count)),
        Cell::new(&array.user_id),
        dash(),
        Cell::new(quantity::show_micros(now.since(array.created_at))),
        dash(),
        dash(),
    ]
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
        Cell::new(match task.array_index {
            Some(index) => format!("{} [{index}]", task.job_name),
            None => task.job_name.clone(),
        }),
        Cell::new(&task.user_id),
        Cell::new(priority),
        Cell::new(quantity::show_micros(now.since(task.created_at))),
        Cell::new(dash(run_time(task, now).map(quantity::show_micros))),
        Cell::new(dash(worker_name(task, workers))),
    ]
}
