//! One worker as the core sees it: what it has, what of it is used, what it holds. A worker says
//! what it likes about itself; nothing here may underflow for it.

use crate::{gpu, hold::HeldFor, limits, queue::PerSlot};
use fetchml_api::{
    AttemptEpoch, AttemptId, Demand, Gpu, GpuState, Micros, ReservationId, SlotKind, Slots, TaskId, WorkerRecord,
    time::SECOND,
};
use std::collections::{BTreeMap, BTreeSet};

/// A worker. Only `record` outlives a restart; the rest is volatile or follows from its attempts.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) record: WorkerRecord,
    /// Whether a link is open.
    pub(crate) connected: bool,
    /// Last sign of life in this life of the core.
    pub(crate) last_heard: Option<Micros>,
    /// Start of the running lease: last sign of life, or when the core started.
    pub(crate) lease_from: Micros,
    /// Connected and heard lately.
    pub(crate) online: bool,
    /// Attempts not over, those assigned ahead included.
    pub(crate) attempts: BTreeSet<AttemptId>,
    /// Attempts assigned ahead, oldest first: they hold nothing until they are promoted.
    pub(crate) ahead: BTreeMap<AttemptEpoch, AttemptId>,
    pub(crate) occupancy: Occupancy,
    pub(crate) held_for: Option<HeldFor>,
    /// Silent for so long that nothing is expected of it any more.
    pub(crate) lost: bool,
    pub(crate) silent_timer: Option<Micros>,
    pub(crate) lease_timer: Option<Micros>,
    used: Used,
    devices: BTreeMap<u32, Device>,
    /// Devices set aside, whether or not they are there: only the task of the reservation gets them.
    earmarks: BTreeMap<u32, ReservationId>,
}

/// What attempts hold of a worker. May exceed what it has after it came back smaller.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Used {
    pub(crate) slots: PerSlot<u32>,
    pub(crate) cpu: u64,
    pub(crate) memory_gb: u64,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Device {
    tokens: Vec<String>,
    owner: Option<AttemptId>,
    /// Whether its worker says that tasks may be placed on it.
    available: bool,
}

impl Device {
    const fn is_free(&self) -> bool {
        self.owner.is_none() && self.available
    }
}

/// How long the last attempts held their slots: a moving mean.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Occupancy {
    mean: i64,
    samples: u32,
}

impl Occupancy {
    pub(crate) fn add(&mut self, held: i64) {
        let held = held.max(0);
        self.mean = if self.samples == 0 { held } else { self.mean + (held - self.mean) / limits::OCCUPANCY_WEIGHT };
        self.samples = self.samples.saturating_add(1);
    }

    /// How long attempts here usually hold their slot, if that is known, microseconds.
    pub(crate) fn usual(&self) -> Option<i64> {
        (self.samples >= limits::OCCUPANCY_SAMPLES_MIN).then_some(self.mean)
    }

    /// Whether attempts here are known to be shorter than this, microseconds.
    pub(crate) const fn is_below(&self, bound: i64) -> bool {
        self.samples >= limits::OCCUPANCY_SAMPLES_MIN && self.mean < bound
    }
}

impl Used {
    pub(crate) fn add(&mut self, demand: &Demand) {
        *self.slots.of_mut(demand.slot) += 1;
        self.cpu += u64::from(demand.cpu);
        self.memory_gb += u64::from(demand.memory_gb);
    }

    fn subtract(&mut self, demand: &Demand) {
        *self.slots.of_mut(demand.slot) -= 1;
        self.cpu -= u64::from(demand.cpu);
        self.memory_gb -= u64::from(demand.memory_gb);
    }
}

impl Worker {
    pub(crate) fn new(record: WorkerRecord, now: Micros) -> Self {
        let mut worker = Self {
            record,
            connected: false,
            last_heard: None,
            lease_from: now,
            online: false,
            attempts: BTreeSet::new(),
            ahead: BTreeMap::new(),
            occupancy: Occupancy::default(),
            held_for: None,
            lost: false,
            silent_timer: None,
            lease_timer: None,
            used: Used::default(),
            devices: BTreeMap::new(),
            earmarks: BTreeMap::new(),
        };
        worker.read_devices(&BTreeMap::new());
        worker
    }

