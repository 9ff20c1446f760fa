//! `/v1/tasks/{taskId}/metrics`.

use super::{
    attempts::Wanted,
    tasks::{find, refuse_collected},
};
use crate::{
    app::App,
    auth::{Caller, Reach},
    error::AppError,
    logs::LogId,
    metrics::MetricsQuery,
    query::{PathText, Query},
};
use axum::{Extension, Json, extract::State};
use fetchml_api::{
    TaskMetrics,
    limits::{METRICS_POINTS, METRICS_POINTS_DEFAULT},
};
use std::{ops::RangeInclusive, sync::Arc};

/// The metrics of a task
///
/// What it wrote to `$FETCHML_METRICS`, as series by name, and samples of what it used of its machine. A series of
/// more than `points` values is reduced by M4: the first, last, smallest and largest value of each of equally many.
/// All series of one answer share 100,000 points.
#[utoipa::path(get, path = "/v1/tasks/{taskId}/metrics",
    params(("taskId" = String, Path, description = "The task"),
        ("attempt" = Option<String>, Query, description = "Id or number of an attempt; default: the latest",
            pattern = r"^([1-9][0-9]{0,8}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})$", nullable = false),
        ("node" = Option<i32>, Query, description = "Node of the attempt; default 0", minimum = 0, nullable = false),
        ("names" = Option<String>, Query, description = "Only series of these names, separated by commas, or a JSON array of them; samples have names too, such as system.cpu_percent", nullable = false),
        ("from_step" = Option<f64>, Query, description = "Only lines of this step or later ones; samples are not chosen by it", nullable = false),
        ("to_step" = Option<f64>, Query, description = "Only lines of this step or earlier ones", nullable = false),
        ("points" = Option<i64>, Query, description = "Points of a series at most", minimum = 10, maximum = 5000, nullable = false)),
    responses((status = 200, description = "The series", body = TaskMetrics)))]
pub(super) async fn show_metrics(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Extension(reach): Extension<Reach>,
    PathText(task): PathText<String>,
    mut query: Query,
) -> Result<Json<TaskMetrics>, AppError> {
    let attempt = Wanted::read(&mut query);
    let node = query.int("node", 0..=i64::from(i32::MAX)).unwrap_or(0) as u32;
    let points = query.int("points", METRICS_POINTS).unwrap_or(METRICS_POINTS_DEFAULT) as usize;
    let wanted = MetricsQuery { names: names(&mut query), steps: steps(&mut query), points };
    query.finish()?;
    let task = find(&app, &task).await?;
    reach.check_reader(&caller, &task.spec.user_id)?;
    refuse_collected(&app, &task, "The metrics of this task were").await?;
    let task = task.spec.id;
    let attempts = app.store.attempts(task).await?;
    let Some(attempt) = attempt.among(&attempts)? else { return Ok(Json(TaskMetrics::default())) };
    let id = LogId { task, attempt: attempt.id, node };
    app.metrics.read(id, &wanted).await.map(Json).map_err(AppError::internal)
}

fn names(query: &mut Query) -> Option<Vec<String>> {
    let text = query.text("names")?;
    if !text.starts_with('[') {
        return Some(text.split(',').map(|name| name.trim().to_owned()).collect());
    }
    let names = serde_json::from_str(&text);
    if names.is_err() {
        query.problem("names", "must be names separated by commas, or a JSON array of names");
    }
    names.ok()
}

fn steps(query: &mut Query) -> Option<RangeInclusive<f64>> {
    let mut step = |name| {
        let value = query.parsed::<f64>(name, "a number");
        if value.is_some_and(f64::is_nan) {
            query.problem(name, "must be a number");
        }
        value
    };
    let (from, to) = (step("from_step"), step("to_step"));
    if let (Some(from), Some(to)) = (from, to)
        && from > to
    {
        query.problem("to_step", "must not be less than from_step");
    }
    (from.is_some() || to.is_some()).then(|| from.unwrap_or(f64::NEG_INFINITY)..=to.unwrap_or(f64::INFINITY))
}
