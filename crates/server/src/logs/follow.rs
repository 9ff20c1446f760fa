//! Following a task's log through all its attempts: what has been written, then what is being
//! written, as server-sent events with ids that stay valid across restarts.

use super::{LogId, live::Mark};
use crate::{app::App, driver::TaskChanged, limits};
use axum::response::sse::Event;
use bytes::Bytes;
use fetchml_api::{AttemptId, AttemptRecord, TaskId, TaskStatus};
use futures_util::{Stream, stream};
use serde_json::json;
use std::{convert::Infallible, fmt, str::FromStr, sync::Arc};
use tokio::sync::{broadcast, watch};

/// Where in which log: written `attempt.node.offset`; the offset is that of the next byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Position {
    pub(crate) attempt: AttemptId,
    pub(crate) node: u32,
    pub(crate) offset: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.attempt, self.node, self.offset)
    }
}

impl FromStr for Position {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.split('.');
        let position = (|| {
            let attempt = parts.next()?.parse().ok()?;
            let node = parts.next()?.parse().ok()?;
            let offset = parts.next()?.parse().ok()?;
            Some(Self { attempt, node, offset })
        })();
        position.filter(|_| parts.next().is_none()).ok_or(())
    }
}

/// A reader that follows a task.
pub(crate) struct Follow {
    app: Arc<App>,
    task: TaskId,
    node: u32,
    at: Option<Position>,
    marks: Option<watch::Receiver<Mark>>,
    changes: broadcast::Receiver<TaskChanged>,
    announce: bool,
    ended: bool,
}

impl Follow {
    /// Starts at a position, or before the first attempt.
    pub(crate) fn start(app: Arc<App>, task: TaskId, node: u32, at: Option<Position>) -> Self {
        let changes = app.driver.subscribe();
        Self { app, task, node, at, marks: None, changes, announce: false, ended: false }
    }

    /// The events; ends after `end`. A fault of the store or a disk ends the stream without `end`, and
    /// the reader resumes.
    pub(crate) fn events(self) -> impl Stream<Item = Result<Event, Infallible>> + Send {
        stream::unfold(self, |mut follow| async move {
            if follow.ended {
                return None;
            }
            match follow.next().await {
                Ok(event) => Some((Ok(event), follow)),
                Err(cause) => {
                    tracing::warn!(%cause, task = %follow.task, "a log stream broke off");
                    None
                }
            }
        })
    }

    async fn next(&mut self) -> Result<Event, Box<dyn std::error::Error + Send + Sync>> {
        loop {
            let Some(at) = self.at else {
                if let Some(event) = self.go_on(None).await? {
                    return Ok(event);
                }
                continue;
            };
            if std::mem::take(&mut self.announce) {
                let number = self.app.store.attempt(at.attempt).await?.map(|a| a.number);
                let data = json!({"attempt_id": at.attempt, "number": number, "node": at.node});
                return Ok(Event::default().event("attempt").id(at.to_string()).data(data.to_string()));
            }
            // Whether the attempt is over is asked before its log is read: what is over does not grow.
            let over = self.is_over(at.attempt).await?;
            let chunk = self.read(at).await?;
            let complete = if over { chunk.len() } else { whole_characters(&chunk) };
            if complete > 0 {
                let chunk = chunk.slice(..complete);
                let next = Position { offset: at.offset + complete as u64, ..at };
                self.at = Some(next);
                let text = String::from_utf8_lossy(&chunk);
                let data = json!({"text": text, "offset": at.offset, "len": complete});
                return Ok(Event::default().id(next.to_string()).data(data.to_string()));
            }
            if !over {
                self.wait().await;
            } else if let Some(event) = self.go_on(Some(at.attempt)).await? {
                return Ok(event);
            }
        }
    }

    async fn is_over(&self, attempt: AttemptId) -> Result<bool, fetchml_store::StoreError> {
        if self.app.driver.live(self.task).is_some_and(|t| t.state.attempt == Some(attempt)) {
            return Ok(false);
        }
        Ok(self.app.store.attempt(attempt).await?.is_none_or(|a| a.phase.is_over()))
    }

