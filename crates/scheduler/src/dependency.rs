//! What tasks wait for besides room: tasks that must end first, and their turn within an array of which
//! only so many run at once. Who waits so is queued but in no queue, and the time does not count.
//!
//! The tasks of one request share one group, and needs are the group's, so that ten thousand tasks
//! behind a thousand others are a thousand edges. What follows from an end is done at the ends of
//! turns, a bounded part in each; a restart derives what is left from rows.

use crate::{
    Answer, Effect, NewTask, Refusal, Scheduler,
    audit::{Action, SYSTEM},
    ending::Failing,
    intern::Interner,
    limits,
    task::Task,
};
use fetchml_api::{Dependency, DependencyOn, TaskId, TaskStatus};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

/// The array that a new task is of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ArrayOf {
    /// The array. No task has this id.
    pub id: TaskId,
    /// Most of its tasks that are in queues or on workers at once; none: no limit.
    pub max_running: Option<u32>,
}

/// What keeps a queued task out of the queues.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum BlockedBy {
    /// These tasks and arrays have not ended.
    Dependencies {
        /// The first of them.
        first: Vec<TaskId>,
        /// How many there are.
        count: usize,
    },
    /// One that it depends on did not end well: it is about to end as well.
    Broken(TaskId),
    /// As many of its array run as may.
    ArrayLimit(u32),
}

/// The tasks of a request that needs others to end, or that is an array.
#[derive(Debug, Default)]
pub(crate) struct Group {
    is_array: bool,
    /// Most tasks that are not blocked; 0: no limit.
    limit: u32,
    /// Tasks that are not blocked and have not ended.
    open: u32,
    /// Tasks that are, in the order in which they go.
    blocked: BTreeSet<TaskId>,
    /// What has not ended yet.
    needs: BTreeMap<TaskId, DependencyOn>,
    /// What did not end well though it had to: who is blocked ends.
    broken: Option<TaskId>,
    /// Whether one of its tasks did not end well.
    failed: bool,
    /// First and last task: an array's ids follow one another.
    ids: Option<(TaskId, TaskId)>,
}

impl Group {
    fn has_turn(&self) -> bool {
        self.limit == 0 || self.open < self.limit
    }

    /// Whether a blocked task need not be so any more, or has to end.
    fn moves(&self) -> bool {
        !self.blocked.is_empty() && (self.broken.is_some() || (self.needs.is_empty() && self.has_turn()))
    }
}

/// All groups, and who needs what.
#[derive(Debug)]
pub(crate) struct Groups {
    /// By the id of the array, or of the one task.
    all: Interner<TaskId, Group>,
    /// Tasks and arrays by whose end groups are waiting.
    needed: BTreeMap<TaskId, BTreeSet<u32>>,
    /// Of these, those that have ended, and whether well: groups still have to be told.
    ended: VecDeque<(TaskId, bool)>,
    /// Groups of which tasks move.
    moving: BTreeSet<u32>,
}

impl Groups {
    pub(crate) const fn new() -> Self {
        Self { all: Interner::new(), needed: BTreeMap::new(), ended: VecDeque::new(), moving: BTreeSet::new() }
    }

    /// Whether nothing is left to follow from what has ended.
    pub(crate) fn are_settled(&self) -> bool {
        self.ended.is_empty() && self.moving.is_empty()
    }

    fn note_end(&mut self, id: TaskId, well: bool) {
        if self.needed.contains_key(&id) {
            self.ended.push_back((id, well));
        }
    }

    fn note_move(&mut self, number: u32) {
        if self.all.value(number).moves() {
            self.moving.insert(number);
        }
    }

    fn need(&mut self, number: u32, need: Dependency) {
        self.all.value_mut(number).needs.insert(need.id, need.on);
        self.needed.entry(need.id).or_default().insert(number);
    }

    /// A group needs nothing any more.
    fn forget_needs(&mut self, number: u32, needs: BTreeMap<TaskId, DependencyOn>) {
        for need in needs.into_keys() {
            if let Some(groups) = self.needed.get_mut(&need) {
                groups.remove(&number);
                if groups.is_empty() {
                    self.needed.remove(&need);
                }
            }
        }
    }

    /// The next group to be told of an end; it waits for that no more.
    fn next_to_tell(&mut self, id: TaskId) -> Option<u32> {
        let groups = self.needed.get_mut(&id)?;
        let next = groups.pop_first();
        if groups.is_empty() {
            self.needed.remove(&id);
        }
        next
    }

    fn tell(&mut self, number: u32, need: TaskId, well: bool) {
        let group = self.all.value_mut(number);
        let on = group.needs.remove(&need).expect("a group is told of what it needs");
        if on == DependencyOn::Ok && !well {
            group.broken = Some(need);
            let needs = std::mem::take(&mut group.needs);
            self.forget_needs(number, needs);
        }
        self.note_move(number);
    }
}

impl Scheduler {
    /// Whether something that others may wait for has not ended.
    fn is_live(&self, id: TaskId) -> bool {
        self.tasks.contains_key(&id)
            || self.groups.all.find(&id).is_some_and(|number| self.groups.all.value(number).is_array)
    }

