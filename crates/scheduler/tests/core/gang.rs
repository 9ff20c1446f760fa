//! Gangs: all nodes or none; nobody starts before all are ready; what ends one ends all, once.

use crate::support::{World, exit, failed, number, ok, t, task, w, worker};
use fetchml_api::{AttemptPhase, FailureCause, link::Report};
use fetchml_scheduler::{Answer, Drain, Event, Settings};

const H: &str = "NVIDIA H100";

/// Three workers of two GPUs; t1 wants one on each.
fn placed() -> World {
    let mut world = World::new();
    for n in 1..=3 {
        world.join(w(n, 4).gpus(&[H; 2]));
    }
    world.submit(t(1).nodes(3).gpu(1));
    assert_eq!(
        world.turn(),
        ["w1: assign t1#1 node 0 gpus [0]", "w2: assign t1#1 node 1 gpus [0]", "w3: assign t1#1 node 2 gpus [0]"]
    );
    world
}

fn report(world: &mut World, n: u32, report: Report) -> Answer {
    let record =
        world.attempts.values().filter(|a| a.task_id == task(1)).max_by_key(|a| a.epoch).expect("it was placed");
    let (attempt, epoch) = (record.id, record.epoch);
    world.step(Event::AttemptReported { worker: worker(n), attempt, task: task(1), epoch, report })
}

fn ready(n: u32) -> Report {
    Report::Ready { address: format!("10.0.0.{n}"), port: 4_000 + n as u16 }
}

fn released() -> World {
    let mut world = placed();
    for n in 1..=3 {
        report(&mut world, n, Report::Accepted);
        report(&mut world, n, ready(n));
    }
    world.sent.clear();
    world
}

fn running() -> World {
    let mut world = released();
    for n in 1..=3 {
        report(&mut world, n, Report::Running);
    }
    world
}

fn beat(world: &mut World, workers: &[u32]) {
    for &n in workers {
        world.heard(n);
    }
}

/// Time passes with beats of these workers only.
fn pass_without_the_others(world: &mut World, seconds: i64, workers: &[u32]) {
    for _ in 0..seconds / 10 {
        world.pass(10);
        beat(world, workers);
    }
}

fn free_gpus(world: &World) -> Vec<String> {
    world.text().lines().filter_map(|line| line.split("gpus free ").nth(1).map(str::to_owned)).collect()
}

#[test]
fn all_nodes_are_placed_or_none_each_on_a_worker_of_its_own() {
    let mut world = World::new();
    world.join(w(1, 8));
    world.join(w(2, 8));
    world.submit(t(1).nodes(3));
    world.submit(t(2).nodes(2));
    assert_eq!(world.turn(), ["w1: assign t2#1 node 0", "w2: assign t2#1 node 1"]);
    world.join(w(3, 1));
    assert_eq!(world.turn().len(), 3, "as soon as there are three");
    world.submit(t(3).nodes(5));
    assert_eq!(world.turn(), [""; 0], "larger than the cluster: it waits");
}

#[test]
fn nobody_is_released_before_everybody_is_ready() {
    let mut world = placed();
    for n in [2, 3] {
        report(&mut world, n, Report::Accepted);
        report(&mut world, n, ready(n));
    }
    report(&mut world, 1, Report::Accepted);
    assert_eq!((world.sent.len(), world.says(1).as_str()), (0, "preparing"));
    report(&mut world, 1, ready(1));
    let at = "10.0.0.1:4001";
    assert_eq!(world.sent, [1, 2, 3].map(|n| format!("w{n}: release t1#1 {at}")));
    assert_eq!(world.says(1), "preparing");
    report(&mut world, 2, Report::Running);
    assert_eq!(world.says(1), "running", "with the first that runs");
    assert_eq!(report(&mut world, 2, Report::Running), Answer::Unchanged);
    assert_eq!(report(&mut world, 2, ready(2)), Answer::Unchanged);
}

#[test]
fn it_completes_when_every_node_has_and_each_room_is_free_when_its_node_is_dead() {
    let mut world = running();
    assert_eq!(free_gpus(&world), ["1/2", "1/2", "1/2"]);
    report(&mut world, 2, Report::Collecting);
    assert_eq!((free_gpus(&world).join(" "), world.says(1).as_str()), ("1/2 2/2 1/2".to_owned(), "running"));
    report(&mut world, 2, ok());
    report(&mut world, 1, Report::Collecting);
    report(&mut world, 3, Report::Collecting);
    assert_eq!(world.says(1), "collecting");
    report(&mut world, 1, ok());
    report(&mut world, 3, ok());
    assert_eq!(world.says(1), "completed");
    assert_eq!(world.audited, ["t1 submit by ada", "t1 start by system", "t1 complete by system"]);
}

