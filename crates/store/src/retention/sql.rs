//! Statements of collecting.

pub(super) const TASK_HIDE: &str = "UPDATE task SET hidden = 1, hidden_at = $2 WHERE id = $1 AND hidden = 0";

pub(super) const SNAPSHOT_USE: &str = "UPDATE snapshot SET used_at = CASE WHEN used_at < $2 THEN $2 ELSE used_at END \
    WHERE id = $1";

pub(super) const CHECKPOINT_USE: &str = "UPDATE checkpoint SET used_at = CASE WHEN used_at < $2 THEN $2 \
    ELSE used_at END WHERE attempt_id IN (SELECT id FROM attempt WHERE task_id = $1)";

/// Whether the files of task `$1` may go. What a task that has not ended starts from stays, and so does a checkpoint
/// that somebody was told of since `$2`: a submit that names it may be on its way.
macro_rules! collectable {
    () => {
        " FROM task t WHERE t.id = $1 AND t.status IN ('completed', 'failed') \
        AND NOT EXISTS (SELECT 1 FROM collected c WHERE c.task_id = t.id) \
        AND NOT EXISTS (SELECT 1 FROM task r WHERE r.resume_from = t.id \
        AND r.status IN ('queued', 'preparing', 'running', 'collecting')) \
        AND NOT EXISTS (SELECT 1 FROM attempt a JOIN checkpoint k ON k.attempt_id = a.id \
        WHERE a.task_id = t.id AND k.used_at >= $2)"
    };
}

pub(super) const COLLECTABLE: &str = concat!("SELECT COUNT(*)", collectable!());

/// Decides that they go.
pub(super) const COLLECT_BEGIN: &str = concat!(
    "INSERT INTO collected (task_id, at, why, done) SELECT t.id, CAST($3 AS BIGINT), CAST($4 AS TEXT), 0",
    collectable!()
);

/// Changes nothing; refuses the transaction when the decision was not made, or all is done.
pub(super) const COLLECT_IS_BEGUN: &str = "UPDATE collected SET done = 0 WHERE task_id = $1 AND done = 0";

pub(super) const COLLECT_ARTIFACTS: &str = "DELETE FROM artifact WHERE attempt_id = $1 AND path IN \
    (SELECT path FROM artifact WHERE attempt_id = $1 ORDER BY path LIMIT $2)";

pub(super) const COLLECT_CHECKPOINTS: &str =
    "DELETE FROM checkpoint WHERE attempt_id IN (SELECT id FROM attempt WHERE task_id = $1)";

pub(super) const COLLECT_END: &str = "UPDATE collected SET done = 1 WHERE task_id = $1 AND done = 0";

/// Changes nothing; refuses the transaction when files of the task are left.
pub(super) const COLLECT_IS_DONE: &str = "UPDATE collected SET done = 1 WHERE task_id = $1 AND done = 1";

/// What only attempts of this task have in common. Before their own rows go.
pub(super) const TASK_PROVENANCE: &str = "DELETE FROM provenance WHERE sha256 IN \
    (SELECT l.sha256 FROM attempt_provenance l JOIN attempt a ON a.id = l.attempt_id WHERE a.task_id = $1) \
    AND NOT EXISTS (SELECT 1 FROM attempt_provenance o JOIN attempt b ON b.id = o.attempt_id \
    WHERE o.sha256 = provenance.sha256 AND b.task_id <> $1)";

/// Rows of every table that refers to a task or to its attempts, in the order in which they can go. A test fails
/// when a table is missing here.
pub(super) const TASK_ROWS: [&str; 6] = [
    "DELETE FROM attempt_provenance WHERE attempt_id IN (SELECT id FROM attempt WHERE task_id = $1)",
    "DELETE FROM artifact WHERE attempt_id IN (SELECT id FROM attempt WHERE task_id = $1)",
    "DELETE FROM checkpoint WHERE attempt_id IN (SELECT id FROM attempt WHERE task_id = $1)",
    "DELETE FROM attempt_secret WHERE attempt_id IN (SELECT id FROM attempt WHERE task_id = $1)",
    "DELETE FROM attempt WHERE task_id = $1",
    "DELETE FROM collected WHERE task_id = $1",
];

pub(super) const TASK_DELETE: &str = "DELETE FROM task WHERE id = $1 AND status IN ('completed', 'failed')";

pub(super) const SNAPSHOT_DELETE: &str = "DELETE FROM snapshot WHERE id = $1 AND used_at < $2 \
    AND NOT EXISTS (SELECT 1 FROM task t WHERE t.snapshot_id = snapshot.id)";

pub(super) const COLLECTED: &str = "SELECT at, why FROM collected WHERE task_id = $1";

pub(super) const COLLECTED_IN_PART: &str =
    "SELECT task_id FROM collected WHERE done = 0 AND task_id > $1 ORDER BY task_id LIMIT $2";

pub(super) const TASKS_EXPIRED: &str = "SELECT t.id, t.user_id, t.snapshot_id, t.ended_at FROM task t \
    WHERE t.ended_at < $1 AND (t.ended_at, t.id) > ($2, $3) \
    AND NOT EXISTS (SELECT 1 FROM collected c WHERE c.task_id = t.id) ORDER BY t.ended_at, t.id LIMIT $4";

pub(super) const TASKS_DELETED: &str = "SELECT t.id, t.user_id, t.snapshot_id, t.hidden_at FROM task t \
    WHERE t.hidden_at < $1 AND (t.hidden_at, t.id) > ($2, $3) AND t.ended_at IS NOT NULL \
    AND NOT EXISTS (SELECT 1 FROM collected c WHERE c.task_id = t.id) ORDER BY t.hidden_at, t.id LIMIT $4";

pub(super) const TASKS_PAST: &str = "SELECT t.id, t.user_id, t.snapshot_id, t.ended_at FROM task t \
    WHERE t.ended_at < $1 AND (t.ended_at, t.id) > ($2, $3) ORDER BY t.ended_at, t.id LIMIT $4";

pub(super) const ARTIFACT_TOTALS: &str = "SELECT a.id, COUNT(f.path), CAST(COALESCE(SUM(f.size_bytes), 0) AS BIGINT) \
    FROM attempt a LEFT JOIN artifact f ON f.attempt_id = a.id WHERE a.task_id = $1 GROUP BY a.id ORDER BY a.id";

pub(super) const CHECKPOINTS_OF: &str = "SELECT k.files FROM attempt a JOIN checkpoint k ON k.attempt_id = a.id \
    WHERE a.task_id = $1";

pub(super) const SNAPSHOTS_UNUSED: &str = "SELECT s.id, s.user_id, s.file_count, s.size_bytes, s.created_at, s.used_at \
    FROM snapshot s WHERE s.used_at < $1 AND s.id > $2 \
    AND NOT EXISTS (SELECT 1 FROM task t WHERE t.snapshot_id = s.id) ORDER BY s.id LIMIT $3";

pub(super) const SNAPSHOT_TASKS: &str = "SELECT COUNT(*) FROM task WHERE snapshot_id = $1";

pub(super) const SNAPSHOT_IDS: &str = "SELECT id FROM snapshot WHERE id > $1 ORDER BY id LIMIT $2";

pub(super) const ARTIFACT_BLOBS: &str = "SELECT attempt_id, path, sha256 FROM artifact \
    WHERE (attempt_id, path) > ($1, $2) ORDER BY attempt_id, path LIMIT $3";

pub(super) const CHECKPOINT_BLOBS: &str =
    "SELECT attempt_id, files FROM checkpoint WHERE attempt_id > $1 ORDER BY attempt_id LIMIT $2";
