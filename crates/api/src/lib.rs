//! The words FetchML speaks: ids, states, requests, responses, error codes and the messages of the
//! worker link. Everything here is plain data with `serde` and `utoipa` derives; nothing here does
//! I/O, reads a clock or draws randomness.

pub mod address;
pub mod array;
pub mod artifact;
pub mod audit;
pub mod checkpoint;
pub mod dataset;
pub mod dependency;
pub mod error;
pub mod experiment;
pub mod explain;
pub mod failure;
pub mod fingerprint;
pub mod health;
pub mod ids;
pub mod image;
pub mod json;
pub mod key;
pub mod limits;
pub mod link;
pub mod log_rule;
pub mod metrics;
pub mod notify;
pub mod provenance;
pub mod record;
pub mod reservation;
pub mod retention;
pub mod scheduler;
pub mod secret;
pub mod snapshot;
pub mod task;
pub mod time;
pub mod usage;
pub mod validate;
pub mod webhook;
pub mod worker;
pub mod ws;

pub use array::*;
pub use artifact::*;
pub use audit::*;
pub use checkpoint::*;
pub use dataset::{
    CreateDatasetRequest, Dataset, DatasetKey, DatasetList, DatasetSpec, RegisteredDataset, is_bucket_name,
};
pub use dependency::*;
pub use error::*;
pub use experiment::{CreateExperimentRequest, EditExperimentRequest, Experiment, ExperimentStatus};
pub use explain::*;
pub use failure::*;
pub use fingerprint::{Fingerprint, NotAFingerprint};
pub use health::*;
pub use ids::*;
pub use image::ImageName;
pub use key::*;
pub use log_rule::*;
pub use metrics::{BadLine, MetricPoint, MetricSeries, TaskMetrics};
pub use notify::*;
pub use provenance::*;
pub use record::*;
pub use reservation::*;
pub use retention::*;
pub use scheduler::*;
pub use secret::*;
pub use task::*;
pub use time::Micros;
pub use usage::*;
pub use webhook::*;
pub use worker::*;
pub use ws::*;
