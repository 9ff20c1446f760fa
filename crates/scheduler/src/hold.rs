//! Holds: a task that has waited long enough without fitting anywhere gets a fixed set of workers on
//! which nothing new starts that could make it wait longer. So a large task starts though small ones
//! never stop coming.
//!
//! Holds are volatile: after a restart they are made again, from what waits and what runs.

use crate::{Effect, Scheduler, attempt::Holding, fleet::Place, limits, queue::Head};
use fetchml_api::{AttemptId, Demand, Micros, SlotKind, TaskId, TaskStatus, WorkerId};
use std::collections::BTreeSet;

/// The workers that are held for a task.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Hold {
    pub(crate) workers: Vec<WorkerId>,
    /// Attempts that are being stopped so that the task can start.
    pub(crate) victims: BTreeSet<AttemptId>,
}

impl Hold {
    /// Whether the task starts as soon as something is dead that is being stopped: nothing may come in between.
    pub(crate) fn preempts(&self) -> bool {
        !self.victims.is_empty()
    }
}

/// For whom a worker is held, and what that task needs of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct HeldFor {
    pub(crate) task: TaskId,
    pub(crate) demand: Demand,
}

/// Too few workers could ever take a task.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Hostless;

impl Scheduler {
    /// Gives up holds that have no point any more, and makes new ones for those who wait longest
    /// without fitting anywhere, best first.
    pub(crate) fn review_holds(&mut self) {
        let tasks: Vec<TaskId> = self.holds.keys().copied().collect();
        for id in tasks {
            if !self.hold_stands(id) {
                self.drop_hold(id);
            }
        }
        for kind in [SlotKind::Batch, SlotKind::Service] {
            self.make_holds(kind);
        }
    }

    pub(crate) fn hold_stands(&self, id: TaskId) -> bool {
        let task = &self.tasks[&id];
        let needs = self.queues.shapes.key(task.shape);
        let tokens = &self.queues.shapes.value(task.shape).gpu_tokens;
        self.stopped_by_quota(task.user, &needs.demand).is_none()
            && self.holds[&id].workers.iter().all(|&worker| {
                let found = self.fleet.get(worker);
                found.is_some_and(|worker| worker.takes_work() && worker.could_host(&needs.demand, tokens))
            })
    }

    fn make_holds(&mut self, kind: SlotKind) {
        if self.plain_holds() >= limits::HOLDS_MAX || self.queues.depth(kind) == 0 {
            return;
        }
        let mut contest = self.contest(kind, None);
        for _ in 0..limits::HOLD_LOOKS_MAX {
            let Some(head) = contest.next(&self.queues) else { return };
            if let Some(workers) = self.hosts_for(head) {
                let held = HeldFor { task: head.task(), demand: self.queues.demand(head.shape).clone() };
                for &worker in &workers {
                    self.fleet.change(worker, |worker| worker.held_for = Some(held.clone()));
                }
                self.holds.insert(head.task(), Hold { workers, victims: BTreeSet::new() });
                if self.plain_holds() >= limits::HOLDS_MAX {
                    return;
                }
            }
            contest.go_on(&self.queues, head, self.share(head.user));
        }
    }

    fn plain_holds(&self) -> usize {
        self.holds.values().filter(|hold| !hold.preempts()).count()
    }

    /// The workers to hold for a head, if it has waited long enough, fits nowhere now, and some could
    /// take it: those that will have room first, as far as that is known.
    fn hosts_for(&mut self, head: Head) -> Option<Vec<WorkerId>> {
        let found = self.find_hosts(head);
        if found.is_err() {
            self.queues.shapes.value_mut(head.shape).hostless_at = Some(self.fleet.roster());
        }
        found.ok().flatten()
    }

    /// The same, changing nothing.
    pub(crate) fn find_hosts(&self, head: Head) -> Result<Option<Vec<WorkerId>>, Hostless> {
        let waited = self.now.since(self.tasks[&head.task()].queued_since);
        let needs = self.queues.shapes.key(head.shape);
        let shape = self.queues.shapes.value(head.shape);
        let roster = self.fleet.roster();
        if waited < self.settings.hold_after()
            || self.holds.contains_key(&head.task())
            || shape.hostless_at == Some(roster)
            || self.stopped_by_quota(head.user, &needs.demand).is_some()
            || self.fleet.pick(head.task(), needs, &shape.gpu_tokens).is_some()
        {
            return Ok(None);
        }
        let hosts = self.fleet.iter().filter(|(id, worker)| {
            worker.takes_work() && !needs.excluded.contains(id) && worker.could_host(&needs.demand, &shape.gpu_tokens)
        });
        let hosts: Vec<_> = hosts.map(|(id, worker)| (worker.held_for.is_some(), id)).collect();
        let mut free: Vec<_> = hosts
            .iter()
            .filter(|(held, _)| !held)
            .map(|&(_, id)| {
                let ends = self.projected_end(id);
                (ends.is_none(), ends, id)
            })
            .collect();
        let wanted = needs.demand.nodes as usize;
        if hosts.len() < wanted {
            return Err(Hostless);
        }
        free.sort_unstable();
        free.truncate(wanted);
        Ok((free.len() == wanted).then(|| free.into_iter().map(|(.., id)| id).collect()))
    }

    /// When everything that a worker runs now must have ended. None: something has no limit.
    pub(crate) fn projected_end(&self, id: WorkerId) -> Option<Micros> {
        let worker = self.fleet.get(id)?;
        let running = worker.attempts.iter().map(|attempt| &self.attempts[attempt]);
        let mut ends = running.filter(|attempt| attempt.holding != Holding::Nothing).map(|attempt| {
            let limit = self.tasks[&attempt.record.task_id].time_limit()?;
            Some(attempt.record.started_at.unwrap_or(self.now).plus_seconds(limit.into()))
        });
        ends.try_fold(self.now, |latest, end| Some(latest.max(end?)))
    }

