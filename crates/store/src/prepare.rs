//! What a caller does before its commit waits for the writer: records become rows, so that the writer's one
//! thread has little left to do, and data that no database takes is refused before it disturbs others.

use crate::{
    limits,
    model::{ChangeDraft, StoreError, Write},
    retention::Collect,
    rows, sql,
    sql::Table,
    value::{Statement, Value},
};
use fetchml_api::{
    AttemptId, AttemptRecord, AuditDraft, Micros, Provenance, ReservationRecord, SecretRecord, TaskSpec, TaskState,
};
use sha2::{Digest as _, Sha256};

/// Names in `meta` that the store itself keeps.
pub(crate) const LOG_ID: &str = "log_id";
pub(crate) const LAST_TIME: &str = "last_time";
pub(crate) const PROBE: &str = "probe";

/// The writes of one commit, ready for the writer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Prepared {
    /// New task rows.
    pub(crate) tasks: Vec<Vec<Value>>,
    /// Submitter and status of each new task that counts.
    pub(crate) counted: Vec<(String, &'static str)>,
    /// Everything else, in order.
    pub(crate) statements: Vec<Statement>,
    /// Audit events to be numbered.
    pub(crate) audit: Vec<AuditDraft>,
    /// Change events to be numbered.
    pub(crate) changes: Vec<ChangeDraft>,
    /// Latest time in all of it.
    pub(crate) last_time: i64,
    /// Number of writes.
    pub(crate) writes: usize,
}

impl Prepared {
    pub(crate) fn new(writes: Vec<Write>) -> Result<Self, StoreError> {
        let mut prepared = Self { writes: writes.len(), ..Self::default() };
        for write in writes {
            prepared.add(write)?;
        }
        Ok(prepared)
    }

