//! What one client of `/ws` hears: its place in the log of changes, and the tasks that it named. Reads the log
//! that all streams share, and queues nothing.

use crate::{
    app::App,
    changes::{AboutTask, After, Change, Reader, task_as_told},
    limits,
};
use fetchml_api::{TaskId, WsEvent};
use fetchml_store::StoreError;
use std::{collections::BTreeSet, sync::Arc};
use tokio::sync::watch;

/// Reads the log of changes for one client.
pub(super) struct Feed {
    app: Arc<App>,
    head: watch::Receiver<u64>,
    /// Number of the last change that was told, or looked at.
    place: u64,
    tasks: Option<BTreeSet<TaskId>>,
    reader: Reader,
}

/// Messages to be sent.
pub(super) type Messages = Vec<Saying>;

/// One of them. Changes are kept as all streams share them and become text one by one: what waits for a client
/// that is slow to read costs no memory of its own.
pub(super) enum Saying {
    Event(WsEvent),
    Told(Arc<Change>, AboutTask),
}

impl Saying {
    pub(super) fn text(&self, reader: &Reader) -> String {
        match self {
            Self::Event(event) => serde_json::to_string(event).expect("it has only string keys and finite numbers"),
            Self::Told(change, about) => {
                let kind = if about.status.is_terminal() { "task_complete" } else { "task_update" };
                format!(r#"{{"type":"{kind}","seq":{},"task":{}}}"#, change.row.sequence, change.body_for(reader))
            }
        }
    }
}

impl Feed {
    /// All tasks, from now on.
    pub(super) fn from_now(app: Arc<App>, reader: Reader) -> Self {
        let head = app.changes.head();
        let place = *head.borrow();
        Self { app, head, place, tasks: None, reader }
    }

    /// Who is told.
    pub(super) const fn reader(&self) -> &Reader {
        &self.reader
    }

    /// What a client hears first.
    pub(super) fn first(&self) -> Messages {
        vec![Saying::Event(WsEvent::Subscribed { seq: self.place })]
    }

    /// Replaces what is told of.
    pub(super) async fn subscribe(
        &mut self,
        tasks: Option<BTreeSet<TaskId>>,
        since: Option<u64>,
    ) -> Result<Messages, StoreError> {
        self.place = since.unwrap_or_else(|| *self.head.borrow());
        self.tasks = tasks;
        let mut messages = self.first();
        if since.is_none() {
            self.show(&mut messages).await?;
        }
        Ok(messages)
    }

    /// Shows the named tasks as they are. Changes made meanwhile come again afterwards, which harms nobody.
    async fn show(&self, messages: &mut Messages) -> Result<(), StoreError> {
        for id in self.tasks.iter().flatten() {
            messages.push(Saying::Event(match task_as_told(&self.app, *id, &self.reader).await? {
                Some(task) if task.status.is_terminal() => {
                    WsEvent::TaskComplete { seq: self.place, task: Box::new(task) }
                }
                Some(task) => WsEvent::TaskUpdate { seq: self.place, task: Box::new(task) },
                None => WsEvent::Error { error: format!("There is no task {id}.") },
            }));
        }
        Ok(())
    }

    /// Waits for the next messages: at most [`limits::CHANGES_AT_ONCE`] changes. None: the server ends. May be
    /// given up and begun again at any time.
    pub(super) async fn next(&mut self) -> Result<Option<Messages>, StoreError> {
        loop {
            match self.app.changes.after(self.place).await? {
                After::Rows(rows) if rows.is_empty() => {
                    let place = self.place;
                    if self.head.wait_for(|head| *head != place).await.is_err() {
                        return Ok(None);
                    }
                }
                After::Rows(rows) => {
                    debug_assert!(rows.len() <= limits::CHANGES_AT_ONCE);
                    self.place = rows.last().map_or(self.place, |change| change.row.sequence);
                    let told = rows.iter().filter_map(|change| {
                        let about = change.task?;
                        let wanted = self.tasks.as_ref().is_none_or(|tasks| tasks.contains(&about.id));
                        wanted.then(|| Saying::Told(Arc::clone(change), about))
                    });
                    let told: Messages = told.collect();
                    if !told.is_empty() {
                        return Ok(Some(told));
                    }
                }
                After::Gone => {
                    let head = *self.head.borrow();
                    let before = std::mem::replace(&mut self.place, head);
                    let mut messages = vec![Saying::Event(WsEvent::Reset { seq: self.place })];
                    if let Err(error) = self.show(&mut messages).await {
                        self.place = before;
                        return Err(error);
                    }
                    return Ok(Some(messages));
                }
            }
        }
    }
}
