//! Reservations: GPUs are set aside for one task to come, collected as they become free, kept by that task until
//! it ends, and never anybody else's meanwhile.

use crate::support::{T, W, World, exit, failed, ok, reservation, t, task, w, worker};
use fetchml_api::{
    FailureCause, GpuState, Quota, QuotaScope, ReservationRecord, ReservationStatus as Status, Role, link::Report,
};
use fetchml_scheduler::{Answer, ClaimRefusal, Drain, Event, NewReservation, Refusal, Settings};

const H: &str = "NVIDIA H100 80GB HBM3";
const A: &str = "NVIDIA A100-SXM4-80GB";

/// A reservation to ask for: one node, any type, 30 minutes, user `ada`, unless said otherwise.
#[derive(Clone, Debug)]
struct R(NewReservation);

fn r(n: u32, gpus: u32) -> R {
    R(NewReservation {
        id: reservation(n),
        user_id: "ada".into(),
        role: Role::User,
        gpu_count: gpus,
        gpu_type: None,
        node_count: 1,
        expires_minutes: 30,
    })
}

impl R {
    fn nodes(mut self, nodes: u32) -> Self {
        self.0.node_count = nodes;
        self
    }
    fn gpu_type(mut self, name: &str) -> Self {
        self.0.gpu_type = Some(name.into());
        self
    }
    fn user(mut self, user: &str) -> Self {
        self.0.user_id = user.into();
        self
    }
    fn minutes(mut self, minutes: u32) -> Self {
        self.0.expires_minutes = minutes;
        self
    }
}

fn reserve(world: &mut World, r: R) {
    assert_eq!(ask(world, r), Answer::Done);
}

fn ask(world: &mut World, r: R) -> Answer {
    world.step(Event::ReservationRequested(r.0))
}

fn release(world: &mut World, n: u32) -> Answer {
    world.step(Event::ReleaseRequested { reservation: reservation(n), by: "ada".into() })
}

fn offer(world: &mut World, task: T) -> Answer {
    world.step(Event::TaskSubmitted(task.0))
}

fn row(world: &World, n: u32) -> &ReservationRecord {
    &world.reservations[&reservation(n)]
}

/// Status, GPUs held, and where, in one line.
fn says(world: &World, n: u32) -> String {
    let record = row(world, n);
    let mut parts = vec![format!("{} {}/{}", record.status.as_str(), record.gpus_held, record.gpus())];
    let places = record.earmarks.iter().map(|earmark| (crate::support::number(earmark.worker_id.0), &earmark.gpus));
    parts.extend(places.map(|(worker, gpus)| format!("w{worker} {gpus:?}")));
    parts.join(" ")
}

/// Workers of four H100 each.
fn lab(workers: u32) -> World {
    let mut world = World::new();
    for n in 1..=workers {
        world.join(four(n));
    }
    world
}

fn four(n: u32) -> W {
    w(n, 16).gpus(&[H; 4])
}

fn pass(world: &mut World, seconds: i64, workers: &[u32]) {
    for _ in 0..seconds / 10 {
        world.pass(10);
        for n in workers {
            world.heard(*n);
        }
    }
    world.turn();
}

#[test]
fn what_is_free_is_held_at_once_and_nobody_else_gets_it() {
    let mut world = lab(1);
    reserve(&mut world, r(1, 3));
    assert_eq!(says(&world, 1), "active 3/3 w1 [0, 1, 2]");
    assert_eq!(row(&world, 1).expires_at, Some(world.now.plus_seconds(1_800)));
    for n in 1..=3 {
        world.submit(t(n).gpu(n));
    }
    assert_eq!(world.turn(), ["w1: assign t1#1 gpus [3]"]);
    world.submit(t(4));
    assert_eq!(world.turn(), ["w1: assign t4#1"], "cores and slots are everybody's");
    assert_eq!(
        world.audited,
        [
            "r1 reserve by ada",
            "r1 hold by system",
            "t1 submit by ada",
            "t2 submit by ada",
            "t3 submit by ada",
            "t4 submit by ada"
        ]
    );
}

