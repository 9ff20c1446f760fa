//! Where tasks wait: one queue per (shape, user), and for each user the heads of all its queues in one
//! order. Taking a task never looks at the others in its queue. Who goes next is the contest's to say.

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
    /// State of the fleet (see [`crate::fleet::Fleet::generation`]) in which nothing fitted.
    stopped_at: Option<u64>,
    /// The roster of workers (see [`crate::fleet::Fleet::roster`]) of which too few could ever take one.
    pub(crate) hostless_at: Option<u64>,
}

/// The best waiting task of a shape and user.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head {
    pub(crate) place: Place,
    pub(crate) shape: u32,
    pub(crate) user: u32,
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
    /// By user, with the number of the shape.
    heads: PerSlot<BTreeMap<u32, BTreeSet<(Place, u32)>>>,
    depth: PerSlot<usize>,
    /// Shapes in which tasks wait.
    waiting: PerSlot<usize>,
    /// How many of these are stopped in which state of the fleet.
    stopped: PerSlot<(u64, usize)>,
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
        Self {
            shapes: Interner::new(),
            heads: PerSlot::default(),
            depth: PerSlot::default(),
            waiting: PerSlot::default(),
            stopped: PerSlot::default(),
        }
    }

    /// The number of a shape, with one task more.
    pub(crate) fn shape_take(&mut self, demand: Demand, mut excluded: Vec<WorkerId>) -> u32 {
        excluded.sort_unstable();
        self.shapes.take(Needs { demand, excluded }, |needs| Shape {
            gpu_tokens: needs.demand.gpu_type.as_deref().map(gpu::tokens).unwrap_or_default(),
            queues: BTreeMap::new(),
            stopped_at: None,
            hostless_at: None,
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

    /// A queue from its head on.
    pub(crate) fn queue(&self, shape: u32, user: u32) -> impl Iterator<Item = Place> {
        self.shapes.value(shape).queues.get(&user).into_iter().flatten().copied()
    }

    /// Users with tasks that wait for a kind of slot.
    pub(crate) fn users(&self, kind: SlotKind) -> impl Iterator<Item = u32> {
        self.heads.of(kind).keys().copied()
    }

    /// The heads of a user behind `after`, with the number of their shape.
    pub(crate) fn heads(&self, kind: SlotKind, user: u32, after: Option<Head>) -> impl Iterator<Item = (Place, u32)> {
        let from = after.map_or(Bound::Unbounded, |head| Bound::Excluded((head.place, head.shape)));
        self.heads.of(kind).get(&user).into_iter().flat_map(move |heads| heads.range((from, Bound::Unbounded)).copied())
    }

    /// Notes that tasks of a shape fit nowhere in this state of the fleet.
    pub(crate) fn stop(&mut self, shape: u32, generation: u64) {
        let kind = self.demand(shape).slot;
        let stopped = self.stopped.of_mut(kind);
        if stopped.0 != generation {
            *stopped = (generation, 0);
        }
        let shape = self.shapes.value_mut(shape);
        if shape.stopped_at != Some(generation) {
            shape.stopped_at = Some(generation);
            stopped.1 += 1;
        }
    }

    /// The last state of the fleet in which tasks of a shape fitted nowhere.
    pub(crate) fn stopped_at(&self, shape: u32) -> Option<u64> {
        self.shapes.value(shape).stopped_at
    }

    /// Whether tasks of a shape are known to fit nowhere in this state of the fleet.
    pub(crate) fn is_stopped(&self, shape: u32, generation: u64) -> bool {
        self.shapes.value(shape).stopped_at == Some(generation)
    }

    /// Whether nothing that waits is known to fit anywhere in this state of the fleet.
    pub(crate) fn all_stopped(&self, kind: SlotKind, generation: u64) -> bool {
        let waiting = *self.waiting.of(kind);
        waiting == 0 || *self.stopped.of(kind) == (generation, waiting)
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
        let mut expected: PerSlot<BTreeMap<u32, BTreeSet<(Place, u32)>>> = PerSlot::default();
        let (mut waiting, mut stopped) = (PerSlot::<usize>::default(), PerSlot::<usize>::default());
        for (id, needs, shape, uses) in self.shapes.iter() {
            let kind = needs.demand.slot;
            let queued: usize = shape.queues.values().map(BTreeSet::len).sum();
            assert!(queued <= uses as usize, "every queued task counts for its shape");
            for (&user, queue) in &shape.queues {
                let &head = queue.first().expect("no queue is empty");
                expected.of_mut(kind).entry(user).or_default().insert((head, id));
            }
            if shape.queues.is_empty() {
                assert_eq!(shape.stopped_at, None, "a shape without tasks is not stopped");
            } else {
                *waiting.of_mut(kind) += 1;
                *stopped.of_mut(kind) += usize::from(shape.stopped_at == Some(self.stopped.of(kind).0));
            }
        }
        assert_eq!(expected, self.heads, "heads are the first of each queue");
        assert_eq!(waiting, self.waiting, "shapes in which tasks wait");
        for kind in [SlotKind::Batch, SlotKind::Service] {
            assert_eq!(*stopped.of(kind), self.stopped.of(kind).1, "shapes that are stopped");
        }
    }

    fn depth_mut(&mut self, shape: u32) -> &mut usize {
        self.depth.of_mut(self.demand(shape).slot)
    }

    /// Changes one queue and then what is derived from it.
    fn change(&mut self, shape_id: u32, user: u32, change: impl FnOnce(&mut BTreeSet<Place>)) {
        let kind = self.demand(shape_id).slot;
        let shape = self.shapes.value_mut(shape_id);
        if shape.queues.is_empty() {
            *self.waiting.of_mut(kind) += 1;
        }
        let queue = shape.queues.entry(user).or_default();
        let head_before = queue.first().copied();
        change(queue);
        let head = queue.first().copied();
        if head.is_none() {
            shape.queues.remove(&user);
        }
        if shape.queues.is_empty() {
            *self.waiting.of_mut(kind) -= 1;
            let stopped = self.stopped.of_mut(kind);
            if shape.stopped_at.take() == Some(stopped.0) {
                stopped.1 -= 1;
            }
        }
        if head == head_before {
            return;
        }
        let heads = self.heads.of_mut(kind).entry(user).or_default();
        let named = |place: Option<Place>| place.map(|place| (place, shape_id));
        replace(heads, named(head_before), named(head));
        if heads.is_empty() {
            self.heads.of_mut(kind).remove(&user);
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
