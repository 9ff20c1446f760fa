//! `/v1/webhooks`.

use crate::{
    app::App,
    auth::{Caller, Reach},
    error::AppError,
    limits,
    query::PathText,
    request::read_json_body,
    webhooks::Webhooks,
};
use axum::{
    Extension, Json,
    extract::{Request, State},
    http::StatusCode,
};
use fetchml_api::{
    CreateWebhookRequest, CreatedWebhook, Problem, WebhookId, WebhookList,
    limits::{JSON_BODY_BYTES, WEBHOOK_URL_CHARS},
    validate::Fields,
};
use std::sync::Arc;

/// Own webhooks
#[utoipa::path(get, path = "/v1/webhooks", tag = "Webhooks",
    responses((status = 200, description = "The webhooks, and how far each is", body = WebhookList)))]
pub(super) async fn list_webhooks(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<WebhookList>, AppError> {
    Ok(Json(WebhookList { webhooks: app.store.webhooks(Some(&caller.user_id)).await? }))
}

/// Makes a webhook
///
/// Each event of an own task that it names is sent to its URL, in order, signed, at least once, and again and again
/// until it is answered with 2xx. The secret that signs is in this answer and cannot be shown again.
#[utoipa::path(post, path = "/v1/webhooks", tag = "Webhooks", request_body = CreateWebhookRequest, responses(
    (status = 201, description = "The webhook and its secret", body = CreatedWebhook),
    (status = 409, description = "There are too many", body = fetchml_api::ErrorResponse)))]
pub(super) async fn create_webhook(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<(StatusCode, Json<CreatedWebhook>), AppError> {
    let (_, body) = read_json_body(request, JSON_BODY_BYTES, limits::JSON_BODY_TIMEOUT).await?;
    let body = fetchml_api::json::parse(&body).map_err(|why| AppError::bad_request("", why))?;
    let wanted = read(&app.webhooks, body).map_err(AppError::Invalid)?;
    Ok((StatusCode::CREATED, Json(Webhooks::create(&app, &caller, wanted).await?)))
}

/// Deletes a webhook
///
/// Nothing more is sent to it. For its owner, and for admins.
#[utoipa::path(delete, path = "/v1/webhooks/{webhookId}", tag = "Webhooks",
    params(("webhookId" = String, Path, description = "The webhook")),
    responses((status = 204, description = "It is deleted")))]
pub(super) async fn delete_webhook(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Extension(reach): Extension<Reach>,
    PathText(id): PathText<String>,
) -> Result<StatusCode, AppError> {
    let unknown = || AppError::not_found("webhook");
    let id: WebhookId = id.parse().map_err(|_| unknown())?;
    let known = app.store.webhook(id).await?.ok_or_else(unknown)?;
    reach.check_owner(&caller, &known.user_id)?;
    app.webhooks.delete(&app, &caller, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn read(webhooks: &Webhooks, body: serde_json::Value) -> Result<CreateWebhookRequest, Vec<Problem>> {
    let mut fields = Fields::new(body)?;
    let url = fields.required("url", |f, name| f.text(name, WEBHOOK_URL_CHARS));
    if !url.is_empty()
        && let Some(problem) = webhooks.url_problem(&url)
    {
        fields.problem("url", problem);
    }
    let mut events = Vec::new();
    for (i, name) in fields.names("events", limits::WEBHOOK_EVENTS_MAX).into_iter().enumerate() {
        match name.parse() {
            Ok(event) => events.push(event),
            Err(problem) => fields.problem(format!("events[{i}]"), problem),
        }
    }
    let read = fields.finish(CreateWebhookRequest { url, events }, true, &[&["url", "events"]])?;
    Ok(read.request)
}
