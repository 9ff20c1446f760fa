//! Data sets as placement knows them: what waiting tasks need and what workers say that they hold. Only a
//! preference, so it is volatile and kept apart: tasks without data sets cost nothing here.

use crate::{Answer, Scheduler};
use fetchml_api::{DatasetKey, TaskId, WorkerId, limits::DATASETS_HELD_MAX};
use std::collections::BTreeMap;

/// Keys of data sets, sorted.
type Keys = Box<[DatasetKey]>;

/// Who needs and who holds what.
#[derive(Debug, Default)]
pub(crate) struct Datasets {
    wanted: BTreeMap<TaskId, Keys>,
    held: BTreeMap<WorkerId, Keys>,
}

impl Datasets {
    /// What a task needs; none: it makes no difference where it goes.
    pub(crate) fn wanted_by(&self, task: TaskId) -> Option<&[DatasetKey]> {
        if self.wanted.is_empty() {
            return None;
        }
        self.wanted.get(&task).map(AsRef::as_ref)
    }

    /// What a worker holds.
    pub(crate) fn held_by(&self, worker: WorkerId) -> &[DatasetKey] {
        self.held.get(&worker).map_or(&[], AsRef::as_ref)
    }

    /// How many of these a worker holds.
    pub(crate) fn at_hand(&self, wanted: &[DatasetKey], worker: WorkerId) -> usize {
        let held = self.held_by(worker);
        wanted.iter().filter(|key| held.binary_search(key).is_ok()).count()
    }

    /// A task has ended.
    pub(crate) fn forget(&mut self, task: TaskId) {
        self.wanted.remove(&task);
    }

    /// Tasks that need any.
    pub(crate) fn tasks(&self) -> impl Iterator<Item = TaskId> {
        self.wanted.keys().copied()
    }
}

impl Scheduler {
    pub(crate) fn on_datasets_wanted(&mut self, task: TaskId, datasets: Vec<DatasetKey>) -> Answer {
        if datasets.is_empty() || !self.tasks.contains_key(&task) {
            return Answer::Unchanged;
        }
        self.datasets.wanted.insert(task, sorted(datasets));
        Answer::Done
    }

    pub(crate) fn on_datasets_held(&mut self, worker: WorkerId, mut datasets: Vec<DatasetKey>) -> Answer {
        if self.fleet.get(worker).is_none() {
            return Answer::Unchanged;
        }
        datasets.truncate(DATASETS_HELD_MAX);
        self.datasets.held.insert(worker, sorted(datasets));
        Answer::Done
    }
}

fn sorted(mut keys: Vec<DatasetKey>) -> Keys {
    keys.sort_unstable();
    keys.dedup();
    keys.into()
}
