//! What an attempt measures of itself, and what is measured of it: brings the lines of its metrics file and samples of
//! what it uses to the server while it runs. Only what stands in the stream is sent, see [`tail`]; the stream itself
//! goes the way of logs.

mod tail;

use crate::{
    agent::{
        attempt::Workshop,
        log_part::Mask,
        logs::{file_name, mark_read},
    },
    executor::AttemptDir,
    limits,
    usage::{self, Meter},
};
use fetchml_api::{
    AttemptId,
    link::{Assignment, ByteStream},
};
use std::{
    fs, io,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};
use tail::Tail;
use tokio::time::Instant;

/// The metrics of one attempt.
#[derive(Debug)]
pub(crate) struct Metrics {
    shop: Arc<Workshop>,
    attempt: AttemptId,
    /// Its devices.
    gpus: Vec<u32>,
    dir: AttemptDir,
    /// Opened when there is something to do. Held while it works, so that a look that was given up cannot meet the
    /// next one.
    tail: Arc<Mutex<Option<Tail>>>,
    tracked: bool,
    /// What is hidden unless more is known.
    mask: Mask,
}

impl Metrics {
    pub(crate) fn new(shop: Arc<Workshop>, assignment: &Assignment, dir: &AttemptDir) -> Self {
        let (attempt, gpus) = (assignment.attempt, assignment.gpus.clone());
        let mask = if assignment.spec.secrets.is_empty() { Mask::Open } else { Mask::Waits };
        Self { shop, attempt, gpus, dir: dir.clone(), tail: Arc::default(), tracked: false, mask }
    }

    /// Goes on with what an earlier agent left, before the server is told how far that has come.
    pub(crate) fn take_up(&mut self) {
        if !has_stream(&self.dir) {
            return;
        }
        match Tail::open(&self.dir) {
            Ok(tail) => {
                let length = tail.length();
                *self.tail.lock().unwrap_or_else(PoisonError::into_inner) = Some(tail);
                self.track(length);
            }
            Err(error) => tracing::warn!(attempt = %self.attempt, %error, "cannot go on with an attempt's metrics"),
        }
    }

    /// Takes what is written while the process below this shim runs, and what it uses; does not end.
    pub(crate) async fn keep(&mut self, shim: u32, is_new: bool) {
        let mut pause = limits::METRICS_POLL_ACTIVE;
        let mut look_at = Instant::now() + pause;
        let mut measure_at = Instant::now() + limits::USAGE_FIRST;
        let mut meter = Some(Meter::new(self.shop.sandboxes.cgroup(self.attempt), shim, is_new));
        loop {
            tokio::time::sleep_until(look_at.min(measure_at)).await;
            if look_at <= Instant::now() {
                let grew = self.look(false).await;
                pause = if grew { limits::METRICS_POLL_ACTIVE } else { (pause * 2).min(limits::METRICS_POLL_IDLE) };
                look_at = Instant::now() + pause;
            }
            if measure_at <= Instant::now() {
                measure_at = Instant::now() + limits::USAGE_EVERY;
                meter = self.measure(meter).await;
            }
        }
    }

    /// Measures once. Without a stream to write to it is given up.
    async fn measure(&mut self, meter: Option<Meter>) -> Option<Meter> {
        let (mut meter, processes, attempt) = (meter?, self.shop.processes.clone(), self.attempt);
        let of_gpus = usage::of_gpus(&self.shop.gpus.sample(&self.gpus));
        let measured = self.with_tail(move |tail| {
            let mut sample = meter.sample(&processes.look());
            sample.extend(of_gpus);
            if !sample.is_empty()
                && let Err(error) = tail.sample(now_us(), &sample)
            {
                tracing::warn!(%attempt, %error, "what an attempt uses cannot be written down");
            }
            Ok((tail.length(), meter))
        });
        match measured.await {
            Ok((length, meter)) => {
                self.track(length);
                Some(meter)
            }
            Err(error) => {
                tracing::warn!(%attempt, %error, "what an attempt uses is not measured");
                None
            }
        }
    }

    /// Whether there is nothing to bring, now that the process is dead.
    pub(crate) fn is_empty(&self) -> bool {
        !has_stream(&self.dir) && fs::symlink_metadata(self.dir.metrics()).map_or(true, |file| file.len() == 0)
    }

    /// Takes the rest, the process being dead, and waits until the server has all of it; the length of the stream,
    /// none when the attempt was forgotten meanwhile. What `ran` is false of was not written by this attempt.
    pub(crate) async fn finish(&mut self, ran: bool) -> Option<u64> {
        if ran {
            self.look(true).await;
        }
        if !has_stream(&self.dir) {
            return Some(0);
        }
        self.shop.metrics.finish(self.attempt, self.dir.root()).await.ok()
    }

    /// Takes what is new; whether there was anything.
    async fn look(&mut self, last: bool) -> bool {
        for _ in 0..if last { limits::METRICS_LAST_TRIES } else { 1 } {
            match self.advance(last).await {
                Ok((length, grew)) => {
                    self.track(length);
                    return grew;
                }
                Err(error) => tracing::warn!(attempt = %self.attempt, %error, "metrics cannot be taken"),
            }
            if last {
                tokio::time::sleep(limits::METRICS_POLL_IDLE).await;
            }
        }
        false
    }

    async fn advance(&self, last: bool) -> io::Result<(u64, bool)> {
        self.with_tail(move |tail| {
            let grew = tail.advance(now_us(), last)?;
            Ok((tail.length(), grew))
        })
        .await
    }

    async fn with_tail<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Tail) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let (tail, dir) = (Arc::clone(&self.tail), self.dir.clone());
        let work = move || {
            let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
            match &mut *tail {
                Some(tail) => work(tail),
                None => work(tail.insert(Tail::open(&dir)?)),
            }
        };
        tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
    }

    fn track(&mut self, length: u64) {
        if length > 0 && !std::mem::replace(&mut self.tracked, true) {
            let root = self.dir.root();
            // The mark may be from before a batch that was torn.
            self.shop.metrics.track(self.attempt, root, mark(&self.dir).min(length), self.mask.clone());
        }
    }
}

/// What the acknowledged part of its stream was, as far as this worker remembers.
pub(crate) fn mark(dir: &AttemptDir) -> u64 {
    mark_read(dir.root(), ByteStream::Metrics)
}

fn has_stream(dir: &AttemptDir) -> bool {
    let path: &Path = dir.root();
    fs::symlink_metadata(path.join(file_name(ByteStream::Metrics))).is_ok()
}

/// This machine's clock, microseconds since 1970.
fn now_us() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as i64)
}
