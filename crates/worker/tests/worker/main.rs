//! Tests of the worker with real processes.

mod environment;
mod executor;
mod rig;
mod shim;
mod staging;
