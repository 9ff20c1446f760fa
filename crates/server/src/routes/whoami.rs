//! `/v1/whoami`.

use crate::{app::App, auth::Caller, error::AppError};
use axum::{Extension, Json, extract::State};
use fetchml_api::Whoami;
use std::sync::Arc;

/// Who the key makes its sender
///
/// For programs that want to know whether their key works, until when, and what it may do.
#[utoipa::path(get, path = "/v1/whoami", responses((status = 200, description = "User, role and key", body = Whoami)))]
pub(super) async fn whoami(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<Whoami>, AppError> {
    let key = app.keys.show(&caller.key).ok_or_else(|| AppError::internal("a key was accepted that is not there"))?;
    Ok(Json(Whoami {
        user_id: key.user_id,
        role: key.role,
        key_id: key.id,
        name: key.name,
        created_at: key.created_at,
        expires_at: key.expires_at,
    }))
}
