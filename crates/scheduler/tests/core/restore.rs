//! A core from rows goes on where the other stopped. (That the durable states are equal is checked
//! after every step of every test.)

use crate::support::{World, exit, ok, t, task, w};
use fetchml_api::{AttemptEpoch, WorkerStatus, link::Report};
use fetchml_scheduler::{Rows, Scheduler, Settings};

fn busy() -> World {
    let mut world = World::new();
    world.join(w(1, 3).gpus(&["NVIDIA H100"]));
    for task in [t(1), t(2).gpu(1), t(3).retries(1), t(4).gpu(1)] {
        world.submit(task);
    }
    world.turn();
    world.reports(1, &[Report::Running]);
    world.reports(2, &[Report::Accepted]);
    world.reports(3, &[Report::Running, exit(1)]);
    world
}

#[test]
fn it_holds_what_it_held() {
    let mut world = busy();
    let before = world.text();
    world.restart();
    assert_eq!(world.text(), before.replace("online", "offline"));
    insta::assert_snapshot!(world.text(), @r"
    queued t4 Batch cpu=1 memory=0 gpu=1 ada
    delayed t3 until 2025-11-24T16:00:01.000000Z
    worker w1 offline batch 2/3 service 0/1 cpu 2/3 memory 0/16 gpus free 0/1
      1.1 t1 Running gpus []
      1.2 t2 Accepted gpus [0]
    ");
    assert_eq!(world.core.workers(world.now)[0].status, WorkerStatus::Offline);
}

#[test]
fn g3_leases_start_again_at_boot_and_tasks_go_on() {
    let mut world = busy();
    world.sent.clear();
    world.pass(400);
    world.restart();
    world.pass(400);
    assert_eq!(world.says(1), "running", "the time before the restart does not count");
    assert_eq!(world.join_holding(w(1, 3).gpus(&["NVIDIA H100"]), &[1, 2]), [""; 0]);
    assert_eq!(world.turn(), ["w1: assign t3#2"]);
    assert_eq!(world.state(3).epoch, Some(AttemptEpoch { incarnation: 2, n: 1 }));
    world.reports(1, &[ok()]);
    assert_eq!(world.says(1), "completed");
}

#[test]
fn a_core_rebuilt_in_place_gives_no_epoch_twice() {
    let mut world = World::new();
    world.join(w(1, 1));
    world.submit(t(1));
    world.turn();
    world.reports(1, &[ok()]);
    world.submit(t(2));
    world.settings.epochs_used = world.core.epochs_used();
    world.core = world.restored();
    world.join(w(1, 1));
    world.turn();
    assert_eq!(world.state(2).epoch, Some(AttemptEpoch { incarnation: 1, n: 2 }));
}

#[test]
fn ended_tasks_are_not_restored() {
    let mut world = World::new();
    world.submit(t(1));
    world.cancel(1, "eve");
    let row = &world.rows[&task(1)];
    let rows = Rows { tasks: vec![(row.spec.clone(), row.state.clone())], ..Rows::default() };
    let core = Scheduler::restore(Settings::default(), world.now, rows);
    assert_eq!(core.task(task(1)), None);
}

#[test]
fn the_same_events_have_the_same_effects() {
    let run = || {
        let mut world = busy();
        world.pass(2);
        world.turn();
        (world.sent.clone(), world.audited.clone(), world.attempts.clone(), world.core.to_string())
    };
    assert_eq!(run(), run());
}

#[test]
fn a_later_incarnation_orders_after_all_before() {
    let mut world = World::new();
    world.join(w(1, 3));
    world.submit(t(1));
    world.turn();
    world.core.raise_incarnation(7);
    world.core.raise_incarnation(3);
    world.settings.incarnation = 7;
    world.submit(t(2));
    world.turn();
    assert_eq!(world.state(2).epoch, Some(AttemptEpoch { incarnation: 7, n: 1 }));
    world.reports(1, &[ok()]);
    assert_eq!(world.says(1), "completed", "what was made before still counts");
}
