//! Messages of the worker link: a WebSocket from worker to server at `/v1/workers/connect`.
//!
//! Text frames hold one JSON [`ToServer`] or [`ToWorker`]. Binary frames, worker to server only,
//! hold bytes of a log or of metrics: see [`LogChunk`]. Server N speaks to workers of protocol N and N-1.
//!
//! Delivery is at least once and fenced by the attempt: a report counts only if its attempt is the
//! task's current one. Reports carry a spool number; the server acknowledges the highest number
//! whose effect is durable, and the worker forgets what is acknowledged.

use crate::{
    artifact::Artifact,
    dataset::DatasetKey,
    failure::FailureCause,
    ids::{AttemptEpoch, AttemptId, TaskId, WorkerId},
    log_rule::LogRuleMatch,
    record::TaskSpec,
    worker::{Capabilities, Gpu, GpuUsage},
};
use serde::{Deserialize, Serialize};

/// Version of these messages. A server accepts this one and the one before.
pub const PROTOCOL: u32 = 1;

/// Worker to server.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToServer {
    /// First message of a session.
    Hello(Box<Hello>),
    /// Every [`Welcome::heartbeat_s`].
    Heartbeat(Heartbeat),
    /// Spooled reports, oldest first.
    Reports {
        /// With strictly growing `seq`.
        reports: Vec<SpooledReport>,
    },
    /// What it holds of data sets has changed.
    Datasets {
        /// See [`Hello::datasets`].
        held: Vec<DatasetKey>,
    },
}

/// Who the worker is, what it has and what it holds.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Hello {
    /// [`PROTOCOL`] of the worker.
    pub protocol: u32,
    /// The worker.
    pub worker_id: WorkerId,
    /// A fresh random number for each start of the agent, to tell a restart from a cloned id.
    pub agent_run: u64,
    /// Name for people.
    pub name: String,
    /// What it has.
    pub capabilities: Capabilities,
    /// Batch slots.
    pub batch_slots: u32,
    /// Service slots.
    pub service_slots: u32,
    /// Highest server incarnation this worker has seen; 0: none.
    pub incarnation_seen: u64,
    /// Every attempt it holds that is not forgotten.
    pub inventory: Vec<Held>,
    /// What its own checks found wrong, one sentence: it takes nothing new. Absent: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unfit: Option<String>,
    /// Data sets in its cache, the last used first, at most [`crate::limits::DATASETS_HELD_MAX`].
    #[serde(default)]
    pub datasets: Vec<DatasetKey>,
}

/// An attempt the worker holds.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Held {
    /// The attempt.
    pub attempt: AttemptId,
    /// Its task.
    pub task: TaskId,
    /// Its epoch.
    pub epoch: AttemptEpoch,
    /// Log bytes the server has acknowledged as durable; the server cuts its copy to this length,
    /// and the worker sends on from there.
    pub log_acked: u64,
    /// The same of its metrics, see [`crate::metrics`].
    #[serde(default)]
    pub metrics_acked: u64,
}

/// A sign of life. Times are the worker's own and only echoed.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Heartbeat {
    /// The worker's BOOTTIME clock when it sent this, milliseconds; echoed in [`ToWorker::BeatAck`]
    /// to renew the lease from the time of sending.
    pub sent_ms: u64,
    /// Attempts it holds, by id.
    pub held: Vec<AttemptId>,
    /// As [`Hello::unfit`], as of now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unfit: Option<String>,
    /// All its devices, where they are not as it last told in this session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpus: Option<Vec<Gpu>>,
    /// What its devices do, after each look at them; absent: it did not look again since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu_usage: Option<Vec<GpuUsage>>,
}

/// A report and its place in the worker's spool.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct SpooledReport {
    /// Grows by one with each report of this worker.
    pub seq: u64,
    /// The attempt it speaks of.
    pub attempt: AttemptId,
    /// Its task.
    pub task: TaskId,
    /// Its epoch.
    pub epoch: AttemptEpoch,
    /// What happened.
    pub report: Report,
}

