//! How attempts end and what becomes of their tasks: completed, failed, or queued again. Every end
//! goes through here, so a task has one terminal transition.

use crate::{
    Effect, Message, Scheduler,
    attempt::Holding,
    audit::{self, Action, SYSTEM},
    share,
    timers::Timer,
};
use fetchml_api::{
    AttemptId, AttemptPhase, AttemptRecord, FailureCause, LogAction, LogRuleMatch, Micros, RetryRule, SlotKind, TaskId,
    TaskStatus, WorkerId,
    failure::backoff_seconds,
    limits::{ERROR_BYTES, REQUEUES_MAX},
    link::Outcome,
};

/// Why a task fails, or would.
#[derive(Clone, Debug)]
pub(crate) struct Failing {
    cause: FailureCause,
    transient: bool,
    exit_code: Option<i32>,
    signal: Option<i32>,
    error: String,
    /// The rule that its log matched.
    log_rule: Option<LogRuleMatch>,
    /// Whether to wait before the next attempt.
    backoff: bool,
}

impl Failing {
    pub(crate) fn cancelled(by: &str) -> Self {
        Self::by_system(FailureCause::Cancelled, format!("cancelled by {by}"))
    }

    /// What it depends on did not end as it had to.
    pub(crate) fn dependency(need: TaskId) -> Self {
        Self::by_system(FailureCause::Dependency, format!("{need}, which this task depends on, did not complete"))
    }

    /// No fault of the task's and nothing to wait for: it is queued again at once.
    pub(crate) fn lost(error: String) -> Self {
        Self::by_system(FailureCause::Lost, error)
    }

    const fn by_system(cause: FailureCause, error: String) -> Self {
        Self { cause, transient: false, exit_code: None, signal: None, error, log_rule: None, backoff: false }
    }

    fn rules(&self, action: LogAction) -> bool {
        self.log_rule.as_ref().is_some_and(|rule| rule.action == Some(action))
    }

    fn reported(cause: FailureCause, outcome: &Outcome) -> Self {
        Self {
            cause,
            transient: outcome.transient,
            exit_code: outcome.exit_code,
            signal: outcome.signal,
            error: outcome.error.clone().unwrap_or_else(|| sentence(cause, outcome)),
            log_rule: outcome.log_rule.clone(),
            backoff: true,
        }
    }
}

impl Scheduler {
    /// A worker reported how its attempt ended.
    pub(crate) fn on_ended(&mut self, attempt: AttemptId, mut outcome: Outcome, effects: &mut Vec<Effect>) {
        outcome.error = outcome.error.as_deref().map(cleaned);
        let record = self.end_attempt(attempt, AttemptPhase::Ended, Some(outcome.clone()), effects);
        effects.push(Effect::Send { worker: record.worker_id, message: Message::Forget { attempt } });
        self.settle_outcome(&record, &outcome, effects);
    }

    /// Decides about a task whose attempt is over with this outcome.
    pub(crate) fn settle_outcome(&mut self, record: &AttemptRecord, outcome: &Outcome, effects: &mut Vec<Effect>) {
        match outcome.cause {
            // It is the core that says so of a gang, and nothing is to be waited for.
            Some(FailureCause::Lost) if !record.nodes.is_empty() => {
                self.settle(record, &Failing::lost(outcome.error.clone().unwrap_or_default()), effects);
            }
            Some(cause) => self.settle(record, &Failing::reported(cause, outcome), effects),
            None if self.tasks[&record.task_id].cancelled_by().is_some() => {
                self.settle(record, &Failing::reported(FailureCause::Cancelled, outcome), effects);
            }
            None => self.finish_completed(record, outcome, effects),
        }
    }

    /// A worker is lost, or has lost what it held of an attempt.
    pub(crate) fn lose(&mut self, attempt: AttemptId, worker: WorkerId, why: &str, effects: &mut Vec<Effect>) {
        if self.is_gang(attempt) {
            self.node_lost(attempt, worker, why, effects);
        } else {
            self.give_up(attempt, why.to_owned(), effects);
        }
    }

    /// The worker that held an attempt is gone, or has lost it.
    pub(crate) fn give_up(&mut self, attempt: AttemptId, why: String, effects: &mut Vec<Effect>) {
        let record = self.end_attempt(attempt, AttemptPhase::Abandoned, None, effects);
        self.settle(&record, &Failing::lost(why), effects);
    }