    fn add(&mut self, write: Write) -> Result<(), StoreError> {
        match write {
            Write::TaskInsert(spec, state) => self.task_insert(&spec, &state)?,
            Write::TaskUpdate(state) => self.task_update(&state)?,
            Write::AttemptPut(record) => self.attempt_put(&record)?,
            Write::WorkerPut(record) => {
                self.saw(record.connected_at.0);
                self.push(sql::WORKER_PUT, rows::worker(&record)?);
            }
            Write::SharePut(record) => {
                self.saw(record.as_of.0);
                self.push(sql::SHARE_PUT, rows::share(&record)?);
            }
            Write::UsageAdd(row) => self.push(sql::USAGE_ADD, rows::usage(row)?),
            Write::QuotaPut(record) => self.push(sql::QUOTA_PUT, rows::quota(&record)?),
            Write::ReservationPut(record) => self.reservation_put(&record)?,
            Write::KeyInsert(record) => {
                self.saw(record.created_at.0);
                self.push(sql::KEY_INSERT, rows::key(&record)?);
            }
            Write::KeyRevoke { id, at } => {
                self.saw(at.0);
                self.push(sql::KEY_REVOKE, vec![Value::text(id.0)?, at.into()]);
            }
            Write::SnapshotPut(record) => {
                self.saw(record.created_at.0);
                self.push(sql::SNAPSHOT_PUT, rows::snapshot(&record)?);
            }
            Write::CheckpointPut(checkpoint) => {
                self.saw(checkpoint.saved_at.0);
                self.push(sql::CHECKPOINT_PUT, rows::checkpoint(&checkpoint)?);
            }
            Write::TaskHide { id, at } => {
                self.saw(at.0);
                self.task_hide(id, at);
            }
            Write::SnapshotUse { id, at } => {
                self.saw(at.0);
                self.snapshot_use(id, at)?;
            }
            Write::CheckpointUse { task, at } => {
                self.saw(at.0);
                self.checkpoint_use(task, at);
            }
            Write::Collect(step) => {
                if let Collect::Begin { at, .. } = step {
                    self.saw(at.0);
                }
                self.collect(step)?;
            }
            Write::ProvenancePut { attempt, node, provenance } => self.provenance_put(attempt, node, &provenance)?,
            Write::DatasetInsert(dataset) => {
                self.saw(dataset.created_at.0);
                let insert = Statement::new(sql::DATASET_INSERT, rows::dataset(&dataset)?);
                self.statements.push(insert.must_change("the name of a data set is taken"));
            }
            Write::OncePut { record, counts_since } => {
                self.saw(record.created_at.0);
                self.push(sql::ONCE_PRUNE, vec![counts_since.into()]);
                self.push(sql::ONCE_PUT, rows::once(&record)?);
            }
            Write::ExperimentInsert(experiment) => {
                self.saw(experiment.created_at.0);
                let insert = Statement::new(sql::EXPERIMENT_INSERT, rows::experiment(&experiment)?);
                self.statements.push(insert.must_change("the id of an experiment is taken"));
            }
            Write::ExperimentEdit { id, edit, at } => {
                self.saw(at.0);
                let update = Statement::new(sql::EXPERIMENT_EDIT, rows::experiment_edit(id, &edit)?);
                self.statements.push(update.must_change("no such experiment"));
            }
            Write::Outbox(write) => self.outbox(write)?,
            Write::DatasetDelete { name, at } => {
                self.saw(at.0);
                let delete = Statement::new(sql::DATASET_DELETE, vec![Value::text(name)?]);
                self.statements.push(delete.must_change("no such data set"));
            }
            Write::SecretPut(record) => self.secret_put(record)?,
            Write::SecretDelete { user_id, name } => {
                let whose = vec![Value::text(user_id)?, Value::text(name)?];
                self.push(sql::SECRET_RETIRE, whose.clone());
                self.push(sql::SECRET_PRUNE, whose);
            }
            Write::SecretsBind { attempt, user_id, names } => {
                let user = Value::text(user_id)?;
                for name in names {
                    self.push(sql::SECRET_BIND, vec![Value::word(attempt), user.clone(), Value::text(name)?]);
                }
            }
            Write::SecretsRelease { attempt } => {
                self.push(sql::SECRET_RELEASE, vec![Value::word(attempt)]);
                self.push(sql::SECRET_UNBIND, vec![Value::word(attempt)]);
            }
            Write::MetaPut { name, value } => {
                if [LOG_ID, LAST_TIME, PROBE].contains(&name) {
                    return Err(StoreError::Data(format!("{name} is kept by the store itself")));
                }
                self.push(sql::META_PUT, vec![name.into(), Value::text(value)?]);
            }
            Write::Audit(draft) => {
                self.saw(draft.at.0);
                refuse_nul_in_audit(&draft)?;
                self.audit.push(draft);
            }
            Write::Change(draft) => {
                self.saw(draft.at.0);
                Value::text(draft.entity.clone())?;
                if draft.body.as_bytes().contains(&0) {
                    return Err(StoreError::Data("a text contains U+0000".into()));
                }
                self.changes.push(draft);
            }
        }
        Ok(())
    }

    pub(crate) fn push(&mut self, sql: &'static str, params: Vec<Value>) {
        self.statements.push(Statement::new(sql, params));
    }

    pub(crate) fn saw(&mut self, time: i64) {
        self.last_time = self.last_time.max(time);
    }

    fn saw_state(&mut self, state: &TaskState) {
        self.saw(state.queued_since.0);
        for time in [state.started_at, state.ended_at].into_iter().flatten() {
            self.saw(time.0);
        }
    }

    fn task_insert(&mut self, spec: &TaskSpec, state: &TaskState) -> Result<(), StoreError> {
        if spec.id != state.id {
            return Err(StoreError::Data(format!("the state of task {} is that of {}", spec.id, state.id)));
        }
        self.saw(spec.created_at.0);
        self.saw_state(state);
        self.tasks.push(rows::task(spec, state)?);
        if let (Some(experiment), Some(snapshot)) = (spec.experiment_id, &spec.snapshot_id) {
            self.push(sql::EXPERIMENT_COMMIT, vec![Value::word(experiment), Value::text(snapshot.clone())?]);
        }
        if !state.hidden {
            self.counted.push((spec.user_id.clone(), state.status.as_str()));
        }
        Ok(())
    }

