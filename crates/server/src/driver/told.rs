//! What streams have been told of the whole: the scheduler's status and each worker. Both follow from
//! the core, so they are written not with every change but when they differ from what was written
//! last, and no faster than the limits say.

use crate::limits;
use fetchml_api::{Micros, SchedulerStatus, SlotKind, TaskStatus, Worker, WorkerId, WorkerStatus, time::SECOND};
use fetchml_scheduler::Scheduler;
use fetchml_store::ChangeDraft;
use serde::Serialize;
use std::{collections::BTreeMap, time::Instant};

/// Minutes of a day.
const DAY_MINUTES: i64 = 24 * 60;

/// What was written last. A core that is restored begins anew: everything is told once more.
#[derive(Debug)]
pub(super) struct Told {
    status: Option<SchedulerStatus>,
    workers: BTreeMap<WorkerId, (Worker, Instant)>,
    completed: Completed,
    looked: Option<Instant>,
    /// When something differs, or may, that has not been told.
    stale: bool,
}

/// One look at the core.
#[derive(Debug)]
pub(super) struct Look {
    /// Every worker, for views.
    pub(super) workers: Vec<Worker>,
    /// What differs from what was told.
    pub(super) changes: Vec<ChangeDraft>,
}

impl Told {
    /// Nothing yet; `completed` tasks of the last day by minute since 1970.
    pub(super) fn nothing(completed: &[(i64, i64)]) -> Self {
        Self {
            status: None,
            workers: BTreeMap::new(),
            completed: Completed(completed.iter().copied().collect()),
            looked: None,
            stale: true,
        }
    }

    /// Something happened that may show.
    pub(super) const fn outdate(&mut self) {
        self.stale = true;
    }

    /// A task ended.
    pub(super) fn ended(&mut self, status: TaskStatus, at: Option<Micros>) {
        if let (TaskStatus::Completed, Some(at)) = (status, at) {
            self.completed.add(at);
        }
    }

    /// When the next look is due. Also while nothing happens: the count over the last day goes down by itself.
    pub(super) fn due(&self) -> Instant {
        let pause = if self.stale { limits::STATUS_TOLD_EVERY } else { limits::DRIVER_IDLE };
        self.looked.map_or_else(Instant::now, |looked| looked + pause)
    }

    /// Looks at the core if it is time.
    pub(super) fn look(&mut self, core: &Scheduler, now: Micros) -> Option<Look> {
        (self.due() <= Instant::now()).then(|| self.look_now(core, now))
    }

    fn look_now(&mut self, core: &Scheduler, now: Micros) -> Look {
        let instant = Instant::now();
        (self.looked, self.stale) = (Some(instant), false);
        let workers = core.workers(now);
        let mut changes = Vec::new();
        for worker in &workers {
            match self.workers.get(&worker.id) {
                Some((told, _)) if is_same(told, worker) => continue,
                // What it runs changes with every task; that it comes or goes is told at once.
                Some((told, at))
                    if told.status == worker.status && instant.duration_since(*at) < limits::WORKER_TOLD_EVERY =>
                {
                    self.stale = true;
                    continue;
                }
                _ => {}
            }
            self.workers.insert(worker.id, (worker.clone(), instant));
            // What it holds of data sets is long, and asked for when it is of interest.
            let shown = Worker { datasets: Vec::new(), ..worker.clone() };
            changes.push(draft(now, "worker", worker.id.to_string(), &shown));
        }
        if self.workers.len() > workers.len() {
            let known: std::collections::BTreeSet<_> = workers.iter().map(|worker| worker.id).collect();
            self.workers.retain(|id, _| known.contains(id));
        }
        let status = self.status(core, &workers, now);
        if self.status.is_none_or(|told| SchedulerStatus { timestamp: now, ..told } != status) {
            self.status = Some(status);
            changes.push(draft(now, "status", String::new(), &status));
        }
        Look { workers, changes }
    }

    /// The status now, with these workers.
    pub(super) fn status(&mut self, core: &Scheduler, workers: &[Worker], now: Micros) -> SchedulerStatus {
        let count = |status| workers.iter().filter(|worker| worker.status == status).count() as i64;
        SchedulerStatus {
            workers_total: workers.len() as i64,
            workers_active: count(WorkerStatus::Active),
            workers_draining: count(WorkerStatus::Draining),
            batch_queue_depth: core.queue_depth(SlotKind::Batch) as i64,
            service_queue_depth: core.queue_depth(SlotKind::Service) as i64,
            tasks_running: core.tasks_active() as i64,
            tasks_completed_24h: self.completed.last_day(now),
            reservations_active: core.reservations().count() as i64,
            timestamp: now,
        }
    }
}

fn draft(at: Micros, kind: &'static str, entity: String, shown: &impl Serialize) -> ChangeDraft {
    let body = serde_json::to_string(shown).expect("it has only string keys and finite numbers");
    ChangeDraft { at, kind, entity, body }
}

/// Whether streams need not be told: a sign of life alone is no news.
fn is_same(told: &Worker, worker: &Worker) -> bool {
    let Worker {
        id,
        name,
        connected_at,
        last_heartbeat: _,
        capabilities,
        slots,
        active_tasks,
        status,
        unfit,
        datasets: _,
    } = worker;
    *id == told.id
        && *status == told.status
        && *unfit == told.unfit
        && *connected_at == told.connected_at
        && *slots == told.slots
        && *active_tasks == told.active_tasks
        && *capabilities == told.capabilities
        && *name == told.name
}

/// How many tasks completed, by minute since 1970.
#[derive(Debug, Default)]
struct Completed(BTreeMap<i64, i64>);

impl Completed {
    fn add(&mut self, at: Micros) {
        *self.0.entry(minute(at)).or_default() += 1;
    }

    /// In the last day, the minute included that began a day ago.
    fn last_day(&mut self, now: Micros) -> i64 {
        self.0 = self.0.split_off(&(minute(now) - DAY_MINUTES));
        self.0.values().sum()
    }
}

const fn minute(at: Micros) -> i64 {
    at.0.div_euclid(60 * SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_is_counted_by_minutes_and_what_is_older_is_forgotten() {
        let at = |minutes: i64| Micros(minutes * 60 * SECOND + 59 * SECOND);
        let mut completed = Completed::default();
        for minutes in [0, 0, 1, 700] {
            completed.add(at(minutes));
        }
        assert_eq!(completed.last_day(at(DAY_MINUTES)), 4);
        assert_eq!(completed.last_day(at(DAY_MINUTES + 1)), 2);
        assert_eq!(completed.last_day(at(DAY_MINUTES + 701)), 0);
        assert!(completed.0.is_empty());
    }
}
