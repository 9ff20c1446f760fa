//! Verifies the audit log: one verification at a time, a page of rows after the other over a connection for reads,
//! so that neither memory nor the writer feels how long the log is. What came of it is itself an audit event.

use crate::{
    auth::{Caller, wall_clock},
    limits,
};
use fetchml_api::{AuditDraft, AuditKind, VerificationProgress, VerificationResult};
use fetchml_audit::{Hash, Verdict, Verifier, parse_body};
use fetchml_store::{Store, StoreError, StoredAudit, Write};
use std::{
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Instant,
};
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

/// Why a verification has no result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VerificationError {
    /// Somebody stopped it: says who.
    #[error("it was stopped: {0}")]
    Cancelled(String),
    /// The server stops.
    #[error("the server stops")]
    Stopping,
    /// The log cannot be read, or the result cannot be recorded.
    #[error("the database cannot be used")]
    Store(#[from] StoreError),
}

/// The verifications of a server's log.
#[derive(Clone)]
pub(crate) struct Verifications(Arc<Inner>);

struct Inner {
    store: Store,
    stop: CancellationToken,
    /// Held by the one that runs.
    turn: Arc<tokio::sync::Mutex<()>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    running: Option<Cancel>,
    /// What the last whole verification found wrong.
    alarm: Option<String>,
}

/// Stops a verification, and remembers who did so first.
#[derive(Clone, Default)]
struct Cancel {
    token: CancellationToken,
    by: Arc<OnceLock<String>>,
}

impl Cancel {
    fn cancel(&self, by: &str) {
        let _ = self.by.set(by.to_owned());
        self.token.cancel();
    }
}

/// A verification that runs. Dropping it stops it.
pub(crate) struct Running {
    /// How far it is.
    pub(crate) progress: watch::Receiver<VerificationProgress>,
    outcome: oneshot::Receiver<Result<VerificationResult, VerificationError>>,
    cancel: Cancel,
}

impl Running {
    /// Waits for its end.
    pub(crate) async fn outcome(&mut self) -> Result<VerificationResult, VerificationError> {
        (&mut self.outcome).await.unwrap_or(Err(VerificationError::Stopping))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.cancel.cancel("nobody waits for its result any more");
    }
}

impl Verifications {
    pub(crate) fn new(store: Store, stop: CancellationToken) -> Self {
        Self(Arc::new(Inner { store, stop, turn: Arc::default(), state: Mutex::default() }))
    }

    /// Starts one; none while another runs.
    pub(crate) fn start(&self, caller: &Caller) -> Option<Running> {
        let turn = Arc::clone(&self.0.turn).try_lock_owned().ok()?;
        let cancel = Cancel::default();
        self.state().running = Some(cancel.clone());
        let (sequence, head) = self.0.store.audit_head();
        let (tell, progress) = watch::channel(VerificationProgress { checked_events: 0, total_events: sequence });
        let (end, outcome) = oneshot::channel();
        let (this, caller, stopped) = (self.clone(), caller.clone(), cancel.clone());
        tokio::spawn(async move {
            let found = this.verify(&stopped, (sequence, head), &tell).await;
            let progress = *tell.borrow();
            let recorded = this.record(&caller, &found, progress).await;
            this.state().running = None;
            drop(turn);
            // Nobody may wait any more.
            let _ = end.send(recorded.and(found));
        });
        Some(Running { progress, outcome, cancel })
    }

    /// Stops the one that runs; false: none does.
    ///
    /// # Errors
    /// It could not be recorded; it goes on.
    pub(crate) async fn cancel(&self, caller: &Caller) -> Result<bool, StoreError> {
        let Some(running) = self.state().running.clone() else { return Ok(false) };
        let draft = caller.did(AuditKind::AuditVerified, "verify_stop", "audit".into());
        self.0.store.commit(vec![Write::Audit(draft)]).await?;
        running.cancel(&format!("by {}", caller.user_id));
        Ok(true)
    }

    /// Waits for the one that runs, which the server's stop cuts off at its next page.
    pub(crate) async fn settled(&self) {
        drop(self.0.turn.lock().await);
    }

    /// What the last whole verification found wrong.
    pub(crate) fn alarm(&self) -> Option<String> {
        self.state().alarm.clone()
    }

