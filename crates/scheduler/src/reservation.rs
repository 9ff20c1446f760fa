//! Reservations: devices that are set aside, worker by worker, for one task to come. What others still
//! use is collected as it becomes free. From when all is held the reservation waits for its task as
//! long as it was asked to; its task keeps it until it ends.
//!
//! A device is set aside for one reservation at most, and only that one's task gets it. What is set aside moves
//! to other workers only while the task is on none: to where more is free, or when a worker is gone.

use crate::{
    Answer, Effect, NewTask, Scheduler,
    audit::{self, SYSTEM},
    event::{ClaimRefusal, NewReservation, Refusal},
    gpu, limits,
    queue::Needs,
    share::Account,
    timers::Timer,
    worker::Worker,
};
use fetchml_api::{AttemptId, Earmark, Micros, ReservationId, ReservationRecord, ReservationStatus, TaskId, WorkerId};
use std::{cmp::Reverse, collections::BTreeMap};

/// All reservations that have not expired.
#[derive(Debug, Default)]
pub(crate) struct Reservations {
    live: BTreeMap<ReservationId, ReservationRecord>,
    /// The shuffle of devices (see [`crate::fleet::Fleet::shuffles`]) after which all were last looked at.
    seen: Option<u64>,
}

impl Reservations {
    pub(crate) const fn live(&self) -> &BTreeMap<ReservationId, ReservationRecord> {
        &self.live
    }

    /// What a task has that waits may be better elsewhere now.
    pub(crate) const fn look_again(&mut self) {
        self.seen = None;
    }
}

/// When a reservation expires if nothing happens.
fn ends(record: &ReservationRecord) -> Option<Micros> {
    let collected_by = record.created_at.plus_seconds(limits::RESERVATION_COLLECTS_S);
    (record.status == ReservationStatus::Active).then(|| record.expires_at.unwrap_or(collected_by))
}

impl Scheduler {
    pub(crate) fn on_reservation_requested(&mut self, new: &NewReservation, effects: &mut Vec<Effect>) -> Answer {
        if self.reservations.live.contains_key(&new.id) {
            return Answer::Unchanged;
        }
        let record = ReservationRecord {
            id: new.id,
            user_id: new.user_id.clone(),
            gpu_count: new.gpu_count,
            gpu_type: new.gpu_type.clone(),
            node_count: new.node_count,
            expires_minutes: new.expires_minutes,
            status: ReservationStatus::Active,
            task_id: None,
            gpus_held: 0,
            earmarks: Vec::new(),
            created_at: self.now,
            expires_at: None,
            ended_at: None,
        };
        if let Some(refusal) = self.refuses_reservation(&record, new) {
            return Answer::Refused(refusal);
        }
        let user = self.users.take(new.user_id.clone(), |_| Account::default());
        self.users.value_mut(user).reserved += u64::from(record.gpus());
        self.timers.set(Timer::ReservationEnds(record.id), None, ends(&record));
        self.put_reservation_audit(&record, &record.user_id, "reserve", None, effects);
        self.reservations.live.insert(new.id, record);
        if !self.collect(new.id, effects) {
            self.put_reservation(new.id, effects);
        }
        Answer::Done
    }

    pub(crate) fn on_release_requested(&mut self, id: ReservationId, by: &str, effects: &mut Vec<Effect>) -> Answer {
        let Some(record) = self.reservations.live.get(&id) else { return Answer::NotActive };
        if let Some(task) = record.task_id {
            return Answer::Refused(Refusal::Claim(ClaimRefusal::Claimed { task }));
        }
        self.expire_reservation(id, by, "release", None, effects);
        Answer::Done
    }

    /// Why GPUs cannot be reserved.
    fn refuses_reservation(&self, record: &ReservationRecord, new: &NewReservation) -> Option<Refusal> {
        let gpus = u64::from(record.gpus());
        if let Some(limit) = self.quotas.of(&new.user_id, new.role).gpus {
            if gpus > limit.into() {
                return Some(Refusal::Gpus { limit });
            }
            let has = self.users.find(&new.user_id).map_or(0, |user| self.users.value(user).gpus());
            if has + gpus > limit.into() {
                return Some(Refusal::GpusInUse { limit, has });
            }
        }
        let chosen = self.choose(record);
        let all = chosen.len() == record.node_count as usize;
        (!all).then(|| Refusal::NotEnough { unreserved: self.unreserved(record) })
    }

    /// Devices of a reservation's type that no other has set aside, on workers that take work.
    fn unreserved(&self, record: &ReservationRecord) -> u32 {
        let tokens = tokens(record);
        let counts = self.fleet.iter().map(|(_, worker)| worker.reservable(record.id, &tokens).len());
        u32::try_from(counts.sum::<usize>()).unwrap_or(u32::MAX)
    }

