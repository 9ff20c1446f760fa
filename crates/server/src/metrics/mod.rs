//! Metrics of attempts: streams that are kept like logs and understood when they are read. What was understood stays
//! in memory for a while, as an [`index::Index`], and goes on where it ended when the stream has grown.
//!
//! Nothing a worker or a task writes can do more than make a line a bad one.

mod index;
mod line;
mod scan;
mod sketch;

use crate::{
    limits,
    logs::{LogError, LogId, Logs},
};
use fetchml_api::{
    MetricSeries, TaskMetrics,
    limits::{METRICS_ANSWER_POINTS, METRICS_POINTS},
};
use index::Index;
use scan::{Scan, Tally, Wanted};
use std::{
    collections::{BTreeMap, HashMap},
    ops::RangeInclusive,
    sync::{Arc, Mutex, MutexGuard},
};
use tokio::sync::{OwnedMutexGuard, Semaphore};

/// What of an attempt's metrics is asked for.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct MetricsQuery {
    /// Only these names; all without.
    pub(crate) names: Option<Vec<String>>,
    /// Only lines of these steps; all without. Samples are not chosen by it.
    pub(crate) steps: Option<RangeInclusive<f64>>,
    /// Points of a series.
    pub(crate) points: usize,
}

/// All metrics.
pub struct Metrics {
    streams: Logs,
    reading: Semaphore,
    cache: Mutex<Cache>,
}

#[derive(Default)]
struct Cache {
    indexes: HashMap<LogId, Cached>,
    /// Grows with each use.
    clock: u64,
}

struct Cached {
    index: Arc<tokio::sync::Mutex<Index>>,
    used: u64,
    size_bytes: usize,
}

impl Metrics {
    /// Over streams that are kept like logs.
    pub(crate) fn new(streams: Logs) -> Self {
        Self { streams, reading: Semaphore::new(limits::METRICS_READS_AT_ONCE), cache: Mutex::default() }
    }

    /// The streams.
    pub(crate) const fn streams(&self) -> &Logs {
        &self.streams
    }

    /// Forgets what was understood: the stream was cut and goes on with other bytes.
    pub(crate) fn forget(&self, id: LogId) {
        self.lock().indexes.remove(&id);
    }

    /// What an attempt has written so far.
    ///
    /// # Errors
    /// The file system or object store failed.
    pub(crate) async fn read(&self, id: LogId, query: &MetricsQuery) -> Result<TaskMetrics, LogError> {
        let index = self.index(id).lock_owned().await;
        let _reading = self.reading.acquire().await.expect("never closed");
        let index = self.read_on(id, index).await?;
        self.note(id, index.size_bytes());
        let names = query.names.as_deref();
        let system = index.scan.system(names, query.points);
        let room = METRICS_ANSWER_POINTS.saturating_sub(system.series.values().map(|s| s.points.len()).sum());
        let chosen = index.scan.count(names).max(1);
        let points = query.points.min(room / chosen).max(*METRICS_POINTS.start() as usize);
        let series = if query.steps.is_none() {
            let found = index.scan.series(names, points);
            if found.is_fine_enough { found.series } else { self.scan(id, &index, query, points).await? }
        } else {
            self.scan(id, &index, query, points).await?
        };
        let Tally { lines, bad_lines, first_bad_line, dropped_bytes, dropped_values, .. } = index.scan.tally.clone();
        Ok(TaskMetrics {
            attempt_id: Some(id.attempt),
            lines,
            bad_lines,
            first_bad_line,
            dropped_bytes,
            dropped_values,
            series,
            system: system.series,
        })
    }

    /// Brings an index up to the end of its stream.
    async fn read_on(&self, id: LogId, mut index: OwnedMutexGuard<Index>) -> Result<OwnedMutexGuard<Index>, LogError> {
        let length = self.streams.length(id).await?;
        if length < index.offset {
            *index = Index::new();
        }
        while index.offset < length {
            let end = length.min(index.offset + limits::METRICS_READ_BYTES);
            let bytes = self.streams.read(id, index.offset..end).await?;
            if bytes.is_empty() {
                break;
            }
            index = off_the_runtime(move || {
                index.feed(&bytes);
                index
            })
            .await?;
        }
        Ok(index)
    }

    /// Reads again, of the parts where they may stand, the series that the index knows too coarsely.
    async fn scan(
        &self,
        id: LogId,
        index: &Index,
        query: &MetricsQuery,
        points: usize,
    ) -> Result<BTreeMap<String, MetricSeries>, LogError> {
        let steps = query.steps.clone().unwrap_or(f64::NEG_INFINITY..=f64::INFINITY);
        let parts = index.parts(&steps);
        let wanted =
            Wanted { names: query.names.clone(), steps, points: 2 * points, points_of_all: 2 * METRICS_ANSWER_POINTS };
        let mut scan = Scan::new(wanted, 0, 0);
        for part in parts {
            scan.jump(part.lines);
            let mut at = part.bytes.start;
            while at < part.bytes.end {
                let end = part.bytes.end.min(at + limits::METRICS_READ_BYTES);
                let bytes = self.streams.read(id, at..end).await?;
                if bytes.is_empty() {
                    break;
                }
                at += bytes.len() as u64;
                scan = off_the_runtime(move || {
                    scan.feed(&bytes, |_, _| {});
                    scan
                })
                .await?;
            }
        }
        Ok(scan.series(None, points).series)
    }

    fn index(&self, id: LogId) -> Arc<tokio::sync::Mutex<Index>> {
        let mut cache = self.lock();
        cache.clock += 1;
        let used = cache.clock;
        let new = || Cached { index: Arc::new(tokio::sync::Mutex::new(Index::new())), used, size_bytes: 0 };
        let cached = cache.indexes.entry(id).or_insert_with(new);
        cached.used = used;
        Arc::clone(&cached.index)
    }

    /// Notes the size of an index that was used, and lets go of those used longest ago while all are too large.
    fn note(&self, id: LogId, size_bytes: usize) {
        let mut cache = self.lock();
        if let Some(cached) = cache.indexes.get_mut(&id) {
            cached.size_bytes = size_bytes;
        }
        let mut total: usize = cache.indexes.values().map(|cached| cached.size_bytes).sum();
        while total > limits::METRICS_CACHE_BYTES || cache.indexes.len() > limits::METRICS_CACHED_MAX {
            let oldest = cache.indexes.iter().filter(|(other, _)| **other != id).min_by_key(|(_, cached)| cached.used);
            let Some(oldest) = oldest.map(|(oldest, _)| *oldest) else { break };
            total -= cache.indexes.remove(&oldest).map_or(0, |cached| cached.size_bytes);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().expect("no code panics while it holds the cache")
    }
}

async fn off_the_runtime<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, LogError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| LogError::Io(std::io::Error::other(error)))
}
