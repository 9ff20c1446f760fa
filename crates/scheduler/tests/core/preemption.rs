//! Preemption: where it is on, a task that fits nowhere has others of lower priority stopped, the ones that lose least,
//! and only when it then starts.

use crate::support::{T, W, World, exit, failed, ok, reservation, t, task, w, worker};
use fetchml_api::{FailureCause, Quota, QuotaScope, Role, SlotKind, TaskStatus, link::Report};
use fetchml_scheduler::{Answer, Drain, Event, NewReservation, Settings};

const H: &str = "NVIDIA H100";

fn settings() -> Settings {
    Settings { preempt_batch: true, ..Settings::default() }
}

/// Tasks that run, each begun a minute after the one before, on workers that have joined.
fn busy(settings: Settings, workers: Vec<W>, tasks: Vec<T>) -> World {
    let mut world = World::with(settings);
    for worker in workers {
        world.join(worker);
    }
    for task in tasks {
        let n = crate::support::number(task.0.id.0);
        world.submit(task);
        world.turn();
        assert_eq!(world.state(n).status, TaskStatus::Preparing, "t{n} has room");
        world.report_all(n, &Report::Ready { address: "10.0.0.1".into(), port: 4_000 });
        world.report_all(n, &Report::Running);
        pass(&mut world, 60);
    }
    world.sent.clear();
    world.audited.clear();
    world
}

/// Lets time pass in which workers are heard.
fn pass(world: &mut World, seconds: i64) {
    for from in (0..seconds).step_by(10) {
        world.pass(10.min(seconds - from));
        (1..=4).for_each(|n| {
            world.heard(n);
        });
    }
}

/// Submits a task of priority 9 and ends the turn.
fn urgent(world: &mut World, task: T) -> Vec<String> {
    world.pass(1);
    world.submit(task.priority(9));
    world.turn()
}

fn h(n: u32, gpus: usize) -> W {
    w(n, 8).gpus(&[H; 8][..gpus])
}

#[test]
fn it_is_off_unless_switched_on_for_the_kind_of_slot() {
    let on = settings;
    let service = Settings { preempt_batch: false, preempt_service: true, ..settings() };
    // Settings, whether what runs is a service, and whether it is stopped.
    let table = [
        (Settings::default(), false, false),
        (on(), false, true),
        (on(), true, false),
        (service.clone(), false, false),
        (service, true, true),
    ];
    for (settings, is_service, stops) in table {
        let running = if is_service { t(1).gpu(1).service() } else { t(1).gpu(1) };
        let mut world = busy(settings, vec![h(1, 1).slots(4, 4)], vec![running]);
        let sent = urgent(&mut world, t(2).gpu(1));
        assert_eq!(sent == ["w1: cancel t1#1 preempted"], stops, "{sent:?}");
        assert_eq!(sent.is_empty(), !stops, "{sent:?}");
    }
}

#[test]
fn only_what_has_strictly_lower_priority_is_stopped() {
    for (running, waiting, stops) in [(5, 6, true), (5, 5, false), (6, 5, false)] {
        let mut world = busy(settings(), vec![h(1, 1)], vec![t(1).gpu(1).priority(running)]);
        world.submit(t(2).gpu(1).priority(waiting));
        assert_eq!(world.turn().len(), usize::from(stops), "{running} {waiting}");
    }
}

#[test]
fn what_one_has_waited_does_not_stop_others() {
    let mut world = busy(settings(), vec![h(1, 1)], vec![t(1).gpu(1)]);
    world.submit(t(2).gpu(1));
    pass(&mut world, 10 * 1_800);
    assert_eq!(world.turn(), [""; 0], "its aged priority is 15 by now");
}

#[test]
fn what_is_stopped_waits_again_at_no_cost_and_the_other_starts_when_it_is_dead() {
    let mut world = busy(settings(), vec![h(1, 1)], vec![t(1).gpu(1)]);
    assert_eq!(urgent(&mut world, t(2).gpu(1)), ["w1: cancel t1#1 preempted"]);
    assert_eq!(world.audited, ["t2 submit by ada", "t1 preempt by system"]);
    pass(&mut world, 25);
    assert_eq!(world.turn(), [""; 0], "its processes are not dead yet");
    world.reports(1, &[Report::Collecting]);
    assert_eq!(world.turn(), ["w1: assign t2#1 gpus [0]"], "its files may still be on their way");
    world.reports(1, &[failed(FailureCause::Preempted)]);
    assert_eq!(world.says(1), "queued, preempted: stopped to make room for another task");
    world.reports(2, &[Report::Running, ok()]);
    assert_eq!(world.turn()[2], "w1: assign t1#2 gpus [0]");
}

