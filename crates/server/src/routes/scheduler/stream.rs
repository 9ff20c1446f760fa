//! `GET /v1/scheduler/status/stream` and `GET /v1/scheduler/jobs/{jobId}/stream`: the log of changes as
//! server-sent events. An event's id is its place in the log, so it stays valid over restarts.

use crate::{
    app::App,
    auth::Caller,
    changes::{After, Change, JOB, Reader, task_as_told},
    error::AppError,
    instruments::StreamKind,
    limits,
    query::PathText,
    routes::{blobs::until_gone, tasks::find},
};
use axum::{
    Extension,
    extract::State,
    http::HeaderMap,
    response::{
        IntoResponse as _, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use fetchml_api::TaskId;
use fetchml_store::StoreError;
use futures_util::{Stream, stream};
use serde::Serialize;
use std::{collections::VecDeque, convert::Infallible, sync::Arc};
use tokio::sync::watch;

/// Changes of the scheduler's state
///
/// Events: `status` (SchedulerStatus), `worker` (Worker), `job` (Task without output), `reservation`
/// (Reservation). A stream begins with the status, every worker and every reservation; with `Last-Event-ID` it goes on after
/// that event, without gap or repeat. `reset` says that what lies between is not kept any more: the
/// stream begins anew.
#[utoipa::path(get, path = "/v1/scheduler/status/stream", tag = "Scheduler",
    params(("Last-Event-ID" = Option<String>, Header, description = "Go on after this event", nullable = false)),
    responses((status = 200, description = "The stream", body = String, content_type = "text/event-stream")))]
pub(in crate::routes) async fn stream_status(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
) -> Result<Response, AppError> {
    Ok(answer(app, caller, About::Everything, last_event(&headers)?))
}

/// Changes of one task
///
/// `job` events (Task without output): the task as it is, then every change of its state or priority. The
/// stream ends after the event that shows the task completed or failed. `Last-Event-ID` as in the stream of
/// the scheduler's state.
#[utoipa::path(get, path = "/v1/scheduler/jobs/{jobId}/stream", tag = "Scheduler",
    params(("jobId" = String, Path, description = "The task"),
        ("Last-Event-ID" = Option<String>, Header, description = "Go on after this event", nullable = false)),
    responses((status = 200, description = "The stream", body = String, content_type = "text/event-stream")))]
pub(in crate::routes) async fn stream_job(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    PathText(id): PathText<String>,
    headers: HeaderMap,
) -> Result<Response, AppError> {
    let task = find(&app, &id).await?.spec.id;
    Ok(answer(app, caller, About::Task(task), last_event(&headers)?))
}

fn last_event(headers: &HeaderMap) -> Result<Option<u64>, AppError> {
    let Some(id) = headers.get("last-event-id") else { return Ok(None) };
    let number = id.to_str().ok().and_then(|id| id.trim().parse().ok());
    number.map(Some).ok_or_else(|| AppError::bad_request("Last-Event-ID", "must be the id of an event of this stream"))
}

fn answer(app: Arc<App>, caller: Caller, about: About, last_event: Option<u64>) -> Response {
    let events = ChangeStream::start(Arc::clone(&app), Reader::new(&app, &caller), about, last_event).events();
    let open = app.instruments.stream(match about {
        About::Everything => StreamKind::Status,
        About::Task(_) => StreamKind::Job,
    });
    let events = open.during(until_gone(app, caller, events));
    Sse::new(events).keep_alive(KeepAlive::new().interval(limits::STREAM_HEARTBEAT)).into_response()
}

/// Which changes a stream is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum About {
    Everything,
    Task(TaskId),
}

/// What waits to be sent. Changes are kept as all streams share them, so that a slow reader costs no memory.
enum Waiting {
    Shown(Event),
    Told(Arc<Change>),
}

impl Waiting {
    fn event(self, reader: &Reader) -> Event {
        match self {
            Self::Shown(event) => event,
            Self::Told(change) => event(change.row.sequence, &change.row.kind, change.body_for(reader)),
        }
    }
}

/// A reader of the log of changes.
struct ChangeStream {
    app: Arc<App>,
    reader: Reader,
    about: About,
    head: watch::Receiver<u64>,
    /// Number of the last row that was sent, or looked at; none before anything was.
    place: Option<u64>,
    /// Begins at a place of long ago: rows about a task are looked for rather than all read.
    catching_up: bool,
    waiting: VecDeque<Waiting>,
    /// After what waits nothing comes any more.
    ended: bool,
}

