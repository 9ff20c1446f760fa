//! What each worker means for a task: what placement would say of it, and which need stands in the way.

use super::{candidate::Candidate, words};
use crate::{Scheduler, fleet::Fleet, gpu, limits, view::is_shown, worker::Worker};
use fetchml_api::{Constraint, Gpu, GpuState, Obstacle, SlotKind, Verdict, WorkerGroup, WorkerId, WorkerName};
use std::collections::{BTreeMap, BTreeSet};

/// Workers that mean the same.
#[derive(Debug, Default)]
pub(super) struct Group {
    pub(super) workers: Vec<WorkerId>,
    pub(super) count: usize,
    pub(super) obstacles: BTreeMap<Constraint, Obstacle>,
    /// Names of devices of other types, the first of them.
    pub(super) device_names: BTreeSet<String>,
}

/// Every worker, grouped.
#[derive(Debug)]
pub(super) struct Survey<'a> {
    pub(super) fleet: &'a Fleet,
    pub(super) candidate: &'a Candidate,
    pub(super) connected: usize,
    pub(super) all: BTreeMap<(Verdict, BTreeSet<Constraint>), Group>,
    /// Workers that could run it and take work, of which some room is used or held, in order of ids.
    pub(super) hosts: Vec<WorkerId>,
}

impl Scheduler {
    pub(super) fn survey<'a>(&'a self, candidate: &'a Candidate) -> Survey<'a> {
        let mut survey =
            Survey { fleet: &self.fleet, candidate, connected: 0, all: BTreeMap::new(), hosts: Vec::new() };
        for (id, worker) in self.fleet.iter().filter(|(_, worker)| is_shown(self.now, worker)) {
            survey.connected += usize::from(worker.online);
            survey.add(id, worker);
        }
        survey
    }
}

impl Survey<'_> {
    pub(super) fn count(&self, verdict: Verdict) -> usize {
        self.of(verdict).map(|(_, group)| group.count).sum()
    }

    /// Groups of a verdict, those with least in the way first.
    pub(super) fn of(&self, verdict: Verdict) -> impl Iterator<Item = (&BTreeSet<Constraint>, &Group)> {
        let mut groups: Vec<_> = self.all.iter().filter(|((of, _), _)| *of == verdict).collect();
        groups
            .sort_by_key(|((_, constraints), _)| (constraints.len(), std::cmp::Reverse(constraints.first().copied())));
        groups.into_iter().map(|((_, constraints), group)| (constraints, group))
    }

    pub(super) fn names(&self, workers: &[WorkerId]) -> Vec<WorkerName> {
        let name = |&id: &WorkerId| Some(WorkerName { id, name: self.fleet.get(id)?.record.name.clone() });
        workers.iter().filter_map(name).collect()
    }

    /// As they are shown: at most so many, the most promising first.
    pub(super) fn groups(&self) -> Vec<WorkerGroup> {
        let group = |((verdict, _), group): (&(Verdict, BTreeSet<Constraint>), &Group)| WorkerGroup {
            verdict: *verdict,
            obstacles: group.obstacles.values().cloned().collect(),
            summary: words::group(self, *verdict, group),
            count: i64::try_from(group.count).expect("fewer workers than that"),
            workers: self.names(&group.workers),
        };
        let mut groups: Vec<_> = self.all.iter().map(group).collect();
        groups.sort_by_key(|group| (group.verdict, group.obstacles.len(), std::cmp::Reverse(group.count)));
        groups.truncate(limits::EXPLAIN_GROUPS_MAX);
        groups
    }

    fn add(&mut self, id: WorkerId, worker: &Worker) {
        let (verdict, obstacles) = judge(id, worker, self.candidate);
        if matches!(verdict, Verdict::Fits | Verdict::Held | Verdict::Full) {
            self.hosts.push(id);
        }
        let constraints = obstacles.iter().map(|obstacle| obstacle.constraint).collect();
        let group = self.all.entry((verdict, constraints)).or_default();
        group.count += 1;
        if group.workers.len() < limits::EXPLAIN_WORKERS_MAX {
            group.workers.push(id);
        }
        for obstacle in obstacles {
            if obstacle.constraint == Constraint::GpuType {
                let names = worker.record.capabilities.gpus.iter().map(|gpu| gpu.name.clone());
                group.device_names.extend(names.take(limits::EXPLAIN_WORKERS_MAX));
                while group.device_names.len() > limits::EXPLAIN_WORKERS_MAX {
                    group.device_names.pop_last();
                }
            }
            let known = group.obstacles.entry(obstacle.constraint).or_insert_with(|| obstacle.clone());
            known.most = known.most.max(obstacle.most);
        }
    }
}

