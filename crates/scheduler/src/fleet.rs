//! All workers and the indexes that find one for a task without asking each.

use crate::{
    Settings, limits,
    queue::{Needs, PerSlot},
    share::Amounts,
    worker::Worker,
};
use fetchml_api::{ReservationId, SlotKind, TaskId, WorkerId};
use std::collections::{BTreeMap, BTreeSet};

/// A worker for a node, and its devices.
pub(crate) type Place = (WorkerId, Vec<u32>);

/// One place for each node, if there are as many.
fn enough(places: impl Iterator<Item = Place>, needs: &Needs) -> Option<Vec<Place>> {
    let nodes = needs.demand.nodes as usize;
    let places: Vec<_> = places.take(nodes).collect();
    (places.len() == nodes && nodes > 0).then_some(places)
}

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
    roster: u64,
    shuffles: u64,
    /// Workers with devices set aside, by reservation.
    earmarked: BTreeMap<ReservationId, BTreeSet<WorkerId>>,
    /// Workers with more room than when all that waits was last known to fit nowhere, by kind of slot.
    grown: PerSlot<BTreeSet<WorkerId>>,
    /// The generation in which that was known.
    settled_at: PerSlot<u64>,
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
    /// Free slots of a held worker: of one that is not, one is as good as many.
    spare: Option<PerSlot<u32>>,
    totals: Amounts,
    /// Devices that nobody uses, those included that are set aside.
    unused: usize,
    works: bool,
    gone: bool,
}

impl Standing {
    fn of(worker: &Worker, per_slot: u32, short_ms: i64) -> Self {
        if !worker.takes_work() {
            let unused = worker.devices_unused_count();
            return Self { unused, gone: worker.is_gone(), ..Self::default() };
        }
        // While attempts wait ahead, a slot that becomes free is theirs.
        let batch = worker.slots_free(SlotKind::Batch) > 0 && worker.ahead.is_empty();
        Self {
            open: PerSlot { batch, service: worker.slots_free(SlotKind::Service) > 0 },
            gpus: worker.devices_free_count(),
            cpu: worker.cpu_free(),
            memory: worker.memory_free(),
            ahead: worker.takes_ahead(per_slot, short_ms).then_some(worker.ahead.len()),
            spare: worker.held_for.as_ref().map(|_| PerSlot {
                batch: worker.slots_free(SlotKind::Batch),
                service: worker.slots_free(SlotKind::Service),
            }),
            totals: Amounts {
                cpu: worker.record.capabilities.cpu_cores.into(),
                memory_gb: worker.record.capabilities.memory_gb.into(),
                gpu: worker.devices().count() as u64,
            },
            unused: worker.devices_unused_count(),
            works: true,
            gone: false,
        }
    }

