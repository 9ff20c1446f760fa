//! Reads: each over a connection that is not the writer's.

use crate::{
    limits::PAGE_ROWS,
    model::{
        AuditRow, ChangeRow, OnceRecord, QueueCounts, SecretHead, StoreError, StoredArtifacts, StoredTask, TaskFilter,
        UsageRow,
    },
    postgres::PostgresReads,
    rows, sql,
    sqlite::SqliteReads,
    store::Store,
    value::{Row, Value},
};
use fetchml_api::{
    AttemptId, AttemptRecord, Checkpoint, Experiment, ExperimentId, ExperimentStatus, KeyRecord, Micros, Provenance,
    QuotaRecord, RegisteredDataset, ReservationId, ReservationRecord, SecretRecord, SnapshotRecord, TaskId, TaskStatus,
};
use std::{fmt::Write as _, sync::Arc};

/// The connections for reads.
pub(crate) enum Reads {
    Sqlite(Arc<SqliteReads>),
    Postgres(Box<PostgresReads>),
}

impl Reads {
    /// Reads a few rows by key.
    pub(crate) async fn point(&self, sql: &'static str, params: &[Value]) -> Result<Vec<Row>, StoreError> {
        match self {
            Self::Sqlite(reads) => reads.point(sql, params).await,
            Self::Postgres(reads) => reads.query(sql, params).await,
        }
    }

    /// Reads many rows, or looks through many.
    pub(crate) async fn list(&self, sql: impl Into<String>, params: Vec<Value>) -> Result<Vec<Row>, StoreError> {
        match self {
            Self::Sqlite(reads) => reads.list(sql.into(), params).await,
            Self::Postgres(reads) => reads.query(&sql.into(), &params).await,
        }
    }

    pub(crate) async fn close(&self) {
        match self {
            Self::Sqlite(reads) => reads.close(),
            Self::Postgres(reads) => reads.close().await,
        }
    }
}

/// Reads that answer requests.
impl Store {
    /// A task; none when there is none or it is hidden.
    pub async fn task(&self, id: TaskId) -> Result<Option<StoredTask>, StoreError> {
        one(self.reads().point(sql::TASK_GET, &[Value::word(id)]).await?, rows::read_task)
    }

    /// A page of tasks, newest id first, hidden ones left out; and how many match the filter regardless of
    /// `before`, `offset` and `limit`.
    pub async fn tasks(&self, filter: &TaskFilter) -> Result<(Vec<StoredTask>, i64), StoreError> {
        let total = self.total(filter).await?;
        if filter.limit <= 0 {
            return Ok((Vec::new(), total));
        }
        let mut query = Query::new(sql::TASK_COLUMNS, " WHERE hidden = 0");
        query.filter(filter, self.reads());
        if let Some(before) = filter.before {
            query.and("id < ", Value::word(before));
        }
        // The same order: whoever is created later has a greater id.
        let order =
            if filter.by_creation() { " ORDER BY created_at DESC, id DESC LIMIT " } else { " ORDER BY id DESC LIMIT " };
        query.and_also(order, filter.limit.into());
        query.and_also(" OFFSET ", filter.offset.max(0).into());
        let page = self.reads().list(query.text, query.params).await?;
        Ok((page.into_iter().map(rows::read_task).collect::<Result<_, _>>()?, total))
    }

    /// Counters answer for submitter and status; by anything else tasks have to be counted.
    async fn total(&self, filter: &TaskFilter) -> Result<i64, StoreError> {
        let TaskFilter { job_name, node_count, reservation, array, experiment, metadata, .. } = filter;
        let mut counted = job_name.is_none() && node_count.is_none() && reservation.is_none();
        counted &= array.is_none() && experiment.is_none() && metadata.is_empty() && !filter.by_creation();
        let mut query = if counted {
            Query::new("SELECT CAST(COALESCE(SUM(tasks), 0) AS BIGINT) FROM counter", " WHERE tasks > 0")
        } else {
            Query::new("SELECT COUNT(*) FROM task", " WHERE hidden = 0")
        };
        query.filter(filter, self.reads());
        crate::migrate::first_int(self.reads().list(query.text, query.params).await?)
    }

    /// A task's attempts by number. Their outcomes carry no artifacts: see [`Store::artifacts`].
    pub async fn attempts(&self, task: TaskId) -> Result<Vec<AttemptRecord>, StoreError> {
        all(self.reads().point(sql::ATTEMPTS_OF, &[Value::word(task)]).await?, rows::read_attempt)
    }

