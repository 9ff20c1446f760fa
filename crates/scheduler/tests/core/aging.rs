//! Aging: waiting makes up for priority, at one level for each interval spent queued.

use crate::support::{START, World, exit, ok, t, task, w};
use fetchml_api::{Role, TaskStatus, link::Report};
use fetchml_scheduler::{Event, priority_aged};
use proptest::{collection::vec, prelude::*};

#[test]
fn a_wait_of_one_interval_is_worth_one_level() {
    for (head_start_s, first) in [(1_799, 2), (1_800, 1), (1_801, 1)] {
        let mut world = World::new();
        world.submit(t(1).priority(5));
        world.pass(head_start_s);
        world.submit(t(2).priority(6));
        world.join(w(1, 1));
        assert_eq!(world.turn(), [format!("w1: assign t{first}#1")], "after {head_start_s} s");
    }
}

#[test]
fn the_lowest_is_not_overtaken_for_ever() {
    let mut world = World::new();
    world.submit(t(1).priority(1));
    for n in 0..10 {
        world.submit(t(10 + n).priority(10));
        world.pass(1_800);
    }
    world.submit(t(30).priority(10));
    world.join(w(1, 1).slots(11, 0));
    let order: Vec<_> = (0..12)
        .flat_map(|_| {
            let sent = world.turn();
            if let Some(n) = sent.first().and_then(|s| s.split(['t', '#']).nth(1)).and_then(|n| n.parse().ok()) {
                world.reports(n, &[Report::Running, Report::Collecting]);
            }
            sent
        })
        .collect();
    let of = |n: u32| order.iter().position(|sent| sent.contains(&format!(" t{n}#"))).unwrap();
    assert!(of(1) < of(30), "a task of priority 10 submitted ten intervals later comes behind: {order:?}");
}

#[test]
fn only_time_in_the_queue_counts() {
    let mut world = World::new();
    world.submit(t(1).priority(3).retries(2));
    world.pass(900);
    assert_eq!(world.core.priority_aged(world.now, task(1)), Some(3.5));
    world.join(w(1, 1));
    world.turn();
    world.reports(1, &[Report::Running]);
    for _ in 0..100 {
        world.pass(14);
        world.heard(1);
    }
    assert_eq!(world.core.priority_aged(world.now, task(1)), Some(3.5), "not while it runs");
    world.reports(1, &[exit(1)]);
    assert_eq!(world.core.priority_aged(world.now.plus_seconds(1), task(1)), Some(3.5), "not in backoff");
    assert_eq!(world.core.priority_aged(world.now.plus_seconds(901), task(1)), Some(4.0));
    world.cancel(1, "eve");
    assert_eq!(world.core.priority_aged(world.now, task(1)), None);
    assert!(
        (priority_aged(world.state(1), START.plus_seconds(1_000_000), 1_800) - 3.5).abs() < 1e-9,
        "not when it has ended"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever arrives, and whatever priority it has: within one user and shape nothing that is submitted more than
    /// (11 - p) intervals after a waiting task of priority p is ordered before it.
    #[test]
    fn g12_aging_bounds_the_wait_whatever_arrives(
        priority in 1..=10_u8,
        arrivals in vec((0..2_000_i64, 1..=10_u8, prop::bool::weighted(0.3)), 1..60),
    ) {
        const INTERVAL: i64 = 1_800;
        let mut world = World::new();
        // Nobody serves them before all have come.
        world.submit(t(0).priority(priority));
        let (mut submitted, mut clock) = (vec![0], 0);
        for (n, (pause, priority, raised)) in (1..).zip(arrivals) {
            world.pass(pause);
            clock += pause;
            world.submit(t(n).priority(if raised { 1 } else { priority }));
            if raised {
                // Raised later, it counts as if it had been submitted so.
                let (by, role) = ("ada".into(), Role::Admin);
                world.step(Event::PriorityRequested { task: task(n), priority, by, role });
            }
            submitted.push(clock);
        }
        world.join(w(1, 1));
        let bound = (11 - i64::from(priority)) * INTERVAL;
        // Some are assigned ahead, when those before were short.
        let mut assigned: std::collections::VecDeque<u32> = std::collections::VecDeque::new();
        while world.state(0).status == TaskStatus::Queued {
            world.sent.clear();
            for line in world.turn() {
                let number = line.split("assign t").nth(1).and_then(|rest| rest.split('#').next()?.parse::<u32>().ok());
                assigned.extend(number);
            }
            let next = assigned.pop_front().expect("a slot is free and something waits");
            prop_assert!(
                submitted[next as usize] <= bound,
                "t{next}, submitted after {} s, goes before a task of priority {priority}: the bound is {bound} s",
                submitted[next as usize]
            );
            world.reports(next, &[Report::Running, ok()]);
        }
    }
}
