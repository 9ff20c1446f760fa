//! Secrets: values that the server keeps sealed and hands to attempts of their owner's tasks only. A
//! value is never shown: not by `Debug`, not in an answer to a person.

use crate::{
    ids::{AttemptEpoch, WorkerId},
    time::Micros,
};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use utoipa::ToSchema;

/// Why a name is no name of an environment variable that a task may set; secrets are named the same.
pub fn variable_name_problem(name: &str) -> Option<&'static str> {
    let is_name = !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if !is_name {
        return Some("names are letters, digits and _, not beginning with a digit");
    }
    name.starts_with("FETCHML_").then_some("names beginning with FETCHML_ are set by the system")
}

/// The value of a secret: overwritten when dropped, shown as `***`.
#[derive(Clone, Default, ToSchema)]
#[schema(value_type = String)]
pub struct SecretText(SecretString);

impl SecretText {
    /// The value itself.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl From<String> for SecretText {
    fn from(value: String) -> Self {
        Self(value.into())
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// For a request's or answer's body, which goes only where the value may go.
impl Serialize for SecretText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.expose())
    }
}

impl<'de> Deserialize<'de> for SecretText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        SecretString::deserialize(deserializer).map(Self)
    }
}

/// Sets a secret.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct PutSecretRequest {
    /// The value: text without U+0000, 1 to 32,768 bytes of UTF-8.
    #[schema(value_type = String, min_length = 1, max_length = 32768)]
    pub value: SecretText,
}

/// What is known of a secret, besides its value.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct SecretInfo {
    /// Its name: that of the environment variable in tasks that name it.
    pub name: String,
    /// When it was first set.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Micros,
    /// When its value was last set.
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: Micros,
}

/// Own secrets.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct SecretList {
    /// By name.
    pub secrets: Vec<SecretInfo>,
}

/// A secret that was set.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct StoredSecret {
    /// What is known of it.
    #[serde(flatten)]
    pub info: SecretInfo,
    /// What to know about this value, such as that it is too short to be kept out of logs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// A worker asks for the secrets of an attempt that it holds.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct AttemptSecretsRequest {
    /// The worker.
    #[schema(value_type = String)]
    pub worker_id: WorkerId,
    /// The attempt's epoch, as it was assigned.
    pub epoch: AttemptEpoch,
}

/// One variable of an attempt.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct AttemptSecret {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: SecretText,
}

/// The secrets of an attempt: the values of when it first asked, whatever was set since.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct AttemptSecrets {
    /// One for each name that the task has.
    pub secrets: Vec<AttemptSecret>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_never_shown() {
        let request: PutSecretRequest = serde_json::from_str(r#"{"value":"canary"}"#).unwrap();
        assert_eq!(request.value.expose(), "canary");
        assert!(!format!("{request:?}").contains("canary"));
        assert_eq!(serde_json::to_string(&request).unwrap(), r#"{"value":"canary"}"#);
    }

    #[test]
    fn names_are_those_of_variables() {
        for good in ["A", "_a1", "AWS_SECRET_ACCESS_KEY"] {
            assert_eq!(variable_name_problem(good), None, "{good}");
        }
        for bad in ["", "1A", "A-B", "A B", "É", "FETCHML_API_KEY"] {
            assert!(variable_name_problem(bad).is_some(), "{bad}");
        }
    }
}
