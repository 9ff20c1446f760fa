//! Collecting what is not needed any more: writes that take things away unless somebody needs them, and reads that
//! find what may go and what is still referred to.
//!
//! Whether something is needed is decided within the transaction that takes it away. As there is one writer, a
//! reference is either there before (then nothing goes) or refused after.

mod sql;

use crate::{
    model::StoreError,
    prepare::Prepared,
    rows,
    sql::{ATTEMPTS_LIVE, COUNTER_LEAVE},
    store::Store,
    value::{Row, Statement, Value},
};
use fetchml_api::{Artifact, AttemptId, AttemptRecord, CollectReason, FilesDeleted, Micros, SnapshotRecord, TaskId};

/// One step of collecting. Each is refused for data when it is not so any more: nothing is written then.
#[derive(Clone, Debug)]
pub enum Collect {
    /// The files of an ended task go, unless a live task starts from its checkpoint, or somebody was told of that
    /// since `used_before`. From now on they are said to be deleted.
    Begin {
        /// The task.
        task: TaskId,
        /// When.
        at: Micros,
        /// Why.
        reason: CollectReason,
        /// Checkpoints used since then stay.
        used_before: Micros,
    },
    /// Takes away at most `rows` artifact rows of an attempt of such a task.
    Artifacts {
        /// The task.
        task: TaskId,
        /// One of its attempts.
        attempt: AttemptId,
        /// Most rows.
        rows: u32,
    },
    /// The rest is gone: its checkpoint rows go, and the task is done with.
    End {
        /// The task.
        task: TaskId,
    },
    /// The task itself goes, with its attempts. Its files must be gone.
    Task {
        /// The task.
        task: TaskId,
    },
    /// A snapshot goes that no task names and nobody was told of since `used_before`.
    Snapshot {
        /// `sha256:<hex>`.
        id: String,
        /// One used since then stays.
        used_before: Micros,
    },
}

/// A task that ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PastTask {
    /// The task.
    pub id: TaskId,
    /// Who submitted it.
    pub user_id: String,
    /// The snapshot it names.
    pub snapshot_id: Option<String>,
    /// When it ended; for a deleted one when it was deleted.
    pub since: Micros,
}

/// Which tasks are asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Past {
    /// Those that ended, with their files.
    WithFiles,
    /// Those that were deleted, with their files.
    Deleted,
    /// Those that ended, whatever is left of them.
    All,
}

/// What a task's rows say that it left.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Holdings {
    /// Its attempts, and how many artifacts each left.
    pub attempts: Vec<(AttemptId, u64)>,
    /// Number and bytes of its artifacts.
    pub artifacts: (u64, u64),
    /// Number and bytes of the files of its checkpoints.
    pub checkpoints: (u64, u64),
}

/// Hashes that some rows refer to, and where to go on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BlobPage<K> {
    /// Attempt and hash.
    pub blobs: Vec<(AttemptId, String)>,
    /// Ask for what comes after this; none: this was the last page.
    pub next: Option<K>,
}

impl Prepared {
    pub(crate) fn task_hide(&mut self, id: TaskId, at: Micros) {
        let id = Value::word(id);
        self.statements.push(Statement::new(COUNTER_LEAVE, vec![id.clone()]));
        self.statements.push(Statement::new(sql::TASK_HIDE, vec![id, at.into()]));
    }

    pub(crate) fn snapshot_use(&mut self, id: String, at: Micros) -> Result<(), StoreError> {
        let statement = Statement::new(sql::SNAPSHOT_USE, vec![Value::text(id)?, at.into()]);
        self.statements.push(statement.must_change("no such snapshot"));
        Ok(())
    }

    pub(crate) fn checkpoint_use(&mut self, task: TaskId, at: Micros) {
        let statement = Statement::new(sql::CHECKPOINT_USE, vec![Value::word(task), at.into()]);
        self.statements.push(statement.must_change("no checkpoint of this task"));
    }

