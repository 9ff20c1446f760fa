//! Which of the attempts at hand may run now: slots, cores, memory and devices of this worker. Pure.
//! The server places by the same rules; this holds them locally, where several attempts wait for the
//! same slot so that the next one starts without asking anyone.

use fetchml_api::{AttemptId, Capabilities, Demand, SlotKind};
use std::collections::{BTreeMap, BTreeSet};

/// What the worker has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    pub(crate) batch_slots: u32,
    pub(crate) service_slots: u32,
    pub(crate) cpu_cores: u32,
    pub(crate) memory_gb: u32,
}

impl Room {
    pub(crate) fn of(capabilities: &Capabilities, batch_slots: u32, service_slots: u32) -> Self {
        Self { batch_slots, service_slots, cpu_cores: capabilities.cpu_cores, memory_gb: capabilities.memory_gb }
    }
}

#[derive(Clone, Debug)]
struct Need {
    attempt: AttemptId,
    slot: SlotKind,
    cpu: u64,
    memory_gb: u64,
    gpus: Vec<u32>,
}

#[derive(Clone, Debug, Default)]
struct Used {
    batch: u64,
    service: u64,
    cpu: u64,
    memory_gb: u64,
    gpus: BTreeSet<u32>,
}

impl Used {
    fn add(&mut self, need: &Need) {
        *self.slots(need.slot) += 1;
        self.cpu += need.cpu;
        self.memory_gb += need.memory_gb;
        self.gpus.extend(&need.gpus);
    }

    fn slots(&mut self, kind: SlotKind) -> &mut u64 {
        match kind {
            SlotKind::Batch => &mut self.batch,
            SlotKind::Service => &mut self.service,
        }
    }

    fn takes(&self, need: &Need, room: &Room) -> bool {
        let slot = match need.slot {
            SlotKind::Batch => self.batch < u64::from(room.batch_slots),
            SlotKind::Service => self.service < u64::from(room.service_slots),
        };
        // More than the whole machine runs alone: the server knew what it did.
        let cpu = need.cpu == 0 || self.cpu == 0 || self.cpu + need.cpu <= u64::from(room.cpu_cores);
        let memory =
            need.memory_gb == 0 || self.memory_gb == 0 || self.memory_gb + need.memory_gb <= u64::from(room.memory_gb);
        slot && cpu && memory && need.gpus.iter().all(|gpu| !self.gpus.contains(gpu))
    }
}

/// Who runs and who waits.
#[derive(Debug)]
pub(crate) struct Admission {
    room: Room,
    used: Used,
    /// By the order of assignment.
    ready: BTreeMap<u64, Need>,
    running: BTreeMap<AttemptId, Need>,
}

impl Admission {
    pub(crate) fn new(room: Room) -> Self {
        Self { room, used: Used::default(), ready: BTreeMap::new(), running: BTreeMap::new() }
    }

    fn need(attempt: AttemptId, demand: &Demand, gpus: &[u32]) -> Need {
        let mut gpus = gpus.to_vec();
        gpus.sort_unstable();
        gpus.dedup();
        let (cpu, memory_gb) = (u64::from(demand.cpu), u64::from(demand.memory_gb));
        Need { attempt, slot: demand.slot, cpu, memory_gb, gpus }
    }

    /// Staged and waiting for its turn.
    pub(crate) fn wait(&mut self, order: u64, attempt: AttemptId, demand: &Demand, gpus: &[u32]) {
        self.ready.insert(order, Self::need(attempt, demand, gpus));
    }

    /// Runs already: found so at a start.
    pub(crate) fn occupy(&mut self, attempt: AttemptId, demand: &Demand, gpus: &[u32]) {
        let need = Self::need(attempt, demand, gpus);
        self.used.add(&need);
        self.running.insert(attempt, need);
    }

    /// Its process tree is dead, or it will never run.
    pub(crate) fn release(&mut self, attempt: AttemptId) {
        self.ready.retain(|_, need| need.attempt != attempt);
        if self.running.remove(&attempt).is_some() {
            self.used = Used::default();
            for need in self.running.values() {
                self.used.add(need);
            }
        }
    }

    /// Those that may start now, in order. One that does not fit keeps what it needs reserved against
    /// later ones, so that it cannot starve; what is beside that is still given out.
    pub(crate) fn admit(&mut self) -> Vec<AttemptId> {
        if self.ready.is_empty() {
            return Vec::new();
        }
        let mut reserved = self.used.clone();
        let mut admitted = Vec::new();
        for (order, need) in &self.ready {
            let fits = reserved.takes(need, &self.room);
            reserved.add(need);
            if fits {
                admitted.push(*order);
            }
        }
        let mut attempts = Vec::with_capacity(admitted.len());
        for order in admitted {
            let need = self.ready.remove(&order).expect("listed above");
            attempts.push(need.attempt);
            self.used.add(&need);
            self.running.insert(need.attempt, need);
        }
        attempts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn id(n: u128) -> AttemptId {
        AttemptId(Uuid::from_u128(n))
    }

    fn demand(cpu: u32, memory_gb: u32) -> Demand {
        Demand {
            slot: SlotKind::Batch,
            cpu,
            memory_gb,
            gpu: 0,
            gpu_type: None,
            nodes: 1,
            image: false,
            reservation: None,
        }
    }

    fn admission() -> Admission {
        Admission::new(Room { batch_slots: 4, service_slots: 1, cpu_cores: 4, memory_gb: 8 })
    }

    #[test]
    fn starts_follow_assignment_order_within_the_slots() {
        let mut admission = admission();
        for n in (1..=6).rev() {
            admission.wait(n, id(n.into()), &demand(0, 0), &[]);
        }
        assert_eq!(admission.admit(), [id(1), id(2), id(3), id(4)]);
        admission.release(id(2));
        assert_eq!(admission.admit(), [id(5)]);
        admission.release(id(6));
        admission.release(id(1));
        assert!(admission.admit().is_empty(), "6 was given back while it waited");
    }

    #[test]
    fn a_large_one_is_not_overtaken_by_what_it_waits_for() {
        let mut admission = admission();
        admission.occupy(id(1), &demand(2, 0), &[0]);
        admission.wait(1, id(2), &demand(4, 0), &[]);
        admission.wait(2, id(3), &demand(1, 0), &[]);
        admission.wait(3, id(4), &demand(0, 1), &[1]);
        admission.wait(4, id(5), &demand(0, 0), &[0]);
        assert_eq!(admission.admit(), [id(4)]);
        admission.release(id(1));
        assert_eq!(admission.admit(), [id(2), id(5)]);
        admission.release(id(2));
        assert_eq!(admission.admit(), [id(3)]);
    }

    #[test]
    fn more_than_the_machine_runs_alone() {
        let mut admission = admission();
        admission.wait(1, id(1), &demand(64, 0), &[]);
        admission.wait(2, id(2), &demand(1, 0), &[]);
        assert_eq!(admission.admit(), [id(1)]);
        admission.release(id(1));
        assert_eq!(admission.admit(), [id(2)]);
    }

    #[test]
    fn service_slots_are_apart() {
        let mut admission = admission();
        let service = Demand { slot: SlotKind::Service, ..demand(0, 0) };
        admission.wait(1, id(1), &service, &[]);
        admission.wait(2, id(2), &service, &[]);
        admission.wait(3, id(3), &demand(0, 0), &[]);
        assert_eq!(admission.admit(), [id(1), id(3)]);
    }
}