    /// Whether something may fit now that did not fit before.
    const fn has_more_than(&self, before: &Self) -> bool {
        (self.open.batch && !before.open.batch)
            || (self.open.service && !before.open.service)
            || self.gpus > before.gpus
            || (self.works && self.unused > before.unused)
            || self.cpu > before.cpu
            || self.memory > before.memory
            || match (&self.spare, &before.spare) {
                (Some(now), Some(before)) => now.batch > before.batch || now.service > before.service,
                _ => false,
            }
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
            roster: 0,
            shuffles: 0,
            earmarked: BTreeMap::new(),
            grown: PerSlot::default(),
            settled_at: PerSlot::default(),
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

    /// Grows whenever other workers take work, or have other things.
    pub(crate) const fn roster(&self) -> u64 {
        self.roster
    }

    /// What a worker has may have changed in a way the indexes do not show, such as its kind of GPU.
    pub(crate) fn has_changed(&mut self, id: WorkerId) {
        self.roster += 1;
        self.shuffles += 1;
        self.has_room(id);
    }

    /// Grows whenever devices are used by others than before, or set aside, or workers come or go.
    pub(crate) const fn shuffles(&self) -> u64 {
        self.shuffles
    }

    /// Something may fit that did not, for a reason the indexes do not show.
    pub(crate) fn has_room(&mut self, id: WorkerId) {
        self.generation += 1;
        self.grown.batch.insert(id);
        self.grown.service.insert(id);
    }

    /// All that waits for a kind of slot is known to fit nowhere now.
    pub(crate) fn settle(&mut self, kind: SlotKind) {
        *self.settled_at.of_mut(kind) = self.generation;
        self.grown.of_mut(kind).clear();
    }

    /// The workers on which tasks of a shape may fit that fitted nowhere in an earlier state of the
    /// fleet, if they are few; none: any worker may.
    pub(crate) fn grown_since(&self, kind: SlotKind, stopped_at: Option<u64>) -> Option<&BTreeSet<WorkerId>> {
        let known = stopped_at.is_some_and(|generation| generation >= *self.settled_at.of(kind));
        Some(self.grown.of(kind)).filter(|grown| known && grown.len() <= limits::GROWN_MAX)
    }

    /// The most that any one of these workers has free: cores, GiB of memory, GPUs.
    pub(crate) fn most_free(&self, workers: &BTreeSet<WorkerId>, kind: SlotKind) -> Option<Amounts> {
        let open = workers.iter().filter_map(|id| self.workers.get(id));
        let open = open.filter(|worker| worker.takes_work() && worker.slots_free(kind) > 0);
        open.fold(None, |most: Option<Amounts>, worker| {
            let most = most.unwrap_or_default();
            Some(Amounts {
                cpu: most.cpu.max(worker.cpu_free()),
                memory_gb: most.memory_gb.max(worker.memory_free()),
                gpu: most.gpu.max(worker.devices_free_count() as u64),
            })
        })
    }

    /// As [`Fleet::pick`], when only these workers come into question.
    pub(crate) fn pick_grown(
        &self,
        grown: &BTreeSet<WorkerId>,
        task: TaskId,
        needs: &Needs,
        gpu_tokens: &[String],
    ) -> Option<Vec<Place>> {
        if needs.demand.nodes > 1 {
            // With what did not suffice before.
            return self.pick(task, needs, gpu_tokens);
        }
        let Needs { demand, excluded } = needs;
        let fits = |&(id, worker): &(WorkerId, &Worker)| worker.fits(task, demand) && !excluded.contains(&id);
        let workers = grown.iter().filter_map(|&id| Some((id, self.workers.get(&id)?))).filter(fits);
        let fitting = workers.filter_map(|(id, worker)| {
            let gpus = if demand.gpu == 0 { Vec::new() } else { worker.devices_free(demand, gpu_tokens)? };
            // In the order of the lists, so that it is the same that any search finds.
            let free = worker.devices_free_count();
            let rank = if demand.gpu > 0 {
                (free, worker.cpu_free(), 0)
            } else {
                (usize::from(free > 0), worker.cpu_free(), worker.memory_free())
            };
            Some((rank, id, gpus))
        });
        fitting.min_by_key(|&(rank, id, _)| (rank, id)).map(|(_, id, gpus)| vec![(id, gpus)])
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
        if after.totals != before.totals {
            self.roster += 1;
        }
        if (after.unused, after.works, after.gone) != (before.unused, before.works, before.gone) {
            self.shuffles += 1;
        }
        if after != before {
            if after.has_more_than(&before) {
                self.has_room(id);
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

    /// The workers that fit a task best, one for each node, and their devices.
    pub(crate) fn pick(&self, task: TaskId, needs: &Needs, gpu_tokens: &[String]) -> Option<Vec<Place>> {
        match needs.demand.reservation {
            Some(reservation) => enough(self.fitting_reserved(reservation, task, needs, gpu_tokens), needs),
            None => enough(self.fitting(task, needs, gpu_tokens), needs),
        }
    }

    /// The workers that fit a task now, best first, and their devices.
    fn fitting(&self, task: TaskId, needs: &Needs, gpu_tokens: &[String]) -> impl Iterator<Item = Place> {
        let Needs { demand, excluded } = needs;
        let (cpu, memory) = (u64::from(demand.cpu), u64::from(demand.memory_gb));
        let nil = WorkerId(uuid::Uuid::nil());
        // The lists are in order of what is asked for most: GPUs, or cores; the rest is looked at.
        let with_gpus = (demand.gpu > 0).then(|| {
            let open = self.open_gpu.of(demand.slot).range((demand.gpu as usize, 0, nil)..);
            open.filter(move |&&(_, free, _)| free >= cpu).map(|&(_, _, id)| id)
        });
        // GPUs are kept for those who need them.
        let without = (demand.gpu == 0).then(|| {
            [false, true].into_iter().flat_map(move |free_gpus| {
                let last = (free_gpus, u64::MAX, u64::MAX, WorkerId(uuid::Uuid::max()));
                let open = self.open.of(demand.slot).range((free_gpus, cpu, 0, nil)..=last);
                open.filter(move |&&(_, _, free, _)| free >= memory).map(|&(_, _, _, id)| id)
            })
        });
        let candidates = with_gpus.into_iter().flatten().chain(without.into_iter().flatten());
        candidates.filter(|id| !excluded.contains(id)).filter_map(move |id| self.place(id, task, needs, gpu_tokens))
    }

    /// A task's place on a worker whose slots and cores fit, if the rest fits too.
    fn place(&self, id: WorkerId, task: TaskId, needs: &Needs, gpu_tokens: &[String]) -> Option<Place> {
        let demand = &needs.demand;
        let worker = self.workers.get(&id).filter(|worker| worker.memory_free() >= u64::from(demand.memory_gb))?;
        if !worker.may_take(task, demand) || !worker.supports(demand) {
            return None;
        }
        Some((id, if demand.gpu == 0 { Vec::new() } else { worker.devices_free(demand, gpu_tokens)? }))
    }

    /// Another place that fits as well as this one, on the worker with most `at_hand`; this one unless another has
    /// more.
    pub(crate) fn rather(
        &self,
        place: Place,
        task: TaskId,
        needs: &Needs,
        gpu_tokens: &[String],
        at_hand: impl Fn(WorkerId) -> usize,
    ) -> Place {
        let Needs { demand, excluded } = needs;
        let Some(fit) = self.workers.get(&place.0) else { return place };
        let (gpus, cpu, memory) = (fit.devices_free_count(), fit.cpu_free(), fit.memory_free());
        let (first, last) = (WorkerId(uuid::Uuid::nil()), WorkerId(uuid::Uuid::max()));
        let with_gpus = (demand.gpu > 0)
            .then(|| self.open_gpu.of(demand.slot).range((gpus, cpu, first)..=(gpus, cpu, last)).map(|&(_, _, id)| id));
        let without = (demand.gpu == 0).then(|| {
            let equal = (gpus > 0, cpu, memory, first)..=(gpus > 0, cpu, memory, last);
            self.open.of(demand.slot).range(equal).map(|&(_, _, _, id)| id)
        });
        let equals = with_gpus.into_iter().flatten().chain(without.into_iter().flatten());
        let mut most = (at_hand(place.0), place);
        for id in equals.take(limits::DATASET_EQUALS_MAX).filter(|id| !excluded.contains(id)) {
            let has = at_hand(id);
            if has > most.0
                && let Some(place) = self.place(id, task, needs, gpu_tokens)
            {
                most = (has, place);
            }
        }
        most.1
    }

    /// The workers that fit the task of a reservation now, and devices that are set aside for it.
    fn fitting_reserved(
        &self,
        reservation: ReservationId,
        task: TaskId,
        needs: &Needs,
        gpu_tokens: &[String],
    ) -> impl Iterator<Item = Place> {
        let Needs { demand, excluded } = needs;
        let workers = self.earmarked.get(&reservation).into_iter().flatten();
        workers.filter(|id| !excluded.contains(id)).filter_map(move |&id| {
            let worker = self.workers.get(&id).filter(|worker| worker.fits(task, demand))?;
            Some((id, worker.devices_free(demand, gpu_tokens)?))
        })
    }

    /// Sets these devices of a worker aside for a reservation, and no others.
    pub(crate) fn earmark(&mut self, id: WorkerId, reservation: ReservationId, gpus: &[u32]) {
        if self.change(id, |worker| worker.earmark(reservation, gpus)).is_none() {
            return;
        }
        if gpus.is_empty() {
            let workers = self.earmarked.entry(reservation).or_default();
            workers.remove(&id);
            if workers.is_empty() {
                self.earmarked.remove(&reservation);
            }
        } else {
            self.earmarked.entry(reservation).or_default().insert(id);
        }
        self.has_changed(id);
    }

    /// Those of these workers that fit now whatever they are held for, one for each node, and their
    /// devices.
    pub(crate) fn pick_among(&self, workers: &[WorkerId], needs: &Needs, gpu_tokens: &[String]) -> Option<Vec<Place>> {
        let Needs { demand, excluded } = needs;
        let fitting = workers.iter().filter(|id| !excluded.contains(id)).filter_map(|&id| {
            let fits = |worker: &&Worker| {
                worker.takes_work() && worker.ahead.is_empty() && worker.has_room(demand) && worker.supports(demand)
            };
            let worker = self.workers.get(&id).filter(fits)?;
            Some((id, worker.devices_free(demand, gpu_tokens)?))
        });
        enough(fitting, needs)
    }

    /// Busy workers that may get work ahead, those with least of it first.
    pub(crate) fn takes_ahead(&self) -> impl Iterator<Item = (WorkerId, &Worker)> {
        self.ahead.iter().filter_map(|&(_, id)| self.workers.get(&id).map(|worker| (id, worker)))
    }

    /// The first worker that takes this ahead, of those that nobody `awaited`.
    pub(crate) fn pick_ahead(&self, needs: &Needs, awaited: &BTreeSet<WorkerId>) -> Option<WorkerId> {
        let Needs { demand, excluded } = needs;
        let mut workers = self.takes_ahead().filter(|(id, _)| !awaited.contains(id) && !excluded.contains(id));
        workers.find(|(_, worker)| worker.fits_one_slot(demand)).map(|(id, _)| id)
    }

    /// Panics unless the indexes are what the workers say.
    pub(crate) fn assert_invariants(&self) {
        let mut rebuilt = Self {
            workers: BTreeMap::new(),
            open: PerSlot::default(),
            open_gpu: PerSlot::default(),
            ahead: BTreeSet::new(),
            totals: Amounts::default(),
            grown: PerSlot::default(),
            earmarked: BTreeMap::new(),
            ..*self
        };
        for (&id, worker) in &self.workers {
            rebuilt.list(id, &Standing::of(worker, self.prefetch_per_slot, self.prefetch_short_ms));
            for &reservation in worker.earmarks().values() {
                rebuilt.earmarked.entry(reservation).or_default().insert(id);
            }
        }
        assert_eq!(rebuilt.earmarked, self.earmarked, "index of devices set aside");
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
