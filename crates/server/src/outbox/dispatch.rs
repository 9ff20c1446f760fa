//! Looks at each change once, in order, and puts what is to be told of it into the outbox.

use super::{lane, mail::Letter};
use crate::{
    app::App,
    auth::wall_clock,
    changes::{After, Change, MailWish},
    limits,
};
use fetchml_api::{NotifyOn, Task, TaskId, TaskNotice, WebhookEvent, WebhookMessage};
use fetchml_store::{Delivery, OutboxWrite, StoreError, Write};
use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
    time::Instant,
};
use tokio::time::{sleep, timeout};

/// Name of the durable place in `meta`: number of the last change that was looked at.
const PLACE: &str = "outbox_place";

/// The place where the last server ended. The first begins with what happens from now on, and says so durably before
/// any webhook can be made.
pub(super) async fn place(app: &App) -> Result<u64, StoreError> {
    if let Some(place) = app.store.meta(PLACE).await?.and_then(|text| text.parse().ok()) {
        return Ok(place);
    }
    let place = *app.changes.head().borrow();
    app.store.commit(vec![place_put(place)]).await?;
    Ok(place)
}

fn place_put(place: u64) -> Write {
    Write::MetaPut { name: PLACE, value: place.to_string() }
}

/// Looks until its future is dropped or the server ends.
pub(super) async fn run(app: Arc<App>, place: u64) {
    Dispatch { app: &app, place, stored: place, stored_when: Instant::now(), arrays_told: VecDeque::new() }.run().await;
}

/// What is to be sent about some changes.
#[derive(Default)]
struct Mail {
    letters: Vec<Delivery>,
    /// The arrays among what is told of.
    arrays: Vec<TaskId>,
}

/// A user, and a letter about a task of that user.
type Addressed = (String, Letter);

struct Dispatch<'a> {
    app: &'a Arc<App>,
    /// Number of the last change that was looked at.
    place: u64,
    /// The place that is durable, and since when.
    stored: u64,
    stored_when: Instant,
    /// Arrays whose mail was written lately.
    arrays_told: VecDeque<TaskId>,
}