/// What happened to an attempt. Order of a normal life: `Accepted`, `Running`, `Collecting`, `Ended`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum Report {
    /// The worker holds it.
    Accepted,
    /// One of several nodes: everything is at hand, it waits for its release.
    Ready {
        /// Where the other nodes reach this one.
        address: String,
        /// A port that is free there.
        port: u16,
    },
    /// User code runs.
    Running,
    /// The process tree is dead: slot and devices are free.
    Collecting,
    /// Over; the whole log and all artifacts are stored at the server.
    Ended(Outcome),
    /// Taken back on request before user code ran.
    Returned,
}

/// How an attempt ended. Success is `cause` absent.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Outcome {
    /// Why it failed; absent: it completed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<FailureCause>,
    /// For data, image, environment and snapshot faults: the network or a server was at fault.
    #[serde(default)]
    pub transient: bool,
    /// Exit code, when the process ended by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Signal that ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// One sentence: what happened, what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Length of the whole log, bytes.
    #[serde(default)]
    pub log_bytes: u64,
    /// Length of its metrics with the samples, bytes, see [`crate::metrics`].
    #[serde(default)]
    pub metrics_bytes: u64,
    /// Files from the output directory.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub artifacts: Vec<Artifact>,
    /// The rule that the log matched. The server's to say: what a worker says here is dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_rule: Option<LogRuleMatch>,
}

/// Server to worker.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToWorker {
    /// Answer to [`Hello`].
    Welcome(Welcome),
    /// The session is refused; the worker says why and, unless `retry`, exits.
    Refused {
        /// One sentence.
        reason: String,
        /// Whether trying again later makes sense.
        retry: bool,
    },
    /// Run this. May be repeated; the attempt id tells.
    Assign(Box<Assignment>),
    /// Stop this attempt: SIGTERM, grace, SIGKILL, then report how it ended.
    Cancel {
        /// The attempt.
        attempt: AttemptId,
        /// Why: becomes the outcome's cause.
        cause: FailureCause,
        /// Time between SIGTERM and SIGKILL, seconds.
        grace_s: u32,
    },
    /// Give this attempt back if its user code has not started ([`Report::Returned`]); else ignore.
    Revoke {
        /// The attempt.
        attempt: AttemptId,
    },
    /// Every node is ready: start.
    Release {
        /// The attempt.
        attempt: AttemptId,
        /// Where the first node is reached.
        address: String,
        /// The port that was free there.
        port: u16,
    },
    /// The attempt is over for the server: stop it if it still runs, report nothing, delete it.
    Forget {
        /// The attempt.
        attempt: AttemptId,
    },
    /// Every report up to and with this spool number has been dealt with durably.
    Ack {
        /// Spool number.
        seq: u64,
    },
    /// Bytes of a stream up to here are durable.
    LogAck {
        /// The attempt.
        attempt: AttemptId,
        /// Which of its streams.
        #[serde(default)]
        stream: ByteStream,
        /// Length of what is durable, bytes. Lower than what was sent: send again from here.
        offset: u64,
    },
    /// Answer to [`Heartbeat`].
    BeatAck {
        /// [`Heartbeat::sent_ms`] of the beat.
        sent_ms: u64,
    },
    /// Take nothing new (only shown; the server stops assigning by itself).
    Drain {
        /// Whether draining is on.
        on: bool,
    },
}

/// Terms of a session.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Welcome {
    /// [`PROTOCOL`] of the session: the lower of both.
    pub protocol: u32,
    /// The server's incarnation.
    pub incarnation: u64,
    /// Seconds between heartbeats.
    pub heartbeat_s: u32,
    /// Lease: without an acknowledged beat for this long the server gives the attempts up, seconds.
    pub lost_after_s: u32,
    /// Attempts in the inventory that the server has no use for any more: as [`ToWorker::Forget`].
    pub forget: Vec<AttemptId>,
    /// For every other attempt in the inventory: its log goes on from here, bytes.
    pub log_offsets: Vec<(AttemptId, u64)>,
    /// The same of its metrics.
    #[serde(default)]
    pub metrics_offsets: Vec<(AttemptId, u64)>,
}

