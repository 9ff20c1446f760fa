//! Every limit of the running server. Limits of the wire formats stand in [`fetchml_api::limits`].

use crate::options::Rate;
use std::time::Duration;

/// Most connections at a time; less where the process may open few files.
pub const CONNECTIONS_MAX: usize = 10_000;
/// Files that the server has use for: of those, half are for connections.
pub const OPEN_FILES: u64 = 32_768;
/// Longest wait for a TLS handshake.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections that have not said yet what they want: no handshake, no head of a first request. With more of them, one
/// that has been silent for [`NEWCOMER_SILENCE`] is closed for each new one.
pub const NEWCOMERS_MAX: usize = 512;
/// See [`NEWCOMERS_MAX`].
pub const NEWCOMER_SILENCE: Duration = Duration::from_secs(2);
/// Longest time in which a client takes nothing of what is sent to it.
pub const SEND_SILENCE: Duration = Duration::from_secs(30);
/// How often the files of the certificate are looked at.
pub const CERTIFICATE_LOOK_EVERY: Duration = Duration::from_secs(30);
/// Largest file of a certificate chain or key, bytes.
pub const CERTIFICATE_FILE_BYTES: u64 = 1 << 20;
/// How long a certificate of the server's own lasts: its clients know it by its fingerprint.
pub const SELF_SIGNED_LASTS: Duration = Duration::from_hours(24 * 3_650);
/// For how long browsers ask for this server by TLS only, seconds.
pub const HSTS_S: u64 = 31_536_000;
/// Longest wait for the head of a request, also between requests of one connection.
pub const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(30);
/// Most headers of a request.
pub const HEADERS_MAX: usize = 100;
/// Largest head of a request, bytes.
pub const HEADER_BYTES: usize = 32 << 10;
/// Longest `Idempotency-Key`, characters.
pub const IDEMPOTENCY_KEY_CHARS: usize = 255;
/// How long an `Idempotency-Key` counts, seconds.
pub const IDEMPOTENCY_KEPT_S: i64 = 24 * 3_600;
/// Longest wait for a whole JSON body.
pub const JSON_BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest wait for a whole snapshot manifest.
pub const MANIFEST_BODY_TIMEOUT: Duration = Duration::from_mins(5);
/// How often what a new task depends on is looked up, when some of it ends meanwhile each time.
pub const DEPENDENCY_LOOK_UPS_MAX: u32 = 10;
/// Longest silence within the body of an upload.
pub const UPLOAD_SILENCE: Duration = Duration::from_mins(1);
/// Bytes of a refused body that are read and dropped, so that the client sees the answer instead of
/// a reset connection.
pub const REFUSED_BODY_DRAIN_BYTES: usize = 16 << 20;
/// Longest time spent on that.
pub const REFUSED_BODY_DRAIN_TIME: Duration = Duration::from_secs(2);
/// A snapshot that was asked for so lately is not marked as used anew, seconds: that would cost a write each time.
pub const SNAPSHOT_CLAIM_LASTS_S: i64 = 3_600;
/// Manifests that are read at the same time; the others wait with their body unread.
pub const MANIFESTS_AT_ONCE: usize = 2;
/// Silence after which the kernel probes a connection's peer.
pub const TCP_KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
/// Pause of the accept loop when the process is out of file descriptors.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Time that open requests get to end at a shutdown.
pub const SHUTDOWN_DRAIN: Duration = Duration::from_secs(10);

/// Requests that are worked on at the same time, from their head to the head of their answer; more get 503.
pub const REQUESTS_AT_ONCE: usize = 2_048;
/// How often an open stream looks whether its key has expired: the wall clock may jump.
pub const KEY_LOOK_EVERY: Duration = Duration::from_secs(1);
/// Refused keys per address in a minute before the answer is 429.
pub const AUTH_FAILURES_PER_MINUTE: u32 = 50;
/// Refused keys per address in a minute that get an audit event of their own; the rest is counted.
pub const AUTH_FAILURES_AUDITED_PER_MINUTE: u32 = 10;
/// Time for which one success of a key from an address is not recorded again, seconds.
pub const AUTH_SUCCESS_RECORDED_EVERY_S: i64 = 3_600;
/// Most addresses (and pairs of key and address) remembered.
pub const ADDRESSES_MAX: usize = 10_000;
/// Audit events of authentication waiting to be committed; more are only counted.
pub const AUTH_AUDIT_QUEUE: usize = 1_024;

