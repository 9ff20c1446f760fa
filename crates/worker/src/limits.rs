//! Every limit of the worker: queues, buffers, waits.

use std::time::Duration;

/// Service slots unless set.
pub const SERVICE_SLOTS_DEFAULT: u32 = 4;

/// Longest wait for the TCP connection, TLS and the WebSocket upgrade together.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for the answer to a hello.
pub const WELCOME_TIMEOUT: Duration = Duration::from_secs(15);
/// A beat unanswered for this long: the link is dead, however alive TCP looks.
pub const BEAT_TIMEOUT: Duration = Duration::from_secs(15);
/// Heartbeat periods accepted from a server, seconds.
pub const HEARTBEAT_S: std::ops::RangeInclusive<u32> = 1..=300;
/// First wait before a reconnect is drawn from 0 to this: a restarted server is bridged fast.
pub const RECONNECT_FIRST: Duration = Duration::from_millis(300);
/// The wait grows up to this, drawn anew each time so that many workers do not come at once.
pub const RECONNECT_MAX: Duration = Duration::from_secs(5);
/// A session of this length counts as good: the next wait starts small again.
pub const SESSION_GOOD: Duration = Duration::from_secs(2);
/// WebSocket write buffer before a send waits, bytes.
pub const WS_WRITE_BUFFER_BYTES: usize = 128 << 10;
/// Most a WebSocket may buffer unsent, bytes: above the largest message, else it could never be sent.
pub const WS_WRITE_BUFFER_MAX_BYTES: usize = fetchml_api::limits::LINK_MESSAGE_BYTES + (1 << 20);

/// Events waiting for the agent's core.
pub const CORE_EVENTS: usize = 1_024;
/// Log frames waiting for the link; each at most [`fetchml_api::limits::LINK_LOG_CHUNK_BYTES`].
pub const LINK_LOG_FRAMES: usize = 8;
/// Most bytes of reports put into one message.
pub const REPORTS_MESSAGE_BYTES: usize = 1 << 20;
/// `Accepted` and `Running` wait this long for company, so that a short task costs one or two messages.
pub const REPORT_LINGER: Duration = Duration::from_millis(1);

/// A report not acknowledged within this time is synced to disk.
pub const SPOOL_SYNC_AFTER: Duration = Duration::from_millis(50);
/// The spool is rewritten once it is this long and mostly acknowledged, bytes.
pub const SPOOL_COMPACT_BYTES: u64 = 1 << 20;
/// Longest line of the spool that is read back, bytes.
pub const SPOOL_LINE_BYTES: usize = fetchml_api::limits::LINK_MESSAGE_BYTES;
/// After a boot the numbers of reports go on this much higher: a power cut may have eaten the last ones
/// of the spool, and a number must never name two reports.
pub const SPOOL_SEQ_SKIP: u64 = 1 << 20;

/// Attempts held at once; beyond: refused as a launch fault, which the server queues again.
pub const ATTEMPTS_MAX: usize = 20_000;
/// Ids of ended attempts remembered, so that a late repeat of an assign does not run them again.
pub const ENDED_REMEMBERED: usize = 16_384;

/// Log bytes sent and not yet acknowledged, for each attempt.
pub const LOG_WINDOW_BYTES: u64 = 4 << 20;
/// Log bytes kept of one attempt unless set; the rest is counted in a marker.
pub const LOG_QUOTA_BYTES: u64 = 10 << 30;
/// Pause between two looks at the logs while something grows.
pub const LOG_POLL_ACTIVE: Duration = Duration::from_millis(50);
/// The pause doubles up to this while nothing grows.
pub const LOG_POLL_IDLE: Duration = Duration::from_millis(500);
/// Acknowledged offsets are written to disk at most this often.
pub const LOG_MARK_EVERY: Duration = Duration::from_secs(2);

