//! The webhooks: made, listed and deleted by their users, and kept in memory for the look at each change.
//!
//! What a webhook's requests are signed with is drawn here, shown once and stored sealed, as the secrets of users are.

use super::Outbox;
use crate::{
    app::{App, file_access},
    auth::{Caller, wall_clock},
    error::AppError,
    limits,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use fetchml_api::{CreateWebhookRequest, SecretRecord, SecretText, Webhook, WebhookEvent, WebhookId};
use fetchml_store::{OutboxWrite, StoreError, WebhookRecord, Write};
use secrecy::zeroize::Zeroizing;
use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};
use tokio::sync::Mutex;

/// What begins the text of a key that signs.
const SECRET_PREFIX: &str = "whsec_";
/// Bytes of such a key.
const SECRET_BYTES: usize = 32;
/// The name under which it is sealed: no variable may have it, so no user's secret can stand in for it.
const SEALED_AS: &str = "webhook/signature";

/// A webhook that is told of things.
pub(super) struct Hook {
    pub(super) record: WebhookRecord,
    /// The key that signs; none when it cannot be read any more.
    pub(super) key: Option<Zeroizing<Vec<u8>>>,
}

impl Hook {
    fn new(app: &App, record: WebhookRecord) -> Self {
        let key = app.secrets.open(&sealed(&record)).map(|secret| key_of(&secret));
        let key = key.unwrap_or_else(|error| {
            tracing::error!(webhook = %record.id, %error, "the key of a webhook cannot be read");
            None
        });
        Self { record, key }
    }

    /// Whether it is told of what change number `seq` shows.
    pub(super) fn wants(&self, event: WebhookEvent, seq: u64) -> bool {
        seq > self.record.since && self.record.events.contains(&event)
    }
}

/// All of them.
#[derive(Default)]
pub(crate) struct Hooks {
    by_user: RwLock<HashMap<String, Vec<Arc<Hook>>>>,
    /// One is made at a time, so that counting and adding is one step.
    making: Mutex<()>,
}

impl Hooks {
    /// Reads them from the store.
    pub(super) async fn load(&self, app: &App) -> Result<(), StoreError> {
        for record in app.store.webhooks().await? {
            self.add(Hook::new(app, record));
        }
        Ok(())
    }

    /// Those of a user.
    pub(super) fn of(&self, user: &str) -> Vec<Arc<Hook>> {
        self.by_user.read().unwrap_or_else(PoisonError::into_inner).get(user).cloned().unwrap_or_default()
    }

    /// The one that a lane is of.
    pub(super) fn of_lane(&self, user: &str, lane: &str) -> Option<Arc<Hook>> {
        let id: WebhookId = lane.parse().ok()?;
        self.of(user).into_iter().find(|hook| hook.record.id == id)
    }

    /// How many there are.
    fn count(&self) -> usize {
        self.by_user.read().unwrap_or_else(PoisonError::into_inner).values().map(Vec::len).sum()
    }

    fn add(&self, hook: Hook) {
        let mut by_user = self.by_user.write().unwrap_or_else(PoisonError::into_inner);
        by_user.entry(hook.record.user_id.clone()).or_default().push(Arc::new(hook));
    }

    fn remove(&self, user: &str, id: WebhookId) {
        let mut by_user = self.by_user.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(hooks) = by_user.get_mut(user) {
            hooks.retain(|hook| hook.record.id != id);
            if hooks.is_empty() {
                by_user.remove(user);
            }
        }
    }
}

impl Outbox {
    /// Makes a webhook, which hears of what happens from now on; and what signs its requests.
    ///
    /// # Errors
    /// There are too many, or the store cannot be written.
    pub(crate) async fn create(
        app: &App,
        caller: &Caller,
        request: CreateWebhookRequest,
    ) -> Result<(Webhook, SecretText), AppError> {
        let hooks = &app.outbox.hooks;
        let _one = hooks.making.lock().await;
        let (own, of_all) = (hooks.of(&caller.user_id).len(), hooks.count());
        if own >= limits::WEBHOOKS_PER_USER || of_all >= limits::WEBHOOKS_MAX {
            return Err(AppError::Conflict {
                error: format!("You have {own} webhooks, and there are {of_all} in all: no more can be made."),
                hint: Some("Delete one that is not needed any more.".into()),
            });
        }
        let secret = draw()?;
        let record = new_record(app, caller, request, &secret);
        let audit = file_access(caller, "webhook_create", resource(record.id));
        let insert = Write::Outbox(OutboxWrite::WebhookInsert(record.clone()));
        app.store.commit(vec![insert, Write::Audit(audit)]).await?;
        let webhook = shown(app, &record, caller).await?;
        hooks.add(Hook::new(app, record));
        Ok((webhook, secret))
    }

