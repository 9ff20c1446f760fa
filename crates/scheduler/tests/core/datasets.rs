//! Among workers that fit equally well, the one that holds a task's data sets.

use crate::support::{World, ok, t, task, w, worker};
use fetchml_api::{DatasetKey, link::Report};
use fetchml_scheduler::{Answer, Event};

fn keys(names: &[&str]) -> Vec<DatasetKey> {
    names.iter().map(|name| DatasetKey::of_source(name)).collect()
}

fn wants(world: &mut World, n: u32, names: &[&str]) -> Answer {
    world.step(Event::DatasetsWanted { task: task(n), datasets: keys(names) })
}

fn holds(world: &mut World, n: u32, names: &[&str]) -> Answer {
    world.step(Event::DatasetsHeld { worker: worker(n), datasets: keys(names) })
}

/// Workers with these cores and GPUs, what they hold; what each task needs; where they must go.
fn check(what: &str, workers: &[(u32, &[&str], &[&str])], tasks: &[(u32, &[&str])], expected: &[&str]) {
    let mut world = World::new();
    for (n, (cores, gpus, held)) in (1..).zip(workers) {
        world.join(w(n, *cores).gpus(gpus));
        holds(&mut world, n, held);
    }
    for (n, (gpus, wanted)) in (1..).zip(tasks) {
        world.submit(t(n).gpu(*gpus));
        wants(&mut world, n, wanted);
    }
    assert_eq!(world.turn(), expected, "{what}");
}

#[test]
fn a_worker_that_holds_them_comes_first_among_equals() {
    let two: [(u32, &[&str], &[&str]); 2] = [(2, &[], &[]), (2, &[], &["a"])];
    check("nothing is wanted: the first of equals", &two, &[(0, &[])], &["w1: assign t1#1"]);
    check("what is wanted is there", &two, &[(0, &["a"])], &["w2: assign t1#1"]);
    check("nobody holds it", &two, &[(0, &["b"])], &["w1: assign t1#1"]);
    let three: [(u32, &[&str], &[&str]); 3] = [(2, &[], &["a"]), (2, &[], &["a", "b", "c"]), (2, &[], &["b"])];
    check("the more of them the better", &three, &[(0, &["a", "b"])], &["w2: assign t1#1"]);
    let fit: [(u32, &[&str], &[&str]); 2] = [(1, &[], &[]), (4, &[], &["a"])];
    check("the best fit stays first", &fit, &[(0, &["a"])], &["w1: assign t1#1"]);
    let gpus: [(u32, &[&str], &[&str]); 3] = [(2, &["H", "H"], &["a"]), (2, &["H"], &[]), (2, &["H"], &["a"])];
    check("the same with GPUs", &gpus, &[(1, &["a"])], &["w3: assign t1#1 gpus [0]"]);
    check("a task without GPUs takes what it gets", &gpus[..1], &[(0, &["b"])], &["w1: assign t1#1"]);
}

#[test]
fn only_so_many_equals_are_looked_at() {
    let mut world = World::new();
    let last = fetchml_scheduler::limits::DATASET_EQUALS_MAX as u32 + 1;
    for n in 1..=last {
        world.join(w(n, 1));
    }
    holds(&mut world, last, &["a"]);
    world.submit(t(1));
    wants(&mut world, 1, &["a"]);
    assert_eq!(world.turn(), ["w1: assign t1#1"]);
}

#[test]
fn what_is_held_is_shown_and_strangers_change_nothing() {
    let mut world = World::new();
    assert_eq!(holds(&mut world, 1, &["a"]), Answer::Unchanged);
    assert_eq!(wants(&mut world, 1, &["a"]), Answer::Unchanged);
    world.join(w(1, 1));
    assert_eq!(holds(&mut world, 1, &["a", "b", "a"]), Answer::Done);
    let mut held = keys(&["a", "b"]);
    held.sort();
    assert_eq!(world.core.worker(world.now, worker(1)).unwrap().datasets, held);
    holds(&mut world, 1, &[]);
    assert!(world.core.worker(world.now, worker(1)).unwrap().datasets.is_empty());
    let many = (0..10_000).map(|n: u32| DatasetKey::of_source(&n.to_string())).collect();
    world.step(Event::DatasetsHeld { worker: worker(1), datasets: many });
    let shown = world.core.worker(world.now, worker(1)).unwrap().datasets.len();
    assert_eq!(shown, fetchml_api::limits::DATASETS_HELD_MAX);
}

/// The invariants that `step` checks hold it: nothing is remembered of a task that has ended.
#[test]
fn an_ended_task_wants_nothing() {
    let mut world = World::new();
    world.join(w(1, 1));
    world.submit(t(1));
    wants(&mut world, 1, &["a"]);
    world.turn();
    world.reports(1, &[Report::Running, Report::Collecting, ok()]);
    assert_eq!(wants(&mut world, 1, &["a"]), Answer::Unchanged);
}
