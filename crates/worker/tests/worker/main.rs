//! Tests of the worker with real processes.
#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

mod agent;
mod agent_faults;
mod agent_peer;
mod environment;
mod executor;
mod fence;
mod rig;
mod sandbox;
mod shim;
mod staging;
