//! What follows from each cause of failure, and how long it takes.

use crate::support::{World, exit, failed, ok, ruled, t, w};
use fetchml_api::{
    FailureCause as C, LogAction,
    link::{Outcome, Report},
};
use fetchml_scheduler::Answer;

fn running(retries: u32) -> World {
    let mut world = World::new();
    world.join(w(1, 1));
    world.submit(t(1).retries(retries));
    world.turn();
    world
}

#[test]
fn each_cause_has_its_rule() {
    let table = [
        (C::ExitNonzero, false, "queued, retries 1, exit_nonzero"),
        (C::Signal, false, "queued, retries 1, signal"),
        (C::OomHost, false, "queued, retries 1, oom_host"),
        (C::OomGpu, false, "queued, retries 1, oom_gpu"),
        (C::Timeout, false, "queued, retries 1, timeout"),
        (C::Stalled, false, "queued, retries 1, stalled"),
        (C::Lost, false, "queued, requeues 1, lost"),
        (C::Launch, false, "queued, requeues 1, launch"),
        (C::Plugin, false, "queued, requeues 1, plugin"),
        (C::Preempted, false, "queued, requeues 1, preempted"),
        (C::Dataset, true, "queued, requeues 1, dataset"),
        (C::Environment, true, "queued, requeues 1, environment"),
        (C::Image, true, "queued, requeues 1, image"),
        (C::Snapshot, true, "queued, requeues 1, snapshot"),
        (C::Dataset, false, "failed, dataset"),
        (C::Environment, false, "failed, environment"),
        (C::Image, false, "failed, image"),
        (C::Snapshot, false, "failed, snapshot"),
        (C::Secret, false, "failed, secret"),
        (C::Cancelled, false, "failed, cancelled"),
        (C::Dependency, false, "failed, dependency"),
        (C::Quota, false, "failed, quota"),
    ];
    for (cause, transient, expected) in table {
        let mut world = running(1);
        world.reports(1, &[Report::Ended(Outcome { cause: Some(cause), transient, ..Outcome::default() })]);
        let says = world.says(1);
        assert!(says.starts_with(expected), "{cause:?} transient={transient}: {says}");
        assert!(says.contains(": "), "there is a sentence: {says}");
    }
}