    /// Takes over the devices that the record names; `owners` are the attempts that hold one.
    pub(crate) fn read_devices(&mut self, owners: &BTreeMap<u32, AttemptId>) {
        let device = |gpu: &Gpu| {
            let (owner, available) = (owners.get(&gpu.index).copied(), gpu.state == GpuState::Available);
            (gpu.index, Device { tokens: gpu::tokens(&gpu.name), owner, available })
        };
        self.devices = self.record.capabilities.gpus.iter().map(device).collect();
    }

    /// Gives an attempt what it needs, whether or not it is there.
    pub(crate) fn hold(&mut self, attempt: AttemptId, demand: &Demand, gpus: &[u32]) {
        self.used.add(demand);
        for index in gpus {
            if let Some(device) = self.devices.get_mut(index) {
                device.owner = Some(attempt);
            }
        }
    }

    /// Takes back what [`Worker::hold`] gave.
    pub(crate) fn release(&mut self, attempt: AttemptId, demand: &Demand) {
        self.used.subtract(demand);
        for device in self.devices.values_mut().filter(|device| device.owner == Some(attempt)) {
            device.owner = None;
        }
    }

    /// Whether it has what runs this, however much room there is.
    pub(crate) fn supports(&self, demand: &Demand) -> bool {
        !demand.image || self.record.capabilities.runs_containers()
    }

    /// Whether slot, cores and memory for this are free now.
    pub(crate) fn has_room(&self, demand: &Demand) -> bool {
        self.slots_free(demand.slot) > 0
            && self.cpu_free() >= u64::from(demand.cpu)
            && self.memory_free() >= u64::from(demand.memory_gb)
    }

    /// The devices that this would get if these attempts, which need so much each, held nothing here any more; none
    /// when there were no room even so.
    pub(crate) fn room_without(
        &self,
        gone: &BTreeMap<AttemptId, &Demand>,
        demand: &Demand,
        gpu_tokens: &[String],
    ) -> Option<Vec<u32>> {
        let mut used = self.used;
        for demand in gone.values() {
            used.subtract(demand);
        }
        let has = &self.record.capabilities;
        let slots = self.slots_total(demand.slot).saturating_sub(*used.slots.of(demand.slot));
        let cpu = u64::from(has.cpu_cores).saturating_sub(used.cpu);
        let memory = u64::from(has.memory_gb).saturating_sub(used.memory_gb);
        if slots == 0 || cpu < u64::from(demand.cpu) || memory < u64::from(demand.memory_gb) {
            return None;
        }
        let is_free = |device: &Device| device.available && device.owner.is_none_or(|owner| gone.contains_key(&owner));
        let free = self.devices_for(demand.reservation).filter(|(_, d)| is_free(d));
        let free = free.filter(|(_, d)| gpu::matches(&d.tokens, gpu_tokens));
        let indexes: Vec<u32> = free.map(|(index, _)| index).take(demand.gpu as usize).collect();
        (indexes.len() == demand.gpu as usize).then_some(indexes)
    }

    /// Whether it may take this in spite of being held for another task: it takes nothing which that
    /// task still waits for.
    pub(crate) fn may_take(&self, task: TaskId, demand: &Demand) -> bool {
        let Some(held) = self.held_for.as_ref().filter(|held| held.task != task) else { return true };
        let waits = &held.demand;
        let spares = |free: u64, wanted: u32, waited: u32| wanted == 0 || free >= u64::from(wanted) + u64::from(waited);
        let slot = u32::from(waits.slot == demand.slot);
        spares(self.slots_free(demand.slot).into(), 1, slot)
            && spares(self.cpu_free(), demand.cpu, waits.cpu)
            && spares(self.memory_free(), demand.memory_gb, waits.memory_gb)
            && (demand.gpu == 0 || waits.gpu == 0 || demand.reservation != waits.reservation)
    }

