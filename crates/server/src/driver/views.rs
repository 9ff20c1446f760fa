//! What others may see of the driver's state: only what is committed.

use super::watched::{TaskWatch, Watched};
use fetchml_api::{
    AttemptId, HealthStatus, Reservation, ReservationId, ReservationStatus, SchedulerStatus, TaskId, Worker,
};
use fetchml_store::StoredTask;
use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::sync::{broadcast, watch};

/// Tasks that have not ended, as committed.
pub type LiveTasks = HashMap<TaskId, StoredTask>;

/// A committed change of a task.
#[derive(Clone, Debug)]
pub struct TaskChanged {
    /// The task after the change.
    pub task: StoredTask,
    /// The attempt that ended with this change.
    pub attempt_over: Option<AttemptId>,
}

/// The shared views.
pub(super) struct Views {
    live: RwLock<LiveTasks>,
    workers: RwLock<Arc<Vec<Worker>>>,
    status: RwLock<Option<SchedulerStatus>>,
    gpus_held: AtomicU64,
    reservations: RwLock<BTreeMap<ReservationId, Reservation>>,
    health: RwLock<(HealthStatus, Option<String>)>,
    incarnation: AtomicU64,
    changes: broadcast::Sender<TaskChanged>,
    watched: Arc<Watched>,
    fatal: watch::Sender<bool>,
}

impl Views {
    pub(super) fn new() -> Self {
        Self {
            live: RwLock::default(),
            workers: RwLock::default(),
            status: RwLock::default(),
            gpus_held: AtomicU64::new(0),
            reservations: RwLock::default(),
            health: RwLock::new((HealthStatus::Healthy, None)),
            incarnation: AtomicU64::new(0),
            changes: broadcast::channel(crate::limits::TASK_CHANGES).0,
            watched: Arc::default(),
            fatal: watch::channel(false).0,
        }
    }

    pub(super) fn incarnation(&self) -> u64 {
        self.incarnation.load(Ordering::Relaxed)
    }

    pub(super) fn set_incarnation(&self, incarnation: u64) {
        self.incarnation.store(incarnation, Ordering::Relaxed);
    }

    // A poisoned lock means that a thread panicked while it held it; none of these sections leaves
    // the data half-changed, so what is there stays usable.
    pub(super) fn live(&self, id: TaskId) -> Option<StoredTask> {
        self.live.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    pub(super) fn replace_live(&self, live: LiveTasks) {
        *self.live.write().unwrap_or_else(PoisonError::into_inner) = live;
        self.watched.tell_all();
    }

    /// Applies committed changes and tells subscribers.
    pub(super) fn publish(&self, changed: Vec<TaskChanged>) {
        if changed.is_empty() {
            return;
        }
        {
            let mut live = self.live.write().unwrap_or_else(PoisonError::into_inner);
            for change in &changed {
                if change.task.state.status.is_terminal() {
                    live.remove(&change.task.state.id);
                } else {
                    live.insert(change.task.state.id, change.task.clone());
                }
            }
        }
        self.watched.tell(changed.iter().map(|change| change.task.state.id));
        for change in changed {
            // Fails only when nobody listens.
            let _ = self.changes.send(change);
        }
    }

    pub(super) fn subscribe(&self) -> broadcast::Receiver<TaskChanged> {
        self.changes.subscribe()
    }

    pub(super) fn watch(&self, task: TaskId) -> TaskWatch {
        self.watched.watch(task)
    }

    #[cfg(test)]
    pub(super) fn tasks_watched(&self) -> usize {
        self.watched.count()
    }

    pub(super) fn workers(&self) -> Arc<Vec<Worker>> {
        Arc::clone(&self.workers.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn set_workers(&self, workers: Vec<Worker>) {
        *self.workers.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(workers);
    }

    pub(super) fn gpus_held(&self) -> u64 {
        self.gpus_held.load(Ordering::Relaxed)
    }

    pub(super) fn set_gpus_held(&self, gpus: u64) {
        self.gpus_held.store(gpus, Ordering::Relaxed);
    }

    /// Reservations that have not expired, in the order in which they were made.
    pub(super) fn reservations(&self) -> Vec<Reservation> {
        self.reservations.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    pub(super) fn replace_reservations(&self, reservations: impl Iterator<Item = Reservation>) {
        let reservations = reservations.map(|shown| (shown.id, shown)).collect();
        *self.reservations.write().unwrap_or_else(PoisonError::into_inner) = reservations;
    }

    pub(super) fn set_reservations(&self, changed: Vec<Reservation>) {
        let mut shown = self.reservations.write().unwrap_or_else(PoisonError::into_inner);
        for reservation in changed {
            if reservation.status == ReservationStatus::Expired {
                shown.remove(&reservation.id);
            } else {
                shown.insert(reservation.id, reservation);
            }
        }
    }

    pub(super) fn status(&self) -> Option<SchedulerStatus> {
        *self.status.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_status(&self, status: SchedulerStatus) {
        *self.status.write().unwrap_or_else(PoisonError::into_inner) = Some(status);
    }

    pub(super) fn health(&self) -> (HealthStatus, Option<String>) {
        self.health.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_health(&self, status: HealthStatus, reason: Option<String>) {
        *self.health.write().unwrap_or_else(PoisonError::into_inner) = (status, reason);
    }

    pub(super) fn fatal(&self) -> watch::Receiver<bool> {
        self.fatal.subscribe()
    }

    pub(super) fn set_fatal(&self) {
        self.fatal.send_replace(true);
    }
}
