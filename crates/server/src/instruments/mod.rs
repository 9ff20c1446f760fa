//! What the server measures of itself, for `/metrics`. Each server has its own instruments: they are handed to
//! the parts that use them, and nothing here is global.
//!
//! Recording must cost next to nothing: every handle is made once, and a record is an atomic operation.

mod http;
mod process;
mod scrape;
mod table;

pub(crate) use scrape::scrape;

use crate::{auth::KeyError, limits};
use fetchml_api::{FailureCause, TaskStatus};
use fetchml_store::CommitMeasure;
use futures_util::{Stream, StreamExt as _};
use http::Http;
use metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, Recorder as _};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use std::{sync::Arc, time::Duration};
use table::{Instrument, Kind};
use tokio_util::sync::CancellationToken;

/// Why a request was refused that could have been answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Rejection {
    /// Its key has sent too many.
    KeyRate,
    /// Its address has sent too many without a key that is accepted.
    AddressRate,
    /// The server works on as many as it can.
    Busy,
}

/// What stays open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum StreamKind {
    /// Of the scheduler's state.
    Status,
    /// Of one task's state.
    Job,
    /// Of a log.
    Log,
    /// `/ws`.
    WebSocket,
    /// The link of a worker.
    Worker,
}

/// The instruments of one server.
pub(crate) struct Instruments {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    pub(crate) http: Http,
    connections: Gauge,
    streams: [Gauge; 5],
    rejected: [Counter; 3],
    /// Without a key, then by [`KeyError`].
    auth_failures: [Counter; 5],
    submitted: Counter,
    placements: Counter,
    completed: Counter,
    failed: Vec<(FailureCause, Counter)>,
    turn_seconds: Histogram,
    turn_commands: Histogram,
    commit_seconds: Histogram,
    commit_size: Histogram,
    commit_failures: Counter,
}

impl Instruments {
    /// All at zero.
    pub(crate) fn new() -> Arc<Self> {
        let mut builder = PrometheusBuilder::new();
        for instrument in table::ALL {
            if let Some(buckets) = instrument.kind.buckets() {
                let name = Matcher::Full(instrument.name.to_owned());
                builder = builder.set_buckets_for_metric(name, buckets).expect("no histogram is without buckets");
            }
        }
        let recorder = builder.build_recorder();
        for instrument in table::ALL.iter().filter(|instrument| !process::is_written_by_hand(instrument)) {
            describe(&recorder, instrument);
        }
        let count = |instrument, labels: &[&'static str]| counter(&recorder, instrument, labels);
        let failed =
            |cause: FailureCause| (cause, count(&table::ENDED, &[TaskStatus::Failed.as_str(), cause.as_str()]));
        Arc::new(Self {
            http: Http::new(&recorder),
            connections: gauge(&recorder, &table::HTTP_CONNECTIONS, &[]),
            streams: ["status", "job", "log", "websocket", "worker"]
                .map(|kind| gauge(&recorder, &table::STREAMS, &[kind])),
            rejected: ["key_rate", "address_rate", "busy"].map(|reason| count(&table::HTTP_REJECTED, &[reason])),
            auth_failures: ["missing", "malformed", "unknown", "revoked", "expired"]
                .map(|reason| count(&table::AUTH_FAILURES, &[reason])),
            submitted: count(&table::SUBMITTED, &[]),
            placements: count(&table::PLACEMENTS, &[]),
            completed: count(&table::ENDED, &[TaskStatus::Completed.as_str(), "none"]),
            failed: FailureCause::ALL.map(failed).into(),
            turn_seconds: histogram(&recorder, &table::TURN_SECONDS, &[]),
            turn_commands: histogram(&recorder, &table::TURN_COMMANDS, &[]),
            commit_seconds: histogram(&recorder, &table::COMMIT_SECONDS, &[]),
            commit_size: histogram(&recorder, &table::COMMIT_SIZE, &[]),
            commit_failures: count(&table::COMMIT_FAILURES, &[]),
            handle: recorder.handle(),
            recorder,
        })
    }

    /// Sorts what was recorded into buckets from time to time, so that it takes no more memory when nobody asks.
    pub(crate) async fn keep_up(self: Arc<Self>, stop: CancellationToken) {
        let mut due = tokio::time::interval(limits::INSTRUMENTS_UPKEEP);
        while stop.run_until_cancelled(due.tick()).await.is_some() {
            self.handle.run_upkeep();
        }
    }

    /// A connection was accepted.
    pub(crate) fn connection(&self) -> Open {
        Open::new(&self.connections)
    }

    /// A stream begins.
    pub(crate) fn stream(&self, kind: StreamKind) -> Open {
        Open::new(&self.streams[kind as usize])
    }

    /// A request was refused.
    pub(crate) fn rejected(&self, why: Rejection) {
        self.rejected[why as usize].increment(1);
    }

    /// A request came without a key, or with one that is not accepted.
    pub(crate) fn auth_failed(&self, why: Option<KeyError>) {
        let place = match why {
            None => 0,
            Some(KeyError::Malformed) => 1,
            Some(KeyError::Unknown) => 2,
            Some(KeyError::Revoked) => 3,
            Some(KeyError::Expired) => 4,
        };
        self.auth_failures[place].increment(1);
    }

    /// Tasks were created, and this is durable.
    pub(crate) fn submitted(&self, tasks: usize) {
        self.submitted.increment(tasks as u64);
    }

    /// A worker was given an attempt, or a node of one.
    pub(crate) fn placed(&self) {
        self.placements.increment(1);
    }

    /// A task ended. Of a completed one the cause is that of an earlier attempt, and does not count.
    pub(crate) fn ended(&self, status: TaskStatus, cause: Option<FailureCause>) {
        let failed = self.failed.iter().find(|(known, _)| Some(*known) == cause);
        match (status, failed) {
            (TaskStatus::Completed, _) => self.completed.increment(1),
            (_, Some((_, counter))) => counter.increment(1),
            (_, None) => {}
        }
    }

    /// A turn of the driver is over.
    pub(crate) fn turned(&self, commands: usize, took: Duration) {
        self.turn_commands.record(commands as f64);
        self.turn_seconds.record(took);
    }

    /// A transaction is over.
    pub(crate) fn committed(&self, measure: CommitMeasure) {
        if measure.succeeded {
            self.commit_size.record(measure.commits as f64);
            self.commit_seconds.record(measure.took);
        } else {
            self.commit_failures.increment(1);
        }
    }
}

/// Something that is open, and counted until this is dropped.
pub(crate) struct Open(Gauge);

impl Open {
    fn new(gauge: &Gauge) -> Self {
        gauge.increment(1);
        Self(gauge.clone())
    }

