//! `/v1/secrets`, and what workers ask of them.

use super::tasks::find;
use crate::{app::App, auth::Caller, error::AppError, limits, query::PathText, request::read_json_body};
use axum::{
    Extension, Json,
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use fetchml_api::{
    AttemptEpoch, AttemptId, AttemptSecrets, AttemptSecretsRequest, Problem, PutSecretRequest, SecretList, SecretText,
    StoredSecret, WorkerId,
    limits::{ENV_NAME_CHARS, JSON_BODY_BYTES, SECRET_HIDDEN_BYTES_MIN, SECRET_VALUE_BYTES},
    validate::Fields,
    variable_name_problem,
};
use std::sync::Arc;

/// Own secrets by name, without their values
#[utoipa::path(get, path = "/v1/secrets",
    responses((status = 200, description = "The secrets", body = SecretList)))]
pub(super) async fn list_secrets(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<SecretList>, AppError> {
    Ok(Json(SecretList { secrets: app.secrets.list(&caller).await? }))
}

/// Sets an own secret
///
/// The value is kept sealed and is never shown again, to nobody. Tasks that name the secret get it in their
/// environment from their next attempt on.
#[utoipa::path(put, path = "/v1/secrets/{name}", request_body = PutSecretRequest,
    params(("name" = String, Path, description = "Name of the environment variable in tasks")),
    responses((status = 200, description = "It has another value now", body = StoredSecret),
        (status = 201, description = "There was none of that name", body = StoredSecret),
        (status = 409, description = "There are too many", body = fetchml_api::ErrorResponse)))]
pub(super) async fn put_secret(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    PathText(name): PathText<String>,
    request: Request,
) -> Result<(StatusCode, Json<StoredSecret>), AppError> {
    let (_, body) = read_json_body(request, JSON_BODY_BYTES, limits::JSON_BODY_TIMEOUT).await?;
    let body = fetchml_api::json::parse(&body)
        .map_err(|_| AppError::bad_request("body", "is not well-formed JSON, or repeats a key"))?;
    let value = read_value(&name, body).map_err(AppError::Invalid)?;
    let (info, is_new) = app.secrets.set(&caller, &name, &value).await?;
    let mut warnings = Vec::new();
    if value.expose().trim().len() < SECRET_HIDDEN_BYTES_MIN {
        warnings.push(format!(
            "The value is shorter than {SECRET_HIDDEN_BYTES_MIN} bytes: too short to be kept out of the logs of tasks \
             that print it."
        ));
    }
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(StoredSecret { info, warnings })))
}

/// Nothing of the body is repeated in what is wrong with it: any part may be the value.
fn read_value(name: &str, body: serde_json::Value) -> Result<SecretText, Vec<Problem>> {
    let mut problems = Vec::new();
    if let Some(problem) = variable_name_problem(name) {
        problems.push(Problem::new("name", problem));
    } else if name.len() > ENV_NAME_CHARS {
        problems.push(Problem::new("name", format!("at most {ENV_NAME_CHARS} characters are allowed")));
    }
    let value = Fields::new(body).map(|mut fields| {
        let value = fields.required("value", |f, name| f.text(name, SECRET_VALUE_BYTES));
        // Other fields have no meaning here, and their names may be a slip.
        (value, fields.into_problems())
    });
    match value {
        Err(more) => problems.extend(more),
        Ok((_, more)) if !more.is_empty() => problems.extend(more),
        Ok((value, _)) if value.is_empty() => problems.push(Problem::new("value", "is empty")),
        Ok((value, _)) if value.len() > SECRET_VALUE_BYTES => {
            let problem = format!("has {} bytes of UTF-8; at most {SECRET_VALUE_BYTES} are allowed", value.len());
            problems.push(Problem::new("value", problem));
        }
        Ok((value, _)) if problems.is_empty() => return Ok(value.into()),
        Ok(_) => {}
    }
    Err(problems)
}

/// Deletes an own secret
///
/// Attempts that run with it keep its value to their end; those that have not started fail, with the cause `secret`.
#[utoipa::path(delete, path = "/v1/secrets/{name}",
    params(("name" = String, Path, description = "Its name")),
    responses((status = 204, description = "It is no more")))]
pub(super) async fn delete_secret(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    PathText(name): PathText<String>,
) -> Result<StatusCode, AppError> {
    if app.secrets.delete(&caller, &name).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(AppError::not_found("secret"))
    }
}

/// The secrets of an attempt
///
/// For the worker that holds it, through the key that its link was opened with. The first call gives the values of
/// that moment, later ones the same. 422 when one is not there any more.
#[utoipa::path(post, path = "/v1/tasks/{taskId}/attempts/{attemptId}/secrets", request_body = AttemptSecretsRequest,
    params(("taskId" = String, Path, description = "The task"),
        ("attemptId" = String, Path, description = "The attempt")),
    responses((status = 200, description = "The values", body = AttemptSecrets),
        (status = 409, description = "The attempt is over", body = fetchml_api::ErrorResponse)))]
pub(super) async fn read_attempt_secrets(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    PathText((task, attempt)): PathText<(String, String)>,
    request: Request,
) -> Result<Response, AppError> {
    let task = find(&app, &task).await?;
    let unknown = || AppError::not_found("attempt of this task");
    let attempt: AttemptId = attempt.parse().map_err(|_| unknown())?;
    let record = app.store.attempt(attempt).await?.filter(|a| a.task_id == task.spec.id).ok_or_else(unknown)?;
    let (_, body) = read_json_body(request, JSON_BODY_BYTES, limits::JSON_BODY_TIMEOUT).await?;
    let body = fetchml_api::json::parse(&body).map_err(|why| AppError::bad_request("", why))?;
    let asked = read_holder(body).map_err(AppError::Invalid)?;
    if !record.is_on(asked.worker_id) || record.epoch != asked.epoch {
        return Err(AppError::forbidden(
            "This attempt is held by another worker, or at another epoch.",
            "Only the worker that holds an attempt gets its secrets.",
        ));
    }
    match app.sessions.key_of(asked.worker_id) {
        Some(key) if key == caller.key => {}
        Some(_) => {
            return Err(AppError::forbidden(
                "This attempt's worker is linked with another key.",
                "Ask with the key that the worker's link was opened with.",
            ));
        }
        None => {
            let reason = "The link of this attempt's worker is not open.".into();
            return Err(AppError::Unavailable { reason, retry_after_s: 1 });
        }
    }
    if record.phase.is_over() {
        return Err(AppError::Conflict { error: "The attempt is over.".into(), hint: None });
    }
    let secrets = app.secrets.give(&caller, &task.spec, &record).await?;
    let mut response = Json(secrets).into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

fn read_holder(body: serde_json::Value) -> Result<AttemptSecretsRequest, Vec<Problem>> {
    let mut fields = Fields::new(body)?;
    let worker = fields.required("worker_id", |f, name| {
        let worker = f.text(name, 36)?.parse::<WorkerId>().ok();
        if worker.is_none() {
            f.problem(name, "must be the id of a worker");
        }
        Some(worker)
    });
    let epoch = fields.required("epoch", |f, name| {
        let epoch = serde_json::from_value::<AttemptEpoch>(f.take(name)?).ok();
        if epoch.is_none() {
            f.problem(name, "must be an object of the integers incarnation and n");
        }
        Some(epoch)
    });
    match fields.finish((worker, epoch), false, &[])?.request {
        (Some(worker_id), Some(epoch)) => Ok(AttemptSecretsRequest { worker_id, epoch }),
        _ => unreachable!("what is missing was noted, so `finish` has failed already"),
    }
}
