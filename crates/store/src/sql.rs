//! Every statement. One text for both databases: `$n` placeholders, portable types and functions.

use crate::{
    limits::POSTGRES_INSERT_ROWS,
    value::{Run, Statement, Text, Value},
};
use std::{collections::HashMap, fmt::Write as _, sync::Arc};

/// A table that takes rows by multi-row INSERT.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Table {
    Task,
    Artifact,
    Audit,
    Change,
}

impl Table {
    const fn head(self) -> (&'static str, usize) {
        match self {
            Self::Task => (
                "INSERT INTO task (id, user_id, job_name, created_at, spec, status, priority, queued_since, \
                 waited_before, not_before, attempt, epoch_incarnation, epoch_n, worker_id, started_at, ended_at, \
                 retry_count, requeue_count, attempt_count, cancelled_by, cause, exit_code, signal, error, hidden, log_rule, \
                 excluded_workers, nodes, blocked, snapshot_id, resume_from, node_count, array_id, \
                 experiment_id)",
                34,
            ),
            Self::Artifact => ("INSERT INTO artifact (attempt_id, path, size_bytes, sha256)", 4),
            Self::Audit => (
                "INSERT INTO audit (sequence, at, event_type, user_id, resource, action, success, body, prev_hash, \
                 event_hash)",
                10,
            ),
            Self::Change => ("INSERT INTO change (sequence, at, kind, entity, body)", 5),
        }
    }
}

/// Builds multi-row INSERTs, in few sizes; keeps their texts.
pub(crate) struct Inserts {
    sizes: &'static [usize],
    texts: HashMap<(Table, usize), Arc<str>>,
}

impl Inserts {
    /// INSERTs of these sizes: largest first, 1 last.
    pub(crate) fn new(sizes: &'static [usize]) -> Self {
        Self { sizes, texts: HashMap::new() }
    }

    /// Appends executions that insert `rows`.
    pub(crate) fn push<'a, R: AsRef<[Value]>>(&mut self, table: Table, rows: &'a [R], runs: &mut Vec<Run<'a>>) {
        for chunk in chunks(rows, self.sizes) {
            let text = self.texts.entry((table, chunk.len())).or_insert_with(|| insert(table, chunk.len()));
            let rows = chunk.iter().map(AsRef::as_ref).collect();
            runs.push(Run { sql: Text::Built(Arc::clone(text)), rows, must_change: None });
        }
    }
}

/// Statements that insert `rows`, for a caller that knows no database: sizes that serve PostgreSQL.
pub(crate) fn insert_statements(table: Table, rows: &[Vec<Value>]) -> impl Iterator<Item = Statement> {
    chunks(rows, POSTGRES_INSERT_ROWS).map(move |chunk| Statement {
        sql: Text::Built(insert(table, chunk.len())),
        params: chunk.iter().flatten().cloned().collect(),
        must_change: None,
    })
}

/// Cuts rows into chunks of these sizes.
fn chunks<'a, T>(mut rows: &'a [T], sizes: &'static [usize]) -> impl Iterator<Item = &'a [T]> {
    std::iter::from_fn(move || {
        let size = *sizes.iter().find(|size| **size <= rows.len())?;
        let (chunk, rest) = rows.split_at(size);
        rows = rest;
        Some(chunk)
    })
}

fn insert(table: Table, rows: usize) -> Arc<str> {
    let (head, columns) = table.head();
    let mut text = format!("{head} VALUES ");
    for row in 0..rows {
        text.push_str(if row == 0 { "(" } else { ", (" });
        for column in 0..columns {
            let comma = if column == 0 { "" } else { ", " };
            write!(text, "{comma}${}", row * columns + column + 1).expect("a String takes all that is written");
        }
        text.push(')');
    }
    if matches!(table, Table::Artifact) {
        // Of several nodes each brings its own files, and a put may be repeated.
        text.push_str(" ON CONFLICT (attempt_id, path) DO NOTHING");
    }
    text.into()
}

