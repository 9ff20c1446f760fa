//! Aging: waiting makes up for priority, at one level for each interval spent queued.

use crate::support::{START, World, exit, t, task, w};
use fetchml_api::link::Report;
use fetchml_scheduler::priority_aged;

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
