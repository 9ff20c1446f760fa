//! `POST /v1/tasks/{taskId}/rerun`: the same once more.

use super::{
    super::datasets::registry,
    create::{Owner, draft, missing, submit, too_much},
    find, task_view,
};
use crate::{
    app::App,
    auth::{Caller, Reach},
    error::AppError,
    limits,
    query::PathText,
    request::read_json_body,
};
use axum::{
    Extension, Json,
    body::HttpBody as _,
    extract::{Request, State},
    http::{StatusCode, header},
};
use fetchml_api::{CreateTaskRequest, Task, limits::JSON_BODY_BYTES, validate};
use fetchml_store::StoredTask;
use serde_json::{Map, Value};
use std::sync::Arc;

/// Submits a task again
///
/// The same command, files, environment and resources, under the same user. The body may hold changes as a JSON merge
/// patch (RFC 7386) of what `POST /v1/tasks` takes, such as `{"env": {"SEED": "2"}, "args": null}`; only the owner may
/// change anything. Without a body nothing is changed.
#[utoipa::path(post, path = "/v1/tasks/{taskId}/rerun",
    params(("taskId" = String, Path, description = "The task to submit again")),
    request_body(content = Option<Value>, description = "Changes, as a JSON merge patch", content_type = "application/json"),
    responses((status = 201, description = "The new task", body = Task)))]
pub(crate) async fn rerun_task(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Extension(reach): Extension<Reach>,
    PathText(id): PathText<String>,
    request: Request,
) -> Result<(StatusCode, Json<Task>), AppError> {
    let changes = changes(request).await?;
    let task = find(&app, &id).await?;
    let spec = &task.spec;
    reach.check_owner(&caller, &spec.user_id)?;
    let is_owner = caller.user_id == spec.user_id;
    if !is_owner && !changes.is_empty() {
        let owner = &spec.user_id;
        let error = format!("This belongs to {owner}; only {owner} may change what runs again.");
        return Err(AppError::forbidden(error, "Without changes you may run it again."));
    }
    let again = again(&app, &task).await?;
    let mut body = serde_json::to_value(&again).expect("a request has only string keys");
    merge(&mut body, Value::Object(changes));
    let body_bytes = body.to_string().len();
    let registry = registry(&app, &body).await?;
    let mut submission = validate::create_task(body, true, &registry).map_err(AppError::Invalid)?.request;
    let request = &mut submission.request;
    if request.snapshot_id != again.snapshot_id && request.source == again.source {
        // It was said of the other files.
        request.source = None;
    }
    let mut problems = missing(&app, &caller, &spec.user_id, request).await?;
    problems.extend(too_much(request, body_bytes));
    let owner = Owner { user_id: spec.user_id.clone(), role: if is_owner { caller.role } else { spec.role } };
    let mut draft = draft(submission, owner, &caller);
    draft.spec.rerun_of = Some(spec.id);
    let task = submit(&app, draft, problems).await?.task;
    let view = task_view(&app, &task, &caller);
    Ok((StatusCode::CREATED, Json(view)))
}

/// What submits the same again: as it was found when it ran last, if it has ever run. What never ran still waits for
/// what it waited for.
async fn again(app: &App, task: &StoredTask) -> Result<CreateTaskRequest, AppError> {
    let mut again = task.spec.request(task.state.priority);
    let attempts = app.store.attempts(task.spec.id).await?;
    if attempts.is_empty() {
        again.depends_on.clone_from(&task.spec.depends_on);
    }
    for attempt in attempts.iter().rev() {
        let found = app.store.provenance(attempt.id).await?;
        if !found.is_empty() {
            for (_, found) in &found {
                again.pin(found);
            }
            break;
        }
    }
    Ok(again)
}

/// The members of the body; none without one.
async fn changes(request: Request) -> Result<Map<String, Value>, AppError> {
    if request.headers().get(header::CONTENT_TYPE).is_none() && request.body().is_end_stream() {
        return Ok(Map::new());
    }
    let (_, body) = read_json_body(request, JSON_BODY_BYTES, limits::JSON_BODY_TIMEOUT).await?;
    match fetchml_api::json::parse(&body).map_err(|why| AppError::bad_request("", why))? {
        Value::Object(changes) => Ok(changes),
        _ => Err(AppError::Invalid(vec![fetchml_api::Problem::new("", "must be a JSON object of changes")])),
    }
}

/// RFC 7386: members of objects one by one, `null` takes away, anything else takes the place.
fn merge(target: &mut Value, patch: Value) {
    let Value::Object(changes) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(members) = target else { unreachable!("it was just made one") };
    for (name, change) in changes {
        if change.is_null() {
            members.remove(&name);
        } else {
            merge(members.entry(name).or_insert(Value::Null), change);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Of the appendix of RFC 7386.
    #[test]
    fn changes_are_merged_as_the_rfc_says() {
        for (mut target, patch, merged) in [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
            (json!({"a": "b"}), json!({"a": null}), json!({})),
            (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "c"}), json!({"a": ["b"]}), json!({"a": ["b"]})),
            (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
            (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
            (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
            (json!([1, 2]), json!({"a": "b", "c": null}), json!({"a": "b"})),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
        ] {
            merge(&mut target, patch);
            assert_eq!(target, merged);
        }
    }
}
