//! What the driver is asked, and what it answers.

use crate::{auth::Actor, once::Once};
use fetchml_api::{
    ArraySpec, AttemptId, DatasetKey, Dependency, Explanation, Holding, Quota, QuotaScope, Reservation, ReservationId,
    Role, TaskId, TaskSpec, WorkerId,
    link::{Heartbeat, Hello, SpooledReport, ToWorker},
};
use fetchml_scheduler::{Answer, Drain, NewReservation, Refusal};
use fetchml_store::{StoredTask, UsageRow};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// A validated task that is to be submitted.
#[derive(Clone, Debug)]
pub struct NewTaskDraft {
    /// Immutable part; `id` and `created_at` are set by the driver.
    pub spec: TaskSpec,
    /// For each of these indices; none: one task.
    pub array: Option<ArraySpec>,
    /// Of what it depends on, that which has not ended.
    pub needs: Vec<Dependency>,
    /// Of the rest, something that did not end as it had to.
    pub broken_by: Option<TaskId>,
    /// 1..=10.
    pub priority: u8,
    /// Who asks for it: its user, or somebody who runs a task of theirs again.
    pub by: Actor,
    /// Tells whether the same was asked before.
    pub once: Option<Once>,
}

/// What became of a submit.
#[derive(Clone, Debug)]
pub struct Submitted {
    /// The task as it was submitted; of an array the first.
    pub task: StoredTask,
    /// It was submitted before, by the same request.
    pub replayed: bool,
}

/// What became of a cancel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CancelAnswer {
    /// Recorded: a queued task has ended, an active one is being stopped.
    Recorded,
    /// It was cancelled before; nothing changed.
    Unchanged,
    /// The task is not queued or active.
    NotActive,
}

impl From<Answer> for CancelAnswer {
    fn from(answer: Answer) -> Self {
        match answer {
            Answer::Done => Self::Recorded,
            Answer::Unchanged => Self::Unchanged,
            Answer::NotActive | Answer::Stale | Answer::Refused(_) => Self::NotActive,
        }
    }
}

/// What became of a request to change something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChangeAnswer {
    /// Done, and durable.
    Done,
    /// It was so already; nothing changed.
    Unchanged,
    /// No task that has not ended, or no worker, has this id.
    NotActive,
    /// Not allowed.
    Refused(Refusal),
}

impl From<Answer> for ChangeAnswer {
    fn from(answer: Answer) -> Self {
        match answer {
            Answer::Done => Self::Done,
            Answer::Unchanged => Self::Unchanged,
            Answer::Refused(refusal) => Self::Refused(refusal),
            Answer::NotActive | Answer::Stale => Self::NotActive,
        }
    }
}

/// What became of a hello.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum JoinAnswer {
    /// The session is open.
    Welcome {
        /// The server's incarnation.
        incarnation: u64,
        /// Attempts of the inventory that are over for the server.
        forget: Vec<AttemptId>,
        /// Attempts of the inventory that go on, with the rank of the worker's node.
        keep: Vec<(AttemptId, u32)>,
    },
    /// Not now.
    Refused {
        /// One sentence.
        reason: String,
    },
}

/// Why a command was not done.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CommandError {
    /// Too many commands wait.
    #[error("too many requests wait to be stored")]
    Overloaded {
        /// Seconds after which trying again makes sense.
        retry_after_s: u32,
    },
    /// The store cannot be written now.
    #[error("{reason}")]
    Unavailable {
        /// One sentence, without internals.
        reason: String,
        /// Seconds after which trying again makes sense.
        retry_after_s: u32,
    },
    /// The database refused the rows of this command.
    #[error("the database refused this request: {0}")]
    Refused(String),
    /// The same key came with another body.
    #[error("the idempotency key is another request's")]
    KeyTaken,
    /// A quota does not allow it.
    #[error("a quota does not allow this")]
    NotAllowed(Refusal),
    /// The server is stopping.
    #[error("the server is shutting down")]
    ShuttingDown,
}

