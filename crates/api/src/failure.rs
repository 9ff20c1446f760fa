//! Why an attempt failed and what follows from it: the table of causes and retries.

use crate::log_rule::LogRuleMatch;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Why an attempt failed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FailureCause {
    /// The process ended with a code other than 0.
    ExitNonzero,
    /// The process was ended by a signal that FetchML did not send.
    Signal,
    /// The host's memory limit was reached.
    OomHost,
    /// A GPU ran out of memory.
    OomGpu,
    /// `time_limit_s` passed.
    Timeout,
    /// No sign of progress for the task's stall limit.
    Stalled,
    /// The worker was lost, an exit was seen by nobody, or the process failed on a faulty GPU.
    Lost,
    /// The process could not be started for a reason of the worker's.
    Launch,
    /// A tracking tool failed.
    Plugin,
    /// A data set could not be had.
    Dataset,
    /// The Python environment could not be built.
    Environment,
    /// The container image could not be had.
    Image,
    /// The snapshot could not be had or does not match its hash.
    Snapshot,
    /// A secret of the task is not there any more, or can be read no more.
    Secret,
    /// A user cancelled the task.
    Cancelled,
    /// A task this one depends on failed.
    Dependency,
    /// An output, log or disk limit was reached.
    Quota,
    /// Stopped to make room for another task.
    Preempted,
}

/// What the scheduler does after a failure.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RetryRule {
    /// Retried while `retry_count < max_retries`.
    Counted,
    /// Queued again without cost, at most [`crate::limits::REQUEUES_MAX`] times.
    Free,
    /// Queued again without cost, however often: it was FetchML that stopped the task.
    Uncounted,
    /// The task ends.
    Final,
}

impl FailureCause {
    /// All of them.
    pub const ALL: [Self; 18] = [
        Self::ExitNonzero,
        Self::Signal,
        Self::OomHost,
        Self::OomGpu,
        Self::Timeout,
        Self::Stalled,
        Self::Lost,
        Self::Launch,
        Self::Plugin,
        Self::Dataset,
        Self::Environment,
        Self::Image,
        Self::Snapshot,
        Self::Secret,
        Self::Cancelled,
        Self::Dependency,
        Self::Quota,
        Self::Preempted,
    ];

    /// The rule for this cause. `transient` tells network and server faults of data, image,
    /// environment and snapshot from definite ones (wrong hash, not found, unsolvable).
    pub const fn retry_rule(self, transient: bool) -> RetryRule {
        use FailureCause as C;
        match self {
            C::ExitNonzero | C::Signal | C::OomHost | C::OomGpu | C::Timeout | C::Stalled => RetryRule::Counted,
            C::Lost | C::Launch | C::Plugin => RetryRule::Free,
            C::Preempted => RetryRule::Uncounted,
            C::Dataset | C::Environment | C::Image | C::Snapshot => {
                if transient {
                    RetryRule::Free
                } else {
                    RetryRule::Final
                }
            }
            C::Secret | C::Cancelled | C::Dependency | C::Quota => RetryRule::Final,
        }
    }

    /// The word used in JSON and in the database.
    pub const fn as_str(self) -> &'static str {
        use FailureCause as C;
        match self {
            C::ExitNonzero => "exit_nonzero",
            C::Signal => "signal",
            C::OomHost => "oom_host",
            C::OomGpu => "oom_gpu",
            C::Timeout => "timeout",
            C::Stalled => "stalled",
            C::Lost => "lost",
            C::Launch => "launch",
            C::Plugin => "plugin",
            C::Dataset => "dataset",
            C::Environment => "environment",
            C::Image => "image",
            C::Snapshot => "snapshot",
            C::Secret => "secret",
            C::Cancelled => "cancelled",
            C::Dependency => "dependency",
            C::Quota => "quota",
            C::Preempted => "preempted",
        }
    }
}

/// Backoff before retry number `retry` (from 0): 1 s x 2^retry, at most 5 minutes, in seconds.
pub const fn backoff_seconds(retry: u32) -> i64 {
    if retry >= 9 { 300 } else { 1 << retry }
}

/// Why a task failed, for programs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Failure {
    /// The cause.
    pub cause: FailureCause,
    /// Whether the system may run the task again on its own (within its limits).
    pub retryable: bool,
    /// Exit code of the process, when it ended by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Signal that ended the process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// The server's rule that its log matched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub log_rule: Option<LogRuleMatch>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_up_to_five_minutes() {
        let seconds: Vec<_> = (0..11).map(backoff_seconds).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
    }

    #[test]
    fn words_match_json() {
        let schema = serde_json::to_value(<FailureCause as utoipa::PartialSchema>::schema()).unwrap();
        let words: Vec<String> = serde_json::from_value(schema["enum"].clone()).unwrap();
        assert_eq!(words, FailureCause::ALL.map(FailureCause::as_str), "all are listed");
        for cause in FailureCause::ALL {
            assert_eq!(serde_json::to_value(cause).unwrap(), cause.as_str());
        }
    }
}
