//! All workers and the indexes that find one for a task without asking each.

use crate::{
    Settings,
    queue::{Needs, PerSlot},
    share::Amounts,
    worker::Worker,
};
use fetchml_api::{SlotKind, WorkerId};
use std::collections::{BTreeMap, BTreeSet};

/// All workers ever admitted.
#[derive(Debug)]
pub(crate) struct Fleet {
    workers: BTreeMap<WorkerId, Worker>,
    /// Workers with a free slot: those without free GPUs first, then least free cores and memory.
    open: PerSlot<BTreeSet<(bool, u64, u64, WorkerId)>>,
    /// Workers with a free slot and free GPUs: fewest free GPUs first, then least free cores.
    open_gpu: PerSlot<BTreeSet<(usize, u64, WorkerId)>>,
    /// Busy workers that may get work ahead: those with least ahead first.
    ahead: BTreeSet<(usize, WorkerId)>,
    generation: u64,
    /// What the workers have that take work.
    totals: Amounts,
    prefetch_per_slot: u32,
    prefetch_short_ms: i64,
}

/// Where a worker stands in the indexes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Standing {
    open: PerSlot<bool>,
    gpus: usize,
    cpu: u64,
    memory: u64,
    ahead: Option<usize>,
    totals: Amounts,
}

impl Standing {
    fn of(worker: &Worker, per_slot: u32, short_ms: i64) -> Self {
        if !worker.takes_work() {
            return Self::default();
        }
        // While attempts wait ahead, a slot that becomes free is theirs.
        let batch = worker.slots_free(SlotKind::Batch) > 0 && worker.ahead.is_empty();
        Self {
            open: PerSlot { batch, service: worker.slots_free(SlotKind::Service) > 0 },
            gpus: worker.devices_free_count(),
            cpu: worker.cpu_free(),
            memory: worker.memory_free(),
            ahead: worker.takes_ahead(per_slot, short_ms).then_some(worker.ahead.len()),
            totals: Amounts {
                cpu: worker.record.capabilities.cpu_cores.into(),
                memory_gb: worker.record.capabilities.memory_gb.into(),
                gpu: worker.devices().count() as u64,
            },
        }
    }

    /// Whether something may fit now that did not fit before.
    const fn has_more_than(&self, before: &Self) -> bool {
        (self.open.batch && !before.open.batch)
            || (self.open.service && !before.open.service)
            || self.gpus > before.gpus
            || self.cpu > before.cpu
            || self.memory > before.memory
    }
}

