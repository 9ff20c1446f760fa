//! What must hold after every step. Tests call this each time; it looks at everything, so a server
//! does not.

use crate::{Scheduler, attempt::Holding, timers::Timer, worker::Used};
use fetchml_api::{AttemptId, AttemptPhase, AttemptRecord, TaskId, TaskStatus};
use std::collections::{BTreeMap, BTreeSet};

impl Scheduler {
    /// Panics, saying what is wrong, unless slots, cores, memory and GPUs are conserved, each active
    /// task has its one current attempt, each waiting task its one place, and indexes and timers are
    /// what they are derived from.
    pub fn assert_invariants(&self) {
        self.queues.assert_invariants();
        self.fleet.assert_invariants();
        self.assert_waiting();
        self.assert_attempts();
        self.assert_rooms();
        self.assert_timers();
        self.assert_stopped();
        self.assert_accounts();
        self.assert_holds();
        self.assert_reservations();
    }

    fn assert_waiting(&self) {
        let mut waiting: BTreeSet<TaskId> = BTreeSet::new();
        for (shape, user, (key, id)) in self.queues.places() {
            let task = self.tasks.get(&id).expect("who is in a queue has not ended");
            assert_eq!((task.shape, task.user), (shape, user), "{id} is in its own queue");
            assert_eq!(task.key(self.settings.aging_interval()), key, "{id} is in its place");
            assert!(waiting.insert(id), "{id} waits once");
        }
        for (at, timer) in self.timers.iter() {
            if let Timer::BackoffEnds(id) = timer {
                assert_eq!(self.tasks[&id].history().and_then(|h| h.not_before), Some(at), "{id} waits for its time");
                assert!(waiting.insert(id), "{id} waits once");
            }
        }
        for id in self.assert_groups() {
            assert!(waiting.insert(id), "{id} waits once");
        }
        let queued = self.tasks.iter().filter(|(_, task)| task.status == TaskStatus::Queued);
        assert_eq!(queued.map(|(&id, _)| id).collect::<BTreeSet<_>>(), waiting, "the queued tasks are those that wait");
        let depth = |kind| self.queue_depth(kind);
        let depths = depth(fetchml_api::SlotKind::Batch) + depth(fetchml_api::SlotKind::Service);
        assert_eq!(depths, waiting.len(), "depths count what waits");
        assert!(self.datasets.tasks().all(|task| self.tasks.contains_key(&task)), "who needs data sets has not ended");
        assert!(self.tasks.values().all(|task| !task.status.is_terminal()), "ended tasks leave");
    }

    fn assert_attempts(&self) {
        let mut owned: BTreeMap<AttemptId, TaskId> = BTreeMap::new();
        for (&id, task) in &self.tasks {
            assert_eq!(task.status.is_active(), task.attempt().is_some(), "an active task has an attempt: {id}");
            owned.extend(task.attempt().map(|attempt| (attempt, id)));
        }
        let held: BTreeMap<_, _> = self.attempts.iter().map(|(&id, attempt)| (id, attempt.record.task_id)).collect();
        assert_eq!(owned, held, "the attempts held are the current ones");
        for (id, attempt) in &self.attempts {
            let (record, state) = (&attempt.record, self.tasks[&attempt.record.task_id].state(attempt.record.task_id));
            assert!(!record.phase.is_over(), "{id} is not over");
            assert_eq!(state.epoch, Some(record.epoch), "the task knows its epoch");
            assert_eq!(state.worker_id, Some(record.worker_id), "the task knows its worker");
            assert_eq!(state.attempt_count, record.number, "the current attempt is the last");
            assert!(record.epoch <= self.last_epoch(), "epochs come from here or before");
            let status = match record.phase {
                AttemptPhase::Running => TaskStatus::Running,
                AttemptPhase::Collecting => TaskStatus::Collecting,
                _ => TaskStatus::Preparing,
            };
            assert_eq!(state.status, status, "status follows phase");
        }
        for task in self.tasks.values() {
            let mut excluded = task.history().map(|history| history.excluded_workers.clone()).unwrap_or_default();
            excluded.sort_unstable();
            assert_eq!(self.queues.shapes.key(task.shape).excluded, excluded, "a task waits where it may not go");
        }
    }

