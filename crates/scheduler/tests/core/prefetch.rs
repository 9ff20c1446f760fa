//! Work assigned ahead: only to workers whose attempts are short, promoted in order, asked back
//! when it waits too long, at no cost.

use crate::support::{T, World, ok, ruled, t, task, w, worker};
use fetchml_api::{FailureCause, LogAction, WaitReason, link::Report};
use fetchml_scheduler::{Answer, Event, Settings};

/// A worker with one slot that has shown four attempts of a length.
fn seasoned(milliseconds: i64) -> World {
    let mut world = World::new();
    world.join(w(1, 1).gpus(&["NVIDIA H100"]));
    for n in 1..=4 {
        world.submit(t(n));
        world.turn();
        world.reports(n, &[Report::Running]);
        world.pass_ms(milliseconds);
        world.heard(1);
        world.reports(n, &[Report::Collecting, ok()]);
    }
    world.turn();
    world
}

fn submit(world: &mut World, tasks: impl IntoIterator<Item = T>) -> Vec<String> {
    tasks.into_iter().for_each(|task| world.submit(task));
    world.turn()
}

#[test]
fn short_attempts_earn_two_a_slot_ahead() {
    for (milliseconds, expected) in [(100, 3), (1_999, 3), (2_000, 1), (60_000, 1)] {
        let mut world = seasoned(milliseconds);
        let sent = submit(&mut world, (10..20).map(t));
        assert_eq!(sent.len(), expected, "attempts of {milliseconds} ms");
    }
}

#[test]
fn a_few_ends_must_be_seen() {
    let mut world = World::new();
    world.join(w(1, 1));
    assert_eq!(submit(&mut world, (10..14).map(t)), ["w1: assign t10#1"]);
}

#[test]
fn it_can_be_turned_off() {
    let mut world = World::with(Settings { prefetch_per_slot: 0, ..Settings::default() });
    world.join(w(1, 1));
    for n in 1..=9 {
        assert_eq!(submit(&mut world, [t(n)]).last().unwrap(), &format!("w1: assign t{n}#1"));
        world.reports(n, &[Report::Running, ok()]);
    }
    assert_eq!(submit(&mut world, [t(10), t(11)]).len(), 2, "one forget, one assign");
}

