//! Workers that take nothing new: by an operator's word or by their own, and what becomes of what
//! they hold.

use crate::support::{World, exit, failed, ok, t, w, worker};
use fetchml_api::{FailureCause, WorkerStatus, link::Report};
use fetchml_scheduler::{Answer, Drain, Event, Lease};

fn drain(world: &mut World, n: u32, mode: Drain) -> Answer {
    world.step(Event::DrainRequested { worker: worker(n), mode, by: "eve".into() })
}

fn undrain(world: &mut World, n: u32) -> Answer {
    world.step(Event::UndrainRequested { worker: worker(n), by: "eve".into() })
}

fn check(world: &mut World, n: u32, unfit: Option<&str>) -> Answer {
    world.step(Event::WorkerChecked { worker: worker(n), unfit: unfit.map(Into::into) })
}

/// One worker of two cores that runs t1.
fn with_running() -> World {
    let mut world = World::new();
    world.join(w(1, 2));
    world.submit(t(1));
    world.turn();
    world.reports(1, &[Report::Running]);
    world
}

fn status(world: &World) -> WorkerStatus {
    world.core.workers(world.now)[0].status
}

#[test]
fn a_drained_worker_finishes_what_it_has_and_gets_nothing_new() {
    let mut world = with_running();
    assert_eq!(drain(&mut world, 1, Drain::Finish), Answer::Done);
    world.submit(t(2));
    assert_eq!(world.turn(), ["w1: drain on"]);
    assert_eq!((status(&world), world.says(1).as_str()), (WorkerStatus::Draining, "running"));
    world.reports(1, &[ok()]);
    assert_eq!(world.says(1), "completed");
    assert_eq!(undrain(&mut world, 1), Answer::Done);
    assert_eq!(world.turn(), ["w1: forget t1#1", "w1: drain off", "w1: assign t2#1"]);
    let drains = world.audited.iter().filter(|line| line.starts_with('w')).cloned().collect::<Vec<_>>();
    assert_eq!(drains, ["w1 drain by eve", "w1 undrain by eve"]);
}

#[test]
fn draining_outlives_a_restart_and_a_join() {
    let mut world = with_running();
    drain(&mut world, 1, Drain::Finish);
    world.restart();
    world.join_holding(w(1, 2), &[1]);
    world.submit(t(2));
    assert_eq!(world.turn(), [""; 0]);
    assert_eq!(status(&world), WorkerStatus::Draining);
}

#[test]
fn what_is_so_already_is_said_to_be() {
    let mut world = with_running();
    assert_eq!(drain(&mut world, 7, Drain::Finish), Answer::NotActive);
    assert_eq!(undrain(&mut world, 7), Answer::NotActive);
    assert_eq!(check(&mut world, 7, Some("x")), Answer::NotActive);
    assert_eq!(undrain(&mut world, 1), Answer::Unchanged);
    for (mode, answer) in [
        (Drain::Finish, Answer::Done),
        (Drain::Finish, Answer::Unchanged),
        (Drain::Evict, Answer::Done),
        (Drain::Evict, Answer::Unchanged),
        (Drain::Finish, Answer::Unchanged),
        (Drain::DeclareDead, Answer::Unchanged),
    ] {
        assert_eq!(drain(&mut world, 1, mode), answer, "{mode:?}");
    }
}

#[test]
fn a_worker_long_gone_is_as_good_as_unknown() {
    let mut world = with_running();
    world.reports(1, &[ok()]);
    world.step(Event::WorkerDisconnected { worker: worker(1) });
    world.pass(23 * 3_600);
    assert_eq!(drain(&mut world, 1, Drain::Finish), Answer::Done);
    world.pass(3_600);
    assert_eq!(drain(&mut world, 1, Drain::Evict), Answer::NotActive);
    assert_eq!(undrain(&mut world, 1), Answer::NotActive);
    // It is drained still when it comes back after all.
    world.join(w(1, 2));
    assert_eq!(status(&world), WorkerStatus::Draining);
    assert_eq!(undrain(&mut world, 1), Answer::Done);
}

#[test]
fn force_stops_what_runs_and_queues_it_again_when_it_is_dead() {
    let mut world = with_running();
    assert_eq!(drain(&mut world, 1, Drain::Evict), Answer::Done);
    world.join(w(2, 2));
    assert_eq!(world.says(1), "running", "not before it is dead");
    world.sent.clear();
    world.reports(1, &[Report::Collecting, failed(FailureCause::Preempted)]);
    assert_eq!(world.says(1), "queued, preempted: stopped to make room for another task");
    assert_eq!(world.turn(), ["w1: forget t1#1", "w2: assign t1#2"], "at once, elsewhere, at no cost");
}

