//! Between records and rows: which column holds which field.

use crate::{
    model::{AuditRow, ChangeRow, OnceRecord, SecretHead, StoreError, StoredTask, UsageRow},
    value::{Row, Value, unreadable},
};
use fetchml_api::{
    Artifact, AttemptEpoch, AttemptRecord, Checkpoint, Dataset, EditExperimentRequest, Experiment, ExperimentId,
    ExperimentStatus, KeyId, KeyRecord, QuotaRecord, QuotaScope, RegisteredDataset, ReservationRecord,
    ReservationStatus, SecretInfo, SecretRecord, ShareRecord, SnapshotRecord, TaskSpec, TaskState, WorkerRecord,
    link::Outcome,
};
use std::sync::Arc;

/// Columns of the changing part of a task, in the order of `TASK_UPDATE` after the id.
pub(crate) fn task_state(state: &TaskState) -> Result<Vec<Value>, StoreError> {
    Ok(vec![
        state.status.as_str().into(),
        u32::from(state.priority).into(),
        state.queued_since.into(),
        state.waited_before.into(),
        state.not_before.into(),
        state.attempt.map_or(Value::Null, Value::word),
        state.epoch.map_or(Ok(Value::Null), |epoch| Value::unsigned(epoch.incarnation))?,
        state.epoch.map_or(Ok(Value::Null), |epoch| Value::unsigned(epoch.n))?,
        state.worker_id.map_or(Value::Null, Value::word),
        state.started_at.into(),
        state.ended_at.into(),
        state.retry_count.into(),
        state.requeue_count.into(),
        state.attempt_count.into(),
        Value::optional_text(state.cancelled_by.as_ref())?,
        state.cause.map(fetchml_api::FailureCause::as_str).into(),
        state.exit_code.map(i64::from).into(),
        state.signal.map(i64::from).into(),
        Value::optional_text(state.error.as_ref())?,
        state.hidden.into(),
        state.log_rule.as_ref().map_or(Ok(Value::Null), Value::json)?,
        if state.excluded_workers.is_empty() { Value::Null } else { Value::json(&state.excluded_workers)? },
        if state.nodes.is_empty() { Value::Null } else { Value::json(&state.nodes)? },
        state.blocked.into(),
    ])
}

/// A whole new task row.
pub(crate) fn task(spec: &TaskSpec, state: &TaskState) -> Result<Vec<Value>, StoreError> {
    let mut columns = Vec::with_capacity(34);
    columns.extend([
        Value::word(spec.id),
        Value::text(spec.user_id.clone())?,
        Value::text(spec.job_name.clone())?,
        spec.created_at.into(),
        Value::json(spec)?,
    ]);
    columns.extend(task_state(state)?);
    columns.push(Value::optional_text(spec.snapshot_id.as_ref())?);
    columns.push(spec.resume_from.map_or(Value::Null, Value::word));
    columns.push(spec.demand.nodes.into());
    columns.push(spec.array.map_or(Value::Null, |array| Value::word(array.id)));
    columns.push(spec.experiment_id.map_or(Value::Null, Value::word));
    Ok(columns)
}

pub(crate) fn read_task(mut row: Row) -> Result<StoredTask, StoreError> {
    let spec: Arc<TaskSpec> = Arc::new(row.json()?);
    let state = TaskState {
        id: spec.id,
        status: row.parse()?,
        priority: row.number()?,
        queued_since: row.time()?,
        waited_before: row.int()?,
        not_before: row.optional_time()?,
        attempt: row.optional_parse()?,
        epoch: match (row.optional_number()?, row.optional_number()?) {
            (Some(incarnation), Some(n)) => Some(AttemptEpoch { incarnation, n }),
            (None, None) => None,
            _ => return Err(unreadable("half an epoch")),
        },
        worker_id: row.optional_parse()?,
        started_at: row.optional_time()?,
        ended_at: row.optional_time()?,
        retry_count: row.number()?,
        requeue_count: row.number()?,
        attempt_count: row.number()?,
        cancelled_by: row.optional_text()?,
        cause: row.optional_word()?,
        exit_code: row.optional_number()?,
        signal: row.optional_number()?,
        error: row.optional_text()?,
        hidden: row.truth()?,
        log_rule: row.optional_json()?,
        excluded_workers: row.optional_json()?.unwrap_or_default(),
        nodes: row.optional_json()?.unwrap_or_default(),
        blocked: row.truth()?,
    };
    Ok(StoredTask { spec, state })
}

