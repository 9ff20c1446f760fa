//! `/v1/scheduler/reservations`.

use crate::{
    app::App,
    auth::{Caller, Reach},
    driver::{ChangeAnswer, ClaimRefusal, NewReservation, Refusal},
    error::AppError,
    limits,
    query::{PathText, Query},
    request::read_json_body,
    routes::tasks,
};
use axum::{
    Extension, Json,
    extract::{Request, State},
    http::StatusCode,
};
use fetchml_api::{
    CreateReservationRequest, EXPIRES_MINUTES_DEFAULT, Problem, Reservation, ReservationId, limits::JSON_BODY_BYTES,
    read_reservation,
};
use std::sync::Arc;

/// Reservations that are active or claimed
///
/// In the order in which they were made.
#[utoipa::path(get, path = "/v1/scheduler/reservations", tag = "Scheduler", responses(
    (status = 200, description = "The reservations", body = Vec<Reservation>)
))]
pub(in crate::routes) async fn list_reservations(State(app): State<Arc<App>>) -> Json<Vec<Reservation>> {
    Json(app.driver.reservations())
}

/// Sets GPUs aside for a task to come
///
/// Those that are free are held at once, others as they become free, for at most a day. `expires_minutes` runs from
/// when all are held. A task claims it with `reservation_id` and keeps it until it ends. 409 when no workers have as
/// many GPUs that are not reserved.
#[utoipa::path(post, path = "/v1/scheduler/reservations", tag = "Scheduler", request_body = CreateReservationRequest,
    params(("strict" = Option<bool>, Query, description = "Refuse unknown fields", nullable = false)),
    responses((status = 201, description = "The reservation", body = Reservation),
        (status = 409, description = "Too few GPUs are not reserved", body = fetchml_api::ErrorResponse)))]
pub(in crate::routes) async fn create_reservation(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    mut query: Query,
    request: Request,
) -> Result<(StatusCode, Json<Reservation>), AppError> {
    let (_, body) = read_json_body(request, JSON_BODY_BYTES, limits::JSON_BODY_TIMEOUT).await?;
    let strict = query.flag("strict");
    query.finish()?;
    let body = fetchml_api::json::parse(&body).map_err(|why| AppError::bad_request("", why))?;
    let read = read_reservation(body, strict).map_err(AppError::Invalid)?;
    let mut made = app.driver.reserve(new(read.request, &caller), caller.actor()).await?;
    made.warnings = read.warnings;
    Ok((StatusCode::CREATED, Json(made)))
}

/// With the defaults filled in. Validation has bounded every number.
fn new(request: CreateReservationRequest, caller: &Caller) -> NewReservation {
    let count = |value: i32| value.max(1).unsigned_abs();
    NewReservation {
        id: ReservationId(uuid::Uuid::nil()),
        user_id: caller.user_id.clone(),
        role: caller.role,
        gpu_count: count(request.gpu_count),
        gpu_type: request.gpu_type,
        node_count: count(request.node_count.unwrap_or(1)),
        expires_minutes: count(request.expires_minutes.unwrap_or(EXPIRES_MINUTES_DEFAULT)),
    }
}

/// Gives a reservation up
///
/// Its GPUs are everybody's at once. One that a task has claimed ends with that task.
#[utoipa::path(delete, path = "/v1/scheduler/reservations/{reservationId}", tag = "Scheduler",
    params(("reservationId" = String, Path, description = "The reservation")),
    responses((status = 204, description = "It is no more"),
        (status = 409, description = "A task has claimed it", body = fetchml_api::ErrorResponse)))]
pub(in crate::routes) async fn release_reservation(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Extension(reach): Extension<Reach>,
    PathText(id): PathText<String>,
) -> Result<StatusCode, AppError> {
    let unknown = || AppError::not_found("reservation");
    let id: ReservationId = id.parse().map_err(|_| unknown())?;
    let known = app.driver.reservations().into_iter().find(|reservation| reservation.id == id);
    reach.check_owner(&caller, &known.ok_or_else(unknown)?.user_id)?;
    match app.driver.release(id, caller.actor()).await? {
        ChangeAnswer::Done | ChangeAnswer::Unchanged => Ok(StatusCode::NO_CONTENT),
        ChangeAnswer::NotActive => Err(unknown()),
        ChangeAnswer::Refused(refusal) => Err(tasks::refused(refusal)),
    }
}

/// Why a task may not have a reservation.
pub(in crate::routes) fn not_claimable(refusal: ClaimRefusal) -> AppError {
    match refusal {
        ClaimRefusal::Unknown => {
            AppError::Invalid(vec![Problem::new("reservation_id", "there is no such reservation")])
        }
        ClaimRefusal::Foreign => AppError::forbidden(
            "The reservation is another user's.",
            "Name one of your own (fetchml reservations), or leave it out.",
        ),
        ClaimRefusal::Claimed { task } => AppError::Conflict {
            error: format!("Task {task} has the reservation, until it ends."),
            hint: Some("Make another reservation, or cancel that task.".into()),
        },
        ClaimRefusal::Several => {
            AppError::Invalid(vec![Problem::new("reservation_id", "is for one task; leave it out, or array")])
        }
        ClaimRefusal::DoesNotFit { gpus, nodes, other_type } => {
            let gpus = gpus.map(|gpus| Problem::new("gpu", format!("must be 1 to {gpus}, as reserved on each node")));
            let nodes = nodes.map(|nodes| Problem::new("node_count", format!("must be at most {nodes}, as reserved")));
            let other =
                Problem::new("gpu_type", "is not what was reserved; leave it out, or reserve GPUs of that type");
            let problems = gpus.into_iter().chain(nodes).chain(other_type.then_some(other));
            AppError::Invalid(problems.collect())
        }
    }
}

/// As [`not_claimable`], of one that a new task names: one that has expired is told from one that never was.
pub(in crate::routes) async fn why_not_claimable(
    app: &App,
    id: Option<ReservationId>,
    refusal: Refusal,
) -> Result<AppError, AppError> {
    if let (Refusal::Claim(ClaimRefusal::Unknown), Some(id)) = (refusal, id)
        && let Some(ended_at) = app.store.reservation(id).await?.and_then(|record| record.ended_at)
    {
        return Ok(AppError::Conflict {
            error: format!("The reservation expired at {ended_at}."),
            hint: Some("Make another one, or leave reservation_id out.".into()),
        });
    }
    Ok(tasks::refused(refusal))
}
