//! Configuration: defaults < profile (client only) < TOML file < environment < flags, and where each
//! value came from.

mod layers;
pub(crate) mod profile;
mod quotas;
mod rates;
mod retention;
mod table;
mod tls;

pub(crate) use layers::{Flags, Layers};
use tls::OwnCertificate;

use crate::{environment, failure::Failure};
use fetchml_api::{Quota, QuotaScope, SecretText};
use fetchml_client::Trust;
use fetchml_server::{LogRule, Options, RateLimits, Visibility};
use serde::Deserialize;
use std::{
    cmp::Ordering,
    collections::BTreeMap,
    fs::File,
    io::Read as _,
    net::SocketAddr,
    path::{Path, PathBuf},
};

/// Whether requests are limited.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum RateLimiting {
    /// The defaults for each role.
    On,
    /// Not at all.
    Off,
}

/// What users see of others' tasks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Seen {
    /// All but values of environments.
    Lab,
    /// Not what they run, write and leave.
    Private,
}

/// Settings of the server.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct ServerSettings {
    /// Address to listen on.
    pub(crate) listen: SocketAddr,
    /// Where everything is kept.
    pub(crate) data_dir: PathBuf,
    /// `postgres://...`; none: SQLite.
    pub(crate) database: Option<String>,
    /// Whether requests are limited.
    rate_limits: RateLimiting,
    /// Rates of roles, other than the defaults.
    rate_limit: Option<String>,
    /// Refused keys per address and minute before the answer is 429.
    auth_failures: u32,
    /// What users see of others' tasks.
    visibility: Seen,
    /// Lease of attempts, seconds.
    pub(crate) lost_after_s: u32,
    /// Time queued that is worth one level of priority, seconds.
    pub(crate) aging_interval_s: u32,
    /// How long a task waits before workers are held for it, seconds.
    pub(crate) hold_after_s: u32,
    /// Time in which all nodes of a task must be ready, seconds.
    pub(crate) prepare_timeout_s: u32,
    /// Whether tasks in batch slots may be stopped for others of higher priority.
    pub(crate) preempt_batch: bool,
    /// Whether those in service slots may be.
    pub(crate) preempt_service: bool,
    /// How long what was stopped so is spared, seconds.
    pub(crate) preempt_cooldown_s: u32,
    /// Whether the server makes a certificate of its own.
    tls: OwnCertificate,
    /// File of its certificate chain.
    tls_cert: Option<PathBuf>,
    /// File of its private key.
    tls_key: Option<PathBuf>,
    /// Names by which clients know it, `,` between.
    host_name: Option<String>,
    /// Allows plain HTTP off loopback.
    pub(crate) allow_plain_http: bool,
    /// SMTP server that mail is handed to.
    pub(crate) smtp_url: Option<String>,
    /// Password of the user in it.
    pub(crate) smtp_password: Option<SecretText>,
    /// File that holds that password.
    pub(crate) smtp_password_file: Option<PathBuf>,
    /// Whom mail is from.
    pub(crate) mail_from: Option<String>,
    /// Domains that mail may go to beside that of its sender, `,` between.
    pub(crate) mail_domains: Option<String>,
    /// Networks of webhooks beside the public one, `,` between.
    pub(crate) webhook_allow_net: Option<String>,
    /// Networks of proxies that are believed, `,` between.
    pub(crate) trusted_proxies: Option<String>,
    /// Rules on the lines of logs: a list of its own in the file.
    #[serde(skip)]
    pub(crate) log_rules: Vec<LogRule>,
    /// Quotas of roles and users: a table of its own in the file.
    #[serde(skip)]
    pub(crate) quotas: BTreeMap<QuotaScope, Quota>,
    /// Days that the files of ended tasks are kept; 0: for ever.
    retention_days: u32,
    /// Days that ended tasks are kept; 0: for ever.
    task_retention_days: u32,
    /// Days that the files of deleted tasks are kept.
    deleted_retention_days: u32,
    /// Hours that the files of ended tasks are kept even if the disk is full.
    retention_min_hours: u32,
    /// On a disk fuller than this the oldest files go.
    disk_high_percent: u32,
    /// Until it is no fuller than this.
    disk_low_percent: u32,
    /// Hours between two collections; 0: only when asked for.
    gc_every_hours: u32,
}