#[test]
fn it_holds_nothing_until_it_moves_up() {
    let mut world = seasoned(10);
    submit(&mut world, (10..13).map(t));
    insta::assert_snapshot!(world.text(), @r"
    worker w1 online batch 1/1 service 0/1 cpu 1/1 memory 0/16 gpus free 1/1
      1.5 t10 Assigned gpus []
      1.6 t11 Assigned gpus [] ahead
      1.7 t12 Assigned gpus [] ahead
    ");
    world.reports(10, &[Report::Running, Report::Collecting]);
    insta::assert_snapshot!(world.text(), @r"
    worker w1 online batch 1/1 service 0/1 cpu 1/1 memory 0/16 gpus free 1/1
      1.5 t10 Collecting gpus []
      1.6 t11 Assigned gpus []
      1.7 t12 Assigned gpus [] ahead
    ");
    assert_eq!(submit(&mut world, [t(13)]), ["w1: assign t13#1"], "and the next goes ahead");
}

#[test]
fn who_cannot_go_ahead_is_not_starved_by_those_who_can() {
    let mut world = seasoned(10);
    assert_eq!(submit(&mut world, [t(10)]), ["w1: assign t10#1"]);
    assert_eq!(submit(&mut world, [t(11).gpu(1).priority(6), t(12)]), [""; 0], "the slot is awaited");
    world.reports(10, &[Report::Running, ok()]);
    assert_eq!(world.turn(), ["w1: forget t10#1", "w1: assign t11#1 gpus [0]", "w1: assign t12#1"]);
}

#[test]
fn one_that_no_worker_could_take_stops_nobody() {
    let mut world = seasoned(10);
    submit(&mut world, [t(10)]);
    assert_eq!(submit(&mut world, [t(11).gpu(5).priority(9), t(12).cpu(9).priority(9), t(13)]), ["w1: assign t13#1"]);
}

#[test]
fn patience_ends() {
    let mut world = seasoned(10);
    submit(&mut world, [t(10), t(11)]);
    world.reports(10, &[Report::Running]);
    world.pass_ms(1_999);
    assert_eq!(world.sent, [""; 0]);
    world.pass_ms(1);
    assert_eq!(std::mem::take(&mut world.sent), ["w1: revoke t11#1"]);
    world.pass_ms(1_999);
    assert_eq!(world.sent, [""; 0], "once per patience");
    world.pass_ms(1);
    assert_eq!(std::mem::take(&mut world.sent), ["w1: revoke t11#1"]);
    let before = world.state(11).clone();
    world.reports(11, &[Report::Returned]);
    assert_eq!(world.says(11), "queued", "no retry, no requeue");
    assert_eq!(world.state(11).waited_before, 0);
    assert_eq!(world.state(11).queued_since, before.queued_since, "as if it had never left");
    assert_eq!(world.turn(), ["w1: forget t11#1"], "and not ahead to the same worker again");
    world.join(w(2, 1));
    assert_eq!(world.turn(), ["w2: assign t11#2"]);
}

#[test]
fn a_returned_task_keeps_its_place() {
    let mut world = seasoned(10);
    submit(&mut world, [t(10), t(11)]);
    world.reports(10, &[Report::Running]);
    world.pass(3);
    world.submit(t(12));
    world.turn();
    world.reports(11, &[Report::Returned]);
    world.join(w(2, 1));
    assert_eq!(world.turn(), ["w2: assign t11#2"], "before t12, which came later");
}

#[test]
fn a_revoke_that_comes_too_late_is_nothing() {
    let mut world = seasoned(10);
    submit(&mut world, [t(10), t(11)]);
    world.pass(2);
    world.reports(10, &[Report::Running, ok()]);
    world.reports(11, &[Report::Running]);
    world.pass(2);
    assert!(!world.turn().iter().any(|sent| sent.contains("revoke t11") && sent.contains("#2")));
    world.reports(11, &[ok()]);
    assert_eq!(world.says(11), "completed");
}

#[test]
fn it_is_cancelled_and_lost_like_any_other() {
    let mut world = seasoned(10);
    submit(&mut world, (10..13).map(t));
    assert_eq!(world.cancel(11, "eve"), Answer::Done);
    assert_eq!(world.turn(), ["w1: cancel t11#1 cancelled"]);
    world.step(Event::WorkerDisconnected { worker: worker(1) });
    world.pass(600);
    assert_eq!(world.says(11), "failed, cancelled: cancelled by eve");
    assert_eq!(world.says(12), "queued, requeues 1, lost: worker box1 was lost");
}

#[test]
fn the_worker_may_start_it_before_the_core_saw_a_slot() {
    let mut world = seasoned(10);
    submit(&mut world, (10..13).map(t));
    world.reports(12, &[Report::Running]);
    assert_eq!(world.core.workers(world.now)[0].slots.batch_available, 0);
    world.reports(12, &[ok()]);
    world.reports(10, &[Report::Running, ok()]);
    world.reports(11, &[Report::Running, ok()]);
    assert_eq!(world.core.workers(world.now)[0].slots.batch_available, 1);
}

#[test]
fn a_slot_that_waits_for_one_ahead_goes_to_nobody_else() {
    for (big, ahead) in [(t(10).memory(12), t(12).memory(8)), (t(10).cpu(3), t(12).cpu(2))] {
        let mut world = World::new();
        let two_slots = w(1, 4).slots(2, 1);
        world.join(two_slots);
        for n in 1..=4 {
            world.submit(t(n));
            world.turn();
            world.reports(n, &[Report::Running, ok()]);
        }
        world.turn();
        let sent = submit(&mut world, [big.priority(8), t(11).priority(7), ahead.priority(6)]);
        assert_eq!(sent, ["w1: assign t10#1", "w1: assign t11#1", "w1: assign t12#1"]);
        world.reports(10, &[Report::Running]);
        world.reports(11, &[Report::Running, Report::Collecting]);
        let attempt = world.state(12).attempt.unwrap();
        assert!(world.core.is_ahead(attempt), "its room is not free yet");
        assert_eq!(submit(&mut world, [t(13)]), [""; 0], "one that would fit does not pass it");
        world.reports(10, &[Report::Collecting]);
        assert!(!world.core.is_ahead(attempt));
        assert_eq!(world.turn(), ["w1: assign t13#1"]);
    }
}

#[test]
fn what_is_given_back_unasked_waits_from_where_it_began() {
    let mut world = World::new();
    world.submit(t(1));
    let submitted = world.now;
    world.pass(5);
    world.join(w(1, 1));
    world.turn();
    assert_eq!(world.state(1).waited_before, 5_000_000);
    world.pass(10);
    world.reports(1, &[Report::Accepted, Report::Returned]);
    assert_eq!((world.state(1).waited_before, world.state(1).queued_since), (0, submitted));
    world.turn();
    assert_eq!(world.state(1).waited_before, 15_000_000);
}

#[test]
fn a_worker_that_a_log_rule_excluded_gets_nothing_of_the_task_ahead() {
    let mut world = seasoned(100);
    submit(&mut world, [t(10).retries(1)]);
    world.reports(10, &[ruled(FailureCause::ExitNonzero, LogAction::ExcludeWorker)]);
    submit(&mut world, [t(11)]);
    world.pass(2);
    world.heard(1);
    assert_eq!(submit(&mut world, [t(12)]), ["w1: assign t12#1"], "t10 waits longer and is left out");
}

#[test]
fn who_goes_ahead_in_the_next_turn_is_not_said_to_wait_behind_another() {
    let mut world = seasoned(10);
    submit(&mut world, (10..15).map(t));
    let said = |world: &World, n| world.core.explain(task(n)).unwrap().reason;
    assert_eq!((said(&world, 13), said(&world, 14)), (WaitReason::Busy, WaitReason::Behind));
    world.reports(10, &[Report::Running, Report::Collecting, ok()]);
    world.reports(11, &[Report::Running, Report::Collecting]);
    assert_eq!((said(&world, 13), said(&world, 14)), (WaitReason::Deciding, WaitReason::Deciding));
    world.turn();
    assert_eq!((said(&world, 13), said(&world, 14)), (WaitReason::Placed, WaitReason::Placed));
}
