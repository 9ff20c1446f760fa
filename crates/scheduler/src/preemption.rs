//! Preemption, where it is switched on: a task that fits nowhere has others of lower priority stopped,
//! those that lose least work first. Planned before anything is done: nothing is stopped unless the
//! task then starts.
//!
//! The workers are held for the task until it starts. What is stopped keeps its room until its worker says that
//! its processes are dead, and is queued again at no cost. That an attempt is stopped for a task is durable.

use crate::{
    Effect, Message, Scheduler,
    attempt::{Attempt, Holding},
    audit::{self, Action, SYSTEM},
    fleet::Place,
    hold::{HeldFor, Hold},
    limits,
    queue::Head,
    worker::Worker,
};
use fetchml_api::{AttemptId, AttemptPhase, Demand, FailureCause, Micros, SlotKind, TaskId, WorkerId, link::Outcome};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

/// What of one worker has to go, and what is lost with it.
struct Share {
    lost: i64,
    worker: WorkerId,
    victims: Vec<AttemptId>,
}

/// What makes a task start: workers, and the attempts that have to be stopped.
struct Plan {
    workers: Vec<WorkerId>,
    victims: BTreeSet<AttemptId>,
}

impl Scheduler {
    /// Stops attempts for those who wait and fit nowhere, best head first.
    pub(crate) fn preempt(&mut self, effects: &mut Vec<Effect>) {
        let is_on = self.settings.preempt_batch || self.settings.preempt_service;
        let waits = [SlotKind::Service, SlotKind::Batch].iter().any(|&kind| self.queues.depth(kind) > 0);
        self.preempts_at = None;
        if !is_on || !waits {
            return;
        }
        if let Some(next) = self.preempted_at.map(|at| Micros(at.0.saturating_add(limits::PREEMPT_EVERY)))
            && self.now < next
        {
            self.preempts_at = Some(next);
            return;
        }
        self.preempted_at = Some(self.now);
        for kind in [SlotKind::Service, SlotKind::Batch] {
            if self.queues.depth(kind) > 0 {
                self.preempt_for(kind, effects);
            }
        }
    }

    fn preempt_for(&mut self, kind: SlotKind, effects: &mut Vec<Effect>) {
        let Some(lowest) = self.lowest_that_may_go() else { return };
        let mut contest = self.contest(kind, None);
        for _ in 0..limits::PREEMPT_LOOKS_MAX {
            let Some(head) = contest.next(&self.queues) else { return };
            while let Some(next) = self.next_to_preempt_for(head)
                && self.tasks[&next.task()].priority > lowest
                && let Some(plan) = self.plan_for(next)
            {
                self.carry_out(next, plan, effects);
            }
            contest.go_on(&self.queues, head, self.share(head.user));
        }
    }

    /// The first of a queue for which nothing is being stopped yet.
    fn next_to_preempt_for(&self, head: Head) -> Option<Head> {
        let preempts = |id: &TaskId| self.holds.get(id).is_some_and(Hold::preempts);
        if self.holds.values().filter(|hold| hold.preempts()).count() >= limits::PREEMPTIONS_MAX {
            return None;
        }
        let place = self.queues.queue(head.shape, head.user).find(|(_, id)| !preempts(id))?;
        Some(Head { place, ..head })
    }

    /// The lowest priority of what may be stopped at all.
    fn lowest_that_may_go(&self) -> Option<u8> {
        let may_go = self.attempts.values().filter(|attempt| self.may_go(attempt));
        may_go.map(|attempt| self.tasks[&attempt.record.task_id].priority).min()
    }

    /// Whether an attempt may be stopped for a task of higher priority.
    fn may_go(&self, attempt: &Attempt) -> bool {
        let record = &attempt.record;
        let task = &self.tasks[&record.task_id];
        let demand = self.queues.demand(task.shape);
        let switched = match demand.slot {
            SlotKind::Batch => self.settings.preempt_batch,
            SlotKind::Service => self.settings.preempt_service,
        };
        let holds = matches!(attempt.holding, Holding::Room { .. }) && record.phase < AttemptPhase::Collecting;
        let ends_anyhow = record.outcome.is_some() || task.cancelled_by().is_some() || self.was_evicted(record);
        // What was promised to its user is not taken away.
        switched && holds && !ends_anyhow && demand.reservation.is_none() && !self.is_spared(attempt)
    }

    /// Whether it was stopped lately and has not run for long enough since.
    fn is_spared(&self, attempt: &Attempt) -> bool {
        let history = self.tasks[&attempt.record.task_id].history();
        let was_stopped = history.is_some_and(|history| history.cause == Some(FailureCause::Preempted));
        let ran = attempt.record.started_at.map_or(0, |started| self.now.since(started));
        was_stopped && ran < self.settings.preempt_cooldown()
    }