    async fn read(&mut self, at: Position) -> Result<Bytes, super::LogError> {
        let log = LogId { task: self.task, attempt: at.attempt, node: at.node };
        if self.marks.is_none() {
            self.marks = Some(self.app.logs.subscribe(log).await?);
        }
        let length = self.app.logs.length(log).await?;
        if let Some(marks) = &mut self.marks {
            marks.mark_unchanged();
        }
        let end = length.min(at.offset.saturating_add(limits::READ_CHUNK_BYTES));
        if at.offset >= end {
            return Ok(Bytes::new());
        }
        self.app.logs.read(log, at.offset..end).await
    }

    /// The next attempt after `done`, or the end of the task; else waits for a change.
    async fn go_on(
        &mut self,
        done: Option<AttemptId>,
    ) -> Result<Option<Event>, Box<dyn std::error::Error + Send + Sync>> {
        let ended = match self.app.driver.live(self.task) {
            Some(_) => None,
            None => match self.app.store.task(self.task).await? {
                Some(task) if !task.state.status.is_terminal() => None,
                task => Some(task.map(|t| t.state.status)),
            },
        };
        let attempts = self.app.store.attempts(self.task).await?;
        if let Some(next) = after(&attempts, done) {
            self.at = Some(Position { attempt: next.id, node: self.node, offset: 0 });
            self.marks = None;
            self.announce = true;
            return Ok(None);
        }
        if let Some(status) = ended {
            self.ended = true;
            let data = json!({"status": status.map(TaskStatus::as_str)});
            return Ok(Some(Event::default().event("end").data(data.to_string())));
        }
        self.wait().await;
        Ok(None)
    }

    /// Waits until the log grew or the task changed; in any case not long.
    async fn wait(&mut self) {
        let (task, changes) = (self.task, &mut self.changes);
        let changed = async { while changes.recv().await.is_ok_and(|change| change.task.spec.id != task) {} };
        let grew = async {
            match &mut self.marks {
                None => std::future::pending().await,
                // An error: the log was closed; the task's change tells the rest.
                Some(marks) => {
                    if marks.changed().await.is_err() {
                        std::future::pending::<()>().await;
                    }
                }
            }
        };
        tokio::select! {
            () = changed => {}
            () = grew => {}
            () = tokio::time::sleep(limits::FOLLOW_TICK) => {}
        }
    }
}

/// The attempt after `done` in order; the first when nothing is done.
fn after(attempts: &[AttemptRecord], done: Option<AttemptId>) -> Option<&AttemptRecord> {
    let number = done.and_then(|done| attempts.iter().find(|a| a.id == done)).map_or(0, |a| a.number);
    attempts.iter().filter(|a| a.number > number).min_by_key(|a| a.number)
}

/// Length without a character that is not complete yet at the end; bytes that can never become a
/// character count.
fn whole_characters(bytes: &[u8]) -> usize {
    if std::str::from_utf8(bytes).is_ok() {
        return bytes.len();
    }
    let tail_from = bytes.len().saturating_sub(3);
    let incomplete = |start: &usize| {
        std::str::from_utf8(&bytes[*start..]).is_err_and(|e| e.valid_up_to() == 0 && e.error_len().is_none())
    };
    (tail_from..bytes.len()).rev().find(incomplete).unwrap_or(bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_are_not_torn() {
        let text = "aé€😀".as_bytes();
        for (end, whole) in [(1, 1), (2, 1), (3, 3), (4, 3), (5, 3), (6, 6), (7, 6), (8, 6), (9, 6), (10, 10)] {
            assert_eq!(whole_characters(&text[..end]), whole, "of {end}");
        }
        assert_eq!(whole_characters(b"a\xff"), 2);
        assert_eq!(whole_characters(b"\xff\xffa"), 3);
        assert_eq!(whole_characters(b"\x80\x80\x80\x80"), 4);
    }

    #[test]
    fn positions_have_one_spelling() {
        let at = Position { attempt: AttemptId(uuid::Uuid::from_u128(7)), node: 2, offset: 99 };
        assert_eq!(at.to_string().parse(), Ok(at));
        for wrong in ["", "1.2.3", "00000000-0000-0000-0000-000000000007.2", &format!("{at}.1")] {
            assert_eq!(wrong.parse::<Position>(), Err(()), "{wrong}");
        }
    }
}
