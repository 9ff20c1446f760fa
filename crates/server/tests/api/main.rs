//! The API through real HTTP on a real server; every answer is checked against the contract.

#![expect(clippy::unwrap_used, reason = "a test may stop anywhere")]

mod arrays;
mod artifacts;
mod audit;
mod auth;
mod bad_input;
mod blobs;
mod checkpoints;
mod completeness;
mod connect;
mod coverage;
mod datasets;
mod docs_page;
mod document;
mod events;
mod experiments;
mod fencing;
mod gc;
mod health;
mod keys;
mod life;
mod logs;
mod mail;
mod matrix;
mod metrics;
mod queue;
mod quotas;
mod raw;
mod reports;
mod run_manifest;
mod scheduler;
mod secrets;
mod server_metrics;
mod snapshots;
mod tasks;
mod tls;
mod usage;
mod visibility;
mod webhooks;
mod whoami;
mod ws;

use fetchml_api::link::{Assignment, Outcome};
use fetchml_testkit::{CheckedClient, DEADLINE, LinkWorker, TestServer};
use serde_json::{Value, json};

/// An id that is well-formed and names nothing.
const NOBODY: &str = "0192f0c1-2345-7000-8000-000000000001";

/// The smallest valid task.
fn small() -> Value {
    json!({"job_name": "a", "entrypoint": "/bin/true"})
}

/// SHA-256, lower-case hex.
fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    hex::encode(sha2::Sha256::digest(bytes))
}

/// A task that a worker has taken up.
async fn running(server: &TestServer, owner: &CheckedClient) -> (LinkWorker, Assignment) {
    owner.submit(&small()).await;
    let mut worker = LinkWorker::connect(server).await;
    let assignment = worker.run_next().await;
    (worker, assignment)
}

/// A task that has ended well.
async fn completed(server: &TestServer, owner: &CheckedClient) -> (LinkWorker, Assignment) {
    let (mut worker, assignment) = running(server, owner).await;
    worker.end(&assignment, Outcome { exit_code: Some(0), ..Outcome::default() }).await;
    (worker, assignment)
}

/// Reads a stream until it ends, however it ends: all that it said.
async fn drained(stream: &mut reqwest::Response) -> String {
    let mut said = Vec::new();
    let reading = async {
        while let Ok(Some(chunk)) = stream.chunk().await {
            said.extend_from_slice(&chunk);
        }
    };
    tokio::time::timeout(DEADLINE, reading).await.expect("the stream ends");
    String::from_utf8_lossy(&said).into_owned()
}
