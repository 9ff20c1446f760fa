//! `POST /v1/tasks`.

use super::{
    super::{datasets::registry, scheduler::reservations::why_not_claimable, snapshots},
    dependencies, task_view_at,
};
use crate::{
    app::App,
    auth::Caller,
    driver::{CommandError, NewTaskDraft, Refusal, Submitted},
    error::AppError,
    limits,
    once::{self, Once, counts_since},
    query::Query,
    request::read_json_body,
};
use axum::{
    Extension, Json,
    extract::{Request, State},
    http::{HeaderValue, StatusCode},
    response::{IntoResponse as _, Response},
};
use fetchml_api::{
    CreateTaskRequest, Demand, ExperimentStatus, Explanation, Problem, Role, SlotKind, Task, TaskId, TaskSpec,
    limits::{ARRAY_BYTES, JSON_BODY_BYTES},
    time::Micros,
    validate::{self, Submission},
};
use fetchml_store::{StoreError, StoredTask, Write};
use std::sync::Arc;

const PRIORITY_DEFAULT: i32 = 5;
const CPU_DEFAULT: i32 = 1;

/// Submits a task
///
/// With `dry_run=true` nothing is created: the request is checked, and the answer says what would become of it.
/// The task is stored durably when this answers; with `array` all of its tasks are, and the answer is the first. Unknown fields are listed in `warnings`, or refused
/// with `strict=true`.
#[utoipa::path(post, path = "/v1/tasks", request_body = CreateTaskRequest,
    params(("strict" = Option<bool>, Query, description = "Refuse unknown fields", nullable = false),
        ("dry_run" = Option<bool>, Query, description = "Create nothing; say what would become of it", nullable = false),
        ("Idempotency-Key" = Option<String>, Header, description = "Sent again with the same key and body within 24 hours, the request does nothing more, and is answered as before", max_length = 255,
            pattern = "^[!-~]([ -~]{0,253}[!-~])?$", nullable = false)),
    responses((status = 200, description = "With `dry_run=true`: why the task would wait, or that it would not",
            body = Explanation),
        (status = 201, description = "The task", body = Task,
            headers(("Idempotent-Replayed" = String, description = "`true`: it was made by an earlier request with this key"))),
        (status = 409, description = "The reservation is another task's, or has expired; or the key is another request's",
            body = fetchml_api::ErrorResponse)))]
pub(crate) async fn create_task(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    mut query: Query,
    request: Request,
) -> Result<Response, AppError> {
    let (parts, body) = read_json_body(request, JSON_BODY_BYTES, limits::JSON_BODY_TIMEOUT).await?;
    let (strict, dry_run) = (query.flag("strict"), query.flag("dry_run"));
    query.finish()?;
    let once = Once::read(&parts.headers, &caller.user_id, "task_create", &body)?.filter(|_| !dry_run);
    // What was done once may be refused by now: its answer stands.
    let before = done_before(&app, once.as_ref()).await?;
    let body_bytes = body.len();
    let body = fetchml_api::json::parse(&body).map_err(|why| AppError::bad_request("", why))?;
    let registry = registry(&app, &body).await?;
    let read = validate::create_task(body, strict, &registry);
    if let Some(task) = before {
        let warnings = read.map(|read| read.warnings).unwrap_or_default();
        return Ok(created(&app, &caller, &Submitted { task, replayed: true }, warnings));
    }
    let read = read.map_err(AppError::Invalid)?;
    let mut problems = missing(&app, &caller, &caller.user_id, &read.request.request).await?;
    problems.extend(too_much(&read.request.request, body_bytes));
    let mut draft = draft(read.request, Owner::of(&caller), &caller);
    if dry_run {
        let mut explanation = explain(&app, draft, problems).await?;
        explanation.warnings = read.warnings;
        return Ok(Json(explanation).into_response());
    }
    draft.once = once;
    let submitted = submit(&app, draft, problems).await?;
    Ok(created(&app, &caller, &submitted, read.warnings))
}

