//! `/v1/keys`.

use crate::{
    app::App,
    auth::{Caller, NewKey, Revoked, wall_clock},
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
    CreateKeyRequest, CreatedKey, KeyId, KeyList, Micros, Problem, Role,
    limits::{JSON_BODY_BYTES, NAME_CHARS},
    validate::{Fields, is_plain_line, is_user_id},
};
use std::sync::Arc;

const DAY_S: i64 = 24 * 3_600;
const EXPIRES_DAYS_MAX: i64 = 3_650;

/// All keys, without their secrets
#[utoipa::path(get, path = "/v1/keys", responses((status = 200, description = "The keys", body = KeyList)))]
pub(super) async fn list_keys(State(app): State<Arc<App>>) -> Json<KeyList> {
    Json(KeyList { keys: app.keys.list() })
}

/// Makes a key
///
/// Its secret is in this answer and cannot be shown again.
#[utoipa::path(post, path = "/v1/keys", request_body = CreateKeyRequest, responses(
    (status = 201, description = "The key", body = CreatedKey)
))]
pub(super) async fn create_key(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<(StatusCode, Json<CreatedKey>), AppError> {
    let (_, body) = read_json_body(request, JSON_BODY_BYTES, limits::JSON_BODY_TIMEOUT).await?;
    let body = fetchml_api::json::parse(&body).map_err(|why| AppError::bad_request("", why))?;
    let new = read(body).map_err(AppError::Invalid)?;
    let (key, info) = app.keys.create(new, &caller.actor()).await?;
    Ok((StatusCode::CREATED, Json(CreatedKey { key, info })))
}

fn read(body: serde_json::Value) -> Result<NewKey, Vec<Problem>> {
    let mut fields = Fields::new(body)?;
    let role = fields.required("role", |f, name| {
        let text = f.text(name, NAME_CHARS)?;
        match text.parse::<Role>() {
            Ok(role) => Some(Some(role)),
            Err(why) => {
                f.problem(name, why);
                None
            }
        }
    });
    let user_id = fields.required("user_id", |f, name| {
        let text = f.text(name, NAME_CHARS)?;
        if !is_user_id(&text) {
            f.problem(name, "must be 1 to 64 letters, digits, _ - . or @");
            return None;
        }
        Some(text)
    });
    let name = fields.text("name", NAME_CHARS);
    if name.as_deref().is_some_and(|name| !is_plain_line(name)) {
        fields.problem("name", "must be one line without characters that control text or its direction");
    }
    let expires_at = expiry(&mut fields, wall_clock());
    let read = fields.finish((role, user_id, name, expires_at), false, &[])?;
    let (role, user_id, name, expires_at) = read.request;
    // A missing or unknown role was noted above, so `finish` has failed already.
    let role = role.ok_or_else(|| vec![Problem::new("role", "is required")])?;
    Ok(NewKey { user_id, role, name, expires_at })
}

/// When it stops working: an instant to come, or days from `now`.
fn expiry(fields: &mut Fields, now: Micros) -> Option<Micros> {
    let latest = now.plus_seconds(EXPIRES_DAYS_MAX * DAY_S);
    let days = fields.int("expires_days", 1, EXPIRES_DAYS_MAX);
    let text = fields.text("expires_at", NAME_CHARS);
    if days.is_some() && text.is_some() {
        fields.problem("expires_at", "stands beside expires_days; give one of the two");
        return None;
    }
    let Some(text) = text else { return days.map(|days| now.plus_seconds(days * DAY_S)) };
    match text.parse::<Micros>() {
        Ok(at) if at > now && at <= latest => return Some(at),
        Ok(at) if at <= now => fields.problem("expires_at", "must be in the future"),
        Ok(_) => fields.problem("expires_at", format!("must be within {EXPIRES_DAYS_MAX} days")),
        Err(_) => fields.problem("expires_at", "must be an instant such as 2030-01-31T12:00:00Z"),
    }
    None
}

/// Stops a key
///
/// Its open streams and worker sessions end too. Repeating it changes nothing.
#[utoipa::path(delete, path = "/v1/keys/{keyId}", params(("keyId" = String, Path, description = "Public id")), responses(
    (status = 204, description = "It works no more"),
    (status = 409, description = "It is the last admin key", body = fetchml_api::ErrorResponse),
))]
pub(super) async fn revoke_key(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    PathText(id): PathText<String>,
) -> Result<StatusCode, AppError> {
    match app.keys.revoke(&KeyId(id), &caller.actor()).await? {
        Revoked::Now | Revoked::Before => Ok(StatusCode::NO_CONTENT),
        Revoked::Unknown => Err(AppError::not_found("key")),
        Revoked::LastAdmin => Err(AppError::Conflict {
            error: "This is the last admin key that works.".into(),
            hint: Some("Make another admin key first.".into()),
        }),
    }
}