#[test]
fn it_may_end_by_itself_while_it_is_being_stopped() {
    // How it ends, and what is said of it then.
    for (end, says) in [(ok(), "completed"), (exit(1), "failed, exit_nonzero: exit code 1; see the log")] {
        let mut world = busy(settings(), vec![h(1, 1)], vec![t(1).gpu(1)]);
        urgent(&mut world, t(2).gpu(1));
        world.reports(1, &[end]);
        assert_eq!(world.says(1), says);
        assert_eq!(world.turn()[1], "w1: assign t2#1 gpus [0]");
    }
}

#[test]
fn who_loses_least_since_its_last_checkpoint_goes_first() {
    // Which of three tasks, begun one after the other, have left a checkpoint just now, and who goes.
    for (saved, goes) in [(vec![], 3), (vec![1], 1), (vec![1, 2], 2), (vec![2], 2)] {
        let mut world = busy(settings(), vec![h(1, 3)], (1..=3).map(|n| t(n).gpu(1)).collect());
        for n in saved {
            world.saves(n);
            pass(&mut world, 5);
        }
        assert_eq!(urgent(&mut world, t(9).gpu(1)), [format!("w1: cancel t{goes}#1 preempted")]);
    }
}

#[test]
fn what_has_not_started_loses_nothing() {
    let mut world = busy(settings(), vec![h(1, 2)], vec![t(1).gpu(1)]);
    world.saves(1);
    pass(&mut world, 5);
    world.submit(t(2).gpu(1));
    world.turn();
    world.reports(2, &[Report::Accepted]);
    assert_eq!(urgent(&mut world, t(9).gpu(1)), ["w1: cancel t2#1 preempted"]);
}

#[test]
fn no_more_is_stopped_than_needed() {
    // Sizes of what runs, oldest first, what is asked for, and what goes.
    let table = [
        (vec![1, 1, 2], 2, vec![3]),
        (vec![2, 1, 1], 2, vec![2, 3]),
        (vec![2, 2], 1, vec![2]),
        (vec![3, 1], 3, vec![1]),
        (vec![1, 1, 1, 1], 4, vec![1, 2, 3, 4]),
    ];
    for (sizes, wanted, goes) in table {
        let tasks = (1..).zip(&sizes).map(|(n, &size)| t(n).gpu(size)).collect();
        let mut world = busy(settings(), vec![h(1, 4)], tasks);
        let mut sent = urgent(&mut world, t(9).gpu(wanted));
        sent.sort();
        let expected: Vec<_> = goes.iter().map(|n| format!("w1: cancel t{n}#1 preempted")).collect();
        assert_eq!(sent, expected, "{wanted} of {sizes:?}");
    }
}

#[test]
fn the_worker_is_chosen_where_least_is_lost() {
    let mut world = busy(settings(), vec![h(1, 1), h(2, 1)], vec![t(1).gpu(1), t(2).gpu(1)]);
    assert_eq!(urgent(&mut world, t(9).gpu(1)), ["w2: cancel t2#1 preempted"]);
}

#[test]
fn one_that_cannot_start_stops_nobody() {
    let eight = || busy(settings(), vec![h(1, 2), h(2, 2)], (1..=4).map(|n| t(n).gpu(1)).collect());
    // Too large for any one worker, of a kind there is not, with more nodes than there are.
    for task in [t(9).gpu(3), t(9).gpu(1).gpu_type("A100"), t(9).gpu(1).nodes(3), t(9).cpu(9), t(9).gpu(1).image()] {
        assert_eq!(urgent(&mut eight(), task.clone()), [""; 0], "{task:?}");
    }
    // Half of what it needs is of higher priority.
    let mut world = busy(settings(), vec![h(1, 2)], vec![t(1).gpu(1), t(2).gpu(1).priority(10)]);
    assert_eq!(urgent(&mut world, t(9).gpu(2)), [""; 0]);
    // Its user may have no more.
    let mut world = eight();
    let quota = Quota { gpus: Some(0), ..Quota::default() };
    world.submit(t(9).gpu(1).user("bob").priority(9));
    world.step(Event::QuotaRequested { scope: QuotaScope::User("bob".into()), quota, by: "eve".into() });
    assert_eq!(world.turn(), [""; 0]);
    // The worker takes nothing new.
    let mut world = busy(settings(), vec![h(1, 1)], vec![t(1).gpu(1)]);
    world.step(Event::DrainRequested { worker: worker(1), mode: Drain::Finish, by: "eve".into() });
    world.sent.clear();
    assert_eq!(urgent(&mut world, t(9).gpu(1)), [""; 0]);
}