    /// The webhooks of a user, or of all, oldest first, as `caller` may see them.
    ///
    /// # Errors
    /// The store cannot be read.
    pub(crate) async fn list(app: &App, caller: &Caller, user: Option<&str>) -> Result<Vec<Webhook>, AppError> {
        let mut records: Vec<WebhookRecord> = {
            let by_user = app.outbox.hooks.by_user.read().unwrap_or_else(PoisonError::into_inner);
            let asked = by_user.iter().filter(|(owner, _)| user.is_none_or(|user| user == owner.as_str()));
            asked.flat_map(|(_, hooks)| hooks).map(|hook| hook.record.clone()).collect()
        };
        records.sort_unstable_by_key(|record| record.id);
        let mut webhooks = Vec::with_capacity(records.len());
        for record in records {
            webhooks.push(shown(app, &record, caller).await?);
        }
        Ok(webhooks)
    }

    /// Deletes a webhook: nothing is told to it any more, what waits included.
    ///
    /// # Errors
    /// The store cannot be written.
    pub(crate) async fn delete(app: &Arc<App>, caller: &Caller, record: &WebhookRecord) -> Result<(), AppError> {
        let audit = file_access(caller, "webhook_delete", resource(record.id));
        let delete = Write::Outbox(OutboxWrite::WebhookDelete(record.id));
        app.store.commit(vec![delete, Write::Audit(audit)]).await?;
        app.outbox.hooks.remove(&record.user_id, record.id);
        app.outbox.wake(app, record.id.to_string(), record.user_id.clone());
        Ok(())
    }
}

fn new_record(app: &App, caller: &Caller, request: CreateWebhookRequest, secret: &SecretText) -> WebhookRecord {
    let CreateWebhookRequest { url, mut events } = request;
    if events.is_empty() {
        events = WebhookEvent::DEFAULT.to_vec();
    }
    events.sort_unstable();
    events.dedup();
    let mut record = WebhookRecord {
        id: WebhookId(uuid::Uuid::now_v7()),
        user_id: caller.user_id.clone(),
        url,
        events,
        created_at: wall_clock(),
        since: *app.changes.head().borrow(),
        key_version: 0,
        sealed: Vec::new(),
    };
    let mut as_secret = sealed(&record);
    app.secrets.seal(&mut as_secret, secret);
    (record.key_version, record.sealed) = (as_secret.key_version, as_secret.sealed);
    record
}

/// As it is sealed.
fn sealed(record: &WebhookRecord) -> SecretRecord {
    SecretRecord {
        id: record.id.0,
        user_id: record.user_id.clone(),
        name: SEALED_AS.into(),
        created_at: record.created_at,
        updated_at: record.created_at,
        key_version: record.key_version,
        sealed: record.sealed.clone(),
    }
}

fn draw() -> Result<SecretText, AppError> {
    let mut key = Zeroizing::new([0; SECRET_BYTES]);
    getrandom::fill(&mut *key).map_err(|error| AppError::internal(format!("no random numbers: {error}")))?;
    Ok(format!("{SECRET_PREFIX}{}", STANDARD.encode(*key)).into())
}

fn key_of(secret: &SecretText) -> Option<Zeroizing<Vec<u8>>> {
    STANDARD.decode(secret.expose().strip_prefix(SECRET_PREFIX)?).ok().map(Zeroizing::new)
}

async fn shown(app: &App, record: &WebhookRecord, caller: &Caller) -> Result<Webhook, AppError> {
    let lane = record.id.to_string();
    let (waiting, failed) = app.store.lane_counts(&lane).await?;
    let last_error = if waiting + failed > 0 { app.store.delivery_last_error(&lane).await? } else { None };
    let url = if caller.user_id == record.user_id { record.url.clone() } else { origin(&record.url) };
    Ok(Webhook {
        id: record.id,
        user_id: record.user_id.clone(),
        url,
        events: record.events.clone(),
        created_at: record.created_at,
        waiting,
        failed,
        next_attempt_at: last_error.as_ref().filter(|last| last.failed_at.is_none()).map(|last| last.next_at),
        error: last_error.and_then(|last| last.error),
    })
}

/// The rest of a URL is often as good as a password.
fn origin(url: &str) -> String {
    reqwest::Url::parse(url).map_or_else(|_| "***".into(), |url| url.origin().ascii_serialization())
}

fn resource(id: WebhookId) -> String {
    format!("webhooks/{id}")
}