    pub(crate) fn collect(&mut self, step: Collect) -> Result<(), StoreError> {
        let begun = |task: TaskId| {
            Statement::new(sql::COLLECT_IS_BEGUN, vec![Value::word(task)]).must_change("not being collected")
        };
        match step {
            Collect::Begin { task, at, reason, used_before } => {
                let params = vec![Value::word(task), used_before.into(), at.into(), reason.as_str().into()];
                self.statements.push(Statement::new(sql::COLLECT_BEGIN, params).must_change("not to be collected"));
            }
            Collect::Artifacts { task, attempt, rows } => {
                self.statements.push(begun(task));
                let params = vec![Value::word(attempt), rows.into()];
                self.statements.push(Statement::new(sql::COLLECT_ARTIFACTS, params));
            }
            Collect::End { task } => {
                let id = Value::word(task);
                self.statements.push(begun(task));
                self.statements.push(Statement::new(sql::COLLECT_CHECKPOINTS, vec![id.clone()]));
                self.statements.push(Statement::new(sql::COLLECT_END, vec![id]));
            }
            Collect::Task { task } => {
                let id = Value::word(task);
                let done = Statement::new(sql::COLLECT_IS_DONE, vec![id.clone()]);
                self.statements.push(done.must_change("its files are not all collected"));
                self.statements.push(Statement::new(COUNTER_LEAVE, vec![id.clone()]));
                self.statements.push(Statement::new(sql::TASK_PROVENANCE, vec![id.clone()]));
                self.statements.extend(sql::TASK_ROWS.map(|rows| Statement::new(rows, vec![id.clone()])));
                self.statements.push(Statement::new(sql::TASK_DELETE, vec![id]).must_change("no such ended task"));
            }
            Collect::Snapshot { id, used_before } => {
                let statement = Statement::new(sql::SNAPSHOT_DELETE, vec![Value::text(id)?, used_before.into()]);
                self.statements.push(statement.must_change("no such unused snapshot"));
            }
        }
        Ok(())
    }
}

/// Reads for collecting.
impl Store {
    /// Whether the files of a task are deleted, and since when.
    pub async fn collected(&self, task: TaskId) -> Result<Option<FilesDeleted>, StoreError> {
        let read = |mut row: Row| Ok(FilesDeleted { at: row.time()?, reason: row.word()? });
        self.reads().point(sql::COLLECTED, &[Value::word(task)]).await?.pop().map(read).transpose()
    }

    /// Tasks after `after` whose files are deleted in part, by id.
    pub async fn collected_in_part(&self, after: Option<TaskId>, limit: u32) -> Result<Vec<TaskId>, StoreError> {
        let after = after.map_or_else(|| "".into(), Value::word);
        let rows = self.reads().list(sql::COLLECTED_IN_PART, vec![after, limit.into()]).await?;
        rows.into_iter().map(|mut row| row.parse()).collect()
    }

    /// Tasks that ended (or were deleted) before an instant, oldest first, after `after`.
    pub async fn past_tasks(
        &self,
        which: Past,
        before: Micros,
        after: Option<&PastTask>,
        limit: u32,
    ) -> Result<Vec<PastTask>, StoreError> {
        let sql = match which {
            Past::WithFiles => sql::TASKS_EXPIRED,
            Past::Deleted => sql::TASKS_DELETED,
            Past::All => sql::TASKS_PAST,
        };
        let (since, id) = after.map_or((Value::Int(i64::MIN), "".into()), |a| (a.since.into(), Value::word(a.id)));
        let rows = self.reads().list(sql, vec![before.into(), since, id, limit.into()]).await?;
        let read = |mut row: Row| {
            Ok(PastTask {
                id: row.parse()?,
                user_id: row.text()?,
                snapshot_id: row.optional_text()?,
                since: row.time()?,
            })
        };
        rows.into_iter().map(read).collect()
    }

    /// What a task's rows say that it left.
    pub async fn holdings(&self, task: TaskId) -> Result<Holdings, StoreError> {
        let mut holdings = Holdings::default();
        for mut row in self.reads().list(sql::ARTIFACT_TOTALS, vec![Value::word(task)]).await? {
            let (attempt, count) = (row.parse()?, row.number()?);
            holdings.attempts.push((attempt, count));
            add(&mut holdings.artifacts, count, row.number()?);
        }
        for mut row in self.reads().list(sql::CHECKPOINTS_OF, vec![Value::word(task)]).await? {
            for file in row.json::<Vec<Artifact>>()? {
                add(&mut holdings.checkpoints, 1, file.size_bytes);
            }
        }
        Ok(holdings)
    }

    /// Whether [`Collect::Begin`] would be taken.
    pub async fn is_collectable(&self, task: TaskId, used_before: Micros) -> Result<bool, StoreError> {
        let rows = self.reads().point(sql::COLLECTABLE, &[Value::word(task), used_before.into()]).await?;
        crate::migrate::first_int(rows).map(|count| count > 0)
    }

    /// Snapshots that no task names and nobody was told of since an instant, by id after `after`.
    pub async fn snapshots_unused(
        &self,
        used_before: Micros,
        after: &str,
        limit: u32,
    ) -> Result<Vec<SnapshotRecord>, StoreError> {
        let params = vec![used_before.into(), Value::text(after.to_owned())?, limit.into()];
        let rows = self.reads().list(sql::SNAPSHOTS_UNUSED, params).await?;
        rows.into_iter().map(rows::read_snapshot).collect()
    }