/// Sets GPUs of one worker aside for a task of `ada`.
fn reserve(world: &mut World, gpu_count: u32) {
    let new = NewReservation {
        id: reservation(1),
        user_id: "ada".into(),
        role: Role::User,
        gpu_count,
        gpu_type: None,
        node_count: 1,
        expires_minutes: 30,
    };
    assert_eq!(world.step(Event::ReservationRequested(new)), Answer::Done);
    world.turn();
}

#[test]
fn what_is_reserved_is_not_made_room_on_and_its_task_not_stopped() {
    let mut world = busy(settings(), vec![h(1, 2)], vec![t(1).gpu(1)]);
    reserve(&mut world, 1);
    assert_eq!(urgent(&mut world, t(9).gpu(2)), [""; 0], "one of two is set aside");
    world.cancel(9, "ada");
    world.submit(t(2).gpu(1).reserved(1));
    assert_eq!(world.turn(), ["w1: assign t2#1 gpus [1]"]);
    assert_eq!(urgent(&mut world, t(10).gpu(2)), [""; 0], "it is in use as it was promised");
    world.cancel(10, "ada");
    assert_eq!(urgent(&mut world, t(11).gpu(1)), ["w1: cancel t1#1 preempted"]);
}

#[test]
fn who_uses_what_is_reserved_makes_room_for_its_task() {
    let mut world = busy(settings(), vec![h(1, 1)], vec![t(1).gpu(1)]);
    reserve(&mut world, 1);
    assert_eq!(urgent(&mut world, t(9).gpu(1).reserved(1)), ["w1: cancel t1#1 preempted"]);
    world.reports(1, &[failed(FailureCause::Preempted)]);
    assert_eq!(world.turn()[1], "w1: assign t9#1 gpus [0]");
}

#[test]
fn where_there_is_room_nobody_is_stopped() {
    let mut world = busy(settings(), vec![h(1, 1), h(2, 1)], vec![t(1).gpu(1)]);
    assert_eq!(urgent(&mut world, t(9).gpu(1)), ["w2: assign t9#1 gpus [0]"]);
}

#[test]
fn the_room_is_kept_for_the_one_it_was_made_for() {
    let tasks = vec![t(1).gpu(1).limit(7_200), t(2).gpu(1).limit(7_200)];
    let mut world = busy(settings(), vec![h(1, 2)], tasks);
    assert_eq!(urgent(&mut world, t(9).gpu(2)).len(), 2);
    world.reports(1, &[Report::Collecting]);
    // Others fit into what is free by now, and are short; and one is even more urgent.
    world.submit(t(3).gpu(1).limit(10).priority(8));
    world.submit(t(4).gpu(1).priority(10).user("bob"));
    assert_eq!(world.turn(), [""; 0]);
    world.reports(2, &[Report::Collecting]);
    assert_eq!(world.turn(), ["w1: assign t9#1 gpus [0, 1]"]);
}

#[test]
fn nobody_more_is_stopped_while_it_is_under_way() {
    let mut world = busy(settings(), vec![h(1, 1), h(2, 1)], vec![t(1).gpu(1), t(2).gpu(1)]);
    assert_eq!(urgent(&mut world, t(9).gpu(1)), ["w2: cancel t2#1 preempted"]);
    pass(&mut world, 20);
    assert_eq!(world.turn(), [""; 0]);
    assert_eq!(urgent(&mut world, t(10).gpu(1)), ["w1: cancel t1#1 preempted"], "but for another, others are");
}

#[test]
fn it_is_looked_for_once_a_second() {
    let mut world = busy(settings(), vec![h(1, 1)], vec![t(1).gpu(1)]);
    world.submit(t(2).gpu(1));
    world.turn();
    world.submit(t(3).gpu(1).priority(9));
    assert_eq!(world.turn(), [""; 0]);
    let due = world.core.next_deadline().expect("it is looked again");
    assert_eq!(due.since(world.now), 1_000_000);
    world.pass(1);
    assert_eq!(world.turn(), ["w1: cancel t1#1 preempted"]);
}

#[test]
fn what_was_stopped_is_spared_for_a_while() {
    let mut world = busy(Settings { preempt_cooldown_s: 600, ..settings() }, vec![h(1, 1)], vec![t(1).gpu(1)]);
    urgent(&mut world, t(2).gpu(1));
    world.reports(1, &[failed(FailureCause::Preempted)]);
    world.turn();
    world.reports(2, &[Report::Running, ok()]);
    world.turn();
    world.reports(1, &[Report::Running]);
    assert_eq!(urgent(&mut world, t(3).gpu(1)), [""; 0]);
    pass(&mut world, 590);
    assert_eq!(world.turn(), [""; 0]);
    pass(&mut world, 20);
    assert_eq!(world.turn(), ["w1: cancel t1#2 preempted"]);
}