#[test]
fn what_is_used_is_collected_as_it_becomes_free_before_what_waits() {
    let mut world = lab(1);
    for n in 1..=6 {
        world.submit(t(n).gpu(1));
    }
    world.turn();
    reserve(&mut world, r(1, 2));
    assert_eq!((says(&world, 1).as_str(), row(&world, 1).expires_at), ("active 0/2 w1 [0, 1]", None));
    world.reports(3, &[Report::Running, ok()]);
    assert_eq!(world.turn(), ["w1: forget t3#1"]);
    assert_eq!(says(&world, 1), "active 1/2 w1 [0, 2]", "the one that is free, in place of one that is not");
    pass(&mut world, 100, &[1]);
    assert_eq!(row(&world, 1).expires_at, None, "the time does not run yet");
    world.reports(1, &[Report::Running, ok()]);
    world.turn();
    assert_eq!(says(&world, 1), "active 2/2 w1 [0, 2]");
    assert_eq!(row(&world, 1).expires_at, Some(world.now.plus_seconds(1_800)));
    world.reports(2, &[Report::Running, ok()]);
    assert_eq!(world.turn(), ["w1: forget t2#1", "w1: assign t5#1 gpus [1]"], "the rest is for those who wait");
}

#[test]
fn without_a_claim_it_expires_when_its_time_is_over() {
    let mut world = lab(1);
    reserve(&mut world, r(1, 4).minutes(2));
    world.submit(t(1).gpu(4).user("bob"));
    pass(&mut world, 110, &[1]);
    assert_eq!(says(&world, 1), "active 4/4 w1 [0, 1, 2, 3]");
    world.pass(10);
    assert_eq!(world.turn(), ["w1: assign t1#1 gpus [0, 1, 2, 3]"]);
    assert_eq!(says(&world, 1), "expired 0/4");
    assert_eq!(row(&world, 1).ended_at, Some(world.now));
    assert!(world.audited.contains(&"r1 expire by system".to_owned()));
}

#[test]
fn what_is_not_collected_in_a_day_expires() {
    let mut world = lab(1);
    world.submit(t(1).gpu(1));
    world.turn();
    world.reports(1, &[Report::Running]);
    reserve(&mut world, r(1, 4).minutes(1));
    pass(&mut world, 24 * 3_600 - 10, &[1]);
    assert_eq!(says(&world, 1), "active 3/4 w1 [0, 1, 2, 3]");
    world.pass(10);
    assert_eq!(says(&world, 1), "expired 0/4");
}

#[test]
fn it_is_refused_where_too_few_gpus_are_not_reserved() {
    let refused = |unreserved| Answer::Refused(Refusal::NotEnough { unreserved });
    for (asked, answer) in [
        (r(9, 4), Answer::Done),
        (r(9, 5), refused(10)),
        (r(9, 4).nodes(2), Answer::Done),
        (r(9, 4).nodes(3), refused(10)),
        (r(9, 2).nodes(3), Answer::Done),
        (r(9, 2).gpu_type("a100"), Answer::Done),
        (r(9, 3).gpu_type("a100"), refused(2)),
        (r(9, 1).gpu_type("A10"), refused(0)),
        (r(9, 1).gpu_type("H100"), Answer::Done),
        (r(9, u32::MAX).nodes(u32::MAX), refused(10)),
    ] {
        let mut world = lab(2);
        world.join(w(3, 8).gpus(&[A, A]));
        assert_eq!(ask(&mut world, asked.clone()), answer, "{asked:?}");
    }
    // What runs does not matter, what is reserved does; nor does what is on workers that take no work.
    let mut world = lab(2);
    world.join(four(3));
    world.step(Event::DrainRequested { worker: worker(3), mode: Drain::Finish, by: "eve".into() });
    world.submit(t(1).gpu(4));
    world.turn();
    reserve(&mut world, r(1, 4).nodes(2));
    assert_eq!(ask(&mut world, r(2, 1)), refused(0));
    assert_eq!(ask(&mut World::new(), r(1, 1)), refused(0), "there is no worker");
}

#[test]
fn each_node_is_on_a_worker_of_its_own() {
    let mut world = lab(1);
    world.join(w(2, 4).gpus(&[H; 2]));
    world.join(w(3, 4).gpus(&[A; 4]));
    reserve(&mut world, r(1, 2).nodes(2).gpu_type("h100"));
    assert_eq!(says(&world, 1), "active 4/4 w1 [0, 1] w2 [0, 1]");
}

