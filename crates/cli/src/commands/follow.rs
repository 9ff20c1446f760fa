//! Following a task: its states on stderr, its log on stdout, a summary at the end.

use super::{show, tasks::run_time};
use crate::{failure::Exit, limits, quantity, terminal};
use fetchml_api::{AttemptId, Task, TaskId, TaskStatus};
use fetchml_client::{Client, LogEvent, LogQuery};
use futures_util::StreamExt as _;
use std::io::{self, Write as _};
use tokio::time::{Instant, sleep_until};

/// Follows a task that was just submitted, with a summary; as JSON nothing but what it is at its end.
pub(super) async fn to_the_end(client: &Client, task: &Task, json: bool) -> anyhow::Result<Exit> {
    if json {
        let ended = client.wait(task.id, |_| {}).await?;
        terminal::print_json(&ended)?;
        return Ok(Exit::of(&ended));
    }
    terminal::say(&format!("task {} ({})", task.id, task.job_name));
    let (exit, ended) = follow(client, task.id).await?;
    if let Some(ended) = ended {
        say_summary(client, &ended).await;
    }
    Ok(exit)
}

/// Follows a task to its end, or until Ctrl-C, which leaves it running.
pub(super) async fn follow(client: &Client, id: TaskId) -> anyhow::Result<(Exit, Option<Task>)> {
    tokio::select! {
        ended = states_and_log(client, id) => {
            let ended = ended?;
            Ok((Exit::of(&ended), Some(ended)))
        }
        _ = tokio::signal::ctrl_c() => {
            terminal::say("");
            terminal::say(&format!("task {id} goes on"));
            terminal::say_hint(&format!("`fetchml logs -f {id}` follows it again, `fetchml cancel {id}` stops it"));
            Ok((Exit::Interrupted, None))
        }
    }
}

async fn states_and_log(client: &Client, id: TaskId) -> anyhow::Result<Task> {
    let states = client.wait(id, say_state);
    let mut log = LogPrinter::new(client, id, LogQuery::default());
    tokio::pin!(states);
    let mut ended: Option<Task> = None;
    let mut log_over = false;
    loop {
        if let Some(task) = ended.take_if(|_| log_over) {
            return Ok(task);
        }
        // The log of an ended task ends by itself; a server that forgets to say so must not hang us.
        let silence = log.last_event + limits::LOG_END_SILENCE;
        tokio::select! {
            biased;
            more = log.next(), if !log_over => log_over = !more?,
            task = &mut states, if ended.is_none() => {
                ended = Some(task?);
                log.last_event = Instant::now();
            }
            () = sleep_until(silence), if ended.is_some() => {
                terminal::say_warning(&format!("the end of the log did not arrive; `fetchml logs {id}` reads all of it"));
                log_over = true;
            }
        }
    }
}

/// Writes a followed log to stdout.
pub(super) struct LogPrinter {
    events: futures_util::stream::BoxStream<'static, Result<LogEvent, fetchml_client::ClientError>>,
    /// When something last arrived.
    last_event: Instant,
    attempt: Option<AttemptId>,
    reconnecting: bool,
}

impl LogPrinter {
    pub(super) fn new(client: &Client, id: TaskId, query: LogQuery) -> Self {
        let events = client.logs_follow(id, query).boxed();
        Self { events, last_event: Instant::now(), attempt: None, reconnecting: false }
    }

    /// Handles the next event; false after the last.
    pub(super) async fn next(&mut self) -> anyhow::Result<bool> {
        let Some(event) = self.events.next().await else { return Ok(false) };
        self.last_event = Instant::now();
        match event? {
            LogEvent::Chunk(chunk) => {
                self.on_attempt(chunk.attempt, None);
                self.on_connected();
                let mut stdout = io::stdout().lock();
                stdout.write_all(chunk.text.as_bytes())?;
                stdout.flush()?;
            }
            LogEvent::Attempt { attempt, number } => {
                self.on_attempt(attempt, number);
                self.on_connected();
            }
            LogEvent::Reconnecting { reason, .. } => {
                if !std::mem::replace(&mut self.reconnecting, true) {
                    terminal::say_warning(&format!("{reason}; waiting for it to come back"));
                }
            }
            LogEvent::End { .. } => return Ok(false),
        }
        Ok(true)
    }