impl ServerSettings {
    /// Request rates; none: not limited.
    pub(crate) fn rates(&self) -> Result<Option<RateLimits>, Failure> {
        let defaults = RateLimits { auth_failures_per_minute: self.auth_failures.max(1), ..RateLimits::default() };
        let limits = rates::read(self.rate_limit.as_deref().unwrap_or_default(), defaults)?;
        Ok((self.rate_limits == RateLimiting::On).then_some(limits))
    }

    /// What users see of others' tasks.
    pub(crate) const fn visibility(&self) -> Visibility {
        match self.visibility {
            Seen::Lab => Visibility::Lab,
            Seen::Private => Visibility::Private,
        }
    }
}

/// Settings of a worker.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct WorkerSettings {
    /// Address of the server.
    pub(crate) server: Option<String>,
    /// File that holds the worker's key.
    pub(crate) key_file: Option<PathBuf>,
    /// Where attempts, environments and blobs are kept.
    pub(crate) data_dir: PathBuf,
    /// Name for people.
    pub(crate) name: Option<String>,
    /// Batch slots.
    pub(crate) slots: Option<u32>,
    /// Service slots.
    pub(crate) service_slots: u32,
    /// Longest log kept of one attempt, MiB.
    pub(crate) log_quota_mib: u32,
    /// Simulated GPUs; absent: the machine's own.
    pub(crate) gpus: Option<u32>,
    /// What simulated GPUs are called.
    pub(crate) gpu_type: Option<String>,
    /// NVIDIA's library, instead of the system's.
    pub(crate) nvml_library: Option<PathBuf>,
    /// How tasks are isolated; absent: as the command decides.
    pub(crate) isolation: Option<String>,
    /// Who runs containers.
    pub(crate) container_engine: Option<String>,
    /// Where that listens.
    pub(crate) container_socket: Option<PathBuf>,
    /// Whether it must be able to limit them.
    pub(crate) container_limits: Option<String>,
    /// Patterns of images.
    pub(crate) allow_images: Option<String>,
    /// Disk that the cache may take; absent: a part of it.
    pub(crate) cache: Option<String>,
    /// Directories of `file://` data sets, `:` between.
    pub(crate) dataset_dirs: Option<String>,
    /// Networks of data sets beside the public one, `,` between.
    pub(crate) dataset_allow_net: Option<String>,
    /// Buckets of `s3://` data sets, `,` between.
    pub(crate) dataset_stores: Option<String>,
    /// What data sets may take on disk.
    pub(crate) dataset_cache: Option<String>,
}

/// Settings of client commands.
#[derive(Clone, Debug)]
pub(crate) struct ClientSettings {
    /// Address of the server.
    pub(crate) url: String,
    /// The key.
    pub(crate) key: String,
    /// How the server is known, where it speaks TLS.
    pub(crate) trust: Trust,
}

/// Where a client's address or key came from: later ones win.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Rank {
    /// Built in.
    Default,
    /// The profile that `fetchml up` wrote.
    Profile,
    /// The configuration file.
    File,
    /// An environment variable.
    Environment,
    /// A flag of the command line.
    Flag,
}

impl Layers {
    /// The server's settings.
    pub(crate) fn server(&self) -> anyhow::Result<ServerSettings> {
        let settings: ServerSettings = self.read("server")?;
        settings.check_retention()?;
        let defaults = Options::new(&settings.data_dir).quotas;
        let (log_rules, quotas) = (self.read_list(layers::LOG_RULES)?, self.read_quotas(defaults)?);
        Ok(ServerSettings { log_rules, quotas, ..settings })
    }

