//! The worker: takes attempts from a server over one outbound WebSocket, stages their code and
//! environment, runs each under its shim, streams its log and brings in its files. Agents and servers
//! come and go; shims and what is in the data directory stay.
//!
//! [`agent`] decides and speaks, [`shim`] owns processes, [`container`] those that run in an image, [`executor`] says
//! what to start, [`staging`] brings in code and environment, [`hardware`] says what the machine has, [`gpu`] looks after
//! its GPUs, `usage` says what an attempt takes of the machine.

pub mod agent;
pub mod cgroup;
pub mod container;
pub mod executor;
pub mod gpu;
pub mod hardware;
pub mod isolation;
pub mod limits;
mod redact;
pub mod shim;
pub mod staging;
mod usage;

pub use agent::{ExitReason, Options, StartError, Worker};
