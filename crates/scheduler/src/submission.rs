//! What users ask for: submit, cancel, another priority.

use crate::{
    Answer, Effect, Message, NewTask, Refusal, Scheduler,
    audit::{self, Action},
    ending::Failing,
    share::Account,
    task::Task,
};
use fetchml_api::{FailureCause, Role, TaskId, TaskStatus};

impl Scheduler {
    /// All tasks of one request, which differ only in their ids; all are created, or none.
    pub(crate) fn on_tasks_submitted(&mut self, tasks: &[NewTask], effects: &mut Vec<Effect>) -> Answer {
        let Some(new) = tasks.first().filter(|new| !self.tasks.contains_key(&new.id)) else {
            return Answer::Unchanged;
        };
        if let Some(refusal) = self.refuses_new(new, tasks.len()) {
            return Answer::Refused(refusal);
        }
        for new in tasks {
            self.insert_task(new, effects);
        }
        Answer::Done
    }

    /// Why so many tasks alike cannot be submitted.
    pub(crate) fn refuses_new(&self, new: &NewTask, count: usize) -> Option<Refusal> {
        let refusal = self.refuses(new, count).or_else(|| self.refuses_needs(&new.depends_on));
        refusal.or_else(|| self.refuses_claim(new, count))
    }

    fn insert_task(&mut self, new: &NewTask, effects: &mut Vec<Effect>) {
        let id = new.id;
        let shape = self.queues.shape_take(new.demand.clone(), Vec::new());
        let user = self.users.take(new.user_id.clone(), |_| Account::default());
        self.users.value_mut(user).role = new.role;
        self.users.value_mut(user).queued += 1;
        let mut task = Task::new(new, self.now, shape, user);
        self.join_group(new, &mut task);
        let (state, blocked) = (task.state(id), task.blocked);
        self.tasks.insert(id, task);
        if blocked {
            *self.delayed_mut(id) += 1;
        } else {
            self.enqueue(id);
        }
        effects.push(Effect::Audit(audit::draft(self.now, &new.user_id, Action::Submit, &state, None)));
        effects.push(Effect::InsertTask(state));
        self.claim(id, effects);
    }

    pub(crate) fn on_cancel_requested(&mut self, id: TaskId, by: &str, effects: &mut Vec<Effect>) -> Answer {
        let Some(task) = self.tasks.get_mut(&id) else { return Answer::NotActive };
        if task.cancelled_by().is_some() {
            return Answer::Unchanged;
        }
        let waits = task.status == TaskStatus::Queued;
        task.history_mut().cancelled_by = Some(by.to_owned());
        if waits {
            self.unqueue(id);
            self.finish_failed(id, &Failing::cancelled(by), Action::Cancel, by, None, effects);
            return Answer::Done;
        }
        let attempt = task.attempt().expect("an active task has an attempt");
        self.put_task(id, effects);
        self.put_audit(id, by, Action::CancelRequest, effects);
        if self.is_gang(attempt) {
            self.stop_nodes(attempt, FailureCause::Cancelled, effects);
            return Answer::Done;
        }
        let worker = self.attempts[&attempt].record.worker_id;
        let message = Message::Cancel { attempt, cause: FailureCause::Cancelled };
        effects.push(Effect::Send { worker, message });
        Answer::Done
    }

    pub(crate) fn on_priority_requested(
        &mut self,
        id: TaskId,
        priority: u8,
        by: &str,
        role: Role,
        effects: &mut Vec<Effect>,
    ) -> Answer {
        let Some(task) = self.tasks.get(&id) else { return Answer::NotActive };
        if let Some(limit) = self.quotas.of(by, role).max_priority.filter(|&limit| priority > limit) {
            return Answer::Refused(Refusal::Priority { limit });
        }
        if task.priority == priority {
            return Answer::Unchanged;
        }
        // Only who stands in a queue has a place that moves.
        let key = task.key(self.settings.aging_interval());
        let stands = self.queues.contains(task.shape, task.user, (key, id));
        if stands {
            self.queues.remove(task.shape, task.user, (key, id));
        }
        self.task_mut(id).priority = priority;
        if stands {
            self.enqueue(id);
        }
        self.put_audit(id, by, Action::Priority, effects);
        self.put_task(id, effects);
        Answer::Done
    }

    /// Puts a task that waits into its queue.
    pub(crate) fn enqueue(&mut self, id: TaskId) {
        let task = &self.tasks[&id];
        let place = (task.key(self.settings.aging_interval()), id);
        self.queues.insert(task.shape, task.user, place);
    }

    /// Takes a waiting task out of its queue, or out of what else it waits for.
    pub(crate) fn unqueue(&mut self, id: TaskId) {
        if self.end_backoff(id) || self.unblock(id) {
            return;
        }
        self.drop_hold(id);
        let task = &self.tasks[&id];
        let place = (task.key(self.settings.aging_interval()), id);
        self.queues.remove(task.shape, task.user, place);
    }

    pub(crate) fn put_task(&self, id: TaskId, effects: &mut Vec<Effect>) {
        effects.push(Effect::UpdateTask(self.tasks[&id].state(id)));
    }

    /// Audits an action on a task that is on a worker.
    pub(crate) fn put_audit(&self, id: TaskId, user: &str, action: Action, effects: &mut Vec<Effect>) {
        let task = &self.tasks[&id];
        let attempt = task.attempt().and_then(|attempt| self.attempts.get(&attempt)).map(|attempt| &attempt.record);
        effects.push(Effect::Audit(audit::draft(self.now, user, action, &task.state(id), attempt)));
    }
}