    /// Why a request cannot wait for what it names.
    pub(crate) fn refuses_needs(&self, needs: &[Dependency]) -> Option<Refusal> {
        let ended = needs.iter().any(|need| !self.is_live(need.id));
        ended.then_some(Refusal::DependencyEnded)
    }

    /// Makes a new task one of its group, blocked if it has to wait.
    pub(crate) fn join_group(&mut self, new: &NewTask, task: &mut Task) {
        let Some(number) = self.group_take(new) else { return };
        let groups = &mut self.groups;
        let group = groups.all.value_mut(number);
        if group.ids.is_none_or(|(first, _)| first == new.id) {
            group.broken = new.broken_by;
            for need in new.depends_on.iter().filter(|_| new.broken_by.is_none()) {
                groups.need(number, *need);
            }
        }
        let group = groups.all.value_mut(number);
        task.group = Some(number);
        task.blocked = group.broken.is_some() || !group.needs.is_empty() || !group.has_turn();
        if task.blocked {
            group.blocked.insert(new.id);
        } else {
            group.open += 1;
        }
        groups.note_move(number);
    }

    fn group_take(&mut self, new: &NewTask) -> Option<u32> {
        if new.array.is_none() && new.depends_on.is_empty() && new.broken_by.is_none() {
            return None;
        }
        let key = new.array.map_or(new.id, |array| array.id);
        let number = self.groups.all.take(key, |_| Group {
            is_array: new.array.is_some(),
            limit: new.array.and_then(|array| array.max_running).unwrap_or(0),
            ..Group::default()
        });
        let group = self.groups.all.value_mut(number);
        group.ids = Some(group.ids.map_or((new.id, new.id), |(first, last)| (first.min(new.id), last.max(new.id))));
        Some(number)
    }

    /// A task that was blocked is so no more; false if it was not.
    pub(crate) fn unblock(&mut self, id: TaskId) -> bool {
        let task = self.task_mut(id);
        if !std::mem::take(&mut task.blocked) {
            return false;
        }
        let number = task.group.expect("a blocked task has a group");
        let group = self.groups.all.value_mut(number);
        group.blocked.remove(&id);
        group.open += 1;
        *self.delayed_mut(id) -= 1;
        true
    }

    /// A task has left the core: others may have waited for it.
    pub(crate) fn leave_group(&mut self, id: TaskId, task: &Task) {
        let well = task.status == TaskStatus::Completed;
        let groups = &mut self.groups;
        groups.note_end(id, well);
        let Some(number) = task.group else { return };
        let group = groups.all.value_mut(number);
        group.open -= 1;
        group.failed |= !well;
        let key = *groups.all.key(number);
        let Some(last) = groups.all.release(number) else { return groups.note_move(number) };
        groups.moving.remove(&number);
        groups.forget_needs(number, last.needs);
        if last.is_array {
            groups.note_end(key, !last.failed);
        }
    }

    /// Goes on with what follows from ends, for a bounded number of steps.
    pub(crate) fn follow_ends(&mut self, effects: &mut Vec<Effect>) {
        for _ in 0..limits::DEPENDENTS_MAX {
            if let Some(&number) = self.groups.moving.first() {
                self.move_next(number, effects);
            } else if let Some(&(need, well)) = self.groups.ended.front() {
                match self.groups.next_to_tell(need) {
                    Some(number) => self.groups.tell(number, need, well),
                    None => drop(self.groups.ended.pop_front()),
                }
            } else {
                return;
            }
        }
    }

    /// The next blocked task of a group goes into its queue, or ends.
    fn move_next(&mut self, number: u32, effects: &mut Vec<Effect>) {
        let group = self.groups.all.value(number);
        let Some(&id) = group.blocked.first().filter(|_| group.moves()) else {
            self.groups.moving.remove(&number);
            return;
        };
        let broken = group.broken;
        self.unblock(id);
        if let Some(need) = broken {
            let failing = Failing::dependency(need);
            return self.finish_failed(id, &failing, Action::Fail, SYSTEM, None, effects);
        }
        let now = self.now;
        self.task_mut(id).queued_since = now;
        self.enqueue(id);
        self.put_audit(id, SYSTEM, Action::Unblock, effects);
        self.put_task(id, effects);
    }

    /// Cancels every task of an array that has not ended.
    pub(crate) fn on_array_cancel_requested(&mut self, id: TaskId, by: &str, effects: &mut Vec<Effect>) -> Answer {
        let found = self.groups.all.find(&id).filter(|&number| self.groups.all.value(number).is_array);
        let Some(number) = found else { return Answer::NotActive };
        let (first, last) = self.groups.all.value(number).ids.expect("a group has a task");
        let tasks = self.tasks.range(first..=last).filter(|(_, task)| task.group == Some(number));
        let tasks: Vec<TaskId> = tasks.map(|(&id, _)| id).collect();
        let mut answer = Answer::Unchanged;
        for task in tasks {
            if self.on_cancel_requested(task, by, effects) == Answer::Done {
                answer = Answer::Done;
            }
        }
        answer
    }

