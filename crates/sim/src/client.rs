//! People: they submit, cancel, and believe what is acknowledged.

use crate::{
    MINUTE, Violation, promise,
    server::Command,
    world::{Happening, Request, World},
};
use fetchml_api::{Demand, Dependency, DependencyOn, Role, SlotKind, TaskId};
use fetchml_scheduler::{Lease, NewTask};
use uuid::Uuid;

impl World {
    pub(crate) fn submit(&mut self) {
        let chance = &mut self.clients;
        let n = self.next_task;
        self.next_task += 1;
        let id = TaskId(Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0000 + u128::from(n)));
        // One in six waits for one or two that have not ended: as far as is known, which may be late.
        let living = self.server.database.tasks.iter().filter(|(_, row)| !row.state.status.is_terminal());
        let living: Vec<TaskId> = living.map(|(id, _)| *id).collect();
        let count = if chance.u32(..6) == 0 { chance.usize(1..3).min(living.len()) } else { 0 };
        let on = if chance.bool() { DependencyOn::Ok } else { DependencyOn::Any };
        let needs = chance.choose_multiple(living, count).into_iter().map(|id| Dependency { id, on }).collect();
        let gpu = if chance.u32(..4) == 0 { [1, 1, 2, 4][chance.usize(..4)] } else { 0 };
        let new = NewTask {
            id,
            user_id: ["ada", "bob", "cy"][chance.usize(..3)].into(),
            demand: Demand {
                slot: if chance.u32(..12) == 0 { SlotKind::Service } else { SlotKind::Batch },
                cpu: chance.u32(..3),
                memory_gb: if chance.bool() { 0 } else { chance.u32(1..32) },
                gpu,
                gpu_type: (gpu > 0 && chance.bool()).then(|| "H100".to_owned()),
                nodes: 1,
                image: false,
                reservation: None,
            },
            priority: chance.u8(1..=8),
            role: Role::User,
            max_retries: chance.u32(..3),
            time_limit_s: None,
            depends_on: needs,
            broken_by: None,
            array: None,
            lease: match chance.u32(..6) {
                0 | 2 => Lease::Seconds(chance.u32(30..90)),
                1 => Lease::Kept,
                _ => Lease::AsSet,
            },
        };
        self.ask(Command::Submit(new), Request::Submit(id));
    }

    pub(crate) fn cancel_one(&mut self) {
        let living = self.server.database.tasks.iter().filter(|(_, row)| !row.state.status.is_terminal());
        let living: Vec<TaskId> = living.map(|(id, _)| *id).collect();
        if let Some(id) = self.clients.choice(living) {
            self.ask(Command::Cancel(id), Request::Cancel(id));
        }
    }

    /// Users who have gone home would stop what never ends; again and again, since nobody knows whether a
    /// request was heard.
    pub(crate) fn cancel_endless(&mut self) {
        let living = self.server.database.tasks.values().filter(|row| !row.state.status.is_terminal());
        let endless: Vec<TaskId> = living
            .filter(|row| row.state.cancelled_by.is_none())
            .filter(|row| row.state.attempt.is_some_and(|attempt| self.behaviour(row.new.id, attempt).is_endless()))
            .map(|row| row.new.id)
            .collect();
        for id in endless {
            self.ask(Command::Cancel(id), Request::Cancel(id));
        }
        self.at(self.now + MINUTE, Happening::CancelEndless);
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
        Ok(())
    }
}
