//! Gangs: attempts on several workers at once. All nodes get ready, then all are released together;
//! what ends one ends all, and the task has one new attempt.
//!
//! No user code starts before every node's word that it is ready is durable. A node's room is free
//! when its processes are dead, or when its worker is lost; the attempt is over when every node is.

use crate::{
    Answer, Effect, Message, Scheduler,
    attempt::Holding,
    audit::{Action, SYSTEM},
    report::Fence,
    share,
    timers::Timer,
};
use fetchml_api::{
    AttemptId, AttemptPhase as Phase, AttemptRecord, FailureCause, Micros, NodeAssignment, NodeRecord, TaskStatus,
    WorkerId,
    link::{Outcome, Report},
};

impl Scheduler {
    pub(crate) fn is_gang(&self, id: AttemptId) -> bool {
        self.attempts.get(&id).is_some_and(|attempt| !attempt.record.nodes.is_empty())
    }

    /// A worker reported about its node of a current attempt.
    pub(crate) fn on_node_reported(&mut self, fence: Fence, report: Report, effects: &mut Vec<Effect>) -> Answer {
        let id = fence.attempt;
        let node = self.node(id, fence.worker).expect("the report was found to be current");
        let (phase, released) = (node.phase, self.attempts[&id].record.phase >= Phase::Ready);
        match report {
            Report::Accepted if phase < Phase::Accepted => {
                self.node_mut(id, fence.worker).phase = Phase::Accepted;
                self.follow_nodes(id, effects);
            }
            Report::Ready { address, port } if phase < Phase::Ready => {
                let node = self.node_mut(id, fence.worker);
                (node.phase, node.address, node.port) = (Phase::Ready, Some(address), Some(port));
                self.show_nodes(id, effects);
                self.follow_nodes(id, effects);
            }
            // It was released and has forgotten.
            Report::Ready { .. } if phase == Phase::Ready && released => self.release_node(id, fence.worker, effects),
            Report::Running if phase < Phase::Running && released => {
                self.node_mut(id, fence.worker).phase = Phase::Running;
                if self.attempts[&id].record.phase < Phase::Running {
                    self.start(id, effects);
                } else {
                    self.put_attempt(id, effects);
                }
            }
            Report::Running if phase < Phase::Running => {
                self.fail_gang(id, failed(FailureCause::Launch, "a node started before it was released"), effects);
            }
            Report::Collecting if phase < Phase::Collecting => {
                if released && self.attempts[&id].record.phase < Phase::Running {
                    self.start(id, effects);
                }
                self.free_node(id, fence.worker, effects);
                self.node_mut(id, fence.worker).phase = Phase::Collecting;
                self.follow_nodes(id, effects);
            }
            Report::Accepted | Report::Ready { .. } | Report::Running | Report::Collecting => {
                return Answer::Unchanged;
            }
            Report::Ended(outcome) => self.node_ended(id, fence.worker, outcome, effects),
            Report::Returned => {
                let outcome = failed(FailureCause::Launch, "a worker gave its node back");
                self.node_ended(id, fence.worker, outcome, effects);
            }
        }
        Answer::Done
    }

    /// A node's worker is lost, or has lost it.
    pub(crate) fn node_lost(&mut self, id: AttemptId, worker: WorkerId, why: &str, effects: &mut Vec<Effect>) {
        self.end_node(id, worker, Phase::Abandoned, effects);
        self.fail_gang(id, failed(FailureCause::Lost, why), effects);
        self.conclude(id, effects);
    }

    /// What ends the attempt, if nothing has before: every node that is not over is told to stop. Nodes fail at
    /// once when they miss one, and that it is lost is known later: it then was the reason.
    pub(crate) fn fail_gang(&mut self, id: AttemptId, outcome: Outcome, effects: &mut Vec<Effect>) {
        let attempt = self.attempts.get_mut(&id).expect("the attempt is current");
        if let Some(before) = &mut attempt.record.outcome {
            if outcome.cause == Some(FailureCause::Lost) && before.cause.is_some_and(may_come_of_a_loss) {
                *before = outcome;
                self.put_attempt(id, effects);
            }
            return;
        }
        attempt.record.outcome = Some(outcome);
        self.disarm_gang(id);
        self.stop_nodes(id, FailureCause::Preempted, effects);
        self.put_attempt(id, effects);
    }