#[test]
fn one_that_fails_stops_all_and_the_task_fails_once_for_its_reason() {
    let mut world = running();
    report(&mut world, 2, exit(7));
    assert_eq!(world.sent, ["w2: forget t1#1", "w1: cancel t1#1 preempted", "w3: cancel t1#1 preempted"]);
    assert_eq!(world.says(1), "running", "until all are dead");
    for n in [1, 3] {
        report(&mut world, n, Report::Collecting);
        report(&mut world, n, failed(FailureCause::Preempted));
    }
    assert_eq!(world.says(1), "failed, exit_nonzero: exit code 7; see the log");
}

#[test]
fn one_lost_before_the_release_ends_all_and_costs_no_retry() {
    let mut world = placed();
    for n in 1..=3 {
        report(&mut world, n, Report::Accepted);
    }
    report(&mut world, 1, ready(1));
    world.sent.clear();
    pass_without_the_others(&mut world, 600, &[1, 3]);
    assert!(world.sent.contains(&"w1: cancel t1#1 preempted".to_owned()), "{:?}", world.sent);
    for n in [1, 3] {
        report(&mut world, n, failed(FailureCause::Preempted));
    }
    assert_eq!(world.says(1), "queued, requeues 1, lost: worker box2 was lost");
    assert_eq!(world.state(1).retry_count, 0);
    world.sent.clear();
    world.join(w(2, 4).gpus(&[H; 2]));
    assert_eq!(world.turn().len(), 3, "one new attempt");
    assert_eq!(world.attempts.len(), 2);
}

#[test]
fn g11_one_lost_while_it_runs_stops_the_others_and_there_is_one_new_attempt() {
    let mut world = running();
    pass_without_the_others(&mut world, 600, &[1, 3]);
    assert_eq!(
        world.sent.iter().filter(|sent| !sent.contains("forget")).collect::<Vec<_>>(),
        ["w1: cancel t1#1 preempted", "w3: cancel t1#1 preempted"]
    );
    world.submit(t(2).gpu(2));
    world.sent.clear();
    assert_eq!(world.turn(), [""; 0], "their GPUs are theirs until they are dead");
    report(&mut world, 1, Report::Collecting);
    report(&mut world, 1, failed(FailureCause::Preempted));
    assert_eq!(world.says(1), "running");
    report(&mut world, 3, Report::Collecting);
    report(&mut world, 3, failed(FailureCause::Preempted));
    assert_eq!(world.says(1), "queued, requeues 1, lost: worker box2 was lost");
    assert!(world.turn().iter().any(|sent| sent.contains("assign t2#1")));
}

#[test]
fn g11_nodes_that_fail_because_they_miss_a_lost_one_cost_no_retry() {
    let mut world = running();
    // Their connections to the lost one broke long before its silence was long enough.
    for n in [1, 3] {
        report(&mut world, n, Report::Collecting);
        report(&mut world, n, exit(1));
    }
    assert_eq!(world.says(1), "running", "until it is known what became of the third");
    pass_without_the_others(&mut world, 600, &[1, 3]);
    assert_eq!(world.says(1), "queued, requeues 1, lost: worker box2 was lost");
    assert_eq!(world.state(1).retry_count, 0);
}

#[test]
fn a_worker_that_lost_its_nodes_process_is_the_reason_too() {
    let mut world = running();
    report(&mut world, 1, exit(1));
    report(&mut world, 2, failed(FailureCause::Lost));
    report(&mut world, 3, exit(1));
    assert!(world.says(1).starts_with("queued, requeues 1, lost"), "{}", world.says(1));
}

#[test]
fn a_loss_does_not_hide_what_no_loss_brings_about() {
    let mut world = running();
    report(&mut world, 1, failed(FailureCause::OomHost));
    report(&mut world, 3, failed(FailureCause::Preempted));
    pass_without_the_others(&mut world, 600, &[1, 3]);
    assert!(world.says(1).starts_with("failed, oom_host"), "{}", world.says(1));
}

#[test]
fn a_node_that_starts_too_early_ends_the_attempt() {
    let mut world = placed();
    for n in 1..=3 {
        report(&mut world, n, Report::Accepted);
    }
    report(&mut world, 1, ready(1));
    assert_eq!(report(&mut world, 2, Report::Running), Answer::Done);
    assert_eq!(world.says(1), "preparing");
    assert!(world.sent.contains(&"w2: cancel t1#1 preempted".to_owned()), "{:?}", world.sent);
    // Not even everybody's word sets it free now.
    report(&mut world, 2, ready(2));
    report(&mut world, 3, ready(3));
    assert!(!world.sent.iter().any(|sent| sent.contains("release")), "{:?}", world.sent);
}