    /// Whether a task may start here now, GPUs aside.
    pub(crate) fn fits(&self, task: TaskId, demand: &Demand) -> bool {
        // While attempts wait ahead, a slot that becomes free is theirs.
        let waits = demand.slot == SlotKind::Batch && !self.ahead.is_empty();
        self.takes_work() && !waits && self.has_room(demand) && self.supports(demand) && self.may_take(task, demand)
    }

    /// Whether it could take this if it held nothing, GPUs aside.
    pub(crate) fn could_run(&self, demand: &Demand) -> bool {
        let capabilities = &self.record.capabilities;
        self.supports(demand)
            && self.slots_total(demand.slot) > 0
            && capabilities.cpu_cores >= demand.cpu
            && capabilities.memory_gb >= demand.memory_gb
    }

    /// Whether it could take this if it held nothing.
    pub(crate) fn could_host(&self, demand: &Demand, gpu_tokens: &[String]) -> bool {
        let devices = self.devices_for(demand.reservation).filter(|(_, d)| d.available);
        let devices = devices.filter(|(_, d)| gpu::matches(&d.tokens, gpu_tokens)).count();
        self.could_run(demand) && (demand.gpu == 0 || devices >= demand.gpu as usize)
    }

    /// Whether any one slot that becomes free will do for this: then it may be assigned ahead.
    pub(crate) fn fits_one_slot(&self, demand: &Demand) -> bool {
        let slots = u64::from(self.record.batch_slots.max(1));
        demand.slot == SlotKind::Batch
            && demand.nodes == 1
            && self.supports(demand)
            && demand.gpu == 0
            && u64::from(demand.cpu) * slots <= u64::from(self.record.capabilities.cpu_cores)
            && u64::from(demand.memory_gb) * slots <= u64::from(self.record.capabilities.memory_gb)
    }

    /// The lowest free devices for this, if there are as many as wanted.
    pub(crate) fn devices_free(&self, demand: &Demand, gpu_tokens: &[String]) -> Option<Vec<u32>> {
        let free = self.devices_for(demand.reservation).filter(|(_, d)| d.is_free());
        let free = free.filter(|(_, d)| gpu::matches(&d.tokens, gpu_tokens));
        let indexes: Vec<u32> = free.map(|(index, _)| index).take(demand.gpu as usize).collect();
        (indexes.len() == demand.gpu as usize).then_some(indexes)
    }

    /// How many free devices there are for this.
    pub(crate) fn devices_free_for(&self, demand: &Demand, gpu_tokens: &[String]) -> usize {
        let free = self.devices_for(demand.reservation).filter(|(_, d)| d.is_free());
        free.filter(|(_, d)| gpu::matches(&d.tokens, gpu_tokens)).count()
    }

    /// How many devices of a type an attempt holds.
    pub(crate) fn devices_of(&self, attempt: AttemptId, gpu_tokens: &[String]) -> usize {
        let held = self.devices.values().filter(|device| device.owner == Some(attempt) && device.available);
        held.filter(|device| gpu::matches(&device.tokens, gpu_tokens)).count()
    }

    /// Free devices that are not set aside.
    pub(crate) fn devices_free_count(&self) -> usize {
        self.devices_for(None).filter(|(_, device)| device.is_free()).count()
    }

    /// Free devices, those included that are set aside.
    pub(crate) fn devices_unused_count(&self) -> usize {
        self.devices.values().filter(|device| device.is_free()).count()
    }

    /// The devices that only this reservation's task gets; none: those that are not set aside.
    fn devices_for(&self, reservation: Option<ReservationId>) -> impl Iterator<Item = (u32, &Device)> {
        let devices = self.devices.iter().map(|(&index, device)| (index, device));
        devices.filter(move |(index, _)| self.earmarks.get(index).copied() == reservation)
    }

    /// Sets these devices aside for a reservation, and no others.
    pub(crate) fn earmark(&mut self, reservation: ReservationId, gpus: &[u32]) {
        self.earmarks.retain(|_, owner| *owner != reservation);
        self.earmarks.extend(gpus.iter().map(|&index| (index, reservation)));
    }