/// Everything a worker needs to run an attempt.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Assignment {
    /// The attempt.
    pub attempt: AttemptId,
    /// Number among the task's attempts, from 1.
    pub number: u32,
    /// Its epoch.
    pub epoch: AttemptEpoch,
    /// What to run.
    pub spec: TaskSpec,
    /// Devices given to it, by index.
    pub gpus: Vec<u32>,
    /// Rank of this node; how many there are is in the demand.
    #[serde(default)]
    pub node: u32,
    /// Time between SIGTERM and SIGKILL when its time limit passes, seconds.
    pub grace_s: u32,
}

/// What an attempt has written that the worker sends by offset: append-only bytes, each acknowledged when durable.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ByteStream {
    /// Standard output and error.
    #[default]
    Log,
    /// Metrics and samples, see [`crate::metrics`].
    Metrics,
}

/// Bytes of a stream in a binary frame: attempt id (16 bytes), stream (1 byte), node (u32 big endian), offset of the
/// first byte (u64 big endian), then the bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogChunk<'a> {
    /// The attempt.
    pub attempt: AttemptId,
    /// Which of its streams.
    pub stream: ByteStream,
    /// Node within the attempt, from 0.
    pub node: u32,
    /// Offset of the first byte in that stream.
    pub offset: u64,
    /// The bytes.
    pub bytes: &'a [u8],
}

impl<'a> LogChunk<'a> {
    /// Length of what stands before the bytes.
    pub const HEADER_BYTES: usize = 29;

    /// The frame.
    pub fn encode(&self) -> Vec<u8> {
        let mut frame = Vec::with_capacity(Self::HEADER_BYTES + self.bytes.len());
        frame.extend_from_slice(self.attempt.0.as_bytes());
        frame.push(match self.stream {
            ByteStream::Log => 0,
            ByteStream::Metrics => 1,
        });
        frame.extend_from_slice(&self.node.to_be_bytes());
        frame.extend_from_slice(&self.offset.to_be_bytes());
        frame.extend_from_slice(self.bytes);
        frame
    }

    /// Reads a frame; `None` when it is too short, its bytes too many or its stream unknown.
    pub fn decode(frame: &'a [u8]) -> Option<Self> {
        let (id, rest) = frame.split_first_chunk::<16>()?;
        let (stream, rest) = rest.split_first()?;
        let stream = match stream {
            0 => ByteStream::Log,
            1 => ByteStream::Metrics,
            _ => return None,
        };
        let (node, rest) = rest.split_first_chunk::<4>()?;
        let (offset, bytes) = rest.split_first_chunk::<8>()?;
        (bytes.len() <= crate::limits::LINK_LOG_CHUNK_BYTES).then(|| Self {
            attempt: AttemptId(uuid::Uuid::from_bytes(*id)),
            stream,
            node: u32::from_be_bytes(*node),
            offset: u64::from_be_bytes(*offset),
            bytes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_beat_of_before_devices_had_states_is_still_read() {
        let beat = r#"{"type":"heartbeat","sent_ms":1,"held":[]}"#;
        let read = Heartbeat { sent_ms: 1, held: Vec::new(), unfit: None, gpus: None, gpu_usage: None };
        assert_eq!(serde_json::from_str::<ToServer>(beat).unwrap(), ToServer::Heartbeat(read.clone()));
        assert_eq!(serde_json::to_string(&ToServer::Heartbeat(read)).unwrap(), beat);
        let gpu = r#"{"index":0,"uuid":"GPU-1","name":"H100","memory_bytes":1}"#;
        assert_eq!(serde_json::from_str::<Gpu>(gpu).unwrap().state, crate::GpuState::Available);
    }

    proptest! {
        #[test]
        fn chunks_round_trip(
            id: u128, metrics: bool, node: u32, offset: u64, bytes in proptest::collection::vec(any::<u8>(), 0..300)
        ) {
            let stream = if metrics { ByteStream::Metrics } else { ByteStream::Log };
            let chunk = LogChunk { attempt: AttemptId(uuid::Uuid::from_u128(id)), stream, node, offset, bytes: &bytes };
            let frame = chunk.encode();
            prop_assert_eq!(LogChunk::decode(&frame), Some(chunk));
        }

        #[test]
        fn any_frame_is_read_or_refused(frame in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = LogChunk::decode(&frame);
        }
    }
}
