//! Tests of the worker with real processes.
#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

mod agent;
mod agent_cache;
mod agent_faults;
mod agent_peer;
mod agent_reboot;
mod container;
mod dataset_stores;
mod datasets;
mod environment;
mod executor;
#[path = "../../../../tests/fake_nvml/mod.rs"]
mod fake_nvml;
mod fence;
mod file_server;
mod gang;
mod gpu;
mod gpu_tasks;
mod rig;
mod s3_server;
mod sandbox;
mod secrets;
mod shim;
mod staging;
