//! `/v1/webhooks`.

use crate::{
    app::App,
    auth::{Caller, Decision, Reach},
    error::AppError,
    limits,
    outbox::Outbox,
    query::{PathText, Query},
    request::read_json_body,
};
use axum::{
    Extension, Json,
    extract::{Request, State},
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
};
use fetchml_api::{
    CreateWebhookRequest, CreatedWebhook, Problem, WebhookId, WebhookList,
    limits::{JSON_BODY_BYTES, WEBHOOK_URL_CHARS},
    validate::{Fields, Read},
};
use std::sync::Arc;

/// Webhooks, and how far each is
///
/// One's own. Admins see all, without the paths of the URLs of others, which are often as good as passwords.
#[utoipa::path(get, path = "/v1/webhooks", responses(
    (status = 200, description = "The webhooks, in the order in which they were made", body = WebhookList)))]
pub(super) async fn list_webhooks(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Extension(Reach(reach)): Extension<Reach>,
) -> Result<Json<WebhookList>, AppError> {
    let whose = (reach != Decision::Allow).then_some(caller.user_id.as_str());
    Ok(Json(WebhookList { webhooks: Outbox::list(&app, &caller, whose).await? }))
}

/// Makes a webhook
///
/// Each event of an own task that it names is sent to its URL, in order, signed as Standard Webhooks has it, at least
/// once, until it is answered with 2xx or given up after 20 attempts. The secret that signs is in this answer and cannot
/// be shown again.
#[utoipa::path(post, path = "/v1/webhooks", request_body = CreateWebhookRequest,
    params(("strict" = Option<bool>, Query, description = "Refuse unknown fields", nullable = false)), responses(
    (status = 201, description = "The webhook and its secret", body = CreatedWebhook),
    (status = 409, description = "There are too many", body = fetchml_api::ErrorResponse)))]
pub(super) async fn create_webhook(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    mut query: Query,
    request: Request,
) -> Result<Response, AppError> {
    let (_, body) = read_json_body(request, JSON_BODY_BYTES, limits::JSON_BODY_TIMEOUT).await?;
    let strict = query.flag("strict");
    query.finish()?;
    let body = fetchml_api::json::parse(&body).map_err(|why| AppError::bad_request("", why))?;
    let Read { request, warnings } = read(&app.outbox, body, strict).map_err(AppError::Invalid)?;
    let (webhook, secret) = Outbox::create(&app, &caller, request).await?;
    let made = (StatusCode::CREATED, Json(CreatedWebhook { secret, webhook, warnings }));
    Ok(([(header::CACHE_CONTROL, "no-store")], made).into_response())
}

/// Deletes a webhook
///
/// Nothing more is sent to it, also not what waits. For its owner, and for admins.
#[utoipa::path(delete, path = "/v1/webhooks/{webhookId}",
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
    Outbox::delete(&app, &caller, &known).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn read(outbox: &Outbox, body: serde_json::Value, strict: bool) -> Result<Read<CreateWebhookRequest>, Vec<Problem>> {
    let mut fields = Fields::new(body)?;
    let url = fields.required("url", |f, name| {
        let url = f.text(name, WEBHOOK_URL_CHARS)?;
        if let Some(problem) = outbox.url_problem(&url) {
            f.problem(name, problem);
        }
        Some(url)
    });
    let mut events = Vec::new();
    for (i, name) in fields.names("events", limits::WEBHOOK_EVENTS_MAX).into_iter().enumerate() {
        match name.parse() {
            Ok(event) => events.push(event),
            Err(problem) => fields.problem(format!("events[{i}]"), problem),
        }
    }
    fields.finish(CreateWebhookRequest { url, events }, strict, &[&["url", "events"]])
}
