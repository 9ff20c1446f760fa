//! What tasks measured.

use crate::{connection::Client, error::ClientError};
use fetchml_api::{TaskId, TaskMetrics};

/// What of a task's metrics is asked for.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct MetricsQuery {
    /// Number of an attempt, from 1; the latest without one.
    pub attempt: Option<u32>,
    /// Node of the attempt; the first without one.
    pub node: Option<u32>,
    /// Only these names; all when empty.
    pub names: Vec<String>,
    /// Only lines of this step or later ones.
    pub from_step: Option<f64>,
    /// Only lines of this step or earlier ones.
    pub to_step: Option<f64>,
    /// Points of a series at most.
    pub points: Option<i64>,
}

impl MetricsQuery {
    fn parameters(&self) -> Vec<(&'static str, String)> {
        let names = serde_json::to_string(&self.names).expect("texts are JSON");
        let all = [
            ("attempt", self.attempt.map(|number| number.to_string())),
            ("node", self.node.map(|node| node.to_string())),
            ("names", (!self.names.is_empty()).then_some(names)),
            ("from_step", self.from_step.map(|step| step.to_string())),
            ("to_step", self.to_step.map(|step| step.to_string())),
            ("points", self.points.map(|points| points.to_string())),
        ];
        all.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }
}

impl Client {
    /// What a task has measured.
    pub async fn metrics(&self, id: TaskId, query: &MetricsQuery) -> Result<TaskMetrics, ClientError> {
        self.get_json(&format!("/v1/tasks/{id}/metrics"), &query.parameters()).await
    }
}