    /// Tells every node that is not over to stop.
    pub(crate) fn stop_nodes(&self, id: AttemptId, cause: FailureCause, effects: &mut Vec<Effect>) {
        // Also those whose processes are said to be dead: it may have been a copy of the worker that said so.
        let live = self.attempts[&id].record.nodes.iter().filter(|node| !node.phase.is_over());
        effects.extend(
            live.map(|node| Effect::Send { worker: node.worker_id, message: Message::Cancel { attempt: id, cause } }),
        );
    }

    /// Not every node was ready in time.
    pub(crate) fn prepare_ended(&mut self, id: AttemptId, effects: &mut Vec<Effect>) {
        let late = self.attempts[&id].record.nodes.iter().filter(|node| node.phase < Phase::Ready).count();
        let why = format!("{late} nodes were not ready in {} s", self.settings.prepare_timeout_s);
        self.fail_gang(id, failed(FailureCause::Launch, &why), effects);
    }

    /// When every node must be ready; none when the attempt is released, failing, or no gang.
    pub(crate) fn prepare_ends(&self, record: &AttemptRecord) -> Option<Micros> {
        let waits = !record.nodes.is_empty() && record.phase < Phase::Ready && record.outcome.is_none();
        waits.then(|| record.created_at.plus_seconds(self.settings.prepare_timeout_s))
    }

    /// What a worker that joins again must be told about its node; false: it should hold it and does not.
    pub(crate) fn reconcile_node(
        &mut self,
        id: AttemptId,
        worker: WorkerId,
        present: bool,
        cancelled: bool,
        effects: &mut Vec<Effect>,
    ) -> bool {
        let record = &self.attempts[&id].record;
        let node = self.node(id, worker).expect("a worker holds its nodes only");
        let stops = cancelled || record.outcome.is_some();
        if present && stops {
            let cause = if cancelled { FailureCause::Cancelled } else { FailureCause::Preempted };
            effects.push(Effect::Send { worker, message: Message::Cancel { attempt: id, cause } });
        } else if present && node.phase == Phase::Ready && record.phase >= Phase::Ready {
            self.release_node(id, worker, effects);
        } else if !present && node.phase == Phase::Assigned && !stops {
            effects.push(assignment(record, worker));
        } else if !present {
            return false;
        }
        true
    }

    /// A gang from its record, as it was.
    pub(crate) fn restore_gang(&mut self, record: AttemptRecord) {
        let id = record.id;
        let holds = record.nodes.iter().any(|node| node.phase < Phase::Collecting);
        let holding = if holds { Holding::Room { since: self.now } } else { Holding::Nothing };
        let nodes = record.nodes.clone();
        let demand = self.queues.demand(self.tasks[&record.task_id].shape);
        let charged = holds && share::is_charged(&record, demand);
        let task = record.task_id;
        for node in nodes.iter().filter(|node| !node.phase.is_over()) {
            self.fleet.change(node.worker_id, |worker| {
                worker.attempts.insert(id);
                if node.phase < Phase::Collecting {
                    worker.hold(id, demand, &node.gpus);
                }
            });
        }
        self.timers.set(Timer::PrepareEnds(id), None, self.prepare_ends(&record));
        self.attempts.insert(id, crate::attempt::Attempt::new(record, holding));
        if holds {
            self.begin_holding(task);
        }
        if charged {
            self.restore_charge(task);
        }
        for node in nodes.iter().filter(|node| !node.phase.is_over()) {
            self.arm(node.worker_id);
        }
    }

    fn node_ended(&mut self, id: AttemptId, worker: WorkerId, mut outcome: Outcome, effects: &mut Vec<Effect>) {
        let released = self.attempts[&id].record.phase >= Phase::Ready;
        self.put_artifacts(id, worker, &mut outcome, effects);
        self.end_node(id, worker, Phase::Ended, effects);
        effects.push(Effect::Send { worker, message: Message::Forget { attempt: id } });
        if outcome.cause.is_none() && !released {
            self.fail_gang(id, failed(FailureCause::Launch, "a node ended before it was released"), effects);
        } else if outcome.cause.is_some() {
            self.fail_gang(id, outcome, effects);
        }
        self.conclude(id, effects);
    }