/// The verdict on a worker, and which needs stand in the way.
fn judge(id: WorkerId, worker: &Worker, candidate: &Candidate) -> (Verdict, Vec<Obstacle>) {
    let (needs, tokens) = (&candidate.needs, &candidate.gpu_tokens);
    let demand = &needs.demand;
    if worker.fits(candidate.task, demand)
        && !needs.excluded.contains(&id)
        && worker.devices_free(demand, tokens).is_some()
    {
        return (Verdict::Fits, Vec::new());
    }
    let lacking = lacking(worker, candidate);
    if !lacking.is_empty() {
        return (Verdict::Lacks, lacking);
    }
    if needs.excluded.contains(&id) {
        return (Verdict::Excluded, Vec::new());
    }
    let record = &worker.record;
    match () {
        () if !worker.online => return (Verdict::Offline, Vec::new()),
        () if record.draining => return (Verdict::Draining, Vec::new()),
        () if record.unfit.is_some() => return (Verdict::Unfit, Vec::new()),
        () if !worker.could_host(demand, tokens) => {
            let available = matching(worker, tokens).filter(|gpu| gpu.state == GpuState::Available).count();
            if available >= demand.gpu as usize {
                return (Verdict::Reserved, Vec::new());
            }
            return (Verdict::GpusUnavailable, vec![obstacle(Constraint::Gpus, demand.gpu, available as u64)]);
        }
        () => {}
    }
    let full = full(worker, candidate);
    if full.is_empty() { (Verdict::Held, full) } else { (Verdict::Full, full) }
}

/// What it would lack if it were empty and well.
fn lacking(worker: &Worker, candidate: &Candidate) -> Vec<Obstacle> {
    let (demand, tokens) = (&candidate.needs.demand, &candidate.gpu_tokens);
    let has = &worker.record.capabilities;
    let matching = matching(worker, tokens).count();
    let mut lacking = Vec::new();
    if !worker.supports(demand) {
        lacking.push(obstacle(Constraint::Image, 1, 0));
    }
    let slots = worker.slots_total(demand.slot);
    let amounts = [
        (Constraint::Slots, 1, u64::from(slots)),
        (Constraint::Cpu, demand.cpu, u64::from(has.cpu_cores)),
        (Constraint::MemoryGb, demand.memory_gb, u64::from(has.memory_gb)),
        (Constraint::Gpus, demand.gpu, has.gpus.len() as u64),
    ];
    let short = amounts.into_iter().filter(|&(_, wanted, has)| u64::from(wanted) > has);
    lacking.extend(short.map(|(constraint, wanted, has)| obstacle(constraint, wanted, has)));
    if has.gpus.len() >= demand.gpu as usize && matching < demand.gpu as usize {
        lacking.push(obstacle(Constraint::GpuType, demand.gpu, matching as u64));
    }
    lacking
}

/// What is used up of what it has.
fn full(worker: &Worker, candidate: &Candidate) -> Vec<Obstacle> {
    let (demand, tokens) = (&candidate.needs.demand, &candidate.gpu_tokens);
    // A slot that becomes free is of those that wait ahead.
    let waits = demand.slot == SlotKind::Batch && !worker.ahead.is_empty();
    let slots = if waits { 0 } else { worker.slots_free(demand.slot) };
    let free = worker.devices_free_for(demand, tokens);
    let amounts = [
        (Constraint::Slots, 1, u64::from(slots)),
        (Constraint::Cpu, demand.cpu, worker.cpu_free()),
        (Constraint::MemoryGb, demand.memory_gb, worker.memory_free()),
        (Constraint::Gpus, demand.gpu, free as u64),
    ];
    let short = amounts.into_iter().filter(|&(_, wanted, free)| u64::from(wanted) > free);
    short.map(|(constraint, wanted, free)| obstacle(constraint, wanted, free)).collect()
}

/// Devices of a type, in any state.
pub(super) fn matching<'a>(worker: &'a Worker, tokens: &'a [String]) -> impl Iterator<Item = &'a Gpu> {
    let gpus = worker.record.capabilities.gpus.iter();
    gpus.filter(move |device| gpu::matches(&gpu::tokens(&device.name), tokens))
}

fn obstacle(constraint: Constraint, wanted: u32, most: u64) -> Obstacle {
    Obstacle { constraint, wanted: wanted.into(), most: i64::try_from(most).unwrap_or(i64::MAX) }
}
