//! `fetchml show`.

use super::arrays;
use super::tasks::{name_of, run_time, worker_name};
use crate::{failure::Exit, quantity, session::ServerFlags, terminal};
use clap::Args;
use fetchml_api::{
    DatasetSpec, DependencyOn, Failure, FailureCause, LogAction, LogRuleMatch, Notify, NotifyOn, Task, TaskArray,
    TaskStatus, Worker,
};
use std::{fmt::Write as _, path::Path};

/// Show one task or array: what it is, how it goes, why it failed
#[derive(Args, Debug)]
#[command(before_long_help = "Examples:\n  fetchml show @last\n  fetchml show 0193e4a1-77c2-7000-8000-5c1fd1b0a001")]
pub(crate) struct Show {
    /// Id, the beginning or end of one, or @last
    id: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerFlags,
}

impl Show {
    pub(super) async fn run(self, config: Option<&Path>) -> anyhow::Result<Exit> {
        let session = self.server.session(config)?;
        let id = session.task_id(&self.id).await?;
        let task = match session.client.task(id).await {
            Ok(task) => task,
            Err(error) => return show_array(&arrays::instead(&session, id, error).await?, self.json),
        };
        if self.json {
            terminal::print_json(&task)?;
            return Ok(Exit::Success);
        }
        let workers = session.client.workers().await.unwrap_or_default();
        terminal::print(&details(&task, &workers))?;
        if let Some(hint) = hint(&task) {
            terminal::say_hint(&hint);
        }
        Ok(Exit::Success)
    }
}

fn show_array(array: &TaskArray, json: bool) -> anyhow::Result<Exit> {
    if json {
        terminal::print_json(array)?;
    } else {
        terminal::print(&arrays::details(array))?;
        terminal::say_hint(&format!("`fetchml tasks --array {}` lists its tasks", array.id));
    }
    Ok(Exit::Success)
}

/// The last lines of the log shown with a task.
const LOG_LINES: usize = 10;

fn details(task: &Task, workers: &[Worker]) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            let _ = writeln!(text, "{name:<12} {value}");
        }
    };
    let now = quantity::now();
    line("id", Some(task.id.to_string()));
    line("name", Some(task.job_name.clone()));
    line("status", Some(task.status.as_str().into()));
    line("why", task.error.as_deref().map(terminal::plain));
    line("cause", task.failure.as_ref().map(cause));
    line("rule", task.failure.as_ref().and_then(|failure| failure.log_rule.as_ref()).map(rule));
    line("command", Some(command(task)).filter(|command| !command.is_empty()));
    line("user", Some(task.user_id.clone()));
    line("priority", Some(format!("{} ({:.1} with aging)", task.priority, task.priority_aged)));
    line("resources", Some(resources(task)));
    line("time limit", task.time_limit_s.map(|seconds| quantity::show_micros(seconds.saturating_mul(1_000_000))));
    line("image", task.image.clone());
    line("network", (!task.network.is_default()).then(|| "none".to_owned()));
    line("stalled after", task.stall_after_s.map(|s| format!("{s} s without a word")));
    line("when lost", (!task.on_lost.is_default()).then(|| "kept".to_owned()));
    line("resumed from", task.resume_from.map(|id| id.to_string()));
    line("experiment", task.experiment_id.map(|id| id.to_string()));
    line("reservation", task.reservation_id.map(|id| id.to_string()));
    let array = task.array_id.map(|id| format!("index {} of {id}", task.array_index.unwrap_or_default()));
    line("array", array);
    line("mail", task.notify.as_ref().map(mail));
    for need in &task.depends_on {
        let any = if need.on == DependencyOn::Any { ", however it ends" } else { "" };
        line("after", Some(format!("{}{any}", need.id)));
    }
    line("snapshot", task.snapshot_id.clone());
    for set in &task.dataset_specs {
        line("data set", Some(dataset(set)));
    }
    line("submitted", Some(quantity::show_time(task.created_at)));
    line("started", task.started_at.map(quantity::show_time));
    line("ended", task.ended_at.map(quantity::show_time));
    line("files", task.files_deleted.map(|deleted| deleted.sentence("were", task.ended_at)));
    line("run time", run_time(task, now).map(quantity::show_micros));
    line("worker", worker_name(task, workers));
    let excluded = task.excluded_workers.iter().map(|id| name_of(*id, workers)).collect::<Vec<_>>().join(", ");
    line("kept off", Some(excluded).filter(|excluded| !excluded.is_empty()));
    line("attempt", task.attempt_id.map(|id| id.to_string()));
    let restarts = task.retry_count > 0 || task.max_retries > 0 || task.requeue_count > 0;
    let retries = format!("{} of {} retries, {} free restarts", task.retry_count, task.max_retries, task.requeue_count);
    line("restarts", restarts.then_some(retries));
    for (name, value) in &task.env {
        line("env", Some(terminal::plain(&format!("{name}={value}"))));
    }
    for (name, value) in &task.metadata {
        line("metadata", Some(terminal::plain(&format!("{name}={value}"))));
    }
    if let Some(output) = task.output.as_deref().filter(|output| !output.trim().is_empty()) {
        let lines: Vec<&str> = output.lines().collect();
        let _ = writeln!(text, "\nend of the log:");
        for line in &lines[lines.len().saturating_sub(LOG_LINES)..] {
            let _ = writeln!(text, "  {}", terminal::plain(line));
        }
    }
    text
}

