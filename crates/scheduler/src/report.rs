//! What workers report about attempts. A report counts only if it names the current attempt of the
//! task, its epoch and its worker; whatever is repeated or late changes nothing.

use crate::{
    Answer, Effect, Message, Scheduler,
    attempt::{Attempt, Holding},
    audit::{Action, SYSTEM},
    share,
};
use fetchml_api::{AttemptEpoch, AttemptId, AttemptPhase, TaskId, TaskStatus, WorkerId, link::Report};

/// What a report must name rightly to count.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fence {
    pub(crate) worker: WorkerId,
    pub(crate) attempt: AttemptId,
    pub(crate) task: TaskId,
    pub(crate) epoch: AttemptEpoch,
}

impl Scheduler {
    pub(crate) fn on_attempt_reported(&mut self, fence: Fence, report: Report, effects: &mut Vec<Effect>) -> Answer {
        self.on_worker_heard(fence.worker);
        let id = fence.attempt;
        if !self.is_current(fence) {
            let message = Message::Forget { attempt: id };
            effects.push(Effect::Send { worker: fence.worker, message });
            return Answer::Stale;
        }
        if self.is_gang(id) {
            return self.on_node_reported(fence, report, effects);
        }
        let phase = self.attempts[&id].record.phase;
        match report {
            Report::Accepted if phase < AttemptPhase::Accepted => self.advance(id, AttemptPhase::Accepted, effects),
            Report::Running if phase < AttemptPhase::Running => self.start(id, effects),
            Report::Collecting if phase < AttemptPhase::Collecting => {
                if phase < AttemptPhase::Running {
                    self.start(id, effects);
                }
                self.release(id, effects);
                self.advance(id, AttemptPhase::Collecting, effects);
                self.task_mut(fence.task).status = TaskStatus::Collecting;
                self.put_audit(fence.task, SYSTEM, Action::Collect, effects);
                self.put_task(fence.task, effects);
            }
            // Who is alone waits for nobody.
            Report::Ready { .. } | Report::Accepted | Report::Running | Report::Collecting => return Answer::Unchanged,
            Report::Ended(outcome) => self.on_ended(id, outcome, effects),
            Report::Returned if phase < AttemptPhase::Running => self.on_returned(id, effects),
            // It says it gave back what had started: nobody runs it, and nobody saw its end.
            Report::Returned => {
                self.give_up(id, "the worker gave the task up while it ran".to_owned(), effects);
                let message = Message::Forget { attempt: id };
                effects.push(Effect::Send { worker: fence.worker, message });
            }
        }
        Answer::Done
    }

    pub(crate) fn is_current(&self, fence: Fence) -> bool {
        self.attempts.get(&fence.attempt).is_some_and(|Attempt { record, .. }| {
            record.is_on(fence.worker) && record.task_id == fence.task && record.epoch == fence.epoch
        })
    }

    /// User code runs.
    pub(crate) fn start(&mut self, id: AttemptId, effects: &mut Vec<Effect>) {
        let now = self.now;
        let attempt = self.attempts.get_mut(&id).expect("the attempt is current");
        attempt.record.started_at = Some(now);
        let (task_id, ahead) = (attempt.record.task_id, matches!(attempt.holding, Holding::Ahead { .. }));
        if ahead {
            // The worker knows best what runs on it, even where the core saw no free slot yet.
            self.take_room(id);
        }
        let demand = self.queues.demand(self.tasks[&task_id].shape);
        if !share::is_charged(&self.attempts[&id].record, demand) {
            self.begin_charge(task_id);
        }
        self.advance(id, AttemptPhase::Running, effects);
        let task = self.task_mut(task_id);
        task.status = TaskStatus::Running;
        task.history_mut().started_at = Some(now);
        self.put_audit(task_id, SYSTEM, Action::Start, effects);
        self.put_task(task_id, effects);
    }

    fn advance(&mut self, id: AttemptId, phase: AttemptPhase, effects: &mut Vec<Effect>) {
        let attempt = self.attempts.get_mut(&id).expect("the attempt is current");
        attempt.record.phase = phase;
        effects.push(Effect::PutAttempt(attempt.record.clone()));
    }
}
