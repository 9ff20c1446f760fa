//! Logs: ranges of exact bytes, and following a task live through disconnects and retries.

use crate::{
    blob::ByteStream,
    connection::{Client, Repeat},
    error::ClientError,
    limits,
    sse::{SseEvent, SseParser},
};
use fetchml_api::{AttemptId, TaskId, TaskStatus};
use futures_util::{Stream, StreamExt as _};
use reqwest::{Method, header::ACCEPT};
use serde::Deserialize;
use std::{collections::VecDeque, ops::Range, time::Duration};
use tokio::time::Instant;

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
    /// error when the server refuses or stays away for [`limits::OUTAGE_MAX`].
    pub fn logs_follow(
        &self,
        task: TaskId,
        query: LogQuery,
    ) -> impl Stream<Item = Result<LogEvent, ClientError>> + Send + 'static {
        let follow = Follow {
            client: self.clone(),
            task,
            query,
            last_id: None,
            connection: None,
            ready: VecDeque::new(),
            delay: limits::RETRY_DELAY,
            outage: None,
            retry_at: None,
            reached: false,
            done: false,
        };
        futures_util::stream::unfold(follow, |mut follow| async move {
            let event = follow.next().await?;
            Some((event, follow))
        })
    }
}

struct Connection {
    bytes: ByteStream,
    parser: SseParser,
}

struct Follow {
    client: Client,
    task: TaskId,
    query: LogQuery,
    /// Id of the last event handed out: where to resume.
    last_id: Option<String>,
    connection: Option<Connection>,
    ready: VecDeque<SseEvent>,
    delay: Duration,
    outage: Option<Instant>,
    retry_at: Option<Instant>,
    /// Whether a connection was ever had.
    reached: bool,
    done: bool,
}

impl Follow {
    async fn next(&mut self) -> Option<Result<LogEvent, ClientError>> {
        loop {
            if self.done {
                return None;
            }
            if let Some(event) = self.ready.pop_front() {
                match self.on_event(event) {
                    Ok(Some(event)) => return Some(Ok(event)),
                    Ok(None) => continue,
                    Err(error) => return Some(Err(self.fail(error))),
                }
            }
            if let Some(at) = self.retry_at.take() {
                tokio::time::sleep_until(at).await;
            }
            match self.advance().await {
                Ok(()) => {}
                Err(error) if self.may_retry(&error) => {
                    self.connection = None;
                    let delay = error.retry_delay(0).map_or(self.delay, |asked| asked.max(self.delay));
                    self.delay = (self.delay * 2).min(limits::RECONNECT_DELAY_MAX);
                    self.retry_at = Some(Instant::now() + delay);
                    return Some(Ok(LogEvent::Reconnecting { reason: error.to_string(), delay }));
                }
                Err(error) => return Some(Err(self.fail(error))),
            }
        }
    }

    fn fail(&mut self, error: ClientError) -> ClientError {
        self.done = true;
        error
    }

    /// A server never reached is an error at once; one that was there may be restarting.
    fn may_retry(&mut self, error: &ClientError) -> bool {
        let since = *self.outage.get_or_insert_with(Instant::now);
        error.is_transient() && self.reached && since.elapsed() < limits::OUTAGE_MAX
    }

    /// Connects if needed, then reads once.
    async fn advance(&mut self) -> Result<(), ClientError> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => none.insert(connect(&self.client, self.task, self.query, self.last_id.as_deref()).await?),
        };
        self.reached = true;
        let Some(chunk) = connection.bytes.next().await.transpose()? else {
            // Closed without `end`: the server is shutting down or dropped a slow reader.
            return Err(ClientError::Unreachable {
                url: self.client.url().into(),
                reason: "the server closed the stream".into(),
            });
        };
        let events = connection.parser.push(&chunk).map_err(|error| self.client.protocol(error.to_string()))?;
        self.ready.extend(events);
        Ok(())
    }

    fn on_event(&mut self, event: SseEvent) -> Result<Option<LogEvent>, ClientError> {
        // Progress, so the next break starts with a short wait again.
        self.delay = limits::RETRY_DELAY;
        self.outage = None;
        let parsed = read_event(&event).map_err(|problem| self.client.protocol(problem))?;
        if event.id.is_some() {
            self.last_id = event.id;
        }
        self.done = matches!(parsed, Some(LogEvent::End { .. }));
        Ok(parsed)
    }
}

async fn connect(
    client: &Client,
    task: TaskId,
    query: LogQuery,
    last_id: Option<&str>,
) -> Result<Connection, ClientError> {
    let path = format!("/v1/tasks/{task}/logs");
    let build = || {
        let request = client
            .request(Method::GET, &path)
            .query(&[("follow", "true")])
            .query(&query.pairs())
            .header(ACCEPT, "text/event-stream");
        match last_id {
            Some(id) => request.header("last-event-id", id),
            None => request,
        }
    };
    let answer = tokio::time::timeout(limits::ANSWER_TIMEOUT, client.send(Repeat::Never, build)).await;
    let response = answer
        .map_err(|_| ClientError::Unreachable { url: client.url().into(), reason: "no answer in time".into() })??;
    Ok(Connection { bytes: ByteStream::of(client.url(), response), parser: SseParser::new() })
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