    /// How many tasks name a snapshot, hidden ones included.
    pub async fn snapshot_tasks(&self, id: &str) -> Result<u64, StoreError> {
        let rows = self.reads().point(sql::SNAPSHOT_TASKS, &[Value::text(id.to_owned())?]).await?;
        crate::migrate::first_int(rows).map(i64::unsigned_abs)
    }

    /// Ids of snapshots, in order after `after`.
    pub async fn snapshot_ids(&self, after: &str, limit: u32) -> Result<Vec<String>, StoreError> {
        let params = vec![Value::text(after.to_owned())?, limit.into()];
        let rows = self.reads().list(sql::SNAPSHOT_IDS, params).await?;
        rows.into_iter().map(|mut row| row.text()).collect()
    }

    /// Blobs that artifacts refer to; `after` is where the last page ended.
    pub async fn artifact_blobs(
        &self,
        after: Option<&(AttemptId, String)>,
        limit: u32,
    ) -> Result<BlobPage<(AttemptId, String)>, StoreError> {
        let (attempt, path) = match after {
            Some((attempt, path)) => (Value::word(attempt), Value::text(path.clone())?),
            None => ("".into(), "".into()),
        };
        let rows = self.reads().list(sql::ARTIFACT_BLOBS, vec![attempt, path, limit.into()]).await?;
        let full = rows.len() as u64 == u64::from(limit);
        let mut page = BlobPage { blobs: Vec::with_capacity(rows.len()), next: None };
        for mut row in rows {
            let (attempt, path) = (row.parse()?, row.text()?);
            page.blobs.push((attempt, row.text()?));
            page.next = full.then_some((attempt, path));
        }
        Ok(page)
    }

    /// Blobs that checkpoints refer to; `after` is where the last page ended, `limit` a number of checkpoints.
    pub async fn checkpoint_blobs(
        &self,
        after: Option<AttemptId>,
        limit: u32,
    ) -> Result<BlobPage<AttemptId>, StoreError> {
        let after = after.map_or_else(|| "".into(), Value::word);
        let rows = self.reads().list(sql::CHECKPOINT_BLOBS, vec![after, limit.into()]).await?;
        let full = rows.len() as u64 == u64::from(limit);
        let mut page = BlobPage { blobs: Vec::new(), next: None };
        for mut row in rows {
            let attempt = row.parse()?;
            page.blobs.extend(row.json::<Vec<Artifact>>()?.into_iter().map(|file| (attempt, file.sha256)));
            page.next = full.then_some(attempt);
        }
        Ok(page)
    }

    /// The current attempt of each task that is active.
    pub async fn attempts_live(&self) -> Result<Vec<AttemptRecord>, StoreError> {
        let rows = self.reads().list(ATTEMPTS_LIVE, Vec::new()).await?;
        rows.into_iter().map(rows::read_attempt).collect()
    }
}

fn add(sum: &mut (u64, u64), count: u64, bytes: u64) {
    sum.0 = sum.0.saturating_add(count);
    sum.1 = sum.1.saturating_add(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Location;
    use std::collections::BTreeSet;

    /// Tables that refer to these, as the database knows it.
    fn referring(connection: &rusqlite::Connection, to: &BTreeSet<String>) -> BTreeSet<String> {
        let all = "SELECT m.name, f.\"table\" FROM sqlite_master m JOIN pragma_foreign_key_list(m.name) f \
            WHERE m.type = 'table'";
        let mut statement = connection.prepare(all).unwrap();
        let pairs = statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?))).unwrap();
        pairs.map(Result::unwrap).filter(|(_, target)| to.contains(target)).map(|(name, _)| name).collect()
    }

    #[tokio::test]
    async fn every_table_that_refers_to_a_task_is_cleared_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.db");
        let store = Store::open(&Location::Sqlite(path.clone())).await.unwrap();
        let connection = rusqlite::Connection::open(&path).unwrap();
        let mut tables = BTreeSet::from(["task".to_owned()]);
        loop {
            let before = tables.len();
            tables.extend(referring(&connection, &tables));
            if tables.len() == before {
                break;
            }
        }
        tables.remove("task");
        let cleared: BTreeSet<String> = sql::TASK_ROWS
            .iter()
            .map(|text| text.strip_prefix("DELETE FROM ").unwrap().split(' ').next().unwrap().to_owned())
            .collect();
        assert_eq!(cleared, tables, "each needs a statement in TASK_ROWS");
        store.close().await;
    }
}
