//! The FetchML server: HTTP routes, authentication, the driver of the scheduling core, worker
//! sessions, logs and blobs. [`Server::start`] is the entry.
//!
//! Architecture Invariant: only this crate knows HTTP statuses; it contains no SQL.

#![expect(unreachable_pub, reason = "inside of private modules `pub` marks what other modules use")]

mod accept;
mod app;
mod auth;
mod blobs;
mod changes;
mod data_dir;
pub mod driver;
mod error;
mod instruments;
mod jitter;
pub mod limits;
mod link;
mod log_rules;
mod logs;
mod metrics;
mod once;
mod open_files;
mod openapi;
mod options;
mod outbox;
mod proxies;
mod query;
mod range;
mod request;
mod retention;
mod routes;
mod secrets;
mod server;
mod tls;
mod verification;
mod ws;

pub use auth::{Actor, Decision, KeyedHash, Operation, decide};
pub use data_dir::DataDirError;
pub use log_rules::{LogRule, LogRulesError};
pub use open_files::OpenFiles;
pub use openapi::openapi;
pub use options::{ConnectionTimes, DeliveryTimes, Options, Rate, RateLimits, TlsOptions, Visibility, WsTimes};
pub use outbox::MailSettings;
pub use proxies::TrustedProxies;
pub use retention::Retention;
pub use server::{AdminKey, Server, StartError};
pub use tls::{CertificateError, Tls};