pub(crate) const TASK_UPDATE: &str = "UPDATE task SET status = $2, priority = $3, queued_since = $4, \
    waited_before = $5, not_before = $6, attempt = $7, epoch_incarnation = $8, epoch_n = $9, worker_id = $10, \
    started_at = $11, ended_at = $12, retry_count = $13, requeue_count = $14, attempt_count = $15, \
    cancelled_by = $16, cause = $17, exit_code = $18, signal = $19, error = $20, hidden = $21, log_rule = $22, \
    excluded_workers = $23, nodes = $24, blocked = $25 WHERE id = $1";

/// Takes a task out of the counters as it is stored now.
pub(crate) const COUNTER_LEAVE: &str = "UPDATE counter SET tasks = tasks - 1 \
    WHERE user_id = (SELECT user_id FROM task WHERE id = $1 AND hidden = 0) \
    AND status = (SELECT status FROM task WHERE id = $1)";

/// Puts a task into the counters as it is stored now.
pub(crate) const COUNTER_ENTER: &str = "INSERT INTO counter (user_id, status, tasks) \
    SELECT user_id, status, 1 FROM task WHERE id = $1 AND hidden = 0 \
    ON CONFLICT (user_id, status) DO UPDATE SET tasks = counter.tasks + 1";

pub(crate) const COUNTER_ADD: &str = "INSERT INTO counter (user_id, status, tasks) VALUES ($1, $2, $3) \
    ON CONFLICT (user_id, status) DO UPDATE SET tasks = counter.tasks + excluded.tasks";

pub(crate) const ATTEMPT_PUT: &str = "INSERT INTO attempt (id, task_id, number, epoch_incarnation, epoch_n, \
    worker_id, gpus, phase, created_at, started_at, ended_at, outcome, nodes, preempted_for) \
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14) ON CONFLICT (id) DO UPDATE SET \
    number = excluded.number, epoch_incarnation = excluded.epoch_incarnation, epoch_n = excluded.epoch_n, \
    worker_id = excluded.worker_id, gpus = excluded.gpus, phase = excluded.phase, \
    created_at = excluded.created_at, started_at = excluded.started_at, ended_at = excluded.ended_at, \
    outcome = excluded.outcome, nodes = excluded.nodes, preempted_for = excluded.preempted_for";

pub(crate) const ARTIFACT_CLEAR: &str = "DELETE FROM artifact WHERE attempt_id = $1";

pub(crate) const WORKER_PUT: &str = "INSERT INTO worker (id, name, capabilities, batch_slots, service_slots, \
    draining, evicting, unfit, connected_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) \
    ON CONFLICT (id) DO UPDATE SET \
    name = excluded.name, capabilities = excluded.capabilities, batch_slots = excluded.batch_slots, \
    service_slots = excluded.service_slots, draining = excluded.draining, evicting = excluded.evicting, \
    unfit = excluded.unfit, connected_at = excluded.connected_at";

pub(crate) const SHARE_PUT: &str = "INSERT INTO share (user_id, cpu_ms, memory_gb_ms, gpu_ms, as_of) \
    VALUES ($1, $2, $3, $4, $5) ON CONFLICT (user_id) DO UPDATE SET cpu_ms = excluded.cpu_ms, \
    memory_gb_ms = excluded.memory_gb_ms, gpu_ms = excluded.gpu_ms, as_of = excluded.as_of";

pub(crate) const SHARES: &str = "SELECT user_id, cpu_ms, memory_gb_ms, gpu_ms, as_of FROM share ORDER BY user_id";

pub(crate) const USAGE_ADD: &str = "INSERT INTO usage (user_id, experiment_id, cpu_ms, gpu_ms, idle_gpu_ms) \
    VALUES ($1, $2, $3, $4, $5) ON CONFLICT (user_id, experiment_id) DO UPDATE SET \
    cpu_ms = usage.cpu_ms + excluded.cpu_ms, gpu_ms = usage.gpu_ms + excluded.gpu_ms, \
    idle_gpu_ms = usage.idle_gpu_ms + excluded.idle_gpu_ms";

pub(crate) const USAGE: &str = "SELECT user_id, experiment_id, cpu_ms, gpu_ms, idle_gpu_ms FROM usage \
    ORDER BY user_id, experiment_id";

