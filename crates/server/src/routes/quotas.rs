//! `/v1/admin/quotas`: how much users may have at once.

use crate::{
    app::App, auth::Caller, driver::ChangeAnswer, error::AppError, limits, query::PathText, request::read_json_body,
};
use axum::{
    Extension, Json,
    extract::{Request, State},
    http::StatusCode,
};
use fetchml_api::{
    Problem, Quota, QuotaInfo, QuotaList, QuotaRecord, QuotaScope, QuotaSource, Role,
    limits::{JSON_BODY_BYTES, PRIORITY, QUOTA},
    validate::{Fields, is_user_id},
};
use std::sync::Arc;

/// The fields of a quota.
const FIELDS: &[&str] = &["running", "queued", "gpus", "max_priority"];

/// All quotas
///
/// Those set by the API and those in the server's configuration, which the former go before.
#[utoipa::path(get, path = "/v1/admin/quotas", responses((status = 200, description = "The quotas", body = QuotaList)))]
pub(super) async fn list_quotas(State(app): State<Arc<App>>) -> Result<Json<QuotaList>, AppError> {
    let set = app.store.quotas().await?.into_iter().filter(|record| record.quota != Quota::default());
    let set = set.map(|QuotaRecord { scope, quota }| (scope, QuotaSource::Api, quota));
    let configured = app.options.quotas.iter();
    let configured = configured.map(|(scope, quota)| (scope.clone(), QuotaSource::Configuration, *quota));
    let mut all: Vec<_> = set.chain(configured).collect();
    all.sort_by(|(a, a_source, _), (b, b_source, _)| (a, a_source).cmp(&(b, b_source)));
    Ok(Json(QuotaList { quotas: all.into_iter().map(|(scope, source, quota)| info(scope, source, quota)).collect() }))
}

/// Sets how much a user, or everybody in a role, may have at once
///
/// In place of what was set before: what the body does not name is not limited here, and the next quota that names it
/// counts. Tasks over a quota wait; only a task that alone exceeds it, or one more than may wait, is refused. 0 means
/// none at all. What runs already is left alone.
#[utoipa::path(put, path = "/v1/admin/quotas/{scope}/{name}", request_body = Quota,
    params(("scope" = String, Path, description = "`roles` or `users`"),
        ("name" = String, Path, description = "Name of the role or the user")),
    responses((status = 200, description = "The quota", body = QuotaInfo)))]
pub(super) async fn put_quota(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    PathText((scope, name)): PathText<(String, String)>,
    request: Request,
) -> Result<Json<QuotaInfo>, AppError> {
    let scope = read_scope(&scope, &name)?;
    let (_, body) = read_json_body(request, JSON_BODY_BYTES, limits::JSON_BODY_TIMEOUT).await?;
    let body = fetchml_api::json::parse(&body).map_err(|why| AppError::bad_request("", why))?;
    let quota = read_quota(body).map_err(AppError::Invalid)?;
    set(&app, &caller, &scope, quota).await?;
    Ok(Json(info(scope, QuotaSource::Api, quota)))
}

/// Takes back a quota that was set
///
/// What is configured counts again, or the quota of the user's role.
#[utoipa::path(delete, path = "/v1/admin/quotas/{scope}/{name}",
    params(("scope" = String, Path, description = "`roles` or `users`"),
        ("name" = String, Path, description = "Name of the role or the user")),
    responses((status = 204, description = "It is no more")))]
pub(super) async fn delete_quota(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    PathText((scope, name)): PathText<(String, String)>,
) -> Result<StatusCode, AppError> {
    let scope = read_scope(&scope, &name)?;
    match set(&app, &caller, &scope, Quota::default()).await? {
        ChangeAnswer::Unchanged => Err(AppError::not_found("quota")),
        _ => Ok(StatusCode::NO_CONTENT),
    }
}

async fn set(app: &App, caller: &Caller, scope: &QuotaScope, quota: Quota) -> Result<ChangeAnswer, AppError> {
    match app.driver.quota_set(scope.clone(), quota, caller.actor()).await? {
        answer @ (ChangeAnswer::Done | ChangeAnswer::Unchanged) => Ok(answer),
        answer => Err(AppError::internal(format!("a quota was refused: {answer:?}"))),
    }
}

fn info(scope: QuotaScope, source: QuotaSource, quota: Quota) -> QuotaInfo {
    let (role, user_id) = match scope {
        QuotaScope::Role(role) => (Some(role), None),
        QuotaScope::User(user) => (None, Some(user)),
    };
    QuotaInfo { role, user_id, source, quota }
}

/// Whom the path names. A user need not be known yet.
fn read_scope(scope: &str, name: &str) -> Result<QuotaScope, AppError> {
    match scope {
        "roles" => match name.parse() {
            Ok(role) if Role::submits(role) => Ok(QuotaScope::Role(role)),
            Ok(_) | Err(_) => Err(AppError::not_found("role that submits tasks")),
        },
        "users" if is_user_id(name) => Ok(QuotaScope::User(name.to_owned())),
        "users" => Err(AppError::not_found("user")),
        _ => Err(AppError::not_found("path")),
    }
}

fn read_quota(body: serde_json::Value) -> Result<Quota, Vec<Problem>> {
    let mut fields = Fields::new(body)?;
    let mut count = |name| fields.int(name, *QUOTA.start(), *QUOTA.end()).and_then(|n| u32::try_from(n).ok());
    let (running, queued, gpus) = (count("running"), count("queued"), count("gpus"));
    let max_priority = fields.int("max_priority", *PRIORITY.start(), *PRIORITY.end());
    let max_priority = max_priority.and_then(|n| u8::try_from(n).ok());
    let quota = fields.finish(Quota { running, queued, gpus, max_priority }, true, &[FIELDS])?.request;
    if quota == Quota::default() {
        return Err(vec![Problem::new("", format!("must name at least one of {}", FIELDS.join(", ")))]);
    }
    Ok(quota)
}