impl Fleet {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self {
            workers: BTreeMap::new(),
            open: PerSlot::default(),
            open_gpu: PerSlot::default(),
            ahead: BTreeSet::new(),
            generation: 0,
            totals: Amounts::default(),
            prefetch_per_slot: settings.prefetch_per_slot,
            prefetch_short_ms: settings.prefetch_short_ms,
        }
    }

    pub(crate) fn get(&self, id: WorkerId) -> Option<&Worker> {
        self.workers.get(&id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (WorkerId, &Worker)> {
        self.workers.iter().map(|(&id, worker)| (id, worker))
    }

    /// What all workers have together that take work.
    pub(crate) const fn totals(&self) -> Amounts {
        self.totals
    }

    /// Grows whenever there is more room anywhere: what did not fit before may fit now.
    pub(crate) const fn generation(&self) -> u64 {
        self.generation
    }

    /// What a worker has may have changed in a way the indexes do not show, such as its kind of GPU.
    pub(crate) const fn has_changed(&mut self) {
        self.generation += 1;
    }

    /// A worker that takes no work yet.
    pub(crate) fn insert(&mut self, worker: Worker) {
        assert!(!worker.online, "a new worker joins through `change`");
        self.workers.insert(worker.record.id, worker);
    }

    /// Changes a worker and then its place in the indexes. `None`: no such worker.
    pub(crate) fn change<R>(&mut self, id: WorkerId, change: impl FnOnce(&mut Worker) -> R) -> Option<R> {
        let worker = self.workers.get_mut(&id)?;
        let before = Standing::of(worker, self.prefetch_per_slot, self.prefetch_short_ms);
        let result = change(worker);
        let after = Standing::of(worker, self.prefetch_per_slot, self.prefetch_short_ms);
        if after != before {
            if after.has_more_than(&before) {
                self.generation += 1;
            }
            self.unlist(id, &before);
            self.list(id, &after);
        }
        Some(result)
    }

    /// Whether no worker has a free slot of this kind.
    pub(crate) fn is_full(&self, kind: SlotKind) -> bool {
        self.open.of(kind).is_empty()
    }

    /// The worker that fits best, and its devices.
    pub(crate) fn pick(&self, needs: &Needs, gpu_tokens: &[String]) -> Option<(WorkerId, Vec<u32>)> {
        let Needs { demand, excluded } = needs;
        let (cpu, memory) = (u64::from(demand.cpu), u64::from(demand.memory_gb));
        if demand.gpu > 0 {
            let candidates =
                self.open_gpu.of(demand.slot).range((demand.gpu as usize, 0, WorkerId(uuid::Uuid::nil()))..);
            return (candidates.filter(|&&(_, free, id)| free >= cpu && !excluded.contains(&id))).find_map(
                |&(_, _, id)| {
                    let worker = self.workers.get(&id).filter(|worker| worker.memory_free() >= memory)?;
                    Some((id, worker.devices_free(demand.gpu, gpu_tokens)?))
                },
            );
        }
        // GPUs are kept for those who need them.
        [false, true].into_iter().find_map(|free_gpus| {
            let first = (free_gpus, cpu, 0, WorkerId(uuid::Uuid::nil()));
            let last = (free_gpus, u64::MAX, u64::MAX, WorkerId(uuid::Uuid::max()));
            let mut candidates = self.open.of(demand.slot).range(first..=last);
            candidates
                .find(|&&(_, _, free, id)| free >= memory && !excluded.contains(&id))
                .map(|&(_, _, _, id)| (id, Vec::new()))
        })
    }

    /// Busy workers that may get work ahead, those with least of it first.
    pub(crate) fn takes_ahead(&self) -> impl Iterator<Item = (WorkerId, &Worker)> {
        self.ahead.iter().filter_map(|&(_, id)| self.workers.get(&id).map(|worker| (id, worker)))
    }

    /// Panics unless the indexes are what the workers say.
    pub(crate) fn assert_invariants(&self) {
        let mut rebuilt = Self {
            workers: BTreeMap::new(),
            open: PerSlot::default(),
            open_gpu: PerSlot::default(),
            ahead: BTreeSet::new(),
            totals: Amounts::default(),
            ..*self
        };
        for (&id, worker) in &self.workers {
            rebuilt.list(id, &Standing::of(worker, self.prefetch_per_slot, self.prefetch_short_ms));
        }
        assert_eq!(rebuilt.open, self.open, "index of free slots");
        assert_eq!(rebuilt.open_gpu, self.open_gpu, "index of free GPUs");
        assert_eq!(rebuilt.totals, self.totals, "what all workers have");
        assert_eq!(rebuilt.ahead, self.ahead, "index of workers that take work ahead");
    }

    fn list(&mut self, id: WorkerId, s: &Standing) {
        self.totals.add(s.totals);
        for kind in [SlotKind::Batch, SlotKind::Service] {
            if *s.open.of(kind) {
                self.open.of_mut(kind).insert((s.gpus > 0, s.cpu, s.memory, id));
                if s.gpus > 0 {
                    self.open_gpu.of_mut(kind).insert((s.gpus, s.cpu, id));
                }
            }
        }
        if let Some(ahead) = s.ahead {
            self.ahead.insert((ahead, id));
        }
    }

    fn unlist(&mut self, id: WorkerId, s: &Standing) {
        self.totals.subtract(s.totals);
        for kind in [SlotKind::Batch, SlotKind::Service] {
            if *s.open.of(kind) {
                self.open.of_mut(kind).remove(&(s.gpus > 0, s.cpu, s.memory, id));
                self.open_gpu.of_mut(kind).remove(&(s.gpus, s.cpu, id));
            }
        }
        if let Some(ahead) = s.ahead {
            self.ahead.remove(&(ahead, id));
        }
    }
}