    /// Counts a stream as open until it is dropped.
    pub(crate) fn during<T>(self, stream: impl Stream<Item = T>) -> impl Stream<Item = T> {
        stream.inspect(move |_| {
            let _counted = &self;
        })
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.decrement(1);
    }
}

const METADATA: Metadata<'static> = Metadata::new(module_path!(), Level::INFO, None);

/// The series of an instrument with these values of its labels.
fn key(instrument: &Instrument, values: &[&'static str]) -> Key {
    assert_eq!(instrument.labels.len(), values.len(), "{}: a value for each label", instrument.name);
    let labels = instrument.labels.iter().zip(values);
    let labels: Vec<_> = labels.map(|(name, value)| Label::from_static_parts(name, value)).collect();
    Key::from_parts(instrument.name, labels)
}

fn counter(recorder: &PrometheusRecorder, instrument: &Instrument, values: &[&'static str]) -> Counter {
    assert_eq!(instrument.kind, Kind::Counter, "{}", instrument.name);
    recorder.register_counter(&key(instrument, values), &METADATA)
}

fn gauge(recorder: &PrometheusRecorder, instrument: &Instrument, values: &[&'static str]) -> Gauge {
    assert_eq!(instrument.kind, Kind::Gauge, "{}", instrument.name);
    recorder.register_gauge(&key(instrument, values), &METADATA)
}

fn histogram(recorder: &PrometheusRecorder, instrument: &Instrument, values: &[&'static str]) -> Histogram {
    assert!(instrument.kind.buckets().is_some(), "{}", instrument.name);
    recorder.register_histogram(&key(instrument, values), &METADATA)
}

fn describe(recorder: &PrometheusRecorder, instrument: &Instrument) {
    let (name, help) = (instrument.name.into(), instrument.help.into());
    match instrument.kind {
        Kind::Counter => recorder.describe_counter(name, None, help),
        Kind::Gauge => recorder.describe_gauge(name, None, help),
        Kind::Seconds | Kind::Size => recorder.describe_histogram(name, None, help),
    }
}