pub(crate) const QUOTA_PUT: &str = "INSERT INTO quota (scope, name, quota) VALUES ($1, $2, $3) \
    ON CONFLICT (scope, name) DO UPDATE SET quota = excluded.quota";

pub(crate) const QUOTAS: &str = "SELECT scope, name, quota FROM quota ORDER BY scope, name";

pub(crate) const RESERVATION_PUT: &str = "INSERT INTO reservation (id, user_id, gpu_count, gpu_type, node_count, \
    expires_minutes, status, task_id, gpus_held, earmarks, created_at, expires_at, ended_at) \
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) ON CONFLICT (id) DO UPDATE SET \
    status = excluded.status, task_id = excluded.task_id, gpus_held = excluded.gpus_held, \
    earmarks = excluded.earmarks, expires_at = excluded.expires_at, ended_at = excluded.ended_at";

/// Takes away what expired before an instant and was no task's.
pub(crate) const RESERVATION_PRUNE: &str = "DELETE FROM reservation WHERE task_id IS NULL AND ended_at < $1";

pub(crate) const RESERVATION_GET: &str = "SELECT id, user_id, gpu_count, gpu_type, node_count, expires_minutes, \
    status, task_id, gpus_held, earmarks, created_at, expires_at, ended_at FROM reservation WHERE id = $1";

pub(crate) const RESERVATIONS_LIVE: &str = "SELECT id, user_id, gpu_count, gpu_type, node_count, expires_minutes, \
    status, task_id, gpus_held, earmarks, created_at, expires_at, ended_at FROM reservation \
    WHERE status <> 'expired' ORDER BY id";

pub(crate) const KEY_INSERT: &str = "INSERT INTO api_key (id, user_id, role, name, digest, created_at, expires_at, \
    revoked_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";

pub(crate) const KEY_REVOKE: &str = "UPDATE api_key SET revoked_at = $2 WHERE id = $1 AND revoked_at IS NULL";

pub(crate) const SNAPSHOT_PUT: &str = "INSERT INTO snapshot (id, user_id, file_count, size_bytes, created_at, \
    used_at) VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (id) DO UPDATE SET used_at = excluded.used_at \
    WHERE snapshot.used_at < excluded.used_at";

pub(crate) const CHECKPOINT_PUT: &str = "INSERT INTO checkpoint (attempt_id, saved_at, files, used_at) \
    VALUES ($1, $2, $3, $2) ON CONFLICT (attempt_id) DO UPDATE SET saved_at = excluded.saved_at, \
    files = excluded.files, used_at = CASE WHEN checkpoint.used_at < excluded.used_at THEN excluded.used_at \
    ELSE checkpoint.used_at END";

/// Of the latest attempt that has one.
pub(crate) const CHECKPOINT_OF: &str = "SELECT c.attempt_id, c.saved_at, c.files FROM attempt a \
    JOIN checkpoint c ON c.attempt_id = a.id WHERE a.task_id = $1 ORDER BY a.number DESC LIMIT 1";

pub(crate) const PROVENANCE_ADD: &str =
    "INSERT INTO provenance (sha256, body) VALUES ($1, $2) ON CONFLICT (sha256) DO NOTHING";

pub(crate) const ATTEMPT_PROVENANCE_PUT: &str = "INSERT INTO attempt_provenance (attempt_id, node, sha256) \
    VALUES ($1, $2, $3) ON CONFLICT (attempt_id, node) DO UPDATE SET sha256 = excluded.sha256";

pub(crate) const PROVENANCE_OF: &str = "SELECT l.node, p.body FROM attempt_provenance l \
    JOIN provenance p ON p.sha256 = l.sha256 WHERE l.attempt_id = $1 ORDER BY l.node";

/// Not current yet; the time of its first value goes on.
pub(crate) const SECRET_INSERT: &str = "INSERT INTO secret (id, user_id, name, is_current, created_at, updated_at, \
    key_version, sealed) VALUES ($1, $2, $3, 0, \
    COALESCE((SELECT created_at FROM secret WHERE user_id = $2 AND name = $3 AND is_current = 1), $4), $5, $6, $7)";

