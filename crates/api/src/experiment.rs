//! Experiments: names under which tasks that belong together are found, compared and counted.

use crate::{
    error::Problem,
    ids::ExperimentId,
    limits,
    time::Micros,
    validate::{Fields, Read, is_plain_line},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{fmt, str::FromStr};
use utoipa::ToSchema;

/// Whether an experiment takes tasks
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ExperimentStatus {
    /// It takes tasks.
    #[default]
    Active,
    /// It is kept to be looked at, and takes no more tasks.
    Archived,
    /// It is in no list any more, and takes no more tasks; those it has are not touched.
    Deleted,
}

impl ExperimentStatus {
    /// Every status.
    pub const ALL: [Self; 3] = [Self::Active, Self::Archived, Self::Deleted];

    /// As it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Archived => "archived",
            Self::Deleted => "deleted",
        }
    }
}

impl fmt::Display for ExperimentStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for ExperimentStatus {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = Self::ALL.into_iter().find(|status| status.as_str() == text);
        known.ok_or_else(|| format!("{text:?} is no status of an experiment: active, archived or deleted"))
    }
}

/// Tasks that belong together
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Experiment {
    /// The experiment
    pub id: ExperimentId,
    /// Its name; others may have the same
    #[schema(max_length = 128)]
    pub name: String,
    /// What it is about
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub description: Option<String>,
    /// The snapshot of its newest task that has one; absent: none has
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub commit_id: Option<String>,
    /// Who made it
    pub user_id: String,
    /// When it was made
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Micros,
    /// Whether it takes tasks
    pub status: ExperimentStatus,
    /// Unknown fields of the request, which were ignored
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// A new experiment
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct CreateExperimentRequest {
    /// Its name
    #[schema(max_length = 128, example = "digits")]
    pub name: String,
    /// What it is about
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 16384, nullable = false)]
    pub description: Option<String>,
}

/// What to change of an experiment; what is absent stays
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct EditExperimentRequest {
    /// Another name
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 128, nullable = false)]
    pub name: Option<String>,
    /// Another description; empty: none
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 16384, nullable = false)]
    pub description: Option<String>,
    /// Another status; also what is deleted can be made active again
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub status: Option<ExperimentStatus>,
}

const CREATE_FIELDS: &[&str] = &["name", "description"];
const EDIT_FIELDS: &[&str] = &["name", "description", "status"];

/// Reads a [`CreateExperimentRequest`]. With `strict`, unknown fields are problems.
///
/// # Errors
/// Every problem of the body.
pub fn read_experiment(body: Value, strict: bool) -> Result<Read<CreateExperimentRequest>, Vec<Problem>> {
    let mut fields = Fields::new(body)?;
    let request = CreateExperimentRequest {
        name: fields.required("name", name),
        description: fields.text("description", limits::EXPERIMENT_DESCRIPTION_CHARS),
    };
    fields.finish(request, strict, &[CREATE_FIELDS])
}

/// Reads an [`EditExperimentRequest`]. With `strict`, unknown fields are problems.
///
/// # Errors
/// Every problem of the body.
pub fn read_experiment_edit(body: Value, strict: bool) -> Result<Read<EditExperimentRequest>, Vec<Problem>> {
    let mut fields = Fields::new(body)?;
    let words = ExperimentStatus::ALL.map(|status| (status.as_str(), status));
    let request = EditExperimentRequest {
        name: name(&mut fields, "name"),
        description: fields.text("description", limits::EXPERIMENT_DESCRIPTION_CHARS),
        status: fields.word("status", &words),
    };
    fields.finish(request, strict, &[EDIT_FIELDS])
}

/// A name stands in tables and menus: one line that can be seen.
fn name(fields: &mut Fields, field: &str) -> Option<String> {
    let name = fields.text(field, limits::EXPERIMENT_NAME_CHARS)?;
    if name.trim().is_empty() {
        fields.problem(field, "must not be blank");
    } else if !is_plain_line(&name) {
        fields.problem(field, "must be one line without characters that control text or its direction");
    }
    Some(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_problem_of_a_request_is_told_at_once() {
        let named = |problems: Vec<Problem>| problems.into_iter().map(|problem| problem.field).collect::<Vec<_>>();
        let body = json!({"name": "x".repeat(129), "description": 1, "nam": 2});
        assert_eq!(named(read_experiment(body, true).unwrap_err()), ["name", "description", "nam"]);
        assert_eq!(named(read_experiment(json!({}), false).unwrap_err()), ["name"]);
        for bad in ["", " \t", "a\nb", "a\0b"] {
            assert_eq!(named(read_experiment(json!({ "name": bad }), false).unwrap_err()), ["name"], "{bad:?}");
        }
        let body = json!({"name": " ", "status": "gone"});
        assert_eq!(named(read_experiment_edit(body, false).unwrap_err()), ["name", "status"]);
        assert_eq!(read_experiment_edit(json!({}), true).unwrap().request, EditExperimentRequest::default());
    }

    #[test]
    fn a_status_reads_back_as_written() {
        for status in ExperimentStatus::ALL {
            assert_eq!(status.to_string().parse(), Ok(status));
            assert_eq!(serde_json::to_value(status).unwrap(), status.as_str());
        }
    }
}
