//! Tasks wait for what they depend on, and end with it where it had to end well.

use crate::support::{World, exit, ok, t, task, w};
use fetchml_api::{TaskStatus, link::Report, time::SECOND};
use fetchml_scheduler::{Answer, BlockedBy, Event, Refusal, limits};

/// One worker with a core each for four tasks, and task 1 running on it.
fn first_runs() -> World {
    let mut world = World::new();
    world.join(w(1, 4));
    world.submit(t(1));
    world.turn();
    world.reports(1, &[Report::Running]);
    world
}

const AS_NEEDED: &str = "queued";
const BROKEN: &str =
    "failed, dependency: 01900000-0000-7000-8000-000000000001, which this task depends on, did not complete";

#[test]
fn it_is_placed_when_what_it_depends_on_has_ended_as_it_must() {
    // How the first ends, what becomes of one that must see it complete, and of one that must see it end.
    let table = [(ok(), Some("assign"), Some("assign")), (exit(3), None, Some("assign"))];
    for (end, after_ok, after_any) in table {
        let mut world = first_runs();
        world.submit(t(2).after(&[1]));
        world.submit(t(3).after_any(&[1]));
        assert_eq!(world.turn(), [""; 0], "there is room, but they wait");
        assert_eq!((world.says(2), world.says(3)), (AS_NEEDED.into(), AS_NEEDED.into()));
        world.reports(1, &[end]);
        let sent = world.turn();
        let assigned = |n| sent.iter().any(|line| line.contains(&format!("assign t{n}#1"))).then_some("assign");
        assert_eq!((assigned(2), assigned(3)), (after_ok, after_any));
        if after_ok.is_none() {
            assert_eq!(world.says(2), BROKEN);
        }
    }
}

#[test]
fn a_cancelled_need_is_not_one_that_completed() {
    let mut world = first_runs();
    world.submit(t(2));
    world.submit(t(3).after(&[2]));
    world.submit(t(4).after_any(&[2]));
    world.cancel(2, "ada");
    assert_eq!(world.turn(), ["w1: assign t4#1"]);
    assert!(world.says(3).starts_with("failed, dependency"), "{}", world.says(3));
}

#[test]
fn a_retry_of_a_need_is_waited_for() {
    let mut world = World::new();
    world.join(w(1, 4));
    world.submit(t(1).retries(1));
    world.submit(t(2).after(&[1]));
    world.turn();
    world.reports(1, &[Report::Running, exit(1)]);
    world.settle();
    assert_eq!(
        (world.says(1).as_str(), world.says(2).as_str()),
        ("queued, retries 1, exit_nonzero: exit code 1; see the log", "queued")
    );
    world.pass(5);
    world.turn();
    world.reports(1, &[Report::Running, ok()]);
    assert_eq!(world.turn()[1], "w1: assign t2#1");
}

#[test]
fn all_that_it_depends_on_must_have_ended() {
    let mut world = first_runs();
    world.submit(t(2));
    world.submit(t(3).after(&[1]).after_any(&[2]));
    world.turn();
    world.reports(2, &[Report::Running, exit(1)]);
    world.settle();
    assert!(world.state(3).blocked);
    assert_eq!(world.core.blocked_by(task(3)), Some(BlockedBy::Dependencies { first: vec![task(1)], count: 1 }));
    world.reports(1, &[ok()]);
    world.settle();
    assert_eq!(world.core.blocked_by(task(3)), None);
    assert_eq!(world.state(3).status, TaskStatus::Preparing);
}

#[test]
fn the_first_that_breaks_it_ends_it_though_others_run() {
    let mut world = first_runs();
    world.submit(t(2));
    world.submit(t(3).after(&[1, 2]));
    world.cancel(2, "ada");
    world.settle();
    assert!(world.says(3).starts_with("failed, dependency: 01900000-0000-7000-8000-000000000002"), "{}", world.says(3));
}

#[test]
fn who_depends_on_what_broke_ends_too() {
    let mut world = first_runs();
    world.submit(t(2).after(&[1]));
    world.submit(t(3).after(&[2]));
    world.submit(t(4).after_any(&[3]));
    world.audited.clear();
    world.reports(1, &[exit(1)]);
    world.turn();
    assert_eq!(world.says(2), BROKEN);
    assert!(world.says(3).contains("000000000002, which this task depends on"), "{}", world.says(3));
    assert_eq!(world.state(4).status, TaskStatus::Preparing, "any end will do");
    let audited: Vec<_> = world.audited.iter().filter(|line| line.contains("dependency")).collect();
    assert_eq!(audited, ["t2 fail by system dependency", "t3 fail by system dependency"]);
}