#[test]
fn of_two_the_older_one_collects_first() {
    let mut world = lab(1);
    world.submit(t(1).gpu(4));
    world.turn();
    reserve(&mut world, r(1, 2));
    reserve(&mut world, r(2, 2).user("bob"));
    assert_eq!([says(&world, 1), says(&world, 2)], ["active 0/2 w1 [0, 1]", "active 0/2 w1 [2, 3]"]);
    world.join(four(2).clone());
    world.submit(t(2).gpu(2).user("cy"));
    assert_eq!(world.turn(), [""; 0], "both go where GPUs are free, and nothing is left for t2");
    assert_eq!([says(&world, 1), says(&world, 2)], ["active 2/2 w2 [0, 1]", "active 2/2 w2 [2, 3]"]);
}

#[test]
fn its_task_runs_on_what_was_reserved() {
    let mut world = lab(1);
    reserve(&mut world, r(1, 2));
    world.submit(t(1).gpu(2).reserved(1));
    assert_eq!(row(&world, 1).task_id, Some(task(1)));
    assert_eq!(world.turn(), ["w1: assign t1#1 gpus [0, 1]"]);
    assert_eq!(says(&world, 1), "claimed 2/2 w1 [0, 1]");
    world.reports(1, &[Report::Running, ok()]);
    assert_eq!(says(&world, 1), "expired 0/2");
    assert_eq!(
        &world.audited[2..],
        [
            "t1 submit by ada",
            "r1 claim by ada t1",
            "t1 start by system",
            "t1 complete by system",
            "r1 expire by system t1"
        ]
    );
    world.submit(t(2).gpu(4));
    world.sent.clear();
    assert_eq!(world.turn(), ["w1: assign t2#1 gpus [0, 1, 2, 3]"], "with its end they are everybody's");
}

#[test]
fn its_task_waits_until_what_it_needs_is_held() {
    let mut world = lab(1);
    world.submit(t(1).gpu(1));
    world.turn();
    reserve(&mut world, r(1, 4));
    world.submit(t(2).gpu(4).reserved(1));
    world.submit(t(3).gpu(1));
    assert_eq!(world.turn(), [""; 0]);
    assert_eq!(says(&world, 1), "claimed 3/4 w1 [0, 1, 2, 3]");
    world.reports(1, &[Report::Running, ok()]);
    assert_eq!(world.turn(), ["w1: forget t1#1", "w1: assign t2#1 gpus [0, 1, 2, 3]"]);
}

#[test]
fn a_gang_takes_a_reservation_of_several_nodes() {
    let mut world = lab(3);
    reserve(&mut world, r(1, 4).nodes(2));
    world.submit(t(1).gpu(4).user("bob"));
    world.submit(t(2).gpu(4).nodes(2).reserved(1));
    assert_eq!(
        world.turn(),
        [
            "w3: assign t1#1 gpus [0, 1, 2, 3]",
            "w1: assign t2#1 node 0 gpus [0, 1, 2, 3]",
            "w2: assign t2#1 node 1 gpus [0, 1, 2, 3]"
        ]
    );
    for report in [Report::Ready { address: "10.0.0.1".into(), port: 4_000 }, Report::Running, ok()] {
        world.report_all(2, &report);
    }
    assert_eq!((world.says(2).as_str(), says(&world, 1).as_str()), ("completed", "expired 0/8"));
}

#[test]
fn a_task_keeps_it_across_requeues_and_past_its_time_until_it_ends() {
    let mut world = lab(1);
    reserve(&mut world, r(1, 4).minutes(1));
    world.submit(t(1).gpu(4).reserved(1).retries(2));
    world.submit(t(2).gpu(1).user("bob").priority(10));
    world.turn();
    pass(&mut world, 600, &[1]);
    assert_eq!(says(&world, 1), "claimed 4/4 w1 [0, 1, 2, 3]", "past its time");
    world.reports(1, &[Report::Running, exit(1)]);
    assert_eq!(world.turn(), ["w1: forget t1#1"], "t2 gets nothing while t1 waits for its next attempt");
    world.pass(10);
    assert_eq!(world.turn(), ["w1: assign t1#2 gpus [0, 1, 2, 3]"]);
    world.reports(1, &[Report::Running, failed(FailureCause::Dataset)]);
    assert_eq!(world.says(1), "failed, retries 1, dataset: a data set could not be had");
    world.sent.clear();
    assert_eq!(world.turn(), ["w1: assign t2#1 gpus [0]"]);
    assert_eq!(says(&world, 1), "expired 0/4");
}