    /// Why a task, or so many alike, may not claim the reservation that it names.
    pub(crate) fn refuses_claim(&self, new: &NewTask, tasks: usize) -> Option<Refusal> {
        let demand = &new.demand;
        let Some(record) = self.reservations.live.get(&demand.reservation?) else {
            return Some(Refusal::Claim(ClaimRefusal::Unknown));
        };
        if record.user_id != new.user_id {
            return Some(Refusal::Claim(ClaimRefusal::Foreign));
        }
        if let Some(task) = record.task_id {
            return Some(Refusal::Claim(ClaimRefusal::Claimed { task }));
        }
        if tasks > 1 {
            return Some(Refusal::Claim(ClaimRefusal::Several));
        }
        let wanted = demand.gpu_type.as_deref().map(gpu::tokens).unwrap_or_default();
        let gpus = (demand.gpu == 0 || demand.gpu > record.gpu_count).then_some(record.gpu_count);
        let nodes = (demand.nodes > record.node_count).then_some(record.node_count);
        let other_type = !gpu::matches(&tokens(record), &wanted);
        let fits = gpus.is_none() && nodes.is_none() && !other_type;
        (!fits).then_some(Refusal::Claim(ClaimRefusal::DoesNotFit { gpus, nodes, other_type }))
    }

    /// A task that was just submitted takes the reservation that it names.
    pub(crate) fn claim(&mut self, task: TaskId, effects: &mut Vec<Effect>) {
        let Some(id) = self.queues.demand(self.tasks[&task].shape).reservation else { return };
        let record = self.reservations.live.get_mut(&id).expect("a claim was found to be right");
        self.timers.set(Timer::ReservationEnds(id), ends(record), None);
        record.status = ReservationStatus::Claimed;
        record.task_id = Some(task);
        self.reservations.look_again();
        let record = self.reservations.live[&id].clone();
        self.put_reservation_audit(&record, &record.user_id, "claim", Some(task), effects);
        effects.push(Effect::PutReservation(record));
    }

    /// The task of a reservation has ended.
    pub(crate) fn end_claim(&mut self, id: ReservationId, task: TaskId, effects: &mut Vec<Effect>) {
        self.expire_reservation(id, SYSTEM, "expire", Some(task), effects);
    }

    /// The time of a reservation is over.
    pub(crate) fn reservation_ended(&mut self, id: ReservationId, effects: &mut Vec<Effect>) {
        self.expire_reservation(id, SYSTEM, "expire", None, effects);
    }

    fn expire_reservation(
        &mut self,
        id: ReservationId,
        by: &str,
        action: &str,
        task: Option<TaskId>,
        effects: &mut Vec<Effect>,
    ) {
        let mut record = self.reservations.live.remove(&id).expect("a reservation expires once");
        self.timers.set(Timer::ReservationEnds(id), ends(&record), None);
        let user = self.users.find(&record.user_id).expect("who has a reservation has an account");
        if record.expires_at.is_some() {
            self.end_reserved_charge(user, record.gpus());
        }
        self.users.value_mut(user).reserved -= u64::from(record.gpus());
        self.users.release(user);
        for earmark in std::mem::take(&mut record.earmarks) {
            self.fleet.earmark(earmark.worker_id, id, &[]);
            self.arm(earmark.worker_id);
        }
        record.status = ReservationStatus::Expired;
        record.gpus_held = 0;
        record.ended_at = Some(self.now);
        self.put_reservation_audit(&record, by, action, task, effects);
        effects.push(Effect::PutReservation(record));
    }

    /// Whether reservations have what suits them best.
    pub(crate) fn reservations_stand(&self) -> bool {
        self.reservations.live.is_empty() || self.reservations.seen == Some(self.fleet.shuffles())
    }

    /// Lets reservations take devices that became free, oldest first, and others for those that are gone.
    pub(crate) fn review_reservations(&mut self, effects: &mut Vec<Effect>) {
        for _ in 0..limits::COLLECT_PASSES_MAX {
            let shuffles = self.fleet.shuffles();
            if self.reservations.live.is_empty() || self.reservations.seen == Some(shuffles) {
                return;
            }
            self.reservations.seen = Some(shuffles);
            // Ids are in the order in which they were given.
            let ids: Vec<ReservationId> = self.reservations.live.keys().copied().collect();
            for id in ids {
                self.collect(id, effects);
            }
        }
    }

