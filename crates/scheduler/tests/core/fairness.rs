//! Fair shares: among heads of one level the user goes first who has had least, counting what each
//! holds now and has used, decayed.

use crate::support::{START, T, World, ok, t, task, w};
use fetchml_api::link::Report;
use fetchml_scheduler::{Effect, Event, Scheduler, Settings};

/// What is assigned, as numbers of tasks.
fn placed(world: &mut World) -> Vec<u32> {
    let number = |sent: &String| sent.split(" t").nth(1)?.split('#').next()?.parse().ok();
    world.turn().iter().filter(|sent| sent.contains("assign")).filter_map(number).collect()
}

fn submit(world: &mut World, tasks: impl IntoIterator<Item = T>) {
    tasks.into_iter().for_each(|task| world.submit(task));
}

/// Runs a task of a user for so long, alone.
fn has_used(world: &mut World, user: &str, seconds: i64) {
    let n = 90 + world.rows.len() as u32;
    world.submit(t(n).user(user));
    assert_eq!(placed(world), [n]);
    world.reports(n, &[Report::Running]);
    for _ in 0..seconds / 10 {
        world.pass(10);
        world.heard(1);
    }
    world.reports(n, &[ok()]);
    placed(world);
}

#[test]
fn users_take_turns_however_much_one_submits() {
    let mut world = World::new();
    submit(&mut world, (1..=6).map(t));
    submit(&mut world, [t(11).user("bob"), t(12).user("bob"), t(21).user("cy")]);
    world.join(w(1, 6));
    assert_eq!(placed(&mut world), [1, 11, 21, 2, 12, 3], "each placement counts for the next");
}

#[test]
fn a_hundred_thousand_tasks_of_one_user_delay_nobody_else() {
    let (mut core, mut effects) = (Scheduler::new(Settings::default()), Vec::new());
    let mut step = |event| {
        core.step(START, event, &mut effects);
        let placed = effects.drain(..).filter_map(|effect| match effect {
            Effect::PutAttempt(attempt) => Some(attempt.task_id),
            _ => None,
        });
        placed.collect::<Vec<_>>()
    };
    step(w(1, 2).joined(Vec::new()));
    for n in 1..=100_000 {
        step(Event::TaskSubmitted(t(n).0));
    }
    step(Event::TaskSubmitted(t(200_000).user("bob").0));
    assert_eq!(step(Event::TurnEnded), [task(1), task(200_000)], "of two slots one is bob's");
}

#[test]
fn what_a_task_holds_weighs_what_it_takes_of_all() {
    let mut world = World::new();
    submit(
        &mut world,
        [t(1).cpu(4), t(2).cpu(4), t(11).user("bob"), t(12).user("bob"), t(13).user("bob"), t(14).user("bob")],
    );
    world.join(w(1, 10));
    assert_eq!(
        placed(&mut world),
        [1, 11, 12, 13, 14],
        "four cores of one user, four of the other; then no four are free"
    );
    let mut world = World::new();
    submit(&mut world, [t(1).gpu(1), t(2).gpu(1), t(11).cpu(4).user("bob"), t(12).cpu(2).user("bob")]);
    world.join(w(1, 16).gpus(&["NVIDIA H100", "NVIDIA H100"]));
    assert_eq!(placed(&mut world), [1, 11, 12, 2], "one of two GPUs is more than four of sixteen cores");
}

#[test]
fn a_whole_level_goes_before_any_share() {
    for (priority, waits_s, first) in [(6, 0, 1), (5, 1_800, 1), (5, 1_799, 11), (5, 0, 11)] {
        let mut world = World::new();
        world.join(w(1, 1));
        has_used(&mut world, "ada", 1_000);
        world.step(fetchml_scheduler::Event::WorkerDisconnected { worker: crate::support::worker(1) });
        world.submit(t(1).priority(priority));
        world.pass(waits_s);
        world.submit(t(11).user("bob"));
        world.join(w(1, 1));
        assert_eq!(placed(&mut world), [first], "priority {priority} after {waits_s} s");
    }
}

#[test]
fn use_counts_after_its_end_and_over_a_restart() {
    let mut world = World::new();
    world.join(w(1, 1));
    has_used(&mut world, "ada", 300);
    has_used(&mut world, "bob", 200);
    assert_eq!(world.used["ada"], (300_000, 0));
    world.restart();
    submit(&mut world, [t(1), t(11).user("bob")]);
    world.join(w(1, 1));
    assert_eq!(placed(&mut world), [11], "who used less, though he came later");
}

#[test]
fn use_fades() {
    for (days, first) in [(0, 11), (28, 1)] {
        let mut world = World::new();
        world.join(w(1, 1));
        has_used(&mut world, "ada", 300);
        world.pass(days * 24 * 3_600);
        world.heard(1);
        has_used(&mut world, "bob", 100);
        submit(&mut world, [t(1), t(11).user("bob")]);
        assert_eq!(placed(&mut world), [first], "{days} days between");
    }
}

#[test]
fn gpus_are_charged_from_the_moment_they_are_set_aside_and_cores_from_the_start() {
    for (gpus, used) in [(0, (10_000, 0)), (2, (20_000, 40_000))] {
        let mut world = World::new();
        world.join(w(1, 4).gpus(&["NVIDIA H100", "NVIDIA H100"]));
        world.submit(t(1).gpu(gpus));
        world.turn();
        for report in [Report::Running, Report::Collecting, ok()] {
            world.pass(10);
            world.heard(1);
            world.reports(1, &[report]);
        }
        assert_eq!(world.used.get("ada").copied(), Some(used), "{gpus} GPUs; nothing while it collects");
    }
}

#[test]
fn what_runs_is_counted_as_it_runs() {
    let mut world = World::new();
    world.join(w(1, 2));
    world.submit(t(1).cpu(2));
    world.turn();
    world.reports(1, &[Report::Running]);
    world.pass(10);
    let running: Vec<_> = world.core.usage_running(world.now).collect();
    assert_eq!(running, [(crate::support::task(1), 20_000, 0)]);
    world.heard(1);
    world.reports(1, &[Report::Collecting]);
    assert_eq!((world.core.usage_running(world.now).count(), world.used["ada"]), (0, (20_000, 0)));
}

#[test]
fn one_user_with_many_tasks_keeps_nobody_waiting() {
    let mut world = World::new();
    world.join(w(1, 1));
    submit(&mut world, (100..140).map(t));
    world.pass(1);
    world.submit(t(1).user("bob"));
    assert_eq!(placed(&mut world), [100]);
    world.reports(100, &[Report::Running]);
    world.pass(10);
    world.heard(1);
    world.reports(100, &[ok()]);
    assert_eq!(placed(&mut world), [1]);
}
