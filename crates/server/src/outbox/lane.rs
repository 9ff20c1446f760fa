//! One lane: tells what waits in it, in order, each until it is told or given up. What follows one that fails waits
//! with it: who does not answer is not asked by all at once.

use super::{
    hooks::Hook,
    mail::{Letter, Unsent},
    request::Message,
};
use crate::{app::App, auth::wall_clock, jitter::jittered, limits};
use fetchml_api::{Micros, WebhookEvent, time::SECOND};
use fetchml_store::{Delivery, OutboxWrite, StoreError, Write};
use std::{sync::Arc, time::Duration};
use tokio::{sync::Notify, time::sleep};

/// How the lanes of mail begin; a user follows.
const MAIL_LANE: &str = "mail/";

/// The lane of a user's mail.
pub(super) fn of_mail(user: &str) -> String {
    format!("{MAIL_LANE}{user}")
}

/// Something to be told, as it is put into the outbox.
pub(super) fn new(
    lane: String,
    user_id: String,
    seq: u64,
    event: WebhookEvent,
    body: String,
    created_at: Micros,
) -> Delivery {
    Delivery {
        lane,
        seq,
        user_id,
        event: event.to_string(),
        body,
        created_at,
        attempts: 0,
        next_at: created_at,
        failed_at: None,
        error: None,
    }
}

/// Tells until nothing waits.
pub(super) async fn run(app: Arc<App>, lane: String, user: String, awake: Arc<Notify>) {
    let of = Lane { app: &app, name: lane, user, awake: &awake };
    loop {
        match of.step().await {
            Ok(waits) => {
                if !waits && app.outbox.sleeps(&of.name, &awake) {
                    return;
                }
            }
            // What was told and could not be marked so is told again: at least once.
            Err(error) => {
                tracing::warn!(%error, lane = of.name, "what was told, or is to be, is not known to the store");
                sleep(limits::OUTBOX_STORE_PAUSE).await;
            }
        }
    }
}

struct Lane<'a> {
    app: &'a Arc<App>,
    name: String,
    user: String,
    awake: &'a Notify,
}

impl Lane<'_> {
    /// Makes an attempt, or waits for the time of the next; whether anything waits.
    async fn step(&self) -> Result<bool, StoreError> {
        let Some(next) = self.app.store.delivery_next(&self.name).await? else { return Ok(false) };
        let left = Duration::from_micros(next.next_at.since(wall_clock()).max(0).unsigned_abs());
        if !left.is_zero() {
            // Not for long, whatever the wall clock does meanwhile.
            let pause = sleep(left.min(self.app.outbox.times.retry_longest));
            tokio::select! {
                () = pause => {}
                () = self.awake.notified() => {}
            }
            return Ok(true);
        }
        let write = match self.tell(&next).await {
            Ok(()) => OutboxWrite::Done { lane: next.lane, seq: next.seq },
            Err(Untold::Later(why)) => OutboxWrite::Attempted(self.after_failure(next, why)),
            Err(Untold::Never(why)) => OutboxWrite::Attempted(given_up(next, why)),
            Err(Untold::Nobody(gone)) => gone,
        };
        self.log(&write);
        fetchml_failpoint::reach("outbox.told");
        self.app.store.commit(vec![Write::Outbox(write)]).await?;
        Ok(true)
    }

    async fn tell(&self, delivery: &Delivery) -> Result<(), Untold> {
        if self.name.starts_with(MAIL_LANE) {
            return self.send_mail(delivery).await;
        }
        let _place = self.app.outbox.places.take(&self.user).await;
        // Looked up with the place: it may be no more, and its user's keys too.
        let Some(hook) = self.app.outbox.hooks.of_lane(&self.user, &self.name) else {
            return Err(Untold::Nobody(OutboxWrite::Done { lane: delivery.lane.clone(), seq: delivery.seq }));
        };
        let Hook { record, key: Some(key) } = &*hook else {
            return Err(Untold::Never("what signs its requests cannot be read any more; make a new webhook".into()));
        };
        if !self.app.keys.has_working(&self.user) {
            return Err(Untold::Never("its user had no key that works".into()));
        }
        let message = Message {
            url: &record.url,
            id: format!("{}-{}", delivery.lane, delivery.seq),
            body: &delivery.body,
            key,
            at_s: wall_clock().0 / SECOND,
        };
        self.app.outbox.requests.send(&message).await.map_err(Untold::Later)
    }

    /// Webhooks show their users what was given up; nobody else would say so of mail.
    fn log(&self, write: &OutboxWrite) {
        if let OutboxWrite::Attempted(Delivery { failed_at: Some(_), error: Some(why), seq, .. }) = write {
            tracing::warn!(lane = self.name, seq, why, "something could not be told, and is given up");
        }
    }

    async fn send_mail(&self, delivery: &Delivery) -> Result<(), Untold> {
        let Some(mailer) = &self.app.outbox.mailer else {
            return Err(Untold::Never("this server sends no mail any more".into()));
        };
        let letter: Letter =
            serde_json::from_str(&delivery.body).map_err(|_| Untold::Never("it cannot be read any more".into()))?;
        if !mailer.allows(&letter.to) {
            return Err(Untold::Never("mail may not go to its address any more".into()));
        }
        let _place = self.app.outbox.mails.acquire().await.expect("it is never closed");
        mailer.send(&letter, &format!("fetchml-{}-{}", self.user, delivery.seq)).await.map_err(|unsent| match unsent {
            Unsent::Later(why) => Untold::Later(why),
            Unsent::Never(why) => Untold::Never(why),
        })
    }

    fn after_failure(&self, delivery: Delivery, why: String) -> Delivery {
        let now = wall_clock();
        let times = self.app.outbox.times;
        let attempts = delivery.attempts.saturating_add(1);
        let failed = Delivery { attempts, error: Some(why), ..delivery };
        let is_old = now.since(failed.created_at) > limits::DELIVERY_AGE_MAX_S * SECOND;
        if is_old || attempts >= times.attempts_max {
            return Delivery { failed_at: Some(now), ..failed };
        }
        let pause = jittered(pause_after(attempts, times.retry_first, times.retry_longest));
        let next_at = Micros(now.0.saturating_add(i64::try_from(pause.as_micros()).unwrap_or(i64::MAX)));
        Delivery { next_at, ..failed }
    }
}

/// Why something was not told.
enum Untold {
    /// Another attempt may tell it.
    Later(String),
    /// No attempt will.
    Never(String),
    /// Nobody hears of it any more.
    Nobody(OutboxWrite),
}

fn given_up(delivery: Delivery, why: String) -> Delivery {
    let attempts = delivery.attempts.saturating_add(1);
    Delivery { attempts, failed_at: Some(wall_clock()), error: Some(why), ..delivery }
}

/// Twice as long after each failure.
fn pause_after(failures: u32, first: Duration, longest: Duration) -> Duration {
    first.saturating_mul(1 << failures.saturating_sub(1).min(30)).min(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let seconds = |failures| pause_after(failures, Duration::from_secs(2), Duration::from_secs(50)).as_secs();
        assert_eq!([1, 2, 3, 4, 5, 6, 7, u32::MAX].map(seconds), [2, 4, 8, 16, 32, 50, 50, 50]);
    }
}