#[test]
fn a_task_that_is_cancelled_gives_it_up() {
    let mut world = lab(1);
    world.submit(t(1).gpu(4));
    world.turn();
    reserve(&mut world, r(1, 4));
    world.submit(t(2).gpu(4).reserved(1));
    world.cancel(2, "ada");
    assert_eq!(says(&world, 1), "expired 0/4");
}

#[test]
fn a_claim_that_is_not_right_is_refused() {
    let misfit = |gpus, nodes, other_type| ClaimRefusal::DoesNotFit { gpus, nodes, other_type };
    let claim = |n: u32| t(n).gpu(2).reserved(1);
    for (task, refusal) in [
        (claim(5), None),
        (claim(5).gpu(1), None),
        (claim(5).gpu_type("h100"), None),
        (claim(5).gpu_type("H100 80GB"), None),
        (claim(5).nodes(2), None),
        (claim(5).reserved(7), Some(ClaimRefusal::Unknown)),
        (claim(5).user("bob"), Some(ClaimRefusal::Foreign)),
        (claim(5).gpu(3), Some(misfit(Some(2), None, false))),
        (claim(5).gpu(0), Some(misfit(Some(2), None, false))),
        (claim(5).nodes(3), Some(misfit(None, Some(2), false))),
        (claim(5).gpu_type("A100"), Some(misfit(None, None, true))),
        (claim(5).gpu_type("H100 80GB HBM3"), Some(misfit(None, None, true))),
        (claim(5).gpu(3).nodes(3).gpu_type("A100"), Some(misfit(Some(2), Some(2), true))),
    ] {
        let mut world = lab(2);
        reserve(&mut world, r(1, 2).nodes(2).gpu_type("H100-80GB"));
        let answer = offer(&mut world, task.clone());
        assert_eq!(answer, refusal.map_or(Answer::Done, |why| Answer::Refused(Refusal::Claim(why))), "{task:?}");
        assert_eq!(row(&world, 1).status == Status::Claimed, refusal.is_none());
    }
    // One type is as good as another where the reservation names none; where the task names one it is not.
    let mut world = lab(1);
    reserve(&mut world, r(1, 2));
    let refused = Answer::Refused(Refusal::Claim(misfit(None, None, true)));
    assert_eq!(offer(&mut world, t(1).gpu(2).gpu_type("H100").reserved(1)), refused);
}

#[test]
fn it_is_claimed_once() {
    let mut world = lab(1);
    reserve(&mut world, r(1, 2));
    world.submit(t(1).gpu(2).reserved(1));
    let twice = Answer::Refused(Refusal::Claim(ClaimRefusal::Claimed { task: task(1) }));
    assert_eq!(offer(&mut world, t(2).gpu(2).reserved(1)), twice);
    world.cancel(1, "ada");
    let late = Answer::Refused(Refusal::Claim(ClaimRefusal::Unknown));
    assert_eq!(offer(&mut world, t(2).gpu(2).reserved(1)), late, "it ended with its task");
    reserve(&mut world, r(2, 2).minutes(1));
    world.pass(60);
    assert_eq!(offer(&mut world, t(2).gpu(2).reserved(2)), late, "after its time");
}

#[test]
fn an_array_claims_none() {
    let mut world = lab(1);
    reserve(&mut world, r(1, 2));
    let array = world.step(Event::ArraySubmitted(t(1).gpu(1).reserved(1).array(900, 2, None)));
    assert_eq!(array, Answer::Refused(Refusal::Claim(ClaimRefusal::Several)));
    assert_eq!(says(&world, 1), "active 2/2 w1 [0, 1]");
}

#[test]
fn a_task_that_waits_for_another_keeps_it_meanwhile() {
    let mut world = lab(1);
    reserve(&mut world, r(1, 2).minutes(1));
    world.submit(t(1));
    world.submit(t(2).gpu(2).reserved(1).after(&[1]));
    world.turn();
    pass(&mut world, 120, &[1]);
    assert_eq!(says(&world, 1), "claimed 2/2 w1 [0, 1]");
    world.reports(1, &[Report::Running, ok()]);
    assert_eq!(world.turn(), ["w1: forget t1#1", "w1: assign t2#1 gpus [0, 1]"]);
}

