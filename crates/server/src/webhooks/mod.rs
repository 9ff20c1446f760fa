//! Webhooks: made, listed and deleted by their users, and one task each that delivers ([`delivery`]).
//!
//! What a webhook's requests are signed with is derived from the server's pepper and its id, so that nothing
//! secret is stored.

mod delivery;
mod outgoing;

use crate::{
    app::{App, file_access},
    auth::{Caller, wall_clock},
    error::AppError,
    limits,
};
use fetchml_api::{CreateWebhookRequest, CreatedWebhook, Webhook, WebhookEvent, WebhookId};
use fetchml_store::{StoreError, Write};
use hmac::{Hmac, KeyInit as _, Mac as _};
use ipnet::IpNet;
use outgoing::Outgoing;
use sha2::Sha256;
use std::{collections::HashMap, sync::Arc};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

/// The webhooks.
pub(crate) struct Webhooks {
    pepper: [u8; 32],
    outgoing: Outgoing,
    /// Those that deliver, and what ends them. Held while one is made, so that counting and adding is one step.
    running: Mutex<HashMap<WebhookId, CancellationToken>>,
}

impl Webhooks {
    pub(crate) fn new(pepper: [u8; 32], allowed: &[IpNet]) -> Self {
        Self { pepper, outgoing: Outgoing::new(allowed), running: Mutex::default() }
    }

    /// Starts delivering to all that are stored.
    ///
    /// # Errors
    /// The store cannot be read.
    pub(crate) async fn start(app: &Arc<App>) -> Result<(), StoreError> {
        let stored = app.store.webhooks(None).await?;
        let mut running = app.webhooks.running.lock().await;
        for webhook in stored {
            begin(app, webhook, &mut running);
        }
        Ok(())
    }

    /// What is wrong with a URL, as far as can be said without asking anybody.
    pub(crate) fn url_problem(&self, url: &str) -> Option<String> {
        self.outgoing.problem(url)
    }

    /// Makes one. It hears of what happens from now on.
    ///
    /// # Errors
    /// There are too many, or the store cannot be written.
    pub(crate) async fn create(
        app: &Arc<App>,
        caller: &Caller,
        request: CreateWebhookRequest,
    ) -> Result<CreatedWebhook, AppError> {
        let mut running = app.webhooks.running.lock().await;
        let own = app.store.webhooks(Some(&caller.user_id)).await?.len();
        if own >= limits::WEBHOOKS_PER_USER || running.len() >= limits::WEBHOOKS_MAX {
            return Err(AppError::Conflict {
                error: format!("You have {own} webhooks, and there are {} in all: no more can be made.", running.len()),
                hint: Some("Delete one that is not needed any more.".into()),
            });
        }
        let CreateWebhookRequest { url, mut events } = request;
        if events.is_empty() {
            events = WebhookEvent::DEFAULT.to_vec();
        }
        events.sort_unstable();
        events.dedup();
        let webhook = Webhook {
            id: WebhookId(uuid::Uuid::now_v7()),
            user_id: caller.user_id.clone(),
            url,
            events,
            created_at: wall_clock(),
            place: *app.changes.head().borrow(),
            failures: 0,
            next_attempt_at: None,
            error: None,
        };
        let audit = file_access(caller, "webhook_create", format!("webhooks/{}", webhook.id));
        app.store.commit(vec![Write::WebhookInsert(webhook.clone()), Write::Audit(audit)]).await?;
        begin(app, webhook.clone(), &mut running);
        Ok(CreatedWebhook { secret: app.webhooks.secret_of(webhook.id), webhook })
    }

    /// Deletes one; nothing is delivered to it any more.
    ///
    /// # Errors
    /// The store cannot be written.
    pub(crate) async fn delete(&self, app: &App, caller: &Caller, id: WebhookId) -> Result<(), AppError> {
        let mut running = self.running.lock().await;
        let audit = file_access(caller, "webhook_delete", format!("webhooks/{id}"));
        app.store.commit(vec![Write::WebhookDelete(id), Write::Audit(audit)]).await?;
        if let Some(stop) = running.remove(&id) {
            stop.cancel();
        }
        Ok(())
    }

    fn secret_of(&self, id: WebhookId) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.pepper).expect("HMAC takes keys of any length");
        mac.update(format!("fetchml/webhook/v1\n{id}").as_bytes());
        format!("fmw_{}", hex::encode(mac.finalize().into_bytes()))
    }
}

fn begin(app: &Arc<App>, webhook: Webhook, running: &mut HashMap<WebhookId, CancellationToken>) {
    let stop = CancellationToken::new();
    running.insert(webhook.id, stop.clone());
    let app = Arc::clone(app);
    tokio::spawn(async move {
        let stopping = app.stop.clone();
        tokio::select! {
            () = delivery::run(Arc::clone(&app), webhook) => {}
            () = stop.cancelled() => {}
            () = stopping.cancelled() => {}
        }
    });
}