    /// When a task with a hold can start at the latest, as far as the limits of what runs tell.
    pub(crate) fn projected_start(&self, id: TaskId) -> Option<Micros> {
        let hold = self.holds.get(&id)?;
        hold.workers
            .iter()
            .map(|&worker| self.projected_end(worker))
            .try_fold(self.now, |latest, end| Some(latest.max(end?)))
    }

    /// Takes back a task's hold, if it has one: its workers are everybody's again.
    pub(crate) fn drop_hold(&mut self, id: TaskId) {
        let Some(hold) = self.holds.remove(&id) else { return };
        for worker in hold.workers {
            self.fleet.change(worker, |worker| worker.held_for = None);
            self.fleet.has_room(worker);
        }
    }

    /// Places tasks on the workers that are held for them, where these have room now.
    pub(crate) fn place_held(&mut self, effects: &mut Vec<Effect>) {
        let held: Vec<(TaskId, Hold)> = self.holds.iter().map(|(&id, hold)| (id, hold.clone())).collect();
        for (id, hold) in held {
            let task = &self.tasks[&id];
            let head = self.head_of(id);
            let needs = self.queues.shapes.key(task.shape);
            let tokens = &self.queues.shapes.value(task.shape).gpu_tokens;
            if let Some(places) = self.fleet.pick_among(&hold.workers, needs, tokens) {
                let attempt = self.assign(head, places, effects);
                self.take_room(attempt);
            }
        }
    }

    /// Places on held workers what will have ended before they are needed.
    pub(crate) fn backfill(&mut self, kind: SlotKind, effects: &mut Vec<Effect>) {
        let held = self.backfilled_workers(kind);
        if held.is_empty() {
            return;
        }
        let mut contest = self.contest(kind, None);
        let mut looks = 0;
        while looks < limits::BACKFILL_LOOKS_MAX {
            let Some(head) = contest.next(&self.queues) else { return };
            looks += 1;
            for &(worker, start) in &held {
                while let Some((short, places)) = self.short_enough(head, worker, start, &mut looks) {
                    let attempt = self.assign(short, places, effects);
                    self.take_room(attempt);
                }
            }
            contest.go_on(&self.queues, head, self.share(head.user));
        }
    }

    /// Held workers with a free slot, and until when others may use them.
    pub(crate) fn backfilled_workers(&self, kind: SlotKind) -> Vec<(WorkerId, Micros)> {
        let plain = self.holds.iter().filter(|(_, hold)| !hold.preempts());
        let starts = plain.filter_map(|(&id, hold)| Some((self.projected_start(id)?, hold)));
        let mut held: Vec<(WorkerId, Micros)> =
            starts.flat_map(|(start, hold)| hold.workers.iter().map(move |&worker| (worker, start))).collect();
        held.retain(|(id, start)| {
            *start > self.now && self.fleet.get(*id).is_some_and(|worker| worker.slots_free(kind) > 0)
        });
        held
    }

    /// The first of a queue that fits on a worker now and ends before an instant, and its devices.
    pub(crate) fn short_enough(
        &self,
        head: Head,
        worker: WorkerId,
        before: Micros,
        looks: &mut usize,
    ) -> Option<(Head, Vec<Place>)> {
        let needs = self.queues.shapes.key(head.shape);
        let tokens = &self.queues.shapes.value(head.shape).gpu_tokens;
        let places = self.fleet.pick_among(&[worker], needs, tokens)?;
        if self.stopped_by_quota(head.user, &needs.demand).is_some() {
            return None;
        }
        let most = limits::BACKFILL_TRIES_MAX;
        let found = self.queues.queue(head.shape, head.user).take(most).inspect(|_| *looks += 1).find(|(_, id)| {
            let ends = self.tasks[id].time_limit().map(|limit| self.now.plus_seconds(limit.into()));
            ends.is_some_and(|ends| ends <= before) && !self.holds.contains_key(id)
        });
        found.map(|place| (Head { place, ..head }, places))
    }

    /// The place of a task that waits in a queue.
    pub(crate) fn head_of(&self, id: TaskId) -> Head {
        let task = &self.tasks[&id];
        Head { place: (task.key(self.settings.aging_interval()), id), shape: task.shape, user: task.user }
    }

    /// Panics unless holds and workers say the same.
    pub(crate) fn assert_holds(&self) {
        assert!(self.plain_holds() <= limits::HOLDS_MAX);
        assert!(self.holds.len() - self.plain_holds() <= limits::PREEMPTIONS_MAX);
        for (id, hold) in &self.holds {
            for victim in hold.victims.iter().filter_map(|victim| self.attempts.get(victim)) {
                assert_eq!(victim.record.preempted_for, Some(*id), "what is stopped for {id} is marked");
            }
            let task = &self.tasks[id];
            assert_eq!(task.status, TaskStatus::Queued, "{id} has a hold and waits");
            let head = self.head_of(*id);
            assert!(self.queues.contains(head.shape, head.user, head.place), "{id} has a hold and its place");
            for worker in &hold.workers {
                let held_for = self.fleet.get(*worker).and_then(|worker| worker.held_for.as_ref());
                assert_eq!(held_for.map(|held| held.task), Some(*id), "{worker} is held for {id}");
            }
        }
        let held = self.fleet.iter().filter(|(_, worker)| worker.held_for.is_some()).count();
        assert_eq!(held, self.holds.values().map(|hold| hold.workers.len()).sum::<usize>(), "workers that are held");
    }
}