pub(crate) const SECRET_RETIRE: &str =
    "UPDATE secret SET is_current = 0 WHERE user_id = $1 AND name = $2 AND is_current = 1";

pub(crate) const SECRET_RAISE: &str = "UPDATE secret SET is_current = 1 WHERE id = $1";

/// Takes away retired values of a secret that no attempt has.
pub(crate) const SECRET_PRUNE: &str = "DELETE FROM secret WHERE user_id = $1 AND name = $2 AND is_current = 0 \
    AND NOT EXISTS (SELECT 1 FROM attempt_secret b WHERE b.secret_id = secret.id)";

pub(crate) const SECRET_BIND: &str = "INSERT INTO attempt_secret (attempt_id, name, secret_id) \
    SELECT a.id, s.name, s.id FROM attempt a JOIN secret s ON s.user_id = $2 AND s.name = $3 AND s.is_current = 1 \
    WHERE a.id = $1 AND a.phase IN ('assigned', 'accepted', 'ready') ON CONFLICT (attempt_id, name) DO NOTHING";

/// Takes away retired values that only this attempt has.
pub(crate) const SECRET_RELEASE: &str = "DELETE FROM secret WHERE is_current = 0 \
    AND id IN (SELECT secret_id FROM attempt_secret WHERE attempt_id = $1) \
    AND NOT EXISTS (SELECT 1 FROM attempt_secret b WHERE b.secret_id = secret.id AND b.attempt_id <> $1)";

pub(crate) const SECRET_UNBIND: &str = "DELETE FROM attempt_secret WHERE attempt_id = $1";

pub(crate) const SECRETS_OF: &str = "SELECT name, created_at, updated_at, CAST(LENGTH(sealed) AS BIGINT) \
    FROM secret WHERE user_id = $1 AND is_current = 1 ORDER BY name";

pub(crate) const SECRETS_OF_ATTEMPT: &str = "SELECT s.id, s.user_id, s.name, s.created_at, s.updated_at, \
    s.key_version, s.sealed FROM attempt_secret b JOIN secret s ON s.id = b.secret_id WHERE b.attempt_id = $1 \
    ORDER BY s.name";

pub(crate) const SECRET_KEY_LAST: &str = "SELECT MAX(last) FROM (SELECT COALESCE(MAX(key_version), 0) AS last \
    FROM secret UNION ALL SELECT COALESCE(MAX(key_version), 0) FROM webhook) AS used";

pub(crate) const DATASET_INSERT: &str = "INSERT INTO dataset (name, user_id, created_at, spec) \
    VALUES ($1, $2, $3, $4) ON CONFLICT (name) DO NOTHING";

pub(crate) const DATASET_DELETE: &str = "DELETE FROM dataset WHERE name = $1";

pub(crate) const DATASET_GET: &str = "SELECT user_id, created_at, spec FROM dataset WHERE name = $1";

pub(crate) const DATASETS: &str = "SELECT user_id, created_at, spec FROM dataset ORDER BY name";

pub(crate) const ONCE_PRUNE: &str = "DELETE FROM idempotency WHERE created_at < $1";

pub(crate) const ONCE_PUT: &str = "INSERT INTO idempotency (id, body_sha256, state, created_at) \
    VALUES ($1, $2, $3, $4) ON CONFLICT (id) DO UPDATE SET body_sha256 = excluded.body_sha256, \
    state = excluded.state, created_at = excluded.created_at";

pub(crate) const ONCE: &str = "SELECT id, body_sha256, state, created_at FROM idempotency";

pub(crate) const EXPERIMENT_INSERT: &str = "INSERT INTO experiment (id, name, description, user_id, created_at, status) \
    VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (id) DO NOTHING";

pub(crate) const EXPERIMENT_EDIT: &str = "UPDATE experiment SET name = COALESCE($2, name), \
    description = COALESCE($3, description), status = COALESCE($4, status) WHERE id = $1";

