//! Collecting what is not needed any more: what was deleted of a task, and the report of a collection.

use crate::{ids::TaskId, time::Micros};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Why the log, artifacts and checkpoints of an ended task were deleted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CollectReason {
    /// It ended long ago.
    Age,
    /// It was deleted by its owner.
    Deleted,
    /// The server's disk was almost full.
    Disk,
}

impl CollectReason {
    /// The word used in JSON and in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Age => "age",
            Self::Deleted => "deleted",
            Self::Disk => "disk",
        }
    }
}

/// That the log, artifacts and checkpoints of a task are deleted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct FilesDeleted {
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub at: Micros,
    /// Why.
    pub reason: CollectReason,
}

impl FilesDeleted {
    /// Says it in words for a task that ended at `ended_at`, after `what` such as `"The log of this task was"`.
    pub fn sentence(&self, what: &str, ended_at: Option<Micros>) -> String {
        let date = self.at.to_string();
        let date = date.get(..10).unwrap_or(&date);
        let days = ended_at.map_or(0, |ended| self.at.since(ended) / (24 * 3_600 * crate::time::SECOND));
        match self.reason {
            CollectReason::Age if days == 1 => format!("{what} deleted on {date}, 1 day after it ended."),
            CollectReason::Age => format!("{what} deleted on {date}, {days} days after it ended."),
            CollectReason::Deleted => format!("{what} deleted on {date}, after the task was deleted."),
            CollectReason::Disk => format!("{what} deleted on {date}, because the server's disk was almost full."),
        }
    }
}

/// How far a collection is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum GcState {
    /// It goes on.
    Running,
    /// It did all there was to do.
    Finished,
    /// It ended early, because the server stops or something failed; the next one goes on from there.
    Stopped,
}

/// Kinds of things that are collected.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum GcKind {
    /// Ended tasks themselves, with their attempts.
    Tasks,
    /// Logs of ended tasks.
    Logs,
    /// Metrics of ended tasks, with the samples of what they used.
    Metrics,
    /// Artifacts of ended tasks. Bytes that others share are counted here, and freed only with the last of them.
    Artifacts,
    /// Files of checkpoints of ended tasks, counted as artifacts are.
    Checkpoints,
    /// Snapshots that no task names, with the sizes of their files, counted as artifacts are.
    Snapshots,
    /// Stored files that nothing refers to any more: these are what is freed on the disk.
    Blobs,
    /// Uploads that broke off.
    Uploads,
}

impl GcKind {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Self; 8] = [
        Self::Tasks,
        Self::Logs,
        Self::Metrics,
        Self::Artifacts,
        Self::Checkpoints,
        Self::Snapshots,
        Self::Blobs,
        Self::Uploads,
    ];

    /// The word used in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tasks => "tasks",
            Self::Logs => "logs",
            Self::Metrics => "metrics",
            Self::Artifacts => "artifacts",
            Self::Checkpoints => "checkpoints",
            Self::Snapshots => "snapshots",
            Self::Blobs => "blobs",
            Self::Uploads => "uploads",
        }
    }
}

/// How much of a kind.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct GcCount {
    /// The kind.
    pub kind: GcKind,
    /// How many.
    pub count: u64,
    /// Their sizes, bytes; 0 for tasks.
    pub bytes: u64,
}

/// What of a user's is collected.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct GcUser {
    /// The user.
    pub user_id: String,
    /// Tasks whose log, artifacts and checkpoints go.
    pub tasks: u64,
    /// Their sizes, bytes, shared ones counted for each.
    pub bytes: u64,
}

/// The file system that the server keeps files on.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct GcDisk {
    /// Its size, bytes.
    pub total_bytes: u64,
    /// What is free of it, bytes.
    pub free_bytes: u64,
    /// How full it is, in percent, rounded up.
    pub used_percent: u32,
}

/// The rules of a collection.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct GcRules {
    /// Days that log, artifacts and checkpoints of an ended task are kept; 0: for ever.
    pub retention_days: u32,
    /// Days that an ended task stays in lists; 0: for ever.
    pub task_retention_days: u32,
    /// Days that the files of a deleted task are kept.
    pub deleted_retention_days: u32,
    /// Above this the oldest files go, until the disk is less full than `disk_low_percent`; 100: never.
    pub disk_high_percent: u32,
    /// See `disk_high_percent`.
    pub disk_low_percent: u32,
    /// Hours for which the files of an ended task are kept even then.
    pub retention_min_hours: u32,
    /// Hours for which whatever was uploaded is kept although nothing refers to it yet.
    pub grace_hours: u32,
}

/// What a collection deleted, or would.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct GcReport {
    /// Whether nothing was deleted: it only says what would be.
    pub dry_run: bool,
    /// How far it is.
    pub state: GcState,
    /// When it began.
    #[schema(value_type = String, format = DateTime)]
    pub started_at: Micros,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ended_at: Option<Micros>,
    /// What went, by kind.
    pub removed: Vec<GcCount>,
    /// Bytes of the disk that are free now and were not before: logs, blobs and uploads.
    pub freed_bytes: u64,
    /// When the oldest of the tasks ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub oldest: Option<Micros>,
    /// The oldest of the tasks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub oldest_task: Option<TaskId>,
    /// By user, most bytes first; at most 100.
    pub users: Vec<GcUser>,
    /// The disk as it was found, if it could be measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<GcDisk>,
    /// The rules it went by.
    pub rules: GcRules,
    /// What stood in its way, in one sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}

/// Answer of `GET /v1/admin/gc`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct GcStatus {
    /// The rules.
    pub rules: GcRules,
    /// The last collection since the server started, or the one that runs; a dry run counts as one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<GcReport>,
}

impl GcReport {
    /// Of one kind.
    pub fn of(&self, kind: GcKind) -> Option<&GcCount> {
        self.removed.iter().find(|count| count.kind == kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_says_when_and_why() {
        let ended = Micros(1_764_000_000_000_000);
        let said = |days: i64, reason| {
            let deleted = FilesDeleted { at: ended.plus_seconds(days * 86_400 + 5), reason };
            deleted.sentence("The log was", Some(ended))
        };
        assert_eq!(said(90, CollectReason::Age), "The log was deleted on 2026-02-22, 90 days after it ended.");
        assert_eq!(said(1, CollectReason::Age), "The log was deleted on 2025-11-25, 1 day after it ended.");
        assert!(said(2, CollectReason::Disk).ends_with("because the server's disk was almost full."));
    }
}
