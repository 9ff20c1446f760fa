//! Brings in what an attempt needs before it can start: the files of its snapshot, each byte
//! verified, its data sets, and its Python environment, built once and reused.

mod blobs;
mod cache;
mod dataset;
mod environment;
mod outage;
mod snapshot;

pub use blobs::{BlobCache, Chunks, Source, SourceError};
pub use cache::{Cache, Kept};
pub use dataset::{
    AllowedBucket, DatasetRequest, DatasetSettings, Datasets, Patience, StagedDataset, StagedDatasets, StoreSettings,
    verify_file,
};
pub(crate) use environment::requirements_file;
pub use environment::{EnvironmentRequest, Environments, PythonEnvironment};
pub(crate) use outage::outlast;
pub use snapshot::materialize;

use fetchml_api::{FailureCause, link::Outcome};
use std::{fmt::Display, fs::File, io::Write as _, os::unix::fs::OpenOptionsExt as _, path::Path};

/// Something could not be had.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{message}")]
pub struct StageError {
    /// What could not be had, or `cancelled`.
    pub cause: FailureCause,
    /// The network or a server was at fault: trying again later makes sense.
    pub transient: bool,
    /// What happened, what to do.
    pub message: String,
}

impl StageError {
    /// The outcome to report.
    pub fn outcome(&self) -> Outcome {
        Outcome {
            cause: Some(self.cause),
            transient: self.transient,
            error: Some(self.message.clone()),
            ..Outcome::default()
        }
    }

    /// The worker's own disk failed: another try, perhaps elsewhere, may work.
    pub(crate) fn local(cause: FailureCause, path: &Path, error: &impl Display) -> Self {
        Self { cause, transient: true, message: format!("{}: {error}", path.display()) }
    }
}

/// Appends a line of FetchML's own to a log.
pub(crate) fn note(cause: FailureCause, log: &Path, text: &str) -> Result<(), StageError> {
    File::options()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(log)
        .and_then(|mut file| file.write_all(format!("fetchml: {text}\n").as_bytes()))
        .map_err(|error| StageError::local(cause, log, &error))
}
