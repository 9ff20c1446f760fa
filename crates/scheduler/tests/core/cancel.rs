//! Cancel: at once while queued, by way of the worker when active, and never undone.

use crate::support::{World, exit, ok, t, w, worker};
use fetchml_api::{
    FailureCause,
    link::{Outcome, Report},
};
use fetchml_scheduler::{Answer, Event};

type Way<'a> = &'a dyn Fn(&mut World);

const CANCELLED: &str = "failed, cancelled: cancelled by eve";

fn placed(reports: &[Report]) -> World {
    let mut world = World::new();
    world.join(w(1, 1));
    world.submit(t(1).retries(3));
    world.turn();
    world.reports(1, reports);
    world
}

#[test]
fn a_queued_task_ends_at_once() {
    let mut world = World::new();
    world.submit(t(1));
    assert_eq!(world.cancel(1, "eve"), Answer::Done);
    assert_eq!(world.says(1), CANCELLED);
    assert_eq!(world.cancel(1, "eve"), Answer::NotActive);
    assert_eq!(world.audited, ["t1 submit by ada", "t1 cancel by eve cancelled"]);
    world.join(w(1, 1));
    assert_eq!(world.turn(), [""; 0]);
}

#[test]
fn a_task_in_backoff_ends_at_once() {
    let mut world = placed(&[Report::Running, exit(1)]);
    assert_eq!(world.cancel(1, "eve"), Answer::Done);
    assert_eq!(world.says(1), "failed, retries 1, cancelled: cancelled by eve");
    world.sent.clear();
    world.pass(10);
    assert_eq!(world.turn(), [""; 0]);
}

#[test]
fn an_active_task_ends_when_its_worker_says_so_however_it_ended() {
    let phases: [&[Report]; 4] = [&[], &[Report::Accepted], &[Report::Running], &[Report::Running, Report::Collecting]];
    let cancelled = Outcome { cause: Some(FailureCause::Cancelled), signal: Some(15), ..Outcome::default() };
    for phase in phases {
        for end in [ok(), exit(3), Report::Ended(cancelled.clone())] {
            let mut world = placed(phase);
            let before = world.says(1);
            assert_eq!(world.cancel(1, "eve"), Answer::Done);
            assert_eq!(world.cancel(1, "mallory"), Answer::Unchanged, "the first one stands");
            assert_eq!(world.says(1), before);
            assert_eq!(world.turn(), ["w1: cancel t1#1 cancelled"]);
            world.reports(1, &[end]);
            assert_eq!(world.says(1), CANCELLED, "after {phase:?}");
        }
    }
}

#[test]
fn a_cancelled_task_never_comes_back() {
    let lost = |world: &mut World| world.pass(600);
    let returned = |world: &mut World| world.reports(1, &[Report::Returned]);
    let rejoined_without = |world: &mut World| {
        world.join(w(1, 1));
    };
    let ways: [(&str, Way<'_>); 3] =
        [("lost", &lost), ("returned", &returned), ("worker came back without it", &rejoined_without)];
    for (what, way) in ways {
        let mut world = placed(&[Report::Accepted]);
        world.cancel(1, "eve");
        way(&mut world);
        assert_eq!(world.says(1), CANCELLED, "{what}");
    }
}

#[test]
fn a_cancel_is_repeated_to_a_worker_that_comes_back_and_survives_a_restart() {
    let mut world = placed(&[Report::Running]);
    world.cancel(1, "eve");
    world.step(Event::WorkerDisconnected { worker: worker(1) });
    world.restart();
    assert_eq!(world.join_holding(w(1, 1), &[1]), ["w1: cancel t1#1 cancelled"]);
    world.reports(1, &[ok()]);
    assert_eq!(world.says(1), CANCELLED);
    assert_eq!(world.audited.last().unwrap(), "t1 cancel by system cancelled");
}

#[test]
fn a_cancel_after_the_end_is_too_late() {
    let mut world = placed(&[Report::Running, ok()]);
    assert_eq!(world.cancel(1, "eve"), Answer::NotActive);
    assert_eq!(world.says(1), "completed");
}
