//! `PATCH /v1/scheduler/jobs/{jobId}/priority`.

use crate::{
    app::App,
    auth::{Caller, Reach},
    driver::{ChangeAnswer, Refusal},
    error::AppError,
    limits,
    query::PathText,
    request::read_json_body,
    routes::tasks::{find, task_view},
};
use axum::{
    Extension, Json,
    extract::{Request, State},
};
use fetchml_api::{
    PriorityRequest, Problem, Task,
    limits::{JSON_BODY_BYTES, PRIORITY},
    validate::Fields,
};
use std::sync::Arc;

/// Another priority for a task that has not ended
///
/// What it has waited so far counts on. A task that runs keeps running; its new priority counts when it is queued again.
#[utoipa::path(patch, path = "/v1/scheduler/jobs/{jobId}/priority", tag = "Scheduler", request_body = PriorityRequest,
    params(("jobId" = String, Path, description = "The task")),
    responses((status = 200, description = "The task", body = Task),
        (status = 409, description = "It has ended", body = fetchml_api::ErrorResponse)))]
pub(in crate::routes) async fn set_priority(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Extension(reach): Extension<Reach>,
    PathText(id): PathText<String>,
    request: Request,
) -> Result<Json<Task>, AppError> {
    let task = find(&app, &id).await?;
    reach.check_owner(&caller, &task.spec.user_id)?;
    let (_, body) = read_json_body(request, JSON_BODY_BYTES, limits::JSON_BODY_TIMEOUT).await?;
    let body = fetchml_api::json::parse(&body).map_err(|why| AppError::bad_request("", why))?;
    let priority = read(body).map_err(AppError::Invalid)?;
    match app.driver.priority_set(task.spec.id, priority, caller.actor(), caller.role).await? {
        ChangeAnswer::Done | ChangeAnswer::Unchanged => {
            let task = find(&app, &id).await?;
            Ok(Json(task_view(&app, &task, &caller)))
        }
        ChangeAnswer::NotActive => Err(AppError::Conflict {
            error: "The task has ended; its priority means nothing any more.".into(),
            hint: Some("Submit it again with another priority.".into()),
        }),
        ChangeAnswer::Refused(Refusal::Priority { limit }) => Err(AppError::forbidden(
            format!("Your priorities go up to {limit}."),
            "An operator or admin may set a higher one; an admin changes the limit (fetchml quota).",
        )),
        ChangeAnswer::Refused(refusal) => Err(AppError::internal(format!("a priority was refused: {refusal:?}"))),
    }
}

fn read(body: serde_json::Value) -> Result<u8, Vec<Problem>> {
    let mut fields = Fields::new(body)?;
    let priority = fields.required("priority", |f, name| f.int(name, *PRIORITY.start(), *PRIORITY.end()));
    let priority = fields.finish(priority, true, &[&["priority"]])?.request;
    u8::try_from(priority).map_err(|_| vec![Problem::new("priority", "is out of range")])
}
