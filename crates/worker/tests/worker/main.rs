//! Tests of the worker with real processes.

mod agent;
mod agent_faults;
mod agent_peer;
mod environment;
mod executor;
mod rig;
mod shim;
mod staging;
