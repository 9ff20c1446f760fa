//! `/v1/scheduler/workers`.

use crate::{
    app::App,
    auth::Caller,
    driver::{ChangeAnswer, Drain},
    error::AppError,
    query::{PathText, Query},
};
use axum::{Extension, Json, extract::State, http::StatusCode};
use fetchml_api::{Worker, WorkerId};
use std::sync::Arc;

/// Every worker
///
/// One that is gone stays listed as `offline` for a day.
#[utoipa::path(get, path = "/v1/scheduler/workers", tag = "Scheduler", responses(
    (status = 200, description = "The workers", body = Vec<Worker>)
))]
pub(in crate::routes) async fn list_workers(State(app): State<Arc<App>>) -> Json<Arc<Vec<Worker>>> {
    Json(app.driver.workers())
}

/// A worker
#[utoipa::path(get, path = "/v1/scheduler/workers/{workerId}", tag = "Scheduler",
    params(("workerId" = String, Path, description = "The worker")),
    responses((status = 200, description = "The worker", body = Worker)))]
pub(in crate::routes) async fn show_worker(
    State(app): State<Arc<App>>,
    PathText(id): PathText<String>,
) -> Result<Json<Worker>, AppError> {
    let id = worker_id(&id)?;
    let workers = app.driver.workers();
    workers.iter().find(|worker| worker.id == id).cloned().map(Json).ok_or_else(unknown)
}

/// Drains a worker: it takes nothing new
///
/// What it runs goes on to its end. With `force=true` its attempts are stopped and their tasks queued again at no cost;
/// those of a worker that cannot be reached only when its lease has ended, since they may still run. With
/// `declare_dead=true` the caller vouches that the machine is dead: an unreachable worker's tasks are queued again at
/// once. A worker that is connected is not dead, and is drained by force. Repeating it changes nothing.
#[utoipa::path(delete, path = "/v1/scheduler/workers/{workerId}", tag = "Scheduler",
    params(("workerId" = String, Path, description = "The worker"),
        ("force" = Option<bool>, Query, description = "Stop what it runs, too", nullable = false),
        ("declare_dead" = Option<bool>, Query, description = "It is dead for certain", nullable = false)),
    responses((status = 204, description = "It drains")))]
pub(in crate::routes) async fn drain_worker(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    PathText(id): PathText<String>,
    mut query: Query,
) -> Result<StatusCode, AppError> {
    let (force, dead) = (query.flag("force"), query.flag("declare_dead"));
    query.finish()?;
    let mode = match (dead, force) {
        (true, _) => Drain::DeclareDead,
        (false, true) => Drain::Evict,
        (false, false) => Drain::Finish,
    };
    let id = worker_id(&id)?;
    changed(app.driver.worker_drain(id, mode, caller.actor()).await?)
}

/// Lets a drained worker take work again
///
/// One that found something wrong with itself goes on draining until that is well: see its `unfit`. Repeating it
/// changes nothing.
#[utoipa::path(post, path = "/v1/scheduler/workers/{workerId}/undrain", tag = "Scheduler",
    params(("workerId" = String, Path, description = "The worker")),
    responses((status = 204, description = "No operator drains it any more")))]
pub(in crate::routes) async fn undrain_worker(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    PathText(id): PathText<String>,
) -> Result<StatusCode, AppError> {
    let id = worker_id(&id)?;
    changed(app.driver.worker_undrain(id, caller.actor()).await?)
}

fn worker_id(id: &str) -> Result<WorkerId, AppError> {
    id.parse().map_err(|_| unknown())
}

fn unknown() -> AppError {
    AppError::not_found("worker")
}

fn changed(answer: ChangeAnswer) -> Result<StatusCode, AppError> {
    match answer {
        ChangeAnswer::Done | ChangeAnswer::Unchanged => Ok(StatusCode::NO_CONTENT),
        ChangeAnswer::NotActive => Err(unknown()),
        ChangeAnswer::Refused(refusal) => Err(AppError::internal(format!("a drain was refused: {refusal:?}"))),
    }
}
