//! The keys of the server: all of them in memory, verified without touching the database.

use super::{
    Actor, key,
    rate::{Bucket, Failures, Standing},
};
use crate::{
    limits,
    options::{Rate, RateLimits, Visibility},
};
use fetchml_api::{AuditDraft, AuditKind, KeyId, KeyInfo, KeyRecord, Micros, Role};
use fetchml_store::{Store, StoreError, Write};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, RwLock},
    time::Duration,
};
use subtle::ConstantTimeEq as _;
use tokio_util::sync::CancellationToken;

/// Who makes a request, and through which key.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The key.
    pub key: KeyId,
    /// The user it acts for.
    pub user_id: String,
    /// What it may do.
    pub role: Role,
    /// Address of the peer.
    pub ip: Option<IpAddr>,
    /// When the key stops working by itself.
    pub expires_at: Option<Micros>,
    revoked: CancellationToken,
}

impl Caller {
    /// Whether it may see values of environments of that user's tasks: the user may, but by no key that only looks.
    pub fn sees_env_of(&self, owner: &str) -> bool {
        self.user_id == owner && self.role != Role::Viewer
    }

    /// Whether it may see what that user's tasks run, write and leave.
    pub fn sees_content_of(&self, owner: &str, visibility: Visibility) -> bool {
        match visibility {
            Visibility::Lab => true,
            Visibility::Private => self.user_id == owner || matches!(self.role, Role::Admin | Role::Operator),
        }
    }

    /// As the audit log tells of it.
    pub fn actor(&self) -> Actor {
        Actor { user_id: self.user_id.clone(), key: Some(self.key.clone()), ip: self.ip }
    }

    /// An audit event of what this caller did.
    pub fn did(&self, kind: AuditKind, action: &str, resource: String) -> AuditDraft {
        self.actor().did(kind, action, resource)
    }

    /// Whether the key works no more.
    pub fn key_has_ended(&self) -> bool {
        self.revoked.is_cancelled() || self.expires_at.is_some_and(|at| at <= wall_clock())
    }

    /// Resolves when the key is revoked or expires: every stream and session of it must end then.
    pub async fn key_ended(&self) {
        let expired = async {
            match self.expires_at {
                None => std::future::pending().await,
                Some(at) => loop {
                    let left = Duration::from_micros(at.since(wall_clock()).max(0) as u64);
                    if left.is_zero() {
                        return;
                    }
                    // Looked at anew: the wall clock may jump, the timer runs on.
                    tokio::time::sleep(left.min(limits::KEY_LOOK_EVERY)).await;
                },
            }
        };
        tokio::select! {
            () = self.revoked.cancelled() => {}
            () = expired => {}
        }
    }
}

/// Why a key is not accepted. The caller is not told which.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeyError {
    /// Wrong form or checksum: never looked up.
    Malformed,
    /// No such key, or the wrong secret.
    Unknown,
    /// It was revoked.
    Revoked,
    /// Its time is over.
    Expired,
}

impl KeyError {
    /// For the audit log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed key",
            Self::Unknown => "unknown key",
            Self::Revoked => "revoked key",
            Self::Expired => "expired key",
        }
    }
}

struct Entry {
    record: KeyRecord,
    revoked: CancellationToken,
    bucket: Bucket,
}

struct Inner {
    store: Store,
    pepper: [u8; 32],
    limits: Option<RateLimits>,
    table: RwLock<HashMap<KeyId, Arc<Entry>>>,
    failures: Failures,
}

/// The table of keys. Cheap to clone.
#[derive(Clone)]
pub struct Keys(Arc<Inner>);

/// What a new key is made from.
#[derive(Clone, Debug)]
pub struct NewKey {
    /// The user it acts for.
    pub user_id: String,
    /// What it may do.
    pub role: Role,
    /// A label for people.
    pub name: Option<String>,
    /// When it stops working by itself.
    pub expires_at: Option<Micros>,
}

