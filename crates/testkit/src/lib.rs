//! What tests of FetchML stand on: a server in this process on either database, a client that
//! checks every answer against the contract, and a worker that speaks the link without running
//! anything. Everything here panics with a readable message when something is wrong.

#[cfg(feature = "server")]
mod answer;
#[cfg(feature = "server")]
mod client;
#[cfg(feature = "server")]
mod contract;
pub mod engine;
#[cfg(feature = "server")]
mod server;
#[cfg(feature = "server")]
mod web_socket;
#[cfg(feature = "server")]
mod worker;

#[cfg(feature = "server")]
pub use answer::Answer;
#[cfg(feature = "server")]
pub use client::CheckedClient;
#[cfg(feature = "server")]
pub use contract::{Contract, missing_promises};
pub use engine::TestEngine;
#[cfg(feature = "server")]
pub use server::{Database, TestServer};
#[cfg(feature = "server")]
pub use web_socket::{Closed, WsClient};
#[cfg(feature = "server")]
pub use worker::LinkWorker;

#[cfg(feature = "server")]
use std::{future::Future, time::Duration};

/// Longest wait of a test for anything.
#[cfg(feature = "server")]
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Asks `condition` again and again until it yields something.
///
/// # Panics
/// When the deadline passes; `what` says what was waited for.
#[cfg(feature = "server")]
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut condition: impl FnMut() -> F) -> T {
    let waiting = async {
        loop {
            if let Some(value) = condition().await {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(DEADLINE, waiting).await.unwrap_or_else(|_| panic!("waited in vain for: {what}"))
}