#[test]
fn an_end_of_its_own_counts_though_it_was_to_be_stopped() {
    for (report, says) in [(ok(), "completed"), (exit(3), "failed, exit_nonzero: exit code 3; see the log")] {
        let mut world = with_running();
        drain(&mut world, 1, Drain::Evict);
        world.reports(1, &[report]);
        assert_eq!(world.says(1), says);
    }
}

#[test]
fn being_evicted_often_costs_no_task_its_life() {
    let mut world = World::new();
    world.submit(t(1));
    for n in 1..=12 {
        world.join(w(n, 1));
        world.turn();
        drain(&mut world, n, Drain::Evict);
        world.reports(1, &[failed(FailureCause::Preempted)]);
    }
    assert_eq!((world.state(1).requeue_count, world.state(1).attempt_count), (0, 12));
}

#[test]
fn force_is_repeated_to_a_worker_that_comes_back() {
    let mut world = with_running();
    world.step(Event::WorkerDisconnected { worker: worker(1) });
    drain(&mut world, 1, Drain::Evict);
    world.restart();
    assert_eq!(world.join_holding(w(1, 2), &[1]), ["w1: cancel t1#1 preempted"]);
}

#[test]
fn what_runs_out_of_reach_is_waited_for_until_its_lease_ends() {
    let mut world = with_running();
    world.step(Event::WorkerDisconnected { worker: worker(1) });
    assert_eq!(drain(&mut world, 1, Drain::Evict), Answer::Done);
    world.pass(599);
    assert_eq!(world.says(1), "running");
    world.pass(1);
    assert_eq!(world.says(1), "queued, requeues 1, lost: worker box1 was lost");
}

#[test]
fn a_worker_declared_dead_loses_all_at_once_even_what_was_to_be_kept() {
    let mut world = World::new();
    world.join(w(1, 2));
    world.submit(t(1));
    world.submit(t(2).lease(Lease::Kept));
    world.turn();
    world.reports(2, &[Report::Running]);
    world.step(Event::WorkerDisconnected { worker: worker(1) });
    assert_eq!(drain(&mut world, 1, Drain::DeclareDead), Answer::Done);
    for n in 1..=2 {
        assert_eq!(world.says(n), "queued, requeues 1, lost: the worker was declared dead by eve");
    }
    assert!(world.audited.contains(&"w1 declare_dead by eve".to_owned()));
    // It was not dead after all: what it holds is not wanted any more, and it gets nothing new.
    let held: Vec<_> = world
        .attempts
        .values()
        .map(|a| fetchml_api::link::Held {
            attempt: a.id,
            task: a.task_id,
            epoch: a.epoch,
            log_acked: 0,
            metrics_acked: 0,
        })
        .collect();
    assert_eq!(world.join_with(w(1, 2), held), ["w1: forget t1#1", "w1: forget t2#1"]);
    assert_eq!(world.turn(), [""; 0]);
}

#[test]
fn who_is_connected_is_not_dead() {
    let mut world = with_running();
    world.sent.clear();
    assert_eq!(drain(&mut world, 1, Drain::DeclareDead), Answer::Done);
    assert_eq!(world.sent, ["w1: drain on", "w1: cancel t1#1 preempted"]);
    assert_eq!(world.says(1), "running");
}

#[test]
fn a_worker_that_finds_itself_unfit_gets_nothing_new_until_it_is_well() {
    let mut world = with_running();
    assert_eq!(check(&mut world, 1, Some("the disk is full")), Answer::Done);
    assert_eq!(check(&mut world, 1, Some("the disk is full")), Answer::Unchanged);
    world.submit(t(2));
    assert_eq!(world.turn(), [""; 0]);
    assert_eq!(status(&world), WorkerStatus::Draining);
    world.restart();
    assert_eq!(world.core.worker_record(worker(1)).unwrap().unfit.as_deref(), Some("the disk is full"));
    // A hello says anew how the worker is; an operator's word stands.
    world.join_holding(w(1, 2), &[1]);
    assert_eq!(status(&world), WorkerStatus::Active);
    drain(&mut world, 1, Drain::Finish);
    check(&mut world, 1, Some("a GPU fell off the bus"));
    check(&mut world, 1, None);
    assert_eq!(status(&world), WorkerStatus::Draining);
    undrain(&mut world, 1);
    assert_eq!(world.turn().last().unwrap(), "w1: assign t2#1");
}
