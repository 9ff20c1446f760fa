//! What a task waits for before it may be placed.

use crate::ids::TaskId;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How a needed task must have ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DependencyOn {
    /// Well: as `completed`. Otherwise the task that needs it ends as `failed`, cause `dependency`.
    #[default]
    Ok,
    /// Anyhow.
    Any,
}

impl DependencyOn {
    /// The word used in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Any => "any",
        }
    }
}

/// A task or array that must have ended first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Dependency {
    /// Id of a task, or of an array, which means all of its tasks.
    #[schema(value_type = String)]
    pub id: TaskId,
    /// How it must have ended; absent: ok.
    #[serde(default)]
    pub on: DependencyOn,
}