impl Dispatch<'_> {
    async fn run(mut self) {
        let mut head = self.app.changes.head();
        loop {
            let done = match self.app.changes.after(self.place).await {
                Ok(After::Rows(rows)) if rows.is_empty() => {
                    let grown = head.wait_for(|head| *head != self.place);
                    if let Ok(Err(_)) = timeout(limits::OUTBOX_PLACE_STORED_EVERY, grown).await {
                        return;
                    }
                    self.look(&[]).await
                }
                Ok(After::Rows(rows)) => self.look(&rows).await,
                Ok(After::Gone) => self.skip().await,
                Err(error) => Err(error),
            };
            if let Err(error) = done {
                tracing::warn!(%error, "webhooks wait: the log of changes cannot be read, or the outbox written");
                sleep(limits::OUTBOX_STORE_PAUSE).await;
            }
        }
    }

    /// The place moves with what was found before it, in one transaction: a restart loses nothing, and finds nothing
    /// twice.
    async fn look(&mut self, rows: &[Arc<Change>]) -> Result<(), StoreError> {
        let mut deliveries: Vec<Delivery> = rows.iter().flat_map(|change| self.told_of(change)).collect();
        let mail = self.mail_about(rows).await?;
        deliveries.extend(mail.letters);
        let place = rows.last().map_or(self.place, |change| change.row.sequence);
        let passed = place.saturating_sub(self.stored);
        let is_old = passed > 0 && self.stored_when.elapsed() >= limits::OUTBOX_PLACE_STORED_EVERY;
        if !deliveries.is_empty() || is_old || passed >= limits::OUTBOX_PLACE_STORED_AFTER {
            let puts = deliveries.iter().cloned().map(|delivery| Write::Outbox(OutboxWrite::Put(delivery)));
            self.app.store.commit(puts.chain([place_put(place)]).collect()).await?;
            (self.stored, self.stored_when) = (place, Instant::now());
            fetchml_failpoint::reach("outbox.written");
        }
        self.place = place;
        self.arrays_told.extend(mail.arrays);
        let surplus = self.arrays_told.len().saturating_sub(limits::ARRAYS_TOLD);
        self.arrays_told.drain(..surplus);
        for Delivery { lane, user_id, .. } in deliveries {
            self.app.outbox.wake(self.app, lane, user_id);
        }
        Ok(())
    }

    fn told_of(&self, change: &Change) -> Vec<Delivery> {
        let (Some(about), Some(user)) = (&change.task, &change.user) else { return Vec::new() };
        let (event, seq) = (WebhookEvent::from(about.status), change.row.sequence);
        let mut hooks = self.app.outbox.hooks.of(user);
        hooks.retain(|hook| hook.wants(event, seq));
        if hooks.is_empty() {
            return Vec::new();
        }
        let task: Task = match serde_json::from_str(&change.row.body) {
            Ok(task) => task,
            Err(error) => {
                tracing::error!(%error, seq, "a change cannot be read, and nobody is told of it");
                return Vec::new();
            }
        };
        let timestamp = wall_clock();
        let message = WebhookMessage { event, timestamp, data: TaskNotice::of(task, seq) };
        let body = serde_json::to_string(&message).expect("it has only string keys and finite numbers");
        let delivery = |lane| lane::new(lane, message.data.user_id.clone(), seq, event, body.clone(), timestamp);
        hooks.iter().map(|hook| delivery(hook.record.id.to_string())).collect()
    }

    /// Mail about these changes; about an array once, when it is over. It is asked at its last change only.
    async fn mail_about(&self, rows: &[Arc<Change>]) -> Result<Mail, StoreError> {
        let (mut mail, mut asked) = (Mail::default(), HashSet::new());
        if self.app.outbox.mailer.is_none() {
            return Ok(mail);
        }
        for change in rows.iter().rev() {
            let (Some(about), Some(wish)) = (&change.task, &change.mail) else { continue };
            let Some(what) = NotifyOn::of(about.status) else { continue };
            let letter = match wish.array {
                None if wish.on.contains(&what) => self.letter_of_task(about.id, what, change).await?,
                Some(array) if about.status.is_terminal() && asked.insert(array) => {
                    self.letter_of_array(about.id, array, wish).await?
                }
                _ => None,
            };
            let Some((user, letter)) = letter else { continue };
            mail.arrays.extend(wish.array);
            let body = serde_json::to_string(&letter).expect("it has only string keys");
            let event = WebhookEvent::from(about.status);
            mail.letters.push(lane::new(lane::of_mail(&user), user, change.row.sequence, event, body, wall_clock()));
        }
        Ok(mail)
    }

    async fn letter_of_task(
        &self,
        id: TaskId,
        what: NotifyOn,
        change: &Change,
    ) -> Result<Option<Addressed>, StoreError> {
        let Some(stored) = self.app.store.task(id).await? else { return Ok(None) };
        let (Some(notify), Ok(task)) = (&stored.spec.notify, serde_json::from_str::<Task>(&change.row.body)) else {
            return Ok(None);
        };
        let notice = TaskNotice::of(task, change.row.sequence);
        Ok(Some((stored.spec.user_id.clone(), Letter::of_task(notify.email.clone(), &notice, what))))
    }

    async fn letter_of_array(
        &self,
        id: TaskId,
        array: TaskId,
        wish: &MailWish,
    ) -> Result<Option<Addressed>, StoreError> {
        if self.arrays_told.contains(&array) {
            return Ok(None);
        }
        let (Some(found), Some(stored)) = (self.app.store.array(array).await?, self.app.store.task(id).await?) else {
            return Ok(None);
        };
        let what = if found.counts.is_well { NotifyOn::Completed } else { NotifyOn::Failed };
        let Some(notify) = stored.spec.notify.as_ref().filter(|_| found.counts.is_over && wish.on.contains(&what))
        else {
            return Ok(None);
        };
        let spec = &stored.spec;
        let letter = Letter::of_array(notify.email.clone(), array, &spec.job_name, &spec.user_id, &found.counts);
        Ok(Some((spec.user_id.clone(), letter)))
    }

    /// The changes that come next are not kept any more.
    async fn skip(&mut self) -> Result<(), StoreError> {
        let kept = self.app.store.change_first().await?.saturating_sub(1);
        let head = *self.app.changes.head().borrow();
        let next = if kept > self.place { kept } else { head };
        tracing::error!(from = self.place, to = next, "webhooks are not told of changes that are not kept any more");
        self.app.store.commit(vec![place_put(next)]).await?;
        (self.place, self.stored, self.stored_when) = (next, next, Instant::now());
        Ok(())
    }
}
