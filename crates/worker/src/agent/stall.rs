//! Whether a process still says something: a word in its log or its metrics is progress.

use crate::executor::AttemptDir;
use std::{fs, path::PathBuf, time::Duration};
use tokio::time::Instant;

/// Watches the files of one attempt.
#[derive(Debug)]
pub(crate) struct StallWatch {
    files: [PathBuf; 2],
    lengths: [u64; 2],
    after: Duration,
    stalled_at: Instant,
}

impl StallWatch {
    /// From now on, or from when the agent came back: what was written in between nobody timed.
    pub(crate) fn new(dir: &AttemptDir, after_s: u32, now: Instant) -> Self {
        let after = Duration::from_secs(after_s.into());
        let files = [dir.log(), dir.metrics()];
        Self { lengths: lengths(&files), files, after, stalled_at: now + after }
    }

    /// When to look next.
    pub(crate) fn look_at(&self) -> Instant {
        self.stalled_at
    }

    /// Whether nothing was written for too long. A file that became shorter was written to as well.
    pub(crate) fn is_stalled(&mut self, now: Instant) -> bool {
        let lengths = lengths(&self.files);
        if lengths != self.lengths {
            self.lengths = lengths;
            // Written at some time since the last look: counted from now, in the task's favour.
            self.stalled_at = now + self.after;
        }
        self.stalled_at <= now
    }
}

fn lengths(files: &[PathBuf; 2]) -> [u64; 2] {
    files.each_ref().map(|file| fs::symlink_metadata(file).map_or(0, |metadata| metadata.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use fetchml_api::AttemptId;
    use std::io::Write as _;

    #[test]
    fn a_word_in_the_log_or_the_metrics_starts_the_time_anew() {
        let data = tempfile::TempDir::new().unwrap();
        let dir = AttemptDir::new(data.path(), AttemptId(uuid::Uuid::new_v4()));
        dir.create().unwrap();
        let mut now = Instant::now();
        let mut watch = StallWatch::new(&dir, 60, now);
        for file in [dir.log(), dir.metrics()] {
            now += Duration::from_secs(59);
            assert!(!watch.is_stalled(now));
            fs::File::options().create(true).append(true).open(file).unwrap().write_all(b"x").unwrap();
            now += Duration::from_secs(2);
            assert!(!watch.is_stalled(now), "it wrote meanwhile");
        }
        assert_eq!(watch.look_at(), now + Duration::from_mins(1));
        assert!(watch.is_stalled(now + Duration::from_mins(1)));
    }
}