    /// An attempt, without the artifacts of its outcome.
    pub async fn attempt(&self, id: AttemptId) -> Result<Option<AttemptRecord>, StoreError> {
        one(self.reads().point(sql::ATTEMPT_GET, &[Value::word(id)]).await?, rows::read_attempt)
    }

    /// Artifacts of one attempt of a task, by path; without `attempt` of the latest attempt that left any.
    /// None: the task has no such attempt, or none left any.
    pub async fn artifacts(&self, task: TaskId, attempt: Option<AttemptId>) -> Result<StoredArtifacts, StoreError> {
        let attempt = match attempt {
            Some(attempt) => match self.attempt(attempt).await? {
                Some(record) if record.task_id == task => attempt,
                _ => return Ok(None),
            },
            None => match self.reads().point(sql::ARTIFACT_ATTEMPT, &[Value::word(task)]).await?.pop() {
                Some(mut row) => row.parse()?,
                None => return Ok(None),
            },
        };
        let params = vec![Value::word(attempt), Value::word(task)];
        let artifacts = all(self.reads().list(sql::ARTIFACTS_OF, params).await?, rows::read_artifact)?;
        Ok(Some((attempt, artifacts)))
    }

    /// How workers run an attempt, by node.
    pub async fn provenance(&self, attempt: AttemptId) -> Result<Vec<(u32, Provenance)>, StoreError> {
        let read = |mut row: Row| Ok((row.number()?, row.json()?));
        all(self.reads().point(sql::PROVENANCE_OF, &[Value::word(attempt)]).await?, read)
    }

    /// The checkpoint of a task's latest attempt that has one.
    pub async fn checkpoint(&self, task: TaskId) -> Result<Option<Checkpoint>, StoreError> {
        one(self.reads().point(sql::CHECKPOINT_OF, &[Value::word(task)]).await?, rows::read_checkpoint)
    }

    /// All keys, newest first, revoked ones included.
    pub async fn keys(&self) -> Result<Vec<KeyRecord>, StoreError> {
        all(self.reads().list(sql::KEYS, Vec::new()).await?, rows::read_key)
    }

    /// A user's secrets by name, without their values.
    pub async fn secrets(&self, user: &str) -> Result<Vec<SecretHead>, StoreError> {
        let Ok(user) = Value::text(user.to_owned()) else { return Ok(Vec::new()) };
        all(self.reads().list(sql::SECRETS_OF, vec![user]).await?, rows::read_secret_head)
    }

    /// The values that an attempt was given, by name, sealed.
    pub async fn attempt_secrets(&self, attempt: AttemptId) -> Result<Vec<SecretRecord>, StoreError> {
        all(self.reads().list(sql::SECRETS_OF_ATTEMPT, vec![Value::word(attempt)]).await?, rows::read_secret)
    }

    /// The highest version of the server's keys that any value is sealed with; 0: there is no value.
    pub async fn secret_key_last(&self) -> Result<u32, StoreError> {
        let version = crate::migrate::first_int(self.reads().point(sql::SECRET_KEY_LAST, &[]).await?)?;
        u32::try_from(version).map_err(crate::value::unreadable)
    }

    /// A snapshot.
    pub async fn snapshot(&self, id: &str) -> Result<Option<SnapshotRecord>, StoreError> {
        let Ok(id) = Value::text(id.to_owned()) else { return Ok(None) };
        one(self.reads().point(sql::SNAPSHOT_GET, &[id]).await?, rows::read_snapshot)
    }

    /// A registered data set.
    pub async fn dataset(&self, name: &str) -> Result<Option<RegisteredDataset>, StoreError> {
        let Ok(name) = Value::text(name.to_owned()) else { return Ok(None) };
        one(self.reads().point(sql::DATASET_GET, &[name]).await?, rows::read_dataset)
    }

    /// All registered data sets, by name.
    pub async fn datasets(&self) -> Result<Vec<RegisteredDataset>, StoreError> {
        all(self.reads().list(sql::DATASETS, Vec::new()).await?, rows::read_dataset)
    }

    /// How many data sets are registered.
    pub async fn dataset_count(&self) -> Result<i64, StoreError> {
        crate::migrate::first_int(self.reads().list(sql::DATASET_COUNT, Vec::new()).await?)
    }

    /// What waits and runs now, and what ended since an instant. Hidden tasks are not counted.
    pub async fn queue_counts(&self, since: Micros) -> Result<QueueCounts, StoreError> {
        let mut counts = QueueCounts::default();
        for (status, tasks) in self.tasks_by_status().await? {
            match status {
                TaskStatus::Queued => counts.queued += tasks,
                TaskStatus::Preparing | TaskStatus::Running | TaskStatus::Collecting => counts.running += tasks,
                TaskStatus::Completed | TaskStatus::Failed => {}
            }
        }
        for mut row in self.reads().list(sql::COUNT_ENDED, vec![since.into()]).await? {
            let (status, tasks): (TaskStatus, i64) = (row.parse()?, row.int()?);
            match status {
                TaskStatus::Completed => counts.completed = tasks,
                TaskStatus::Failed => counts.failed = tasks,
                _ => {}
            }
        }
        Ok(counts)
    }

