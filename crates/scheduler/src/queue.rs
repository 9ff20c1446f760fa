//! Where tasks wait: one queue per (shape, user), the best head of each shape in one order. Taking
//! the next task never looks at the others in its queue.
//!
//! Heads compare by whole level of aged priority, then by key. While nothing stands between the two
//! this is the order of the keys alone: a lower key is never a lower level.

use crate::{gpu, intern::Interner};
use fetchml_api::{Demand, SlotKind, TaskId, WorkerId};
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
};

/// A task's place: its static key, ties by id.
pub(crate) type Place = (i64, TaskId);

/// What tasks of one shape need from a worker, and which workers they are kept off.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Needs {
    pub(crate) demand: Demand,
    /// In order.
    pub(crate) excluded: Vec<WorkerId>,
}

/// Tasks that need the same from a worker.
#[derive(Debug)]
pub(crate) struct Shape {
    /// What the tasks need, its GPU type split into tokens.
    pub(crate) gpu_tokens: Vec<String>,
    /// Queues by number of the user.
    queues: BTreeMap<u32, BTreeSet<Place>>,
    /// First of each queue.
    heads: BTreeSet<Place>,
    /// State of the fleet (see [`crate::fleet::Fleet::generation`]) in which nothing fitted.
    pub(crate) stopped_at: Option<u64>,
}

/// The best waiting task of a shape.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head {
    pub(crate) place: Place,
    pub(crate) shape: u32,
}

impl Head {
    pub(crate) fn task(&self) -> TaskId {
        self.place.1
    }
}

/// All queues.
#[derive(Debug)]
pub(crate) struct Queues {
    pub(crate) shapes: Interner<Needs, Shape>,
    order: PerSlot<BTreeSet<(Place, u32)>>,
    depth: PerSlot<usize>,
}

/// One of each for both kinds of slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PerSlot<T> {
    pub(crate) batch: T,
    pub(crate) service: T,
}

impl<T> PerSlot<T> {
    pub(crate) const fn of(&self, kind: SlotKind) -> &T {
        match kind {
            SlotKind::Batch => &self.batch,
            SlotKind::Service => &self.service,
        }
    }

    pub(crate) const fn of_mut(&mut self, kind: SlotKind) -> &mut T {
        match kind {
            SlotKind::Batch => &mut self.batch,
            SlotKind::Service => &mut self.service,
        }
    }
}

impl Queues {
    pub(crate) fn new() -> Self {
        Self { shapes: Interner::new(), order: PerSlot::default(), depth: PerSlot::default() }
    }

    /// The number of a shape, with one task more.
    pub(crate) fn shape_take(&mut self, demand: Demand, mut excluded: Vec<WorkerId>) -> u32 {
        excluded.sort_unstable();
        self.shapes.take(Needs { demand, excluded }, |needs| Shape {
            gpu_tokens: needs.demand.gpu_type.as_deref().map(gpu::tokens).unwrap_or_default(),
            queues: BTreeMap::new(),
            heads: BTreeSet::new(),
            stopped_at: None,
        })
    }

    /// What tasks of a shape need.
    pub(crate) fn demand(&self, shape: u32) -> &Demand {
        &self.shapes.key(shape).demand
    }

    pub(crate) fn insert(&mut self, shape: u32, user: u32, place: Place) {
        self.change(shape, user, |queue| assert!(queue.insert(place), "a task waits once"));
        *self.depth_mut(shape) += 1;
    }

    pub(crate) fn remove(&mut self, shape: u32, user: u32, place: Place) {
        self.change(shape, user, |queue| assert!(queue.remove(&place), "a queued task has its place"));
        *self.depth_mut(shape) -= 1;
    }

    /// Whether a task stands in this place.
    pub(crate) fn contains(&self, shape: u32, user: u32, place: Place) -> bool {
        self.shapes.value(shape).queues.get(&user).is_some_and(|queue| queue.contains(&place))
    }

    /// The first head behind `after`.
    pub(crate) fn next(&self, kind: SlotKind, after: Option<Head>) -> Option<Head> {
        let from = after.map_or(Bound::Unbounded, |head| Bound::Excluded((head.place, head.shape)));
        let (place, shape) = *self.order.of(kind).range((from, Bound::Unbounded)).next()?;
        Some(Head { place, shape })
    }

    /// Tasks in the queues of a kind of slot.
    pub(crate) fn depth(&self, kind: SlotKind) -> usize {
        *self.depth.of(kind)
    }

    /// Every place, with its shape and user.
    pub(crate) fn places(&self) -> impl Iterator<Item = (u32, u32, Place)> {
        self.shapes.iter().flat_map(|(id, _, shape, _)| {
            shape.queues.iter().flat_map(move |(&user, queue)| queue.iter().map(move |&place| (id, user, place)))
        })
    }

    /// Panics unless heads and order are what the queues say.
    pub(crate) fn assert_invariants(&self) {
        let mut order: PerSlot<BTreeSet<(Place, u32)>> = PerSlot::default();
        for (id, needs, shape, uses) in self.shapes.iter() {
            let heads: BTreeSet<_> = shape.queues.values().filter_map(|queue| queue.first().copied()).collect();
            assert_eq!(heads.len(), shape.queues.len(), "no queue is empty");
            assert_eq!(heads, shape.heads, "heads are the first of each queue");
            let queued: usize = shape.queues.values().map(BTreeSet::len).sum();
            assert!(queued <= uses as usize, "every queued task counts for its shape");
            if let Some(&best) = heads.first() {
                order.of_mut(needs.demand.slot).insert((best, id));
            }
        }
        assert_eq!(order, self.order, "the order holds the best head of each shape");
    }

    fn depth_mut(&mut self, shape: u32) -> &mut usize {
        self.depth.of_mut(self.demand(shape).slot)
    }

    /// Changes one queue and then what is derived from it.
    fn change(&mut self, shape_id: u32, user: u32, change: impl FnOnce(&mut BTreeSet<Place>)) {
        let kind = self.demand(shape_id).slot;
        let shape = self.shapes.value_mut(shape_id);
        let best_before = shape.heads.first().copied();
        let queue = shape.queues.entry(user).or_default();
        let head_before = queue.first().copied();
        change(queue);
        let head = queue.first().copied();
        if head.is_none() {
            shape.queues.remove(&user);
        }
        if head == head_before {
            return;
        }
        replace(&mut shape.heads, head_before, head);
        let best = shape.heads.first().copied();
        if best != best_before {
            let named = |place: Option<Place>| place.map(|place| (place, shape_id));
            replace(self.order.of_mut(kind), named(best_before), named(best));
        }
    }
}

fn replace<T: Ord>(set: &mut BTreeSet<T>, old: Option<T>, new: Option<T>) {
    if let Some(old) = old {
        set.remove(&old);
    }
    if let Some(new) = new {
        set.insert(new);
    }
}
