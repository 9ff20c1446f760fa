//! Tasks that somebody waits for: who waits is woken by changes of that task alone, however many there are of others.

use fetchml_api::TaskId;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::watch;

/// The tasks, each with who is to be told.
#[derive(Default)]
pub(super) struct Watched {
    tasks: Mutex<HashMap<TaskId, watch::Sender<()>>>,
}

/// Hears of every committed change of one task since it was made.
pub struct TaskWatch {
    watched: Arc<Watched>,
    task: TaskId,
    /// None only while it is dropped.
    changes: Option<watch::Receiver<()>>,
}

impl Watched {
    // Nothing in these sections leaves the map half-changed.
    fn tasks(&self) -> MutexGuard<'_, HashMap<TaskId, watch::Sender<()>>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.tasks().len()
    }

    /// Watches a task, whether there is one of this id or not.
    pub(super) fn watch(self: &Arc<Self>, task: TaskId) -> TaskWatch {
        let changes = self.tasks().entry(task).or_insert_with(|| watch::channel(()).0).subscribe();
        TaskWatch { watched: Arc::clone(self), task, changes: Some(changes) }
    }

    /// Tells who waits for one of these.
    pub(super) fn tell(&self, changed: impl Iterator<Item = TaskId>) {
        let tasks = self.tasks();
        if tasks.is_empty() {
            return;
        }
        for task in changed {
            if let Some(waiting) = tasks.get(&task) {
                waiting.send_replace(());
            }
        }
    }

    /// Tells all: any task may have changed.
    pub(super) fn tell_all(&self) {
        for waiting in self.tasks().values() {
            waiting.send_replace(());
        }
    }
}

impl TaskWatch {
    /// Resolves at the next change, at once when there was one since the last call.
    pub async fn changed(&mut self) {
        if let Some(changes) = &mut self.changes {
            // The sender stays in the map for as long as this one watches.
            let _ = changes.changed().await;
        }
    }
}

impl Drop for TaskWatch {
    fn drop(&mut self) {
        let mut tasks = self.watched.tasks();
        self.changes = None;
        if tasks.get(&self.task).is_some_and(|waiting| waiting.receiver_count() == 0) {
            tasks.remove(&self.task);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;
    use uuid::Uuid;

    fn told(watch: &mut TaskWatch) -> bool {
        watch.changed().now_or_never().is_some()
    }

    #[tokio::test]
    async fn who_waits_hears_of_its_own_task_and_leaves_nothing_behind() {
        let (one, other) = (TaskId(Uuid::from_u128(1)), TaskId(Uuid::from_u128(2)));
        let watched = Arc::<Watched>::default();
        watched.tell([one].into_iter());
        let (mut first, mut second, mut third) = (watched.watch(one), watched.watch(one), watched.watch(other));
        assert!(!told(&mut first), "what was before is known");
        watched.tell([one, one].into_iter());
        assert!(told(&mut first) && !told(&mut first) && told(&mut second) && !told(&mut third));
        watched.tell_all();
        assert!(told(&mut first) && told(&mut third));
        drop(first);
        watched.tell([one].into_iter());
        assert!(told(&mut second), "another that waits no more takes nothing away");
        drop((second, third));
        assert_eq!(watched.count(), 0);
    }
}
