//! The command line without a server: words, exit codes, configuration.

#![expect(clippy::unwrap_used, reason = "a test stops where it fails")]

mod arguments;
mod configuration;
mod connection;
mod support;
