//! `/v1/tasks/{taskId}/checkpoint` and what workers bring to it.

use super::{
    snapshots::read_listing,
    tasks::{find, missing},
};
use crate::{
    app::{App, file_access},
    auth::{Caller, Reach, wall_clock},
    error::AppError,
    limits,
    query::PathText,
    request::read_json_body,
};
use axum::{
    Extension, Json,
    extract::{Request, State},
    http::StatusCode,
};
use fetchml_api::{
    Artifact, AttemptId, Checkpoint, CheckpointFiles, Problem, Role, TaskId, limits::CHECKPOINT_BODY_BYTES,
};
use fetchml_store::Write;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use std::sync::Arc;

/// Blobs looked up at the same time.
const LOOKUPS_AT_ONCE: usize = 32;

/// The checkpoint of a task
///
/// Of its latest attempt that wrote any. The files are blobs: `GET /v1/blobs/{sha256}`. 404 when it has written none.
#[utoipa::path(get, path = "/v1/tasks/{taskId}/checkpoint",
    params(("taskId" = String, Path, description = "The task")),
    responses((status = 200, description = "The checkpoint", body = Checkpoint)))]
pub(super) async fn show_checkpoint(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Extension(reach): Extension<Reach>,
    PathText(task): PathText<String>,
) -> Result<Json<Checkpoint>, AppError> {
    let id = find_for(&app, (&caller, reach), &task).await?;
    let Some(checkpoint) = app.store.checkpoint(id).await? else {
        return Err(missing(&app, id, "The checkpoints of this task were", "checkpoint of this task").await?);
    };
    // Its reader comes for the files next, and a running task may put another list in its place before that.
    claimed(&app, &checkpoint.files).await?;
    Ok(Json(checkpoint))
}

/// A worker is also shown what was deleted by its owner: a task that was submitted before may start from it.
async fn find_for(app: &App, (caller, reach): (&Caller, Reach), task: &str) -> Result<TaskId, AppError> {
    if caller.role == Role::Worker
        && let Ok(id) = task.parse()
    {
        return Ok(id);
    }
    let task = find(app, task).await?;
    reach.check_reader(caller, &task.spec.user_id)?;
    Ok(task.spec.id)
}

/// Sizes of the blobs of these files, each claimed; `None` for one that is not there.
async fn claimed(app: &App, files: &[Artifact]) -> Result<Vec<Option<u64>>, AppError> {
    let (blobs, now) = (&app.blobs, app.driver.now());
    let found = stream::iter(files.iter().map(|file| file.sha256.clone()).collect::<Vec<_>>())
        .map(|sha256| async move { blobs.claim(&sha256, now).await })
        .buffered(LOOKUPS_AT_ONCE)
        .try_collect()
        .await?;
    Ok(found)
}

/// Stores the checkpoint of a running attempt
///
/// For workers. Every file is a stored blob; the list takes the place of the attempt's last one.
#[utoipa::path(put, path = "/v1/tasks/{taskId}/attempts/{attemptId}/checkpoint", request_body = CheckpointFiles,
    params(("taskId" = String, Path, description = "The task"),
        ("attemptId" = String, Path, description = "The attempt")),
    responses((status = 200, description = "Stored durably", body = Checkpoint),
        (status = 409, description = "The attempt is over")))]
pub(super) async fn put_checkpoint(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    PathText((task, attempt)): PathText<(String, String)>,
    request: Request,
) -> Result<(StatusCode, Json<Checkpoint>), AppError> {
    let task = find(&app, &task).await?;
    let unknown = || AppError::not_found("attempt of this task");
    let attempt: AttemptId = attempt.parse().map_err(|_| unknown())?;
    let record = app.store.attempt(attempt).await?.filter(|a| a.task_id == task.spec.id).ok_or_else(unknown)?;
    if record.ended_at.is_some() {
        return Err(AppError::Conflict { error: "The attempt is over.".into(), hint: None });
    }
    let (_, body) = read_json_body(request, CHECKPOINT_BODY_BYTES, limits::JSON_BODY_TIMEOUT).await?;
    let listed: CheckpointFiles = read_listing(&body, "list of files")?;
    let mut problems = listed.problems();
    if problems.is_empty() {
        problems = unstored(&app, &listed).await?;
    }
    if !problems.is_empty() {
        return Err(AppError::Invalid(problems));
    }
    let mut checkpoint = Checkpoint { attempt_id: attempt, saved_at: wall_clock(), files: listed.files };
    checkpoint.files.sort_by(|a, b| a.path.cmp(&b.path));
    let audit = file_access(&caller, "checkpoint_store", format!("tasks/{}/attempts/{attempt}", task.spec.id));
    app.store.commit(vec![Write::CheckpointPut(checkpoint.clone()), Write::Audit(audit)]).await?;
    app.driver.checkpoint_saved(attempt);
    fetchml_failpoint::reach("checkpoint.received");
    Ok((StatusCode::OK, Json(checkpoint)))
}

/// A problem for each file whose blob is not stored with its size.
async fn unstored(app: &App, listed: &CheckpointFiles) -> Result<Vec<Problem>, AppError> {
    let found = claimed(app, &listed.files).await?;
    let problems = listed.files.iter().zip(found).enumerate().filter_map(|(i, (file, stored))| {
        let problem = match stored {
            Some(size) if size == file.size_bytes => return None,
            Some(size) => format!("says {} bytes; its blob has {size}", file.size_bytes),
            None => format!("blob {} is not stored; PUT it first", file.sha256),
        };
        Some(Problem::new(format!("files[{i}]"), problem))
    });
    Ok(problems.collect())
}
