//! Files of a running attempt that the next one starts from.

use crate::{artifact::Artifact, error::Problem, ids::AttemptId, limits, snapshot, time::Micros};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use utoipa::ToSchema;

/// What a worker found in an attempt's checkpoint directory and stored as blobs.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct CheckpointFiles {
    /// The whole directory, paths below it.
    pub files: Vec<Artifact>,
}

/// The checkpoint from which a task goes on.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Checkpoint {
    /// The attempt that wrote it: the task's latest that wrote any.
    pub attempt_id: AttemptId,
    /// When the worker brought it.
    #[schema(value_type = String, format = DateTime)]
    pub saved_at: Micros,
    /// Ordered by path.
    pub files: Vec<Artifact>,
}

impl CheckpointFiles {
    /// Every problem; empty when the files can be laid out in a directory.
    pub fn problems(&self) -> Vec<Problem> {
        if self.files.len() > limits::CHECKPOINT_FILES_MAX {
            let text = format!("{} files; at most {} are allowed", self.files.len(), limits::CHECKPOINT_FILES_MAX);
            return vec![Problem::new("files", text)];
        }
        let mut problems = Vec::new();
        let mut seen = BTreeSet::new();
        for (i, file) in self.files.iter().enumerate() {
            let mut bad = |why: &str| {
                problems.push(Problem::new(format!("files[{i}]"), format!("path {:?}: {why}", file.path)));
            };
            if let Err(why) = snapshot::check_relative_path(&file.path) {
                bad(why);
            }
            if !seen.insert(file.path.as_str()) {
                bad("appears twice");
            }
            if !snapshot::is_sha256_hex(&file.sha256) {
                bad("sha256 must be 64 lower-case hex digits");
            }
            if file.size_bytes > limits::ARTIFACT_BYTES {
                bad("is larger than a file may be");
            }
        }
        for (i, file) in self.files.iter().enumerate() {
            if let Some((at, _)) = file.path.match_indices('/').find(|(at, _)| seen.contains(&file.path[..*at])) {
                let text = format!("path {:?}: {:?} is a file", file.path, &file.path[..at]);
                problems.push(Problem::new(format!("files[{i}]"), text));
            }
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_laid_out_is_refused() {
        let file = |path: &str| Artifact { path: path.into(), size_bytes: 1, sha256: "a".repeat(64) };
        let problems =
            |paths: &[&str]| CheckpointFiles { files: paths.iter().map(|path| file(path)).collect() }.problems();
        assert!(problems(&["a/b", "a/c", "d"]).is_empty());
        for bad in [&["../a"][..], &["/a"], &["a", "a"], &["a", "a/b"], &["a/b/c", "a/b"], &[""]] {
            assert_eq!(problems(bad).len(), 1, "{bad:?}");
        }
        let mut upper = file("a");
        upper.sha256 = "A".repeat(64);
        upper.size_bytes = u64::MAX;
        assert_eq!(CheckpointFiles { files: vec![upper] }.problems().len(), 2);
        let many: Vec<_> = (0..=limits::CHECKPOINT_FILES_MAX).map(|n| file(&n.to_string())).collect();
        assert_eq!(CheckpointFiles { files: many }.problems().len(), 1);
    }
}
