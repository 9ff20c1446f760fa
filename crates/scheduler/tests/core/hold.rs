//! Holds and backfill: who has waited long gets workers to itself as they become free, and nothing
//! starts there that would make it wait longer.

use crate::support::{T, World, ok, t, task, w, worker};
use fetchml_api::{Quota, QuotaScope, link::Report};
use fetchml_scheduler::{Drain, Event, Settings};

const H: &str = "NVIDIA H100";

/// A worker of four GPUs with one task on one of them (t1, with this limit), and t2, which wants all
/// four and has waited for so long.
fn blocked(limit: Option<u32>, waits_s: i64) -> World {
    let mut world = World::new();
    world.join(w(1, 8).gpus(&[H; 4]));
    world.submit(match limit {
        Some(limit) => t(1).gpu(1).limit(limit),
        None => t(1).gpu(1),
    });
    world.turn();
    world.reports(1, &[Report::Running]);
    world.submit(t(2).gpu(4));
    wait(&mut world, waits_s);
    world
}

fn wait(world: &mut World, seconds: i64) {
    for _ in 0..seconds / 10 {
        world.pass(10);
        world.heard(1);
        if world.core.worker_record(worker(2)).is_some() {
            world.heard(2);
        }
    }
    world.pass(seconds % 10);
    world.heard(1);
}

fn offer(world: &mut World, tasks: impl IntoIterator<Item = T>) -> Vec<String> {
    tasks.into_iter().for_each(|task| world.submit(task));
    world.turn()
}

#[test]
fn a_worker_is_held_for_who_has_waited_long() {
    for (waits_s, sent) in [(890, &["w1: assign t3#1 gpus [1]"][..]), (900, &[])] {
        let mut world = blocked(None, waits_s);
        assert_eq!(offer(&mut world, [t(3).gpu(1)]), sent, "after {waits_s} s");
    }
}

#[test]
fn the_hold_ends_when_the_task_starts_or_is_gone() {
    let mut world = blocked(None, 900);
    assert_eq!(offer(&mut world, [t(3).gpu(1)]), [""; 0]);
    world.reports(1, &[ok()]);
    assert_eq!(world.turn(), ["w1: forget t1#1", "w1: assign t2#1 gpus [0, 1, 2, 3]"]);
    let mut world = blocked(None, 900);
    offer(&mut world, [t(3).gpu(1)]);
    world.cancel(2, "ada");
    assert_eq!(world.turn(), ["w1: assign t3#1 gpus [1]"]);
}

#[test]
fn what_ends_in_time_is_backfilled() {
    // t1 may run for 2,000 s and has run for 900 when the hold is made.
    for (limit, fits) in [(Some(1_100), true), (Some(1_101), false), (None, false)] {
        let mut world = blocked(Some(2_000), 900);
        let small = limit.map_or(t(3).gpu(1), |limit| t(3).gpu(1).limit(limit));
        assert_eq!(offer(&mut world, [small]).len(), usize::from(fits), "limit {limit:?}");
    }
    // Nobody knows when a task without a limit ends.
    let mut world = blocked(None, 900);
    assert_eq!(offer(&mut world, [t(3).gpu(1).limit(1)]), [""; 0]);
}

#[test]
fn backfill_looks_behind_the_head_a_hundred_deep() {
    for (behind, fits) in [(99, true), (100, false)] {
        let mut world = blocked(Some(2_000), 900);
        let long = (0..behind).map(|n| t(100 + n).gpu(1).limit(5_000));
        let sent = offer(&mut world, long.chain([t(300).gpu(1).limit(60)]));
        assert_eq!(sent.len(), usize::from(fits), "behind {behind}: {sent:?}");
    }
}

#[test]
fn what_takes_nothing_that_is_waited_for_goes_on_a_held_worker() {
    let mut world = blocked(None, 900);
    // Eight cores: one is used, one is for t2; six are nobody's.
    let sent = offer(&mut world, [t(3).cpu(6), t(4), t(5).cpu(0)]);
    assert_eq!(sent, ["w1: assign t3#1", "w1: assign t5#1"], "a CPU task without a limit, but not the last core");
}

#[test]
fn a_slot_that_becomes_free_beside_one_that_is_waited_for_is_used() {
    let mut world = blocked(None, 900);
    // Eight slots: one is used, one is for t2. Who asks for no core takes no more than its slot.
    let sent = offer(&mut world, (3..=9).map(|n| t(n).cpu(0)));
    assert_eq!(sent.len(), 6, "{sent:?}");
    world.reports(3, &[Report::Running, ok()]);
    assert_eq!(world.turn(), ["w1: forget t3#1", "w1: assign t9#1"]);
}

#[test]
fn a_held_task_goes_where_room_is_first() {
    let mut world = blocked(None, 900);
    world.turn();
    world.join(w(2, 4).gpus(&[H; 4]));
    assert_eq!(world.turn(), ["w2: assign t2#1 gpus [0, 1, 2, 3]"]);
    assert_eq!(offer(&mut world, [t(3).gpu(1)]), ["w1: assign t3#1 gpus [1]"], "and holds nothing any more");
}

