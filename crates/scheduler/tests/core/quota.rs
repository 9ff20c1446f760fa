//! Quotas make tasks wait, and refuse only what could never run or what waits too much.

use crate::support::{T, World, ok, t, task, w};
use fetchml_api::{Quota, QuotaScope, Role, link::Report};
use fetchml_scheduler::{Answer, Event, Refusal, Settings};
use std::collections::BTreeMap;

const NONE: Quota = Quota { running: None, queued: None, gpus: None, max_priority: None };
const H: &str = "NVIDIA H100";

fn set(world: &mut World, scope: QuotaScope, quota: Quota) -> Answer {
    world.step(Event::QuotaRequested { scope, quota, by: "eve".into() })
}

fn ada() -> QuotaScope {
    QuotaScope::User("ada".into())
}

fn offer(world: &mut World, task: T) -> Answer {
    world.step(Event::TaskSubmitted(task.0))
}

#[test]
fn a_user_at_the_quota_waits_and_others_pass() {
    let mut world = World::new();
    set(&mut world, ada(), Quota { running: Some(1), ..NONE });
    world.join(w(1, 4));
    for task in [t(1), t(2), t(3).cpu(2), t(11).user("bob")] {
        world.submit(task);
    }
    assert_eq!(world.turn(), ["w1: assign t1#1", "w1: assign t11#1"]);
    world.reports(1, &[Report::Running, Report::Collecting]);
    assert_eq!(world.turn(), ["w1: assign t2#1"], "the next when the slot is free");
}

#[test]
fn a_head_over_the_gpu_quota_stops_its_own_queue_only() {
    let mut world = World::new();
    set(&mut world, ada(), Quota { gpus: Some(3), ..NONE });
    world.join(w(1, 8).gpus(&[H; 8]));
    for task in [t(1).gpu(2), t(2).gpu(2), t(3).gpu(2), t(4).gpu(1), t(5), t(11).gpu(2).user("bob")] {
        world.submit(task);
    }
    assert_eq!(
        world.turn(),
        ["w1: assign t1#1 gpus [0, 1]", "w1: assign t11#1 gpus [2, 3]", "w1: assign t4#1 gpus [4]", "w1: assign t5#1"]
    );
    world.reports(1, &[Report::Running, ok()]);
    assert_eq!(world.turn(), ["w1: forget t1#1", "w1: assign t2#1 gpus [0, 1]"]);
}

#[test]
fn too_many_that_wait_are_refused() {
    let mut world = World::new();
    set(&mut world, ada(), Quota { queued: Some(2), ..NONE });
    for n in 1..=2 {
        world.submit(t(n));
    }
    assert_eq!(offer(&mut world, t(3)), Answer::Refused(Refusal::Queued { limit: 2 }));
    assert_eq!(offer(&mut world, t(11).user("bob")), Answer::Done);
    world.cancel(2, "ada");
    assert_eq!(offer(&mut world, t(4)), Answer::Done);
    world.join(w(1, 1));
    world.turn();
    assert_eq!(offer(&mut world, t(5)), Answer::Done, "what runs does not wait");
}

#[test]
fn what_alone_is_over_a_quota_is_refused() {
    for (quota, task, refusal) in [
        (Quota { gpus: Some(3), ..NONE }, t(1).gpu(4), Some(Refusal::Gpus { limit: 3 })),
        (Quota { gpus: Some(4), ..NONE }, t(1).gpu(4), None),
        (Quota { gpus: Some(0), ..NONE }, t(1), None),
        (Quota { gpus: Some(0), ..NONE }, t(1).gpu(1), Some(Refusal::Gpus { limit: 0 })),
        (Quota { running: Some(0), ..NONE }, t(1), Some(Refusal::Running { limit: 0 })),
        (Quota { queued: Some(0), ..NONE }, t(1), Some(Refusal::Queued { limit: 0 })),
        (Quota { max_priority: Some(6), ..NONE }, t(1).priority(7), Some(Refusal::Priority { limit: 6 })),
        (Quota { max_priority: Some(7), ..NONE }, t(1).priority(7), None),
    ] {
        let mut world = World::new();
        set(&mut world, ada(), quota);
        assert_eq!(offer(&mut world, task), refusal.map_or(Answer::Done, Answer::Refused), "{quota:?}");
    }
}

