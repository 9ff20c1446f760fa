//! The driver: the one task that owns the scheduling core. It takes batches of commands, steps the
//! core, commits every effect in one transaction and only then sends, publishes and replies.
//!
//! Architecture Invariant: nothing leaves this module (reply, message, event) before the transaction
//! that it reports is durable.

mod clock;
mod command;
mod engine;
mod idle;
mod ids;
#[cfg(test)]
mod tests;
mod told;
mod views;
mod watched;

pub use command::{
    CancelAnswer, ChangeAnswer, CommandError, JoinAnswer, NewTaskDraft, SessionHandle, Submitted, UsageNow,
};
pub use fetchml_scheduler::{ClaimRefusal, Drain, NewReservation, Refusal};
pub use views::{LiveTasks, TaskChanged};
pub use watched::TaskWatch;

use crate::{
    auth::{Actor, KeyedHash},
    instruments::Instruments,
    limits,
};
use clock::Clock;
use command::{Input, Item, Question, Reading, Reply};
use fetchml_api::{
    AttemptId, DatasetKey, Explanation, HealthStatus, Micros, Quota, QuotaScope, Reservation, ReservationId, Role,
    SchedulerStatus, TaskId, Worker, WorkerId, link::Heartbeat, link::Hello, link::SpooledReport,
};
use fetchml_store::{Store, StoreError, StoredTask};
use std::{collections::BTreeMap, path::PathBuf, sync::Arc};
use tokio::sync::{Semaphore, broadcast, mpsc, oneshot, watch};
use views::Views;

/// Which tasks may be stopped for others of higher priority that fit nowhere: none unless set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Preemption {
    /// Those in batch slots.
    pub batch: bool,
    /// Those in service slots.
    pub service: bool,
    /// What was stopped so runs for at least so long before it is stopped again, seconds.
    pub cooldown_s: i64,
}

impl Default for Preemption {
    fn default() -> Self {
        Self { batch: false, service: false, cooldown_s: 600 }
    }
}

/// What the driver needs to know.
#[derive(Clone, Debug)]
pub struct DriverSettings {
    /// Queue time that lifts a task by one level of priority, seconds.
    pub aging_interval_s: i64,
    /// Lease of a worker's attempts, seconds.
    pub lost_after_s: i64,
    /// Which tasks may be stopped for others.
    pub preemption: Preemption,
    /// How long a task waits before workers are held for it, seconds.
    pub hold_after_s: i64,
    /// Time in which all nodes of a gang must be ready, seconds.
    pub prepare_timeout_s: i64,
    /// Quotas of roles and users, where none are set by the API.
    pub quotas: BTreeMap<QuotaScope, Quota>,
    /// Names values in the audit log that it must not show.
    pub values: KeyedHash,
    /// Keeps the incarnation outside the database, so that a restored backup cannot reissue epochs.
    pub incarnation_file: PathBuf,
}

/// A handle on the driver; cheap to clone.
#[derive(Clone)]
pub struct Driver {
    commands: mpsc::Sender<Item>,
    views: Arc<Views>,
    clock: Clock,
    aging_interval_s: i64,
    explaining: Arc<Semaphore>,
}

/// The running driver.
pub struct DriverTask {
    task: tokio::task::JoinHandle<()>,
    stop: watch::Sender<bool>,
}

impl DriverTask {
    /// Ends the driver after the turn in flight. Commands that wait are refused.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        // A panic of the driver was logged by the panic hook already.
        let _ = self.task.await;
    }
}

impl Driver {
    /// Takes a new incarnation, restores the core from the store and starts the task.
    ///
    /// # Errors
    /// The store cannot be read or written, or the incarnation file cannot be.
    pub(crate) async fn start(
        store: Store,
        settings: DriverSettings,
        instruments: Arc<Instruments>,
    ) -> Result<(Self, DriverTask), StoreError> {
        let (commands, inbox) = mpsc::channel(limits::DRIVER_QUEUE);
        let (stop, stopping) = watch::channel(false);
        let engine = engine::Engine::boot(store, settings.clone(), instruments).await?;
        let driver = Self {
            commands,
            views: engine.views(),
            clock: engine.clock(),
            aging_interval_s: settings.aging_interval_s,
            explaining: Arc::new(Semaphore::new(1)),
        };
        let task = tokio::spawn(engine.run(inbox, stopping));
        Ok((driver, DriverTask { task, stop }))
    }