    /// The worker's settings.
    pub(crate) fn worker(&self) -> anyhow::Result<WorkerSettings> {
        let settings: WorkerSettings = self.read("worker")?;
        settings.cache_bytes()?;
        Ok(settings)
    }

    /// Address and key of the server to talk to.
    pub(crate) fn client(&self) -> anyhow::Result<ClientSettings> {
        let (url, url_rank) = self.text("client.url").expect("it has a default");
        let from_profile = self.profile_url();
        let key = self.text("client.api_key");
        let key_file = self.text("client.key_file");
        let (key, key_rank) = match (key, key_file) {
            // Of a key and a file that holds one, the one set in the stronger place.
            (Some((key, rank)), file) if file.as_ref().is_none_or(|(_, other)| rank >= *other) => (key, rank),
            (_, Some((file, rank))) => (read_key_file(Path::new(&file))?, rank),
            (_, None) => return Err(no_key(&url, url_rank).into()),
        };
        // A key goes only to the server it was made by: a URL from elsewhere does not get the profile's.
        let of_another =
            |rank| rank == Rank::Profile && from_profile.as_ref().is_some_and(|profile| !same_server(profile, &url));
        if of_another(key_rank) {
            return Err(no_key(&url, url_rank).into());
        }
        let fingerprint = self.text("client.tls_fingerprint").filter(|(_, rank)| !of_another(*rank));
        let trust = self.trust("client.ca_cert", fingerprint)?;
        Ok(ClientSettings { url, key, trust })
    }

    /// How a server is known: what is set in the stronger place, authorities or fingerprint.
    fn trust(&self, ca_cert: &str, fingerprint: Option<(String, Rank)>) -> Result<Trust, Failure> {
        let (mut ca_cert, mut fingerprint) = (self.text(ca_cert), fingerprint);
        if let (Some((_, of_ca)), Some((_, of_fingerprint))) = (&ca_cert, &fingerprint) {
            match of_ca.cmp(of_fingerprint) {
                Ordering::Less => ca_cert = None,
                Ordering::Greater => fingerprint = None,
                Ordering::Equal => {}
            }
        }
        let path = ca_cert.map(|(path, _)| PathBuf::from(path));
        tls::trust(path.as_deref(), fingerprint.as_ref().map(|(text, _)| text.as_str()))
    }

    /// How a worker knows its server.
    pub(crate) fn worker_trust(&self) -> Result<Trust, Failure> {
        self.trust("worker.ca_cert", self.text("worker.tls_fingerprint"))
    }
}

fn no_key(url: &str, rank: Rank) -> Failure {
    if rank == Rank::Default {
        return Failure::usage("no server is configured")
            .hint("start one here with `fetchml up`, or set FETCHML_URL and FETCHML_API_KEY to use another");
    }
    Failure::usage(format!("no API key for the server at {url}"))
        .hint("set FETCHML_API_KEY, or FETCHML_KEY_FILE to a file that holds the key")
}

/// Whether two addresses mean the same server, by their words.
pub(crate) fn same_server(a: &str, b: &str) -> bool {
    let clean = |url: &str| url.trim().trim_end_matches('/').replace("://localhost:", "://127.0.0.1:").to_lowercase();
    clean(a) == clean(b)
}

/// Reads a file that should be small.
pub(crate) fn read_small(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(crate::limits::SMALL_FILE_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

/// Reads a key from a file.
pub(crate) fn read_key_file(path: &Path) -> Result<String, Failure> {
    match read_small(path) {
        Ok(text) if text.trim().is_empty() => Err(Failure::usage(format!("the key file {} is empty", path.display()))),
        Ok(text) => Ok(text.trim().to_owned()),
        Err(error) => Err(Failure::usage(format!("cannot read the key file {}: {error}", path.display()))
            .hint(format!("set {} to the key itself, or name another file", environment::API_KEY))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_compared_by_meaning() {
        assert!(same_server("http://localhost:9101/", "http://127.0.0.1:9101"));
        assert!(!same_server("http://127.0.0.1:9101", "http://127.0.0.1:9102"));
    }
}
