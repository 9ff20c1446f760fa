//! Limits of the command line.

use std::time::Duration;

/// Newest tasks among which a shortened id is looked up.
pub(crate) const SHORT_ID_TASKS: i64 = 1_000;
/// Fewest characters of a shortened id.
pub(crate) const SHORT_ID_CHARS: usize = 6;
/// After a task has ended: longest silence of its log before following gives up.
pub(crate) const LOG_END_SILENCE: Duration = Duration::from_secs(30);
/// Width of the course of a metric, characters.
pub(crate) const SPARKLINE_CHARS: usize = 24;
/// Points that such a course is made of.
pub(crate) const SPARKLINE_POINTS: i64 = 240;
/// How often `wait` looks at an array.
pub(crate) const ARRAY_LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often `metrics --watch` looks.
pub(crate) const METRICS_WATCH_EVERY: Duration = Duration::from_secs(2);
/// Largest configuration, profile or key file, bytes.
pub(crate) const SMALL_FILE_BYTES: u64 = 1 << 20;
/// Servers whose last submitted task is remembered.
pub(crate) const LAST_TASKS: usize = 64;
/// Most threads of the server's runtime: its work is short, and each thread costs memory when idle.
pub(crate) const SERVER_THREADS_MAX: usize = 4;
/// Most threads for blocking file work of server and worker.
pub(crate) const BLOCKING_THREADS_MAX: usize = 32;
/// Idle blocking threads end after this.
pub(crate) const BLOCKING_KEEP_ALIVE: Duration = Duration::from_secs(2);