    /// A worker gave an attempt back before user code ran: the task waits again as if it had never left.
    pub(crate) fn on_returned(&mut self, attempt: AttemptId, effects: &mut Vec<Effect>) {
        let record = self.end_attempt(attempt, AttemptPhase::Abandoned, None, effects);
        effects.push(Effect::Send { worker: record.worker_id, message: Message::Forget { attempt } });
        let id = record.task_id;
        let task = self.task_mut(id);
        if let Some(by) = task.cancelled_by() {
            let failing = Failing::cancelled(by);
            return self.finish_failed(id, &failing, Action::Cancel, SYSTEM, Some(&record), effects);
        }
        // The wait that was closed when it was placed is open again, from where it began.
        task.waited_before -= record.created_at.since(task.queued_since).max(0);
        task.status = TaskStatus::Queued;
        task.history_mut().attempt = None;
        let user = task.user;
        self.users.value_mut(user).queued += 1;
        self.reservations.look_again();
        self.enqueue(id);
        let state = self.tasks[&id].state(id);
        effects.push(Effect::Audit(audit::draft(self.now, SYSTEM, Action::Return, &state, Some(&record))));
        effects.push(Effect::UpdateTask(state));
    }

    /// Ends an attempt: what it holds is free, and it is out of the core.
    fn end_attempt(
        &mut self,
        id: AttemptId,
        phase: AttemptPhase,
        outcome: Option<Outcome>,
        effects: &mut Vec<Effect>,
    ) -> AttemptRecord {
        self.release(id, effects);
        let mut record = self.attempts.remove(&id).expect("only current attempts end").record;
        let worker = record.worker_id;
        self.fleet.change(worker, |worker| worker.attempts.remove(&id));
        self.arm(worker);
        record.phase = phase;
        record.ended_at = Some(self.now);
        record.outcome = outcome;
        effects.push(Effect::PutAttempt(record.clone()));
        record
    }

    /// Frees what an attempt holds, and lets those move up that wait behind it on its worker.
    pub(crate) fn release(&mut self, id: AttemptId, effects: &mut Vec<Effect>) {
        let now = self.now;
        let attempt = self.attempts.get_mut(&id).expect("only current attempts hold anything");
        let task = attempt.record.task_id;
        let demand = self.queues.demand(self.tasks[&task].shape);
        let holding = std::mem::replace(&mut attempt.holding, Holding::Nothing);
        let record = &attempt.record;
        match holding {
            Holding::Ahead { patience_ends } => {
                self.timers.set(Timer::PatienceEnds(id), Some(patience_ends), None);
                self.fleet.change(record.worker_id, |worker| worker.ahead.remove(&record.epoch));
            }
            Holding::Room { since } => {
                let ran = demand.slot == SlotKind::Batch && record.phase >= AttemptPhase::Running;
                self.fleet.change(record.worker_id, |worker| {
                    worker.release(id, demand);
                    if ran {
                        worker.occupancy.add(now.since(since));
                    }
                });
            }
            Holding::Nothing => return,
        }
        let (worker, charged) = (record.worker_id, share::is_charged(record, demand));
        self.end_holding(task);
        if charged {
            self.end_charge(id, effects);
        }
        self.promote(worker);
    }

    /// Decides about a task whose attempt failed.
    fn settle(&mut self, record: &AttemptRecord, failing: &Failing, effects: &mut Vec<Effect>) {
        let (id, now) = (record.task_id, self.now);
        let task = self.task_mut(id);
        if let Some(by) = task.cancelled_by() {
            let Failing { error, .. } = Failing::cancelled(by);
            let failing = Failing { cause: FailureCause::Cancelled, error, ..failing.clone() };
            return self.finish_failed(id, &failing, Action::Cancel, SYSTEM, Some(record), effects);
        }
        let max_retries = task.max_retries;
        let mut rule = failing.cause.retry_rule(failing.transient);
        if failing.rules(LogAction::DoNotRetry) {
            rule = RetryRule::Final;
        }
        // A worker that says so unasked would have it for nothing for ever.
        if rule == RetryRule::Uncounted && !self.was_evicted(record) {
            rule = RetryRule::Free;
        }
        let history = self.task_mut(id).history_mut();
        let (action, count) = match rule {
            RetryRule::Counted if history.retry_count < max_retries => (Action::Retry, &mut history.retry_count),
            RetryRule::Free if history.requeue_count < REQUEUES_MAX => (Action::Requeue, &mut history.requeue_count),
            RetryRule::Uncounted => return self.requeue(record, failing, None, Action::Requeue, effects),
            RetryRule::Counted | RetryRule::Free | RetryRule::Final => {
                return self.finish_failed(id, failing, Action::Fail, SYSTEM, Some(record), effects);
            }
        };
        let not_before = failing.backoff.then(|| now.plus_seconds(backoff_seconds(*count)));
        *count += 1;
        self.requeue(record, failing, not_before, action, effects);
    }

