//! The one syncer of all logs: at once when nothing happened for a while, in groups under load.

use super::{Logs, is_full, live::Live};
use crate::limits;
use futures_util::{StreamExt as _, stream};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

/// Files synced at the same time: their syncs share journal commits.
const SYNCS_AT_ONCE: usize = 8;

/// Files with bytes that are not durable.
#[derive(Default)]
pub(super) struct Dirty {
    files: Mutex<HashMap<super::LogId, Arc<Live>>>,
    added: Notify,
}

impl Dirty {
    pub(super) fn add(&self, live: &Arc<Live>) {
        let mut files = self.files.lock().expect("no code panics while it holds the set");
        files.entry(live.id).or_insert_with(|| Arc::clone(live));
        self.added.notify_one();
    }

    fn take(&self) -> Vec<Arc<Live>> {
        let mut files = self.files.lock().expect("no code panics while it holds the set");
        std::mem::take(&mut *files).into_values().collect()
    }
}

pub(super) async fn run(logs: Logs, stop: CancellationToken, fatal: CancellationToken) {
    let dirty = &logs.0.dirty;
    loop {
        let stopping = tokio::select! {
            () = dirty.added.notified() => false,
            () = stop.cancelled() => true,
        };
        let began = Instant::now();
        stream::iter(dirty.take())
            .for_each_concurrent(SYNCS_AT_ONCE, |live| {
                let fatal = &fatal;
                async move {
                    match live.sync_all().await {
                        Ok(()) => {}
                        Err(cause) if is_full(&cause) => tracing::warn!(log = ?live.id, "no space for logs"),
                        Err(cause) => {
                            tracing::error!(%cause, log = ?live.id, "a log cannot be synced; the server ends");
                            fatal.cancel();
                        }
                    }
                }
            })
            .await;
        if stopping {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep_until(began + limits::LOG_SYNC_PERIOD) => {}
            () = stop.cancelled() => {}
        }
    }
}
