//! What the worker's owner decides about data sets.

use crate::limits;
use ipnet::IpNet;
use std::{path::PathBuf, time::Duration};

/// Where data sets may come from, and what they may take.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DatasetSettings {
    /// Directories of this machine below which `file://` sources may lie. None: no such sources.
    pub directories: Vec<PathBuf>,
    /// Networks beside the public one that may be asked.
    pub allowed_nets: Vec<IpNet>,
    /// Most bytes that the cache may take; none: half of its disk.
    pub cache_bytes: Option<u64>,
    /// How long a source is waited for.
    pub patience: Patience,
}

/// How long a source is waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Patience {
    /// For a connection.
    pub connect: Duration,
    /// For the beginning of an answer.
    pub answer: Duration,
    /// For the next bytes.
    pub idle: Duration,
    /// Fewer than [`limits::DATASET_SLOW_BYTES`] in this time is as good as nothing.
    pub slow: Duration,
    /// Before a broken download goes on for the first time; doubles up to [`limits::DATASET_RETRY_MAX`].
    pub retry: Duration,
    /// How often a download that makes no progress is tried again.
    pub tries: u32,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: limits::DATASET_CONNECT,
            answer: limits::DATASET_ANSWER,
            idle: limits::DATASET_IDLE,
            slow: limits::DATASET_SLOW,
            retry: limits::DATASET_RETRY_FIRST,
            tries: limits::DATASET_TRIES,
        }
    }
}