/// How often GPUs are looked at.
pub const GPU_LOOK_EVERY: Duration = Duration::from_secs(10);
/// Longest wait for the driver's answers to one look; then every GPU counts as unhealthy until it answers.
pub const GPU_ANSWER: Duration = Duration::from_secs(10);
/// Longest wait until processes of an ended attempt are gone from its GPUs; then those are withheld.
pub const GPU_RELEASE_MAX: Duration = Duration::from_secs(10);
/// Pause between two looks meanwhile.
pub const GPU_RELEASE_RETRY: Duration = Duration::from_millis(200);
/// XID events of one GPU read at each look.
pub const GPU_EVENTS_MAX: usize = 256;
/// Lines about its GPUs that one attempt gets into its log.
pub const GPU_NOTES_MAX: u32 = 16;
/// Parents followed from a process to the shim that it may belong to.
pub const ANCESTORS_MAX: usize = 256;
/// Longest name of a process that is shown, characters: the kernel keeps 15.
pub const PROCESS_NAME_CHARS: usize = 15;
/// Bytes of a metrics file that are taken at once; more than the longest line.
pub const METRICS_READ_BYTES: usize = 256 << 10;
/// End of a stream of metrics in which the last batch is looked for; more than two of the largest batches.
pub const METRICS_TAIL_BYTES: u64 = 2 << 20;
/// Pause between two looks at an attempt's metrics while they grow.
pub const METRICS_POLL_ACTIVE: Duration = Duration::from_millis(250);
/// The pause doubles up to this while they do not.
pub const METRICS_POLL_IDLE: Duration = Duration::from_secs(2);
/// When a started attempt's use of its machine is first measured.
pub const USAGE_FIRST: Duration = Duration::from_secs(1);
/// How often it is measured then.
pub const USAGE_EVERY: Duration = Duration::from_secs(10);
/// A look at all processes serves for so long.
pub const USAGE_LOOK_FOR: Duration = Duration::from_millis(500);
/// Tries to take the last lines of a task that has ended, such as on a full disk.
pub const METRICS_LAST_TRIES: u32 = 5;

/// Uploads at once, over all attempts.
pub const UPLOADS_AT_ONCE: usize = 4;
/// End of a failed task's log that is searched for why it failed, bytes.
pub const DIAGNOSIS_TAIL_BYTES: u64 = 64 << 10;
/// How often the checkpoint directory of a running attempt is looked at.
pub const CHECKPOINT_EVERY: Duration = Duration::from_secs(2);
/// A checkpoint's file is stored when nothing changed it for so long.
pub const CHECKPOINT_QUIET: Duration = Duration::from_secs(5);
/// How often the room on the worker's disk is looked at.
pub const DISK_EVERY: Duration = Duration::from_secs(2);
/// With less room than this, bytes, or than one [`DISK_RESERVE_PART`]th of the disk, the attempt that takes
/// the most is stopped.
pub const DISK_RESERVE_BYTES: u64 = 1 << 30;
/// See [`DISK_RESERVE_BYTES`].
pub const DISK_RESERVE_PART: u64 = 20;
/// The room on a disk of `total_bytes` that is kept free, bytes.
pub const fn disk_reserve_bytes(total_bytes: u64) -> u64 {
    let part = total_bytes / DISK_RESERVE_PART;
    if part < DISK_RESERVE_BYTES { part } else { DISK_RESERVE_BYTES }
}
/// With less room than so many reserves the cache gives up what no attempt uses: before any is stopped.
pub const DISK_CACHE_RESERVES: u64 = 2;
/// An attempt that takes less is not to blame for a full disk, bytes.
pub const DISK_BLAME_BYTES: u64 = 16 << 20;
/// Directories and files of one attempt that are measured.
pub const DISK_ENTRIES_MAX: u32 = 1_000_000;
/// First wait before an upload is tried again; doubles up to [`UPLOAD_RETRY_MAX`].
pub const UPLOAD_RETRY_FIRST: Duration = Duration::from_millis(200);
/// Longest wait before an upload is tried again.
pub const UPLOAD_RETRY_MAX: Duration = Duration::from_secs(10);
/// Longest outage of the server that staging waits for: longer than a restart or an upgrade.
pub const STAGING_OUTAGE_MAX: Duration = Duration::from_hours(1);
/// Answers that are not FetchML's before an upload is given up.
pub const UPLOAD_UNEXPECTED_MAX: u32 = 20;
/// Deepest directory below the output directory.
pub const OUTPUT_DEPTH_MAX: usize = 64;
/// Directories and files looked at in one output directory.
pub const OUTPUT_ENTRIES_MAX: usize = 200_000;
/// Buffer for hashing, bytes.
pub const HASH_BUFFER_BYTES: usize = 256 << 10;