#[test]
fn gangs_are_stopped_whole() {
    let gang = || t(1).gpu(1).nodes(2);
    let mut world = busy(settings(), vec![h(1, 1), h(2, 1)], vec![gang()]);
    assert_eq!(urgent(&mut world, t(9).gpu(1)), ["w1: cancel t1#1 preempted", "w2: cancel t1#1 preempted"]);
    world.report_all(1, &Report::Collecting);
    assert_eq!(world.turn(), ["w1: assign t9#1 gpus [0]"]);
    world.report_all(1, &failed(FailureCause::Preempted));
    assert_eq!(world.says(1), "queued, preempted: stopped to make room for another task");
    // It loses as much as all its nodes: a single one goes first, though it has run for longer.
    let mut world = busy(settings(), vec![h(1, 1), h(2, 1), h(3, 1)], vec![t(2).gpu(1), gang()]);
    pass(&mut world, 100);
    assert_eq!(urgent(&mut world, t(9).gpu(1)), ["w1: cancel t2#1 preempted"]);
}

#[test]
fn room_is_made_for_a_gang_on_all_its_workers() {
    let singles = (1..=3).map(|n| t(n).gpu(1)).collect();
    let mut world = busy(settings(), vec![h(1, 1), h(2, 1), h(3, 1)], singles);
    assert_eq!(urgent(&mut world, t(9).gpu(1).nodes(2)), ["w2: cancel t2#1 preempted", "w3: cancel t3#1 preempted"]);
    world.reports(2, &[failed(FailureCause::Preempted)]);
    assert_eq!(world.turn(), ["w2: forget t2#1"], "the half of it is kept too");
    world.reports(3, &[failed(FailureCause::Preempted)]);
    let sent = world.turn();
    assert_eq!(
        sent[1..],
        ["w3: assign t9#1 node 0 gpus [0]", "w2: assign t9#1 node 1 gpus [0]"].map(String::from),
        "{sent:?}"
    );
}

#[test]
fn a_restart_in_between_stops_nobody_else() {
    let mut world = busy(settings(), vec![h(1, 1), h(2, 1)], vec![t(1).gpu(1), t(2).gpu(1)]);
    assert_eq!(urgent(&mut world, t(9).gpu(1)), ["w2: cancel t2#1 preempted"]);
    world.restart();
    world.join_holding(h(1, 1), &[1]);
    assert_eq!(world.turn(), [""; 0], "the worker on which one is being stopped is not back");
    assert_eq!(world.join_holding(h(2, 1), &[2]), ["w2: cancel t2#1 preempted"], "it is told again");
    assert_eq!(world.turn(), [""; 0]);
    world.reports(2, &[failed(FailureCause::Preempted)]);
    assert_eq!(world.turn()[1], "w2: assign t9#1 gpus [0]");
    assert_eq!(world.says(2), "queued, preempted: stopped to make room for another task");
}

#[test]
fn checkpoints_count_after_a_restart() {
    let mut world = busy(settings(), vec![h(1, 2)], vec![t(1).gpu(1), t(2).gpu(1)]);
    world.saves(1);
    pass(&mut world, 10);
    world.restart();
    world.join_holding(h(1, 2), &[1, 2]);
    assert_eq!(urgent(&mut world, t(9).gpu(1)), ["w1: cancel t1#1 preempted"]);
}

#[test]
fn when_the_one_it_is_for_is_cancelled_the_room_is_everybodys() {
    let mut world = busy(settings(), vec![h(1, 1)], vec![t(1).gpu(1)]);
    urgent(&mut world, t(9).gpu(1));
    world.cancel(9, "ada");
    world.reports(1, &[failed(FailureCause::Preempted)]);
    assert_eq!(world.turn(), ["w1: forget t1#1", "w1: assign t1#2 gpus [0]"], "the stopped one goes on");
    assert_eq!(world.core.queue_depth(SlotKind::Batch), 0);
}

#[test]
fn a_worker_that_comes_back_smaller_is_held_no_more() {
    let mut world = busy(settings(), vec![h(1, 2), h(2, 2)], vec![t(1).gpu(2), t(2).gpu(2)]);
    assert_eq!(urgent(&mut world, t(9).gpu(2)), ["w2: cancel t2#1 preempted"]);
    world.join_holding(h(2, 1), &[2]);
    pass(&mut world, 10);
    world.reports(2, &[failed(FailureCause::Preempted)]);
    world.sent.clear();
    assert_eq!(world.turn(), ["w1: cancel t1#1 preempted"], "it is made room for elsewhere");
    assert_eq!(world.state(9).status, TaskStatus::Queued);
    assert!(world.core.task(task(9)).is_some());
}