    /// The logical time: follows the wall clock as it was at boot, never goes back.
    pub fn now(&self) -> Micros {
        self.clock.now()
    }

    /// The incarnation of this life of the server.
    pub fn incarnation(&self) -> u64 {
        self.views.incarnation()
    }

    /// Queue time that lifts a task by one level of priority, seconds.
    pub const fn aging_interval_s(&self) -> i64 {
        self.aging_interval_s
    }

    /// Whether writes work, and if not why.
    pub fn health(&self) -> (HealthStatus, Option<String>) {
        self.views.health()
    }

    /// Becomes true when the disk failed to sync: the process must exit.
    pub fn fatal(&self) -> watch::Receiver<bool> {
        self.views.fatal()
    }

    /// All workers as of a recent turn (at most 100 ms old).
    pub fn workers(&self) -> Arc<Vec<Worker>> {
        self.views.workers()
    }

    /// GPUs that tasks hold, as of a recent turn.
    pub fn gpus_held(&self) -> u64 {
        self.views.gpus_held()
    }

    /// Commands that wait for a turn.
    pub fn commands_waiting(&self) -> usize {
        self.commands.max_capacity() - self.commands.capacity()
    }

    /// Queue depths, workers and what runs, as of the last turn.
    pub fn status(&self) -> SchedulerStatus {
        self.views.status().expect("the status is shown before the driver is handed out")
    }

    /// A task that has not ended, as last committed.
    pub fn live(&self, id: TaskId) -> Option<StoredTask> {
        self.views.live(id)
    }

    /// Committed changes of tasks. A slow reader lags and must read the state again.
    pub fn subscribe(&self) -> broadcast::Receiver<TaskChanged> {
        self.views.subscribe()
    }

    /// Hears of every committed change of one task from now on.
    pub fn watch(&self, id: TaskId) -> TaskWatch {
        self.views.watch(id)
    }

    /// How many tasks somebody waits for.
    #[cfg(test)]
    pub(crate) fn tasks_watched(&self) -> usize {
        self.views.tasks_watched()
    }

    /// Submits a task, or all of an array, and answers with the first; durable when this returns.
    ///
    /// # Errors
    /// See [`CommandError`]; nothing was stored, except that after `Unavailable` it may have been.
    pub async fn submit(&self, draft: NewTaskDraft) -> Result<Submitted, CommandError> {
        let (reply, answer) = oneshot::channel();
        self.offer(Item { input: Input::Submit(Arc::new(draft)), reply: Reply::Submit(reply) })?;
        answer.await.unwrap_or(Err(CommandError::ShuttingDown))
    }

    /// Asks to stop a task; the request is durable when this returns.
    ///
    /// # Errors
    /// See [`CommandError`].
    pub async fn cancel(&self, task: TaskId, by: Actor) -> Result<CancelAnswer, CommandError> {
        let (reply, answer) = oneshot::channel();
        self.offer(Item { input: Input::Cancel { task, by }, reply: Reply::Cancel(reply) })?;
        answer.await.unwrap_or(Err(CommandError::ShuttingDown))
    }

    /// Asks to stop all tasks of an array; the request is durable when this returns.
    ///
    /// # Errors
    /// See [`CommandError`].
    pub async fn cancel_array(&self, array: TaskId, by: Actor) -> Result<CancelAnswer, CommandError> {
        let (reply, answer) = oneshot::channel();
        self.offer(Item { input: Input::CancelArray { array, by }, reply: Reply::Cancel(reply) })?;
        answer.await.unwrap_or(Err(CommandError::ShuttingDown))
    }