    /// What is set aside.
    pub(crate) const fn earmarks(&self) -> &BTreeMap<u32, ReservationId> {
        &self.earmarks
    }

    /// The devices of a type that a reservation has or may get, best first, and whether each is used.
    pub(crate) fn reservable(&self, reservation: ReservationId, gpu_tokens: &[String]) -> Vec<(u32, bool)> {
        let own = |index: u32| self.earmarks.get(&index) == Some(&reservation);
        let fit = self.devices.iter().filter(|(index, device)| {
            device.available
                && gpu::matches(&device.tokens, gpu_tokens)
                && (own(**index) || (self.takes_work() && !self.earmarks.contains_key(index)))
        });
        let mut fit: Vec<_> = fit.map(|(&index, device)| (device.owner.is_some(), !own(index), index)).collect();
        fit.sort_unstable();
        fit.into_iter().map(|(used, _, index)| (index, used)).collect()
    }

    /// Whether a device is there, may be used, and is used by nobody but this attempt.
    pub(crate) fn device_is_for(&self, index: u32, attempt: Option<AttemptId>) -> bool {
        let device = self.devices.get(&index).filter(|device| device.available);
        device.is_some_and(|device| device.owner.is_none() || device.owner == attempt)
    }

    /// Whether nothing of it is to be counted on: it is drained, unfit or lost. One that is only silent may
    /// come back.
    pub(crate) const fn is_gone(&self) -> bool {
        self.lost || self.record.draining || self.record.unfit.is_some()
    }

    /// Devices and who holds them.
    pub(crate) fn devices(&self) -> impl Iterator<Item = (u32, Option<AttemptId>)> {
        self.devices.iter().map(|(&index, device)| (index, device.owner))
    }

    pub(crate) const fn used(&self) -> &Used {
        &self.used
    }

    pub(crate) const fn slots_total(&self, kind: SlotKind) -> u32 {
        match kind {
            SlotKind::Batch => self.record.batch_slots,
            SlotKind::Service => self.record.service_slots,
        }
    }

    pub(crate) const fn slots_free(&self, kind: SlotKind) -> u32 {
        self.slots_total(kind).saturating_sub(*self.used.slots.of(kind))
    }

    pub(crate) fn cpu_free(&self) -> u64 {
        u64::from(self.record.capabilities.cpu_cores).saturating_sub(self.used.cpu)
    }

    pub(crate) fn memory_free(&self) -> u64 {
        u64::from(self.record.capabilities.memory_gb).saturating_sub(self.used.memory_gb)
    }

    pub(crate) const fn slots(&self) -> Slots {
        Slots {
            batch_available: self.slots_free(SlotKind::Batch),
            batch_total: self.record.batch_slots,
            service_available: self.slots_free(SlotKind::Service),
            service_total: self.record.service_slots,
        }
    }

    /// The last sign of life that is known.
    pub(crate) fn last_sign(&self) -> Micros {
        self.last_heard.unwrap_or(self.record.connected_at)
    }

    /// When it counts as silent, if it does not already.
    pub(crate) fn silent_at(&self, offline_after_s: i64) -> Option<Micros> {
        self.online.then(|| self.lease_from.plus_seconds(offline_after_s))
    }

    /// Whether it may get work at all.
    pub(crate) const fn takes_work(&self) -> bool {
        self.online && !self.record.draining && self.record.unfit.is_none()
    }

    /// Whether work may be assigned ahead to it.
    pub(crate) fn takes_ahead(&self, per_slot: u32, short_ms: i64) -> bool {
        let most = u64::from(self.record.batch_slots) * u64::from(per_slot);
        self.takes_work()
            && self.held_for.is_none()
            && self.slots_free(SlotKind::Batch) == 0
            && (self.ahead.len() as u64) < most
            && self.occupancy.is_below(short_ms.saturating_mul(SECOND / 1_000))
    }
}
