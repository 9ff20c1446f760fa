//! Audit events of authentication: a success once an hour per key and address, failures ten a
//! minute per address and then one sum. Written behind the request by one task with a bounded queue.

use super::{
    Operation,
    actor::name_key,
    keys::{Caller, KeyError, Keys, wall_clock},
    rate::Failures,
};
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
    denials: Failures,
}

impl AuthAudit {
    /// Starts the writing task; it ends, after what is queued, when `stop` is cancelled.
    pub(crate) fn start(store: Store, keys: Keys, stop: CancellationToken) -> (Self, tokio::task::JoinHandle<()>) {
        let (queue, waiting) = mpsc::channel(limits::AUTH_AUDIT_QUEUE);
        let audit = Self(Arc::new(Inner {
            queue,
            dropped: AtomicU64::new(0),
            recorded: Mutex::default(),
            denials: Failures::default(),
        }));
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
        self.send(caller.did(AuditKind::AuthAttempt, "authenticate", format!("keys/{}", caller.key)));
    }

    /// A key was refused and shall have an event of its own.
    pub(crate) fn refused(&self, why: Option<KeyError>, key: Option<&KeyId>, ip: Option<IpAddr>) {
        let mut draft = failure(ip, "authenticate", why.map_or("no key", KeyError::as_str));
        if let Some(key) = key {
            draft.resource = format!("keys/{key}");
            name_key(&mut draft, key, false);
        }
        self.send(draft);
    }

    /// A caller whose key is right was refused what it asked for. As many have an event of their own as of refused
    /// keys; the rest is counted.
    pub(crate) fn denied(&self, caller: &Caller, operation: Operation, path: &str) {
        let address = caller.ip.unwrap_or(IpAddr::from([0, 0, 0, 0]));
        let refusal = self.0.denials.note(address, u32::MAX, Instant::now());
        if refusal.uncounted_before > 0 {
            self.denials_counted(Some(address), refusal.uncounted_before);
        }
        if refusal.audited {
            let asked: String = path.trim_start_matches("/v1/").chars().take(limits::AUDIT_PATH_CHARS).collect();
            let mut draft = caller.did(AuditKind::AuthAttempt, "denied", asked);
            (draft.success, draft.error) = (false, Some("not with this key".into()));
            let (method, route) = operation.route();
            draft.metadata.insert("operation".into(), format!("{} {route}", method.to_uppercase()));
            self.send(draft);
        }
    }

    fn denials_counted(&self, ip: Option<IpAddr>, denials: u32) {
        self.send(sum(ip, "denied_more", "more was refused to right keys within one minute", denials.into()));
    }

    /// Refused keys that had no event of their own.
    pub(crate) fn counted(&self, ip: Option<IpAddr>, failures: u32) {
        self.send(sum(ip, "authenticate_failures", "more refused keys within one minute", failures.into()));
    }

    fn send(&self, draft: AuditDraft) {
        if self.0.queue.try_send(draft).is_err() {
            self.0.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// What nobody known did.
fn failure(ip: Option<IpAddr>, action: &str, why: &str) -> AuditDraft {
    AuditDraft {
        at: wall_clock(),
        kind: AuditKind::AuthAttempt,
        user_id: "unknown".into(),
        resource: "keys".into(),
        action: action.into(),
        success: false,
        ip_address: ip.map(|ip| ip.to_string()),
        error: Some(why.into()),
        metadata: BTreeMap::new(),
    }
}

/// So many failures that have no event of their own.
fn sum(ip: Option<IpAddr>, action: &str, why: &str, count: u64) -> AuditDraft {
    let mut draft = failure(ip, action, why);
    draft.metadata.insert("count".into(), count.to_string());
    draft
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
                for (address, denials) in audit.0.denials.take_ended(Instant::now()) {
                    audit.denials_counted(Some(address), denials);
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
        let why = "events of authentication that found the queue full";
        drafts.push(sum(None, "authenticate_dropped", why, dropped));
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