    /// Gives a task that has not ended another priority, 1..=10; durable when this returns.
    ///
    /// # Errors
    /// See [`CommandError`].
    pub async fn priority_set(
        &self,
        task: TaskId,
        priority: u8,
        by: Actor,
        role: Role,
    ) -> Result<ChangeAnswer, CommandError> {
        self.change(Input::Priority { task, priority, by, role }).await
    }

    /// Sets how much a user, or who acts in a role, may have at once; durable when this returns.
    ///
    /// # Errors
    /// See [`CommandError`].
    pub async fn quota_set(&self, scope: QuotaScope, quota: Quota, by: Actor) -> Result<ChangeAnswer, CommandError> {
        self.change(Input::Quota { scope, quota, by }).await
    }

    /// Sets GPUs aside; durable when this returns. The id of `new` is given by the driver.
    ///
    /// # Errors
    /// See [`CommandError`].
    pub async fn reserve(&self, new: NewReservation, by: Actor) -> Result<Reservation, CommandError> {
        let (reply, answer) = oneshot::channel();
        self.offer(Item { input: Input::Reserve { new: Arc::new(new), by }, reply: Reply::Reserve(reply) })?;
        answer.await.unwrap_or(Err(CommandError::ShuttingDown))
    }

    /// Gives a reservation up that no task has; durable when this returns.
    ///
    /// # Errors
    /// See [`CommandError`].
    pub async fn release(&self, reservation: ReservationId, by: Actor) -> Result<ChangeAnswer, CommandError> {
        self.change(Input::Release { reservation, by }).await
    }

    /// Reservations that have not expired, as last committed, in the order in which they were made.
    pub fn reservations(&self) -> Vec<Reservation> {
        self.views.reservations()
    }

    /// Lets a worker take nothing new, and says what becomes of what it holds; durable when this returns.
    ///
    /// # Errors
    /// See [`CommandError`].
    pub async fn worker_drain(&self, worker: WorkerId, mode: Drain, by: Actor) -> Result<ChangeAnswer, CommandError> {
        self.change(Input::Drain { worker, mode, by }).await
    }

    /// Lets a drained worker take work again; durable when this returns.
    ///
    /// # Errors
    /// See [`CommandError`].
    pub async fn worker_undrain(&self, worker: WorkerId, by: Actor) -> Result<ChangeAnswer, CommandError> {
        self.change(Input::Undrain { worker, by }).await
    }

    /// What users hold now, and what their current attempts have used so far; for `user`, in `role`.
    ///
    /// # Errors
    /// See [`CommandError`].
    pub async fn usage(&self, user: &str, role: Role) -> Result<UsageNow, CommandError> {
        match self.ask(Question::Holdings { user: user.to_owned(), role }).await? {
            Reading::Holdings(usage) => Ok(*usage),
            reading => unreachable!("each question has one kind of answer: {reading:?}"),
        }
    }

    /// Why a task has not started; none: it has ended, or never was. One is explained at a time: it costs a look at
    /// every worker.
    ///
    /// # Errors
    /// See [`CommandError`].
    pub async fn explain(&self, task: TaskId) -> Result<Option<Explanation>, CommandError> {
        self.explained(Question::Explain(task)).await
    }

    /// What would become of a task if it were submitted now.
    ///
    /// # Errors
    /// See [`CommandError`]; as if it were submitted.
    pub async fn explain_new(&self, draft: NewTaskDraft) -> Result<Explanation, CommandError> {
        let explanation = self.explained(Question::ExplainNew(Arc::new(draft))).await?;
        explanation.ok_or_else(|| CommandError::Refused("a task that is not created cannot have ended".into()))
    }

