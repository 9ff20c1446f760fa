//! Every limit of the store, in one place.

use std::time::Duration;

/// Commits that may wait for the writer; one more is told to try again later.
pub const COMMIT_QUEUE: usize = 4_096;
/// Writes the writer puts into one transaction before it starts the next.
pub const BATCH_WRITES: usize = 4_096;
/// Rows of one multi-row INSERT on PostgreSQL, largest first. Few sizes, so that few statements are prepared.
pub(crate) const POSTGRES_INSERT_ROWS: &[usize] = &[64, 16, 4, 1];
/// Rows of one INSERT on SQLite. A statement of more may fail half-way, so SQLite copies every page it touches
/// aside first: measured, that costs more than the statements saved.
pub(crate) const SQLITE_INSERT_ROWS: &[usize] = &[1];
/// Connections for reads.
pub const READ_CONNECTIONS: usize = 4;
/// Prepared statements kept by each connection.
pub const STATEMENT_CACHE: usize = 128;
/// Change rows kept.
pub const CHANGE_ROWS: u64 = 1_000_000;
/// Age of change rows kept, microseconds: 24 hours.
pub const CHANGE_AGE_US: i64 = 24 * 3_600 * 1_000_000;
/// Seconds of a day, for counts over the last one.
pub(crate) const DAY_S: i64 = 24 * 3_600;
/// New change rows between two prunings; each takes away at most [`PRUNE_ROWS`].
pub const PRUNE_EVERY: u64 = 1_000;
/// Most change rows one pruning takes away.
pub const PRUNE_ROWS: u64 = 5_000;
/// Most rows of one page of audit or change rows.
pub const PAGE_ROWS: u32 = 10_000;
/// How long a reservation that was no task's is kept after it expired, microseconds.
pub const RESERVATION_KEPT: i64 = 24 * 3_600 * 1_000_000;
/// Deliveries that wait in one lane; one more is given up at once.
pub const LANE_WAITING: u32 = 1_000;
/// Deliveries of one lane that were given up and are kept to be shown.
pub const LANE_FAILED: u32 = 100;
/// How long they are kept, microseconds: 7 days.
pub const FAILED_DELIVERY_KEPT: i64 = 7 * 24 * 3_600 * 1_000_000;
/// How long SQLite waits for a lock another process holds.
pub const BUSY_TIMEOUT: Duration = Duration::from_millis(200);
/// Page cache of SQLite's writer, KiB.
pub const WRITER_CACHE_KIB: i64 = 16_384;
/// Page cache of each of SQLite's read connections, KiB.
pub const READER_CACHE_KIB: i64 = 4_096;
/// Size of the WAL at which SQLite copies it back, pages of 4 KiB.
pub const WAL_PAGES: i64 = 4_000;
/// How long to wait for a connection to PostgreSQL.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the start waits for the lock on a PostgreSQL database, which a server that was killed
/// holds until PostgreSQL notices.
pub const LOCK_WAIT: Duration = Duration::from_secs(2);
/// Bytes a probe writes (and removes): more than a page, so that a full disk shows.
pub const PROBE_BYTES: usize = 16_384;