/// Bytes read from a log or blob at a time.
pub const READ_CHUNK_BYTES: u64 = 64 << 10;
/// Part of an ended log on its way to object storage, bytes. Small: what the threads that carry parts free, the
/// allocator keeps, for each of them.
pub const ARCHIVE_PART_BYTES: usize = 256 << 10;
/// Pause between two group syncs of logs while bytes keep arriving.
pub const LOG_SYNC_PERIOD: Duration = Duration::from_millis(50);
/// Most log files kept open between writes; less where the process may open few files.
pub const LOG_FILES_OPEN_MAX: usize = 256;
/// Requests for metrics that are worked on at the same time; the others wait.
pub const METRICS_READS_AT_ONCE: usize = 2;
/// Bytes of metrics read at a time.
pub const METRICS_READ_BYTES: u64 = 1 << 20;
/// About so many bytes of metrics make a part that can be read without the rest.
pub const METRICS_PART_BYTES: u64 = 256 << 10;
/// Points that are kept in memory of one attempt's metrics: 16 MiB.
pub const METRICS_INDEX_POINTS: usize = 512 << 10;
/// What is kept in memory of all metrics that were read, bytes; what was not read for longest goes.
pub const METRICS_CACHE_BYTES: usize = 96 << 20;
/// Attempts whose metrics are kept in memory.
pub const METRICS_CACHED_MAX: usize = 1_024;
/// Largest stream of metrics that is taken from a worker, bytes: of lines of one byte each stands twice as much in it.
pub const METRICS_STREAM_BYTES: u64 = 1 << 30;

/// How often what was measured is sorted into buckets: until then each measurement takes 8 bytes.
pub const INSTRUMENTS_UPKEEP: Duration = Duration::from_secs(1);

/// How often a log stream looks whether its task went on.
pub const FOLLOW_TICK: Duration = Duration::from_millis(250);
/// Lists of tasks by metadata that are worked on at the same time; the others wait.
pub const SCANS_AT_ONCE: usize = 2;
/// Longest such wait.
pub const SCAN_WAIT: Duration = Duration::from_secs(10);
/// Longest time for which a request may wait for a task to change.
pub const TASK_WAIT_MAX: Duration = Duration::from_mins(1);
/// Part of the requests at once that may wait so, one in this many: others get through. More are answered at once.
pub const TASK_WAITS_PART: usize = 2;
/// Comment on a silent stream.
pub const STREAM_HEARTBEAT: Duration = Duration::from_secs(15);
/// How often a client of `/ws` is asked whether it is there.
pub const WS_PING_EVERY: Duration = Duration::from_secs(15);
/// Longest time without its `pong`.
pub const WS_PONG_WITHIN: Duration = Duration::from_secs(45);
/// Longest time in which a client of `/ws` takes what is sent at a time, at most [`CHANGES_AT_ONCE`] changes.
pub const WS_TAKEN_WITHIN: Duration = Duration::from_secs(20);
/// Messages that a client of `/ws` may send: per second in the long run, and at once.
pub const WS_MESSAGES: Rate = Rate { per_second: 10, burst: 100 };
/// Bytes that wait to be sent to one client of `/ws` before it is cut off; the largest message is a task.
pub const WS_WRITE_BUFFER_BYTES: usize = 4 << 20;
/// Time for saying why a connection of `/ws` is closed.
pub const WS_CLOSE_WITHIN: Duration = Duration::from_secs(1);
/// How long a ticket for `/ws` works.
pub const WS_TICKET_LASTS: Duration = Duration::from_secs(30);
/// Tickets of one key that were not used yet.
pub const WS_TICKETS_PER_KEY: usize = 64;
/// Tickets that were not used yet.
pub const WS_TICKETS_MAX: usize = 10_000;
/// Webhooks of one user, and of all.
pub const WEBHOOKS_PER_USER: usize = 20;
/// See [`WEBHOOKS_PER_USER`].
pub const WEBHOOKS_MAX: usize = 1_000;
/// Most events that a request for a webhook names, repeated ones included.
pub const WEBHOOK_EVENTS_MAX: usize = 32;
/// Deliveries at the same time, to all and of one user; the others wait, in the database.
pub const DELIVERIES_AT_ONCE: usize = 64;
/// See [`DELIVERIES_AT_ONCE`]: whoever keeps deliveries waiting keeps those of others waiting the less.
pub const DELIVERIES_OF_USER_AT_ONCE: usize = 4;
/// Longest wait for a connection to a webhook.
pub const WEBHOOK_CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// Longest wait for its answer, the connection included.
pub const WEBHOOK_ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Longest wait for one step of handing a mail over, and for all of them.
pub const MAIL_STEP_WITHIN: Duration = Duration::from_secs(20);
/// See [`MAIL_STEP_WITHIN`].
pub const MAIL_WITHIN: Duration = Duration::from_mins(1);
/// Mails that are handed over at the same time; the others wait.
pub const MAILS_AT_ONCE: usize = 4;
/// Arrays that are remembered so that their mail is not sent twice.
pub const ARRAYS_TOLD: usize = 1_024;
/// Pause after the first failure to deliver; about twice as long after each one more.
pub const DELIVERY_RETRY_FIRST: Duration = Duration::from_secs(2);
/// Longest such pause.
pub const DELIVERY_RETRY_LONGEST: Duration = Duration::from_hours(2);
/// Attempts to deliver, 18 hours with the pauses above, after which it is given up.
pub const DELIVERY_ATTEMPTS_MAX: u32 = 20;
/// Age after which no attempt follows one that failed, seconds: what waited behind others is not tried as long again.
pub const DELIVERY_AGE_MAX_S: i64 = 24 * 3_600;
/// Pause before what the store refused is tried again.
pub const OUTBOX_STORE_PAUSE: Duration = Duration::from_secs(1);
/// Changes that nobody is told of before the outbox stores that it has seen them.
pub const OUTBOX_PLACE_STORED_AFTER: u64 = 1_000;
/// How often it does so when it passed over any: well within the time for which changes are kept.
pub const OUTBOX_PLACE_STORED_EVERY: Duration = Duration::from_hours(1);