/// What a request with this key made before, if its body was the same.
async fn done_before(app: &App, once: Option<&Once>) -> Result<Option<StoredTask>, AppError> {
    let Some(Once { id, body_sha256 }) = once else { return Ok(None) };
    let found = app.store.once(std::slice::from_ref(id), counts_since(app.driver.now())).await?;
    match found.into_iter().next() {
        Some((record, _)) if record.body_sha256 != *body_sha256 => Err(once::taken()),
        found => Ok(found.map(|(_, task)| task)),
    }
}

/// The task as it was when it was submitted, so that a repeated request gets the same.
fn created(app: &App, caller: &Caller, submitted: &Submitted, warnings: Vec<String>) -> Response {
    let task = &submitted.task;
    let mut view = task_view_at(app, task, caller, task.spec.created_at);
    view.warnings = warnings;
    let mut answer = (StatusCode::CREATED, Json(view)).into_response();
    if submitted.replayed {
        answer.headers_mut().insert(once::REPLAYED_HEADER, HeaderValue::from_static("true"));
    }
    answer
}

/// What would become of a task. Refused as it would be on submit.
async fn explain(app: &App, mut draft: NewTaskDraft, problems: Vec<Problem>) -> Result<Explanation, AppError> {
    let needs = dependencies::look_up(app, &draft.spec.depends_on).await?;
    let problems: Vec<Problem> = problems.into_iter().chain(needs.problems).collect();
    if !problems.is_empty() {
        return Err(AppError::Invalid(problems));
    }
    (draft.needs, draft.broken_by) = (needs.open, needs.broken_by);
    let reservation = draft.spec.demand.reservation;
    match app.driver.explain_new(draft).await {
        Err(CommandError::NotAllowed(refusal)) => Err(why_not_claimable(app, reservation, refusal).await?),
        answer => Ok(answer?),
    }
}

/// Submits what nothing is wrong with. What it depends on may end between the look-up and the turn of the core, which
/// then refuses it: by then how it ended is stored.
pub(super) async fn submit(app: &App, mut draft: NewTaskDraft, problems: Vec<Problem>) -> Result<Submitted, AppError> {
    let mut tries_left = limits::DEPENDENCY_LOOK_UPS_MAX;
    loop {
        let needs = dependencies::look_up(app, &draft.spec.depends_on).await?;
        let problems: Vec<Problem> = problems.iter().cloned().chain(needs.problems).collect();
        if !problems.is_empty() {
            return Err(AppError::Invalid(problems));
        }
        (draft.needs, draft.broken_by) = (needs.open, needs.broken_by);
        tries_left -= 1;
        match app.driver.submit(draft.clone()).await {
            Err(CommandError::NotAllowed(Refusal::DependencyEnded)) if tries_left > 0 => {}
            Err(CommandError::NotAllowed(refusal)) => {
                return Err(why_not_claimable(app, draft.spec.demand.reservation, refusal).await?);
            }
            answer => return Ok(answer?),
        }
    }
}

/// An array of so many tasks that the server would have to keep the request too often.
pub(super) fn too_much(request: &CreateTaskRequest, body_bytes: usize) -> Option<Problem> {
    let count = request.array.as_ref()?.count();
    let most = ARRAY_BYTES / count.max(1);
    (body_bytes > most).then(|| {
        let problem = format!(
            "{count} tasks with a request of {body_bytes} bytes are too much; for so many it may have {most} bytes: put \
             what is long into a file of the snapshot"
        );
        Problem::new("array", problem)
    })
}