/// Where messages for a connected worker go.
#[derive(Clone, Debug)]
pub struct SessionHandle {
    /// Number of the session in this process.
    pub id: u64,
    /// Bounded; a worker that does not drain it is cut off.
    pub outbox: mpsc::Sender<ToWorker>,
    /// Whose key the worker has, for the audit log.
    pub by: Actor,
}

/// Something that only the core knows. Asking changes nothing.
#[derive(Clone, Debug)]
pub(super) enum Question {
    /// What users hold, and what their current attempts have used so far.
    Holdings {
        /// Who asks.
        user: String,
        /// In which role.
        role: Role,
    },
    /// Why a task has not started.
    Explain(TaskId),
    /// What would become of one.
    ExplainNew(Arc<NewTaskDraft>),
}

/// The answer.
#[derive(Clone, Debug)]
pub(super) enum Reading {
    Holdings(Box<UsageNow>),
    /// None: it has ended.
    Explained(Option<Box<Explanation>>),
    NotAllowed(Refusal),
}

/// What users hold, and what their current attempts have used that the store does not count yet.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct UsageNow {
    /// What the one who asks holds.
    pub own: Holding,
    /// What everybody holds who is known to the core.
    pub holdings: Vec<Holding>,
    /// One row for each user and experiment.
    pub used: Vec<UsageRow>,
}

/// A command, kept until its turn is durable so that it can be replayed.
#[derive(Clone, Debug)]
pub(super) enum Input {
    Submit(Arc<NewTaskDraft>),
    Cancel { task: TaskId, by: Actor },
    CancelArray { array: TaskId, by: Actor },
    Priority { task: TaskId, priority: u8, by: Actor, role: Role },
    Quota { scope: QuotaScope, quota: Quota, by: Actor },
    Reserve { new: Arc<NewReservation>, by: Actor },
    Release { reservation: ReservationId, by: Actor },
    Drain { worker: WorkerId, mode: Drain, by: Actor },
    Undrain { worker: WorkerId, by: Actor },
    Join { hello: Arc<Hello>, session: SessionHandle },
    Heard { worker: WorkerId, session: u64, beat: Arc<Heartbeat> },
    Reports { worker: WorkerId, session: u64, reports: Arc<[SpooledReport]> },
    Checkpoint { attempt: AttemptId },
    DatasetsHeld { worker: WorkerId, session: u64, held: Arc<[DatasetKey]> },
    Closed { worker: WorkerId, session: u64 },
    Ask(Question),
}

/// Where the answer goes.
pub(super) enum Reply {
    Submit(oneshot::Sender<Result<Submitted, CommandError>>),
    Cancel(oneshot::Sender<Result<CancelAnswer, CommandError>>),
    Change(oneshot::Sender<Result<ChangeAnswer, CommandError>>),
    Reserve(oneshot::Sender<Result<Reservation, CommandError>>),
    Join(oneshot::Sender<Result<JoinAnswer, CommandError>>),
    Tell(oneshot::Sender<Result<Reading, CommandError>>),
    None,
}

impl Reply {
    /// Answers with an error. A caller that is gone needs no answer.
    pub(super) fn fail(self, error: &CommandError) {
        match self {
            Self::Submit(reply) => drop(reply.send(Err(error.clone()))),
            Self::Cancel(reply) => drop(reply.send(Err(error.clone()))),
            Self::Change(reply) => drop(reply.send(Err(error.clone()))),
            Self::Reserve(reply) => drop(reply.send(Err(error.clone()))),
            Self::Join(reply) => drop(reply.send(Err(error.clone()))),
            Self::Tell(reply) => drop(reply.send(Err(error.clone()))),
            Self::None => {}
        }
    }
}

/// A command and where its answer goes.
pub(super) struct Item {
    pub(super) input: Input,
    pub(super) reply: Reply,
}
