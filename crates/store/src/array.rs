//! Arrays and what has ended, as their tasks' rows say: there is no table of either.

use crate::{
    database::Database,
    model::{ArrayCounts, StoreError, StoredArray, StoredTask},
    rows, sql,
    store::Store,
    value::{Row, Value},
};
use fetchml_api::{TaskId, TaskStatus};
use std::collections::{BTreeMap, BTreeSet};

impl Store {
    /// An array by its tasks; none: no task that is not hidden is of it.
    pub async fn array(&self, id: TaskId) -> Result<Option<StoredArray>, StoreError> {
        let params = [Value::word(id)];
        let Some(first) = self.reads().point(sql::ARRAY_FIRST, &params).await?.pop() else { return Ok(None) };
        let counts = counted(self.reads().point(sql::ARRAY_COUNTS, &params).await?)?;
        Ok(Some(StoredArray { first: rows::read_task(first)?, counts }))
    }
}

/// For each array of these tasks, and for each task and array that a blocked one depends on and that is not among
/// them: whether what ended of it ended well. What there is no row of is left out.
pub(crate) async fn ended<D: Database>(
    database: &mut D,
    tasks: &[StoredTask],
) -> Result<BTreeMap<TaskId, bool>, StoreError> {
    let live: BTreeSet<TaskId> = tasks.iter().map(|task| task.state.id).collect();
    let arrays = tasks.iter().filter_map(|task| Some(task.spec.array?.id));
    let blocked = tasks.iter().filter(|task| task.state.blocked);
    let needs = blocked.flat_map(|task| &task.spec.depends_on).map(|need| need.id);
    let asked: BTreeSet<TaskId> = arrays.chain(needs.filter(|id| !live.contains(id))).collect();
    let mut ended = BTreeMap::new();
    for id in asked {
        let params = [Value::word(id)];
        if let Some(mut row) = database.query(sql::TASK_STATUS, &params).await?.pop() {
            ended.insert(id, row.parse::<TaskStatus>()? == TaskStatus::Completed);
            continue;
        }
        let counts = counted(database.query(sql::ARRAY_COUNTS, &params).await?)?;
        if counts.tasks > 0 {
            ended.insert(id, counts.is_well);
        }
    }
    Ok(ended)
}

fn counted(rows: Vec<Row>) -> Result<ArrayCounts, StoreError> {
    let mut counts = ArrayCounts { is_well: true, is_over: true, ..ArrayCounts::default() };
    for mut row in rows {
        let (status, hidden, tasks): (TaskStatus, bool, i64) = (row.parse()?, row.truth()?, row.int()?);
        counts.tasks += tasks;
        counts.is_over &= status.is_terminal();
        counts.is_well &= status != TaskStatus::Failed;
        if !hidden {
            *counts.shown.entry(status).or_default() += tasks;
        }
    }
    Ok(counts)
}
