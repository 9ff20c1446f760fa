//! Rules on log lines: what an operator knows about failures and the exit code does not tell.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a matching rule does about the next attempts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogAction {
    /// The task ends, whatever its cause and its retries.
    DoNotRetry,
    /// This task's next attempts go to other workers.
    ExcludeWorker,
}

/// A rule that matched the end of a failed attempt's log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct LogRuleMatch {
    /// The rule's regular expression.
    pub pattern: String,
    /// What it does; absent: it only gives cause or sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub action: Option<LogAction>,
}
