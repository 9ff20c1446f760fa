//! One webhook: reads the log of changes from its own durable place and tells of what it is to hear of, in order,
//! each until it is delivered. The log is the outbox: an event is in it from the transaction of its change.

use super::{Webhooks, outgoing::Delivery};
use crate::{
    app::App,
    auth::wall_clock,
    changes::{After, Change},
    limits,
};
use fetchml_api::{Micros, Webhook, WebhookEvent};
use fetchml_store::Write;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::time::{sleep, timeout};

/// Delivers until its future is dropped or the server ends.
pub(super) async fn run(app: Arc<App>, webhook: Webhook) {
    let secret = app.webhooks.secret_of(webhook.id);
    let stored = webhook.place;
    Course { hooks: &app.webhooks, app: &app, webhook, secret, stored, stored_when: Instant::now() }.run().await;
}

struct Course<'a> {
    app: &'a App,
    hooks: &'a Webhooks,
    webhook: Webhook,
    secret: String,
    /// The place that is durable, and since when.
    stored: u64,
    stored_when: Instant,
}

impl Course<'_> {
    async fn run(mut self) {
        let mut head = self.app.changes.head();
        self.pause_until_next().await;
        loop {
            match self.app.changes.after(self.webhook.place).await {
                Err(cause) => {
                    tracing::warn!(%cause, webhook = %self.webhook.id, "the log of changes cannot be read");
                    sleep(limits::WEBHOOK_RETRY_FIRST).await;
                }
                Ok(After::Rows(rows)) if rows.is_empty() => {
                    let place = self.webhook.place;
                    self.store_if_old().await;
                    let grown = head.wait_for(|head| *head != place);
                    match timeout(limits::WEBHOOK_PLACE_STORED_EVERY, grown).await {
                        Ok(Err(_)) => return,
                        Ok(Ok(_)) | Err(_) => {}
                    }
                }
                Ok(After::Rows(rows)) => {
                    for change in rows {
                        if let Some(event) = self.wanted(&change) {
                            self.deliver(event, &change).await;
                        }
                        self.webhook.place = change.row.sequence;
                    }
                    self.store_if_old().await;
                }
                Ok(After::Gone) => {
                    self.webhook.place = *head.borrow();
                    self.webhook.error =
                        Some("some events were not delivered while they were kept, and are lost".into());
                    self.store().await;
                }
            }
        }
    }

    fn wanted(&self, change: &Change) -> Option<WebhookEvent> {
        let event = WebhookEvent::from(change.task?.status);
        let is_own = change.user.as_deref() == Some(self.webhook.user_id.as_str());
        (is_own && self.webhook.events.contains(&event)).then_some(event)
    }

    /// Tries until it is delivered. A user without a key that works hears of nothing.
    async fn deliver(&mut self, event: WebhookEvent, change: &Change) {
        let (seq, task) = (change.row.sequence, &change.row.body);
        let body = format!(r#"{{"type":"{event}","seq":{seq},"task":{task}}}"#);
        while self.app.keys.has_working(&self.webhook.user_id) {
            let delivery = Delivery {
                url: &self.webhook.url,
                id: format!("{}-{seq}", self.webhook.id),
                event: event.as_str(),
                body: body.clone(),
                secret: &self.secret,
                at_s: wall_clock().0 / 1_000_000,
            };
            match self.hooks.outgoing.send(&delivery).await {
                Ok(()) => {
                    self.webhook.place = seq;
                    (self.webhook.failures, self.webhook.next_attempt_at, self.webhook.error) = (0, None, None);
                    self.store().await;
                    return;
                }
                Err(why) => {
                    tracing::debug!(webhook = %self.webhook.id, why, "a webhook was not delivered");
                    let pause = pause_after(self.webhook.failures);
                    self.webhook.failures = self.webhook.failures.saturating_add(1);
                    self.webhook.next_attempt_at = Some(Micros(wall_clock().0 + pause.as_micros() as i64));
                    self.webhook.error = Some(why);
                    self.store().await;
                    self.pause_until_next().await;
                }
            }
        }
        (self.webhook.place, self.webhook.failures, self.webhook.next_attempt_at) = (seq, 0, None);
        self.webhook.error = Some("events were passed over while you had no key that works".into());
        self.store().await;
    }

    async fn pause_until_next(&self) {
        let Some(at) = self.webhook.next_attempt_at else { return };
        let left = Duration::from_micros(at.since(wall_clock()).max(0) as u64);
        sleep(left.min(limits::WEBHOOK_RETRY_LONGEST)).await;
    }

    /// What was passed over is read again after a restart, which harms nobody as long as it is kept.
    async fn store_if_old(&mut self) {
        let passed = self.webhook.place - self.stored;
        let old = passed > 0 && self.stored_when.elapsed() >= limits::WEBHOOK_PLACE_STORED_EVERY;
        if old || passed >= limits::WEBHOOK_PLACE_STORED_AFTER {
            self.store().await;
        }
    }

    /// What cannot be stored now is delivered again after a restart: at least once.
    async fn store(&mut self) {
        match self.app.store.commit(vec![Write::WebhookProgress(self.webhook.clone())]).await {
            Ok(_) => (self.stored, self.stored_when) = (self.webhook.place, Instant::now()),
            Err(error) => tracing::warn!(%error, webhook = %self.webhook.id, "how far it is could not be stored"),
        }
    }
}

/// Twice as long after each failure.
fn pause_after(failures: u32) -> Duration {
    limits::WEBHOOK_RETRY_FIRST.saturating_mul(1 << failures.min(20)).min(limits::WEBHOOK_RETRY_LONGEST)
}