#[test]
fn a_task_whose_need_fails_gives_it_up() {
    let mut world = lab(1);
    reserve(&mut world, r(1, 2));
    world.submit(t(1));
    world.submit(t(2).gpu(2).reserved(1).after(&[1]));
    world.cancel(1, "ada");
    world.turn();
    assert_eq!((world.says(2).as_str().starts_with("failed"), says(&world, 1).as_str()), (true, "expired 0/2"));
}

#[test]
fn it_is_released_while_no_task_has_it() {
    let mut world = lab(1);
    reserve(&mut world, r(1, 4));
    world.submit(t(1).gpu(4).user("bob"));
    world.turn();
    assert_eq!(release(&mut world, 1), Answer::Done);
    assert_eq!(world.turn(), ["w1: assign t1#1 gpus [0, 1, 2, 3]"]);
    assert_eq!(release(&mut world, 1), Answer::NotActive);
    assert!(world.audited.contains(&"r1 release by ada".to_owned()));
    reserve(&mut world, r(2, 1));
    world.submit(t(2).gpu(1).reserved(2));
    let claimed = Refusal::Claim(ClaimRefusal::Claimed { task: task(2) });
    assert_eq!(release(&mut world, 2), Answer::Refused(claimed));
}

#[test]
fn it_goes_to_where_most_is_free() {
    let mut world = lab(2);
    for n in 1..=8 {
        world.submit(t(n).gpu(1));
    }
    world.turn();
    let on_second: Vec<u32> = (1..=8).filter(|n| world.state(*n).worker_id == Some(worker(2))).collect();
    reserve(&mut world, r(1, 4));
    assert_eq!(says(&world, 1), "active 0/4 w1 [0, 1, 2, 3]");
    world.reports(on_second[0], &[Report::Running, ok()]);
    world.turn();
    assert_eq!(says(&world, 1), "active 1/4 w2 [0, 1, 2, 3]");
    let on_first = (1..=8).find(|n| world.state(*n).worker_id == Some(worker(1))).unwrap();
    world.reports(on_first, &[Report::Running, ok()]);
    world.submit(t(20).gpu(1).user("bob"));
    world.sent.clear();
    assert_eq!(world.turn(), ["w1: assign t20#1 gpus [0]"], "and stays where it is no worse");
    assert_eq!(says(&world, 1), "active 1/4 w2 [0, 1, 2, 3]");
}

#[test]
fn a_silent_worker_keeps_it_and_a_lost_one_does_not() {
    let mut world = lab(2);
    reserve(&mut world, r(1, 4));
    let full = row(&world, 1).expires_at;
    pass(&mut world, 590, &[2]);
    assert_eq!(says(&world, 1), "active 4/4 w1 [0, 1, 2, 3]", "it may come back");
    pass(&mut world, 10, &[2]);
    assert_eq!(says(&world, 1), "active 4/4 w2 [0, 1, 2, 3]", "collected anew elsewhere");
    assert_eq!(row(&world, 1).expires_at, full, "the time that ran goes on");
    world.join(four(1));
    world.submit(t(1).gpu(4).user("bob"));
    assert_eq!(world.turn(), ["w1: assign t1#1 gpus [0, 1, 2, 3]"]);
}

#[test]
fn where_there_is_nothing_else_it_waits_for_others() {
    let mut world = lab(1);
    reserve(&mut world, r(1, 4));
    pass(&mut world, 600, &[]);
    assert_eq!(says(&world, 1), "active 0/4");
    world.join(four(2));
    world.turn();
    assert_eq!(says(&world, 1), "active 4/4 w2 [0, 1, 2, 3]");
}

#[test]
fn what_is_drained_unfit_or_unhealthy_is_left_at_once() {
    let drain = Event::DrainRequested { worker: worker(1), mode: Drain::Finish, by: "eve".into() };
    let unfit = Event::WorkerChecked { worker: worker(1), unfit: Some("smoke".into()) };
    let gpus = four(1).devices(&[(2, GpuState::Unhealthy)]);
    let unhealthy = Event::GpusChanged { worker: worker(1), gpus };
    for event in [drain, unfit, unhealthy] {
        let mut world = lab(2);
        reserve(&mut world, r(1, 4));
        world.turn();
        world.step(event.clone());
        world.turn();
        assert_eq!(says(&world, 1), "active 4/4 w2 [0, 1, 2, 3]", "{event:?}");
    }
    // A worker that went away and is then drained is not waited for.
    let mut world = lab(2);
    reserve(&mut world, r(1, 4));
    world.step(Event::WorkerDisconnected { worker: worker(1) });
    world.turn();
    world.step(Event::DrainRequested { worker: worker(1), mode: Drain::DeclareDead, by: "eve".into() });
    world.turn();
    assert_eq!(says(&world, 1), "active 4/4 w2 [0, 1, 2, 3]");
}

