//! Which key each linked worker came in with: what tells that a request is a worker's own.

use fetchml_api::{KeyId, WorkerId};
use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// The open sessions. One for each worker: a later one takes the place of an earlier.
#[derive(Debug, Default)]
pub struct Sessions(Mutex<HashMap<WorkerId, (u64, KeyId)>>);

impl Sessions {
    /// The key of a worker's session; `None` when it has none.
    pub fn key_of(&self, worker: WorkerId) -> Option<KeyId> {
        self.table().get(&worker).map(|(_, key)| key.clone())
    }

    pub(super) fn began(&self, worker: WorkerId, session: u64, key: KeyId) {
        self.table().insert(worker, (session, key));
    }

    pub(super) fn ended(&self, worker: WorkerId, session: u64) {
        let mut table = self.table();
        if table.get(&worker).is_some_and(|(current, _)| *current == session) {
            table.remove(&worker);
        }
    }

    fn table(&self) -> MutexGuard<'_, HashMap<WorkerId, (u64, KeyId)>> {
        // No code panics while it holds the table, which is never half-changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