pub(crate) const EXPERIMENT_COMMIT: &str = "UPDATE experiment SET commit_id = $2 WHERE id = $1";

pub(crate) const EXPERIMENT_GET: &str =
    "SELECT id, name, description, commit_id, user_id, created_at, status FROM experiment WHERE id = $1";

pub(crate) const EXPERIMENTS: &str = "SELECT id, name, description, commit_id, user_id, created_at, status \
    FROM experiment WHERE status <> 'deleted' ORDER BY id DESC";

pub(crate) const EXPERIMENTS_OF: &str = "SELECT id, name, description, commit_id, user_id, created_at, status \
    FROM experiment WHERE status = $1 ORDER BY id DESC LIMIT 10000";

pub(crate) const EXPERIMENT_COUNT: &str = "SELECT COUNT(*) FROM experiment WHERE status <> 'deleted'";

pub(crate) const DATASET_COUNT: &str = "SELECT COUNT(*) FROM dataset";

pub(crate) const META_PUT: &str = "INSERT INTO meta (name, value) VALUES ($1, $2) \
    ON CONFLICT (name) DO UPDATE SET value = excluded.value";

pub(crate) const META_ADD: &str = "INSERT INTO meta (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING";

pub(crate) const META_DELETE: &str = "DELETE FROM meta WHERE name = $1";

/// Takes away the oldest change rows: at most `$1` of them, up to number `$2` or older than `$3`. The newest row
/// stays always, since numbering goes on from it.
pub(crate) const CHANGE_PRUNE: &str = "DELETE FROM change \
    WHERE sequence < (SELECT MIN(sequence) FROM change) + $1 \
    AND sequence < (SELECT MAX(sequence) FROM change) AND (sequence <= $2 OR at < $3)";

pub(crate) const TASK_COLUMNS: &str = "SELECT spec, status, priority, queued_since, waited_before, not_before, \
    attempt, epoch_incarnation, epoch_n, worker_id, started_at, ended_at, retry_count, requeue_count, \
    attempt_count, cancelled_by, cause, exit_code, signal, error, hidden, log_rule, excluded_workers, nodes, blocked FROM task";

pub(crate) const TASK_GET: &str = "SELECT spec, status, priority, queued_since, waited_before, not_before, \
    attempt, epoch_incarnation, epoch_n, worker_id, started_at, ended_at, retry_count, requeue_count, \
    attempt_count, cancelled_by, cause, exit_code, signal, error, hidden, log_rule, excluded_workers, nodes, blocked FROM task WHERE id = $1 AND hidden = 0";

pub(crate) const TASK_SPEC: &str = "SELECT spec FROM task WHERE id = $1";

pub(crate) const TASKS_LIVE: &str = "SELECT spec, status, priority, queued_since, waited_before, not_before, \
    attempt, epoch_incarnation, epoch_n, worker_id, started_at, ended_at, retry_count, requeue_count, \
    attempt_count, cancelled_by, cause, exit_code, signal, error, hidden, log_rule, excluded_workers, nodes, blocked FROM task \
    WHERE status IN ('queued', 'preparing', 'running', 'collecting') ORDER BY id";

/// The oldest task of an array.
pub(crate) const ARRAY_FIRST: &str = "SELECT spec, status, priority, queued_since, waited_before, not_before, \
    attempt, epoch_incarnation, epoch_n, worker_id, started_at, ended_at, retry_count, requeue_count, \
    attempt_count, cancelled_by, cause, exit_code, signal, error, hidden, log_rule, excluded_workers, nodes, blocked FROM task \
    WHERE array_id = $1 AND hidden = 0 ORDER BY id LIMIT 1";

pub(crate) const ARRAY_COUNTS: &str =
    "SELECT status, hidden, COUNT(*) FROM task WHERE array_id = $1 GROUP BY status, hidden";

pub(crate) const TASK_STATUS: &str = "SELECT status FROM task WHERE id = $1";

