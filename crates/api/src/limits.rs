//! Every limit of the wire formats, in one place. Limits of a running part (queues, buffers,
//! waits) stand in that part's own `limits` module.

/// Largest body of a JSON operation, bytes.
pub const JSON_BODY_BYTES: usize = 1 << 20;
/// Deepest nesting of a JSON body.
pub const JSON_DEPTH: usize = 32;
/// Longest `job_name`, code points.
pub const JOB_NAME_CHARS: usize = 64;
/// Longest `entrypoint` or `args`, code points.
pub const COMMAND_CHARS: usize = 32_768;
/// Longest `image`, code points.
pub const IMAGE_CHARS: usize = 512;
/// Most entries in `metadata`.
pub const METADATA_ENTRIES: usize = 64;
/// Longest `metadata` key, code points.
pub const METADATA_KEY_CHARS: usize = 128;
/// Longest `metadata` value, code points.
pub const METADATA_VALUE_CHARS: usize = 4_096;
/// Most entries in `env`.
pub const ENV_ENTRIES: usize = 256;
/// Longest `env` name, code points.
pub const ENV_NAME_CHARS: usize = 256;
/// Longest `env` value, code points.
pub const ENV_VALUE_CHARS: usize = 32_768;
/// Most secrets one task may name.
pub const TASK_SECRETS: usize = 32;
/// Most bytes that the secrets of one task may have together.
pub const TASK_SECRETS_BYTES: usize = 64 << 10;
/// Most secrets of one user.
pub const USER_SECRETS: usize = 200;
/// Longest value of a secret, bytes of UTF-8.
pub const SECRET_VALUE_BYTES: usize = 32 << 10;
/// Shortest value that is kept out of logs, bytes of UTF-8 without blanks around it: shorter ones are in any text.
pub const SECRET_HIDDEN_BYTES_MIN: usize = 8;
/// Longest name of an experiment, code points.
pub const EXPERIMENT_NAME_CHARS: usize = 128;
/// Longest description of an experiment, code points.
pub const EXPERIMENT_DESCRIPTION_CHARS: usize = 16_384;
/// Most experiments that are not deleted: a list has all of them.
pub const EXPERIMENTS_MAX: usize = 10_000;
/// Most cores one node of a task may ask for.
pub const CPU_MAX: i64 = 4_096;
/// Most memory one node of a task may ask for, GiB.
pub const MEMORY_GB_MAX: i64 = 65_536;
/// Most GPUs one node of a task may ask for.
pub const GPU_MAX: i64 = 64;
/// Most devices one worker may offer: those of sixteen GPUs that are split in seven.
pub const WORKER_GPUS_MAX: usize = 128;
/// Longest name, UUID or profile of a device, code points.
pub const GPU_NAME_CHARS: usize = 96;
/// Longest reason why a device is not available, code points.
pub const GPU_REASON_CHARS: usize = 256;
/// Most nodes of a task.
pub const NODE_COUNT_MAX: i64 = 4_096;
/// Bounds of a quota's counts; 0: none at all.
pub const QUOTA: std::ops::RangeInclusive<i64> = 0..=1_000_000;
/// Bounds of a priority.
pub const PRIORITY: std::ops::RangeInclusive<i64> = 1..=10;
/// Most tasks and arrays one task may depend on.
pub const DEPENDENCIES_MAX: usize = 1_000;
/// Most tasks of an array.
pub const ARRAY_TASKS_MAX: usize = 10_000;
/// Greatest index of an array.
pub const ARRAY_INDEX_MAX: u32 = 999_999_999;
/// Longest text that says which indices an array has, code points.
pub const ARRAY_CHARS: usize = 64 << 10;
/// Most that the request of an array may come to when each of its tasks has it, bytes.
pub const ARRAY_BYTES: usize = 64 << 20;
/// Longest `gpu_type`, code points.
pub const GPU_TYPE_CHARS: usize = 64;
/// Longest time that a reservation waits for a task, minutes: a week.
pub const RESERVATION_MINUTES_MAX: i64 = 7 * 24 * 60;
/// Most retries a task may ask for.
pub const MAX_RETRIES_MAX: i64 = 10;
/// Longest `time_limit_s`: 365 days, seconds.
pub const TIME_LIMIT_S_MAX: i64 = 365 * 24 * 3_600;
/// Bounds of `lost_after_s`, seconds: shorter leaves no time to stop anything; 30 days.
pub const LOST_AFTER_S: std::ops::RangeInclusive<i64> = 10..=30 * 24 * 3_600;
/// Bounds of `stall_after_s`, seconds: shorter than any library's import is no stall; 30 days.
pub const STALL_AFTER_S: std::ops::RangeInclusive<i64> = 10..=30 * 24 * 3_600;
/// Free requeues (causes that are not the task's fault) before the task fails.
pub const REQUEUES_MAX: u32 = 5;
/// Most tasks in one page of a list.
pub const LIST_LIMIT_MAX: i64 = 1_000;
/// Tasks in one page of a list by default.
pub const LIST_LIMIT_DEFAULT: i64 = 50;
/// Events in one page of the audit log by default.
pub const AUDIT_LIMIT_DEFAULT: i64 = 100;
/// Tail of the log shown as `output`, bytes.
pub const OUTPUT_TAIL_BYTES: u64 = 64 << 10;
/// Longest `error` of a task, bytes.
pub const ERROR_BYTES: usize = 8 << 10;
/// Largest snapshot manifest, bytes of JSON.
pub const MANIFEST_BYTES: usize = 64 << 20;
/// Most files in one snapshot.
pub const MANIFEST_FILES: usize = 200_000;
/// Longest path in a manifest or of an artifact, bytes.
pub const PATH_BYTES: usize = 1_024;
/// Largest file in a snapshot, bytes.
pub const SNAPSHOT_FILE_BYTES: u64 = 10 << 30;
/// Most artifacts one attempt may leave.
pub const ARTIFACTS_MAX: usize = 10_000;
/// Largest artifact, bytes.
pub const ARTIFACT_BYTES: u64 = 50 << 30;
/// Files of one checkpoint.
pub const CHECKPOINT_FILES_MAX: usize = 1_000;
/// Body that lists the files of a checkpoint, bytes.
pub const CHECKPOINT_BODY_BYTES: usize = 8 << 20;
/// Most data sets of one task.
pub const DATASETS_PER_TASK: usize = 64;
/// Longest source of a data set, code points.
pub const DATASET_SOURCE_CHARS: usize = 2_048;
/// Most data sets that can be registered.
pub const DATASETS_MAX: usize = 10_000;
/// Most data sets a worker says that it holds: those used last.
pub const DATASETS_HELD_MAX: usize = 256;
/// Largest text message on the worker link, bytes.
pub const LINK_MESSAGE_BYTES: usize = 8 << 20;
/// Largest run of log bytes in one link message.
pub const LINK_LOG_CHUNK_BYTES: usize = 256 << 10;
/// Longest sentence in which a worker says what is wrong with it, code points.
pub const UNFIT_CHARS: usize = 1_024;
/// Longest branch in `source`, code points.
pub const SOURCE_BRANCH_CHARS: usize = 256;
/// Longest remote in `source`, code points.
pub const SOURCE_REMOTE_CHARS: usize = 1_024;
/// What a worker may say of how it runs an attempt, bytes of JSON; more is left out.
pub const PROVENANCE_BYTES: usize = 512 << 10;
/// Metrics of one attempt that are taken, bytes of the task's file; the rest is counted.
pub const METRICS_BYTES: u64 = 256 << 20;
/// Samples of one attempt that are taken, bytes.
pub const METRICS_SAMPLES_BYTES: u64 = 64 << 20;
/// Longest line of metrics, bytes; a longer one is a bad one.
pub const METRICS_LINE_BYTES: usize = 64 << 10;
/// Longest name of a metric, bytes; a longer one makes its line a bad one.
pub const METRICS_NAME_BYTES: usize = 256;
/// Names of one attempt's metrics; values of more names are counted, not kept.
pub const METRICS_SERIES_MAX: usize = 1_024;
/// Points of one series in an answer.
pub const METRICS_POINTS: std::ops::RangeInclusive<i64> = 10..=5_000;
/// Points of one series unless asked otherwise.
pub const METRICS_POINTS_DEFAULT: i64 = 500;
/// Points of all series of one answer together: with many series each gets fewer.
pub const METRICS_ANSWER_POINTS: usize = 100_000;
/// Longest name of a user, a key label or a worker, code points.
pub const NAME_CHARS: usize = 64;

/// Most tasks that one subscription of `/ws` names.
pub const WS_TASKS_MAX: usize = 1_000;
/// Largest message that a client sends on `/ws`, bytes: a subscription to as many tasks fits.
pub const WS_MESSAGE_BYTES: usize = 64 << 10;

/// Longest mail address, bytes.
pub const MAIL_ADDRESS_BYTES: usize = 254;
/// Longest URL of a webhook, code points.
pub const WEBHOOK_URL_CHARS: usize = 2_048;
