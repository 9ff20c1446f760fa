//! What users may have, have, and have used.

use crate::{key::Role, record::Quota};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Where a quota comes from.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum QuotaSource {
    /// It was set by the API, and goes before what is configured for the same user or role.
    Api,
    /// It stands in the server's configuration.
    Configuration,
}

impl QuotaSource {
    /// The word used in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Configuration => "configuration",
        }
    }
}

/// A quota, and whom it is for: a role or a user.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct QuotaInfo {
    /// Everybody who acts in this role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// This user, whatever the role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_id: Option<String>,
    /// Where it comes from.
    pub source: QuotaSource,
    /// How much.
    pub quota: Quota,
}

/// All quotas.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct QuotaList {
    /// Those of roles first. For each limit the first of these counts that names it: the user's own set by the API,
    /// the user's configured, the role's set by the API, the role's configured.
    pub quotas: Vec<QuotaInfo>,
}

/// Another priority for a task.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct PriorityRequest {
    /// Higher runs first.
    #[schema(minimum = 1, maximum = 10)]
    pub priority: i32,
}

/// What tasks of a user have used, those of one experiment or those of none.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Usage {
    /// Whose tasks.
    pub user_id: String,
    /// The experiment; absent: tasks of no experiment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub experiment_id: Option<String>,
    /// Cores times seconds, while user code ran (with GPUs: while these were set aside).
    pub cpu_seconds: f64,
    /// GPUs times seconds, from when they were set aside until the processes were dead.
    pub gpu_seconds: f64,
    /// The part of `gpu_seconds` in which the GPU was seen to do nothing: below 5 % busy when the worker last looked.
    /// GPUs that do not tell how busy they are do not count.
    pub idle_gpu_seconds: f64,
}

/// What a user has at this moment, and may have.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Holding {
    /// The user.
    pub user_id: String,
    /// Tasks that are preparing or running.
    pub tasks_running: u32,
    /// Tasks that wait.
    pub tasks_queued: u32,
    /// GPUs of these tasks.
    pub gpus: u64,
    /// The user's share of all workers, lately and now: 1 is all of what is scarcest. Among tasks of one level of
    /// priority those of the lowest share go first.
    pub share: f64,
    /// How much the user may have at once, as of the last submit.
    pub quota: Quota,
}

/// What has been used and is held.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct UsageReport {
    /// Everything used since the server's first start, what runs now included, by user and experiment.
    pub usage: Vec<Usage>,
    /// What is held now, by user: everybody who has tasks that have not ended, or ever used anything.
    pub holdings: Vec<Holding>,
}