impl ChangeStream {
    fn start(app: Arc<App>, reader: Reader, about: About, last_event: Option<u64>) -> Self {
        let head = app.changes.head();
        let catching_up = last_event.is_some() && about != About::Everything;
        Self { app, reader, about, head, place: last_event, catching_up, waiting: VecDeque::new(), ended: false }
    }

    /// The events. A fault of the store ends the stream, and the reader resumes.
    fn events(self) -> impl Stream<Item = Result<Event, Infallible>> + Send {
        stream::unfold(self, |mut stream| async move {
            loop {
                if let Some(waiting) = stream.waiting.pop_front() {
                    return Some((Ok(waiting.event(&stream.reader)), stream));
                }
                if stream.ended {
                    return None;
                }
                if let Err(cause) = stream.advance().await {
                    tracing::warn!(%cause, "a stream of changes broke off");
                    return None;
                }
            }
        })
    }

    /// Makes events wait, or waits for what makes some.
    async fn advance(&mut self) -> Result<(), StoreError> {
        let Some(place) = self.place else { return self.begin().await };
        if self.catching_up {
            return self.catch_up(place).await;
        }
        match self.app.changes.after(place).await? {
            After::Rows(rows) if rows.is_empty() => {
                // Fails only when the store is closed: the server is about to end.
                self.ended = self.head.wait_for(|head| *head != place).await.is_err();
            }
            After::Rows(rows) => {
                self.place = rows.last().map(|change| change.row.sequence);
                for change in &rows {
                    self.take(change);
                }
            }
            After::Gone => self.begin_anew(),
        }
        Ok(())
    }

    /// Sends what has happened to a task since the place, and goes on from now.
    async fn catch_up(&mut self, place: u64) -> Result<(), StoreError> {
        let About::Task(id) = self.about else { unreachable!("only the stream of a task looks for its rows") };
        // In this order: if it has ended, its last row is among those up to the head.
        let over = task_as_told(&self.app, id, &self.reader).await?.is_none_or(|task| task.status.is_terminal());
        let head = *self.head.borrow();
        match self.app.changes.after_of(place, &id.to_string()).await? {
            After::Rows(rows) => {
                let complete = rows.len() < limits::CHANGES_AT_ONCE;
                let last = rows.last().map(|change| change.row.sequence);
                for change in &rows {
                    self.take(change);
                }
                self.place = if complete { last.max(Some(head)).max(Some(place)) } else { last };
                self.catching_up = !complete;
                self.ended |= complete && over;
            }
            After::Gone => self.begin_anew(),
        }
        Ok(())
    }

    fn begin_anew(&mut self) {
        self.waiting.push_back(Waiting::Shown(Event::default().event("reset").data("{}")));
        (self.place, self.catching_up) = (None, false);
    }

    /// Shows everything as it is now. Changes made meanwhile come again afterwards, which harms nobody.
    async fn begin(&mut self) -> Result<(), StoreError> {
        let place = *self.head.borrow_and_update();
        self.place = Some(place);
        match self.about {
            About::Everything => {
                self.show(place, "status", &self.app.driver.status());
                for worker in self.app.driver.workers().iter() {
                    self.show(place, "worker", worker);
                }
                for reservation in self.app.driver.reservations() {
                    self.show(place, "reservation", &reservation);
                }
            }
            About::Task(id) => match task_as_told(&self.app, id, &self.reader).await? {
                Some(task) => {
                    self.show(place, JOB, &task);
                    self.ended = task.status.is_terminal();
                }
                None => self.ended = true,
            },
        }
        Ok(())
    }

    fn take(&mut self, change: &Arc<Change>) {
        if self.ended {
            return;
        }
        if let About::Task(id) = self.about {
            let Some(about) = change.task.filter(|about| about.id == id) else { return };
            self.ended = about.status.is_terminal();
        }
        self.waiting.push_back(Waiting::Told(Arc::clone(change)));
    }

    fn show(&mut self, place: u64, kind: &str, shown: &impl Serialize) {
        let body = serde_json::to_string(shown).expect("it has only string keys and finite numbers");
        self.waiting.push_back(Waiting::Shown(event(place, kind, &body)));
    }
}

fn event(place: u64, kind: &str, body: &str) -> Event {
    Event::default().id(place.to_string()).event(kind).data(body)
}
