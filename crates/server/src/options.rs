//! What a server is started with.

use crate::{
    driver::Preemption, limits, log_rules::LogRule, outbox::MailSettings, proxies::TrustedProxies, retention::Retention,
};
use fetchml_api::{Quota, QuotaScope, Role};
use ipnet::IpNet;
use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

/// Settings of a server. [`Options::new`] gives the defaults.
#[derive(Clone, Debug)]
pub struct Options {
    /// Address to listen on; port 0 takes any free one.
    pub listen: SocketAddr,
    /// Where everything is kept; made with mode 0700 when missing.
    pub data_dir: PathBuf,
    /// `postgres://...`; none: SQLite in the data directory.
    pub database: Option<String>,
    /// Lease: a worker not heard for this long has lost its attempts, seconds.
    pub lost_after_s: u32,
    /// Time queued that is worth one level of priority, seconds.
    pub aging_interval_s: u32,
    /// What people see of others' tasks.
    pub visibility: Visibility,
    /// Request rates; none: not limited.
    pub rate_limits: Option<RateLimits>,
    /// Requests that are worked on at the same time; more get 503.
    pub requests_at_once: usize,
    /// TLS; none: plain HTTP.
    pub tls: Option<TlsOptions>,
    /// Names and addresses by which clients know this server, beside those it finds out.
    pub host_names: Vec<String>,
    /// Allows plain HTTP on an address that other machines can reach.
    pub allow_plain_http: bool,
    /// Proxies that are believed when they say for whom they ask.
    pub trusted_proxies: TrustedProxies,
    /// Which tasks may be stopped for others of higher priority.
    pub preemption: Preemption,
    /// How long a task waits before workers are held for it, seconds.
    pub hold_after_s: u32,
    /// Time in which all nodes of a task must be ready, seconds.
    pub prepare_timeout_s: u32,
    /// How much a user, or those who act in a role, may have at once, where the API sets nothing.
    pub quotas: BTreeMap<QuotaScope, Quota>,
    /// Rules on the lines of failed attempts' logs.
    pub log_rules: Vec<LogRule>,
    /// What is kept, and for how long.
    pub retention: Retention,
    /// How patient `/ws` is.
    pub ws: WsTimes,
    /// How patient connections are.
    pub connections: ConnectionTimes,
    /// Networks that webhooks may lie in, beside the public one.
    pub webhook_allow_net: Vec<IpNet>,
    /// Where mail is handed to; none: no mail is sent.
    pub mail: Option<MailSettings>,
    /// How patient deliveries to webhooks and of mail are.
    pub deliveries: DeliveryTimes,
}

impl Options {
    /// The defaults: 127.0.0.1:9101, SQLite.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 9101)),
            data_dir: data_dir.into(),
            database: None,
            lost_after_s: 600,
            aging_interval_s: 1_800,
            visibility: Visibility::default(),
            rate_limits: Some(RateLimits::default()),
            requests_at_once: crate::limits::REQUESTS_AT_ONCE,
            tls: None,
            host_names: Vec::new(),
            allow_plain_http: false,
            trusted_proxies: TrustedProxies::default(),
            preemption: Preemption::default(),
            hold_after_s: 900,
            prepare_timeout_s: 1_800,
            quotas: BTreeMap::from([(
                QuotaScope::Role(Role::User),
                Quota { max_priority: Some(7), ..Quota::default() },
            )]),
            log_rules: Vec::new(),
            retention: Retention::default(),
            ws: WsTimes::default(),
            connections: ConnectionTimes::default(),
            webhook_allow_net: Vec::new(),
            mail: None,
            deliveries: DeliveryTimes::default(),
        }
    }
}

/// What viewers and users see of others' tasks. Operators and admins see all but values of environments.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Visibility {
    /// The same as of their own, but values of environments.
    #[default]
    Lab,
    /// That they are there and how they stand: not what they run, write and leave.
    Private,
}

/// Where the server's certificate comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TlsOptions {
    /// PEM files, read again when they change.
    Files {
        /// The chain, the server's own certificate first.
        certificate: PathBuf,
        /// Its private key.
        key: PathBuf,
    },
    /// Made at the first start and kept in the data directory; clients know it by its fingerprint.
    SelfSigned,
}

/// A token bucket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate {
    /// Requests per second in the long run.
    pub per_second: u32,
    /// Requests that may come at once.
    pub burst: u32,
}

/// Request rates per key. Keys of workers are not limited.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RateLimits {
    /// Of a key with the role admin.
    pub admin: Rate,
    /// Of a key with the role operator.
    pub operator: Rate,
    /// Of a key with the role user.
    pub user: Rate,
    /// Of a key with the role viewer.
    pub viewer: Rate,
    /// Refused keys per address and minute before the answer is 429.
    pub auth_failures_per_minute: u32,
}

impl Default for RateLimits {
    fn default() -> Self {
        Self {
            admin: Rate { per_second: 2_000, burst: 4_000 },
            operator: Rate { per_second: 2_000, burst: 4_000 },
            user: Rate { per_second: 100, burst: 200 },
            viewer: Rate { per_second: 100, burst: 200 },
            auth_failures_per_minute: limits::AUTH_FAILURES_PER_MINUTE,
        }
    }
}

/// How patient the server is with a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ConnectionTimes {
    /// Longest time for the TLS handshake.
    pub handshake_within: Duration,
    /// With many connections that have said nothing yet, one that is silent for so long makes room for another.
    pub newcomer_silence: Duration,
    /// Longest time in which a client takes nothing of what is sent to it.
    pub taken_within: Duration,
}

impl Default for ConnectionTimes {
    fn default() -> Self {
        Self {
            handshake_within: limits::HANDSHAKE_TIMEOUT,
            newcomer_silence: limits::NEWCOMER_SILENCE,
            taken_within: limits::SEND_SILENCE,
        }
    }
}

/// How patient `/ws` is with its clients.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WsTimes {
    /// How often a client is asked whether it is there.
    pub ping_every: Duration,
    /// Longest time without its answer.
    pub pong_within: Duration,
    /// Longest time in which it takes what is sent at a time.
    pub taken_within: Duration,
}

impl Default for WsTimes {
    fn default() -> Self {
        Self {
            ping_every: limits::WS_PING_EVERY,
            pong_within: limits::WS_PONG_WITHIN,
            taken_within: limits::WS_TAKEN_WITHIN,
        }
    }
}

/// How often, and how long, something is tried to be told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeliveryTimes {
    /// Pause after the first failure; about twice as long after each one more.
    pub retry_first: Duration,
    /// Longest such pause.
    pub retry_longest: Duration,
    /// Attempts after which it is given up.
    pub attempts_max: u32,
    /// Longest wait for an answer.
    pub answer_within: Duration,
}

impl Default for DeliveryTimes {
    fn default() -> Self {
        Self {
            retry_first: limits::DELIVERY_RETRY_FIRST,
            retry_longest: limits::DELIVERY_RETRY_LONGEST,
            attempts_max: limits::DELIVERY_ATTEMPTS_MAX,
            answer_within: limits::WEBHOOK_ANSWER_WITHIN,
        }
    }
}