    async fn explained(&self, question: Question) -> Result<Option<Explanation>, CommandError> {
        let turn = tokio::time::timeout(limits::EXPLAIN_WAIT, self.explaining.acquire()).await;
        let _turn = turn.map_err(|_| CommandError::Overloaded { retry_after_s: limits::RETRY_AFTER_S })?;
        match self.ask(question).await? {
            Reading::Explained(explanation) => Ok(explanation.map(|explanation| *explanation)),
            Reading::NotAllowed(refusal) => Err(CommandError::NotAllowed(refusal)),
            reading @ Reading::Holdings(_) => unreachable!("each question has one kind of answer: {reading:?}"),
        }
    }

    /// Opens a worker's session. Messages for the worker go to `session` from then on.
    ///
    /// # Errors
    /// See [`CommandError`].
    pub async fn join(&self, hello: Box<Hello>, session: SessionHandle) -> Result<JoinAnswer, CommandError> {
        let (reply, answer) = oneshot::channel();
        let item = Item { input: Input::Join { hello: Arc::from(hello), session }, reply: Reply::Join(reply) };
        self.push(item).await?;
        answer.await.unwrap_or(Err(CommandError::ShuttingDown))
    }

    /// Notes a sign of life, what the worker's own checks found, and how its devices are. The beat is answered
    /// through the session once the core has heard it: what is answered renews the worker's lease.
    pub(crate) async fn heard(&self, worker: WorkerId, session: u64, beat: Heartbeat) -> Result<(), CommandError> {
        self.push(Item { input: Input::Heard { worker, session, beat: Arc::new(beat) }, reply: Reply::None }).await
    }

    /// Hands over reports; they are acknowledged through the session when durable.
    pub(crate) async fn reports(
        &self,
        worker: WorkerId,
        session: u64,
        reports: Vec<SpooledReport>,
    ) -> Result<(), CommandError> {
        let input = Input::Reports { worker, session, reports: reports.into() };
        self.push(Item { input, reply: Reply::None }).await
    }

    /// Notes that an attempt has left a checkpoint, which is stored: what is stopped for others loses what came after.
    pub(crate) fn checkpoint_saved(&self, attempt: AttemptId) {
        // Only an estimate hangs on it: a driver that is overloaded has better things to do.
        let _ = self.offer(Item { input: Input::Checkpoint { attempt }, reply: Reply::None });
    }

    /// Notes what a worker holds of data sets.
    pub(crate) async fn datasets_held(
        &self,
        worker: WorkerId,
        session: u64,
        held: Vec<DatasetKey>,
    ) -> Result<(), CommandError> {
        let input = Input::DatasetsHeld { worker, session, held: held.into() };
        self.push(Item { input, reply: Reply::None }).await
    }

    /// Notes that a session ended.
    pub(crate) async fn closed(&self, worker: WorkerId, session: u64) {
        // When the driver is gone there is nobody to tell.
        let _ = self.push(Item { input: Input::Closed { worker, session }, reply: Reply::None }).await;
    }

    async fn change(&self, input: Input) -> Result<ChangeAnswer, CommandError> {
        let (reply, answer) = oneshot::channel();
        self.offer(Item { input, reply: Reply::Change(reply) })?;
        answer.await.unwrap_or(Err(CommandError::ShuttingDown))
    }

    async fn ask(&self, question: Question) -> Result<Reading, CommandError> {
        let (reply, answer) = oneshot::channel();
        self.offer(Item { input: Input::Ask(question), reply: Reply::Tell(reply) })?;
        answer.await.unwrap_or(Err(CommandError::ShuttingDown))
    }

    /// For requests: refused at once when the queue is full.
    fn offer(&self, item: Item) -> Result<(), CommandError> {
        self.commands.try_send(item).map_err(|refused| match refused {
            mpsc::error::TrySendError::Full(_) => CommandError::Overloaded { retry_after_s: limits::RETRY_AFTER_S },
            mpsc::error::TrySendError::Closed(_) => CommandError::ShuttingDown,
        })
    }

    /// For worker sessions: waits for room, which slows the worker down.
    async fn push(&self, item: Item) -> Result<(), CommandError> {
        self.commands.send(item).await.map_err(|_| CommandError::ShuttingDown)
    }
}