#[test]
fn the_worker_that_is_free_first_is_held() {
    let mut world = World::new();
    world.join(w(1, 4).gpus(&[H; 2]));
    world.join(w(2, 4).gpus(&[H; 2]));
    for task in [t(1).gpu(1).limit(5_000), t(2).gpu(1), t(3).gpu(1), t(4).gpu(1)] {
        world.submit(task);
        world.turn();
    }
    // w1: t1 and t2, which has no limit; w2: t3 and t4. t3 ends; then w2 has one without a limit, too.
    assert_eq!(
        world.attempts.values().map(|a| crate::support::number(a.worker_id.0)).collect::<Vec<_>>(),
        [1, 1, 2, 2]
    );
    for n in 1..=4 {
        world.reports(n, &[Report::Running]);
    }
    world.reports(2, &[ok()]);
    world.reports(3, &[ok()]);
    world.sent.clear();
    world.submit(t(5).gpu(2));
    wait(&mut world, 900);
    assert_eq!(offer(&mut world, [t(6).gpu(1)]), ["w2: assign t6#1 gpus [0]"], "w1 is held: its end is known");
}

#[test]
fn at_most_four_are_held_for_and_a_fifth_waits_its_turn() {
    let mut world = World::new();
    for n in 1..=5 {
        world.join(w(n, 6).gpus(&[H; 2]));
        world.submit(t(n).gpu(1).cpu(4));
    }
    world.turn();
    for n in 1..=5 {
        world.reports(n, &[Report::Running]);
        // One queue each: of a queue only the head gets a hold.
        world.submit(t(10 + n).gpu(2).priority(n as u8).user(&format!("user{n}")));
    }
    for _ in 0..90 {
        world.pass(10);
        (1..=5).for_each(|n| {
            world.heard(n);
        });
    }
    let sent = offer(&mut world, (20..30).map(|n| t(n).gpu(1)));
    assert_eq!(sent, ["w5: assign t20#1 gpus [1]"], "one worker of five is free for small ones");
}

#[test]
fn a_hold_is_no_use_to_who_may_not_start() {
    let mut world = blocked(None, 900);
    let quota = Quota { gpus: Some(4), ..Quota::default() };
    world.step(Event::QuotaRequested { scope: QuotaScope::User("ada".into()), quota, by: "eve".into() });
    assert_eq!(offer(&mut world, [t(3).gpu(1).user("bob")]), ["w1: assign t3#1 gpus [1]"]);
}

#[test]
fn a_held_worker_that_is_drained_is_let_go() {
    let mut world = blocked(None, 900);
    world.turn();
    world.join(w(2, 4).gpus(&[H; 4]).slots(4, 0));
    world.step(Event::DrainRequested { worker: worker(1), mode: Drain::Finish, by: "eve".into() });
    world.sent.clear();
    assert_eq!(world.turn(), ["w2: assign t2#1 gpus [0, 1, 2, 3]"]);
}

#[test]
fn holds_are_made_again_after_a_restart() {
    let mut world = blocked(None, 900);
    world.turn();
    world.restart();
    world.join_holding(w(1, 8).gpus(&[H; 4]), &[1]);
    assert_eq!(offer(&mut world, [t(3).gpu(1)]), [""; 0]);
}

#[test]
fn a_large_task_starts_though_small_ones_never_stop_coming() {
    const LIMIT: u32 = 600;
    let mut world = World::with(Settings { hold_after_s: 900, ..Settings::default() });
    world.join(w(1, 8).gpus(&[H; 4]));
    let mut ends: Vec<(i64, u32)> = Vec::new();
    let (mut n, mut clock, mut started) = (10, 0, None);
    while started.is_none() && clock < 10_000 {
        // A small task comes every 30 s and takes all the time it may: one is always waiting.
        n += 1;
        world.submit(t(n).gpu(1).limit(LIMIT));
        if clock == 300 {
            world.submit(t(1).gpu(4));
        }
        for sent in world.turn().iter().filter(|sent| sent.contains("assign")) {
            let number: u32 = sent.split(" t").nth(1).unwrap().split('#').next().unwrap().parse().unwrap();
            world.reports(number, &[Report::Running]);
            ends.push((clock + i64::from(LIMIT), number));
            if number == 1 {
                started = Some(clock);
            }
        }
        world.pass(30);
        world.heard(1);
        clock += 30;
        for &(_, number) in ends.iter().filter(|&&(at, _)| at <= clock) {
            world.reports(number, &[ok()]);
        }
        ends.retain(|&(at, _)| at > clock);
    }
    let waited = started.expect("it starts") - 300;
    assert!(waited <= 900 + i64::from(LIMIT) + 30, "{waited} s");
    assert_eq!(world.state(1).status, fetchml_api::TaskStatus::Running);
    assert!(world.core.task(task(1)).is_some());
}