/// Files this process may have open.
pub fn open_files_max() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    limit.unwrap_or(OPEN_FILES).min(OPEN_FILES) as usize
}

/// Connections accepted at a time: half of the files this process may open at most.
pub fn connections_max() -> usize {
    CONNECTIONS_MAX.min(open_files_max() / 2).max(8)
}

/// Newcomers: a quarter of the connections at most.
pub fn newcomers_max() -> usize {
    NEWCOMERS_MAX.min(connections_max() / 4).max(2)
}

/// Log files kept open between writes: an eighth of the files this process may open at most.
pub fn log_files_open_max() -> usize {
    LOG_FILES_OPEN_MAX.min(open_files_max() / 8).max(2)
}

/// Commands that wait for the driver; beyond it requests get 503 and workers are slowed down.
pub const DRIVER_QUEUE: usize = 4_096;
/// Most commands in one turn of the driver.
pub const DRIVER_BATCH: usize = 512;
/// Longest sleep of an idle driver.
pub const DRIVER_IDLE: Duration = Duration::from_mins(1);
/// Shortest time between two refreshes of the list of workers, and between two `status` events of streams.
pub const STATUS_TOLD_EVERY: Duration = Duration::from_millis(100);
/// Shortest time between two `worker` events of one worker whose status stays the same.
pub const WORKER_TOLD_EVERY: Duration = Duration::from_secs(1);
/// Change rows kept in memory for streams; what is older is read from the store.
pub const CHANGES_RECENT: usize = 4_096;
/// Change rows that a stream takes at a time.
pub const CHANGES_AT_ONCE: usize = 256;
/// First and longest pause between probes of a store that cannot be written.
pub const PROBE_FIRST: Duration = Duration::from_millis(250);
/// See [`PROBE_FIRST`].
pub const PROBE_LONGEST: Duration = Duration::from_secs(5);
/// `Retry-After` of a 503, seconds.
pub const RETRY_AFTER_S: u32 = 1;
/// Committed changes that a reader may lag behind before it must read the state again.
pub const TASK_CHANGES: usize = 4_096;
/// Silence after which another agent may take over a worker id.
pub const CLONE_SILENCE: Duration = Duration::from_secs(15);
/// Time between SIGTERM and SIGKILL, seconds.
pub const GRACE_S: u32 = 30;

