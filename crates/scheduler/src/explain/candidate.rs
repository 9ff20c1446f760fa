//! A task that waits, or might, and whether the next turn would place it.

use crate::{
    BlockedBy, NewTask, Refusal, Scheduler,
    fleet::Place as Room,
    gpu,
    hold::Hold,
    limits,
    queue::{Head, Needs, Place},
    quota,
    share::Account,
};
use fetchml_api::{Micros, Quota, SlotKind, TaskId, WorkerId};
use std::{cmp::Reverse, collections::BTreeSet};

/// What placement looks at.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub(super) task: TaskId,
    /// It is known to the core.
    pub(super) waits: bool,
    pub(super) user: String,
    pub(super) quota: Quota,
    pub(super) account: Account,
    pub(super) needs: Needs,
    pub(super) gpu_tokens: Vec<String>,
    pub(super) time_limit_s: Option<u32>,
    pub(super) priority: u8,
    pub(super) place: Place,
    /// End of its backoff.
    pub(super) not_before: Option<Micros>,
    pub(super) hold: Option<Hold>,
    /// What it waits for besides room.
    pub(super) blocked: Option<BlockedBy>,
}

/// What assigning ahead comes to.
enum Ahead {
    /// One of them is assigned.
    Assigned,
    /// None of them, and they wait for these workers, so that nobody behind them gets those.
    Left(BTreeSet<WorkerId>),
    /// No worker is left for who comes next.
    NoWorker,
}

impl Candidate {
    /// The quota that keeps it from being placed.
    pub(super) fn stopped_by_quota(&self) -> Option<Refusal> {
        quota::stops(&self.quota, &self.account, &self.needs.demand)
    }
}

impl Scheduler {
    pub(super) fn candidate(&self, id: TaskId) -> Candidate {
        let task = &self.tasks[&id];
        let (user, account) = (self.users.key(task.user), self.users.value(task.user));
        Candidate {
            task: id,
            waits: true,
            user: user.clone(),
            quota: self.quotas.of(user, account.role),
            account: account.clone(),
            needs: self.queues.shapes.key(task.shape).clone(),
            gpu_tokens: self.queues.shapes.value(task.shape).gpu_tokens.clone(),
            time_limit_s: task.time_limit(),
            priority: task.priority,
            place: self.head_of(id).place,
            not_before: task.history().and_then(|history| history.not_before).filter(|&at| at > self.now),
            hold: self.holds.get(&id).cloned(),
            blocked: self.blocked_by(id),
        }
    }

    /// As if it were submitted now, behind all that was.
    pub(super) fn candidate_new(&self, new: &NewTask) -> Candidate {
        let id = TaskId(uuid::Uuid::max());
        let account = self.users.find(&new.user_id).map(|user| self.users.value(user).clone()).unwrap_or_default();
        let key = crate::task::Task::new(new, self.now, 0, 0).key(self.settings.aging_interval());
        Candidate {
            task: id,
            waits: false,
            user: new.user_id.clone(),
            quota: self.quotas.of(&new.user_id, new.role),
            account,
            needs: Needs { demand: new.demand.clone(), excluded: Vec::new() },
            gpu_tokens: new.demand.gpu_type.as_deref().map(gpu::tokens).unwrap_or_default(),
            time_limit_s: new.time_limit_s,
            priority: new.priority,
            place: (key, id),
            not_before: None,
            hold: None,
            blocked: Self::blocked_new(new),
        }
    }

    /// Whether the next turn places it, if nothing else changes: with room of its own, in the shadow of a hold,
    /// or ahead.
    pub(super) fn would_start(&self, candidate: &Candidate) -> bool {
        candidate.stopped_by_quota().is_none()
            && (self.finds_room(candidate).is_some() || self.is_backfilled(candidate) || self.goes_ahead(candidate))
    }

    /// Where there is room for it that is nobody's.
    pub(super) fn finds_room(&self, candidate: &Candidate) -> Option<Vec<Room>> {
        let (needs, tokens) = (&candidate.needs, &candidate.gpu_tokens);
        let held = candidate.hold.as_ref().and_then(|hold| self.fleet.pick_among(&hold.workers, needs, tokens));
        held.or_else(|| self.fleet.pick(candidate.task, needs, tokens))
    }

    fn is_backfilled(&self, candidate: &Candidate) -> bool {
        self.backfill_limit(candidate).zip(candidate.time_limit_s).is_some_and(|(most, limit)| limit <= most)
            && !self.holds.contains_key(&candidate.task)
            && self.stands_early_enough(candidate)
    }

    /// The longest time limit with which it would run on a held worker meanwhile, seconds.
    pub(super) fn backfill_limit(&self, candidate: &Candidate) -> Option<u32> {
        let kind = candidate.needs.demand.slot;
        let longest = |(worker, start): (WorkerId, Micros)| {
            self.fleet.pick_among(&[worker], &candidate.needs, &candidate.gpu_tokens)?;
            let seconds = start.since(self.now) / fetchml_api::time::SECOND;
            u32::try_from(seconds).ok().filter(|&seconds| seconds > 0)
        };
        self.backfilled_workers(kind).into_iter().filter_map(longest).max()
    }

    /// Only so many of each queue are tried.
    fn stands_early_enough(&self, candidate: &Candidate) -> bool {
        let (Some(shape), Some(user)) = (self.queues.shapes.find(&candidate.needs), self.users.find(&candidate.user))
        else {
            return true;
        };
        let most = limits::BACKFILL_TRIES_MAX;
        let before = self.queues.queue(shape, user).take(most).filter(|&place| place < candidate.place);
        before.count() < most
    }

