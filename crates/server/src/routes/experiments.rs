//! `/v1/experiments`: names for tasks that belong together.

use crate::{
    app::{App, file_access},
    auth::{Caller, wall_clock},
    error::AppError,
    limits,
    query::{PathText, Query},
    request::read_json_body,
};
use axum::{
    Extension, Json,
    extract::{Request, State},
    http::StatusCode,
};
use fetchml_api::{
    CreateExperimentRequest, EditExperimentRequest, Experiment, ExperimentId, ExperimentStatus,
    experiment::{read_experiment, read_experiment_edit},
    limits::{EXPERIMENTS_MAX, JSON_BODY_BYTES},
};
use fetchml_store::Write;
use std::sync::Arc;
use uuid::Uuid;

/// List experiments
///
/// Newest first; those that are deleted only where `status` asks for them.
#[utoipa::path(get, path = "/v1/experiments",
    params(("status" = Option<ExperimentStatus>, Query, description = "Only those of this status", nullable = false)),
    responses((status = 200, description = "List of experiments", body = Vec<Experiment>)))]
pub(super) async fn list_experiments(
    State(app): State<Arc<App>>,
    mut query: Query,
) -> Result<Json<Vec<Experiment>>, AppError> {
    let status = query.parsed("status", "one of active, archived, deleted");
    query.finish()?;
    Ok(Json(app.store.experiments(status).await?))
}

/// Create experiment
///
/// Tasks belong to it that name its id as `experiment_id`.
#[utoipa::path(post, path = "/v1/experiments", request_body = CreateExperimentRequest,
    params(("strict" = Option<bool>, Query, description = "Refuse unknown fields", nullable = false)), responses(
    (status = 201, description = "Experiment created", body = Experiment),
    (status = 409, description = "There are too many", body = fetchml_api::ErrorResponse)))]
pub(super) async fn create_experiment(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    mut query: Query,
    request: Request,
) -> Result<(StatusCode, Json<Experiment>), AppError> {
    let (_, body) = read_json_body(request, JSON_BODY_BYTES, limits::JSON_BODY_TIMEOUT).await?;
    let strict = query.flag("strict");
    query.finish()?;
    let body = fetchml_api::json::parse(&body).map_err(|why| AppError::bad_request("", why))?;
    let read = read_experiment(body, strict).map_err(AppError::Invalid)?;
    if app.store.experiment_count().await? >= EXPERIMENTS_MAX as i64 {
        return Err(AppError::Conflict {
            error: format!("There are {EXPERIMENTS_MAX} experiments, the most there can be."),
            hint: Some("Delete some that nobody needs: PATCH their status to deleted.".into()),
        });
    }
    let CreateExperimentRequest { name, description } = read.request;
    let experiment = Experiment {
        id: ExperimentId(Uuid::now_v7()),
        name,
        description: description.filter(|text| !text.is_empty()),
        commit_id: None,
        user_id: caller.user_id.clone(),
        created_at: wall_clock(),
        status: ExperimentStatus::Active,
        warnings: read.warnings,
    };
    let audit = file_access(&caller, "experiment_create", resource(experiment.id));
    app.store.commit(vec![Write::ExperimentInsert(experiment.clone()), Write::Audit(audit)]).await?;
    Ok((StatusCode::CREATED, Json(experiment)))
}

/// An experiment
///
/// Its tasks are those of `GET /v1/tasks?experiment_id=`.
#[utoipa::path(get, path = "/v1/experiments/{experimentId}", params(("experimentId" = String, Path, description = "Its id")),
    responses((status = 200, description = "The experiment, deleted or not", body = Experiment)))]
pub(super) async fn show_experiment(
    State(app): State<Arc<App>>,
    PathText(id): PathText<String>,
) -> Result<Json<Experiment>, AppError> {
    find(&app, &id).await.map(Json)
}

/// Change name, description or status
///
/// One that is archived or deleted takes no more tasks; those it has are not touched. Only for who made it.
#[utoipa::path(patch, path = "/v1/experiments/{experimentId}",
    params(("experimentId" = String, Path, description = "Its id"),
        ("strict" = Option<bool>, Query, description = "Refuse unknown fields", nullable = false)),
    request_body = EditExperimentRequest, responses((status = 200, description = "As it is now", body = Experiment)))]
pub(super) async fn edit_experiment(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    PathText(id): PathText<String>,
    mut query: Query,
    request: Request,
) -> Result<Json<Experiment>, AppError> {
    let known = find(&app, &id).await?;
    if known.user_id != caller.user_id {
        return Err(AppError::forbidden(
            format!("The experiment {} belongs to {}.", known.id, known.user_id),
            format!("Only {} may change it.", known.user_id),
        ));
    }
    let (_, body) = read_json_body(request, JSON_BODY_BYTES, limits::JSON_BODY_TIMEOUT).await?;
    let strict = query.flag("strict");
    query.finish()?;
    let body = fetchml_api::json::parse(&body).map_err(|why| AppError::bad_request("", why))?;
    let read = read_experiment_edit(body, strict).map_err(AppError::Invalid)?;
    let audit = file_access(&caller, "experiment_edit", resource(known.id));
    let edit = Write::ExperimentEdit { id: known.id, edit: read.request, at: audit.at };
    app.store.commit(vec![edit, Write::Audit(audit)]).await?;
    let now = app.store.experiment(known.id).await?.ok_or_else(unknown)?;
    Ok(Json(Experiment { warnings: read.warnings, ..now }))
}

fn resource(id: ExperimentId) -> String {
    format!("experiments/{id}")
}

async fn find(app: &App, id: &str) -> Result<Experiment, AppError> {
    let id = id.parse().map_err(|_| unknown())?;
    app.store.experiment(id).await?.ok_or_else(unknown)
}

fn unknown() -> AppError {
    AppError::not_found("experiment")
}
