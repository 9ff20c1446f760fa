//! The end of a turn: waiting tasks get workers, best head first. What fits nowhere may be assigned
//! ahead to a worker whose attempts are short, which hides the time a commit takes.

use crate::{
    Answer, Effect, Refusal, Scheduler,
    attempt::{Attempt, Holding, attempt_id},
    audit::{self, Action, SYSTEM},
    contest::Contest,
    fleet::Place,
    gang, limits,
    queue::{Head, Needs},
    share::{self, Amounts},
    timers::Timer,
};
use fetchml_api::{
    AttemptEpoch, AttemptId, AttemptPhase, AttemptRecord, Micros, NodeRecord, SlotKind, TaskStatus, WorkerId,
    time::SECOND,
};
use std::collections::BTreeSet;

impl Scheduler {
    pub(crate) fn on_turn_ended(&mut self, effects: &mut Vec<Effect>) -> Answer {
        let epochs_before = self.epochs_used;
        let settled = self.groups.are_settled();
        self.follow_ends(effects);
        self.review_reservations(effects);
        self.review_holds();
        self.place_held(effects);
        self.review_preemptions();
        for kind in [SlotKind::Service, SlotKind::Batch] {
            self.place(kind, effects);
            self.backfill(kind, effects);
        }
        let before = effects.len();
        self.preempt(effects);
        let stops = effects.len() > before;
        self.place_ahead(effects);
        if self.epochs_used == epochs_before && settled && !stops { Answer::Unchanged } else { Answer::Done }
    }

    /// Places heads in the order of the contest. One that fits nowhere stops its shape until there is
    /// more room.
    fn place(&mut self, kind: SlotKind, effects: &mut Vec<Effect>) {
        let generation = self.fleet.generation();
        if self.fleet.is_full(kind) || self.queues.all_stopped(kind, generation) {
            return;
        }
        let mut contest = self.contest(kind, Some(generation));
        let mut most = self.most_grown(kind);
        while !self.fleet.is_full(kind) && !self.queues.all_stopped(kind, generation) {
            let Some(head) = contest.next(&self.queues) else { return };
            match self.stopped_by_quota(head.user, self.queues.demand(head.shape)) {
                // None of the user's heads can go.
                Some(Refusal::Running { .. }) => continue,
                Some(_) => {
                    contest.go_on(&self.queues, head, self.share(head.user));
                    continue;
                }
                None => {}
            }
            if let Some(places) = self.find_places(head, kind, most) {
                let attempt = self.assign(head, places, effects);
                self.take_room(attempt);
                most = self.most_grown(kind);
            } else {
                self.queues.stop(head.shape, generation);
            }
            contest.go_on(&self.queues, head, self.share(head.user));
        }
        if self.queues.all_stopped(kind, generation) {
            self.fleet.settle(kind);
        }
    }

    /// The most that one worker has free of those that have more room than when nothing fitted.
    fn most_grown(&self, kind: SlotKind) -> Option<Amounts> {
        let grown = self.fleet.grown_since(kind, Some(u64::MAX))?;
        Some(self.fleet.most_free(grown, kind).unwrap_or_default())
    }

    /// Where a head fits. What fitted nowhere before is tried only where there is more room since.
    fn find_places(&self, head: Head, kind: SlotKind, most: Option<Amounts>) -> Option<Vec<Place>> {
        let needs = self.queues.shapes.key(head.shape);
        let tokens = &self.queues.shapes.value(head.shape).gpu_tokens;
        if needs.demand.reservation.is_some() {
            return self.fleet.pick(head.task(), needs, tokens);
        }
        let places = match (self.fleet.grown_since(kind, self.queues.stopped_at(head.shape)), most) {
            (Some(_), Some(most)) if !most.covers(&needs.demand) => None,
            (Some(grown), _) => self.fleet.pick_grown(grown, head.task(), needs, tokens),
            (None, _) => self.fleet.pick(head.task(), needs, tokens),
        };
        match (places, self.datasets.wanted_by(head.task())) {
            (Some(mut places), Some(wanted)) if places.len() == 1 => {
                let at_hand = |worker| self.datasets.at_hand(wanted, worker);
                Some(vec![self.fleet.rather(places.remove(0), head.task(), needs, tokens, at_hand)])
            }
            (places, _) => places,
        }
    }

    pub(crate) fn contest(&self, kind: SlotKind, stopped_at: Option<u64>) -> Contest {
        let interval = self.settings.aging_interval();
        Contest::new(&self.queues, kind, self.now, interval, stopped_at, |user| self.share(user))
    }

    /// Assigns work ahead. A head that cannot go ahead itself keeps its chance: a worker that it
    /// waits for gets nothing ahead that would take the slot from under it.
    fn place_ahead(&mut self, effects: &mut Vec<Effect>) {
        if self.queues.depth(SlotKind::Batch) == 0 || self.fleet.takes_ahead().next().is_none() {
            return;
        }
        let mut awaited = BTreeSet::new();
        let mut misses = 0;
        let mut contest = self.contest(SlotKind::Batch, None);
        while misses < limits::PREFETCH_MISSES_MAX {
            if !self.fleet.takes_ahead().any(|(id, _)| !awaited.contains(&id)) {
                return;
            }
            let Some(head) = contest.next(&self.queues) else { return };
            if self.stopped_by_quota(head.user, self.queues.demand(head.shape)).is_some() {
                misses += 1;
                contest.go_on(&self.queues, head, self.share(head.user));
                continue;
            }
            if let Some(worker) = self.fleet.pick_ahead(self.queues.shapes.key(head.shape), &awaited) {
                let attempt = self.assign(head, vec![(worker, Vec::new())], effects);
                let epoch = self.attempts[&attempt].record.epoch;
                self.fleet.change(worker, |worker| worker.ahead.insert(epoch, attempt));
            } else {
                misses += 1;
                awaited.extend(self.awaited_by(head));
            }
            contest.go_on(&self.queues, head, self.share(head.user));
        }
    }

