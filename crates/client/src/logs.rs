//! Logs: ranges of exact bytes, and following a task live through disconnects and retries.

use crate::{
    blob::ByteStream,
    connection::Client,
    error::ClientError,
    events::{EventSource, Incoming},
    sse::SseEvent,
};
use fetchml_api::{AttemptId, TaskId, TaskStatus};
use futures_util::Stream;
use serde::Deserialize;
use std::{ops::Range, time::Duration};

/// Which log of a task.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LogQuery {
    /// Attempt, from 1; absent: the latest.
    pub attempt: Option<u32>,
    /// Node of the attempt, from 0; absent: 0.
    pub node: Option<u32>,
}

impl LogQuery {
    fn pairs(self) -> Vec<(&'static str, String)> {
        let attempt = self.attempt.map(|attempt| ("attempt", attempt.to_string()));
        let node = self.node.map(|node| ("node", node.to_string()));
        attempt.into_iter().chain(node).collect()
    }
}

/// A run of log bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogChunk {
    /// The attempt that wrote it.
    pub attempt: AttemptId,
    /// Node, from 0.
    pub node: u32,
    /// Where it begins in its log, bytes.
    pub offset: u64,
    /// Length in the log, bytes (of the raw bytes, not of `text`).
    pub len: u64,
    /// The bytes as UTF-8; invalid ones are replaced.
    pub text: String,
}

/// What happens while a log is followed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LogEvent {
    /// An attempt begins; what follows is its log.
    Attempt {
        /// The attempt.
        attempt: AttemptId,
        /// Its number within the task, from 1, if the server said so.
        number: Option<u32>,
    },
    /// Log bytes.
    Chunk(LogChunk),
    /// The connection was lost; it is taken up again where it broke off.
    Reconnecting {
        /// Why it was lost.
        reason: String,
        /// Time until the next try.
        delay: Duration,
    },
    /// The task is over and its whole log was sent. Nothing follows.
    End {
        /// How the task ended, if the server said so.
        status: Option<TaskStatus>,
    },
}

impl Client {
    /// Exact bytes of a log as it is now, or of a part of it.
    pub async fn logs(
        &self,
        task: TaskId,
        query: LogQuery,
        range: Option<Range<u64>>,
    ) -> Result<ByteStream, ClientError> {
        let pairs = query.pairs();
        let pairs: Vec<(&str, &str)> = pairs.iter().map(|(name, value)| (*name, value.as_str())).collect();
        self.get_bytes(&format!("/v1/tasks/{task}/logs"), &pairs, range).await
    }

    /// Follows a task's log until the task ends. Reconnects by itself, without gap or repeat; ends with an
    /// error when the server refuses or stays away for [`crate::limits::OUTAGE_MAX`].
    pub fn logs_follow(
        &self,
        task: TaskId,
        query: LogQuery,
    ) -> impl Stream<Item = Result<LogEvent, ClientError>> + Send + 'static {
        let mut pairs = query.pairs();
        pairs.push(("follow", "true".to_owned()));
        let source = EventSource::new(self.clone(), format!("/v1/tasks/{task}/logs"), pairs);
        let follow = Follow { source, done: false };
        futures_util::stream::unfold(follow, |mut follow| async move {
            let event = follow.next().await?;
            Some((event, follow))
        })
    }
}

struct Follow {
    source: EventSource,
    done: bool,
}

impl Follow {
    async fn next(&mut self) -> Option<Result<LogEvent, ClientError>> {
        while !self.done {
            let read = match self.source.next().await {
                Ok(Incoming::Event(event)) => read_event(&event).map_err(|problem| self.source.protocol(problem)),
                Ok(Incoming::Reconnecting { reason, delay }) => Ok(Some(LogEvent::Reconnecting { reason, delay })),
                Err(error) => Err(error),
            };
            self.done = matches!(read, Err(_) | Ok(Some(LogEvent::End { .. })));
            if let Some(read) = read.transpose() {
                return Some(read);
            }
        }
        None
    }
}

/// Understands one event; none for kinds this client does not know.
fn read_event(event: &SseEvent) -> Result<Option<LogEvent>, String> {
    #[derive(Deserialize)]
    struct Chunk {
        text: String,
        offset: u64,
        len: u64,
    }
    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct Other {
        number: Option<u32>,
        status: Option<TaskStatus>,
    }
    let position = event.id.as_deref().map(read_id).transpose()?;
    let other = || serde_json::from_str::<Other>(&event.data).unwrap_or_default();
    match event.event.as_str() {
        "" | "message" | "log" => {
            let (attempt, node, _) = position.ok_or("log bytes without an id")?;
            let Chunk { text, offset, len } =
                serde_json::from_str(&event.data).map_err(|error| format!("log event: {error}"))?;
            Ok(Some(LogEvent::Chunk(LogChunk { attempt, node, offset, len, text })))
        }
        "attempt" => {
            let (attempt, ..) = position.ok_or("an attempt without an id")?;
            Ok(Some(LogEvent::Attempt { attempt, number: other().number }))
        }
        "end" => Ok(Some(LogEvent::End { status: other().status })),
        _ => Ok(None),
    }
}

/// Reads `attempt.node.offset`.
fn read_id(id: &str) -> Result<(AttemptId, u32, u64), String> {
    let mut parts = id.split('.');
    let mut read = || {
        let (attempt, node, offset) = (parts.next()?, parts.next()?, parts.next()?);
        parts.next().is_none().then_some(())?;
        Some((attempt.parse().ok()?, node.parse().ok()?, offset.parse().ok()?))
    };
    read().ok_or_else(|| format!("event id {id:?} is not attempt.node.offset"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(id: &str, event: &str, data: &str) -> SseEvent {
        SseEvent { id: (!id.is_empty()).then(|| id.into()), event: event.into(), data: data.into() }
    }

    #[test]
    fn events_are_understood() {
        let attempt: AttemptId = "0193e4a1-77c2-7000-8000-5c1fd1b0a001".parse().unwrap();
        let chunk = LogChunk { attempt, node: 0, offset: 4, len: 3, text: "abc".into() };
        let read = |position: &str, name, data| {
            let id = if position.is_empty() { String::new() } else { format!("{attempt}.{position}") };
            read_event(&event(&id, name, data)).unwrap()
        };
        assert_eq!(read("0.7", "", r#"{"text":"abc","offset":4,"len":3}"#), Some(LogEvent::Chunk(chunk)));
        assert_eq!(read("0.0", "attempt", r#"{"number":3}"#), Some(LogEvent::Attempt { attempt, number: Some(3) }));
        assert_eq!(read("0.0", "attempt", "{}"), Some(LogEvent::Attempt { attempt, number: None }));
        assert_eq!(
            read("", "end", r#"{"status":"completed"}"#),
            Some(LogEvent::End { status: Some(TaskStatus::Completed) })
        );
        assert_eq!(read("", "later", "?"), None);
        assert!(read_event(&event("1.x.2", "", "{}")).is_err());
        assert!(read_event(&event("", "", r#"{"text":"","offset":0,"len":0}"#)).is_err());
    }
}