pub(crate) fn attempt(record: &AttemptRecord) -> Result<Vec<Value>, StoreError> {
    let outcome = match &record.outcome {
        // Artifacts have a table of their own.
        Some(outcome) => Value::json(&Outcome { artifacts: Vec::new(), ..outcome.clone() })?,
        None => Value::Null,
    };
    Ok(vec![
        Value::word(record.id),
        Value::word(record.task_id),
        record.number.into(),
        Value::unsigned(record.epoch.incarnation)?,
        Value::unsigned(record.epoch.n)?,
        Value::word(record.worker_id),
        Value::json(&record.gpus)?,
        record.phase.as_str().into(),
        record.created_at.into(),
        record.started_at.into(),
        record.ended_at.into(),
        outcome,
        if record.nodes.is_empty() { Value::Null } else { Value::json(&record.nodes)? },
        record.preempted_for.map_or(Value::Null, Value::word),
    ])
}

pub(crate) fn read_attempt(mut row: Row) -> Result<AttemptRecord, StoreError> {
    Ok(AttemptRecord {
        id: row.parse()?,
        task_id: row.parse()?,
        number: row.number()?,
        epoch: AttemptEpoch { incarnation: row.number()?, n: row.number()? },
        worker_id: row.parse()?,
        gpus: row.json()?,
        phase: row.word()?,
        created_at: row.time()?,
        started_at: row.optional_time()?,
        ended_at: row.optional_time()?,
        outcome: row.optional_json()?,
        nodes: row.optional_json()?.unwrap_or_default(),
        preempted_for: row.optional_parse()?,
    })
}

pub(crate) fn checkpoint(checkpoint: &Checkpoint) -> Result<Vec<Value>, StoreError> {
    Ok(vec![Value::word(checkpoint.attempt_id), checkpoint.saved_at.into(), Value::json(&checkpoint.files)?])
}

pub(crate) fn read_checkpoint(mut row: Row) -> Result<Checkpoint, StoreError> {
    Ok(Checkpoint { attempt_id: row.parse()?, saved_at: row.time()?, files: row.json()? })
}

pub(crate) fn read_artifact(mut row: Row) -> Result<Artifact, StoreError> {
    Ok(Artifact { path: row.text()?, size_bytes: row.number()?, sha256: row.text()? })
}

pub(crate) fn worker(record: &WorkerRecord) -> Result<Vec<Value>, StoreError> {
    Ok(vec![
        Value::word(record.id),
        Value::text(record.name.clone())?,
        Value::json(&record.capabilities)?,
        record.batch_slots.into(),
        record.service_slots.into(),
        record.draining.into(),
        record.evicting.into(),
        Value::optional_text(record.unfit.as_ref())?,
        record.connected_at.into(),
    ])
}

pub(crate) fn read_worker(mut row: Row) -> Result<WorkerRecord, StoreError> {
    Ok(WorkerRecord {
        id: row.parse()?,
        name: row.text()?,
        capabilities: row.json()?,
        batch_slots: row.number()?,
        service_slots: row.number()?,
        draining: row.truth()?,
        evicting: row.truth()?,
        unfit: row.optional_text()?,
        connected_at: row.time()?,
    })
}

pub(crate) fn share(record: &ShareRecord) -> Result<Vec<Value>, StoreError> {
    Ok(vec![
        Value::text(record.user_id.clone())?,
        Value::unsigned(record.cpu_ms)?,
        Value::unsigned(record.memory_gb_ms)?,
        Value::unsigned(record.gpu_ms)?,
        record.as_of.into(),
    ])
}

pub(crate) fn read_share(mut row: Row) -> Result<ShareRecord, StoreError> {
    Ok(ShareRecord {
        user_id: row.text()?,
        cpu_ms: row.number()?,
        memory_gb_ms: row.number()?,
        gpu_ms: row.number()?,
        as_of: row.time()?,
    })
}