#[test]
fn while_its_task_is_on_workers_nothing_moves() {
    let mut world = lab(2);
    reserve(&mut world, r(1, 4));
    world.submit(t(1).gpu(4).reserved(1));
    world.turn();
    world.reports(1, &[Report::Running]);
    world.step(Event::DrainRequested { worker: worker(1), mode: Drain::Finish, by: "eve".into() });
    world.turn();
    assert_eq!(says(&world, 1), "claimed 4/4 w1 [0, 1, 2, 3]");
    world.step(Event::DrainRequested { worker: worker(1), mode: Drain::Evict, by: "eve".into() });
    world.reports(1, &[failed(FailureCause::Preempted)]);
    world.sent.clear();
    assert_eq!(world.turn(), ["w2: assign t1#2 gpus [0, 1, 2, 3]"], "then it is collected anew");
    assert_eq!(says(&world, 1), "claimed 4/4 w2 [0, 1, 2, 3]");
}

#[test]
fn a_lost_worker_takes_attempt_and_gpus_with_it() {
    let mut world = lab(2);
    reserve(&mut world, r(1, 4));
    world.submit(t(1).gpu(4).reserved(1));
    world.turn();
    world.reports(1, &[Report::Running]);
    pass(&mut world, 600, &[2]);
    assert_eq!(says(&world, 1), "claimed 4/4 w2 [0, 1, 2, 3]");
    assert_eq!(world.state(1).worker_id, Some(worker(2)));
}

#[test]
fn it_goes_to_where_its_task_can_run() {
    let mut world = World::new();
    world.join(w(1, 2).gpus(&[H; 4]));
    world.join(w(2, 16).gpus(&[H; 4]));
    reserve(&mut world, r(1, 4));
    assert_eq!(says(&world, 1), "active 4/4 w1 [0, 1, 2, 3]");
    world.submit(t(1).gpu(4).cpu(8).reserved(1));
    assert_eq!(world.turn(), ["w2: assign t1#1 gpus [0, 1, 2, 3]"]);
}

#[test]
fn reserved_gpus_count_for_the_quota_once() {
    let quota = |gpus| Quota { gpus: Some(gpus), ..Quota::default() };
    let mut world = lab(2);
    let scope = QuotaScope::User("ada".into());
    world.step(Event::QuotaRequested { scope, quota: quota(4), by: "eve".into() });
    assert_eq!(ask(&mut world, r(1, 3).nodes(2)), Answer::Refused(Refusal::Gpus { limit: 4 }));
    reserve(&mut world, r(1, 3));
    assert_eq!(ask(&mut world, r(2, 2)), Answer::Refused(Refusal::GpusInUse { limit: 4, has: 3 }));
    world.submit(t(1).gpu(2));
    world.submit(t(2).gpu(1));
    assert_eq!(world.turn(), ["w1: assign t2#1 gpus [3]"], "t1 waits for the quota");
    world.submit(t(3).gpu(3).reserved(1));
    assert_eq!(world.turn(), ["w1: assign t3#1 gpus [0, 1, 2]"], "what is reserved is the user's already");
    world.reports(3, &[Report::Running, ok()]);
    world.sent.clear();
    assert_eq!(world.turn(), ["w1: assign t1#1 gpus [0, 1]"]);
    assert_eq!(ask(&mut world, r(3, 2)), Answer::Refused(Refusal::GpusInUse { limit: 4, has: 3 }));
}

#[test]
fn who_reserves_goes_behind_who_does_not() {
    let mut world = lab(2);
    reserve(&mut world, r(1, 4));
    world.submit(t(1).gpu(3));
    world.submit(t(2).gpu(3).user("bob"));
    assert_eq!(world.turn(), ["w2: assign t2#1 gpus [0, 1, 2]"], "bob holds nothing, ada four GPUs");
}