    /// Whether the core asked for the end of an attempt that was to run elsewhere.
    pub(crate) fn was_evicted(&self, record: &AttemptRecord) -> bool {
        let evicts = |id| self.fleet.get(id).is_some_and(|worker| worker.record.evicting);
        record.preempted_for.is_some()
            || evicts(record.worker_id)
            || record.nodes.iter().any(|node| evicts(node.worker_id))
    }

    /// Queues a task again after a failed attempt; time in backoff is not queued time.
    fn requeue(
        &mut self,
        record: &AttemptRecord,
        failing: &Failing,
        not_before: Option<Micros>,
        action: Action,
        effects: &mut Vec<Effect>,
    ) {
        let (id, now) = (record.task_id, self.now);
        if failing.rules(LogAction::ExcludeWorker) {
            self.exclude(id, record.worker_id);
        }
        let task = self.task_mut(id);
        task.status = TaskStatus::Queued;
        task.queued_since = not_before.unwrap_or(now);
        let user = task.user;
        let history = task.history_mut();
        history.attempt = None;
        history.not_before = not_before;
        history.fail(failing);
        self.users.value_mut(user).queued += 1;
        self.reservations.look_again();
        match not_before {
            Some(at) => self.begin_backoff(id, at),
            None => self.enqueue(id),
        }
        let state = self.tasks[&id].state(id);
        effects.push(Effect::Audit(audit::draft(now, SYSTEM, action, &state, Some(record))));
        effects.push(Effect::UpdateTask(state));
    }

    /// Keeps a task, which must be in no queue, off a worker from now on.
    fn exclude(&mut self, id: TaskId, worker: WorkerId) {
        let history = self.task_mut(id).history_mut();
        if history.excluded_workers.contains(&worker) {
            return;
        }
        history.excluded_workers.push(worker);
        let excluded = history.excluded_workers.clone();
        let before = self.tasks[&id].shape;
        let demand = self.queues.demand(before).clone();
        self.task_mut(id).shape = self.queues.shape_take(demand, excluded);
        self.queues.shapes.release(before);
    }

    fn finish_completed(&mut self, record: &AttemptRecord, outcome: &Outcome, effects: &mut Vec<Effect>) {
        let task = self.task_mut(record.task_id);
        task.status = TaskStatus::Completed;
        let history = task.history_mut();
        history.cause = None;
        history.error = None;
        history.log_rule = None;
        history.exit_code = outcome.exit_code;
        history.signal = outcome.signal;
        self.finish(record.task_id, Action::Complete, SYSTEM, Some(record), effects);
    }

    /// Ends a task as failed. It must be in no queue any more.
    pub(crate) fn finish_failed(
        &mut self,
        id: TaskId,
        failing: &Failing,
        action: Action,
        user: &str,
        attempt: Option<&AttemptRecord>,
        effects: &mut Vec<Effect>,
    ) {
        let task = self.task_mut(id);
        let (owner, waited) = (task.user, task.status == TaskStatus::Queued);
        task.status = TaskStatus::Failed;
        task.history_mut().fail(failing);
        if waited {
            self.users.value_mut(owner).queued -= 1;
        }
        self.finish(id, action, user, attempt, effects);
    }

