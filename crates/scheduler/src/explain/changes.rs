//! What would let a task start. Each change is tried: with it, the next turn would place the task.

use super::{
    candidate::Candidate,
    estimate::Ahead,
    verdict::{Survey, matching},
    words,
};
use crate::{Refusal, Scheduler, limits, queue::Place, share::Amounts, worker::Worker};
use fetchml_api::{Change, ChangeEffect, ChangeKind, Demand, GpuState, TaskId, Verdict, WaitReason, WorkerId};

impl Scheduler {
    /// The cheapest first.
    pub(super) fn changes(
        &self,
        candidate: &Candidate,
        reason: WaitReason,
        survey: &Survey<'_>,
        ahead: &Ahead,
    ) -> Vec<Change> {
        let mut changes = match reason {
            WaitReason::Placed
            | WaitReason::Ended
            | WaitReason::Starts
            | WaitReason::Deciding
            | WaitReason::Dependency
            | WaitReason::ArrayLimit
            | WaitReason::Backoff => return Vec::new(),
            WaitReason::QuotaRunning | WaitReason::QuotaGpus => self.quota_raised(candidate).into_iter().collect(),
            WaitReason::NoWorkers => vec![words::more_workers(candidate, candidate.needs.demand.nodes as usize)],
            WaitReason::NothingFits
            | WaitReason::TooFewWorkers
            | WaitReason::Unavailable
            | WaitReason::GpusUnavailable
            | WaitReason::Reserved
            | WaitReason::Held
            | WaitReason::Behind
            | WaitReason::Busy => self.other_requests(candidate, survey),
        };
        changes.extend(self.workers_taken_back(candidate, reason, survey));
        if reason == WaitReason::Behind {
            changes.extend(self.priority_raised(candidate, ahead));
        }
        if matches!(reason, WaitReason::NothingFits | WaitReason::TooFewWorkers) {
            let could =
                survey.all.iter().filter(|((verdict, _), _)| !matches!(verdict, Verdict::Lacks | Verdict::Excluded));
            let could: usize = could.map(|(_, group)| group.count).sum();
            let missing = (candidate.needs.demand.nodes as usize).saturating_sub(could);
            changes.push(words::more_workers(candidate, missing));
        }
        changes.sort_by_key(|change| change.kind);
        changes.truncate(limits::EXPLAIN_CHANGES_MAX);
        changes
    }

    /// The same task, asking for less.
    fn other_requests(&self, candidate: &Candidate, survey: &Survey<'_>) -> Vec<Change> {
        let candidate = &Candidate { place: self.place_new(candidate), ..candidate.clone() };
        let demand = &candidate.needs.demand;
        let mut changes = Vec::new();
        if let Some(most) = self.backfill_limit(candidate) {
            let with = Candidate { time_limit_s: Some(most), ..candidate.clone() };
            if self.would_start(&with) {
                changes.push(words::change(candidate, ChangeKind::TimeLimitS, most.into()));
            }
        }
        if !candidate.gpu_tokens.is_empty() {
            let demand = Demand { gpu_type: None, ..demand.clone() };
            changes.extend(self.tried(candidate, demand, ChangeKind::GpuType, 0));
        }
        let memory = Demand { memory_gb: 0, ..demand.clone() };
        let most = self.most(candidate, &memory, Worker::memory_free);
        if let Some(memory_gb) = most.filter(|&most| most > 0 && most < demand.memory_gb) {
            let with = Demand { memory_gb, ..demand.clone() };
            changes.extend(self.tried(candidate, with, ChangeKind::MemoryGb, memory_gb));
        }
        let most = self.most(candidate, &Demand { cpu: 0, ..demand.clone() }, Worker::cpu_free);
        if let Some(cpu) = most.filter(|&most| most > 0 && most < demand.cpu) {
            changes.extend(self.tried(candidate, Demand { cpu, ..demand.clone() }, ChangeKind::Cpu, cpu));
        }
        if demand.gpu > 1 {
            let tokens = &candidate.gpu_tokens;
            let one = Demand { gpu: 1, ..demand.clone() };
            let most = self.most(candidate, &one, |worker| worker.devices_free_for(demand, tokens) as u64);
            if let Some(gpu) = most.filter(|&most| most > 0 && most < demand.gpu) {
                changes.extend(self.tried(candidate, Demand { gpu, ..demand.clone() }, ChangeKind::Gpu, gpu));
            }
        }
        let fits = u32::try_from(survey.count(Verdict::Fits)).unwrap_or(u32::MAX);
        if fits > 0 && fits < demand.nodes {
            let with = Demand { nodes: fits, ..demand.clone() };
            changes.extend(self.tried(candidate, with, ChangeKind::NodeCount, fits));
        }
        changes
    }

    /// Of the workers that fit this demand, what the one has that has most, or of several the last.
    fn most(&self, candidate: &Candidate, demand: &Demand, amount: impl Fn(&Worker) -> u64) -> Option<u32> {
        let fits = |(id, worker): &(WorkerId, &Worker)| {
            worker.fits(candidate.task, demand)
                && !candidate.needs.excluded.contains(id)
                && worker.devices_free(demand, &candidate.gpu_tokens).is_some()
        };
        let mut amounts: Vec<u64> = self.fleet.iter().filter(fits).map(|(_, worker)| amount(worker)).collect();
        amounts.sort_unstable_by(|a, b| b.cmp(a));
        amounts.get(demand.nodes as usize - 1).and_then(|&most| u32::try_from(most).ok())
    }