    /// Files that a node left are stored with its end; those of others than the first lie under its
    /// number.
    fn put_artifacts(&self, id: AttemptId, worker: WorkerId, outcome: &mut Outcome, effects: &mut Vec<Effect>) {
        let mut artifacts = std::mem::take(&mut outcome.artifacts);
        if artifacts.is_empty() {
            return;
        }
        let mut record = self.attempts[&id].record.clone();
        let rank = record.nodes.iter().position(|node| node.worker_id == worker).unwrap_or(0);
        if rank > 0 {
            for artifact in &mut artifacts {
                artifact.path = format!("node{rank}/{}", artifact.path);
            }
        }
        let known = record.outcome.take().unwrap_or_default();
        record.outcome = Some(Outcome { artifacts, ..known });
        effects.push(Effect::PutAttempt(record));
    }

    /// A node is over: it holds nothing, and its worker does not hold it.
    fn end_node(&mut self, id: AttemptId, worker: WorkerId, phase: Phase, effects: &mut Vec<Effect>) {
        self.free_node(id, worker, effects);
        self.node_mut(id, worker).phase = phase;
        self.fleet.change(worker, |worker| worker.attempts.remove(&id));
        self.arm(worker);
    }

    /// The room of a node whose processes are dead, or whose worker is lost.
    fn free_node(&mut self, id: AttemptId, worker: WorkerId, effects: &mut Vec<Effect>) {
        if self.node(id, worker).is_none_or(|node| node.phase >= Phase::Collecting) {
            return;
        }
        let record = &self.attempts[&id].record;
        let task = record.task_id;
        let demand = self.queues.demand(self.tasks[&task].shape);
        self.fleet.change(worker, |worker| worker.release(id, demand));
        let left = record.nodes.iter().filter(|node| node.worker_id != worker && node.phase < Phase::Collecting);
        if left.count() == 0 {
            let charged = share::is_charged(record, demand);
            self.attempts.get_mut(&id).expect("it was just read").holding = Holding::Nothing;
            self.end_holding(task);
            if charged {
                self.end_charge(id, effects);
            }
        }
        self.promote(worker);
    }

    /// The phase of the attempt is that of the node that is furthest behind; when all are ready, they
    /// are released.
    fn follow_nodes(&mut self, id: AttemptId, effects: &mut Vec<Effect>) {
        let record = &mut self.attempts.get_mut(&id).expect("the attempt is current").record;
        let behind = record.nodes.iter().map(|node| node.phase).min().expect("a gang has nodes");
        let all_ready = record.nodes.iter().all(|node| node.phase == Phase::Ready);
        let (before, fails, task) = (record.phase, record.outcome.is_some(), record.task_id);
        let follows = match behind {
            Phase::Accepted => before < Phase::Accepted,
            Phase::Ready => all_ready && before < Phase::Ready && !fails && self.tasks[&task].cancelled_by().is_none(),
            // An attempt that was never released ends without having run.
            Phase::Collecting | Phase::Ended => before == Phase::Running,
            Phase::Assigned | Phase::Running | Phase::Abandoned => false,
        };
        if !follows {
            return self.put_attempt(id, effects);
        }
        if behind == Phase::Ready {
            self.disarm_gang(id);
        }
        let phase = behind.min(Phase::Collecting);
        let record = &mut self.attempts.get_mut(&id).expect("the attempt is current").record;
        record.phase = phase;
        let workers: Vec<WorkerId> = record.nodes.iter().map(|node| node.worker_id).collect();
        self.put_attempt(id, effects);
        if phase == Phase::Ready {
            for worker in workers {
                self.release_node(id, worker, effects);
            }
        } else if phase == Phase::Collecting {
            self.task_mut(task).status = TaskStatus::Collecting;
            self.put_audit(task, SYSTEM, Action::Collect, effects);
            self.put_task(task, effects);
        }
    }