#[test]
fn counted_retries_wait_longer_each_time_and_end() {
    let mut world = running(2);
    world.reports(1, &[Report::Running, exit(3)]);
    assert_eq!(world.says(1), "queued, retries 1, exit_nonzero: exit code 3; see the log");
    world.sent.clear();
    world.pass_ms(999);
    assert_eq!(world.turn(), [""; 0], "in backoff");
    assert_eq!(world.core.queue_depth(fetchml_api::SlotKind::Batch), 1, "still queued");
    world.pass_ms(1);
    assert_eq!(world.turn(), ["w1: assign t1#2"]);
    assert_eq!(world.state(1).started_at, None, "not the time of the attempt before");
    assert_eq!(world.state(1).waited_before, 0, "backoff is not queued time");
    world.reports(1, &[Report::Running, exit(4)]);
    world.pass(1);
    world.heard(1);
    assert_eq!(world.turn(), ["w1: forget t1#2"], "the second backoff is two seconds");
    world.pass(1);
    assert_eq!(world.turn(), ["w1: assign t1#3"]);
    world.reports(1, &[Report::Running, exit(5)]);
    assert_eq!(world.says(1), "failed, retries 2, exit_nonzero: exit code 5; see the log");
    insta::assert_snapshot!(world.audited.join("\n"), @r"
    t1 submit by ada
    t1 start by system
    t1 retry by system exit_nonzero
    t1 start by system
    t1 retry by system exit_nonzero
    t1 start by system
    t1 fail by system exit_nonzero
    ");
}

#[test]
fn free_requeues_end_too() {
    let mut world = running(10);
    for n in 1..=5 {
        world.reports(1, &[failed(C::Launch)]);
        assert!(world.says(1).starts_with(&format!("queued, requeues {n}, launch")), "{}", world.says(1));
        world.pass(400);
        world.heard(1);
        world.turn();
    }
    world.reports(1, &[failed(C::Launch)]);
    assert_eq!(world.says(1), "failed, requeues 5, launch: the worker could not start the process");
}

#[test]
fn success_after_failure_leaves_no_failure_behind() {
    let mut world = running(1);
    world.reports(1, &[exit(3)]);
    world.pass(1);
    world.turn();
    world.reports(1, &[Report::Running, ok()]);
    assert_eq!(world.says(1), "completed, retries 1");
}

#[test]
fn reports_are_fenced_and_may_repeat_and_skip() {
    let mut world = running(1);
    let first = [Report::Accepted, Report::Running, Report::Collecting].map(|report| world.reported(1, report));
    for event in &first {
        assert_eq!(world.step(event.clone()), Answer::Done);
        assert_eq!(world.step(event.clone()), Answer::Unchanged, "repeated");
    }
    for event in &first {
        assert_eq!(world.step(event.clone()), Answer::Unchanged, "late");
    }
    let end = world.reported(1, exit(1));
    assert_eq!(world.step(end.clone()), Answer::Done);
    world.pass(1);
    world.turn();
    assert_eq!(world.state(1).attempt_count, 2);
    for event in first.into_iter().chain([end]) {
        assert_eq!(world.step(event), Answer::Stale, "of the attempt before");
    }
    assert_eq!(world.says(1), "preparing, retries 1, exit_nonzero: exit code 1; see the log");
    assert_eq!(world.sent, ["w1: forget t1#1"; 4]);
    world.reports(1, &[Report::Collecting]);
    assert!(world.state(1).started_at.is_some(), "what is dead has lived");
    assert_eq!(world.audited.iter().filter(|line| line.contains("start")).count(), 2);
}

#[test]
fn the_right_attempt_with_the_wrong_epoch_is_stale() {
    let mut world = running(0);
    let fetchml_scheduler::Event::AttemptReported { worker, attempt, task, mut epoch, report } =
        world.reported(1, ok())
    else {
        unreachable!()
    };
    epoch.n += 1;
    let forged = fetchml_scheduler::Event::AttemptReported { worker, attempt, task, epoch, report };
    assert_eq!(world.step(forged), Answer::Stale);
    assert_eq!(world.says(1), "preparing");
}

#[test]
fn a_workers_own_sentence_is_kept() {
    let mut world = running(0);
    let error = Some("pip: no matching distribution for torhc".to_owned());
    world.reports(1, &[Report::Ended(Outcome { cause: Some(C::Environment), error, ..Outcome::default() })]);
    assert_eq!(world.says(1), "failed, environment: pip: no matching distribution for torhc");
}

#[test]
fn a_log_rule_ends_the_retries() {
    let mut world = running(10);
    world.reports(1, &[Report::Running, ruled(C::ExitNonzero, LogAction::DoNotRetry)]);
    assert!(world.says(1).starts_with("failed, exit_nonzero"), "{}", world.says(1));
    assert_eq!(world.state(1).log_rule.as_ref().unwrap().pattern, "words");
}

#[test]
fn a_task_is_kept_off_each_worker_that_a_log_rule_excluded() {
    let mut world = World::new();
    world.join(w(1, 8).slots(4, 0));
    world.join(w(2, 4).slots(4, 0));
    world.join(w(3, 2).slots(4, 0));
    world.submit(t(1));
    world.submit(t(2));
    // The smallest that fits is the best fit.
    assert_eq!(world.turn(), ["w3: assign t1#1", "w3: assign t2#1"]);
    for (at, next) in [("w3", "w2"), ("w2", "w1")] {
        world.reports(1, &[ruled(C::Launch, LogAction::ExcludeWorker)]);
        world.sent.clear();
        world.pass(2);
        assert_eq!(world.turn(), [format!("{next}: assign t1#{}", world.state(1).attempt_count)], "not {at} again");
        world.restart();
        world.join_holding(w(1, 8).slots(4, 0), if next == "w1" { &[1] } else { &[] });
        world.join_holding(w(2, 4).slots(4, 0), if next == "w2" { &[1] } else { &[] });
        world.join_holding(w(3, 2).slots(4, 0), &[2]);
    }
    world.reports(1, &[ruled(C::Launch, LogAction::ExcludeWorker)]);
    world.sent.clear();
    world.pass(4);
    assert_eq!(world.turn(), [""; 0], "no worker is left");
    assert!(world.text().contains("queued t1 Batch cpu=1 memory=0 gpu=0 ada not on w1 w2 w3"), "{}", world.text());
    world.join(w(4, 1).slots(4, 0));
    assert_eq!(world.turn(), ["w4: assign t1#4"]);
    world.reports(2, &[exit(1)]);
    assert_eq!(world.state(2).excluded_workers, [], "a rule is about the task that it matched");
}
