//! Bytes of logs and metrics of one worker session on their way to disk: written in order, acknowledged when
//! durable, bounded in flight.

use crate::{
    app::App,
    limits,
    logs::{LogId, Logs},
};
use bytes::Bytes;
use fetchml_api::{
    AttemptId, TaskId,
    link::{ByteStream, ToWorker},
};
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
    in_flight: FuturesOrdered<BoxFuture<'static, Option<ToWorker>>>,
}

/// An attempt that a worker brought along.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kept {
    pub(super) attempt: AttemptId,
    pub(super) task: TaskId,
    /// Rank of the worker's node.
    pub(super) node: u32,
    /// Bytes of its log that the worker knows to be durable.
    pub(super) log_acked: u64,
    /// Bytes of its metrics.
    pub(super) metrics_acked: u64,
}

impl LogPump {
    pub(super) fn new(app: &Arc<App>, outbox: mpsc::WeakSender<ToWorker>) -> Self {
        Self { app: Arc::clone(app), outbox, tasks: HashMap::new(), in_flight: FuturesOrdered::new() }
    }

    /// The worker was given this attempt and may write its streams.
    pub(super) fn admit(&mut self, attempt: AttemptId, task: TaskId, node: u32) {
        self.tasks.insert(attempt, (task, node));
    }

    /// Whether this session may speak of an attempt of that task.
    pub(super) fn admits(&self, attempt: AttemptId, task: TaskId) -> bool {
        self.tasks.get(&attempt).is_some_and(|(known, _)| *known == task)
    }

    /// Admits attempts that the worker brought along; cuts each of their streams of this kind to what the
    /// worker knows to be durable and returns where it goes on.
    pub(super) async fn resume(&mut self, kept: &[Kept], stream: ByteStream) -> Vec<(AttemptId, u64)> {
        let mut offsets = Vec::with_capacity(kept.len());
        for Kept { attempt, task, node, log_acked, metrics_acked } in kept.iter().copied() {
            self.admit(attempt, task, node);
            let acked = match stream {
                ByteStream::Log => log_acked,
                ByteStream::Metrics => metrics_acked,
            };
            let resumed = self.streams(stream).resume(task, attempt, node, acked).await;
            if stream == ByteStream::Metrics {
                self.app.metrics.forget(LogId { task, attempt, node });
            }
            match resumed {
                Ok(length) => offsets.push((attempt, length)),
                Err(error) => warn!(%attempt, ?stream, %error, "cannot go on with what an attempt writes"),
            }
        }
        offsets
    }

    fn streams(&self, stream: ByteStream) -> &Logs {
        match stream {
            ByteStream::Log => &self.app.logs,
            ByteStream::Metrics => self.app.metrics.streams(),
        }
    }

    /// Takes a chunk. Waits while too much is in flight.
    pub(super) async fn push(&mut self, attempt: AttemptId, stream: ByteStream, offset: u64, bytes: Bytes) {
        // A worker writes the streams of its own node, whatever it says.
        let Some((task, node)) = self.tasks.get(&attempt).copied() else { return };
        let end = offset.saturating_add(bytes.len() as u64);
        if stream == ByteStream::Metrics && end > limits::METRICS_STREAM_BYTES {
            warn!(%attempt, "a worker sends more metrics than it may; they are not taken");
            return;
        }
        while self.in_flight.len() >= limits::LOG_CHUNKS_IN_FLIGHT {
            self.settle().await;
        }
        let streams = self.streams(stream).clone();
        self.in_flight.push_back(Box::pin(async move {
            match streams.append(task, attempt, node, offset, bytes).await {
                Ok(durable) => Some(ToWorker::LogAck { attempt, stream, offset: durable }),
                Err(error) => {
                    // Not acknowledged: the worker keeps the bytes and sends them again.
                    warn!(%attempt, ?stream, %error, "what an attempt wrote could not be stored");
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
            Some(Some(acknowledgement)) => {
                // Full: the driver cuts the session off soon; the bytes come again.
                if let Some(outbox) = self.outbox.upgrade() {
                    let _ = outbox.try_send(acknowledgement);
                }
            }
        }
    }
}
