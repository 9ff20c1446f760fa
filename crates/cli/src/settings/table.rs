//! The table of all settings: name, environment variable, kind, default and meaning.

use crate::environment as env;

/// What kind of value a setting has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Text,
    Integer,
    Boolean,
}

/// One setting.
#[derive(Debug)]
pub(super) struct Setting {
    /// `table.key`, as in the file.
    pub(super) path: &'static str,
    pub(super) variable: &'static str,
    pub(super) kind: Kind,
    /// Shown as `***`.
    pub(super) secret: bool,
    /// For people.
    pub(super) meaning: &'static str,
}

const fn setting(path: &'static str, variable: &'static str, kind: Kind, meaning: &'static str) -> Setting {
    Setting { path, variable, kind, secret: false, meaning }
}

const fn secret(path: &'static str, variable: &'static str, meaning: &'static str) -> Setting {
    Setting { path, variable, kind: Kind::Text, secret: true, meaning }
}

/// All of them, in the order they are shown.
pub(super) const SETTINGS: &[Setting] = &[
    setting("client.url", env::URL, Kind::Text, "server that client commands talk to"),
    secret("client.api_key", env::API_KEY, "key of client commands"),
    setting("client.key_file", env::KEY_FILE, Kind::Text, "file that holds the key of client commands"),
    setting("client.ca_cert", env::CA_CERT, Kind::Text, "file of the authorities that vouch for the server (PEM)"),
    setting("client.tls_fingerprint", env::TLS_FINGERPRINT, Kind::Text, "fingerprint of the server's certificate"),
    setting("server.listen", env::LISTEN, Kind::Text, "address the server listens on"),
    setting("server.data_dir", env::DATA_DIR, Kind::Text, "where the server keeps everything"),
    secret("server.database", env::DATABASE, "postgres://... instead of SQLite in the data directory"),
    setting("server.rate_limits", env::RATE_LIMITS, Kind::Text, "request rates per key: on or off"),
    setting("server.rate_limit", env::RATE_LIMIT, Kind::Text, "rates of roles: user=100/s,burst=200; viewer=50/s"),
    setting(
        "server.auth_failures",
        env::AUTH_FAILURES,
        Kind::Integer,
        "keys of one address that are refused within a minute before it gets 429",
    ),
    setting(
        "server.visibility",
        env::VISIBILITY,
        Kind::Text,
        "what users see of others' tasks: lab, all but environments; private, not what they run, write and leave",
    ),
    setting("server.lost_after_s", env::LOST_AFTER, Kind::Integer, "a worker silent for this long has lost its tasks"),
    setting("server.aging_interval_s", env::AGING_INTERVAL, Kind::Integer, "time queued worth one level of priority"),
    setting("server.hold_after_s", env::HOLD_AFTER, Kind::Integer, "wait after which workers are held for a task"),
    setting(
        "server.prepare_timeout_s",
        env::PREPARE_TIMEOUT,
        Kind::Integer,
        "time in which all nodes of a task must be ready",
    ),
    setting(
        "server.preempt_batch",
        env::PREEMPT_BATCH,
        Kind::Boolean,
        "tasks may be stopped for others of higher priority that fit nowhere",
    ),
    setting("server.preempt_service", env::PREEMPT_SERVICE, Kind::Boolean, "notebooks and tools may be"),
    setting(
        "server.preempt_cooldown_s",
        env::PREEMPT_COOLDOWN,
        Kind::Integer,
        "what was stopped so runs for this long before it is stopped again",
    ),
    setting("server.tls", env::TLS, Kind::Text, "self-signed: a certificate of the server's own; off"),
    setting("server.tls_cert", env::TLS_CERT, Kind::Text, "file of the server's certificate chain (PEM)"),
    setting("server.tls_key", env::TLS_KEY, Kind::Text, "file of its private key (PEM)"),
    setting("server.host_name", env::HOST_NAME, Kind::Text, "names by which clients know the server, comma between"),
    setting(
        "server.trusted_proxies",
        env::TRUSTED_PROXIES,
        Kind::Text,
        "networks of proxies whose X-Forwarded-For is believed, comma between",
    ),
    setting("server.allow_plain_http", env::ALLOW_PLAIN_HTTP, Kind::Boolean, "allow plain HTTP off loopback"),
    setting("server.smtp_url", env::SMTP_URL, Kind::Text, "SMTP server for mail about tasks: smtps://USER@HOST"),
    secret("server.smtp_password", env::SMTP_PASSWORD, "password of the user in it"),
    setting("server.smtp_password_file", env::SMTP_PASSWORD_FILE, Kind::Text, "file that holds that password"),
    setting("server.mail_from", env::MAIL_FROM, Kind::Text, "whom mail is from, such as fetchml@example.org"),
    setting(
        "server.mail_domains",
        env::MAIL_DOMAINS,
        Kind::Text,
        "domains that mail may go to beside that of its sender, comma between",
    ),
    setting(
        "server.webhook_allow_net",
        env::WEBHOOK_ALLOW_NET,
        Kind::Text,
        "networks of webhooks beside the public one, comma between",
    ),
    setting(
        "server.retention_days",
        env::RETENTION_DAYS,
        Kind::Integer,
        "days that logs, artifacts and checkpoints of ended tasks are kept; 0: for ever",
    ),
    setting(
        "server.task_retention_days",
        env::TASK_RETENTION_DAYS,
        Kind::Integer,
        "days that ended tasks stay in lists, at least as long as their files; 0: for ever",
    ),
    setting(
        "server.deleted_retention_days",
        env::DELETED_RETENTION_DAYS,
        Kind::Integer,
        "days that the files of deleted tasks are kept",
    ),
    setting(
        "server.retention_min_hours",
        env::RETENTION_MIN_HOURS,
        Kind::Integer,
        "hours that the files of ended tasks are kept even if the disk is full",
    ),
    setting(
        "server.disk_high_percent",
        env::DISK_HIGH_PERCENT,
        Kind::Integer,
        "on a disk fuller than this the oldest files of ended tasks are deleted; 100: never",
    ),
    setting("server.disk_low_percent", env::DISK_LOW_PERCENT, Kind::Integer, "until it is no fuller than this"),
    setting(
        "server.gc_every_hours",
        env::GC_EVERY_HOURS,
        Kind::Integer,
        "hours between two collections of what is not needed any more; 0: only by `fetchml admin gc`",
    ),
    setting("worker.server", env::SERVER, Kind::Text, "server a worker takes tasks from"),
    setting("worker.key_file", env::KEY_FILE, Kind::Text, "file that holds the worker's key"),
    setting("worker.ca_cert", env::CA_CERT, Kind::Text, "file of the authorities that vouch for the server (PEM)"),
    setting("worker.tls_fingerprint", env::TLS_FINGERPRINT, Kind::Text, "fingerprint of the server's certificate"),
    setting("worker.data_dir", env::DATA_DIR, Kind::Text, "where a worker keeps everything"),
    setting("worker.name", env::WORKER_NAME, Kind::Text, "name of the worker: the host name unless set"),
    setting("worker.slots", env::SLOTS, Kind::Integer, "tasks at the same time: the cores unless set"),
    setting("worker.service_slots", env::SERVICE_SLOTS, Kind::Integer, "notebooks and tools at the same time"),
    setting("worker.log_quota_mib", env::LOG_QUOTA, Kind::Integer, "longest log kept of one attempt, MiB"),
    setting("worker.gpus", env::GPUS, Kind::Integer, "simulated GPUs, instead of the machine's; 0: none at all"),
    setting("worker.gpu_type", env::GPU_TYPE, Kind::Text, "what simulated GPUs are called, such as H100"),
    setting("worker.nvml_library", env::NVML_LIBRARY, Kind::Text, "NVIDIA's libnvidia-ml.so.1, where it is not found"),
    setting(
        "worker.isolation",
        env::ISOLATION,
        Kind::Text,
        "required, auto or none: required unless set, auto for `up` on loopback",
    ),
    setting("worker.container_engine", env::CONTAINER_ENGINE, Kind::Text, "runs images: auto, podman, docker or none"),
    setting(
        "worker.container_socket",
        env::CONTAINER_SOCKET,
        Kind::Text,
        "where that engine listens: found unless set",
    ),
    setting(
        "worker.container_limits",
        env::CONTAINER_LIMITS,
        Kind::Text,
        "required: no engine that cannot limit memory, cpu and processes; auto: limits that there are",
    ),
    setting("worker.allow_images", env::ALLOW_IMAGES, Kind::Text, "patterns of image names, by commas: any unless set"),
    setting(
        "worker.cache",
        env::CACHE,
        Kind::Text,
        "disk that files of snapshots and Python environments may take: a fifth unless set",
    ),
    setting("worker.dataset_dirs", env::DATASET_DIRS, Kind::Text, "directories of file:// data sets, : between"),
    setting(
        "worker.dataset_allow_net",
        env::DATASET_ALLOW_NET,
        Kind::Text,
        "networks of data sets beside the public one, comma between",
    ),
    setting(
        "worker.dataset_stores",
        env::DATASET_STORES,
        Kind::Text,
        "buckets of s3:// data sets, such as s3://lab-data/train, comma between",
    ),
    setting("worker.dataset_cache", env::DATASET_CACHE, Kind::Text, "disk that data sets may take: half unless set"),
];

/// The setting of a path.
pub(super) fn find(path: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.path == path)
}
