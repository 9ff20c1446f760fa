//! Limits of the client: timeouts, retries, buffers and parallelism.

use std::time::Duration;

/// Longest wait for a TCP and TLS connection.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for the answer of a JSON operation.
pub const ANSWER_TIMEOUT: Duration = Duration::from_mins(1);
/// Slowest upload that is still waited for, bytes per second.
pub const UPLOAD_BYTES_PER_SECOND_MIN: u64 = 32 << 10;
/// Longest silence inside a download or a followed log (the server sends a comment every 15 s).
pub const STREAM_IDLE_TIMEOUT: Duration = Duration::from_mins(1);
/// How often an idempotent call is repeated after a transient failure.
pub const RETRIES_MAX: u32 = 4;
/// First wait between repeated calls; doubles each time.
pub const RETRY_DELAY: Duration = Duration::from_millis(250);
/// Longest `Retry-After` that is honoured; a longer one is reported to the caller at once.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(30);
/// Longest wait between attempts to take up a followed log or a wait again.
pub const RECONNECT_DELAY_MAX: Duration = Duration::from_secs(5);
/// Longest outage a followed log or a wait lives through: longer than a server's restart or upgrade.
pub const OUTAGE_MAX: Duration = Duration::from_mins(10);
/// How long the server is asked to wait for a task to change: less than proxies allow.
pub const TASK_WAIT: Duration = Duration::from_secs(20);
/// First and longest pause between two looks at a task that is waited for, where the server did not wait.
pub const POLL_DELAY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// Largest answer of a JSON operation, bytes: a manifest of the largest size and some room.
pub const ANSWER_BYTES_MAX: usize = fetchml_api::limits::MANIFEST_BYTES + (1 << 20);
/// Largest error answer that is read, bytes.
pub const ERROR_ANSWER_BYTES_MAX: usize = 1 << 20;
/// Largest single event of a followed log, bytes: a full log chunk with every byte escaped, and room.
pub const SSE_EVENT_BYTES_MAX: usize = 8 * fetchml_api::limits::LINK_LOG_CHUNK_BYTES;
/// Blobs uploaded at the same time.
pub const UPLOADS_AT_ONCE: usize = 8;
/// Most threads that hash files at the same time.
pub const HASH_THREADS_MAX: usize = 8;
/// Buffer of each hashing or uploading reader, bytes.
pub const READ_BUFFER_BYTES: usize = 128 << 10;
/// How often a file that changes while it is read is hashed again before giving up.
pub const CHANGED_FILE_TRIES: u32 = 3;
/// Most skipped paths a snapshot lists.
pub const SKIPPED_LISTED: usize = 20;
