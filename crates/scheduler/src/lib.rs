//! The scheduling core: events in, effects out. [`Scheduler::step`] is told what happened and when,
//! and says what is to be written and sent; it does neither. Deterministic: no I/O, no clock, no
//! randomness, no hash order, no logging.
//!
//! A turn is any number of events and then [`Event::TurnEnded`], which places what can be placed.
//! Nothing of the effects may happen before all of the turn's are durable; after a failed commit
//! the core is thrown away and restored from rows.

mod attempt;
mod audit;
mod contest;
mod datasets;
mod dependency;
mod drain;
mod ending;
pub mod event;
mod explain;
mod fleet;
mod gang;
mod gpu;
mod hold;
mod intern;
mod invariants;
pub mod limits;
mod placement;
mod preemption;
mod queue;
mod quota;
mod report;
mod reservation;
mod restore;
mod session;
mod settings;
mod share;
mod submission;
mod task;
mod timers;
mod view;
mod worker;

pub use dependency::{ArrayOf, BlockedBy};
pub use event::*;
pub use restore::{DurableState, DurableTask, Rows};
pub use settings::Settings;
pub use task::priority_aged;

use attempt::Attempt;
use datasets::Datasets;
use dependency::Groups;
use fetchml_api::{AttemptId, Micros, TaskId};
use fleet::Fleet;
use hold::Hold;
use intern::Interner;
use queue::{PerSlot, Queues};
use quota::Quotas;
use reservation::Reservations;
use share::Account;
use std::collections::{BTreeMap, BTreeSet};
use task::Task;
use timers::Timers;

/// The core. Holds every task that has not ended, their current attempts, and all workers.
///
/// Volatile, and so not in [`Scheduler::durable_state`]: link state, last sign of life and leases of
/// workers, holds, when attempts left checkpoints, mean slot occupancy, which attempts are assigned ahead, patience
/// with those, and data sets.
#[derive(Debug)]
pub struct Scheduler {
    settings: Settings,
    /// Latest time any step was given; time does not run backwards here.
    now: Micros,
    /// Last epoch counter given out in this incarnation.
    epochs_used: u64,
    tasks: BTreeMap<TaskId, Task>,
    users: Interner<String, Account>,
    /// Users whose account changed in this step.
    dirty: BTreeSet<u32>,
    queues: Queues,
    quotas: Quotas,
    groups: Groups,
    /// Tasks in backoff, and blocked ones: queued, but in no queue.
    delayed: PerSlot<usize>,
    attempts: BTreeMap<AttemptId, Attempt>,
    fleet: Fleet,
    datasets: Datasets,
    holds: BTreeMap<TaskId, Hold>,
    /// When it was last looked for whom something has to be stopped.
    preempted_at: Option<Micros>,
    /// When it is looked again, because it is too early now.
    preempts_at: Option<Micros>,
    reservations: Reservations,
    timers: Timers,
}

impl Scheduler {
    /// A core that knows of nothing.
    pub fn new(settings: Settings) -> Self {
        Self {
            now: Micros(i64::MIN),
            epochs_used: settings.epochs_used,
            tasks: BTreeMap::new(),
            users: Interner::new(),
            dirty: BTreeSet::new(),
            queues: Queues::new(),
            quotas: Quotas::new(&settings.quotas),
            groups: Groups::new(),
            delayed: PerSlot::default(),
            attempts: BTreeMap::new(),
            fleet: Fleet::new(&settings),
            datasets: Datasets::default(),
            holds: BTreeMap::new(),
            preempted_at: None,
            preempts_at: None,
            reservations: Reservations::default(),
            timers: Timers::default(),
            settings,
        }
    }

    /// Tells the core that something happened at `now` (logical time; taken as the latest time told
    /// so far if it lies before that) and appends what is to be done about it.
    pub fn step(&mut self, now: Micros, event: Event, effects: &mut Vec<Effect>) -> Answer {
        self.now = self.now.max(now);
        let answer = self.on_event(event, effects);
        self.put_shares(effects);
        answer
    }

    fn on_event(&mut self, event: Event, effects: &mut Vec<Effect>) -> Answer {
        match event {
            Event::TaskSubmitted(new) => self.on_tasks_submitted(std::slice::from_ref(&new), effects),
            Event::ArraySubmitted(tasks) => self.on_tasks_submitted(&tasks, effects),
            Event::CancelRequested { task, by } => self.on_cancel_requested(task, &by, effects),
            Event::ArrayCancelRequested { array, by } => self.on_array_cancel_requested(array, &by, effects),
            Event::PriorityRequested { task, priority, by, role } => {
                self.on_priority_requested(task, priority, &by, role, effects)
            }
            Event::QuotaRequested { scope, quota, by } => self.on_quota_requested(scope, quota, &by, effects),
            Event::ReservationRequested(new) => self.on_reservation_requested(&new, effects),
            Event::ReleaseRequested { reservation, by } => self.on_release_requested(reservation, &by, effects),
            Event::DrainRequested { worker, mode, by } => self.on_drain_requested(worker, mode, &by, effects),
            Event::UndrainRequested { worker, by } => self.on_undrain_requested(worker, &by, effects),
            Event::WorkerChecked { worker, unfit } => self.on_worker_checked(worker, unfit, effects),
            Event::WorkerJoined { worker, name, capabilities, batch_slots, service_slots, inventory, unfit } => {
                let hello = session::Joined { worker, name, capabilities, batch_slots, service_slots, unfit };
                self.on_worker_joined(hello, &inventory, effects)
            }
            Event::WorkerHeard { worker } => self.on_worker_heard(worker),
            Event::GpusChanged { worker, gpus } => self.on_gpus_changed(worker, gpus, effects),
            Event::WorkerDisconnected { worker } => self.on_worker_disconnected(worker),
            Event::AttemptReported { worker, attempt, task, epoch, report } => {
                let fence = report::Fence { worker, attempt, task, epoch };
                self.on_attempt_reported(fence, report, effects)
            }
            Event::CheckpointSaved { attempt } => self.on_checkpoint_saved(attempt),
            Event::DatasetsWanted { task, datasets } => self.on_datasets_wanted(task, datasets),
            Event::DatasetsHeld { worker, datasets } => self.on_datasets_held(worker, datasets),
            Event::TimePassed => self.on_time_passed(effects),
            Event::TurnEnded => {
                self.on_time_passed(effects);
                self.on_turn_ended(effects)
            }
        }
    }

    /// Goes on in a later incarnation: epochs made from now on order after all made before. A lower or
    /// equal one changes nothing.
    pub fn raise_incarnation(&mut self, incarnation: u64) {
        if incarnation > self.settings.incarnation {
            self.settings.incarnation = incarnation;
            self.epochs_used = 0;
        }
    }

    /// The earliest instant at which [`Event::TimePassed`] will do something: the end of a backoff, of
    /// a lease, of patience with an attempt assigned ahead, of a reservation, or of a worker's silence, or when to look
    /// again for whom something has to be stopped. At once while something is
    /// left to follow from what has ended.
    pub fn next_deadline(&self) -> Option<Micros> {
        if !self.groups.are_settled() {
            return Some(self.now);
        }
        self.timers.next().into_iter().chain(self.preempts_at).min()
    }
}