fn command(task: &Task) -> String {
    let words: Vec<&str> = [&task.entrypoint, &task.args].into_iter().flatten().map(String::as_str).collect();
    terminal::plain(&words.join(" "))
}

fn dataset(set: &DatasetSpec) -> String {
    let part = |part: &Option<String>| part.as_deref().map(terminal::plain).unwrap_or_default();
    let mount = set.mount_path.as_ref().map(|path| format!(" at {}", terminal::plain(path))).unwrap_or_default();
    format!("{} from {}{mount}", part(&set.name), part(&set.source))
}

fn mail(notify: &Notify) -> String {
    let words = NotifyOn::WORDS.iter().filter(|(_, event)| notify.on.contains(event)).map(|(word, _)| *word);
    format!("{} when {}", terminal::plain(&notify.email), words.collect::<Vec<_>>().join(", "))
}

fn resources(task: &Task) -> String {
    let mut text = format!("{} cpu", task.cpu);
    if task.memory_gb > 0 {
        let _ = write!(text, ", {} GiB", task.memory_gb);
    }
    if task.gpu > 0 {
        let kind = task.gpu_type.as_ref().map(|kind| format!(" {kind}")).unwrap_or_default();
        let _ = write!(text, ", {}{kind} gpu", task.gpu);
    }
    text
}

/// The cause in words.
pub(super) fn cause(failure: &Failure) -> String {
    let mut text = failure.cause.as_str().to_owned();
    if let Some(code) = failure.exit_code {
        let _ = write!(text, ", exit code {code}");
    }
    if let Some(signal) = failure.signal {
        let _ = write!(text, ", signal {signal}");
    }
    text
}

/// The rule that its log matched, and what that did.
fn rule(rule: &LogRuleMatch) -> String {
    let does = match rule.action {
        Some(LogAction::DoNotRetry) => "; not retried",
        Some(LogAction::ExcludeWorker) => "; not on that worker again",
        None => "",
    };
    format!("its log matched {:?}{does}", rule.pattern)
}

/// What to try after this outcome.
pub(super) fn hint(task: &Task) -> Option<String> {
    use FailureCause as C;
    let id = task.id;
    if task.blocked {
        let why = if task.depends_on.is_empty() {
            "as many tasks of its array run as may"
        } else {
            "what it depends on has not ended"
        };
        return Some(format!("{why}; its priority does not age meanwhile"));
    }
    if task.status == TaskStatus::Queued {
        return Some("`fetchml workers` shows who could take it, `fetchml queue` what else waits".into());
    }
    let hint = match task.failure.as_ref()?.cause {
        C::ExitNonzero | C::Signal => format!("`fetchml logs {id}` shows the whole log"),
        C::OomHost => "ask for more with --memory, or use smaller batches".into(),
        C::OomGpu => "use smaller batches, or a GPU with more memory (--gpu-type)".into(),
        C::Timeout => "submit it again with a longer --time-limit, or none".into(),
        C::Environment => {
            format!(
                "check requirements.txt, pyproject.toml or uv.lock; `fetchml logs {id}` shows what the installer said"
            )
        }
        C::Secret => "`fetchml secrets ls` lists yours; set what is missing and submit it again".into(),
        C::Lost | C::Launch => "`fetchml workers` shows how the worker is; submit it again".into(),
        C::Dataset => format!("`fetchml logs {id}` shows how far it came; `fetchml datasets ls` what is registered"),
        C::Stalled | C::Plugin | C::Image | C::Snapshot | C::Cancelled | C::Dependency | C::Quota | C::Preempted => {
            return None;
        }
    };
    Some(hint)
}