pub(crate) fn usage(usage: UsageRow) -> Result<Vec<Value>, StoreError> {
    Ok(vec![
        Value::text(usage.user_id)?,
        Value::text(usage.experiment_id.unwrap_or_default())?,
        Value::unsigned(usage.cpu_ms)?,
        Value::unsigned(usage.gpu_ms)?,
        Value::unsigned(usage.idle_gpu_ms)?,
    ])
}

pub(crate) fn read_usage(mut row: Row) -> Result<UsageRow, StoreError> {
    Ok(UsageRow {
        user_id: row.text()?,
        experiment_id: Some(row.text()?).filter(|id| !id.is_empty()),
        cpu_ms: row.number()?,
        gpu_ms: row.number()?,
        idle_gpu_ms: row.number()?,
    })
}

pub(crate) fn quota(record: &QuotaRecord) -> Result<Vec<Value>, StoreError> {
    let (scope, name) = match &record.scope {
        QuotaScope::Role(role) => ("role", Value::word(role.as_str())),
        QuotaScope::User(user) => ("user", Value::text(user.clone())?),
    };
    Ok(vec![scope.into(), name, Value::json(&record.quota)?])
}

pub(crate) fn read_quota(mut row: Row) -> Result<QuotaRecord, StoreError> {
    let scope = match row.text()?.as_str() {
        "role" => QuotaScope::Role(row.parse()?),
        _ => QuotaScope::User(row.text()?),
    };
    Ok(QuotaRecord { scope, quota: row.json()? })
}

pub(crate) fn reservation(record: &ReservationRecord) -> Result<Vec<Value>, StoreError> {
    Ok(vec![
        Value::word(record.id),
        Value::text(record.user_id.clone())?,
        record.gpu_count.into(),
        Value::optional_text(record.gpu_type.as_ref())?,
        record.node_count.into(),
        record.expires_minutes.into(),
        record.status.as_str().into(),
        record.task_id.map_or(Value::Null, Value::word),
        record.gpus_held.into(),
        Value::json(&record.earmarks)?,
        record.created_at.into(),
        record.expires_at.into(),
        record.ended_at.into(),
    ])
}

pub(crate) fn read_reservation(mut row: Row) -> Result<ReservationRecord, StoreError> {
    Ok(ReservationRecord {
        id: row.parse()?,
        user_id: row.text()?,
        gpu_count: row.number()?,
        gpu_type: row.optional_text()?,
        node_count: row.number()?,
        expires_minutes: row.number()?,
        status: row.word::<ReservationStatus>()?,
        task_id: row.optional_parse()?,
        gpus_held: row.number()?,
        earmarks: row.json()?,
        created_at: row.time()?,
        expires_at: row.optional_time()?,
        ended_at: row.optional_time()?,
    })
}

pub(crate) fn key(record: &KeyRecord) -> Result<Vec<Value>, StoreError> {
    Ok(vec![
        Value::text(record.id.0.clone())?,
        Value::text(record.user_id.clone())?,
        record.role.as_str().into(),
        Value::optional_text(record.name.as_ref())?,
        Value::Blob(record.digest.clone()),
        record.created_at.into(),
        record.expires_at.into(),
        record.revoked_at.into(),
    ])
}

pub(crate) fn read_key(mut row: Row) -> Result<KeyRecord, StoreError> {
    Ok(KeyRecord {
        id: KeyId(row.text()?),
        user_id: row.text()?,
        role: row.parse()?,
        name: row.optional_text()?,
        digest: row.blob()?,
        created_at: row.time()?,
        expires_at: row.optional_time()?,
        revoked_at: row.optional_time()?,
    })
}

pub(crate) fn secret(record: SecretRecord) -> Result<Vec<Value>, StoreError> {
    Ok(vec![
        Value::word(record.id),
        Value::text(record.user_id)?,
        Value::text(record.name)?,
        record.created_at.into(),
        record.updated_at.into(),
        record.key_version.into(),
        Value::Blob(record.sealed),
    ])
}