    /// Whether it is assigned ahead to a busy worker whose tasks are short. What goes before it keeps its chance.
    fn goes_ahead(&self, candidate: &Candidate) -> bool {
        candidate.needs.demand.slot == SlotKind::Batch
            && match self.look_ahead(|head| self.goes_before(head, candidate)) {
                Ahead::Left(awaited) => self.fleet.pick_ahead(&candidate.needs, &awaited).is_some(),
                Ahead::Assigned | Ahead::NoWorker => false,
            }
    }

    /// What assigning ahead finds among the heads that are `looked_at`, which are the first of their order.
    fn look_ahead(&self, looked_at: impl Fn(Head) -> bool) -> Ahead {
        let mut awaited: BTreeSet<WorkerId> = BTreeSet::new();
        let mut contest = self.contest(SlotKind::Batch, None);
        for _ in 0..limits::PREFETCH_MISSES_MAX {
            if !self.fleet.takes_ahead().any(|(id, _)| !awaited.contains(&id)) {
                return Ahead::NoWorker;
            }
            let Some(head) = contest.next(&self.queues).filter(|&head| looked_at(head)) else {
                return Ahead::Left(awaited);
            };
            if self.stopped_by_quota(head.user, self.queues.demand(head.shape)).is_none() {
                if self.fleet.pick_ahead(self.queues.shapes.key(head.shape), &awaited).is_some() {
                    return Ahead::Assigned;
                }
                awaited.extend(self.awaited_by(head));
            }
            contest.go_on(&self.queues, head, self.share(head.user));
        }
        Ahead::NoWorker
    }

    /// Whether a head is ordered before it.
    pub(super) fn goes_before(&self, head: Head, candidate: &Candidate) -> bool {
        if *self.users.key(head.user) == candidate.user {
            return head.place < candidate.place;
        }
        let theirs = (Reverse(self.level(head.place)), self.share(head.user), head.place);
        theirs < (Reverse(self.level(candidate.place)), self.candidate_share(candidate), candidate.place)
    }

    /// Whole level of aged priority.
    pub(super) fn level(&self, place: Place) -> i64 {
        self.now.0.saturating_sub(place.0).div_euclid(self.settings.aging_interval())
    }

    pub(super) fn candidate_share(&self, candidate: &Candidate) -> u64 {
        candidate.account.share(self.now, self.fleet.totals())
    }

    /// Whether placement has something to do before it can be said what becomes of this one: a hold to give up or to
    /// make, or a task that has room.
    pub(super) fn is_undecided(&self, candidate: &Candidate) -> bool {
        let kind = candidate.needs.demand.slot;
        !self.groups.are_settled()
            || !self.reservations_stand()
            || self.holds_change()
            || self.holds_end()
            || self.has_placeable(kind)
            || self.has_backfill(kind)
            || (kind == SlotKind::Batch && matches!(self.look_ahead(|_| true), Ahead::Assigned))
    }

    /// Whether the next turn gives up a hold, or makes one.
    fn holds_change(&self) -> bool {
        if self.holds.keys().any(|&id| !self.hold_stands(id)) {
            return true;
        }
        if self.holds.len() >= limits::HOLDS_MAX {
            return false;
        }
        [SlotKind::Batch, SlotKind::Service].into_iter().any(|kind| {
            self.first_heads(kind, None).into_iter().any(|head| matches!(self.find_hosts(head), Ok(Some(_))))
        })
    }

    /// Whether a task starts on the workers that are held for it.
    fn holds_end(&self) -> bool {
        self.holds.iter().any(|(&id, hold)| {
            let shape = self.tasks[&id].shape;
            let tokens = &self.queues.shapes.value(shape).gpu_tokens;
            self.fleet.pick_among(&hold.workers, self.queues.shapes.key(shape), tokens).is_some()
        })
    }

    /// Whether a task that waits has room.
    fn has_placeable(&self, kind: SlotKind) -> bool {
        let generation = self.fleet.generation();
        let room = !self.fleet.is_full(kind) && !self.queues.all_stopped(kind, generation);
        let heads = if room { self.first_heads(kind, Some(generation)) } else { Vec::new() };
        heads.into_iter().any(|head| {
            let tokens = &self.queues.shapes.value(head.shape).gpu_tokens;
            self.stopped_by_quota(head.user, self.queues.demand(head.shape)).is_none()
                && self.fleet.pick(head.task(), self.queues.shapes.key(head.shape), tokens).is_some()
        })
    }

    fn has_backfill(&self, kind: SlotKind) -> bool {
        let held = self.backfilled_workers(kind);
        if held.is_empty() {
            return false;
        }
        let heads = self.first_heads(kind, None);
        heads
            .into_iter()
            .any(|head| held.iter().any(|&(worker, start)| self.short_enough(head, worker, start, &mut 0).is_some()))
    }

    fn first_heads(&self, kind: SlotKind, stopped_at: Option<u64>) -> Vec<Head> {
        let mut contest = self.contest(kind, stopped_at);
        let mut heads = Vec::new();
        while heads.len() < limits::HOLD_LOOKS_MAX {
            let Some(head) = contest.next(&self.queues) else { break };
            heads.push(head);
            contest.go_on(&self.queues, head, self.share(head.user));
        }
        heads
    }
}
