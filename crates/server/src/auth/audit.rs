//! Audit events of authentication: a success once an hour per key and address, failures ten a
//! minute per address and then one sum. Written behind the request by one task with a bounded queue.

use super::keys::{Caller, KeyError, Keys, wall_clock};
use crate::limits;
use fetchml_api::{AuditDraft, AuditKind, KeyId, Micros};
use fetchml_store::{Store, Write};
use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Where authentication reports. Cheap to clone.
#[derive(Clone)]
pub struct AuthAudit(Arc<Inner>);

struct Inner {
    queue: mpsc::Sender<AuditDraft>,
    dropped: AtomicU64,
    recorded: Mutex<HashMap<(KeyId, Option<IpAddr>), Micros>>,
}

impl AuthAudit {
    /// Starts the writing task; it ends, after what is queued, when `stop` is cancelled.
    pub(crate) fn start(store: Store, keys: Keys, stop: CancellationToken) -> (Self, tokio::task::JoinHandle<()>) {
        let (queue, waiting) = mpsc::channel(limits::AUTH_AUDIT_QUEUE);
        let audit = Self(Arc::new(Inner { queue, dropped: AtomicU64::new(0), recorded: Mutex::new(HashMap::new()) }));
        let task = tokio::spawn(write(audit.clone(), store, keys, waiting, stop));
        (audit, task)
    }

    /// A key was accepted.
    pub(crate) fn accepted(&self, caller: &Caller) {
        let now = wall_clock();
        {
            let mut recorded = self.0.recorded.lock().expect("no code panics while it holds the map");
            let stale = |at: &Micros| at.plus_seconds(limits::AUTH_SUCCESS_RECORDED_EVERY_S) <= now;
            let place = (caller.key.clone(), caller.ip);
            if recorded.get(&place).is_some_and(|at| !stale(at)) {
                return;
            }
            if recorded.len() >= limits::ADDRESSES_MAX {
                recorded.retain(|_, at| !stale(at));
                if recorded.len() >= limits::ADDRESSES_MAX {
                    recorded.clear();
                }
            }
            recorded.insert(place, now);
        }
        self.send(AuditDraft {
            user_id: caller.user_id.clone(),
            resource: format!("keys/{}", caller.key),
            ..event(now, caller.ip, "authenticate", true)
        });
    }

    /// A key was refused and shall have an event of its own.
    pub(crate) fn refused(&self, why: Option<KeyError>, key: Option<&KeyId>, ip: Option<IpAddr>) {
        self.send(AuditDraft {
            resource: key.map_or_else(|| "keys".to_owned(), |id| format!("keys/{id}")),
            error: Some(why.map_or("no key", KeyError::as_str).to_owned()),
            ..event(wall_clock(), ip, "authenticate", false)
        });
    }

    /// Refused keys that had no event of their own.
    pub(crate) fn counted(&self, ip: Option<IpAddr>, failures: u32) {
        let mut draft = event(wall_clock(), ip, "authenticate_failures", false);
        draft.error = Some("more refused keys within one minute".into());
        draft.metadata.insert("count".into(), failures.to_string());
        self.send(draft);
    }

    fn send(&self, draft: AuditDraft) {
        if self.0.queue.try_send(draft).is_err() {
            self.0.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn event(at: Micros, ip: Option<IpAddr>, action: &str, success: bool) -> AuditDraft {
    AuditDraft {
        at,
        kind: AuditKind::AuthAttempt,
        user_id: "unknown".into(),
        resource: "keys".into(),
        action: action.into(),
        success,
        ip_address: ip.map(|ip| ip.to_string()),
        error: None,
        metadata: BTreeMap::new(),
    }
}

async fn write(
    audit: AuthAudit,
    store: Store,
    keys: Keys,
    mut waiting: mpsc::Receiver<AuditDraft>,
    stop: CancellationToken,
) {
    let mut minute = tokio::time::interval(Duration::from_secs(15));
    let mut drafts = Vec::new();
    loop {
        tokio::select! {
            _ = waiting.recv_many(&mut drafts, 256) => {}
            _ = minute.tick() => {
                for (address, failures) in keys.failures().take_ended(Instant::now()) {
                    audit.counted(Some(address), failures);
                }
                continue;
            }
            () = stop.cancelled() => {
                waiting.close();
                while waiting.recv_many(&mut drafts, 256).await > 0 {}
                commit(&audit, &store, &mut drafts).await;
                return;
            }
        }
        commit(&audit, &store, &mut drafts).await;
    }
}

async fn commit(audit: &AuthAudit, store: &Store, drafts: &mut Vec<AuditDraft>) {
    let dropped = audit.0.dropped.swap(0, Ordering::Relaxed);
    if dropped > 0 {
        let mut draft = event(wall_clock(), None, "authenticate_dropped", false);
        draft.error = Some("events of authentication that found the queue full".into());
        draft.metadata.insert("count".into(), dropped.to_string());
        drafts.push(draft);
    }
    if drafts.is_empty() {
        return;
    }
    let lost = drafts.len() as u64;
    if let Err(cause) = store.commit(drafts.drain(..).map(Write::Audit).collect()).await {
        audit.0.dropped.fetch_add(lost, Ordering::Relaxed);
        tracing::warn!(%cause, lost, "events of authentication could not be stored; they are counted");
    }
}
