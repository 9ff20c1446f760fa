//! When a task is likely to start, and what goes before it. Estimates: nothing is decided by them.

use super::{COUNTED, candidate::Candidate, verdict::Survey};
use crate::{Scheduler, attempt::Attempt, attempt::Holding, limits, queue::Head, worker::Worker};
use fetchml_api::{AttemptId, EstimateBasis, Micros, StartEstimate, TaskId, WaitReason, WorkerId, time::SECOND};
use std::collections::BTreeSet;

/// What is ordered before a task and waits for the same workers.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Ahead {
    /// How many, up to a limit.
    pub(super) count: usize,
    /// The first of them.
    pub(super) first: Option<TaskId>,
    /// The highest level of priority among them.
    pub(super) level: i64,
    /// Some are of other users.
    pub(super) others: bool,
}

impl Scheduler {
    /// Counts what goes before it and could run where it could.
    pub(super) fn tasks_ahead(&self, candidate: &Candidate, survey: &Survey<'_>) -> Ahead {
        let mut ahead = Ahead::default();
        let kinds = self.kinds(&survey.hosts);
        let mut contest = self.contest(candidate.needs.demand.slot, None);
        for _ in 0..limits::EXPLAIN_HEADS_MAX {
            let head = contest.next(&self.queues).filter(|&head| self.goes_before(head, candidate));
            let Some(head) = head.filter(|_| ahead.count < COUNTED) else { break };
            if self.competes(head, &kinds) {
                ahead.level = ahead.level.max(self.level(head.place));
                ahead.first = ahead.first.or(Some(head.task()));
                ahead.others |= *self.users.key(head.user) != candidate.user;
                let queue = self.queues.queue(head.shape, head.user);
                let before = queue.take_while(|&place| self.goes_before(Head { place, ..head }, candidate));
                ahead.count += before.take(COUNTED - ahead.count).count();
            }
            contest.go_on(&self.queues, head, self.share(head.user));
        }
        ahead
    }

    /// Workers that stand for all that have the same.
    fn kinds(&self, hosts: &[WorkerId]) -> Vec<&Worker> {
        let mut seen = BTreeSet::new();
        let mut kinds = Vec::new();
        for worker in hosts.iter().filter_map(|&id| self.fleet.get(id)) {
            let has = &worker.record.capabilities;
            let devices: Vec<&str> = has.gpus.iter().map(|gpu| gpu.name.as_str()).collect();
            if seen.insert((has.cpu_cores, has.memory_gb, devices)) {
                kinds.push(worker);
            }
            if kinds.len() == limits::EXPLAIN_KINDS_MAX {
                break;
            }
        }
        kinds
    }

    fn competes(&self, head: Head, kinds: &[&Worker]) -> bool {
        let demand = self.queues.demand(head.shape);
        let tokens = &self.queues.shapes.value(head.shape).gpu_tokens;
        self.stopped_by_quota(head.user, demand).is_none()
            && kinds.iter().any(|worker| worker.could_host(demand, tokens))
    }

    pub(super) fn estimated_start(
        &self,
        candidate: &Candidate,
        reason: WaitReason,
        survey: &Survey<'_>,
        ahead: usize,
    ) -> Option<StartEstimate> {
        let estimate = |at, basis| Some(StartEstimate { at, basis });
        match reason {
            WaitReason::Starts => estimate(self.now, EstimateBasis::Certain),
            WaitReason::Backoff => estimate(candidate.not_before?, EstimateBasis::Certain),
            WaitReason::Busy | WaitReason::Behind | WaitReason::Held => {
                if candidate.hold.is_some() {
                    return estimate(self.projected_start(candidate.task)?, EstimateBasis::TimeLimits);
                }
                let nodes = candidate.needs.demand.nodes as usize;
                if nodes > 1 && ahead > 0 {
                    return None;
                }
                let mut rooms: Vec<_> = survey.hosts.iter().filter_map(|&id| self.room_at(id, candidate)).collect();
                rooms.sort_unstable();
                // Each that goes before takes the first room there is.
                let &(at, basis) = rooms.get(nodes - 1 + ahead)?;
                estimate(at, basis)
            }
            WaitReason::Placed
            | WaitReason::Ended
            | WaitReason::Deciding
            | WaitReason::Dependency
            | WaitReason::ArrayLimit
            | WaitReason::QuotaRunning
            | WaitReason::QuotaGpus
            | WaitReason::NoWorkers
            | WaitReason::NothingFits
            | WaitReason::TooFewWorkers
            | WaitReason::Unavailable
            | WaitReason::GpusUnavailable
            | WaitReason::Reserved => None,
        }
    }

    /// When a worker is likely to have room, if nothing else came.
    fn room_at(&self, id: WorkerId, candidate: &Candidate) -> Option<(Micros, EstimateBasis)> {
        let worker = self.fleet.get(id)?;
        let demand = &candidate.needs.demand;
        let mut ends: Vec<_> = worker.attempts.iter().filter_map(|id| self.likely_end(*id, worker)).collect();
        ends.sort_unstable();
        let mut slots = worker.slots_free(demand.slot);
        let (mut cpu, mut memory) = (worker.cpu_free(), worker.memory_free());
        let mut devices = worker.devices_free_for(demand, &candidate.gpu_tokens);
        let mut last = (self.now, EstimateBasis::TimeLimits);
        for (at, basis, attempt) in ends {
            if has(slots, cpu, memory, devices, demand) {
                break;
            }
            let frees = self.queues.demand(self.tasks[&self.attempts[&attempt].record.task_id].shape);
            slots += u32::from(frees.slot == demand.slot);
            cpu += u64::from(frees.cpu);
            memory += u64::from(frees.memory_gb);
            devices += worker.devices_of(attempt, &candidate.gpu_tokens);
            last = (at, last.1.max(basis));
        }
        has(slots, cpu, memory, devices, demand).then_some(last)
    }

    /// When an attempt is likely to end: as others here have, or when it must.
    fn likely_end(&self, id: AttemptId, worker: &Worker) -> Option<(Micros, EstimateBasis, AttemptId)> {
        let Attempt { record, holding, .. } = &self.attempts[&id];
        let Holding::Room { since } = holding else { return None };
        let limit = self.tasks[&record.task_id].time_limit();
        let must = limit.map(|limit| record.started_at.unwrap_or(self.now).plus_seconds(limit.into()));
        let usual = worker.occupancy.usual().map(|mean| Micros(since.0.saturating_add(mean)));
        // One that has run longer than usual tells nothing.
        match (usual.filter(|&at| at > self.now), must) {
            (Some(usual), None) => Some((usual, EstimateBasis::RunTimes, id)),
            (Some(usual), Some(must)) if usual < must => Some((usual, EstimateBasis::RunTimes, id)),
            (_, Some(must)) => Some((must.max(Micros(self.now.0 + SECOND)), EstimateBasis::TimeLimits, id)),
            (None, None) => None,
        }
    }
}

fn has(slots: u32, cpu: u64, memory: u64, devices: usize, demand: &fetchml_api::Demand) -> bool {
    slots > 0 && cpu >= u64::from(demand.cpu) && memory >= u64::from(demand.memory_gb) && devices >= demand.gpu as usize
}
