//! Arrays: many tasks of one request, made, limited and cancelled as one.

use crate::support::{World, exit, ok, t, task, w};
use fetchml_api::{Quota, QuotaScope, TaskStatus, link::Report};
use fetchml_scheduler::{Answer, BlockedBy, Event, Refusal};

fn cancel(world: &mut World, array: u32) -> Answer {
    world.step(Event::ArrayCancelRequested { array: task(array), by: "eve".into() })
}

fn count(world: &World, status: TaskStatus) -> usize {
    world.rows.values().filter(|row| row.state.status == status).count()
}

#[test]
fn its_tasks_go_in_the_order_of_their_indices() {
    let mut world = World::new();
    world.join(w(1, 2));
    world.submit_array(t(1).array(90, 3, None));
    assert_eq!(world.turn(), ["w1: assign t1#1", "w1: assign t2#1"]);
    world.reports(2, &[Report::Running, ok()]);
    assert_eq!(world.turn(), ["w1: forget t2#1", "w1: assign t3#1"]);
}

#[test]
fn all_of_it_is_made_or_nothing() {
    let mut world = World::new();
    let quota = Quota { queued: Some(4), ..Quota::default() };
    world.step(Event::QuotaRequested { scope: QuotaScope::User("ada".into()), quota, by: "eve".into() });
    let refused = world.step(Event::ArraySubmitted(t(1).array(90, 5, None)));
    assert_eq!(refused, Answer::Refused(Refusal::Queued { limit: 4 }));
    assert!(world.rows.is_empty());
    world.submit_array(t(1).array(90, 4, Some(1)));
    assert_eq!(world.rows.len(), 4);
    let refused = world.step(Event::ArraySubmitted(t(10).array(91, 1, None)));
    assert_eq!(refused, Answer::Refused(Refusal::Queued { limit: 4 }), "those that wait for their turn count");
}

#[test]
fn no_more_run_at_once_than_it_says() {
    let mut world = World::new();
    world.join(w(1, 8));
    world.submit_array(t(1).array(90, 5, Some(2)));
    assert_eq!(world.turn(), ["w1: assign t1#1", "w1: assign t2#1"]);
    assert_eq!(world.core.blocked_by(task(3)), Some(BlockedBy::ArrayLimit(2)));
    world.submit(t(20));
    assert_eq!(world.turn(), ["w1: assign t20#1"], "the limit is its own affair");
    world.reports(1, &[Report::Running, exit(1)]);
    assert_eq!(world.turn(), ["w1: forget t1#1", "w1: assign t3#1"]);
    world.cancel(4, "ada");
    world.reports(2, &[Report::Running, ok()]);
    assert_eq!(world.turn(), ["w1: forget t2#1", "w1: assign t5#1"]);
}

#[test]
fn one_that_is_tried_again_keeps_its_turn() {
    let mut world = World::new();
    world.join(w(1, 8));
    world.submit_array(t(1).retries(1).array(90, 2, Some(1)));
    world.turn();
    world.reports(1, &[Report::Running, exit(1)]);
    assert_eq!(world.turn(), ["w1: forget t1#1"], "in backoff it still has its turn");
    world.pass(2);
    assert_eq!(world.turn(), ["w1: assign t1#2"]);
}

#[test]
fn the_limit_holds_over_a_restart() {
    let mut world = World::new();
    world.join(w(1, 8));
    world.submit_array(t(1).array(90, 4, Some(1)));
    world.turn();
    world.restart();
    assert_eq!(world.join_holding(w(1, 8), &[1]), [""; 0]);
    assert_eq!(world.turn(), [""; 0]);
    world.reports(1, &[Report::Running, ok()]);
    world.restart();
    world.join(w(1, 8));
    assert_eq!(world.turn(), ["w1: assign t2#1"]);
}

#[test]
fn it_is_cancelled_as_one() {
    let mut world = World::new();
    world.join(w(1, 2));
    world.submit_array(t(1).array(90, 5, Some(3)));
    world.submit(t(6));
    world.turn();
    world.reports(1, &[Report::Running, ok()]);
    world.turn();
    world.sent.clear();
    assert_eq!(cancel(&mut world, 90), Answer::Done);
    assert_eq!(std::mem::take(&mut world.sent), ["w1: cancel t2#1 cancelled", "w1: cancel t3#1 cancelled"]);
    assert_eq!(count(&world, TaskStatus::Failed), 2, "those that waited are over");
    assert_eq!(cancel(&mut world, 90), Answer::Unchanged);
    for n in 2..=3 {
        world.reports(n, &[exit(143)]);
    }
    assert_eq!(cancel(&mut world, 90), Answer::NotActive);
    assert_eq!((count(&world, TaskStatus::Completed), count(&world, TaskStatus::Failed)), (1, 4));
    assert_eq!(world.says(6), "queued", "others are not touched");
}

#[test]
fn an_array_is_not_a_task_and_a_task_not_an_array() {
    let mut world = World::new();
    world.submit_array(t(1).array(90, 2, None));
    assert_eq!(world.cancel(90, "ada"), Answer::NotActive);
    assert_eq!(cancel(&mut world, 1), Answer::NotActive);
    world.submit(t(5).after(&[1]));
    assert_eq!(cancel(&mut world, 5), Answer::NotActive);
}

#[test]
fn who_depends_on_an_array_waits_for_all_of_it() {
    // How its tasks end, and what becomes of who must see it complete, and of who must see it end.
    for (ends, after_ok) in [([ok(), ok()], "queued"), ([exit(1), ok()], "failed"), ([ok(), exit(1)], "failed")] {
        let mut world = World::new();
        world.join(w(1, 8));
        world.submit_array(t(1).array(90, 2, None));
        world.submit(t(5).after(&[90]).cpu(9));
        world.submit(t(6).after_any(&[90]).cpu(9));
        world.turn();
        let [first, second] = ends;
        world.reports(1, &[Report::Running, first]);
        world.settle();
        assert!(world.state(5).blocked && world.state(6).blocked, "the other has not ended");
        world.restart();
        world.join_holding(w(1, 8), &[2]);
        world.reports(2, &[Report::Running, second]);
        world.settle();
        assert_eq!(world.state(5).status.as_str(), after_ok, "{}", world.says(5));
        assert_eq!((world.state(6).status, world.state(6).blocked), (TaskStatus::Queued, false));
    }
}

#[test]
fn an_array_that_depends_on_a_task_ends_with_it() {
    let mut world = World::new();
    world.submit(t(1));
    world.submit_array(t(2).after(&[1]).array(90, 3, Some(1)));
    world.submit(t(8).after(&[90]));
    assert_eq!(world.core.blocked_by(task(4)), Some(BlockedBy::Dependencies { first: vec![task(1)], count: 1 }));
    world.cancel(1, "ada");
    world.settle();
    assert!((2..=4).all(|n| world.says(n).starts_with("failed, dependency")), "{}", world.says(4));
    assert!(world.says(8).starts_with("failed, dependency"), "{}", world.says(8));
}

#[test]
fn an_array_that_waited_for_a_task_then_goes_by_its_limit() {
    let mut world = World::new();
    world.join(w(1, 8));
    world.submit(t(1));
    world.submit_array(t(2).after(&[1]).array(90, 3, Some(2)));
    world.turn();
    world.reports(1, &[Report::Running, ok()]);
    assert_eq!(world.turn(), ["w1: forget t1#1", "w1: assign t2#1", "w1: assign t3#1"]);
    world.restart();
    assert_eq!(world.core.blocked_by(task(4)), Some(BlockedBy::ArrayLimit(2)));
}
