//! The spool as core and link share it.

use crate::agent::spool::Spool;
use std::{
    future::Future,
    sync::{Mutex, MutexGuard, PoisonError},
};
use tokio::sync::Notify;

/// The spool, shared with the link, and the news that it has something to send.
#[derive(Debug)]
pub(crate) struct SharedSpool {
    spool: Mutex<Spool>,
    changed: Notify,
}

impl SharedSpool {
    pub(crate) fn new(spool: Spool) -> Self {
        Self { spool: Mutex::new(spool), changed: Notify::new() }
    }

    /// For a moment: nobody keeps it over an await.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Spool> {
        self.spool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says that there is something new to send.
    pub(crate) fn announce(&self) {
        self.changed.notify_one();
    }

    /// Waits for something new to send.
    pub(crate) fn changed(&self) -> impl Future<Output = ()> + '_ {
        self.changed.notified()
    }
}
