//! What the worker's owner decides about data sets.

use crate::limits;
use fetchml_api::is_bucket_name;
use ipnet::IpNet;
use object_store::path::Path;
use std::{fmt, path::PathBuf, str::FromStr, time::Duration};

/// Where data sets may come from, and what they may take.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DatasetSettings {
    /// Directories of this machine below which `file://` sources may lie. None: no such sources.
    pub directories: Vec<PathBuf>,
    /// Networks beside the public one that may be asked.
    pub allowed_nets: Vec<IpNet>,
    /// Object stores that may be read.
    pub stores: StoreSettings,
    /// Most bytes that the cache may take; none: half of its disk.
    pub cache_bytes: Option<u64>,
    /// How long a source is waited for.
    pub patience: Patience,
}

/// Object stores that speak S3.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct StoreSettings {
    /// What of them tasks may read. None: no such sources.
    pub allowed: Vec<AllowedBucket>,
    /// The variables `AWS_*` by which programs that read S3 are told of credentials, region and address. Unknown ones
    /// are passed over.
    pub variables: Vec<(String, String)>,
}

impl fmt::Debug for StoreSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreSettings").field("allowed", &self.allowed).finish_non_exhaustive()
    }
}

/// `s3://BUCKET`, or a part of it: `s3://BUCKET/PREFIX`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AllowedBucket {
    bucket: String,
    prefix: Path,
}

impl AllowedBucket {
    /// Its name.
    pub fn bucket(&self) -> &str {
        &self.bucket
    }

    /// Below which keys may be read.
    pub(super) fn prefix(&self) -> &Path {
        &self.prefix
    }
}

impl FromStr for AllowedBucket {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let name = text.strip_prefix("s3://").ok_or_else(|| format!("{text:?} does not begin with s3://"))?;
        let (bucket, prefix) = name.split_once('/').unwrap_or((name, ""));
        if !is_bucket_name(bucket) {
            return Err(format!("{bucket:?} is no name of a bucket"));
        }
        let prefix = Path::parse(prefix).map_err(|error| format!("{text:?}: {error}"))?;
        Ok(Self { bucket: bucket.to_owned(), prefix })
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_and_parts_of_them_are_read_or_refused() {
        let whole: AllowedBucket = "s3://lab-data".parse().unwrap();
        assert_eq!((whole.bucket(), whole.prefix().as_ref()), ("lab-data", ""));
        let part: AllowedBucket = "s3://lab.data/train/v1/".parse().unwrap();
        assert_eq!((part.bucket(), part.prefix().as_ref()), ("lab.data", "train/v1"));
        for bad in ["", "lab-data", "gs://lab-data", "s3://", "s3://a", "s3://Lab", "s3://lab-data/../x", "s3://l:9/x"]
        {
            assert!(bad.parse::<AllowedBucket>().is_err(), "{bad:?}");
        }
    }
}