/// What became of a request to revoke a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Revoked {
    /// It works no more.
    Now,
    /// It was revoked before.
    Before,
    /// There is no such key.
    Unknown,
    /// It is the last admin key that works: nobody could make another.
    LastAdmin,
}

impl Keys {
    /// Reads all keys.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn load(store: Store, pepper: [u8; 32], limits: Option<RateLimits>) -> Result<Self, StoreError> {
        let records = store.keys().await?;
        let keys = Self(Arc::new(Inner {
            store,
            pepper,
            limits,
            table: RwLock::new(HashMap::new()),
            failures: Failures::default(),
        }));
        for record in records {
            keys.enter(record);
        }
        Ok(keys)
    }

    fn enter(&self, record: KeyRecord) {
        let revoked = CancellationToken::new();
        if record.revoked_at.is_some() {
            revoked.cancel();
        }
        let bucket = Bucket::full(self.rate(record.role).unwrap_or(Rate { per_second: 1, burst: 1 }));
        let entry = Arc::new(Entry { record, revoked, bucket });
        self.table_mut().insert(entry.record.id.clone(), entry);
    }

    fn rate(&self, role: Role) -> Option<Rate> {
        let limits = self.0.limits.as_ref()?;
        match role {
            Role::Admin => Some(limits.admin),
            Role::Operator => Some(limits.operator),
            Role::User => Some(limits.user),
            Role::Viewer => Some(limits.viewer),
            Role::Worker => None,
        }
    }

    fn table(&self) -> std::sync::RwLockReadGuard<'_, HashMap<KeyId, Arc<Entry>>> {
        self.0.table.read().expect("no code panics while it holds the table")
    }

    fn table_mut(&self) -> std::sync::RwLockWriteGuard<'_, HashMap<KeyId, Arc<Entry>>> {
        self.0.table.write().expect("no code panics while it holds the table")
    }

    fn digest(&self, key: &str) -> Vec<u8> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0.pepper).expect("HMAC takes keys of any length");
        mac.update(key.as_bytes());
        mac.finalize().into_bytes().to_vec()
    }

    /// Accepts or refuses a key.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn verify(&self, key: &str, ip: Option<IpAddr>) -> Result<Caller, KeyError> {
        let id = key::parse(key).ok_or(KeyError::Malformed)?;
        let entry = self.table().get(&id).cloned();
        // The digest is computed and compared for unknown ids too, so that both take the same time.
        let digest = self.digest(key);
        let known = entry.as_ref().map_or(&[0_u8; 32][..], |e| &e.record.digest);
        let equal = bool::from(digest.as_slice().ct_eq(known));
        let Some(entry) = entry.filter(|_| equal) else { return Err(KeyError::Unknown) };
        if entry.revoked.is_cancelled() {
            return Err(KeyError::Revoked);
        }
        let record = &entry.record;
        if record.expires_at.is_some_and(|at| at <= wall_clock()) {
            return Err(KeyError::Expired);
        }
        Ok(Caller {
            key: id,
            user_id: record.user_id.clone(),
            role: record.role,
            ip,
            expires_at: record.expires_at,
            revoked: entry.revoked.clone(),
        })
    }

    /// Takes a token of the key's bucket; none: the key is not limited.
    pub(crate) fn take_token(&self, caller: &Caller) -> Option<Standing> {
        let rate = self.rate(caller.role)?;
        let entry = self.table().get(&caller.key).cloned()?;
        Some(entry.bucket.take(rate, std::time::Instant::now()))
    }

    pub(crate) fn failures(&self) -> &Failures {
        &self.0.failures
    }

    /// Makes a key; its secret is in the answer and nowhere else.
    ///
    /// # Errors
    /// It could not be stored.
    pub async fn create(&self, new: NewKey, by: &Actor) -> Result<(String, KeyInfo), StoreError> {
        let (id, key) = key::generate().map_err(|e| StoreError::Unavailable(format!("no random numbers: {e}")))?;
        let record = KeyRecord {
            id: id.clone(),
            user_id: new.user_id,
            role: new.role,
            name: new.name,
            digest: self.digest(&key),
            created_at: wall_clock(),
            expires_at: new.expires_at,
            revoked_at: None,
        };
        let mut audit = by.did(AuditKind::AuthAttempt, "key_create", format!("keys/{id}"));
        audit.metadata.insert("role".into(), record.role.as_str().into());
        audit.metadata.insert("user_id".into(), record.user_id.clone());
        self.0.store.commit(vec![Write::KeyInsert(record.clone()), Write::Audit(audit)]).await?;
        let info = info(&record);
        self.enter(record);
        Ok((key, info))
    }

    /// Stops a key, everywhere, before this returns.
    ///
    /// # Errors
    /// It could not be stored; the key still works.
    pub async fn revoke(&self, id: &KeyId, by: &Actor) -> Result<Revoked, StoreError> {
        let Some(entry) = self.table().get(id).cloned() else { return Ok(Revoked::Unknown) };
        if entry.revoked.is_cancelled() {
            return Ok(Revoked::Before);
        }
        if entry.record.role == Role::Admin && !self.has_admin_besides(id) {
            return Ok(Revoked::LastAdmin);
        }
        let at = wall_clock();
        let audit = by.did(AuditKind::AuthAttempt, "key_revoke", format!("keys/{id}"));
        self.0.store.commit(vec![Write::KeyRevoke { id: id.clone(), at }, Write::Audit(audit)]).await?;
        let record = KeyRecord { revoked_at: Some(at), ..entry.record.clone() };
        entry.revoked.cancel();
        self.enter(record);
        Ok(Revoked::Now)
    }

    fn has_admin_besides(&self, id: &KeyId) -> bool {
        let now = wall_clock();
        self.table().values().any(|e| e.record.role == Role::Admin && e.record.id != *id && works(&e.record, now))
    }

    /// Whether any admin key works.
    pub fn has_admin(&self) -> bool {
        self.has_admin_besides(&KeyId(String::new()))
    }

    /// Whether a user has any key that works.
    pub(crate) fn has_working(&self, user_id: &str) -> bool {
        let now = wall_clock();
        self.table().values().any(|entry| entry.record.user_id == user_id && works(&entry.record, now))
    }

    /// One key without its secret; none when there is no such key.
    pub fn show(&self, id: &KeyId) -> Option<KeyInfo> {
        self.table().get(id).map(|entry| info(&entry.record))
    }

    /// All keys without their secrets, newest first.
    pub fn list(&self) -> Vec<KeyInfo> {
        let mut keys: Vec<KeyInfo> = self.table().values().map(|e| info(&e.record)).collect();
        keys.sort_by(|a, b| b.created_at.cmp(&a.created_at).then_with(|| b.id.cmp(&a.id)));
        keys
    }
}

