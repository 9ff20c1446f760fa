//! Workers that join, fall silent, are lost and come back.

use crate::support::{World, ok, t, task, w, worker};
use fetchml_api::{WorkerStatus, link::Report};
use fetchml_scheduler::{Answer, Event, Lease, Settings};

fn with_running() -> World {
    let mut world = World::new();
    world.join(w(1, 2));
    world.submit(t(1));
    world.turn();
    world.reports(1, &[Report::Accepted, Report::Running]);
    world
}

#[test]
fn a_silent_worker_gets_nothing_new_until_it_speaks() {
    let mut world = World::new();
    world.join(w(1, 1));
    let joined = world.now;
    assert_eq!(world.core.next_deadline(), Some(joined.plus_seconds(15)));
    world.pass(14);
    assert_eq!(world.core.workers(world.now)[0].status, WorkerStatus::Active);
    world.pass(1);
    assert_eq!(world.core.workers(world.now)[0].status, WorkerStatus::Offline);
    assert_eq!(world.core.next_deadline(), None, "it holds nothing: no lease");
    world.submit(t(1));
    assert_eq!(world.turn(), [""; 0]);
    world.heard(1);
    assert_eq!(world.turn(), ["w1: assign t1#1"]);
}

#[test]
fn a_link_that_breaks_takes_nothing_away() {
    let mut world = with_running();
    world.step(Event::WorkerDisconnected { worker: worker(1) });
    assert_eq!(world.heard(1), Answer::Unchanged, "a late word of a closed link");
    world.submit(t(2));
    assert_eq!(world.turn(), [""; 0], "nothing new");
    world.pass(599);
    assert_eq!(world.says(1), "running");
    assert_eq!(world.join_holding(w(1, 2), &[1]), [""; 0]);
    assert_eq!(world.turn(), ["w1: assign t2#1"]);
    world.reports(1, &[ok()]);
    assert_eq!(world.says(1), "completed");
}

#[test]
fn a_lost_worker_loses_its_attempts() {
    let mut world = with_running();
    world.step(Event::WorkerDisconnected { worker: worker(1) });
    let late = world.reported(1, ok());
    world.pass(600);
    assert_eq!(world.says(1), "queued, requeues 1, lost: worker box1 was lost");
    world.sent.clear();
    world.join(w(2, 1));
    assert_eq!(world.turn(), ["w2: assign t1#2"], "at once, and elsewhere");
    let forgotten = fetchml_api::link::Held {
        attempt: *world.attempts.keys().next().unwrap(),
        task: task(1),
        epoch: fetchml_api::AttemptEpoch { incarnation: 1, n: 1 },
        log_acked: 0,
        metrics_acked: 0,
    };
    assert_eq!(world.join_with(w(1, 2), vec![forgotten]), ["w1: forget t1#1"]);
    assert_eq!(world.step(late), Answer::Stale);
    assert_eq!(world.says(1), "preparing, requeues 1, lost: worker box1 was lost");
    world.reports(1, &[ok()]);
    assert_eq!(world.says(1), "completed, requeues 1");
}

#[test]
fn a_lost_worker_gets_nothing_even_where_leases_are_short() {
    let settings = Settings { lost_after_s: 10, offline_after_s: 15, ..Settings::default() };
    let mut world = World::with(settings);
    world.join(w(1, 1));
    world.submit(t(1));
    world.turn();
    world.reports(1, &[Report::Accepted, Report::Running]);
    world.pass(10);
    assert_eq!(world.says(1), "queued, requeues 1, lost: worker box1 was lost");
    world.pass(2);
    world.sent.clear();
    assert_eq!(world.turn(), [""; 0], "it was not heard since");
    world.heard(1);
    assert_eq!(world.turn(), ["w1: assign t1#2"]);
}

#[test]
fn each_attempt_has_its_own_time_until_it_is_given_up() {
    let mut world = World::new();
    world.join(w(1, 3));
    for task in [t(1), t(2).lease(Lease::Seconds(60)), t(3).lease(Lease::Kept)] {
        world.submit(task);
    }
    world.turn();
    world.reports(1, &[Report::Running]);
    world.step(Event::WorkerDisconnected { worker: worker(1) });
    world.pass(59);
    assert_eq!(world.says(2), "preparing");
    world.pass(1);
    assert_eq!(world.says(2), "queued, requeues 1, lost: worker box1 was lost");
    assert_eq!(world.says(1), "running");
    world.pass(600);
    assert_eq!(world.says(1), "queued, requeues 1, lost: worker box1 was lost");
    world.pass(1_000_000);
    assert_eq!(world.says(3), "preparing", "kept until somebody declares its worker dead");
    // A restart forgets neither.
    world.restart();
    world.pass(1_000_000);
    assert_eq!(world.says(3), "preparing");
}

#[test]
fn each_word_renews_the_lease() {
    let mut world = with_running();
    for _ in 0..100 {
        world.pass(14);
        world.heard(1);
    }
    assert_eq!(world.says(1), "running");
    assert_eq!(world.core.workers(world.now)[0].status, WorkerStatus::Active);
}

/// What, reports so far, whether the worker holds it, what must be sent, how the task must stand.
type Case = (&'static str, &'static [Report], bool, &'static [&'static str], &'static str);