    fn assert_rooms(&self) {
        let mut on_workers = 0;
        for (id, worker) in self.fleet.iter() {
            on_workers += worker.attempts.len();
            let (mut used, mut ahead) = (Used::default(), BTreeMap::new());
            let mut devices: BTreeMap<u32, AttemptId> = BTreeMap::new();
            for attempt_id in &worker.attempts {
                let attempt = &self.attempts[attempt_id];
                assert!(attempt.record.is_on(id), "an attempt is on its worker");
                if let Some(node) = self.node(*attempt_id, id) {
                    if node.phase < AttemptPhase::Collecting {
                        used.add(self.queues.demand(self.tasks[&attempt.record.task_id].shape));
                        for &gpu in &node.gpus {
                            assert_eq!(devices.insert(gpu, *attempt_id), None, "GPU {gpu} of {id} has one owner");
                        }
                    }
                    continue;
                }
                match attempt.holding {
                    Holding::Ahead { .. } => {
                        ahead.insert(attempt.record.epoch, *attempt_id);
                        assert!(attempt.record.phase < AttemptPhase::Running, "what runs has its room");
                    }
                    Holding::Room { .. } => {
                        used.add(self.queues.demand(self.tasks[&attempt.record.task_id].shape));
                        for &gpu in &attempt.record.gpus {
                            assert_eq!(devices.insert(gpu, *attempt_id), None, "GPU {gpu} of {id} has one owner");
                        }
                        assert!(attempt.record.phase < AttemptPhase::Collecting, "what is dead holds nothing");
                    }
                    Holding::Nothing => {
                        assert_eq!(attempt.record.phase, AttemptPhase::Collecting, "what lives has a place");
                    }
                }
            }
            assert_eq!(*worker.used(), used, "what is used of {id} is what its attempts hold");
            assert_eq!(worker.ahead, ahead, "what waits ahead on {id}");
            for (index, owner) in worker.devices() {
                assert_eq!(owner, devices.get(&index).copied(), "owner of GPU {index} of {id}");
            }
        }
        let parts = self.attempts.values().map(|attempt| {
            let nodes = &attempt.record.nodes;
            if nodes.is_empty() { 1 } else { nodes.iter().filter(|node| !node.phase.is_over()).count() }
        });
        assert_eq!(on_workers, parts.sum::<usize>(), "every attempt is on its workers");
        for (id, attempt) in self.attempts.iter().filter(|(_, attempt)| !attempt.record.nodes.is_empty()) {
            let AttemptRecord { nodes, phase, .. } = &attempt.record;
            let runs = nodes.iter().any(|node| node.phase == AttemptPhase::Running);
            assert!(!runs || *phase >= AttemptPhase::Ready, "no node of {id} runs before its release");
            let holds = nodes.iter().any(|node| node.phase < AttemptPhase::Collecting);
            assert_eq!(holds, attempt.holding != Holding::Nothing, "{id} holds room while one of its nodes does");
            assert!(nodes.iter().any(|node| !node.phase.is_over()), "{id} is over when all its nodes are");
        }
    }

    fn assert_stopped(&self) {
        let generation = self.fleet.generation();
        for (shape, _, (_, task)) in self.queues.places() {
            if self.queues.is_stopped(shape, generation) && !self.holds.contains_key(&task) {
                let tokens = &self.queues.shapes.value(shape).gpu_tokens;
                let fits = self.fleet.pick(task, self.queues.shapes.key(shape), tokens);
                assert_eq!(fits, None, "{task} is stopped because it fits nowhere");
            }
        }
    }

    fn assert_timers(&self) {
        let mut expected = BTreeSet::new();
        for (id, worker) in self.fleet.iter() {
            let silent = worker.silent_at(self.settings.offline_after_s);
            let lease = self.lease_ends(id);
            expected.extend(silent.map(|at| (at, Timer::WorkerSilent(id))));
            expected.extend(lease.map(|at| (at, Timer::LeaseEnds(id))));
        }
        for (&id, attempt) in &self.attempts {
            expected.extend(self.prepare_ends(&attempt.record).map(|at| (at, Timer::PrepareEnds(id))));
            if let Holding::Ahead { patience_ends } = attempt.holding {
                expected.insert((patience_ends, Timer::PatienceEnds(id)));
            }
        }
        expected.extend(self.reservation_timers());
        let is_backoff = |timer: Timer| matches!(timer, Timer::BackoffEnds(_));
        let set: BTreeSet<_> = self.timers.iter().filter(|&(_, timer)| !is_backoff(timer)).collect();
        assert_eq!(set, expected, "timers");
    }
}