    /// The change, if the task would then start.
    fn tried(&self, candidate: &Candidate, demand: Demand, kind: ChangeKind, value: u32) -> Option<Change> {
        let mut with = candidate.clone();
        if kind == ChangeKind::GpuType {
            with.gpu_tokens.clear();
        }
        with.needs.demand = demand;
        self.would_start(&with).then(|| words::change(candidate, kind, value.into()))
    }

    /// A higher quota, if there is room.
    fn quota_raised(&self, candidate: &Candidate) -> Option<Change> {
        let mut with = candidate.clone();
        let (kind, value) = if let Refusal::Running { .. } = candidate.stopped_by_quota()? {
            let running = candidate.account.attempts + 1;
            with.quota.running = Some(running);
            (ChangeKind::QuotaRunning, u64::from(running))
        } else {
            let gpus = candidate.account.gpus() + Amounts::of(&candidate.needs.demand).gpu;
            with.quota.gpus = Some(u32::try_from(gpus).ok()?);
            (ChangeKind::QuotaGpus, gpus)
        };
        let change = words::change(candidate, kind, i64::try_from(value).ok()?);
        // Others of the same user would go before it.
        let effect = if self.own_before(candidate) { ChangeEffect::MakesRoom } else { ChangeEffect::Starts };
        self.would_start(&with).then_some(Change { effect, ..change })
    }

    /// Whether tasks of the same user wait that are ordered before it.
    fn own_before(&self, candidate: &Candidate) -> bool {
        let kind = candidate.needs.demand.slot;
        let user = self.users.find(&candidate.user);
        user.is_some_and(|user| self.queues.heads(kind, user, None).any(|(place, _)| place < candidate.place))
    }

    /// Where it would stand if it were submitted again.
    fn place_new(&self, candidate: &Candidate) -> Place {
        let head_start = i64::from(candidate.priority).saturating_mul(self.settings.aging_interval());
        (self.now.0.saturating_sub(head_start), TaskId(uuid::Uuid::max()))
    }

    /// Workers that an operator could give back, and devices.
    fn workers_taken_back(&self, candidate: &Candidate, reason: WaitReason, survey: &Survey<'_>) -> Option<Change> {
        if matches!(reason, WaitReason::QuotaRunning | WaitReason::QuotaGpus) {
            return None;
        }
        let demand = &candidate.needs.demand;
        let missing =
            (demand.nodes as usize).checked_sub(survey.count(Verdict::Fits)).filter(|&missing| missing > 0)?;
        let empty_enough = |worker: &Worker| worker.has_room(demand) && worker.ahead.is_empty();
        let of = |verdict| survey.of(verdict).flat_map(|(_, group)| group.workers.iter().copied());
        let drained: Vec<WorkerId> = of(Verdict::Draining)
            .filter(|&id| {
                let worker = self.fleet.get(id).filter(|worker| worker.record.unfit.is_none() && empty_enough(worker));
                worker.is_some_and(|worker| worker.devices_free(demand, &candidate.gpu_tokens).is_some())
            })
            .take(missing)
            .collect();
        if drained.len() == missing {
            return Some(words::undrain(&survey.names(&drained)));
        }
        let withheld: Vec<WorkerId> = of(Verdict::GpusUnavailable)
            .filter(|&id| {
                let Some(worker) = self.fleet.get(id).filter(|worker| empty_enough(worker)) else { return false };
                let lost =
                    matching(worker, &candidate.gpu_tokens).filter(|gpu| gpu.state != GpuState::Available).count();
                worker.devices_free_for(demand, &candidate.gpu_tokens) + lost >= demand.gpu as usize
            })
            .take(missing)
            .collect();
        (withheld.len() == missing).then(|| words::devices(self, &withheld, candidate))
    }

    /// A priority with which it would be the next.
    fn priority_raised(&self, candidate: &Candidate, ahead: &Ahead) -> Option<Change> {
        let missing = ahead.level - self.level(candidate.place) + 1;
        let priority = i64::from(candidate.priority) + missing;
        let most = i64::from(candidate.quota.max_priority.unwrap_or(limits::PRIORITY_MAX).min(limits::PRIORITY_MAX));
        (missing > 0 && priority <= most).then(|| words::change(candidate, ChangeKind::Priority, priority))
    }
}

/// What every change of a request does.
pub(super) const fn effect(kind: ChangeKind) -> ChangeEffect {
    match kind {
        ChangeKind::Priority => ChangeEffect::GoesFirst,
        ChangeKind::TimeLimitS
        | ChangeKind::MemoryGb
        | ChangeKind::Cpu
        | ChangeKind::GpuType
        | ChangeKind::Gpu
        | ChangeKind::NodeCount
        | ChangeKind::Undrain
        | ChangeKind::Gpus
        | ChangeKind::QuotaRunning
        | ChangeKind::QuotaGpus
        | ChangeKind::Workers => ChangeEffect::Starts,
    }
}