#[test]
fn who_is_not_ready_in_time_ends_the_attempt() {
    let mut world = World::with(Settings { prepare_timeout_s: 100, ..Settings::default() });
    for n in 1..=2 {
        world.join(w(n, 1));
    }
    world.submit(t(1).nodes(2));
    world.turn();
    report(&mut world, 1, ready(1));
    pass_without_the_others(&mut world, 90, &[1, 2]);
    assert_eq!(world.sent, [""; 0]);
    world.pass(10);
    assert_eq!(world.sent, ["w1: cancel t1#1 preempted", "w2: cancel t1#1 preempted"]);
    for n in 1..=2 {
        report(&mut world, n, failed(FailureCause::Preempted));
    }
    assert_eq!(world.says(1), "queued, requeues 1, launch: 1 nodes were not ready in 100 s");
}

#[test]
fn a_cancel_reaches_every_node() {
    let mut world = running();
    assert_eq!(world.cancel(1, "eve"), Answer::Done);
    assert_eq!(world.sent, [1, 2, 3].map(|n| format!("w{n}: cancel t1#1 cancelled")));
    for n in 1..=3 {
        report(&mut world, n, failed(FailureCause::Cancelled));
    }
    assert_eq!(world.says(1), "failed, cancelled: cancelled by eve");
    // Nor is one released that was cancelled before.
    let mut world = placed();
    world.cancel(1, "eve");
    for n in 1..=3 {
        report(&mut world, n, ready(n));
    }
    assert!(!world.sent.iter().any(|sent| sent.contains("release")), "{:?}", world.sent);
}

#[test]
fn a_restart_at_any_step_goes_on() {
    for step in 0..9 {
        let mut world = placed();
        for n in 0..step {
            let (worker, what) =
                (n % 3 + 1, [Report::Accepted, ready(n % 3 + 1), Report::Running][(n / 3) as usize].clone());
            report(&mut world, worker, what);
        }
        let phase = world.attempts.values().next().unwrap().phase;
        world.restart();
        let mut sent = Vec::new();
        for n in 1..=3 {
            sent.extend(world.join_holding(w(n, 4).gpus(&[H; 2]), &[1]));
        }
        let releases = sent.iter().filter(|sent| sent.contains("release")).count();
        let wanted = if phase >= AttemptPhase::Ready { 9 - step as usize } else { 0 };
        assert_eq!(releases, wanted, "after {step} reports: who runs needs no release again: {sent:?}");
        for n in 1..=3 {
            report(&mut world, n, ready(n));
        }
        for n in 1..=3 {
            report(&mut world, n, Report::Running);
            report(&mut world, n, ok());
        }
        assert_eq!(world.says(1), "completed", "after {step} reports");
        assert_eq!(free_gpus(&world), ["2/2", "2/2", "2/2"]);
    }
}

#[test]
fn a_worker_that_lost_its_node_ends_the_attempt_and_one_that_never_had_it_gets_it() {
    let mut world = placed();
    let sent = world.join_with(w(2, 4).gpus(&[H; 2]), vec![]);
    assert_eq!(sent, ["w2: assign t1#1 node 1 gpus [0]"]);
    report(&mut world, 2, Report::Accepted);
    let sent = world.join_with(w(2, 4).gpus(&[H; 2]), vec![]);
    assert_eq!(sent, ["w1: cancel t1#1 preempted", "w3: cancel t1#1 preempted"]);
}

#[test]
fn a_drained_worker_ends_the_gang_at_no_cost() {
    let mut world = running();
    world.step(Event::DrainRequested { worker: worker(2), mode: Drain::Evict, by: "eve".into() });
    for n in 1..=3 {
        report(&mut world, n, failed(FailureCause::Preempted));
    }
    assert_eq!(world.says(1), "queued, preempted: stopped because one of its workers is drained");
}

#[test]
fn a_large_gang_gets_workers_held() {
    let mut world = World::new();
    for n in 1..=2 {
        world.join(w(n, 2).gpus(&[H]));
    }
    world.submit(t(10).gpu(1));
    world.turn();
    world.reports(10, &[Report::Running]);
    let busy = number(world.attempts.values().next().unwrap().worker_id.0);
    world.submit(t(1).nodes(2).gpu(1));
    pass_without_the_others(&mut world, 900, &[1, 2]);
    world.submit(t(11).gpu(1));
    world.sent.clear();
    assert_eq!(world.turn(), [""; 0], "the free worker is held, too");
    world.reports(10, &[ok()]);
    assert_eq!(world.turn().iter().filter(|sent| sent.contains("assign t1#1")).count(), 2, "w{busy} was the other");
}