    async fn verify(
        &self,
        cancel: &Cancel,
        (total, head): (u64, Hash),
        tell: &watch::Sender<VerificationProgress>,
    ) -> Result<VerificationResult, VerificationError> {
        let mut reading = Reading::new(&self.0.store.log_id());
        let mut told = Instant::now();
        loop {
            if self.0.stop.is_cancelled() {
                return Err(VerificationError::Stopping);
            }
            if cancel.token.is_cancelled() {
                let by = cancel.by.get().cloned().unwrap_or_default();
                return Err(VerificationError::Cancelled(by));
            }
            let limit = u32::try_from(total.saturating_sub(reading.last.unwrap_or(0))).unwrap_or(u32::MAX);
            let rows = self.0.store.audit_stored(reading.last, limit.min(limits::VERIFY_ROWS)).await?;
            let Some(last) = rows.last().map(|stored| stored.row.sequence) else { break };
            // Hashing a page takes milliseconds: others need this thread.
            let hashed = tokio::task::spawn_blocking(move || reading.take(&rows, total)).await;
            let Ok(taken) = hashed else { return Err(VerificationError::Stopping) };
            reading = taken;
            reading.last = Some(last);
            if told.elapsed() >= limits::VERIFY_TOLD_EVERY {
                tell.send_modify(|progress| progress.checked_events = reading.checked);
                told = Instant::now();
            }
        }
        tell.send_modify(|progress| progress.checked_events = reading.checked);
        Ok(reading.result(total, &head))
    }

    /// Writes what came of it into the log, before anybody is told.
    async fn record(
        &self,
        caller: &Caller,
        found: &Result<VerificationResult, VerificationError>,
        progress: VerificationProgress,
    ) -> Result<(), VerificationError> {
        let mut draft: AuditDraft = caller.did(AuditKind::AuditVerified, "verify", "audit".into());
        let mut tell = |name: &str, value: String| drop(draft.metadata.insert(name.into(), value));
        tell("checked_events", progress.checked_events.to_string());
        tell("total_events", progress.total_events.to_string());
        match found {
            Ok(result) => {
                tell("chain_root_hash", result.chain_root_hash.clone());
                let alarm = result.first_tampered.map(|first| {
                    tell("first_tampered", first.to_string());
                    format!("The audit log does not verify: event {first} is not proven unchanged.")
                });
                if let Some(alarm) = &alarm {
                    tracing::error!(checked = result.checked_events, total = result.total_events, "{alarm}");
                }
                (draft.success, draft.error) = (alarm.is_none(), alarm.clone());
                self.state().alarm = alarm;
            }
            Err(error) => (draft.success, draft.error) = (false, Some(error.to_string())),
        }
        self.0.store.commit(vec![Write::Audit(draft)]).await?;
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Whole after each line that changes it.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The log as far as it was read.
struct Reading {
    verifier: Verifier,
    /// Number of the last row that was read.
    last: Option<u64>,
    checked: u64,
    /// The first row whose columns say something else than its body.
    disagrees: Option<u64>,
}

impl Reading {
    fn new(log_id: &str) -> Self {
        Self { verifier: Verifier::new(log_id), last: None, checked: 0, disagrees: None }
    }

    /// Takes a page of a log that had `total` events when the verification began.
    fn take(mut self, rows: &[StoredAudit], total: u64) -> Self {
        for stored in rows.iter().filter(|stored| stored.row.sequence <= total) {
            self.checked += 1;
            let holds = self.verifier.push(&stored.row);
            if holds && self.disagrees.is_none() {
                let agrees = parse_body(&stored.row.body).is_ok_and(|body| stored.agrees_with(&body));
                self.disagrees = (!agrees).then_some(stored.row.sequence);
            }
        }
        self
    }

    /// What was found, against the end that the log had in memory when the verification began.
    fn result(self, total: u64, head: &Hash) -> VerificationResult {
        let Verdict { head: found, first_tampered, .. } = self.verifier.finish();
        let complete = self.last.unwrap_or(0).min(total);
        let end = if complete < total {
            Some(complete + 1)
        } else {
            // Each event fits the one before, and the last is another than what was committed: any may be another.
            (found != *head).then_some(1)
        };
        let first_tampered = [first_tampered.or(end), self.disagrees].into_iter().flatten().min();
        VerificationResult {
            valid: first_tampered.is_none(),
            total_events: total,
            checked_events: self.checked,
            first_tampered,
            chain_root_hash: hex::encode(found),
            verified_at: wall_clock(),
        }
    }
}

#[cfg(test)]
mod tests;
