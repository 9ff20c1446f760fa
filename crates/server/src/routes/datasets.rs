//! `/v1/datasets`: names that tasks can give in place of a source.

use crate::{
    app::{App, file_access},
    auth::{Caller, Decision, Operation, decide, wall_clock},
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
    CreateDatasetRequest, Dataset, DatasetList, RegisteredDataset,
    dataset::{Registry, create_dataset as read, is_name},
    limits::{DATASETS_MAX, JSON_BODY_BYTES},
};
use fetchml_store::{StoreError, Write};
use std::sync::Arc;

/// All registered data sets
#[utoipa::path(get, path = "/v1/datasets",
    responses((status = 200, description = "In order of their names", body = DatasetList)))]
pub(super) async fn list_datasets(State(app): State<Arc<App>>) -> Result<Json<DatasetList>, AppError> {
    Ok(Json(DatasetList { datasets: app.store.datasets().await? }))
}

/// A registered data set
#[utoipa::path(get, path = "/v1/datasets/{name}", params(("name" = String, Path, description = "Its name")),
    responses((status = 200, description = "The data set", body = RegisteredDataset)))]
pub(super) async fn show_dataset(
    State(app): State<Arc<App>>,
    PathText(name): PathText<String>,
) -> Result<Json<RegisteredDataset>, AppError> {
    find(&app, &name).await.map(Json)
}

/// Registers a data set under a name
///
/// Tasks then name it in `datasets`. They take it over as it is at their submit, so that a rerun gets the same. A name
/// is never given another meaning: delete it first.
#[utoipa::path(post, path = "/v1/datasets", request_body = CreateDatasetRequest, responses(
    (status = 200, description = "It is registered already, exactly so", body = RegisteredDataset),
    (status = 201, description = "Registered", body = RegisteredDataset),
    (status = 409, description = "The name is taken, or there are too many", body = fetchml_api::ErrorResponse)))]
pub(super) async fn create_dataset(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<(StatusCode, Json<RegisteredDataset>), AppError> {
    let (_, body) = read_json_body(request, JSON_BODY_BYTES, limits::JSON_BODY_TIMEOUT).await?;
    let body = fetchml_api::json::parse(&body).map_err(|why| AppError::bad_request("", why))?;
    let wanted = read(body).map_err(AppError::Invalid)?;
    if let Some(known) = app.store.dataset(&wanted.name).await? {
        return as_known(known, &wanted);
    }
    if app.store.dataset_count().await? >= DATASETS_MAX as i64 {
        return Err(AppError::Conflict {
            error: format!("{DATASETS_MAX} data sets are registered, the most there can be."),
            hint: Some("Delete some that nobody needs, or name the source in dataset_specs.".into()),
        });
    }
    let Dataset { name, source, sha256, mount_path, unpack } = wanted.clone();
    let (user_id, created_at) = (caller.user_id.clone(), wall_clock());
    let new = RegisteredDataset { name, source, sha256, mount_path, unpack, user_id, created_at };
    let audit = file_access(&caller, "dataset_add", format!("datasets/{}", new.name));
    match app.store.commit(vec![Write::DatasetInsert(new.clone()), Write::Audit(audit)]).await {
        Ok(_) => Ok((StatusCode::CREATED, Json(new))),
        // Somebody else was faster.
        Err(StoreError::Data(problem)) => match app.store.dataset(&new.name).await? {
            Some(known) => as_known(known, &wanted),
            None => Err(StoreError::Data(problem).into()),
        },
        Err(error) => Err(error.into()),
    }
}

/// The answer to a request for a name that is taken.
fn as_known(known: RegisteredDataset, wanted: &Dataset) -> Result<(StatusCode, Json<RegisteredDataset>), AppError> {
    if known.dataset() == *wanted {
        return Ok((StatusCode::OK, Json(known)));
    }
    Err(AppError::Conflict {
        error: format!("The name {} is taken by a data set of {} that is not the same.", known.name, known.user_id),
        hint: Some("Choose another name, such as one with a version, or delete that one first.".into()),
    })
}

/// Forgets a name
///
/// Tasks that were submitted with it keep what they have. For its owner, and for admins.
#[utoipa::path(delete, path = "/v1/datasets/{name}", params(("name" = String, Path, description = "Its name")),
    responses((status = 204, description = "It is forgotten")))]
pub(super) async fn delete_dataset(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    PathText(name): PathText<String>,
) -> Result<StatusCode, AppError> {
    let known = find(&app, &name).await?;
    if decide(Operation::DatasetDelete, caller.role, app.options.visibility) != Decision::Allow
        && known.user_id != caller.user_id
    {
        return Err(AppError::forbidden(
            format!("The data set {name} belongs to {}.", known.user_id),
            format!("Ask {} or an admin.", known.user_id),
        ));
    }
    let audit = file_access(&caller, "dataset_delete", format!("datasets/{name}"));
    let delete = Write::DatasetDelete { name: name.clone(), at: audit.at };
    match app.store.commit(vec![delete, Write::Audit(audit)]).await {
        Ok(_) => Ok(StatusCode::NO_CONTENT),
        // Somebody else was faster.
        Err(StoreError::Data(_)) if app.store.dataset(&name).await?.is_none() => Err(unknown()),
        Err(error) => Err(error.into()),
    }
}

async fn find(app: &App, name: &str) -> Result<RegisteredDataset, AppError> {
    if !is_name(name) {
        return Err(unknown());
    }
    app.store.dataset(name).await?.ok_or_else(unknown)
}

fn unknown() -> AppError {
    AppError::not_found("data set")
}

/// What of the registry a new task needs.
pub(super) async fn registry(app: &App, body: &serde_json::Value) -> Result<Registry, AppError> {
    let mut registry = Registry::default();
    let wanted = Registry::wanted(body);
    for name in &wanted {
        if let Some(known) = app.store.dataset(name).await? {
            registry.found.insert(name.clone(), known.dataset());
        }
    }
    if registry.found.len() < wanted.len() {
        registry.names = app.store.datasets().await?.into_iter().map(|known| known.name).collect();
    }
    Ok(registry)
}