    /// Busy workers that may get work ahead and that a head waits for, since it could run there.
    pub(crate) fn awaited_by(&self, head: Head) -> impl Iterator<Item = WorkerId> + '_ {
        let Needs { demand, excluded } = self.queues.shapes.key(head.shape);
        let tokens = &self.queues.shapes.value(head.shape).gpu_tokens;
        let workers = self.fleet.takes_ahead();
        let hosts = workers.filter(|(id, worker)| !excluded.contains(id) && worker.could_host(demand, tokens));
        hosts.map(|(id, _)| id)
    }

    /// Makes a new attempt of a waiting task, assigned ahead until it takes its room.
    pub(crate) fn assign(&mut self, head: Head, places: Vec<Place>, effects: &mut Vec<Effect>) -> AttemptId {
        let (id, now) = (head.task(), self.now);
        self.drop_hold(id);
        self.queues.remove(head.shape, head.user, head.place);
        self.epochs_used += 1;
        let epoch = AttemptEpoch { incarnation: self.settings.incarnation, n: self.epochs_used };
        let attempt = attempt_id(now, epoch);
        let (worker, gpus) = places.first().cloned().expect("an attempt has a place");
        let workers: Vec<WorkerId> = places.iter().map(|&(worker, _)| worker).collect();
        let node = |(worker_id, gpus)| NodeRecord {
            worker_id,
            gpus,
            phase: AttemptPhase::Assigned,
            address: None,
            port: None,
        };
        let nodes = if places.len() > 1 { places.into_iter().map(node).collect() } else { Vec::new() };

        let task = self.task_mut(id);
        task.status = TaskStatus::Preparing;
        task.waited_before = task.waited_before.saturating_add(now.since(task.queued_since).max(0));
        let history = task.history_mut();
        history.not_before = None;
        history.attempt = Some(attempt);
        history.epoch = Some(epoch);
        history.worker_id = Some(worker);
        history.started_at = None;
        history.attempt_count += 1;
        let number = history.attempt_count;

        task.history_mut().nodes = gang::shown(&nodes);
        let record = AttemptRecord {
            id: attempt,
            task_id: id,
            number,
            epoch,
            worker_id: worker,
            gpus,
            phase: AttemptPhase::Assigned,
            created_at: now,
            started_at: None,
            ended_at: None,
            outcome: None,
            nodes,
            preempted_for: None,
        };
        effects.push(Effect::PutAttempt(record.clone()));
        let state = self.tasks[&id].state(id);
        effects.push(Effect::Audit(audit::draft(now, SYSTEM, Action::Assign, &state, Some(&record))));
        effects.push(Effect::UpdateTask(state));
        effects.extend(workers.iter().map(|&worker| gang::assignment(&record, worker)));

        let patience_ends = self.patience_ends();
        self.timers.set(Timer::PatienceEnds(attempt), None, Some(patience_ends));
        self.attempts.insert(attempt, Attempt::new(record, Holding::Ahead { patience_ends }));
        let prepare_ends = self.prepare_ends(&self.attempts[&attempt].record);
        self.timers.set(Timer::PrepareEnds(attempt), None, prepare_ends);
        for worker in workers {
            self.fleet.change(worker, |worker| worker.attempts.insert(attempt));
            self.arm(worker);
        }
        self.users.value_mut(head.user).queued -= 1;
        self.begin_holding(id);
        if share::is_charged(&self.attempts[&attempt].record, self.queues.demand(head.shape)) {
            self.begin_charge(id);
        }
        attempt
    }

    /// Gives an attempt that holds nothing yet its slot, cores, memory and devices.
    pub(crate) fn take_room(&mut self, id: AttemptId) {
        let attempt = self.attempts.get_mut(&id).expect("only current attempts hold anything");
        let Holding::Ahead { patience_ends } = attempt.holding else {
            unreachable!("an attempt takes its room once");
        };
        self.timers.set(Timer::PatienceEnds(id), Some(patience_ends), None);
        attempt.holding = Holding::Room { since: self.now };
        let record = &attempt.record;
        let demand = self.queues.demand(self.tasks[&record.task_id].shape);
        if record.nodes.is_empty() {
            self.fleet.change(record.worker_id, |worker| {
                worker.ahead.remove(&record.epoch);
                worker.hold(id, demand, &record.gpus);
            });
        }
        for node in &record.nodes {
            self.fleet.change(node.worker_id, |worker| worker.hold(id, demand, &node.gpus));
        }
    }

    /// Lets attempts that were assigned ahead move up, oldest first, as their worker does by itself.
    pub(crate) fn promote(&mut self, worker: WorkerId) {
        while let Some(id) = self.next_to_promote(worker) {
            self.take_room(id);
        }
    }

    fn next_to_promote(&self, id: WorkerId) -> Option<AttemptId> {
        let worker = self.fleet.get(id)?;
        let (_, &attempt) = worker.ahead.first_key_value()?;
        let task = self.attempts[&attempt].record.task_id;
        worker.has_room(self.queues.demand(self.tasks[&task].shape)).then_some(attempt)
    }

    pub(crate) fn patience_ends(&self) -> Micros {
        Micros(self.now.0.saturating_add(self.settings.prefetch_patience_ms.max(1).saturating_mul(SECOND / 1_000)))
    }
}