    fn task_update(&mut self, state: &TaskState) -> Result<(), StoreError> {
        self.saw_state(state);
        let id = Value::word(state.id);
        let mut params = Vec::with_capacity(25);
        params.push(id.clone());
        params.extend(rows::task_state(state)?);
        self.push(sql::COUNTER_LEAVE, vec![id.clone()]);
        self.statements.push(Statement::new(sql::TASK_UPDATE, params).must_change("no such task"));
        self.push(sql::COUNTER_ENTER, vec![id]);
        Ok(())
    }

    /// Kept once for all attempts that it is the same for.
    fn provenance_put(&mut self, attempt: AttemptId, node: u32, provenance: &Provenance) -> Result<(), StoreError> {
        let body = Value::json(provenance)?;
        let Value::Text(text) = &body else { unreachable!("JSON is text") };
        let sha256 = Value::word(hex::encode(Sha256::digest(text.as_bytes())));
        self.push(sql::PROVENANCE_ADD, vec![sha256.clone(), body]);
        self.push(sql::ATTEMPT_PROVENANCE_PUT, vec![Value::word(attempt), node.into(), sha256]);
        Ok(())
    }

    /// The new value is there before the old one is retired, so that it can take over the time of the first.
    fn secret_put(&mut self, record: SecretRecord) -> Result<(), StoreError> {
        self.saw(record.updated_at.0);
        let id = Value::word(record.id);
        let whose = vec![Value::text(record.user_id.clone())?, Value::text(record.name.clone())?];
        self.push(sql::SECRET_INSERT, rows::secret(record)?);
        self.push(sql::SECRET_RETIRE, whose.clone());
        self.push(sql::SECRET_RAISE, vec![id]);
        self.push(sql::SECRET_PRUNE, whose);
        Ok(())
    }

    fn reservation_put(&mut self, record: &ReservationRecord) -> Result<(), StoreError> {
        self.saw(record.created_at.0);
        if let Some(at) = record.ended_at {
            self.saw(at.0);
            let before = Micros(at.0.saturating_sub(limits::RESERVATION_KEPT));
            self.push(sql::RESERVATION_PRUNE, vec![before.into()]);
        }
        self.push(sql::RESERVATION_PUT, rows::reservation(record)?);
        Ok(())
    }

    fn attempt_put(&mut self, record: &AttemptRecord) -> Result<(), StoreError> {
        for time in [Some(record.created_at), record.started_at, record.ended_at].into_iter().flatten() {
            self.saw(time.0);
        }
        self.push(sql::ATTEMPT_PUT, rows::attempt(record)?);
        let artifacts = record.outcome.iter().flat_map(|outcome| &outcome.artifacts);
        let mut artifact_rows = Vec::new();
        for artifact in artifacts {
            artifact_rows.push(vec![
                Value::word(record.id),
                Value::text(artifact.path.clone())?,
                Value::unsigned(artifact.size_bytes)?,
                Value::text(artifact.sha256.clone())?,
            ]);
        }
        // A record that was read back carries no artifacts: putting it again must not take them away.
        if !artifact_rows.is_empty() {
            // Nodes end one by one, and each brings its own.
            if record.nodes.is_empty() {
                self.push(sql::ARTIFACT_CLEAR, vec![Value::word(record.id)]);
            }
            self.statements.extend(sql::insert_statements(Table::Artifact, &artifact_rows));
        }
        Ok(())
    }
}

fn refuse_nul_in_audit(draft: &AuditDraft) -> Result<(), StoreError> {
    let optional = [draft.ip_address.as_ref(), draft.error.as_ref()];
    let texts = [&draft.user_id, &draft.resource, &draft.action].into_iter();
    let metadata = draft.metadata.iter().flat_map(|(name, value)| [name, value]);
    let mut all = texts.chain(optional.into_iter().flatten()).chain(metadata);
    if all.any(|text| text.as_bytes().contains(&0)) {
        return Err(StoreError::Data("a text of an audit event contains U+0000".into()));
    }
    Ok(())
}