    /// Brings what is set aside for a reservation up to date; false: it was.
    fn collect(&mut self, id: ReservationId, effects: &mut Vec<Effect>) -> bool {
        let record = &self.reservations.live[&id];
        let own = self.attempt_of(record);
        let chosen = if own.is_some() || self.stands(record) { record.earmarks.clone() } else { self.choose(record) };
        let held = self.held(&chosen, own);
        if chosen == record.earmarks && held == record.gpus_held {
            return false;
        }
        if chosen != record.earmarks {
            self.move_earmarks(id, &chosen);
        }
        let before = ends(&self.reservations.live[&id]);
        let now = self.now;
        let record = self.reservations.live.get_mut(&id).expect("it was just read");
        record.gpus_held = held;
        record.earmarks = chosen;
        let complete = held == record.gpus() && record.expires_at.is_none();
        if complete {
            record.expires_at = Some(now.plus_seconds(i64::from(record.expires_minutes) * 60));
        }
        let record = record.clone();
        self.timers.set(Timer::ReservationEnds(id), before, ends(&record));
        if complete {
            let user = self.users.find(&record.user_id).expect("who has a reservation has an account");
            self.begin_reserved_charge(user, record.gpus());
            self.put_reservation_audit(&record, SYSTEM, "hold", None, effects);
        }
        effects.push(Effect::PutReservation(record));
        true
    }

    /// Whether all of a reservation is held where nothing is wrong: nothing is better then.
    fn stands(&self, record: &ReservationRecord) -> bool {
        let in_order = |earmark: &Earmark| {
            let worker = self.fleet.get(earmark.worker_id);
            worker.is_some_and(|worker| !worker.is_gone() && self.suits(record, earmark.worker_id, worker))
        };
        record.earmarks.iter().all(in_order) && self.held(&record.earmarks, None) == record.gpus()
    }

    /// Whether the task of a reservation, if it has one, could run on a worker that has the GPUs.
    fn suits(&self, record: &ReservationRecord, id: WorkerId, worker: &Worker) -> bool {
        let Some(task) = record.task_id.and_then(|task| self.tasks.get(&task)) else { return true };
        let Needs { demand, excluded } = self.queues.shapes.key(task.shape);
        !excluded.contains(&id) && worker.could_run(demand)
    }

    /// Devices that are there and that nobody else uses.
    fn held(&self, earmarks: &[Earmark], own: Option<AttemptId>) -> u32 {
        let held = earmarks.iter().flat_map(|earmark| {
            let worker = self.fleet.get(earmark.worker_id);
            let is_held = move |index: u32| worker.is_some_and(|worker| worker.device_is_for(index, own));
            earmark.gpus.iter().filter(move |&&index| is_held(index))
        });
        u32::try_from(held.count()).expect("a reservation is for fewer than 2^32 devices")
    }

    /// The workers and devices that suit a reservation best: those where its task could run, of these those where
    /// most is free, and of these those that it has.
    fn choose(&self, record: &ReservationRecord) -> Vec<Earmark> {
        let tokens = tokens(record);
        let wanted = record.gpu_count as usize;
        let candidates = self.fleet.iter().filter(|(_, worker)| !worker.is_gone()).filter_map(|(id, worker)| {
            let mut devices = worker.reservable(record.id, &tokens);
            if devices.len() < wanted {
                return None;
            }
            devices.truncate(wanted);
            let used = devices.iter().filter(|(_, used)| *used).count();
            let unsuited = !self.suits(record, id, worker);
            let is_mine = worker.earmarks().values().any(|owner| *owner == record.id);
            let mut gpus: Vec<u32> = devices.into_iter().map(|(index, _)| index).collect();
            gpus.sort_unstable();
            Some(((unsuited, used, Reverse(is_mine), worker.held_for.is_some(), id), Earmark { worker_id: id, gpus }))
        });
        let mut ranked: Vec<_> = candidates.collect();
        ranked.sort_unstable_by_key(|(rank, _)| *rank);
        ranked.truncate(record.node_count as usize);
        let mut chosen: Vec<Earmark> = ranked.into_iter().map(|(_, earmark)| earmark).collect();
        chosen.sort_unstable_by_key(|earmark| earmark.worker_id);
        chosen
    }

    fn move_earmarks(&mut self, id: ReservationId, chosen: &[Earmark]) {
        let before: Vec<WorkerId> =
            self.reservations.live[&id].earmarks.iter().map(|earmark| earmark.worker_id).collect();
        for worker in before.into_iter().filter(|worker| chosen.iter().all(|earmark| earmark.worker_id != *worker)) {
            self.fleet.earmark(worker, id, &[]);
            self.arm(worker);
        }
        for earmark in chosen {
            self.fleet.earmark(earmark.worker_id, id, &earmark.gpus);
            self.arm(earmark.worker_id);
        }
    }

    /// The attempt that uses a reservation now.
    fn attempt_of(&self, record: &ReservationRecord) -> Option<AttemptId> {
        let attempt = self.tasks.get(&record.task_id?)?.attempt()?;
        self.attempts.contains_key(&attempt).then_some(attempt)
    }