#[test]
fn what_a_worker_holds_is_compared_with_what_it_should() {
    let cases: [Case; 6] = [
        ("assigned, not held: sent again", &[], false, &["w1: assign t1#1"], "preparing"),
        ("assigned, held", &[], true, &[], "preparing"),
        ("accepted, held", &[Report::Accepted], true, &[], "preparing"),
        (
            "accepted, not held: lost",
            &[Report::Accepted],
            false,
            &[],
            "queued, requeues 1, lost: the worker came back without the task",
        ),
        ("running, held", &[Report::Running], true, &[], "running"),
        (
            "running, not held: lost",
            &[Report::Running],
            false,
            &[],
            "queued, requeues 1, lost: the worker came back without the task",
        ),
    ];
    for (what, reports, held, sent, says) in cases {
        let mut world = World::new();
        world.join(w(1, 1));
        world.submit(t(1));
        world.turn();
        world.reports(1, reports);
        let held: &[u32] = if held { &[1] } else { &[] };
        assert_eq!(world.join_holding(w(1, 1), held), sent, "{what}");
        assert_eq!(world.says(1), says, "{what}");
    }
}

#[test]
fn what_must_be_dropped_is_said_first() {
    let mut world = World::new();
    world.join(w(1, 2));
    world.submit(t(1));
    world.submit(t(2));
    world.turn();
    let mut held = fetchml_api::link::Held {
        attempt: world.state(1).attempt.unwrap(),
        task: task(1),
        epoch: world.state(1).epoch.unwrap(),
        log_acked: 0,
        metrics_acked: 0,
    };
    held.epoch.n += 9;
    let sent = world.join_with(w(1, 2), vec![held.clone()]);
    assert_eq!(sent, ["w1: forget t1#1", "w1: assign t1#1", "w1: assign t2#1"]);
    assert!(world.core.holds(worker(1), held.attempt));
    assert!(!world.core.holds(worker(2), held.attempt));
}

#[test]
fn a_worker_may_come_back_smaller_and_grow_again() {
    let mut world = World::new();
    world.join(w(1, 4).gpus(&["NVIDIA H100", "NVIDIA H100"]));
    for n in 1..=2 {
        world.submit(t(n).cpu(2).gpu(1));
    }
    world.turn();
    assert_eq!(world.join_holding(w(1, 1), &[1, 2]), [""; 0]);
    world.submit(t(3));
    assert_eq!(world.turn(), [""; 0]);
    world.reports(1, &[Report::Running, ok()]);
    assert_eq!(world.turn(), ["w1: forget t1#1"]);
    world.join_holding(w(1, 4).gpus(&["NVIDIA H100", "NVIDIA H100"]), &[2]);
    world.submit(t(4).gpu(1));
    assert_eq!(world.turn(), ["w1: assign t3#1", "w1: assign t4#1 gpus [0]"], "t2 still has the other device");
}

#[test]
fn another_kind_of_gpu_is_noticed() {
    let mut world = World::new();
    world.join(w(1, 1).gpus(&["NVIDIA A100"]));
    world.submit(t(1).gpu(1).gpu_type("H100"));
    assert_eq!(world.turn(), [""; 0]);
    world.join(w(1, 1).gpus(&["NVIDIA H100"]));
    assert_eq!(world.turn(), ["w1: assign t1#1 gpus [0]"]);
}

#[test]
fn a_draining_worker_gets_nothing_new() {
    let mut world = with_running();
    world.workers.get_mut(&worker(1)).unwrap().draining = true;
    world.restart();
    world.join_holding(w(1, 2), &[1]);
    assert_eq!(world.core.workers(world.now)[0].status, WorkerStatus::Draining);
    world.submit(t(2));
    assert_eq!(world.turn(), [""; 0]);
    world.reports(1, &[ok()]);
    assert_eq!(world.says(1), "completed");
}

#[test]
fn a_worker_long_gone_is_not_listed() {
    let mut world = World::new();
    world.join(w(1, 1));
    world.step(Event::WorkerDisconnected { worker: worker(1) });
    world.pass(24 * 3_600 - 1);
    assert_eq!(world.core.workers(world.now).len(), 1);
    world.pass(1);
    assert_eq!(world.core.workers(world.now).len(), 0);
}

#[test]
fn a_stranger_is_told_to_forget() {
    let mut world = with_running();
    let Event::AttemptReported { attempt, task, epoch, report, .. } = world.reported(1, ok()) else { unreachable!() };
    world.sent.clear();
    let stolen = Event::AttemptReported { worker: worker(5), attempt, task, epoch, report };
    assert_eq!(world.step(stolen), Answer::Stale);
    assert_eq!(world.sent, ["w5: forget t1#1"]);
    assert_eq!(world.says(1), "running");
}

#[test]
fn a_silent_worker_with_an_open_link_is_told_to_stop_what_it_lost() {
    let mut world = with_running();
    world.sent.clear();
    world.pass(599);
    assert_eq!(world.says(1), "running");
    world.pass(1);
    assert_eq!(world.sent, ["w1: forget t1#1"]);
    assert_eq!(world.turn().len(), 1, "and gets nothing new");
}