/// Part of the lease the worker leaves unused: its processes are dead this long before the server gives
/// them up, seconds.
pub const FENCE_MARGIN_S: u64 = 15;
/// How often the lease is looked at.
pub const FENCE_EVERY: Duration = Duration::from_secs(1);
/// Longest wait for stopped tasks to be reported at a shutdown that stops them.
pub const SHUTDOWN_MAX: Duration = Duration::from_mins(1);

/// How long a shim waits for the agent's `go` before it exits having run nothing.
pub const SHIM_GO_WAIT: Duration = Duration::from_secs(10);
/// How long a shim that has let go of its lock may take to be gone.
pub const SHIM_DEATH_WAIT: Duration = Duration::from_secs(5);
/// How often a restarted agent looks whether a shim that was found between start and `go` has ended.
pub const SHIM_GO_LOOK: Duration = Duration::from_millis(5);
/// How long the agent waits for a shim to say that it is ready.
pub const SHIM_READY_WAIT: Duration = Duration::from_secs(10);
/// Largest start request to the fork helper, bytes: the largest environment and arguments a task may
/// have, encoded.
pub const SHIM_REQUEST_BYTES: usize = 64 << 20;
/// Largest answer of a shim to the agent, bytes.
pub const SHIM_REPLY_BYTES: u64 = 16 << 10;
/// How often a shim tries to write an exit record before it gives up, which makes the attempt lost.
pub const EXIT_RECORD_TRIES: u32 = 120;
/// Pause between two such tries.
pub const EXIT_RECORD_RETRY: Duration = Duration::from_secs(1);
/// Time between SIGTERM and SIGKILL for processes left behind by a main process that ended.
pub const LEFTOVER_GRACE: Duration = Duration::from_secs(2);
/// How often a shim looks again for processes that were forked while it killed their parents.
pub const KILL_RESCAN: Duration = Duration::from_millis(20);
/// Most passes over all processes to kill what a killed shim left behind.
pub const ORPHAN_PASSES: u32 = 1_000;

/// Part of the disk that files of snapshots and Python environments may take, unless set.
pub const CACHE_PART: u64 = 5;
/// The last use of a cached thing is written to disk at most this often.
pub const CACHE_NOTED_EVERY: Duration = Duration::from_mins(1);
/// Longest build of a Python environment.
pub const ENVIRONMENT_BUILD: Duration = Duration::from_mins(30);
/// Time between SIGTERM and SIGKILL when a build is stopped, seconds.
pub const ENVIRONMENT_BUILD_GRACE_S: u32 = 5;
/// Lines of the builder's output kept for the error of a failed build.
pub const ENVIRONMENT_ERROR_LINES: usize = 5;
/// End of the builder's output that is searched for those lines, bytes.
pub const ENVIRONMENT_ERROR_TAIL_BYTES: u64 = 16 << 10;
/// Longest line of it that is shown whole, characters.
pub const ENVIRONMENT_ERROR_LINE_CHARS: usize = 400;
/// Processes and threads of what builds an environment.
pub const BUILDER_PROCESSES: u32 = 4_096;
/// Directories above a file of an environment.
pub const ENVIRONMENT_DEPTH_MAX: usize = 100;
/// Blobs of one snapshot fetched at the same time.
pub const BLOB_FETCHES: usize = 8;
/// Files at the snapshot's top named in the error about a missing script.
pub const TOP_FILES_SHOWN: usize = 12;
/// Most steps a build ever had: where a restarted agent looks for builders that still run.
pub const ENVIRONMENT_STEPS: usize = 4;
/// Pause between two tries for an environment that another process builds.
pub const ENVIRONMENT_LOCK_RETRY: Duration = Duration::from_millis(200);

