//! API keys and roles.

use crate::{ids::KeyId, time::Micros};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a key may do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Runs the server: everything, keys and quotas included.
    Admin,
    /// Runs the cluster: steers everybody's tasks, workers and reservations; makes no keys and sets no quotas.
    Operator,
    /// Submits and steers own tasks.
    User,
    /// Looks, and changes nothing.
    Viewer,
    /// A worker: opens the worker link and uploads for its own attempts, nothing else.
    Worker,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Admin, Self::Operator, Self::User, Self::Viewer, Self::Worker];

    /// The word used in JSON and in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Operator => "operator",
            Self::User => "user",
            Self::Viewer => "viewer",
            Self::Worker => "worker",
        }
    }

    /// Whether tasks are submitted with such keys.
    pub const fn submits(self) -> bool {
        match self {
            Self::Admin | Self::Operator | Self::User => true,
            Self::Viewer | Self::Worker => false,
        }
    }
}

impl std::str::FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = Self::ALL.into_iter().find(|role| role.as_str() == text);
        known.ok_or_else(|| format!("unknown role {text:?}; one of {}", Self::ALL.map(Self::as_str).join(", ")))
    }
}

/// A key without its secret.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct KeyInfo {
    /// Public id.
    pub id: KeyId,
    /// The user it acts for.
    pub user_id: String,
    /// What it may do.
    pub role: Role,
    /// A label for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Micros,
    /// When it stops working by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Micros>,
    /// When it was revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub revoked_at: Option<Micros>,
}

/// Who a key makes its sender.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Whoami {
    /// The user it acts for.
    pub user_id: String,
    /// What it may do.
    pub role: Role,
    /// Public id of the key.
    pub key_id: KeyId,
    /// The key's label for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// When the key was made.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Micros,
    /// When the key stops working by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Micros>,
}

/// All keys.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct KeyList {
    /// Newest first; revoked ones included.
    pub keys: Vec<KeyInfo>,
}

/// Asks for a new key.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct CreateKeyRequest {
    /// What it may do.
    pub role: Role,
    /// The user it acts for: letters, digits, `_`, `-`, `.`, `@`; at most 64.
    #[schema(max_length = 64, pattern = "^[a-zA-Z0-9_.@-]+$")]
    pub user_id: String,
    /// A label for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 64, nullable = false)]
    pub name: Option<String>,
    /// When it stops working, at most ten years from now; absent: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime, nullable = false, example = "2030-01-31T12:00:00Z")]
    pub expires_at: Option<Micros>,
    /// The same in days from now; only one of the two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 3650, nullable = false)]
    pub expires_days: Option<u32>,
}

/// A new key with its secret, shown this once.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct CreatedKey {
    /// The key itself: send it as `X-API-Key`. It cannot be shown again.
    pub key: String,
    /// What is known of it.
    #[serde(flatten)]
    pub info: KeyInfo,
}
