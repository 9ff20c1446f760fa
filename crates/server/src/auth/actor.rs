//! Who does something, and from where, as the audit log tells it.

use super::keys::wall_clock;
use fetchml_api::{AuditDraft, AuditKind, KeyId};
use std::{collections::BTreeMap, net::IpAddr};

/// The key that an event is about, and whether its secret was right.
const KEY_ID: &str = "key_id";
const VERIFIED: &str = "verified";

/// Who does something.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Actor {
    /// The user.
    pub user_id: String,
    /// The key whose secret was shown; none: the server by itself.
    pub key: Option<KeyId>,
    /// Address that the request came from.
    pub ip: Option<IpAddr>,
}

impl Actor {
    /// The server by itself.
    pub fn system() -> Self {
        Self { user_id: "system".into(), key: None, ip: None }
    }

    /// An event of what it did.
    pub fn did(&self, kind: AuditKind, action: &str, resource: String) -> AuditDraft {
        let mut draft = AuditDraft {
            at: wall_clock(),
            kind,
            user_id: self.user_id.clone(),
            resource,
            action: action.to_owned(),
            success: true,
            ip_address: None,
            error: None,
            metadata: BTreeMap::new(),
        };
        self.sign(&mut draft);
        draft
    }

    /// Adds to an event of what it did by which key, and from where.
    pub fn sign(&self, draft: &mut AuditDraft) {
        draft.ip_address = self.ip.map(|ip| ip.to_string());
        if let Some(key) = &self.key {
            name_key(draft, key, true);
        }
    }
}

/// Adds to an event which key it is about, and whether its secret was shown.
pub(super) fn name_key(draft: &mut AuditDraft, key: &KeyId, verified: bool) {
    draft.metadata.insert(KEY_ID.into(), key.to_string());
    draft.metadata.insert(VERIFIED.into(), verified.to_string());
}