    /// How many tasks there are of each status, ended ones included; hidden ones are not.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn tasks_by_status(&self) -> Result<Vec<(TaskStatus, i64)>, StoreError> {
        all(self.reads().point(sql::COUNT_BY_STATUS, &[]).await?, |mut row| Ok((row.parse()?, row.int()?)))
    }

    /// Quotas that were set, by scope and name.
    pub async fn quotas(&self) -> Result<Vec<QuotaRecord>, StoreError> {
        all(self.reads().list(sql::QUOTAS, Vec::new()).await?, rows::read_quota)
    }

    /// What attempts that are over have used, by user and experiment.
    pub async fn usage(&self) -> Result<Vec<UsageRow>, StoreError> {
        all(self.reads().list(sql::USAGE, Vec::new()).await?, rows::read_usage)
    }

    /// A reservation, also for a while after it expired; always if it was a task's.
    pub async fn reservation(&self, id: ReservationId) -> Result<Option<ReservationRecord>, StoreError> {
        one(self.reads().point(sql::RESERVATION_GET, &[Value::word(id)]).await?, rows::read_reservation)
    }

    /// What requests with these ids made, that count: with the task as it was submitted, hidden or not.
    pub async fn once(
        &self,
        ids: &[String],
        counts_since: Micros,
    ) -> Result<Vec<(OnceRecord, StoredTask)>, StoreError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let mut query = Query::new(sql::ONCE, " WHERE id IN (");
        for (n, id) in ids.iter().enumerate() {
            query.and_also(if n == 0 { "" } else { ", " }, Value::text(id.clone())?);
        }
        query.text.push(')');
        query.and("created_at >= ", counts_since.into());
        let records: Vec<OnceRecord> = all(self.reads().list(query.text, query.params).await?, rows::read_once)?;
        let mut found = Vec::with_capacity(records.len());
        for record in records {
            let spec = self.reads().point(sql::TASK_SPEC, &[Value::word(record.state.id)]).await?;
            if let Some(spec) = one(spec, |mut row| row.json())? {
                let task = StoredTask { spec: Arc::new(spec), state: record.state.clone() };
                found.push((record, task));
            }
        }
        Ok(found)
    }

    /// An experiment.
    pub async fn experiment(&self, id: ExperimentId) -> Result<Option<Experiment>, StoreError> {
        one(self.reads().point(sql::EXPERIMENT_GET, &[Value::word(id)]).await?, rows::read_experiment)
    }

    /// All experiments of a status, newest first; none: all that are not deleted.
    pub async fn experiments(&self, status: Option<ExperimentStatus>) -> Result<Vec<Experiment>, StoreError> {
        let rows = match status {
            Some(status) => self.reads().list(sql::EXPERIMENTS_OF, vec![status.as_str().into()]).await?,
            None => self.reads().list(sql::EXPERIMENTS, Vec::new()).await?,
        };
        all(rows, rows::read_experiment)
    }

    /// How many experiments are not deleted.
    pub async fn experiment_count(&self) -> Result<i64, StoreError> {
        crate::migrate::first_int(self.reads().list(sql::EXPERIMENT_COUNT, Vec::new()).await?)
    }

    /// A named value of the installation.
    pub async fn meta(&self, name: &str) -> Result<Option<String>, StoreError> {
        let Ok(name) = Value::text(name.to_owned()) else { return Ok(None) };
        one(self.reads().point(sql::META_GET, &[name]).await?, |mut row| row.text())
    }

    /// Audit rows after a number, in order; at most `limit`, and never more than [`PAGE_ROWS`].
    pub async fn audit_rows(&self, after: u64, limit: u32) -> Result<Vec<AuditRow>, StoreError> {
        all(self.reads().list(sql::AUDIT_PAGE, page(after, limit)).await?, rows::read_audit)
    }

    /// Change rows after a number, in order; at most `limit`, and never more than [`PAGE_ROWS`]. Old ones are gone:
    /// a first row that is not `after + 1` tells so.
    pub async fn change_rows(&self, after: u64, limit: u32) -> Result<Vec<ChangeRow>, StoreError> {
        all(self.reads().list(sql::CHANGE_PAGE, page(after, limit)).await?, rows::read_change)
    }

    /// Change rows of one entity after a number, in order; at most `limit`, and never more than [`PAGE_ROWS`].
    pub async fn change_rows_of(&self, entity: &str, after: u64, limit: u32) -> Result<Vec<ChangeRow>, StoreError> {
        let mut params = page(after, limit);
        params.push(Value::text(entity.to_owned())?);
        all(self.reads().list(sql::CHANGE_PAGE_OF, params).await?, rows::read_change)
    }

    /// Number of the oldest change row that is kept; 0: there is none.
    pub async fn change_first(&self) -> Result<u64, StoreError> {
        one(self.reads().point(sql::CHANGE_FIRST, &[]).await?, |mut row| row.number()).map(Option::unwrap_or_default)
    }

    /// Whether reads work.
    pub async fn probe_read(&self) -> Result<(), StoreError> {
        self.meta(crate::prepare::LOG_ID).await.map(drop)
    }

    /// Name and version of the database, for people.
    pub async fn describe(&self) -> Result<String, StoreError> {
        let (name, sql) = match self.reads() {
            Reads::Sqlite(_) => ("SQLite", "SELECT sqlite_version()"),
            Reads::Postgres(_) => ("PostgreSQL", "SELECT current_setting('server_version')"),
        };
        let version = one(self.reads().point(sql, &[]).await?, |mut row| row.text())?;
        Ok(format!("{name} {}", version.unwrap_or_default()))
    }
}

