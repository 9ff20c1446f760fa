//! Streams of server-sent events that outlive their connections: taken up again where they broke off.

use crate::{
    blob::ByteStream,
    connection::{Client, Repeat},
    error::ClientError,
    limits,
    sse::{SseEvent, SseParser},
};
use fetchml_api::TaskId;
use futures_util::{Stream, StreamExt as _};
use reqwest::{Method, header::ACCEPT};
use std::{collections::VecDeque, time::Duration};
use tokio::time::Instant;

/// What comes from a stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Incoming {
    /// An event.
    Event(SseEvent),
    /// The connection was lost; it is taken up again where it broke off.
    Reconnecting {
        /// Why it was lost.
        reason: String,
        /// Time until the next try.
        delay: Duration,
    },
}

impl Client {
    /// Changes of the scheduler's state: how it is, then what happens, without an end. Reconnects by itself;
    /// ends with an error when the server refuses or stays away for [`limits::OUTAGE_MAX`].
    pub fn status_follow(&self) -> impl Stream<Item = Result<Incoming, ClientError>> + Send + 'static {
        EventSource::new(self.clone(), "/v1/scheduler/status/stream".to_owned(), Vec::new()).stream(|_| false)
    }

    /// Changes of one task: how it is, then what happens to it, up to the event that shows its end.
    /// Reconnects as [`Client::status_follow`].
    pub fn job_follow(&self, task: TaskId) -> impl Stream<Item = Result<Incoming, ClientError>> + Send + 'static {
        let path = format!("/v1/scheduler/jobs/{task}/stream");
        EventSource::new(self.clone(), path, Vec::new()).stream(|event| {
            let shown = serde_json::from_str::<fetchml_api::Task>(&event.data);
            shown.is_ok_and(|task| task.status.is_terminal())
        })
    }
}

struct Connection {
    bytes: ByteStream,
    parser: SseParser,
}

/// One stream through all its connections.
pub(crate) struct EventSource {
    client: Client,
    path: String,
    query: Vec<(&'static str, String)>,
    /// Id of the last event handed out: where to resume.
    last_id: Option<String>,
    connection: Option<Connection>,
    ready: VecDeque<SseEvent>,
    delay: Duration,
    outage: Option<Instant>,
    retry_at: Option<Instant>,
    /// Whether a connection was ever had.
    reached: bool,
}

impl EventSource {
    pub(crate) fn new(client: Client, path: String, query: Vec<(&'static str, String)>) -> Self {
        Self {
            client,
            path,
            query,
            last_id: None,
            connection: None,
            ready: VecDeque::new(),
            delay: limits::RETRY_DELAY,
            outage: None,
            retry_at: None,
            reached: false,
        }
    }

    /// The events, up to and with one that is the last.
    fn stream(self, is_last: fn(&SseEvent) -> bool) -> impl Stream<Item = Result<Incoming, ClientError>> + Send {
        futures_util::stream::unfold(Some(self), move |source| async move {
            let mut source = source?;
            let read = source.next().await;
            let over = match &read {
                Ok(Incoming::Event(event)) => is_last(event),
                Ok(Incoming::Reconnecting { .. }) => false,
                Err(_) => true,
            };
            Some((read, (!over).then_some(source)))
        })
    }

    /// The next event. After an error there is none.
    pub(crate) async fn next(&mut self) -> Result<Incoming, ClientError> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                // Progress, so the next break starts with a short wait again.
                self.delay = limits::RETRY_DELAY;
                self.outage = None;
                if event.id.is_some() {
                    self.last_id.clone_from(&event.id);
                }
                return Ok(Incoming::Event(event));
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
                    return Ok(Incoming::Reconnecting { reason: error.to_string(), delay });
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The server sent what this client cannot understand.
    pub(crate) fn protocol(&self, problem: String) -> ClientError {
        self.client.protocol(problem)
    }

    /// A server never reached is an error at once; one that was there may be restarting.
    fn may_retry(&mut self, error: &ClientError) -> bool {
        let since = *self.outage.get_or_insert_with(Instant::now);
        error.is_transient() && self.reached && since.elapsed() < limits::OUTAGE_MAX
    }

    /// Connects if needed, then reads once.
    async fn advance(&mut self) -> Result<(), ClientError> {
        if self.connection.is_none() {
            self.connection = Some(self.connect().await?);
        }
        self.reached = true;
        let connection = self.connection.as_mut().expect("made above");
        let Some(chunk) = connection.bytes.next().await.transpose()? else {
            // Closed before its last event: the server is shutting down or dropped a slow reader.
            return Err(ClientError::Unreachable {
                url: self.client.url().into(),
                reason: "the server closed the stream".into(),
            });
        };
        let events = connection.parser.push(&chunk).map_err(|error| self.client.protocol(error.to_string()))?;
        self.ready.extend(events);
        Ok(())
    }

    async fn connect(&mut self) -> Result<Connection, ClientError> {
        let client = &self.client;
        let build = || {
            let request =
                client.request(Method::GET, &self.path).query(&self.query).header(ACCEPT, "text/event-stream");
            match &self.last_id {
                Some(id) => request.header("last-event-id", id),
                None => request,
            }
        };
        let answer = tokio::time::timeout(limits::ANSWER_TIMEOUT, client.send(Repeat::Never, build)).await;
        let response = answer
            .map_err(|_| ClientError::Unreachable { url: client.url().into(), reason: "no answer in time".into() })??;
        Ok(Connection { bytes: ByteStream::of(client.url(), response), parser: SseParser::new() })
    }
}
