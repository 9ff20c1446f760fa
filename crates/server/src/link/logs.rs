//! Log bytes of one worker session on their way to disk: written in order, acknowledged when
//! durable, bounded in flight.

use crate::{app::App, limits};
use bytes::Bytes;
use fetchml_api::{AttemptId, TaskId, link::ToWorker};
use futures_util::{StreamExt as _, future::BoxFuture, stream::FuturesOrdered};
use std::{collections::HashMap, sync::Arc};
use tokio::sync::mpsc;
use tracing::warn;

/// Carries chunks of the attempts that this session may write.
pub(super) struct LogPump {
    app: Arc<App>,
    /// Weak: the session must end when the driver drops its handle on it.
    outbox: mpsc::WeakSender<ToWorker>,
    /// Task and node of each.
    tasks: HashMap<AttemptId, (TaskId, u32)>,
    in_flight: FuturesOrdered<BoxFuture<'static, Option<(AttemptId, u64)>>>,
}

/// An attempt that a worker brought along.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) attempt: AttemptId,
    pub(super) task: TaskId,
    /// Rank of the worker's node.
    pub(super) node: u32,
    /// Log bytes that the worker knows to be durable.
    pub(super) acked: u64,
}

impl LogPump {
    pub(super) fn new(app: &Arc<App>, outbox: mpsc::WeakSender<ToWorker>) -> Self {
        Self { app: Arc::clone(app), outbox, tasks: HashMap::new(), in_flight: FuturesOrdered::new() }
    }

    /// The worker was given this attempt and may write its log.
    pub(super) fn admit(&mut self, attempt: AttemptId, task: TaskId, node: u32) {
        self.tasks.insert(attempt, (task, node));
    }

    /// Whether this session may speak of an attempt of that task.
    pub(super) fn admits(&self, attempt: AttemptId, task: TaskId) -> bool {
        self.tasks.get(&attempt).is_some_and(|(known, _)| *known == task)
    }

    /// Admits attempts that the worker brought along; cuts each log to what the worker knows to be
    /// durable and returns where it goes on.
    pub(super) async fn resume(&mut self, kept: Vec<Kept>) -> Vec<(AttemptId, u64)> {
        let mut offsets = Vec::with_capacity(kept.len());
        for Kept { attempt, task, node, acked } in kept {
            self.admit(attempt, task, node);
            match self.app.logs.resume(task, attempt, node, acked).await {
                Ok(length) => offsets.push((attempt, length)),
                Err(error) => warn!(%attempt, %error, "cannot go on with a log"),
            }
        }
        offsets
    }

    /// Takes a chunk. Waits while too much is in flight.
    pub(super) async fn push(&mut self, attempt: AttemptId, offset: u64, bytes: Bytes) {
        // A worker writes the log of its own node, whatever it says.
        let Some((task, node)) = self.tasks.get(&attempt).copied() else { return };
        while self.in_flight.len() >= limits::LOG_CHUNKS_IN_FLIGHT {
            self.settle().await;
        }
        let app = Arc::clone(&self.app);
        self.in_flight.push_back(Box::pin(async move {
            match app.logs.append(task, attempt, node, offset, bytes).await {
                Ok(durable) => Some((attempt, durable)),
                Err(error) => {
                    // Not acknowledged: the worker keeps the bytes and sends them again.
                    warn!(%attempt, %error, "log bytes could not be stored");
                    None
                }
            }
        }));
    }

    /// Completes one chunk and acknowledges it; pends while none is in flight.
    pub(super) async fn settle(&mut self) {
        match self.in_flight.next().await {
            None => std::future::pending().await,
            Some(None) => {}
            Some(Some((attempt, offset))) => {
                // Full: the driver cuts the session off soon; the bytes come again.
                if let Some(outbox) = self.outbox.upgrade() {
                    let _ = outbox.try_send(ToWorker::LogAck { attempt, offset });
                }
            }
        }
    }
}
