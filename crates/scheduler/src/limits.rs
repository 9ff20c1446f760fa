//! Limits and fixed measures of the core. What an operator may change stands in
//! [`crate::Settings`]; limits of the wire formats stand in `fetchml_api::limits`.

use fetchml_api::time::SECOND;

/// Steps in one turn of what follows from ends: tasks that are not blocked any more or end too, groups that are told.
pub const DEPENDENTS_MAX: usize = 1_000;
/// Of what a task waits for, how much is shown.
pub const NEEDS_SHOWN: usize = 10;
/// Ends a worker must have shown before its mean slot occupancy says anything.
pub const OCCUPANCY_SAMPLES_MIN: u32 = 4;
/// Weight of a new end in the mean slot occupancy: one part in this many.
pub const OCCUPANCY_WEIGHT: i64 = 8;
/// Shapes looked at in one prefetch pass that found no worker to take them; bounds the pass.
pub const PREFETCH_MISSES_MAX: usize = 64;
/// Workers that fit equally well among which one is sought that holds a task's data sets; bounds the search.
pub const DATASET_EQUALS_MAX: usize = 64;
/// How long a worker that is gone stays listed, microseconds.
pub const GONE_WORKER_LISTED: i64 = 24 * 3_600 * SECOND;
/// Workers with more room than before, up to which only these are tried for what fitted nowhere.
pub const GROWN_MAX: usize = 256;
/// Tasks that have workers held for them at the same time.
pub const HOLDS_MAX: usize = 4;
/// How long a reservation collects GPUs before it is given up, seconds.
pub const RESERVATION_COLLECTS_S: i64 = 24 * 3_600;
/// Looks at all reservations in one turn: what a younger one gives up may be what an older one needs.
pub const COLLECT_PASSES_MAX: usize = 3;
/// Heads looked at in one turn for whether they need a hold.
pub const HOLD_LOOKS_MAX: usize = 64;
/// How often it is looked for whom something has to be stopped, microseconds.
pub const PREEMPT_EVERY: i64 = SECOND;
/// Heads looked at each time, by kind of slot.
pub const PREEMPT_LOOKS_MAX: usize = 32;
/// Tasks for which something is being stopped at the same time.
pub const PREEMPTIONS_MAX: usize = 16;
/// Tasks of one queue that are tried for backfill.
pub const BACKFILL_TRIES_MAX: usize = 100;
/// Tasks looked at for backfill in one turn.
pub const BACKFILL_LOOKS_MAX: usize = 2_000;
/// Tasks ahead of one that are counted for its explanation.
pub const EXPLAIN_AHEAD_MAX: usize = 1_000;
/// Queues looked at for that.
pub const EXPLAIN_HEADS_MAX: usize = 2_000;
/// Different kinds of workers looked at for that.
pub const EXPLAIN_KINDS_MAX: usize = 32;
/// Groups of workers in an explanation.
pub const EXPLAIN_GROUPS_MAX: usize = 40;
/// Workers of one group that are named, and names of devices.
pub const EXPLAIN_WORKERS_MAX: usize = 5;
/// Changes in an explanation.
pub const EXPLAIN_CHANGES_MAX: usize = 6;
/// Highest priority.
pub const PRIORITY_MAX: u8 = 10;