/// Largest record about an attempt that is read back, bytes.
pub const RECORD_BYTES: u64 = 1 << 20;
/// What of a package's record is read, bytes.
pub const PACKAGE_RECORD_BYTES: u64 = 64 << 10;
/// Longest line about a package, characters.
pub const PACKAGE_CHARS: usize = 1_024;
/// Lines about the packages of one environment, bytes; the rest is counted.
pub const PACKAGES_BYTES: usize = 256 << 10;
/// Longest wait for a connection to a source of a data set.
pub const DATASET_CONNECT: Duration = Duration::from_secs(10);
/// Longest wait for the beginning of its answer.
pub const DATASET_ANSWER: Duration = Duration::from_mins(1);
/// Longest wait for its next bytes.
pub const DATASET_IDLE: Duration = Duration::from_mins(1);
/// A source that gives fewer than [`DATASET_SLOW_BYTES`] in this time is as good as dead.
pub const DATASET_SLOW: Duration = Duration::from_mins(2);
/// See [`DATASET_SLOW`].
pub const DATASET_SLOW_BYTES: u64 = 256 << 10;
/// How often a download that makes no progress is tried again.
pub const DATASET_TRIES: u32 = 5;
/// A try that brought this much, bytes, made progress.
pub const DATASET_PROGRESS_BYTES: u64 = 1 << 20;
/// First pause before a broken download goes on; doubles up to [`DATASET_RETRY_MAX`].
pub const DATASET_RETRY_FIRST: Duration = Duration::from_secs(1);
/// Longest pause before a broken download goes on.
pub const DATASET_RETRY_MAX: Duration = Duration::from_secs(30);
/// How often one download is begun anew because its source changed or cannot go on in the middle.
pub const DATASET_BEGUN_ANEW: u32 = 3;
/// Redirects followed.
pub const DATASET_REDIRECTS: u32 = 5;
/// Of what an object store says about a failure, so many characters are passed on.
pub const DATASET_STORE_WORDS: usize = 500;
/// Data sets downloaded at the same time, over all attempts.
pub const DATASET_DOWNLOADS: usize = 4;
/// Pieces of a download that wait for the disk.
pub const DATASET_CHUNKS: usize = 16;
/// Buffer for reading data sets, bytes.
pub const DATASET_READ_BYTES: usize = 1 << 20;
/// Steps in which room is taken for a download of unknown length, bytes.
pub const DATASET_ROOM_BYTES: u64 = 64 << 20;
/// Pause between two lines that tell how far a download is.
pub const DATASET_PROGRESS_EVERY: Duration = Duration::from_secs(10);
/// Unless set, data sets take one part in this many of their disk.
pub const DATASET_CACHE_PART: u64 = 2;
/// What is held of data sets is told to the server at most this often.
pub const DATASET_TOLD_EVERY: Duration = Duration::from_secs(1);

/// Files, directories and links of one archive.
pub const UNPACK_ENTRIES_MAX: u64 = 2_000_000;
/// What each of them is taken to cost beside its bytes, bytes.
pub const UNPACK_ENTRY_BYTES: u64 = 512;
/// Directories above an entry of an archive.
pub const UNPACK_DEPTH_MAX: usize = 64;
/// An archive may hold so many times its own size, and always [`UNPACK_RATIO_FROM_BYTES`].
pub const UNPACK_RATIO_MAX: u64 = 200;
/// See [`UNPACK_RATIO_MAX`].
pub const UNPACK_RATIO_FROM_BYTES: u64 = 1 << 30;
/// Name and attributes of one entry of a tar archive, bytes.
pub const UNPACK_HEADER_BYTES: u64 = 1 << 20;
/// The directory of a zip archive, bytes.
pub const UNPACK_ZIP_DIRECTORY_BYTES: u64 = 64 << 20;

