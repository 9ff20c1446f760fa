//! Another priority for a task that has not ended.

use crate::support::{World, exit, ok, t, task, w};
use fetchml_api::{Role, link::Report};
use fetchml_scheduler::{Answer, Event};

fn prioritize(world: &mut World, n: u32, priority: u8) -> Answer {
    world.step(Event::PriorityRequested { task: task(n), priority, by: "eve".into(), role: Role::Admin })
}

#[test]
fn a_queued_task_moves_to_its_new_place() {
    for (priority, order) in [(4, [2, 1]), (5, [1, 2]), (6, [1, 2])] {
        let mut world = World::new();
        world.submit(t(1).priority(7));
        world.submit(t(2).priority(5));
        assert_eq!(prioritize(&mut world, 1, priority), Answer::Done);
        world.join(w(1, 2));
        assert_eq!(world.turn(), order.map(|n| format!("w1: assign t{n}#1")), "priority {priority}");
    }
}

#[test]
fn waiting_counts_on_under_another_priority() {
    let mut world = World::new();
    world.submit(t(1).priority(3));
    world.pass(3_600);
    assert_eq!(prioritize(&mut world, 1, 2), Answer::Done);
    assert_eq!(world.core.priority_aged(world.now, task(1)), Some(4.0));
    world.restart();
    assert_eq!(world.core.priority_aged(world.now, task(1)), Some(4.0), "it is durable");
}

#[test]
fn it_may_change_in_every_state_but_the_last() {
    let mut world = World::new();
    world.join(w(1, 1));
    world.submit(t(1).retries(1));
    assert_eq!(prioritize(&mut world, 1, 5), Answer::Unchanged, "the same again");
    world.turn();
    assert_eq!(prioritize(&mut world, 1, 6), Answer::Done, "preparing");
    world.reports(1, &[Report::Running]);
    assert_eq!(prioritize(&mut world, 1, 7), Answer::Done, "running");
    world.reports(1, &[exit(1)]);
    assert_eq!(prioritize(&mut world, 1, 8), Answer::Done, "in backoff");
    world.pass(1);
    world.submit(t(2).priority(7));
    world.turn();
    assert_eq!(
        (world.says(1).as_str(), world.state(1).priority),
        ("preparing, retries 1, exit_nonzero: exit code 1; see the log", 8)
    );
    world.reports(1, &[Report::Running, Report::Collecting]);
    assert_eq!(prioritize(&mut world, 1, 9), Answer::Done, "collecting");
    world.reports(1, &[ok()]);
    assert_eq!(prioritize(&mut world, 1, 9), Answer::NotActive, "ended");
    assert_eq!(prioritize(&mut world, 77, 9), Answer::NotActive, "unknown");
    let audited = world.audited.iter().filter(|line| line.contains("priority")).count();
    assert_eq!((audited, world.audited.iter().any(|line| line == "t1 priority by eve")), (4, true));
}