pub(crate) fn read_secret_head(mut row: Row) -> Result<SecretHead, StoreError> {
    let info = SecretInfo { name: row.text()?, created_at: row.time()?, updated_at: row.time()? };
    Ok(SecretHead { info, sealed_bytes: row.number()? })
}

pub(crate) fn read_secret(mut row: Row) -> Result<SecretRecord, StoreError> {
    Ok(SecretRecord {
        id: row.parse()?,
        user_id: row.text()?,
        name: row.text()?,
        created_at: row.time()?,
        updated_at: row.time()?,
        key_version: row.number()?,
        sealed: row.blob()?,
    })
}

pub(crate) fn snapshot(record: &SnapshotRecord) -> Result<Vec<Value>, StoreError> {
    Ok(vec![
        Value::text(record.id.clone())?,
        Value::text(record.user_id.clone())?,
        Value::unsigned(record.file_count)?,
        Value::unsigned(record.size_bytes)?,
        record.created_at.into(),
        record.used_at.into(),
    ])
}

pub(crate) fn read_snapshot(mut row: Row) -> Result<SnapshotRecord, StoreError> {
    Ok(SnapshotRecord {
        id: row.text()?,
        user_id: row.text()?,
        file_count: row.number()?,
        size_bytes: row.number()?,
        created_at: row.time()?,
        used_at: row.time()?,
    })
}

pub(crate) fn once(record: &OnceRecord) -> Result<Vec<Value>, StoreError> {
    Ok(vec![
        Value::text(record.id.clone())?,
        Value::text(record.body_sha256.clone())?,
        Value::json(&record.state)?,
        record.created_at.into(),
    ])
}

pub(crate) fn read_once(mut row: Row) -> Result<OnceRecord, StoreError> {
    Ok(OnceRecord { id: row.text()?, body_sha256: row.text()?, state: row.json()?, created_at: row.time()? })
}

pub(crate) fn experiment(experiment: &Experiment) -> Result<Vec<Value>, StoreError> {
    Ok(vec![
        Value::word(experiment.id),
        Value::text(experiment.name.clone())?,
        Value::text(experiment.description.clone().unwrap_or_default())?,
        Value::text(experiment.user_id.clone())?,
        experiment.created_at.into(),
        experiment.status.as_str().into(),
    ])
}

pub(crate) fn experiment_edit(id: ExperimentId, edit: &EditExperimentRequest) -> Result<Vec<Value>, StoreError> {
    Ok(vec![
        Value::word(id),
        Value::optional_text(edit.name.as_ref())?,
        Value::optional_text(edit.description.as_ref())?,
        edit.status.map(ExperimentStatus::as_str).into(),
    ])
}

pub(crate) fn read_experiment(mut row: Row) -> Result<Experiment, StoreError> {
    Ok(Experiment {
        id: row.parse()?,
        name: row.text()?,
        description: Some(row.text()?).filter(|text| !text.is_empty()),
        commit_id: row.optional_text()?,
        user_id: row.text()?,
        created_at: row.time()?,
        status: row.parse()?,
        warnings: Vec::new(),
    })
}

pub(crate) fn dataset(dataset: &RegisteredDataset) -> Result<Vec<Value>, StoreError> {
    Ok(vec![
        Value::text(dataset.name.clone())?,
        Value::text(dataset.user_id.clone())?,
        dataset.created_at.into(),
        Value::json(&dataset.dataset())?,
    ])
}

pub(crate) fn read_dataset(mut row: Row) -> Result<RegisteredDataset, StoreError> {
    let (user_id, created_at) = (row.text()?, row.time()?);
    let Dataset { name, source, sha256, mount_path, unpack } = row.json()?;
    Ok(RegisteredDataset { name, source, sha256, mount_path, unpack, user_id, created_at })
}

pub(crate) fn read_audit(mut row: Row) -> Result<AuditRow, StoreError> {
    Ok(AuditRow { sequence: row.number()?, body: row.blob()?, prev_hash: row.hash()?, event_hash: row.hash()? })
}

pub(crate) fn read_change(mut row: Row) -> Result<ChangeRow, StoreError> {
    Ok(ChangeRow { sequence: row.number()?, kind: row.text()?, entity: row.text()?, body: row.text()? })
}