/// A query made of fixed pieces; values go in as parameters only.
pub(crate) struct Query {
    pub(crate) text: String,
    pub(crate) params: Vec<Value>,
}

impl Query {
    pub(crate) fn new(select: &str, condition: &str) -> Self {
        Self { text: format!("{select}{condition}"), params: Vec::new() }
    }

    /// Conditions on the columns that `task` and `counter` share, and on those of `task` alone.
    fn filter(&mut self, filter: &TaskFilter, reads: &Reads) {
        if let Some(status) = filter.status {
            self.and("status = ", status.as_str().into());
        }
        if let Some(nodes) = filter.node_count {
            self.and("node_count = ", nodes.into());
        }
        if let Some(reservation) = filter.reservation {
            self.and("id = (SELECT task_id FROM reservation WHERE id = ", Value::word(reservation));
            self.text.push(')');
        }
        if let Some(experiment) = filter.experiment {
            self.and("experiment_id = ", Value::word(experiment));
        }
        if let Some(array) = filter.array {
            self.and("array_id = ", Value::word(array));
        }
        if let Some(after) = filter.created_after {
            self.and("created_at > ", after.into());
        }
        if let Some(before) = filter.created_before {
            self.and("created_at < ", before.into());
        }
        for (column, value) in [("user_id = ", &filter.user_id), ("job_name = ", &filter.job_name)] {
            if let Some(value) = value {
                self.and(column, stored_text(value));
            }
        }
        for (key, value) in &filter.metadata {
            match reads {
                Reads::Sqlite(_) => {
                    self.and("EXISTS (SELECT 1 FROM json_each(spec -> 'metadata') WHERE key = ", stored_text(key));
                    self.and("value = ", stored_text(value));
                    self.text.push(')');
                }
                Reads::Postgres(_) => {
                    self.and("CAST(spec AS JSON) -> 'metadata' ->> CAST(", stored_text(key));
                    self.and_also(" AS TEXT) = ", stored_text(value));
                }
            }
        }
    }

    pub(crate) fn and(&mut self, condition: &str, value: Value) {
        self.text.push_str(" AND ");
        self.and_also(condition, value);
    }

    pub(crate) fn and_also(&mut self, piece: &str, value: Value) {
        self.params.push(value);
        write!(self.text, "{piece}${}", self.params.len()).expect("a String takes all that is written");
    }
}

/// A text to look for. What holds U+0000 is stored nowhere, and hardly anything holds the replacement character.
pub(crate) fn stored_text(text: &str) -> Value {
    Value::Text(text.replace('\0', "\u{fffd}").into())
}

fn page(after: u64, limit: u32) -> Vec<Value> {
    vec![Value::Int(i64::try_from(after).unwrap_or(i64::MAX)), limit.min(PAGE_ROWS).into()]
}

pub(crate) fn one<T>(rows: Vec<Row>, read: impl Fn(Row) -> Result<T, StoreError>) -> Result<Option<T>, StoreError> {
    rows.into_iter().next().map(read).transpose()
}

pub(crate) fn all<T>(rows: Vec<Row>, read: impl Fn(Row) -> Result<T, StoreError>) -> Result<Vec<T>, StoreError> {
    rows.into_iter().map(read).collect()
}