#[test]
fn reserved_gpus_are_charged_from_when_all_are_held() {
    let mut world = lab(1);
    reserve(&mut world, r(1, 4).minutes(60));
    pass(&mut world, 100, &[1]);
    world.submit(t(1).gpu(2).cpu(0).reserved(1));
    world.turn();
    world.reports(1, &[Report::Running]);
    pass(&mut world, 100, &[1]);
    world.reports(1, &[ok()]);
    assert_eq!(world.shares["ada"].gpu_ms, 4 * 200_000, "as its user has them, whatever the task uses");
    assert_eq!(world.used["ada"], (0, 2 * 100_000), "of the task it is known what it used");
}

#[test]
fn nobody_is_held_for_on_what_is_reserved() {
    let mut world = World::with(Settings { hold_after_s: 60, ..Settings::default() });
    world.join(four(1));
    world.join(four(2));
    world.submit(t(1).gpu(1).user("bob"));
    world.submit(t(9).gpu(4).user("bob"));
    world.turn();
    assert_eq!(world.state(1).worker_id, Some(worker(1)));
    reserve(&mut world, r(1, 2));
    world.submit(t(2).gpu(4).user("bob"));
    pass(&mut world, 120, &[1, 2]);
    // w1 has two GPUs for ada, one for t1 and one free: t2 is held for on w2.
    world.submit(t(3).gpu(1).user("cy"));
    assert_eq!(world.turn(), ["w1: assign t3#1 gpus [3]"]);
}

#[test]
fn a_hold_does_not_keep_the_task_of_a_reservation_off() {
    let mut world = World::with(Settings { hold_after_s: 60, ..Settings::default() });
    world.join(w(1, 16).gpus(&[H; 8]));
    world.submit(t(1).gpu(1).user("bob"));
    world.turn();
    reserve(&mut world, r(1, 4));
    world.submit(t(2).gpu(4).user("bob"));
    pass(&mut world, 120, &[1]);
    world.submit(t(3).gpu(1).user("cy"));
    assert_eq!(world.turn(), [""; 0], "w1 is held for t2");
    world.submit(t(4).gpu(4).reserved(1));
    assert_eq!(world.turn(), ["w1: assign t4#1 gpus [1, 2, 3, 4]"]);
}

#[test]
fn a_restart_changes_nothing() {
    let mut world = lab(2);
    world.submit(t(1).gpu(2));
    world.turn();
    reserve(&mut world, r(1, 3));
    reserve(&mut world, r(2, 3));
    world.submit(t(2).gpu(3).reserved(1));
    world.turn();
    let before = (world.reservations.clone(), world.text());
    world.restart();
    world.turn();
    assert_eq!(world.text(), before.1.replace("online", "offline"));
    assert_eq!(world.reservations, before.0);
    pass(&mut world, 300, &[]);
    assert_eq!(world.reservations, before.0, "workers have time to come back");
    world.join_holding(four(1), &[1]);
    world.join_holding(four(2), &[2]);
    world.submit(t(3).gpu(1));
    assert_eq!(world.turn(), ["w2: assign t3#1 gpus [3]"], "the only one that nobody has");
    insta::assert_snapshot!(world.text(), @r"
    reservation r1 claimed 3/3 held ada w2 [0, 1, 2]
    reservation r2 active 2/3 held ada w1 [0, 2, 3]
    worker w1 online batch 1/16 service 0/1 cpu 1/16 memory 0/16 gpus free 0/4
      1.1 t1 Assigned gpus [0, 1]
    worker w2 online batch 2/16 service 0/1 cpu 2/16 memory 0/16 gpus free 0/4
      1.2 t2 Assigned gpus [0, 1, 2]
      2.1 t3 Assigned gpus [3]
    ");
}

#[test]
fn a_repeated_request_changes_nothing() {
    let mut world = lab(1);
    reserve(&mut world, r(1, 2));
    assert_eq!(ask(&mut world, r(1, 2)), Answer::Unchanged);
    assert_eq!(says(&world, 1), "active 2/2 w1 [0, 1]");
}

#[test]
fn a_worker_that_comes_back_smaller_takes_what_it_had_with_it() {
    let mut world = lab(1);
    reserve(&mut world, r(1, 4));
    world.join(w(1, 8).gpus(&[H; 2]));
    world.turn();
    assert_eq!(says(&world, 1), "active 0/4");
    world.join(four(1));
    world.turn();
    assert_eq!(says(&world, 1), "active 4/4 w1 [0, 1, 2, 3]");
}
