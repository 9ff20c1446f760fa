//! Whole processes: the real binary, real files, real signals. Each test has its own data
//! directories and port; nothing here sleeps to synchronise, every wait is for a condition with a
//! deadline.
//!
//! Promises under faults, and where each is tested (by tests whose names begin with it):
//!
//! | Promise | Faults | Tests |
//! |---|---|---|
//! | G1 an acknowledged submit is durable | kill -9 of the server under load | `ledger` |
//! | G2 one attempt has authority | partition, one-way cuts, SIGSTOP, a cloned worker | `network`, `fencing` |
//! | | late and repeated frames, at the link | `crates/server/tests/api/fencing.rs` |
//! | | the lease that each shim keeps | `crates/worker/tests/worker/fence.rs` |
//! | G3 a server's restart kills no task | kill -9 with one and with fifty running | `restarts` |
//! | | leases start again at boot | `crates/scheduler/tests/core/restore.rs` |
//! | G4 a worker's restart re-attaches | kill -9 of the agent, upgrade, reboot | `restarts` |
//! | G5 one terminal transition | repeated, reordered, conflicting reports | `crates/server/tests/api/reports.rs` |
//! | G6 logs are whole and never block | kills, broken links, lost packets, full disk, garbage, quota | `logs`, `network`, `disk_full` |
//! | G7 streams go on | kill -9 of the server, readers that hang up anywhere | `streams` |
//! | G8 no change without its audit event | kill -9 anywhere; the log replayed is the table of tasks | `crash` |
//! | webhooks hear of everything | kill -9 of the server between any two steps | `webhooks` |
//! | G10 cancel kills the whole tree | double fork, setsid, SIGTERM ignored | `trees`, `crates/worker/tests/worker/sandbox.rs` |
//! | G11 gangs start and end as one | any worker's tree or agent killed, by real trainings | `gang` |
//! | | the same at every step | `crates/scheduler/tests/core/gang.rs` |
//! | G12 aging bounds the wait | whatever arrives | `crates/scheduler/tests/core/aging.rs`, `hold.rs` there |
//! | all of these at once | anything killed at random and at named places | `crash` |

mod arrays;
mod audit;
mod bad_input;
mod canaries;
mod causes;
mod checkpoints;
mod clock;
mod commands;
mod containers;
mod crash;
mod datasets;
mod disk_full;
mod docs_page;
mod environments;
mod escape;
#[path = "../fake_nvml/mod.rs"]
mod fake_nvml;
mod fencing;
mod gang;
mod gpus;
mod ledger;
mod logs;
mod mail;
mod metrics;
mod namespace;
mod network;
mod preemption;
mod provenance;
mod proxy;
mod reservations;
mod restarts;
mod retention;
mod scheduling;
mod streams;
mod support;
mod tls;
mod training;
mod trees;
mod webhooks;
