//! `/v1/tasks/{taskId}/manifest`: how a run came about, put together from what was recorded of it.

use super::{attempts::Wanted, tasks::find};
use crate::{
    app::App,
    auth::{Caller, Reach},
    error::AppError,
    query::{PathText, Query},
};
use axum::{
    Extension,
    extract::State,
    http::{HeaderValue, header},
    response::{IntoResponse as _, Response},
};
use fetchml_api::{
    Artifact, AttemptRecord, LogFacts, ManifestAttempt, ManifestNode, ManifestOutcome, ManifestTask, Micros,
    Provenance, RUN_MANIFEST_SCHEMA, RunManifest, is_seed,
};
use fetchml_store::StoredTask;
use sha2::{Digest as _, Sha256};
use std::{collections::BTreeMap, sync::Arc};

/// The manifest of a run
///
/// Of one attempt: what was run, with what, where, and how it ended; `run_manifest.json`. Canonical JSON (RFC 8785):
/// equal manifests are equal bytes. The header `ETag` holds their SHA-256.
#[utoipa::path(get, path = "/v1/tasks/{taskId}/manifest",
    params(("taskId" = String, Path, description = "The task"),
        ("attempt" = Option<String>, Query, description = "Id or number of an attempt; default: the latest",
            pattern = r"^([1-9][0-9]{0,8}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})$", nullable = false)),
    responses((status = 200, description = "The manifest", body = RunManifest)))]
pub(super) async fn show_run_manifest(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Extension(reach): Extension<Reach>,
    PathText(task): PathText<String>,
    mut query: Query,
) -> Result<Response, AppError> {
    let wanted = Wanted::read(&mut query);
    query.finish()?;
    let task = find(&app, &task).await?;
    reach.check_reader(&caller, &task.spec.user_id)?;
    let attempts = app.store.attempts(task.spec.id).await?;
    let attempt = wanted.among(&attempts)?.ok_or_else(|| AppError::not_found("attempt of this task"))?;
    let artifacts = app.store.artifacts(task.spec.id, Some(attempt.id)).await?;
    let facts = Facts {
        task: &task,
        attempt,
        provenance: app.store.provenance(attempt.id).await?,
        artifacts: artifacts.map_or(Vec::new(), |(_, artifacts)| artifacts),
        files_deleted_at: app.store.collected(task.spec.id).await?.map(|deleted| deleted.at),
    };
    let mut manifest = facts.manifest();
    if !caller.sees_env_of(&task.spec.user_id) {
        for values in [&mut manifest.spec.env, &mut manifest.seeds] {
            for value in values.values_mut() {
                "***".clone_into(value);
            }
        }
    }
    let bytes = serde_json_canonicalizer::to_vec(&manifest).map_err(AppError::internal)?;
    let etag = format!("\"{}\"", hex::encode(Sha256::digest(&bytes)));
    let mut response = ([(header::CONTENT_TYPE, "application/json")], bytes).into_response();
    response.headers_mut().insert(header::ETAG, HeaderValue::from_str(&etag).expect("hex is a valid header"));
    Ok(response)
}

/// What a manifest is made of.
struct Facts<'a> {
    task: &'a StoredTask,
    attempt: &'a AttemptRecord,
    provenance: Vec<(u32, Provenance)>,
    artifacts: Vec<Artifact>,
    files_deleted_at: Option<Micros>,
}

impl Facts<'_> {
    fn manifest(self) -> RunManifest {
        let StoredTask { spec, state } = self.task;
        let attempt = self.attempt;
        let outcome = attempt.outcome.as_ref();
        let mut request = spec.request(state.priority);
        self.provenance.iter().for_each(|(_, found)| request.pin(found));
        RunManifest {
            schema: RUN_MANIFEST_SCHEMA,
            task: ManifestTask {
                id: spec.id,
                user_id: spec.user_id.clone(),
                created_at: spec.created_at,
                rerun_of: spec.rerun_of,
                retry_count: state.retry_count,
                requeue_count: state.requeue_count,
            },
            attempt: ManifestAttempt {
                id: attempt.id,
                number: attempt.number,
                epoch: attempt.epoch,
                phase: attempt.phase,
                created_at: attempt.created_at,
                started_at: attempt.started_at,
                ended_at: attempt.ended_at,
            },
            spec: request,
            seeds: seeds(&spec.env),
            outcome: outcome.map(|outcome| ManifestOutcome {
                success: outcome.cause.is_none(),
                cause: outcome.cause,
                exit_code: outcome.exit_code,
                signal: outcome.signal,
                error: outcome.error.clone(),
            }),
            log: outcome.map(|outcome| LogFacts {
                size_bytes: outcome.log_bytes.saturating_sub(outcome.log_from),
                sha256: outcome.log_sha256.clone(),
            }),
            nodes: nodes(attempt, self.provenance),
            artifacts: self.artifacts,
            files_deleted_at: self.files_deleted_at,
        }
    }
}

fn seeds(env: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    env.iter().filter(|(name, _)| is_seed(name)).map(|(name, value)| (name.clone(), value.clone())).collect()
}

fn nodes(attempt: &AttemptRecord, provenance: Vec<(u32, Provenance)>) -> Vec<ManifestNode> {
    let mut workers: Vec<_> = attempt.nodes.iter().map(|node| node.worker_id).collect();
    if workers.is_empty() {
        workers.push(attempt.worker_id);
    }
    let mut said: BTreeMap<u32, Provenance> = provenance.into_iter().collect();
    let node = |(node, worker_id)| ManifestNode { node, worker_id, provenance: said.remove(&node) };
    (0..).zip(workers).map(node).collect()
}
