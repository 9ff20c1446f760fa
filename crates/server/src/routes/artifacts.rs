//! `/v1/tasks/{taskId}/artifacts`.

use super::{
    blobs,
    tasks::{find, refuse_collected},
};
use crate::{
    app::App,
    auth::{Caller, Reach},
    error::AppError,
    query::{PathText, Query},
};
use axum::{
    Extension, Json,
    extract::State,
    http::{HeaderMap, HeaderValue, header},
    response::Response,
};
use fetchml_api::{ArtifactList, AttemptId};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use std::sync::Arc;

async fn artifacts(
    app: &App,
    (caller, reach): (&Caller, Reach),
    task: &str,
    attempt: Option<AttemptId>,
) -> Result<ArtifactList, AppError> {
    let task = find(app, task).await?;
    reach.check_reader(caller, &task.spec.user_id)?;
    refuse_collected(app, &task, "The artifacts of this task were").await?;
    if let Some(attempt) = attempt
        && app.store.attempt(attempt).await?.is_none_or(|a| a.task_id != task.spec.id)
    {
        return Err(AppError::not_found("attempt of this task"));
    }
    Ok(match app.store.artifacts(task.spec.id, attempt).await? {
        Some((attempt, artifacts)) => ArtifactList { attempt_id: Some(attempt), artifacts },
        None => ArtifactList { attempt_id: attempt, artifacts: Vec::new() },
    })
}

/// The files a task left behind
///
/// Of its latest attempt that left any, or of the attempt asked for.
#[utoipa::path(get, path = "/v1/tasks/{taskId}/artifacts",
    params(("taskId" = String, Path, description = "The task"),
        ("attempt" = Option<String>, Query, description = "Id of an attempt", format = "uuid", nullable = false)),
    responses((status = 200, description = "The files", body = ArtifactList)))]
pub(super) async fn list_artifacts(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Extension(reach): Extension<Reach>,
    PathText(task): PathText<String>,
    mut query: Query,
) -> Result<Json<ArtifactList>, AppError> {
    let attempt = query.parsed("attempt", "the id of an attempt");
    query.finish()?;
    Ok(Json(artifacts(&app, (&caller, reach), &task, attempt).await?))
}

/// One file a task left behind
///
/// Takes one range. The `ETag` is the SHA-256 of the bytes.
#[utoipa::path(get, path = "/v1/tasks/{taskId}/artifacts/{*path}",
    params(("taskId" = String, Path, description = "The task"),
        ("path" = String, Path, description = "Path of the file, with slashes"),
        ("attempt" = Option<String>, Query, description = "Id of an attempt", format = "uuid", nullable = false)),
    responses((status = 200, description = "The bytes", body = Vec<u8>, content_type = "application/octet-stream"),
        (status = 206, description = "A range of them", body = Vec<u8>, content_type = "application/octet-stream"),
        (status = 304, description = "As named in If-None-Match"),
        (status = 416, description = "No such range", body = fetchml_api::ErrorResponse)))]
pub(super) async fn read_artifact(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Extension(reach): Extension<Reach>,
    PathText((task, path)): PathText<(String, String)>,
    mut query: Query,
    headers: HeaderMap,
) -> Result<Response, AppError> {
    let attempt = query.parsed("attempt", "the id of an attempt");
    query.finish()?;
    let unknown = || AppError::not_found("artifact");
    let list = artifacts(&app, (&caller, reach), &task, attempt).await?;
    let artifact = list.artifacts.into_iter().find(|a| a.path == path).ok_or_else(unknown)?;
    let length = app.blobs.size(&artifact.sha256).await?.ok_or_else(unknown)?;
    app.record_file_access(&caller, "artifact_read", format!("tasks/{task}/artifacts/{path}")).await?;
    let mut response = blobs::send(&app, &caller, &artifact.sha256, length, &headers).await?;
    let name = path.rsplit('/').next().unwrap_or("artifact");
    let disposition = format!("attachment; filename*=UTF-8''{}", utf8_percent_encode(name, NON_ALPHANUMERIC));
    let disposition = HeaderValue::from_str(&disposition).expect("percent-encoded text makes a valid header");
    response.headers_mut().insert(header::CONTENT_DISPOSITION, disposition);
    Ok(response)
}
