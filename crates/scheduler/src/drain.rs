//! Workers that are to take nothing new: because an operator says so, or by their own word. Draining
//! is durable. What an evicted worker holds is free only when the worker says that it is dead, or
//! when its lease has ended.

use crate::{Answer, Drain, Effect, Message, Scheduler, audit, view::is_shown};
use fetchml_api::{AttemptId, FailureCause, WorkerId, WorkerRecord, link::Outcome};
use std::collections::BTreeMap;

impl Scheduler {
    pub(crate) fn on_drain_requested(
        &mut self,
        id: WorkerId,
        mode: Drain,
        by: &str,
        effects: &mut Vec<Effect>,
    ) -> Answer {
        let known = self.fleet.get(id).filter(|worker| is_shown(self.now, worker));
        let Some(worker) = known else { return Answer::NotActive };
        let (connected, held) = (worker.connected, worker.attempts.len());
        let evicting = worker.record.evicting || mode != Drain::Finish;
        let dies = mode == Drain::DeclareDead && !connected && held > 0;
        if worker.record.draining && worker.record.evicting == evicting && !dies {
            return Answer::Unchanged;
        }
        let action = match mode {
            Drain::Finish => "drain",
            Drain::Evict => "drain_force",
            Drain::DeclareDead => "declare_dead",
        };
        let facts = BTreeMap::from([("attempts".to_owned(), held.to_string())]);
        self.change_record(id, by, action, facts, effects, |record| {
            record.draining = true;
            record.evicting = evicting;
        });
        effects.push(Effect::Send { worker: id, message: Message::Drain { on: true } });
        if dies {
            // What it gives up first must not move up what waits behind: asked back first, then ended.
            for attempt in self.attempts_of(id).into_iter().rev() {
                self.lose(attempt, id, &format!("the worker was declared dead by {by}"), effects);
            }
        } else if evicting {
            for attempt in self.attempts_of(id) {
                self.evict(attempt, effects);
            }
        }
        Answer::Done
    }

    pub(crate) fn on_undrain_requested(&mut self, id: WorkerId, by: &str, effects: &mut Vec<Effect>) -> Answer {
        let known = self.fleet.get(id).filter(|worker| is_shown(self.now, worker));
        let Some(worker) = known else { return Answer::NotActive };
        if !worker.record.draining {
            return Answer::Unchanged;
        }
        self.change_record(id, by, "undrain", BTreeMap::new(), effects, |record| {
            record.draining = false;
            record.evicting = false;
        });
        effects.push(Effect::Send { worker: id, message: Message::Drain { on: false } });
        Answer::Done
    }

    pub(crate) fn on_worker_checked(
        &mut self,
        id: WorkerId,
        unfit: Option<String>,
        effects: &mut Vec<Effect>,
    ) -> Answer {
        let Some(worker) = self.fleet.get(id) else { return Answer::NotActive };
        if worker.record.unfit == unfit {
            return Answer::Unchanged;
        }
        let action = if unfit.is_some() { "self_drain" } else { "self_undrain" };
        let facts = unfit.iter().map(|reason| ("reason".to_owned(), reason.clone())).collect();
        self.change_record(id, audit::SYSTEM, action, facts, effects, |record| record.unfit = unfit);
        Answer::Done
    }

    /// Asks a worker to stop an attempt whose task is to run elsewhere.
    pub(crate) fn evict(&mut self, attempt: AttemptId, effects: &mut Vec<Effect>) {
        if self.is_gang(attempt) {
            let error = Some("stopped because one of its workers is drained".to_owned());
            let outcome = Outcome { cause: Some(FailureCause::Preempted), error, ..Outcome::default() };
            return self.fail_gang(attempt, outcome, effects);
        }
        let record = &self.attempts[&attempt].record;
        let message = Message::Cancel { attempt, cause: FailureCause::Preempted };
        effects.push(Effect::Send { worker: record.worker_id, message });
    }

    fn change_record(
        &mut self,
        id: WorkerId,
        by: &str,
        action: &str,
        facts: BTreeMap<String, String>,
        effects: &mut Vec<Effect>,
        change: impl FnOnce(&mut WorkerRecord),
    ) {
        let record = self.fleet.change(id, |worker| {
            change(&mut worker.record);
            worker.record.clone()
        });
        let record = record.expect("the worker is known");
        effects.push(Effect::Audit(audit::worker_draft(self.now, by, action, &record, facts)));
        effects.push(Effect::PutWorker(record));
    }
}