/// Longest wait for a builder to be dead after it was told to stop.
pub const STAGING_STOP_MAX: Duration = Duration::from_mins(1);
/// Log bytes sent and not acknowledged for this long are sent again: the server may have failed to store them.
pub const LOG_RESEND_AFTER: Duration = Duration::from_secs(10);
/// A repeated acknowledgement of one offset asks for a resend at most this often.
pub const LOG_REWIND_EVERY: Duration = Duration::from_secs(1);
/// Directories of ended attempts kept for the next ones.
pub const SPARES_MAX: usize = 256;
/// Deleting starts when nothing was thrown away for this long.
pub const TRASH_QUIET: Duration = Duration::from_secs(1);
/// Longest time anything thrown away waits to be deleted.
pub const TRASH_WAIT_MAX: Duration = Duration::from_secs(30);
/// With so many directories waiting, deleting starts at once.
pub const TRASH_WAITING_MAX: usize = 8_192;
/// What of bubblewrap's own words is kept when it fails, bytes.
pub const SANDBOX_COMPLAINT_BYTES: usize = 2 << 10;
/// `oom_score_adj` of users' processes: short of memory, the kernel takes them before the agent, the shims
/// and the rest of the machine.
pub const OOM_SCORE: i32 = 500;
/// User and group ids of sandboxes start here; one for each attempt at hand.
pub const SANDBOX_ID_FIRST: u32 = 200_000;
/// Longest trial run of a sandbox at the start, seconds.
pub const SANDBOX_PROBE_S: u32 = 10;
/// Links followed from an environment to its interpreter.
pub const LINKS_MAX: usize = 16;
/// Longest answer of a container engine, a pull not counted.
pub const ENGINE_ANSWER: Duration = Duration::from_mins(1);
/// Largest answer of podman's own API that is read, bytes.
pub const ENGINE_ANSWER_BYTES: usize = 8 << 20;
/// Longest look at an engine when the worker starts.
pub const ENGINE_PROBE: Duration = Duration::from_secs(15);
/// How long an engine that does not answer is waited for: it may be starting again.
pub const ENGINE_WAIT: Duration = Duration::from_secs(10);
/// Pause between two tries to reach it.
pub const ENGINE_RETRY: Duration = Duration::from_millis(250);
/// A pull that makes no progress for so long has failed.
pub const PULL_SILENCE: Duration = Duration::from_mins(10);
/// How often a pull says in the task's log how far it is.
pub const PULL_NOTE_EVERY: Duration = Duration::from_secs(5);
/// Layers whose progress is counted.
pub const PULL_LAYERS_MAX: usize = 1_024;
/// Of an engine's words about a pull that failed, characters.
pub const PULL_ERROR_CHARS: usize = 600;
/// How long the first process of a container may take to reach its runner.
pub const DIAL_WAIT: Duration = Duration::from_mins(1);
/// How often it is looked whether that process has ended instead.
pub const DIAL_LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long the processes of a container may take to be dead once its first process was told.
pub const CONTAINER_END_WAIT: Duration = Duration::from_secs(5);
/// How long a runner tries to have its container removed.
pub const REMOVE_WAIT: Duration = Duration::from_secs(10);
/// The same, when nothing in it runs any more.
pub const REMOVE_DEAD_WAIT: Duration = Duration::from_secs(3);
/// How long a runner may take to kill its container before it is killed itself.
pub const RUNNER_KILL_WAIT: Duration = Duration::from_secs(8);
/// How often a shim has a container taken away whose runner was killed, when nothing is known to run in it.
pub const TAKE_AWAY_TRIES: u32 = 3;
/// How often containers are looked for that nobody needs.
pub const SWEEP_EVERY: Duration = Duration::from_mins(5);
/// Processes and threads of a task: this many, and as many again for each core it asked for.
pub const PROCESSES_PER_CPU: u32 = 2_048;
/// Tries to take a control group away whose last process was just reaped.
pub const CGROUP_REMOVE_TRIES: u32 = 50;
/// Pause between two such tries.
pub const CGROUP_REMOVE_RETRY: Duration = Duration::from_millis(10);