/// Messages that wait to be sent to one worker; a worker that falls further behind is cut off.
pub const SESSION_OUTBOX: usize = 8_192;
/// Longest wait for a worker's hello.
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// Seconds between a worker's heartbeats.
pub const HEARTBEAT_S: u32 = 5;
/// Silence after which a worker's session is closed.
pub const LINK_SILENCE: Duration = Duration::from_secs(20);
/// Longest wait for one message to leave towards a worker.
pub const LINK_SEND_TIMEOUT: Duration = Duration::from_secs(20);
/// Log chunks of one session that wait to be durable; beyond it the worker is slowed down.
pub const LOG_CHUNKS_IN_FLIGHT: usize = 64;
/// Most slots of a kind that a worker may claim.
pub const WORKER_SLOTS_MAX: u32 = 4_096;
/// Most attempts in a worker's inventory.
pub const WORKER_INVENTORY_MAX: usize = 100_000;
/// Highest incarnation a worker may claim to have seen.
pub const INCARNATION_MAX: u64 = (1 << 26) - 2;

/// Rules on log lines.
pub const LOG_RULES_MAX: usize = 64;
/// Longest expression of one, bytes.
pub const LOG_RULE_PATTERN_BYTES: usize = 1_000;
/// Largest expression when compiled, and most memory for matching it fast, bytes.
pub const LOG_RULE_COMPILED_BYTES: usize = 1 << 20;
/// What is shown of a wrong rule's expression, characters.
pub const LOG_RULE_SHOWN_CHARS: usize = 60;
/// End of a failed attempt's log that rules see, bytes: as much as a task's `output`.
pub const LOG_RULE_TAIL_BYTES: u64 = 64 << 10;
/// Tasks and snapshots that a collection reads at a time.
pub const GC_PAGE: u32 = 200;
/// Rows that a collection deletes in one transaction: submits wait for no more.
pub const GC_ROWS: u32 = 200;
/// Artifact rows that a collection reads at a time.
pub const GC_BLOB_PAGE: u32 = 5_000;
/// Checkpoints that a collection reads at a time; each lists up to 1,000 files.
pub const GC_CHECKPOINT_PAGE: u32 = 50;
/// Blobs that a collection compares with everything that refers to any, at a time: 48 bytes of memory each.
pub const GC_CANDIDATES: usize = 500_000;
/// Tasks that a dry run remembers as deleted.
pub const GC_DRY_RUN_TASKS: usize = 200_000;
/// A collection pauses when it has worked for so long, for as long as it worked.
pub const GC_WORK_MIN: Duration = Duration::from_millis(2);
/// Longest such pause.
pub const GC_PAUSE_MAX: Duration = Duration::from_millis(100);
/// How often a collection looks anew whether the disk is less full.
pub const GC_DISK_ROUNDS: u32 = 8;
/// First collection after a start: workers have come back by then, and the clock has been set.
pub const GC_FIRST: Duration = Duration::from_mins(10);
/// How often the disk is looked at.
pub const GC_DISK_LOOK: Duration = Duration::from_mins(1);
/// Shortest time between two collections for a full disk.
pub const GC_DISK_AGAIN: Duration = Duration::from_mins(5);
/// Blobs are looked through at most this part of the time: they may be many.
pub const GC_SWEEP_PART: u32 = 20;
/// An upload that nothing was added to for so long broke off.
pub const GC_UPLOAD_QUIET: Duration = Duration::from_hours(1);
/// Longest wait of a request for a collection; later it answers how far it is.
pub const GC_ANSWER_WAIT: Duration = Duration::from_secs(40);
/// What is told of a path that was refused, characters.
pub const AUDIT_PATH_CHARS: usize = 200;
/// Audit rows that a verification reads at a time.
pub const VERIFY_ROWS: u32 = 500;
/// Shortest time between two reports of a verification's progress.
pub const VERIFY_TOLD_EVERY: Duration = Duration::from_millis(250);
/// A GPU that is less busy than this, percent, does nothing.
pub const IDLE_BELOW_PERCENT: u32 = 5;
/// Longest time that counts for one look at a GPU: workers look at least this often.
pub const IDLE_LOOK_MAX: Duration = Duration::from_secs(15);
/// How often the time of idle GPUs is stored.
pub const IDLE_STORED_EVERY: Duration = Duration::from_mins(1);
/// Longest wait of a request for its turn to be explained.
pub const EXPLAIN_WAIT: Duration = Duration::from_secs(5);
