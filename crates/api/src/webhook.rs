//! Webhooks: URLs of users that hear of their tasks.

use crate::{Micros, Task, TaskId, TaskStatus, WebhookId, failure::Failure, ids::ExperimentId, secret::SecretText};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};
use utoipa::ToSchema;

/// What a webhook may be told of: that a task has come to a state.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, ToSchema)]
pub enum WebhookEvent {
    /// It waits for workers, for the first time or again.
    #[serde(rename = "task.queued")]
    Queued,
    /// Its workers fetch what it needs.
    #[serde(rename = "task.preparing")]
    Preparing,
    /// It runs.
    #[serde(rename = "task.running")]
    Running,
    /// Its files are stored.
    #[serde(rename = "task.collecting")]
    Collecting,
    /// It ended well.
    #[serde(rename = "task.completed")]
    Completed,
    /// It ended otherwise.
    #[serde(rename = "task.failed")]
    Failed,
}

impl WebhookEvent {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Queued, Self::Preparing, Self::Running, Self::Collecting, Self::Completed, Self::Failed];

    /// What is told of when nothing else is asked for: how tasks end.
    pub const DEFAULT: [Self; 2] = [Self::Completed, Self::Failed];

    /// As it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "task.queued",
            Self::Preparing => "task.preparing",
            Self::Running => "task.running",
            Self::Collecting => "task.collecting",
            Self::Completed => "task.completed",
            Self::Failed => "task.failed",
        }
    }
}

impl From<TaskStatus> for WebhookEvent {
    fn from(status: TaskStatus) -> Self {
        match status {
            TaskStatus::Queued => Self::Queued,
            TaskStatus::Preparing => Self::Preparing,
            TaskStatus::Running => Self::Running,
            TaskStatus::Collecting => Self::Collecting,
            TaskStatus::Completed => Self::Completed,
            TaskStatus::Failed => Self::Failed,
        }
    }
}

impl fmt::Display for WebhookEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for WebhookEvent {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|event| event.as_str() == text).ok_or_else(|| {
            let all = Self::ALL.map(Self::as_str).join(", ");
            format!("{text:?} is no event; there are {all}")
        })
    }
}

/// A webhook
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Webhook {
    /// Its id
    pub id: WebhookId,
    /// Whose tasks it hears of
    pub user_id: String,
    /// Where requests are sent; of a webhook of somebody else only scheme and host
    #[schema(example = "https://example.org/hooks/fetchml")]
    pub url: String,
    /// What it is told of
    pub events: Vec<WebhookEvent>,
    /// When it was made
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Micros,
    /// Events that wait to be delivered
    pub waiting: u32,
    /// Events that were given up in the last 7 days, at most the last 100
    pub failed: u32,
    /// When the next attempt is made, after one that failed
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, format = DateTime, nullable = false)]
    pub next_attempt_at: Option<Micros>,
    /// Why the last attempt failed
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub error: Option<String>,
}

/// A new webhook
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct CreateWebhookRequest {
    /// Where requests are sent: http or https, without a password in it
    #[schema(example = "https://example.org/hooks/fetchml", max_length = 2048)]
    pub url: String,
    /// What it is told of; absent: how tasks end
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<WebhookEvent>,
}

/// A webhook that was made, with what its requests are signed with
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct CreatedWebhook {
    /// Signs its requests: `whsec_` and base64. Shown in this answer only
    #[schema(value_type = String)]
    pub secret: SecretText,
    /// The webhook
    #[serde(flatten)]
    pub webhook: Webhook,
    /// Unknown fields of the request, which were ignored
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// Webhooks
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct WebhookList {
    /// In the order in which they were made
    pub webhooks: Vec<Webhook>,
}

/// The body of a request to a webhook
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct WebhookMessage {
    /// What happened
    #[serde(rename = "type")]
    pub event: WebhookEvent,
    /// When it was noticed
    #[schema(value_type = String, format = DateTime)]
    pub timestamp: Micros,
    /// The task that it happened to
    pub data: TaskNotice,
}

/// What is told of a task outside: not what it runs, nor with what
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct TaskNotice {
    /// The task
    pub task_id: TaskId,
    /// Number of the change, as streams tell it: greater is later
    pub seq: u64,
    /// Its name
    pub job_name: String,
    /// Its user
    pub user_id: String,
    /// Its state
    pub status: TaskStatus,
    /// The experiment that it belongs to
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub experiment_id: Option<ExperimentId>,
    /// The array that it is of
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub array_id: Option<TaskId>,
    /// Its index in the array
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub array_index: Option<i64>,
    /// How often it was tried again
    pub retry_count: i32,
    /// When it was submitted
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Micros,
    /// When its current or last attempt started
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, format = DateTime, nullable = false)]
    pub started_at: Option<Micros>,
    /// When it ended
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, format = DateTime, nullable = false)]
    pub ended_at: Option<Micros>,
    /// Why it failed, in a sentence
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub error: Option<String>,
    /// Why it failed, for programs
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub failure: Option<Failure>,
}

impl TaskNotice {
    /// Of a task as change number `seq` shows it.
    pub fn of(task: Task, seq: u64) -> Self {
        Self {
            task_id: task.id,
            seq,
            job_name: task.job_name,
            user_id: task.user_id,
            status: task.status,
            experiment_id: task.experiment_id,
            array_id: task.array_id,
            array_index: task.array_index,
            retry_count: task.retry_count,
            created_at: task.created_at,
            started_at: task.started_at,
            ended_at: task.ended_at,
            error: task.error,
            failure: task.failure,
        }
    }
}
