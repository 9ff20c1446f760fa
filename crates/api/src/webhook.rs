//! Webhooks: URLs of users that hear of their tasks.

use crate::{Micros, TaskStatus, WebhookId};
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

/// A webhook.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Webhook {
    /// Its id.
    pub id: WebhookId,
    /// Whose tasks it hears of.
    pub user_id: String,
    /// Where requests are sent.
    #[schema(example = "https://example.org/hooks/fetchml")]
    pub url: String,
    /// What it is told of.
    pub events: Vec<WebhookEvent>,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Micros,
    /// Place in the log of changes up to which it was told of everything.
    pub place: u64,
    /// Attempts to deliver the next event that failed.
    pub failures: u32,
    /// When the next attempt is made, after a failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub next_attempt_at: Option<Micros>,
    /// Why the last attempt failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A new webhook.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct CreateWebhookRequest {
    /// Where requests are sent: http or https, without a password in it.
    #[schema(example = "https://example.org/hooks/fetchml")]
    pub url: String,
    /// What it is told of; absent: how tasks end.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<WebhookEvent>,
}

/// A webhook that was made, with what its requests are signed with.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CreatedWebhook {
    /// Signs its requests. Shown in this answer only.
    pub secret: String,
    /// The webhook.
    #[serde(flatten)]
    pub webhook: Webhook,
}

/// Webhooks.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct WebhookList {
    /// In the order in which they were made.
    pub webhooks: Vec<Webhook>,
}