#[test]
fn a_users_own_quota_goes_before_the_roles_and_what_is_set_before_what_is_configured() {
    let gpus = |n| Quota { gpus: Some(n), ..NONE };
    let settings =
        Settings { quotas: BTreeMap::from([(QuotaScope::Role(Role::User), gpus(1))]), ..Settings::default() };
    let mut world = World::with(settings);
    let role = QuotaScope::Role(Role::User);
    let limit = |world: &mut World, role| match offer(world, t(1).gpu(9).role(role)) {
        Answer::Refused(Refusal::Gpus { limit }) => limit,
        answer => panic!("{answer:?}"),
    };
    assert_eq!(limit(&mut world, Role::User), 1);
    assert_eq!(set(&mut world, role.clone(), gpus(2)), Answer::Done);
    assert_eq!(limit(&mut world, Role::User), 2);
    set(&mut world, ada(), Quota { running: Some(5), ..NONE });
    assert_eq!(limit(&mut world, Role::User), 2, "field by field");
    set(&mut world, ada(), gpus(3));
    world.restart();
    assert_eq!(limit(&mut world, Role::User), 3, "it is durable");
    assert_eq!(set(&mut world, ada(), gpus(3)), Answer::Unchanged);
    set(&mut world, ada(), NONE);
    assert_eq!(limit(&mut world, Role::User), 2);
    set(&mut world, role, NONE);
    assert_eq!(limit(&mut world, Role::User), 1);
    assert_eq!(offer(&mut world, t(2).gpu(9)), Answer::Done, "no quota of another role");
    assert!(world.audited.contains(&"quotas/users/ada quota by eve".to_owned()));
}

#[test]
fn a_quota_configured_for_a_user_goes_before_any_of_the_role() {
    let gpus = |n| Quota { gpus: Some(n), ..NONE };
    let quotas = BTreeMap::from([(QuotaScope::Role(Role::User), gpus(1)), (ada(), gpus(4))]);
    let mut world = World::with(Settings { quotas, ..Settings::default() });
    let refused = |world: &mut World, limit| {
        let answer = offer(world, t(1).gpu(9).role(Role::User));
        assert_eq!(answer, Answer::Refused(Refusal::Gpus { limit }));
    };
    set(&mut world, QuotaScope::Role(Role::User), gpus(2));
    refused(&mut world, 4);
    set(&mut world, ada(), gpus(5));
    refused(&mut world, 5);
    assert_eq!(offer(&mut world, t(2).gpu(2).user("bob").role(Role::User)), Answer::Done);
}

#[test]
fn a_lowered_quota_stops_nothing_that_runs() {
    let mut world = World::new();
    world.join(w(1, 2));
    world.submit(t(1));
    world.submit(t(2));
    world.turn();
    set(&mut world, ada(), Quota { running: Some(0), ..NONE });
    world.reports(1, &[Report::Running, ok()]);
    assert_eq!(world.says(1), "completed");
    assert_eq!(world.says(2), "preparing");
}

#[test]
fn a_user_does_not_raise_a_task_beyond_the_highest_priority() {
    let mut world = World::new();
    world.submit(t(1));
    let ask = |world: &mut World, role, priority| {
        world.step(Event::PriorityRequested { task: task(1), priority, by: "ada".into(), role })
    };
    assert_eq!(ask(&mut world, Role::User, 8), Answer::Refused(Refusal::Priority { limit: 7 }));
    assert_eq!(ask(&mut world, Role::User, 7), Answer::Done);
    assert_eq!(ask(&mut world, Role::Admin, 8), Answer::Done);
}
