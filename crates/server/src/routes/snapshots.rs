//! `/v1/snapshots`.

use crate::{
    app::{App, file_access},
    auth::{Caller, wall_clock},
    error::AppError,
    limits,
    query::PathText,
    request::read_json_body,
};
use axum::{
    Extension, Json,
    extract::{Request, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use fetchml_api::{
    Problem, SnapshotRecord,
    limits::MANIFEST_BYTES,
    snapshot::{Manifest, SnapshotResponse, is_snapshot_id},
    time::SECOND,
};
use fetchml_store::{StoreError, Write};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde::de::DeserializeOwned;
use std::{collections::BTreeMap, sync::Arc};

/// Blobs looked up at the same time.
const LOOKUPS_AT_ONCE: usize = 32;

/// Stores a snapshot, or tells which blobs are missing
///
/// 200: `PUT` the missing blobs, then post the same manifest again. 201: the snapshot and all its
/// blobs are stored durably, and a task may name it.
#[utoipa::path(post, path = "/v1/snapshots", request_body = Manifest, responses(
    (status = 200, description = "Blobs are missing", body = SnapshotResponse),
    (status = 201, description = "Stored", body = SnapshotResponse)))]
pub(super) async fn create_snapshot(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<(StatusCode, Json<SnapshotResponse>), AppError> {
    let _turn = app.manifests.acquire().await.map_err(AppError::internal)?;
    let (_, body) = read_json_body(request, MANIFEST_BYTES, limits::MANIFEST_BODY_TIMEOUT).await?;
    let (manifest, canonical) =
        tokio::task::spawn_blocking(move || read(&body)).await.map_err(AppError::internal)??;
    let id = Manifest::id_of(&canonical);
    let mut answer = SnapshotResponse {
        snapshot_id: id.clone(),
        missing: Vec::new(),
        file_count: manifest.entries.len() as u64,
        size_bytes: manifest.size_bytes(),
        created_at: None,
    };
    if let Some(known) = claim(&app, &id).await? {
        answer.created_at = Some(known.created_at);
        return Ok((StatusCode::CREATED, Json(answer)));
    }
    answer.missing = missing(&app, &manifest).await?;
    if !answer.missing.is_empty() {
        return Ok((StatusCode::OK, Json(answer)));
    }
    let now = app.driver.now();
    app.blobs.put_bytes(hash_of(&id), canonical.into(), now).await?;
    let record = SnapshotRecord {
        id: id.clone(),
        user_id: caller.user_id.clone(),
        file_count: answer.file_count,
        size_bytes: answer.size_bytes,
        created_at: wall_clock(),
        used_at: now,
    };
    answer.created_at = Some(record.created_at);
    let audit = file_access(&caller, "snapshot_store", format!("snapshots/{id}"));
    app.store.commit(vec![Write::SnapshotPut(record), Write::Audit(audit)]).await?;
    Ok((StatusCode::CREATED, Json(answer)))
}

/// A snapshot that is there and, because somebody is told so, is not collected for a while.
pub(super) async fn claim(app: &App, id: &str) -> Result<Option<SnapshotRecord>, AppError> {
    let Some(known) = app.store.snapshot(id).await? else { return Ok(None) };
    let now = app.driver.now();
    if now.since(known.used_at) < limits::SNAPSHOT_CLAIM_LASTS_S * SECOND {
        return Ok(Some(known));
    }
    match app.store.commit(vec![Write::SnapshotUse { id: id.to_owned(), at: now }]).await {
        Ok(_) => Ok(Some(known)),
        // It was collected just now.
        Err(StoreError::Data(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Hash of a snapshot's manifest, which is a blob.
pub(crate) fn hash_of(id: &str) -> &str {
    id.strip_prefix("sha256:").unwrap_or(id)
}

/// The checked manifest and its canonical bytes.
fn read(body: &Bytes) -> Result<(Manifest, Vec<u8>), AppError> {
    let mut manifest: Manifest = read_listing(body, "manifest")?;
    let problems = manifest.problems();
    if !problems.is_empty() {
        return Err(AppError::Invalid(problems));
    }
    let canonical = manifest.canonicalize();
    Ok((manifest, canonical))
}

/// Reads a body that lists files.
pub(super) fn read_listing<T: DeserializeOwned>(body: &Bytes, what: &str) -> Result<T, AppError> {
    use serde_json::error::Category;
    serde_json::from_slice(body).map_err(|error| {
        let text = error.to_string();
        let is_text_fault = text.contains("surrogate") || text.contains("hex escape");
        match error.classify() {
            Category::Data => AppError::Invalid(vec![Problem::new("", format!("is no {what}: {text}"))]),
            _ if is_text_fault => {
                AppError::Invalid(vec![Problem::new("", format!("contains half a surrogate pair: {text}"))])
            }
            _ => AppError::bad_request("", text),
        }
    })
}

/// Hashes of the blobs that are not stored, each once. Those that are stored are claimed.
async fn missing(app: &App, manifest: &Manifest) -> Result<Vec<String>, AppError> {
    let mut wanted: BTreeMap<String, (usize, u64)> = BTreeMap::new();
    let mut problems = Vec::new();
    for (i, entry) in manifest.entries.iter().enumerate() {
        let Some(sha256) = entry.sha256.clone() else { continue };
        let (_, size) = *wanted.entry(sha256).or_insert((i, entry.size_bytes));
        if size != entry.size_bytes {
            problems.push(Problem::new(format!("entries[{i}]"), "has the hash of another entry but another size"));
        }
    }
    let (blobs, now) = (&app.blobs, app.driver.now());
    let found: Vec<(String, usize, u64, Option<u64>)> = stream::iter(wanted)
        .map(|(sha256, (i, size))| async move {
            let stored = blobs.claim(&sha256, now).await?;
            Ok::<_, object_store::Error>((sha256, i, size, stored))
        })
        .buffered(LOOKUPS_AT_ONCE)
        .try_collect()
        .await?;
    let mut missing = Vec::new();
    for (sha256, i, size, stored) in found {
        match stored {
            None => missing.push(sha256),
            Some(stored) if stored != size => {
                problems
                    .push(Problem::new(format!("entries[{i}]"), format!("says {size} bytes; its blob has {stored}")));
            }
            Some(_) => {}
        }
    }
    if problems.is_empty() { Ok(missing) } else { Err(AppError::Invalid(problems)) }
}

/// The canonical manifest of a snapshot
#[utoipa::path(get, path = "/v1/snapshots/{snapshotId}",
    params(("snapshotId" = String, Path, description = "`sha256:<hex>`")),
    responses((status = 200, description = "The manifest", body = Manifest)))]
pub(super) async fn read_snapshot(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    PathText(id): PathText<String>,
) -> Result<Response, AppError> {
    let unknown = || AppError::not_found("snapshot");
    if !is_snapshot_id(&id) || app.store.snapshot(&id).await?.is_none() {
        return Err(unknown());
    }
    let canonical = app.blobs.read_whole(hash_of(&id)).await?;
    app.record_file_access(&caller, "snapshot_read", format!("snapshots/{id}")).await?;
    Ok(([(header::CONTENT_TYPE, "application/json")], canonical).into_response())
}