/// What the request names and the server does not have.
pub(super) async fn missing(
    app: &App,
    caller: &Caller,
    owner: &str,
    request: &CreateTaskRequest,
) -> Result<Vec<Problem>, AppError> {
    let mut missing = app.secrets.problems(owner, &request.secrets).await?;
    if let Some(notify) = &request.notify {
        let no_mail =
            || "this server sends no mail; whoever runs it can name an SMTP server with --smtp-url".to_owned();
        let problem = app.options.mail.as_ref().map_or_else(|| Some(no_mail()), |mail| mail.problem(&notify.email));
        missing.extend(problem.map(|problem| Problem::new("notify.email", problem)));
    }
    if let Some(id) = &request.snapshot_id
        && snapshots::claim(app, id).await?.is_none()
    {
        let problem = format!("there is no snapshot {id}; store it with POST /v1/snapshots");
        missing.push(Problem::new("snapshot_id", problem));
    }
    if let Some(id) = request.resume_from {
        let problem = match super::find(app, &id.to_string()).await {
            Err(AppError::NotFound { .. }) => Some(format!("there is no task {id}")),
            Err(error) => return Err(error),
            Ok(from) if !caller.sees_content_of(&from.spec.user_id, app.options.visibility) => {
                Some(format!("task {id} belongs to {}, and checkpoints are private on this server", from.spec.user_id))
            }
            Ok(_) if claim_checkpoint(app, id).await? => None,
            Ok(from) => Some(match app.store.collected(id).await? {
                Some(deleted) => {
                    deleted.sentence("its checkpoints were", from.state.ended_at).trim_end_matches('.').to_owned()
                }
                None => format!("task {id} has left nothing in FETCHML_CHECKPOINT_DIR so far"),
            }),
        };
        missing.extend(problem.map(|problem| Problem::new("resume_from", problem)));
    }
    if let Some(id) = request.experiment_id {
        let problem = match app.store.experiment(id).await? {
            None => Some(format!("there is no experiment {id}; make it with POST /v1/experiments")),
            Some(experiment) if experiment.status == ExperimentStatus::Active => None,
            Some(experiment) => Some(format!(
                "experiment {id} is {} and takes no tasks; PATCH its status to active first",
                experiment.status
            )),
        };
        missing.extend(problem.map(|problem| Problem::new("experiment_id", problem)));
    }
    Ok(missing)
}

/// Whether a task has a checkpoint, which then is not collected for a while.
async fn claim_checkpoint(app: &App, task: TaskId) -> Result<bool, AppError> {
    match app.store.commit(vec![Write::CheckpointUse { task, at: app.driver.now() }]).await {
        Ok(_) => Ok(true),
        Err(StoreError::Data(_)) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Whose task it is.
pub(super) struct Owner {
    pub(super) user_id: String,
    /// The role in which it is submitted.
    pub(super) role: Role,
}

impl Owner {
    fn of(caller: &Caller) -> Self {
        Self { user_id: caller.user_id.clone(), role: caller.role }
    }
}

/// The task with the defaults filled in. Validation has bounded every number.
pub(super) fn draft(submission: Submission, owner: Owner, caller: &Caller) -> NewTaskDraft {
    let Submission { request, datasets } = submission;
    let count = |value: Option<i32>, default: i32| value.unwrap_or(default).max(0) as u32;
    NewTaskDraft {
        array: request.array,
        needs: Vec::new(),
        broken_by: None,
        priority: request.priority.unwrap_or(PRIORITY_DEFAULT) as u8,
        by: caller.actor(),
        once: None,
        spec: TaskSpec {
            id: TaskId(uuid::Uuid::nil()),
            created_at: Micros::default(),
            user_id: owner.user_id,
            job_name: request.job_name,
            demand: Demand {
                slot: SlotKind::Batch,
                cpu: count(request.cpu, CPU_DEFAULT),
                memory_gb: count(request.memory_gb, 0),
                gpu: count(request.gpu, 0),
                gpu_type: request.gpu_type,
                nodes: count(request.node_count, 1).max(1),
                image: request.image.is_some(),
                reservation: request.reservation_id,
            },
            entrypoint: request.entrypoint,
            args: request.args,
            snapshot_id: request.snapshot_id,
            image: request.image,
            env: request.env,
            secrets: request.secrets,
            metadata: request.metadata,
            role: owner.role,
            max_retries: count(request.max_retries, 0),
            time_limit_s: request.time_limit_s.map(|s| s as u32),
            network: request.network.unwrap_or_default(),
            on_lost: request.on_lost.unwrap_or_default(),
            lost_after_s: request.lost_after_s.map(|s| s as u32),
            stall_after_s: request.stall_after_s.map(|s| s as u32),
            datasets,
            resume_from: request.resume_from,
            source: request.source,
            experiment_id: request.experiment_id,
            rerun_of: None,
            depends_on: request.depends_on,
            array: None,
            notify: request.notify,
        },
    }
}