pub(crate) const ATTEMPTS_LIVE: &str = "SELECT a.id, a.task_id, a.number, a.epoch_incarnation, a.epoch_n, \
    a.worker_id, a.gpus, a.phase, a.created_at, a.started_at, a.ended_at, a.outcome, a.nodes, a.preempted_for FROM task t \
    JOIN attempt a ON a.id = t.attempt WHERE t.status IN ('queued', 'preparing', 'running', 'collecting') \
    ORDER BY a.id";

/// When the current attempts left their last checkpoints.
pub(crate) const CHECKPOINTS_LIVE: &str = "SELECT c.attempt_id, c.saved_at FROM task t \
    JOIN checkpoint c ON c.attempt_id = t.attempt WHERE t.status IN ('preparing', 'running', 'collecting')";

pub(crate) const ATTEMPTS_OF: &str = "SELECT id, task_id, number, epoch_incarnation, epoch_n, worker_id, gpus, \
    phase, created_at, started_at, ended_at, outcome, nodes, preempted_for FROM attempt WHERE task_id = $1 ORDER BY number";

pub(crate) const ATTEMPT_GET: &str = "SELECT id, task_id, number, epoch_incarnation, epoch_n, worker_id, gpus, \
    phase, created_at, started_at, ended_at, outcome, nodes, preempted_for FROM attempt WHERE id = $1";

pub(crate) const ARTIFACT_ATTEMPT: &str = "SELECT a.id FROM attempt a WHERE a.task_id = $1 \
    AND EXISTS (SELECT 1 FROM artifact f WHERE f.attempt_id = a.id) ORDER BY a.number DESC LIMIT 1";

pub(crate) const ARTIFACTS_OF: &str = "SELECT f.path, f.size_bytes, f.sha256 FROM artifact f \
    JOIN attempt a ON a.id = f.attempt_id WHERE f.attempt_id = $1 AND a.task_id = $2 ORDER BY f.path";

pub(crate) const WORKERS: &str = "SELECT id, name, capabilities, batch_slots, service_slots, draining, evicting, unfit, \
    connected_at FROM worker ORDER BY id";

pub(crate) const KEYS: &str = "SELECT id, user_id, role, name, digest, created_at, expires_at, revoked_at \
    FROM api_key ORDER BY created_at DESC, id DESC";

pub(crate) const SNAPSHOT_GET: &str =
    "SELECT id, user_id, file_count, size_bytes, created_at, used_at FROM snapshot WHERE id = $1";

pub(crate) const META_GET: &str = "SELECT value FROM meta WHERE name = $1";

pub(crate) const COUNT_BY_STATUS: &str = "SELECT status, CAST(SUM(tasks) AS BIGINT) FROM counter GROUP BY status";

pub(crate) const COUNT_ENDED: &str =
    "SELECT status, COUNT(*) FROM task WHERE ended_at >= $1 AND hidden = 0 GROUP BY status";

pub(crate) const TASK_LAST: &str = "SELECT MAX(id) FROM task";

pub(crate) const AUDIT_HEAD: &str = "SELECT sequence, event_hash FROM audit ORDER BY sequence DESC LIMIT 1";

pub(crate) const CHANGE_HEAD: &str = "SELECT COALESCE(MAX(sequence), 0) FROM change";

pub(crate) const AUDIT_PAGE: &str = "SELECT sequence, body, prev_hash, event_hash FROM audit WHERE sequence > $1 \
    ORDER BY sequence LIMIT $2";

pub(crate) const CHANGE_PAGE: &str =
    "SELECT sequence, kind, entity, body FROM change WHERE sequence > $1 ORDER BY sequence LIMIT $2";

/// Of one entity.
pub(crate) const CHANGE_PAGE_OF: &str = "SELECT sequence, kind, entity, body FROM change \
    WHERE sequence > $1 AND entity = $3 ORDER BY sequence LIMIT $2";

pub(crate) const CHANGE_FIRST: &str = "SELECT COALESCE(MIN(sequence), 0) FROM change";

/// Minute (since 1970) and number of the tasks that completed in it.
pub(crate) const COMPLETED_BY_MINUTE: &str = "SELECT ended_at / 60000000, COUNT(*) FROM task \
    WHERE ended_at >= $1 AND status = 'completed' GROUP BY ended_at / 60000000";
