//! Arrays where commands take the id of a task or of an array.

use crate::{failure::Exit, quantity, session::Session, terminal};
use fetchml_api::{TaskArray, TaskId};
use fetchml_client::ClientError;
use std::fmt::Write as _;

/// The array with this id, when it is not a task's: `error` is what was answered when asked for the task.
pub(super) async fn instead(session: &Session, id: TaskId, error: ClientError) -> anyhow::Result<TaskArray> {
    if !matches!(error, ClientError::Api { status: 404, .. }) {
        return Err(error.into());
    }
    match session.client.array(id).await? {
        Some(array) => Ok(array),
        None => Err(error.into()),
    }
}

/// What `fetchml show` says of an array.
pub(super) fn details(array: &TaskArray) -> String {
    let mut lines = vec![
        ("id", array.id.to_string()),
        ("name", array.job_name.clone()),
        ("array of", format!("{} tasks", array.count)),
        ("user", array.user_id.clone()),
        ("submitted", quantity::show_time(array.created_at)),
        ("tasks", counts(array)),
    ];
    lines.extend(array.max_running.map(|most| ("at once", format!("at most {most}"))));
    lines.into_iter().fold(String::new(), |mut text, (name, value)| {
        let _ = writeln!(text, "{name:<12} {value}");
        text
    })
}

/// How its tasks are, in words.
pub(super) fn counts(array: &TaskArray) -> String {
    let counts = [
        (array.queued, "queued"),
        (array.preparing, "preparing"),
        (array.running, "running"),
        (array.collecting, "collecting"),
        (array.completed, "completed"),
        (array.failed, "failed"),
    ];
    let there = counts.into_iter().filter(|(count, _)| *count > 0);
    there.map(|(count, status)| format!("{count} {status}")).collect::<Vec<_>>().join(", ")
}

/// Waits until every task of an array has ended.
pub(super) async fn wait(session: &Session, mut array: TaskArray) -> anyhow::Result<TaskArray> {
    let mut said = String::new();
    loop {
        let now = counts(&array);
        if now != said {
            terminal::say_aside(&now);
            said = now;
        }
        if array.is_over() {
            return Ok(array);
        }
        tokio::time::sleep(crate::limits::ARRAY_LOOK_EVERY).await;
        match session.client.array(array.id).await {
            Ok(Some(next)) => array = next,
            Ok(None) => anyhow::bail!("array {} was deleted meanwhile", array.id),
            // A server that restarts is waited for.
            Err(error) if error.is_transient() => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The code that tells how an ended array ended.
pub(super) const fn exit(array: &TaskArray) -> Exit {
    if array.failed > 0 { Exit::TaskFailed } else { Exit::Success }
}
