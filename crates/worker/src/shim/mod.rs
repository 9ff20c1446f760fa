//! The shim: one small process for each attempt, which starts the user's process, owns its log file
//! and exit record, and outlives agent and server.
//!
//! The agent talks to one fork helper ([`Helper`]); the helper forks a shim for each attempt. Start
//! has two phases: the shim takes the attempt's lock, records itself in `shim.json` and says
//! `ready`; only the agent's `go` lets user code run. An agent that dies between the two closes the
//! socket both speak over, and the shim ends having run nothing. A restarted agent finds its shims
//! with [`reattach`], from the attempt's directory alone.
//!
//! Nothing here decides what follows from an exit, and nothing here speaks to the server.
//!
//! | File in the attempt's directory | Written by | Meaning |
//! |---|---|---|
//! | `lock` | shim | locked while the shim lives; holds `go` once user code may have run |
//! | `shim.json` | shim | who the shim is: boot, process id, start time, attempt |
//! | `log` | user's process | standard output and error |
//! | `stop.json` | agent | why and how to stop; read by the shim on SIGTERM |
//! | `exit.json` | shim | how it ended; written when the whole process tree is dead |

mod bwrap;
mod client;
mod confine;
mod confined;
mod contained;
mod fence;
mod helper;
mod init;
mod landlock;
mod mounts;
mod process;
mod reattach;
mod record;
mod seccomp;
mod spawn;
mod supervisor;
mod tree;
mod wire;

pub use bwrap::find as find_bubblewrap;
pub use client::{Helper, LaunchSpec, Prepared, Running};
pub use confine::{Confinement, Identity, Layer, Mount};
pub(crate) use contained::STOP_BYTE;
pub use fence::{Fence, LeaseMark};
pub use helper::helper_main;
pub use init::{INIT, init_main};
pub(crate) use init::{InitRequest, Report};
pub use landlock::is_available as has_landlock;
pub use reattach::{Reattached, reattach};
pub(crate) use record::process_start_time;
pub use record::{Exit, ExitCause, boot_id, files};
pub use tree::is_in_tree_of;
pub(crate) use wire::send_with_descriptor;