    /// When a worker that stays silent is counted on no more for what is set aside on it.
    pub(crate) fn earmarks_given_up_at(&self, id: WorkerId) -> Option<Micros> {
        let worker = self.fleet.get(id).filter(|worker| !worker.lost && !worker.earmarks().is_empty())?;
        Some(worker.lease_from.plus_seconds(self.settings.lost_after_s))
    }

    /// Reservations that have not expired.
    pub fn reservations(&self) -> impl Iterator<Item = &ReservationRecord> {
        self.reservations.live.values()
    }

    /// A reservation that has not expired.
    pub fn reservation(&self, id: ReservationId) -> Option<&ReservationRecord> {
        self.reservations.live.get(&id)
    }

    /// A reservation from its row, as it was.
    pub(crate) fn restore_reservation(&mut self, record: ReservationRecord) {
        if record.status == ReservationStatus::Expired {
            return;
        }
        let user = self.users.take(record.user_id.clone(), |_| Account::default());
        self.users.value_mut(user).reserved += u64::from(record.gpus());
        if record.expires_at.is_some() {
            self.restore_reserved_charge(user, record.gpus());
        }
        for earmark in &record.earmarks {
            self.fleet.earmark(earmark.worker_id, record.id, &earmark.gpus);
            self.arm(earmark.worker_id);
        }
        self.timers.set(Timer::ReservationEnds(record.id), None, ends(&record));
        self.reservations.live.insert(record.id, record);
    }

    fn put_reservation(&self, id: ReservationId, effects: &mut Vec<Effect>) {
        effects.push(Effect::PutReservation(self.reservations.live[&id].clone()));
    }

    fn put_reservation_audit(
        &self,
        record: &ReservationRecord,
        by: &str,
        action: &str,
        task: Option<TaskId>,
        effects: &mut Vec<Effect>,
    ) {
        effects.push(Effect::Audit(audit::reservation_draft(self.now, by, action, record, task)));
    }

    /// Timers of reservations, as they must be set.
    pub(crate) fn reservation_timers(&self) -> impl Iterator<Item = (Micros, Timer)> {
        self.reservations.live.values().filter_map(|record| Some((ends(record)?, Timer::ReservationEnds(record.id))))
    }

    /// Panics unless reservations, tasks and workers say the same, and no device is set aside twice or used by a
    /// task for which it is not.
    pub(crate) fn assert_reservations(&self) {
        let mut set_aside: BTreeMap<(WorkerId, u32), ReservationId> = BTreeMap::new();
        for (&id, record) in &self.reservations.live {
            assert_eq!(id, record.id);
            assert_eq!(record.status == ReservationStatus::Claimed, record.task_id.is_some(), "{id} and its task");
            assert!(record.gpus_held <= record.gpus() && record.ended_at.is_none(), "{record:?}");
            if let Some(task) = record.task_id {
                let shape = self.tasks.get(&task).map(|task| task.shape);
                let named = shape.and_then(|shape| self.queues.demand(shape).reservation);
                assert_eq!(named, Some(id), "{id} is that of its task, which has not ended");
            }
            assert!(record.earmarks.len() <= record.node_count as usize, "{id} has a worker for each node at most");
            for earmark in &record.earmarks {
                assert_eq!(earmark.gpus.len(), record.gpu_count as usize, "{id} has what a node needs");
                for &gpu in &earmark.gpus {
                    assert_eq!(set_aside.insert((earmark.worker_id, gpu), id), None, "GPU {gpu} is set aside once");
                }
            }
        }
        let known = self.fleet.iter().flat_map(|(id, worker)| {
            worker.earmarks().iter().map(move |(&gpu, &reservation)| ((id, gpu), reservation))
        });
        assert_eq!(known.collect::<BTreeMap<_, _>>(), set_aside, "workers know what is set aside");
        for (id, task) in &self.tasks {
            let Some(reservation) = self.queues.demand(task.shape).reservation else { continue };
            let record = self.reservations.live.get(&reservation);
            assert_eq!(record.and_then(|record| record.task_id), Some(*id), "the reservation of {id} is its own");
            let Some(attempt) = task.attempt().map(|attempt| &self.attempts[&attempt].record) else { continue };
            let nodes = attempt.nodes.iter().map(|node| (node.worker_id, &node.gpus));
            for (worker, gpus) in nodes.chain(std::iter::once((attempt.worker_id, &attempt.gpus))) {
                for &gpu in gpus {
                    assert_eq!(set_aside.get(&(worker, gpu)), Some(&reservation), "GPU {gpu} is set aside for {id}");
                }
            }
        }
    }
}

fn tokens(record: &ReservationRecord) -> Vec<String> {
    record.gpu_type.as_deref().map(gpu::tokens).unwrap_or_default()
}