#[test]
fn one_whose_need_was_broken_before_its_submit_ends_at_once() {
    let mut world = first_runs();
    let mut new = t(2).after(&[1]);
    new.0.broken_by = Some(task(99));
    world.submit(new);
    world.turn();
    assert!(world.says(2).starts_with("failed, dependency"), "{}", world.says(2));
}

#[test]
fn a_need_that_is_over_must_be_looked_up() {
    let mut world = first_runs();
    let refused = Answer::Refused(Refusal::DependencyEnded);
    assert_eq!(world.step(Event::TaskSubmitted(t(3).after(&[1, 2]).0)), refused, "no such task lives");
    world.reports(1, &[ok()]);
    assert_eq!(world.step(Event::TaskSubmitted(t(3).after(&[1]).0)), refused);
    assert_eq!(world.step(Event::TaskSubmitted(t(3).after(&[3]).0)), refused, "not even itself");
    assert_eq!(world.rows.len(), 1);
}

#[test]
fn only_time_in_the_queue_counts() {
    let mut world = first_runs();
    world.submit(t(2).after(&[1]).cpu(4));
    for _ in 0..90 {
        world.pass(60);
        world.heard(1);
    }
    let aged = |world: &World| world.core.priority_aged(world.now, task(2)).unwrap();
    assert!((aged(&world) - 5.0).abs() < 1e-9);
    world.submit(t(3).cpu(4));
    world.reports(1, &[ok()]);
    world.pass(1_800);
    world.step(Event::WorkerDisconnected { worker: crate::support::worker(1) });
    world.settle();
    assert_eq!(world.state(2).queued_since, world.now, "from when it may be placed on");
    assert_eq!(world.now.since(world.state(3).queued_since), 1_800 * SECOND);
}

#[test]
fn one_that_waits_can_be_cancelled_and_is_forgotten_by_what_it_waits_for() {
    let mut world = first_runs();
    world.submit(t(2).after(&[1]));
    assert_eq!(world.cancel(2, "ada"), Answer::Done);
    assert_eq!(world.says(2), "failed, cancelled: cancelled by ada");
    world.reports(1, &[ok()]);
    world.settle();
    assert_eq!(world.says(2), "failed, cancelled: cancelled by ada");
}

#[test]
fn another_priority_counts_when_it_enters_the_queue() {
    let mut world = first_runs();
    world.submit(t(2).after(&[1]).cpu(4));
    world.submit(t(3).cpu(4));
    let event = |priority| Event::PriorityRequested {
        task: task(2),
        priority,
        by: "ada".into(),
        role: fetchml_api::Role::Admin,
    };
    assert_eq!(world.step(event(9)), Answer::Done);
    world.reports(1, &[ok()]);
    assert_eq!(world.turn()[1], "w1: assign t2#1");
}

#[test]
fn those_who_wait_count_as_queued() {
    let mut world = first_runs();
    world.submit(t(2).after(&[1]));
    assert_eq!(world.core.queue_depth(fetchml_api::SlotKind::Batch), 1);
}

#[test]
fn many_that_depend_on_one_are_followed_up_in_parts() {
    for (end, ends) in [(ok(), false), (exit(1), true)] {
        let mut world = first_runs();
        world.submit_array(t(100).after(&[1]).array(50, 2 * limits::DEPENDENTS_MAX as u32, None));
        (2..=9).for_each(|n| world.submit(t(n).after(&[1])));
        world.reports(1, &[end]);
        world.step(Event::TurnEnded);
        let moved = world.rows.len() - 1 - world.blocked();
        assert!(moved > 0 && moved <= limits::DEPENDENTS_MAX, "{moved} in one turn");
        assert_eq!(world.core.next_deadline(), Some(world.now), "the rest is due at once");
        assert!(world.settle() > 1);
        assert_eq!(world.blocked(), 0);
        let failed = world.rows.values().filter(|row| row.state.status == TaskStatus::Failed).count();
        assert_eq!(failed == world.rows.len(), ends);
    }
}

#[test]
fn a_restart_in_the_middle_loses_nothing() {
    for end in [ok(), exit(1)] {
        let broken = end != ok();
        let mut world = first_runs();
        world.submit_array(t(100).after(&[1]).array(50, limits::DEPENDENTS_MAX as u32 + 500, None));
        world.submit(t(2).after(&[1]));
        world.submit(t(3).after_any(&[1]));
        world.reports(1, &[end]);
        world.restart();
        world.step(Event::TurnEnded);
        world.restart();
        world.settle();
        for row in world.rows.values().filter(|row| row.spec.id != task(1)) {
            assert!(row.state.status == TaskStatus::Failed || !row.state.blocked, "{row:?}");
            let ends = broken && row.spec.id != task(3);
            assert_eq!(row.state.status == TaskStatus::Failed, ends, "{row:?}");
        }
    }
}