    /// Work that is lost when an attempt is stopped now: time since its last checkpoint, on each node.
    fn lost_with(&self, attempt: &Attempt) -> i64 {
        let Some(started) = attempt.record.started_at else { return 0 };
        let kept = attempt.checkpoint_at.map_or(started, |at| at.clamp(started, self.now.max(started)));
        let nodes = attempt.record.nodes.len().max(1) as i64;
        self.now.since(kept).max(0).saturating_mul(nodes)
    }

    /// The cheapest way to let a head start now. None: it cannot, or it need not.
    fn plan_for(&self, head: Head) -> Option<Plan> {
        let id = head.task();
        let needs = self.queues.shapes.key(head.shape);
        let tokens = &self.queues.shapes.value(head.shape).gpu_tokens;
        if self.stopped_by_quota(head.user, &needs.demand).is_some() || self.fleet.pick(id, needs, tokens).is_some() {
            return None;
        }
        let hosts = self.fleet.iter().filter(|(host, worker)| {
            let is_ours = worker.held_for.as_ref().is_none_or(|held| held.task == id);
            let takes = worker.takes_work() && worker.ahead.is_empty() && is_ours;
            takes && !needs.excluded.contains(host) && worker.could_host(&needs.demand, tokens)
        });
        let mut shares: Vec<Share> = hosts.filter_map(|(host, worker)| self.share_of(host, worker, head)).collect();
        shares.sort_by_key(|share| (share.lost, share.victims.len(), share.worker));
        shares.truncate(needs.demand.nodes as usize);
        let plan = Plan {
            workers: shares.iter().map(|share| share.worker).collect(),
            victims: shares.into_iter().flat_map(|share| share.victims).collect(),
        };
        // What is stopped for it already has to be enough: else a restart would have more stopped than needed.
        let marked = |victim: &AttemptId| self.attempts[victim].record.preempted_for == Some(id);
        let has_marked = self.attempts.values().any(|attempt| attempt.record.preempted_for == Some(id));
        let is_enough = !has_marked || plan.victims.iter().all(marked);
        (is_enough && !plan.victims.is_empty() && self.starts_after(head, &plan).is_some()).then_some(plan)
    }

    /// The cheapest attempts of one worker without which a head fits on it.
    fn share_of(&self, id: WorkerId, worker: &Worker, head: Head) -> Option<Share> {
        let priority = self.tasks[&head.task()].priority;
        let fits = |gone: &[AttemptId]| self.room_without(worker, gone, head).is_some();
        let mut found: Vec<_> = worker
            .attempts
            .iter()
            .filter_map(|attempt_id| {
                let attempt = &self.attempts[attempt_id];
                let of = self.tasks[&attempt.record.task_id].priority;
                let marked = attempt.record.preempted_for == Some(head.task());
                let goes = marked || (of < priority && self.may_go(attempt));
                let lost = if marked { 0 } else { self.lost_with(attempt) };
                (goes && self.holds_room_on(*attempt_id, id)).then_some((
                    !marked,
                    lost,
                    of,
                    Reverse(attempt.record.epoch),
                    *attempt_id,
                ))
            })
            .collect();
        found.sort_unstable();
        let mut victims: Vec<AttemptId> = Vec::new();
        let mut left = found.iter();
        while !fits(&victims) {
            victims.push(left.next()?.4);
        }
        // The dearest first: what is not needed after all stays.
        for candidate in victims.clone().into_iter().rev() {
            let others: Vec<AttemptId> = victims.iter().copied().filter(|victim| *victim != candidate).collect();
            if fits(&others) {
                victims = others;
            }
        }
        let lost_of = |victim: &AttemptId| found.iter().find(|(.., id)| id == victim).map_or(0, |found| found.1);
        let lost = victims.iter().map(lost_of).fold(0, i64::saturating_add);
        Some(Share { lost, worker: id, victims })
    }

    /// The devices that a head would get of a worker on which these attempts held nothing any more, if it had room.
    fn room_without(&self, worker: &Worker, gone: &[AttemptId], head: Head) -> Option<Vec<u32>> {
        let demand_of = |id: &AttemptId| self.queues.demand(self.tasks[&self.attempts[id].record.task_id].shape);
        let gone: BTreeMap<AttemptId, &Demand> = gone.iter().map(|id| (*id, demand_of(id))).collect();
        let demand = self.queues.demand(head.shape);
        worker.room_without(&gone, demand, &self.queues.shapes.value(head.shape).gpu_tokens)
    }

