//! Every name that is read from the environment, and the places derived from them.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
};

/// Configuration file, instead of the usual place.
pub(crate) const CONFIG: &str = "FETCHML_CONFIG";
/// Address of the server, for client commands.
pub(crate) const URL: &str = "FETCHML_URL";
/// API key, for client commands.
pub(crate) const API_KEY: &str = "FETCHML_API_KEY";
/// File that holds the API key, for client commands and workers.
pub(crate) const KEY_FILE: &str = "FETCHML_KEY_FILE";
/// File of authorities that vouch for the server, for client commands and workers.
pub(crate) const CA_CERT: &str = "FETCHML_CA_CERT";
/// Fingerprint of the server's certificate, for client commands and workers.
pub(crate) const TLS_FINGERPRINT: &str = "FETCHML_TLS_FINGERPRINT";
/// `self-signed` or `off`.
pub(crate) const TLS: &str = "FETCHML_TLS";
/// File of the server's certificate chain.
pub(crate) const TLS_CERT: &str = "FETCHML_TLS_CERT";
/// File of its private key.
pub(crate) const TLS_KEY: &str = "FETCHML_TLS_KEY";
/// Names by which clients know the server.
pub(crate) const HOST_NAME: &str = "FETCHML_HOST_NAME";
/// Address the server listens on.
pub(crate) const LISTEN: &str = "FETCHML_LISTEN";
/// Where server and worker keep everything.
pub(crate) const DATA_DIR: &str = "FETCHML_DATA_DIR";
/// `postgres://...` of the server.
pub(crate) const DATABASE: &str = "FETCHML_DATABASE";
/// `on` or `off`.
pub(crate) const RATE_LIMITS: &str = "FETCHML_RATE_LIMITS";
/// Rates of roles, such as `user=100/s,burst=200; viewer=50/s`.
pub(crate) const RATE_LIMIT: &str = "FETCHML_RATE_LIMIT";
/// Refused keys of an address within a minute before more get 429.
pub(crate) const AUTH_FAILURES: &str = "FETCHML_AUTH_FAILURES";
/// `lab` or `private`.
pub(crate) const VISIBILITY: &str = "FETCHML_VISIBILITY";
/// Lease of attempts, seconds.
pub(crate) const LOST_AFTER: &str = "FETCHML_LOST_AFTER";
/// Networks of proxies that are believed.
pub(crate) const TRUSTED_PROXIES: &str = "FETCHML_TRUSTED_PROXIES";
/// Time queued that is worth one level of priority, seconds.
pub(crate) const AGING_INTERVAL: &str = "FETCHML_AGING_INTERVAL";
/// Wait after which workers are held for a task, seconds.
pub(crate) const HOLD_AFTER: &str = "FETCHML_HOLD_AFTER";
/// Time in which all nodes of a task must be ready, seconds.
pub(crate) const PREPARE_TIMEOUT: &str = "FETCHML_PREPARE_TIMEOUT";
/// Whether tasks in batch slots may be stopped for others.
pub(crate) const PREEMPT_BATCH: &str = "FETCHML_PREEMPT_BATCH";
/// Whether those in service slots may be.
pub(crate) const PREEMPT_SERVICE: &str = "FETCHML_PREEMPT_SERVICE";
/// How long what was stopped so is spared, seconds.
pub(crate) const PREEMPT_COOLDOWN: &str = "FETCHML_PREEMPT_COOLDOWN";
/// Allows plain HTTP off loopback.
pub(crate) const ALLOW_PLAIN_HTTP: &str = "FETCHML_ALLOW_PLAIN_HTTP";
/// SMTP server that mail is handed to.
pub(crate) const SMTP_URL: &str = "FETCHML_SMTP_URL";
/// Password of the user in it.
pub(crate) const SMTP_PASSWORD: &str = "FETCHML_SMTP_PASSWORD";
/// File that holds that password.
pub(crate) const SMTP_PASSWORD_FILE: &str = "FETCHML_SMTP_PASSWORD_FILE";
/// Whom mail is from.
pub(crate) const MAIL_FROM: &str = "FETCHML_MAIL_FROM";
/// Domains that mail may go to beside that.
pub(crate) const MAIL_DOMAINS: &str = "FETCHML_MAIL_DOMAINS";
/// Networks that webhooks may lie in.
pub(crate) const WEBHOOK_ALLOW_NET: &str = "FETCHML_WEBHOOK_ALLOW_NET";
/// Days that the files of ended tasks are kept.
pub(crate) const RETENTION_DAYS: &str = "FETCHML_RETENTION_DAYS";
/// Days that ended tasks are kept.
pub(crate) const TASK_RETENTION_DAYS: &str = "FETCHML_TASK_RETENTION_DAYS";
/// Days that the files of deleted tasks are kept.
pub(crate) const DELETED_RETENTION_DAYS: &str = "FETCHML_DELETED_RETENTION_DAYS";
/// Hours that the files of ended tasks are kept even if the disk is full.
pub(crate) const RETENTION_MIN_HOURS: &str = "FETCHML_RETENTION_MIN_HOURS";
/// Above this the oldest files go.
pub(crate) const DISK_HIGH_PERCENT: &str = "FETCHML_DISK_HIGH_PERCENT";
/// Until it is as empty as this.
pub(crate) const DISK_LOW_PERCENT: &str = "FETCHML_DISK_LOW_PERCENT";
/// Hours between two collections.
pub(crate) const GC_EVERY_HOURS: &str = "FETCHML_GC_EVERY_HOURS";
/// Address of the server, for workers.
pub(crate) const SERVER: &str = "FETCHML_SERVER";
/// Name of the worker.
pub(crate) const WORKER_NAME: &str = "FETCHML_WORKER_NAME";
/// Batch slots of the worker.
pub(crate) const SLOTS: &str = "FETCHML_SLOTS";
/// Service slots of the worker.
pub(crate) const SERVICE_SLOTS: &str = "FETCHML_SERVICE_SLOTS";
/// Log kept of one attempt, MiB.
pub(crate) const LOG_QUOTA: &str = "FETCHML_LOG_QUOTA";
/// Simulated GPUs of the worker.
pub(crate) const GPUS: &str = "FETCHML_GPUS";
/// What simulated GPUs are called.
pub(crate) const GPU_TYPE: &str = "FETCHML_GPU_TYPE";
/// NVIDIA's library that the worker reads its GPUs with.
pub(crate) const NVML_LIBRARY: &str = "FETCHML_NVML_LIBRARY";
/// How the worker isolates tasks.
pub(crate) const ISOLATION: &str = "FETCHML_ISOLATION";
/// Which engine runs containers on the worker.
pub(crate) const CONTAINER_ENGINE: &str = "FETCHML_CONTAINER_ENGINE";
/// Where that listens.
pub(crate) const CONTAINER_SOCKET: &str = "FETCHML_CONTAINER_SOCKET";
/// Whether it must be able to limit what containers use.
pub(crate) const CONTAINER_LIMITS: &str = "FETCHML_CONTAINER_LIMITS";
/// Patterns of the images that may be used on the worker.
pub(crate) const ALLOW_IMAGES: &str = "FETCHML_ALLOW_IMAGES";
/// Disk that the worker's cache may take.
pub(crate) const CACHE: &str = "FETCHML_CACHE";
/// Directories of `file://` data sets.
pub(crate) const DATASET_DIRS: &str = "FETCHML_DATASET_DIRS";
/// Networks that data sets may be fetched from.
pub(crate) const DATASET_ALLOW_NET: &str = "FETCHML_DATASET_ALLOW_NET";
/// Buckets that data sets may be read from.
pub(crate) const DATASET_STORES: &str = "FETCHML_DATASET_STORES";
/// What data sets may take on disk.
pub(crate) const DATASET_CACHE: &str = "FETCHML_DATASET_CACHE";
/// How the variables begin by which programs are told how to reach stores that speak S3.
const OBJECT_STORES: &str = "AWS_";
/// Filter of the server's and worker's log, such as `debug`.
pub(crate) const LOG: &str = "FETCHML_LOG";
/// Any value but the empty one turns colours off.
pub(crate) const NO_COLOR: &str = "NO_COLOR";

