//! People: they submit, cancel, and believe what is acknowledged.

use crate::{
    MINUTE, Time, Violation, promise,
    server::Command,
    world::{Happening, Request, World},
};
use fetchml_api::{
    Demand, Dependency, DependencyOn, ReservationId, ReservationRecord, ReservationStatus, Role, SlotKind, TaskId,
    WorkerId,
};
use fetchml_scheduler::{Drain, Lease, NewReservation, NewTask};
use uuid::Uuid;

/// How long users wait for what is stuck, once all is well again.
const PATIENCE: Time = 2 * 60 * MINUTE;

impl World {
    pub(crate) fn submit(&mut self) {
        let chance = &mut self.clients;
        let n = self.next_task;
        self.next_task += 1;
        let id = TaskId(Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0000 + u128::from(n)));
        // Each machine has room for a node like this.
        let nodes = if self.plan.workers > 1 && chance.u32(..8) == 0 { 2 + u32::from(chance.bool()) } else { 1 };
        let nodes = nodes.min(self.plan.workers);
        // One in six waits for one or two that have not ended: as far as is known, which may be late.
        let living = self.server.database.tasks.iter().filter(|(_, row)| !row.state.status.is_terminal());
        let living: Vec<TaskId> = living.map(|(id, _)| *id).collect();
        let count = if chance.u32(..6) == 0 { chance.usize(1..3).min(living.len()) } else { 0 };
        let on = if chance.bool() { DependencyOn::Ok } else { DependencyOn::Any };
        let needs = chance.choose_multiple(living, count).into_iter().map(|id| Dependency { id, on }).collect();
        let gpu = if chance.u32(..4) == 0 { [1, 1, 2, 4][chance.usize(..4)] } else { 0 };
        let mut new = NewTask {
            id,
            user_id: ["ada", "bob", "cy"][chance.usize(..3)].into(),
            demand: Demand {
                slot: if chance.u32(..12) == 0 { SlotKind::Service } else { SlotKind::Batch },
                cpu: chance.u32(..3).min(if nodes > 1 { 1 } else { 2 }),
                memory_gb: if chance.bool() { 0 } else { chance.u32(1..32) },
                gpu: if nodes > 1 { 0 } else { gpu },
                gpu_type: (gpu > 0 && nodes == 1 && chance.bool()).then(|| "H100".to_owned()),
                nodes,
                image: false,
                reservation: None,
            },
            priority: chance.u8(1..=8),
            role: Role::User,
            max_retries: chance.u32(..3),
            // Some say how long they take, and so may run before those that wait for many.
            time_limit_s: (chance.u32(..3) == 0).then(|| chance.u32(60..1_200)),
            depends_on: needs,
            broken_by: None,
            array: None,
            lease: match chance.u32(..6) {
                0 | 2 => Lease::Seconds(chance.u32(30..90)),
                1 => Lease::Kept,
                _ => Lease::AsSet,
            },
        };
        self.claim_one(&mut new);
        self.ask(Command::Submit(new), Request::Submit(id));
    }

    /// Half of the tasks that want GPUs are for a reservation, if there is one; some of them do not fit it.
    fn claim_one(&mut self, new: &mut NewTask) {
        let unclaimed = self.server.database.reservations.values().filter(|r| r.status == ReservationStatus::Active);
        let unclaimed: Vec<ReservationRecord> = unclaimed.cloned().collect();
        if new.demand.gpu == 0 || self.reserving.bool() {
            return;
        }
        let Some(record) = self.reserving.choice(unclaimed) else { return };
        new.user_id = record.user_id;
        new.demand.reservation = Some(record.id);
        if self.reserving.u32(..10) > 0 {
            new.demand.gpu = new.demand.gpu.min(record.gpu_count);
            new.demand.gpu_type = None;
        }
    }

    pub(crate) fn reserve(&mut self) {
        let chance = &mut self.reserving;
        let n = self.next_reservation;
        self.next_reservation += 1;
        let id = ReservationId(Uuid::from_u128(0x01a0_0000_0000_7000_8000_0000_0000_0000 + u128::from(n)));
        let new = NewReservation {
            id,
            user_id: ["ada", "bob", "cy"][chance.usize(..3)].into(),
            role: Role::User,
            gpu_count: [1, 1, 2, 4][chance.usize(..4)],
            gpu_type: chance.bool().then(|| "h100".to_owned()),
            node_count: [1, 1, 2][chance.usize(..3)],
            expires_minutes: chance.u32(1..30),
        };
        self.ask(Command::Reserve(new), Request::Reserve(id));
    }

    pub(crate) fn release_one(&mut self) {
        let active = self.server.database.reservations.values().filter(|r| r.status == ReservationStatus::Active);
        let active: Vec<ReservationId> = active.map(|record| record.id).collect();
        if let Some(id) = self.reserving.choice(active) {
            self.ask(Command::Release(id), Request::Release(id));
        }
    }

    pub(crate) fn cancel_one(&mut self) {
        let living = self.server.database.tasks.iter().filter(|(_, row)| !row.state.status.is_terminal());
        let living: Vec<TaskId> = living.map(|(id, _)| *id).collect();
        if let Some(id) = self.clients.choice(living) {
            self.ask(Command::Cancel(id), Request::Cancel(id));
        }
    }

    /// Users who have gone home would stop what never ends, and need nothing set aside; again and again, since nobody knows whether a
    /// request was heard.
    pub(crate) fn cancel_endless(&mut self) {
        let living = self.server.database.tasks.values().filter(|row| !row.state.status.is_terminal());
        let endless: Vec<TaskId> = living
            .filter(|row| row.state.cancelled_by.is_none())
            .filter(|row| row.state.attempt.is_some_and(|attempt| self.behaviour(row.new.id, attempt).is_endless()))
            .map(|row| row.new.id)
            .collect();
        let stuck = if self.now > self.faults_end() + PATIENCE { self.deadlocked() } else { Vec::new() };
        for id in endless.into_iter().chain(stuck) {
            self.ask(Command::Cancel(id), Request::Cancel(id));
        }
        let drained: Vec<WorkerId> = self.server.database.draining().collect();
        for worker in drained {
            self.tell(Command::Undrain(worker));
        }
        let active = self.server.database.reservations.values().filter(|r| r.status == ReservationStatus::Active);
        let active: Vec<ReservationId> = active.map(|record| record.id).collect();
        for id in active {
            self.ask(Command::Release(id), Request::Release(id));
        }
        self.at(self.now + MINUTE, Happening::CancelEndless);
    }

    /// Tasks that keep reserved GPUs while they wait for others: those may need the GPUs, or the quota that they use up,
    /// and then neither ever starts, which is for their user to see and to end.
    fn deadlocked(&self) -> Vec<TaskId> {
        let database = &self.server.database;
        let lives = |id: &TaskId| database.tasks.get(id).is_some_and(|row| !row.state.status.is_terminal());
        let claimants = database.reservations.values().filter_map(|record| record.task_id).filter(lives);
        claimants.filter(|id| self.specs[id].depends_on.iter().any(|need| lives(&need.id))).collect()
    }

    /// An operator takes a machine out of service, and brings it back later.
    pub(crate) fn drain_one(&mut self) {
        let h = self.clients.usize(..self.plan.workers as usize);
        let (worker, is_off) = (self.hosts[h].worker, !self.hosts[h].on);
        // Nobody declares dead what may live: then two copies might run.
        let mode = match self.clients.u32(..3) {
            0 => Drain::Finish,
            1 if is_off && !self.excused.contains(&h) => Drain::DeclareDead,
            _ => Drain::Evict,
        };
        self.tell(Command::Drain(worker, mode));
        let back = self.now + self.clients.i64(MINUTE / 2..10 * MINUTE);
        self.at(back, Happening::Undrain { worker });
    }

    /// A request whose answer nobody waits for.
    pub(crate) fn tell(&mut self, command: Command) {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.request(command, ticket);
    }

    pub(crate) fn ask(&mut self, command: Command, request: Request) {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        if self.server.life.is_some() {
            self.tickets.insert(ticket, request);
            self.request(command, ticket);
        }
    }

    /// The server said that it is done: then it is durable.
    pub(crate) fn acknowledged(&mut self, request: Request) {
        let tasks = &self.server.database.tasks;
        let problem = match request {
            Request::Submit(id) => {
                self.acknowledged.insert(id);
                (!tasks.contains_key(&id)).then(|| format!("the submit of {id} was acknowledged and is not durable"))
            }
            Request::Reserve(id) => {
                self.reserved.insert(id);
                (!self.server.database.reservations.contains_key(&id))
                    .then(|| format!("reservation {id} was acknowledged and is not durable"))
            }
            Request::Release(id) => {
                let record = self.server.database.reservations.get(&id);
                let done = record.is_some_and(|record| record.status == ReservationStatus::Expired);
                (!done && !self.restored_backup)
                    .then(|| format!("the release of {id} was acknowledged and is not durable"))
            }
            Request::Cancel(id) => {
                let done = tasks.get(&id).is_some_and(|row| row.state.cancelled_by.is_some());
                (!done && !self.restored_backup)
                    .then(|| format!("the cancel of {id} was acknowledged and is not durable"))
            }
        };
        if let Some(problem) = problem {
            self.broken.get_or_insert(Violation(problem));
        }
    }

    pub(crate) fn check_acknowledged(&self) -> Result<(), Violation> {
        let tasks = &self.server.database.tasks;
        let lost = self.acknowledged.iter().find(|id| !tasks.contains_key(id));
        promise!(lost.is_none(), "the submit of {:?} was acknowledged and is lost", lost);
        let reservations = &self.server.database.reservations;
        let lost = self.reserved.iter().find(|id| !reservations.contains_key(id));
        promise!(lost.is_none(), "reservation {:?} was acknowledged and is lost", lost);
        Ok(())
    }
}