    fn on_attempt(&mut self, attempt: AttemptId, number: Option<u32>) {
        let before = self.attempt.replace(attempt);
        if before.is_some_and(|before| before != attempt) {
            let number = number.map_or_else(|| attempt.to_string(), |number| number.to_string());
            terminal::say_aside(&format!("--- attempt {number} ---"));
        }
    }

    fn on_connected(&mut self) {
        if std::mem::take(&mut self.reconnecting) {
            terminal::say_aside("connected again");
        }
    }
}

/// One line about a task's state.
pub(super) fn say_state(task: &Task) {
    let mut text = task.status.as_str().to_owned();
    match task.status {
        TaskStatus::Queued if task.retry_count + task.requeue_count > 0 => {
            let why = task.error.as_deref().map(|error| format!(": {}", terminal::plain(error))).unwrap_or_default();
            text = format!("queued again (attempt {}){why}", task.retry_count + task.requeue_count + 1);
        }
        TaskStatus::Completed | TaskStatus::Failed => return,
        TaskStatus::Queued | TaskStatus::Preparing | TaskStatus::Running | TaskStatus::Collecting => {}
    }
    terminal::say_aside(&format!("[{}] {text}", clock()));
}

fn clock() -> String {
    jiff::Timestamp::now().to_zoned_datetime(jiff::tz::TimeZone::system()).strftime("%H:%M:%S").to_string()
}

/// How a task ended, on stderr.
pub(super) async fn say_summary(client: &Client, task: &Task) {
    let took =
        run_time(task, quantity::now()).map_or_else(String::new, |t| format!(" after {}", quantity::show_micros(t)));
    let name = &task.job_name;
    if task.status == TaskStatus::Completed {
        terminal::say(&format!("{name} completed{took}"));
    } else {
        let cancelled = Exit::of(task) == Exit::TaskCancelled;
        let cause = task
            .failure
            .as_ref()
            .filter(|_| !cancelled)
            .map(|failure| format!(" ({})", show::cause(failure)))
            .unwrap_or_default();
        let word = if cancelled { "was cancelled" } else { "failed" };
        terminal::say_error(&format!("{name} {word}{took}{cause}"));
        if let Some(error) = &task.error {
            terminal::say(&terminal::plain(error));
        }
        if let Some(hint) = show::hint(task) {
            terminal::say_hint(&hint);
        }
    }
    // The outcome is told; a failure to list the files is not worth another exit code.
    match client.artifacts(task.id).await {
        Ok(list) if !list.artifacts.is_empty() => {
            let bytes: u64 = list.artifacts.iter().map(|artifact| artifact.size_bytes).sum();
            terminal::say(&format!("{}, {}:", files(list.artifacts.len()), quantity::show_bytes(bytes)));
            for artifact in list.artifacts.iter().take(SUMMARY_ARTIFACTS) {
                terminal::say(&format!("  {}  {}", artifact.path, quantity::show_bytes(artifact.size_bytes)));
            }
            if list.artifacts.len() > SUMMARY_ARTIFACTS {
                terminal::say(&format!("  and {} more", list.artifacts.len() - SUMMARY_ARTIFACTS));
            }
            terminal::say_hint(&format!("`fetchml artifacts get {}` downloads them", task.id));
        }
        Ok(_) => {}
        Err(error) => terminal::say_warning(&format!("the list of artifacts could not be had: {error}")),
    }
}

/// Files named in a summary.
const SUMMARY_ARTIFACTS: usize = 10;

fn files(count: usize) -> String {
    if count == 1 { "1 artifact".into() } else { format!("{count} artifacts") }
}