/// A variable that is set and not empty.
pub(crate) fn var(name: &str) -> Option<OsString> {
    env::var_os(name).filter(|value| !value.is_empty())
}

/// The variables of object stores: credentials among them.
pub(crate) fn of_object_stores() -> Vec<(String, String)> {
    let text = |(name, value): (OsString, OsString)| Some((name.into_string().ok()?, value.into_string().ok()?));
    env::vars_os().filter_map(text).filter(|(name, _)| name.starts_with(OBJECT_STORES)).collect()
}

fn home() -> Option<PathBuf> {
    var("HOME").map(PathBuf::from).filter(|home| home.is_absolute())
}

/// An XDG base directory; a relative value counts as unset, as the specification says.
fn base(variable: &str, below_home: &str) -> Option<PathBuf> {
    let set = var(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    set.or_else(|| home().map(|home| home.join(below_home)))
}

/// Where configuration and profile are.
pub(crate) fn config_dir() -> Option<PathBuf> {
    base("XDG_CONFIG_HOME", ".config").map(|base| base.join("fetchml"))
}

/// Where small facts between commands are kept.
pub(crate) fn state_dir() -> Option<PathBuf> {
    base("XDG_STATE_HOME", ".local/state").map(|base| base.join("fetchml"))
}

/// The default data directory: the machine's for root, else the user's.
pub(crate) fn data_dir() -> Option<PathBuf> {
    if rustix::process::geteuid().is_root() {
        return Some(Path::new("/var/lib/fetchml").into());
    }
    base("XDG_DATA_HOME", ".local/share").map(|base| base.join("fetchml"))
}