    /// Lets a node start. Sent only when the release is durable.
    fn release_node(&self, id: AttemptId, worker: WorkerId, effects: &mut Vec<Effect>) {
        let first = &self.attempts[&id].record.nodes[0];
        let address = first.address.clone().expect("a released gang's nodes were all ready");
        let port = first.port.expect("a released gang's nodes were all ready");
        effects.push(Effect::Send { worker, message: Message::Release { attempt: id, address, port } });
    }

    /// Ends the attempt when every node is over.
    fn conclude(&mut self, id: AttemptId, effects: &mut Vec<Effect>) {
        let record = &self.attempts[&id].record;
        if !record.nodes.iter().all(|node| node.phase.is_over()) {
            return self.follow_nodes(id, effects);
        }
        self.disarm_gang(id);
        let mut record = self.attempts.remove(&id).expect("it was just read").record;
        let lost = record.outcome.as_ref().is_some_and(|outcome| outcome.cause == Some(FailureCause::Lost));
        record.phase = if lost { Phase::Abandoned } else { Phase::Ended };
        record.ended_at = Some(self.now);
        let outcome =
            record.outcome.get_or_insert_with(|| Outcome { exit_code: Some(0), ..Outcome::default() }).clone();
        effects.push(Effect::PutAttempt(record.clone()));
        self.settle_outcome(&record, &outcome, effects);
    }

    fn show_nodes(&mut self, id: AttemptId, effects: &mut Vec<Effect>) {
        let record = &self.attempts[&id].record;
        let (task, nodes) = (record.task_id, shown(&record.nodes));
        self.task_mut(task).history_mut().nodes = nodes;
        self.put_task(task, effects);
    }

    fn disarm_gang(&mut self, id: AttemptId) {
        let ends = self.attempts[&id].record.created_at.plus_seconds(self.settings.prepare_timeout_s);
        self.timers.set(Timer::PrepareEnds(id), Some(ends), None);
    }

    fn put_attempt(&self, id: AttemptId, effects: &mut Vec<Effect>) {
        effects.push(Effect::PutAttempt(self.attempts[&id].record.clone()));
    }

    pub(crate) fn node(&self, id: AttemptId, worker: WorkerId) -> Option<&NodeRecord> {
        self.attempts.get(&id)?.record.nodes.iter().find(|node| node.worker_id == worker)
    }

    fn node_mut(&mut self, id: AttemptId, worker: WorkerId) -> &mut NodeRecord {
        let record = &mut self.attempts.get_mut(&id).expect("the attempt is current").record;
        record.nodes.iter_mut().find(|node| node.worker_id == worker).expect("the worker has a node of it")
    }
}

/// The message that assigns an attempt, or a node of it, to a worker.
pub(crate) fn assignment(record: &AttemptRecord, worker: WorkerId) -> Effect {
    let rank = record.nodes.iter().position(|node| node.worker_id == worker);
    let gpus = rank.map_or(&record.gpus, |rank| &record.nodes[rank].gpus).clone();
    let (attempt, task, number, epoch) = (record.id, record.task_id, record.number, record.epoch);
    let node = u32::try_from(rank.unwrap_or(0)).expect("a gang is smaller than 2^32");
    Effect::Send { worker, message: Message::Assign { attempt, task, number, epoch, node, gpus } }
}

/// Nodes as the API shows them. A node has its slot from its word that it is ready.
pub(crate) fn shown(nodes: &[NodeRecord]) -> Vec<NodeAssignment> {
    let node = |(node_id, node): (i32, &NodeRecord)| NodeAssignment {
        node_id,
        worker_id: node.worker_id,
        slot_assigned: node.phase >= Phase::Ready,
    };
    (0..).zip(nodes).map(node).collect()
}

/// What a node's process makes of it when another one is missing.
fn may_come_of_a_loss(cause: FailureCause) -> bool {
    matches!(cause, FailureCause::ExitNonzero | FailureCause::Signal | FailureCause::Stalled)
}

fn failed(cause: FailureCause, why: &str) -> Outcome {
    Outcome { cause: Some(cause), transient: true, error: Some(why.to_owned()), ..Outcome::default() }
}