    pub(crate) fn array_of(&self, task: &Task) -> Option<TaskId> {
        let number = task.group.filter(|&number| self.groups.all.value(number).is_array)?;
        Some(*self.groups.all.key(number))
    }

    /// What keeps a queued task out of the queues; none: nothing does.
    pub fn blocked_by(&self, id: TaskId) -> Option<BlockedBy> {
        let task = self.tasks.get(&id).filter(|task| task.blocked)?;
        let group = self.groups.all.value(task.group?);
        Some(match group.broken {
            Some(need) => BlockedBy::Broken(need),
            None if group.needs.is_empty() => BlockedBy::ArrayLimit(group.limit),
            None => {
                let first = group.needs.keys().copied().take(limits::NEEDS_SHOWN).collect();
                BlockedBy::Dependencies { first, count: group.needs.len() }
            }
        })
    }

    /// What would keep a task out of the queues if it were submitted now, the first of its array if it is of one.
    pub(crate) fn blocked_new(new: &NewTask) -> Option<BlockedBy> {
        let first = || new.depends_on.iter().map(|need| need.id).take(limits::NEEDS_SHOWN).collect();
        match new.broken_by {
            Some(need) => Some(BlockedBy::Broken(need)),
            None if new.depends_on.is_empty() => None,
            None => Some(BlockedBy::Dependencies { first: first(), count: new.depends_on.len() }),
        }
    }

    /// A task that is restored is one of its group as it was. Gives what the group needs if it is blocked.
    pub(crate) fn restore_member(
        &mut self,
        new: &NewTask,
        ended: &BTreeMap<TaskId, bool>,
        task: &mut Task,
    ) -> Option<(u32, Arc<[Dependency]>)> {
        let number = self.group_take(new)?;
        let group = self.groups.all.value_mut(number);
        task.group = Some(number);
        group.failed = new.array.is_some_and(|array| ended.get(&array.id) == Some(&false));
        if !task.blocked {
            group.open += 1;
            return None;
        }
        group.blocked.insert(new.id);
        Some((number, Arc::clone(&new.depends_on)))
    }

    /// What groups wait for, once all tasks are there. What is not among them has ended; how, `ended` says. What
    /// nobody knows of any more did not end well.
    pub(crate) fn restore_needs(&mut self, waiting: BTreeMap<u32, Arc<[Dependency]>>, ended: &BTreeMap<TaskId, bool>) {
        for (number, mut needs) in waiting {
            if self.groups.all.value(number).open > 0 {
                // Where one is not blocked any more, needs are not what the others wait for.
                needs = Arc::default();
            }
            let (live, over): (Vec<Dependency>, Vec<_>) = needs.iter().partition(|need| self.is_live(need.id));
            let breaks = |need: &&Dependency| need.on == DependencyOn::Ok && ended.get(&need.id) != Some(&true);
            let broken = over.iter().find(breaks).map(|need| need.id);
            self.groups.all.value_mut(number).broken = broken;
            for need in live.into_iter().filter(|_| broken.is_none()) {
                self.groups.need(number, need);
            }
            self.groups.note_move(number);
        }
    }

    /// The blocked tasks. Panics unless groups are what their tasks say.
    pub(crate) fn assert_groups(&self) -> BTreeSet<TaskId> {
        let mut members: BTreeMap<u32, (u32, BTreeSet<TaskId>)> = BTreeMap::new();
        for (&id, task) in &self.tasks {
            let Some(number) = task.group else {
                assert!(!task.blocked, "{id} is blocked by nothing");
                continue;
            };
            let (open, blocked) = members.entry(number).or_default();
            if task.blocked {
                assert_eq!(task.status, TaskStatus::Queued, "{id} is blocked and waits");
                blocked.insert(id);
            } else {
                *open += 1;
            }
        }
        let mut edges: BTreeMap<TaskId, BTreeSet<u32>> = BTreeMap::new();
        let mut all_blocked = BTreeSet::new();
        for (number, key, group, uses) in self.groups.all.iter() {
            let (open, blocked) = members.remove(&number).expect("a group has tasks");
            assert_eq!(uses as usize, open as usize + blocked.len(), "tasks of group {key}");
            assert_eq!((group.open, &group.blocked), (open, &blocked), "group {key}");
            assert!(group.limit == 0 || open <= group.limit, "of array {key} no more than may run");
            assert!(group.is_array || uses == 1, "{key} is alone");
            assert!(!group.moves() || self.groups.moving.contains(&number), "group {key} moves");
            assert!(group.broken.is_none() || group.needs.is_empty(), "{key} waits for nothing any more");
            for need in group.needs.keys() {
                edges.entry(*need).or_default().insert(number);
            }
            all_blocked.extend(blocked);
        }
        let known = |number: &u32| self.groups.all.iter().any(|(known, ..)| known == *number);
        assert!(self.groups.moving.iter().all(known), "groups that move have tasks");
        assert_eq!(edges, self.groups.needed, "who waits for what");
        for need in self.groups.needed.keys() {
            let told = self.groups.ended.iter().any(|(id, _)| id == need);
            assert!(told != self.is_live(*need), "{need} has ended or will");
        }
        all_blocked
    }
}
