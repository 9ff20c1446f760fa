//! Whole processes: the real binary, real files, real signals. Each test has its own data
//! directories and port; nothing here sleeps to synchronise, every wait is for a condition with a
//! deadline.

mod bad_input;
mod causes;
mod checkpoints;
mod commands;
mod crash;
mod disk_full;
mod environments;
mod escape;
mod fencing;
mod ledger;
mod namespace;
mod network;
mod proxy;
mod restarts;
mod retention;
mod support;
