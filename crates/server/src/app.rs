//! What every handler shares.

use crate::{
    auth::{AuthAudit, Caller, Keys},
    blobs::Blobs,
    changes::Changes,
    driver::Driver,
    error::AppError,
    instruments::Instruments,
    limits,
    link::Sessions,
    log_rules::LogRules,
    logs::Logs,
    metrics::Metrics,
    options::Options,
    outbox::Outbox,
    retention::Collector,
    secrets::Secrets,
    verification::Verifications,
    ws::Tickets,
};
use fetchml_api::{AuditDraft, AuditKind, HealthStatus};
use fetchml_store::{Store, Write};
use std::sync::Arc;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

/// The server's parts.
pub struct App {
    /// Durable state.
    pub store: Store,
    /// Owner of the scheduling core.
    pub driver: Driver,
    /// API keys.
    pub keys: Keys,
    /// Events of authentication.
    pub auth_audit: AuthAudit,
    /// Blobs.
    pub blobs: Blobs,
    /// Logs of attempts.
    pub logs: Logs,
    pub(crate) log_rules: LogRules,
    /// Metrics of attempts.
    pub metrics: Metrics,
    pub(crate) secrets: Secrets,
    /// What the server measures of itself.
    pub(crate) instruments: Arc<Instruments>,
    /// Sessions of workers.
    pub(crate) sessions: Sessions,
    /// The log of changes, for streams.
    pub changes: Changes,
    /// Collects what is not needed any more.
    pub collector: Collector,
    /// Verifications of the audit log.
    pub(crate) verifications: Verifications,
    /// Settings.
    pub options: Options,
    /// Cancelled when the server stops: streams and sessions end.
    pub stop: CancellationToken,
    pub(crate) tickets: Tickets,
    pub(crate) outbox: Outbox,
    pub(crate) manifests: Semaphore,
    /// Places of requests that are worked on.
    pub(crate) requests: Semaphore,
    /// Turns for reads that may look through all tasks.
    scans: Semaphore,
    /// Places for requests that wait for a task to change.
    pub(crate) task_waits: Semaphore,
    pub(crate) document: bytes::Bytes,
}

impl App {
    /// Joins the parts.
    pub(crate) fn new(parts: Parts, options: Options, document: bytes::Bytes) -> Arc<Self> {
        let Parts {
            store,
            driver,
            keys,
            auth_audit,
            blobs,
            logs,
            log_rules,
            metrics,
            collector,
            stop,
            secrets,
            instruments,
            outbox,
        } = parts;
        let manifests = Semaphore::new(limits::MANIFESTS_AT_ONCE);
        let requests = Semaphore::new(options.requests_at_once);
        let scans = Semaphore::new(limits::SCANS_AT_ONCE);
        let task_waits = Semaphore::new(options.requests_at_once / limits::TASK_WAITS_PART);
        let changes = Changes::new(&store);
        let verifications = Verifications::new(store.clone(), stop.clone());
        Arc::new(Self {
            store,
            driver,
            keys,
            auth_audit,
            blobs,
            logs,
            log_rules,
            metrics,
            secrets,
            instruments,
            sessions: Sessions::default(),
            changes,
            collector,
            verifications,
            options,
            stop,
            tickets: Tickets::default(),
            outbox,
            manifests,
            requests,
            scans,
            task_waits,
            document,
        })
    }

    /// Records that a file was opened or stored; before the first byte is answered.
    ///
    /// # Errors
    /// It could not be recorded: nothing may be answered.
    pub async fn record_file_access(&self, caller: &Caller, action: &str, resource: String) -> Result<(), AppError> {
        self.store.commit(vec![Write::Audit(file_access(caller, action, resource))]).await?;
        Ok(())
    }

    /// How the server is, and why.
    pub async fn health(&self) -> (HealthStatus, Option<String>) {
        if let Err(cause) = self.store.probe_read().await {
            tracing::warn!(%cause, "the database cannot be read");
            return (HealthStatus::Unhealthy, Some("The database cannot be read.".into()));
        }
        match (self.driver.health(), self.verifications.alarm().or_else(|| self.collector.alarm())) {
            ((HealthStatus::Healthy, _), Some(alarm)) => (HealthStatus::Degraded, Some(alarm)),
            (health, _) => health,
        }
    }

    /// A turn for a read that may look through many rows: others need the store meanwhile.
    ///
    /// # Errors
    /// Others are at it for too long: `busy` says with what.
    pub(crate) async fn scan_turn(&self, busy: &str) -> Result<SemaphorePermit<'_>, AppError> {
        let turn = timeout(limits::SCAN_WAIT, self.scans.acquire()).await;
        let turn = turn.map_err(|_| AppError::Unavailable {
            reason: busy.into(),
            retry_after_s: u64::from(limits::RETRY_AFTER_S),
        })?;
        Ok(turn.expect("it is never closed"))
    }

    /// Resolves when streams of this caller must end: its key ended, or the server stops.
    pub async fn caller_gone(&self, caller: &Caller) {
        tokio::select! {
            () = caller.key_ended() => {}
            () = self.stop.cancelled() => {}
        }
    }
}

/// Parts of an [`App`].
pub(crate) struct Parts {
    pub(crate) store: Store,
    pub(crate) driver: Driver,
    pub(crate) keys: Keys,
    pub(crate) auth_audit: AuthAudit,
    pub(crate) blobs: Blobs,
    pub(crate) logs: Logs,
    pub(crate) log_rules: LogRules,
    pub(crate) metrics: Metrics,
    pub(crate) collector: Collector,
    pub(crate) secrets: Secrets,
    pub(crate) instruments: Arc<Instruments>,
    pub(crate) outbox: Outbox,
    pub(crate) stop: CancellationToken,
}

/// A `file_access` event.
pub(crate) fn file_access(caller: &Caller, action: &str, resource: String) -> AuditDraft {
    caller.did(AuditKind::FileAccess, action, resource)
}
