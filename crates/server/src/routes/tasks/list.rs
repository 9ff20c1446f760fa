//! `GET /v1/tasks`.

use super::task_view_at;
use crate::{app::App, auth::Caller, error::AppError, query::Query};
use axum::{Extension, Json, extract::State};
use fetchml_api::{
    TaskList, TaskListQuery, TaskStatus,
    limits::{LIST_LIMIT_DEFAULT, LIST_LIMIT_MAX, METADATA_ENTRIES},
};
use fetchml_store::TaskFilter;
use std::sync::Arc;

/// Tasks, newest first
///
/// `total` counts all matches. `output` is left out. Filters for what no task can have yet match nothing. With
/// `metadata.KEY=VALUE`, up to 64 times, only tasks whose metadata has these entries. Deep pages are found at once by
/// `after`, the last id of the page before; an `offset` is counted off.
#[utoipa::path(get, path = "/v1/tasks",
    params(TaskListQuery,
        ("plugin_configs" = Option<String>, Query, description = "JSON object: only tasks that configure all the named plugins", nullable = false),
        ("node_count" = Option<i32>, Query, description = "Only tasks with this many nodes", minimum = 1, nullable = false),
        ("reservation_id" = Option<String>, Query, description = "Only tasks of this reservation", format = "uuid", nullable = false)),
    responses((status = 200, description = "A page", body = TaskList)))]
pub(crate) async fn list_tasks(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    mut query: Query,
) -> Result<Json<TaskList>, AppError> {
    let limit = query.int("limit", 0..=LIST_LIMIT_MAX).unwrap_or(LIST_LIMIT_DEFAULT);
    let offset = query.int("offset", 0..=i64::MAX).unwrap_or(0);
    let mut filter = TaskFilter {
        status: query
            .parsed::<TaskStatus>("status", "one of queued, preparing, running, collecting, completed, failed"),
        user_id: query.text("user_id"),
        job_name: query.text("job_name"),
        node_count: query.int("node_count", 1..=i64::from(i32::MAX)),
        reservation: None,
        experiment: query.parsed("experiment_id", "the id of an experiment"),
        array: query.parsed("array_id", "the id of an array"),
        created_after: query.instant("created_after"),
        created_before: query.instant("created_before"),
        metadata: query.texts_below("metadata.", METADATA_ENTRIES),
        before: query.parsed("after", "the id of a task"),
        offset,
        limit,
    };
    // No task has plugins so far, and what is no id names no reservation.
    let mut possible = true;
    if let Some(text) = query.text("reservation_id") {
        filter.reservation = text.parse().ok();
        possible = filter.reservation.is_some();
    }
    if let Some(text) = query.text("plugin_configs") {
        match serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&text) {
            Ok(plugins) => possible &= plugins.is_empty(),
            Err(_) => query.problem("plugin_configs", "must be a JSON object"),
        }
    }
    query.finish()?;
    // Every task may have to be read for it.
    let _turn = if filter.metadata.is_empty() {
        None
    } else {
        Some(app.scan_turn("Others are looking through the metadata of tasks.").await?)
    };
    let (tasks, total) = if possible { app.store.tasks(&filter).await? } else { (Vec::new(), 0) };
    let now = app.driver.now();
    let tasks = tasks.iter().map(|task| task_view_at(&app, task, &caller, now)).collect();
    Ok(Json(TaskList { tasks, total, limit, offset }))
}