    /// The one place where a task leaves the core.
    fn finish(
        &mut self,
        id: TaskId,
        action: Action,
        user: &str,
        attempt: Option<&AttemptRecord>,
        effects: &mut Vec<Effect>,
    ) {
        let mut task = self.tasks.remove(&id).expect("a task ends once");
        self.datasets.forget(id);
        let history = task.history_mut();
        history.ended_at = Some(self.now);
        history.not_before = None;
        let state = task.state(id);
        let reservation = self.queues.demand(task.shape).reservation;
        self.leave_group(id, &task);
        self.queues.shapes.release(task.shape);
        self.users.release(task.user);
        effects.push(Effect::Audit(audit::draft(self.now, user, action, &state, attempt)));
        effects.push(Effect::UpdateTask(state));
        if let Some(reservation) = reservation {
            self.end_claim(reservation, id, effects);
        }
    }

    pub(crate) fn begin_backoff(&mut self, id: TaskId, until: Micros) {
        self.timers.set(Timer::BackoffEnds(id), None, Some(until));
        *self.delayed_mut(id) += 1;
    }

    /// Ends a task's backoff; false if it is in none.
    pub(crate) fn end_backoff(&mut self, id: TaskId) -> bool {
        let Some(until) = self.tasks[&id].history().and_then(|history| history.not_before) else { return false };
        if !self.timers.contains(Timer::BackoffEnds(id), until) {
            return false;
        }
        self.timers.set(Timer::BackoffEnds(id), Some(until), None);
        *self.delayed_mut(id) -= 1;
        true
    }

    pub(crate) fn delayed_mut(&mut self, id: TaskId) -> &mut usize {
        let kind = self.queues.demand(self.tasks[&id].shape).slot;
        self.delayed.of_mut(kind)
    }

    pub(crate) fn task_mut(&mut self, id: TaskId) -> &mut crate::task::Task {
        self.tasks.get_mut(&id).expect("the task of a current attempt has not ended")
    }
}

impl crate::task::History {
    fn fail(&mut self, failing: &Failing) {
        self.cause = Some(failing.cause);
        self.exit_code = failing.exit_code;
        self.signal = failing.signal;
        self.error = Some(failing.error.clone());
        self.log_rule.clone_from(&failing.log_rule);
    }
}

/// A worker's sentence as it may be stored: without NUL, and not longer than the limit.
fn cleaned(error: &str) -> String {
    let mut error = error.replace('\0', "\u{fffd}");
    error.truncate(error.floor_char_boundary(ERROR_BYTES));
    error
}

/// The sentence for a failure that came without one.
fn sentence(cause: FailureCause, outcome: &Outcome) -> String {
    use FailureCause as C;
    let text = match (cause, outcome.exit_code, outcome.signal) {
        (C::ExitNonzero, Some(code), _) => return format!("exit code {code}; see the log"),
        (C::Signal, _, Some(signal)) => return format!("ended by signal {signal}; see the log"),
        (C::ExitNonzero, None, _) => "ended with an exit code other than 0; see the log",
        (C::Signal, _, None) => "ended by a signal; see the log",
        (C::OomHost, ..) => "the memory limit was reached; ask for more with memory_gb",
        (C::OomGpu, ..) => "a GPU ran out of memory; see the log",
        (C::Timeout, ..) => "time_limit_s passed; the task was stopped",
        (C::Stalled, ..) => "no progress for too long; the task was stopped",
        (C::Lost, ..) => "the worker lost the task; nobody saw how it ended",
        (C::Launch, ..) => "the worker could not start the process",
        (C::Plugin, ..) => "a tracking tool failed",
        (C::Dataset, ..) => "a data set could not be had",
        (C::Environment, ..) => "the Python environment could not be built; see the log",
        (C::Image, ..) => "the container image could not be had",
        (C::Snapshot, ..) => "the snapshot could not be had or does not match its hash",
        (C::Secret, ..) => "a secret of the task is not there any more; set it again and submit again",
        (C::Cancelled, ..) => "cancelled",
        (C::Dependency, ..) => "a task this one depends on failed",
        (C::Quota, ..) => "an output, log or disk limit was reached",
        (C::Preempted, ..) => "stopped to make room for another task",
    };
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workers_sentence_is_cut_between_characters_and_holds_no_nul() {
        let long = format!("a{}", "é".repeat(ERROR_BYTES));
        let cut = cleaned(&long);
        assert_eq!(cut.len(), ERROR_BYTES - 1);
        assert!(long.starts_with(&cut));
        assert_eq!(cleaned("no\0de"), "no\u{fffd}de");
    }
}