    /// Whether an attempt has room on a worker that is not free yet.
    fn holds_room_on(&self, id: AttemptId, worker: WorkerId) -> bool {
        let holds = matches!(self.attempts[&id].holding, Holding::Room { .. });
        holds && self.node(id, worker).is_none_or(|node| node.phase < AttemptPhase::Collecting)
    }

    /// Where a head would be placed if a plan were carried out: the proof, on copies of the workers.
    fn starts_after(&self, head: Head, plan: &Plan) -> Option<Vec<Place>> {
        let places = plan.workers.iter().filter_map(|&id| {
            let worker = self.fleet.get(id)?;
            let gone = plan.victims.intersection(&worker.attempts).copied();
            let gone: Vec<AttemptId> = gone.filter(|&victim| self.holds_room_on(victim, id)).collect();
            Some((id, self.room_without(worker, &gone, head)?))
        });
        let places: Vec<Place> = places.collect();
        (places.len() == self.queues.demand(head.shape).nodes as usize).then_some(places)
    }

    /// Holds the workers for a task, and has what stands in its way stopped.
    fn carry_out(&mut self, head: Head, plan: Plan, effects: &mut Vec<Effect>) {
        let id = head.task();
        self.drop_hold(id);
        let held = HeldFor { task: id, demand: self.queues.demand(head.shape).clone() };
        for &worker in &plan.workers {
            self.fleet.change(worker, |worker| worker.held_for = Some(held.clone()));
        }
        let Plan { workers, victims } = plan;
        self.holds.insert(id, Hold { workers, victims: victims.clone() });
        for victim in victims {
            if self.attempts[&victim].record.preempted_for.is_none() {
                self.stop_for(victim, id, effects);
            }
        }
    }

    fn stop_for(&mut self, victim: AttemptId, task: TaskId, effects: &mut Vec<Effect>) {
        let attempt = self.attempts.get_mut(&victim).expect("what is planned is current");
        attempt.record.preempted_for = Some(task);
        let record = attempt.record.clone();
        let state = self.tasks[&record.task_id].state(record.task_id);
        let mut draft = audit::draft(self.now, SYSTEM, Action::Preempt, &state, Some(&record));
        draft.metadata.insert("for".to_owned(), task.to_string());
        effects.push(Effect::Audit(draft));
        effects.push(Effect::PutAttempt(record));
        self.ask_to_stop(victim, effects);
    }

    /// Tells the workers of an attempt that is stopped for a task.
    pub(crate) fn ask_to_stop(&mut self, victim: AttemptId, effects: &mut Vec<Effect>) {
        let record = &self.attempts[&victim].record;
        let (worker, is_gang) = (record.worker_id, !record.nodes.is_empty());
        if is_gang {
            let error = Some("stopped to make room for another task".to_owned());
            let outcome = Outcome { cause: Some(FailureCause::Preempted), error, ..Outcome::default() };
            return self.fail_gang(victim, outcome, effects);
        }
        let message = Message::Cancel { attempt: victim, cause: FailureCause::Preempted };
        effects.push(Effect::Send { worker, message });
    }

    /// Holds for which nothing is left to be stopped, and whose task has not started all the same, have no point:
    /// the worker has become another meanwhile.
    pub(crate) fn review_preemptions(&mut self) {
        let attempts = &self.attempts;
        let still =
            |victim: &AttemptId| attempts.get(victim).is_some_and(|attempt| attempt.holding != Holding::Nothing);
        let done = self.holds.iter().filter(|(_, hold)| hold.preempts() && !hold.victims.iter().any(still));
        let done: Vec<TaskId> = done.map(|(&id, _)| id).collect();
        for id in done {
            self.drop_hold(id);
        }
    }

    /// For how many attempts that are being stopped a task waits.
    pub fn stopped_for(&self, id: TaskId) -> usize {
        self.attempts.values().filter(|attempt| attempt.record.preempted_for == Some(id)).count()
    }

    /// An attempt has left a checkpoint.
    pub(crate) fn on_checkpoint_saved(&mut self, id: AttemptId) -> crate::Answer {
        let Some(attempt) = self.attempts.get_mut(&id) else { return crate::Answer::NotActive };
        attempt.checkpoint_at = Some(self.now);
        crate::Answer::Done
    }

    pub(crate) fn restore_checkpoints(&mut self, checkpoints: &BTreeMap<AttemptId, Micros>) {
        for (id, at) in checkpoints {
            if let Some(attempt) = self.attempts.get_mut(id) {
                attempt.checkpoint_at = Some(*at);
            }
        }
    }
}