fn works(record: &KeyRecord, now: Micros) -> bool {
    record.revoked_at.is_none() && record.expires_at.is_none_or(|at| at > now)
}

fn info(record: &KeyRecord) -> KeyInfo {
    KeyInfo {
        id: record.id.clone(),
        user_id: record.user_id.clone(),
        role: record.role,
        name: record.name.clone(),
        created_at: record.created_at,
        expires_at: record.expires_at,
        revoked_at: record.revoked_at,
    }
}

/// The wall clock. Keys expire by it; nothing of the scheduler does.
pub(crate) fn wall_clock() -> Micros {
    Micros(jiff::Timestamp::now().as_microsecond())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_key_ends_when_it_expires_and_not_before() {
        let caller = |expires_at| Caller {
            key: KeyId("a".into()),
            user_id: "ada".into(),
            role: Role::User,
            ip: None,
            expires_at,
            revoked: CancellationToken::new(),
        };
        let at = wall_clock().plus_seconds(2);
        caller(Some(at)).key_ended().await;
        assert!(wall_clock() >= at);
        let lasts = caller(None);
        tokio::select! {
            biased;
            () = lasts.key_ended() => panic!("it has no end"),
            () = std::future::ready(()) => {}
        }
        lasts.revoked.cancel();
        lasts.key_ended().await;
    }
}
