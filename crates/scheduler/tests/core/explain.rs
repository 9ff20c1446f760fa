//! Why tasks wait: what is said in each situation, and that it is what placement does.

use crate::{
    random::{act, acts},
    support::{T, World, exit, number, ok, t, task, w, worker},
};
use fetchml_api::{
    ChangeEffect, ChangeKind, Demand, EstimateBasis, Explanation, GpuState, Quota, QuotaScope, TaskStatus, Verdict,
    WaitReason, link::Report,
};
use fetchml_scheduler::{Answer, Drain, Event, NewTask, Scheduler, Settings};
use proptest::{collection::vec, prelude::*};
use std::collections::BTreeMap;

const H: &str = "NVIDIA H100";
const A: &str = "NVIDIA A100-SXM4";

/// Why a task waits, and the sentence.
fn said(world: &World, n: u32) -> (WaitReason, String) {
    let explanation = world.core.explain(task(n)).expect("it has not ended");
    (explanation.reason, explanation.summary)
}

/// A world after a turn in which these were submitted.
fn with(world: World, tasks: impl IntoIterator<Item = T>) -> World {
    let mut world = world;
    for task in tasks {
        world.submit(task);
    }
    world.turn();
    world
}

fn cluster(workers: impl IntoIterator<Item = crate::support::W>) -> World {
    let mut world = World::new();
    for worker in workers {
        world.join(worker);
    }
    world
}

/// t1 runs on all four GPUs of the only worker; t2 wants them too and has waited so long.
fn blocked(limit: Option<u32>, waited_s: i64) -> World {
    let first = limit.map_or_else(|| t(1).gpu(4), |limit| t(1).gpu(4).limit(limit));
    let mut world = with(cluster([w(1, 8).gpus(&[H; 4])]), [first]);
    world.reports(1, &[Report::Running]);
    world.submit(t(2).gpu(4));
    for _ in 0..waited_s / 10 {
        world.pass(10);
        world.heard(1);
    }
    world.turn();
    world
}

fn drain(world: &mut World, n: u32) {
    world.step(Event::DrainRequested { worker: worker(n), mode: Drain::Finish, by: "eve".into() });
    world.turn();
}

/// Each situation with why the task t9 waits in it.
fn situations() -> Vec<(&'static str, World, WaitReason, &'static str)> {
    use WaitReason as R;
    let mut all = Vec::new();
    let mut add = |name, world: World, reason, says| all.push((name, world, reason, says));
    let gpus = || cluster([w(1, 8).gpus(&[A; 2]), w(2, 4)]);

    add("no worker", with(World::new(), [t(9)]), R::NoWorkers, "No worker has ever been connected.");
    let mut world = cluster([w(1, 2)]);
    world.step(Event::WorkerDisconnected { worker: worker(1) });
    add("all workers are gone", with(world, [t(9)]), R::NoWorkers, "No worker is connected.");
    add(
        "the wrong type of GPU",
        with(gpus(), [t(9).gpu(1).gpu_type("H100")]),
        R::NothingFits,
        "No worker has a GPU of type H100; there are: NVIDIA A100-SXM4.",
    );
    add(
        "too many GPUs",
        with(gpus(), [t(9).gpu(4)]),
        R::NothingFits,
        "No worker has 4 GPUs; the most that one has is 2.",
    );
    add(
        "too much memory",
        with(gpus(), [t(9).memory(100)]),
        R::NothingFits,
        "No worker has 100 GiB of memory; the most that one has is 16.",
    );
    add(
        "too many cores",
        with(gpus(), [t(9).cpu(9)]),
        R::NothingFits,
        "No worker has 9 cores; the most that one has is 8.",
    );
    add(
        "an image, and no engine",
        with(gpus(), [t(9).image()]),
        R::NothingFits,
        "No worker runs containers, and the task names an image.",
    );
    add(
        "all busy",
        with(cluster([w(1, 1), w(2, 1)]), [t(1), t(2), t(9)]),
        R::Busy,
        "None of the 2 workers that could run it has a free slot now; it is next.",
    );
    add(
        "behind higher priority",
        with(cluster([w(1, 1)]), [t(1), t(2).priority(9), t(3).priority(6), t(9)]),
        R::Behind,
        "Worker box1 is the only one that could run it, and has not a free slot now, and 2 tasks that wait go before \
         it by priority and waiting time.",
    );
    let mut world = cluster([w(1, 4)]);
    let quota = Quota { running: Some(1), ..Quota::default() };
    world.step(Event::QuotaRequested { scope: QuotaScope::User("ada".into()), quota, by: "eve".into() });
    add(
        "a quota of running tasks",
        with(world, [t(1), t(9)]),
        R::QuotaRunning,
        "ada may have 1 task running at once, and has 1.",
    );
    let mut world = cluster([w(1, 8).gpus(&[H; 4])]);
    let quota = Quota { gpus: Some(3), ..Quota::default() };
    world.step(Event::QuotaRequested { scope: QuotaScope::User("ada".into()), quota, by: "eve".into() });
    add(
        "a quota of GPUs",
        with(world, [t(1).gpu(2), t(9).gpu(2)]),
        R::QuotaGpus,
        "ada may have 3 GPUs at once and has 2; this task needs 2.",
    );
    add(
        "room that is held for another",
        with(held(), [t(9).gpu(1)]),
        R::Held,
        "The room on box1 is held for task 01900000-0000-7000-8000-000000000002, which has waited 15 min.",
    );
    let mut world = cluster([w(1, 2)]);
    drain(&mut world, 1);
    add(
        "a drained worker",
        with(world, [t(9)]),
        R::Unavailable,
        "Only worker box1 could run it now, and it is drained.",
    );
    let mut world = cluster([w(1, 2), w(2, 2), w(3, 2)]);
    drain(&mut world, 1);
    world.step(Event::WorkerChecked { worker: worker(2), unfit: Some("the disk is full".into()) });
    world.step(Event::WorkerDisconnected { worker: worker(3) });
    add(
        "workers that take nothing for three reasons",
        with(world, [t(9)]),
        R::Unavailable,
        "The workers that could run it take no work: 1 drained, 1 unfit, 1 offline.",
    );
    let mut world = World::new();
    let two = w(1, 8).gpus(&[H; 2]);
    world.join(two.clone());
    world.step(Event::GpusChanged { worker: worker(1), gpus: two.devices(&[(1, GpuState::Withheld)]) });
    add(
        "a device that is withheld",
        with(world, [t(9).gpu(2)]),
        R::GpusUnavailable,
        "GPU 1 of box1 is withheld: is withheld.",
    );
    let mut world = with(cluster([w(1, 1)]), [t(9).retries(3)]);
    world.reports(9, &[Report::Running, exit(1)]);
    world.turn();
    add("a pause after a failure", world, R::Backoff, "Its last attempt failed; the next is made in 1 s.");
    add(
        "more workers than there are",
        with(cluster([w(1, 2), w(2, 2)]), [t(9).nodes(3)]),
        R::TooFewWorkers,
        "It needs 3 workers at once, and only 2 could run it.",
    );
    let mut world = with(cluster([w(1, 1)]), [t(1)]);
    let mut after = t(9);
    after.0.depends_on = vec![fetchml_api::Dependency { id: task(1), on: fetchml_api::DependencyOn::Ok }].into();
    world.submit(after);
    world.turn();
    add("another task that must end first", world, R::Dependency, "It waits for another task to end.");
    all
}

/// One GPU of the only worker is free and held for t2, which wants all four; t1 has one for half an hour more.
fn held() -> World {
    let mut world = with(cluster([w(1, 8).gpus(&[H; 4])]), [t(1).gpu(1).limit(3_600)]);
    world.reports(1, &[Report::Running]);
    world.submit(t(2).gpu(4).user("bob"));
    for _ in 0..90 {
        world.pass(10);
        world.heard(1);
    }
    world.turn();
    world
}

#[test]
fn the_true_reason_is_said_in_each_situation() {
    let situations = situations();
    assert!(situations.len() >= 10);
    for (name, world, reason, says) in situations {
        let (is, summary) = said(&world, 9);
        assert_eq!((is, summary.as_str()), (reason, says), "{name}\n{}", world.core);
        // The same is said of a task like it that is not created, but for what only time has done to it.
        if !matches!(reason, WaitReason::Backoff | WaitReason::Dependency | WaitReason::Behind | WaitReason::Busy) {
            let mut like = world.rows[&task(9)].spec.clone();
            like.id = task(99);
            assert_eq!(world.core.explain_new(&like, 1).unwrap().reason, reason, "{name}");
        }
    }
}

fn changes(explanation: &Explanation) -> Vec<(ChangeKind, Option<i64>, ChangeEffect)> {
    explanation.changes.iter().map(|change| (change.kind, change.value, change.effect)).collect()
}

#[test]
fn the_cheapest_change_comes_first() {
    use ChangeEffect::{GoesFirst, MakesRoom, Starts};
    let of = |world: &World, n| changes(&world.core.explain(task(n)).unwrap());
    let world = with(cluster([w(1, 8).gpus(&[A, A])]), [t(9).gpu(4).memory(8)]);
    assert_eq!(of(&world, 9), [(ChangeKind::Gpu, Some(2), Starts), (ChangeKind::Workers, Some(1), MakesRoom)]);
    let world = with(cluster([w(1, 8).gpus(&[A, A])]), [t(9).gpu(1).gpu_type("H100")]);
    assert_eq!(of(&world, 9), [(ChangeKind::GpuType, None, Starts), (ChangeKind::Workers, Some(1), MakesRoom)]);
    let world = with(cluster([w(1, 8), w(2, 4)]), [t(9).memory(100)]);
    assert_eq!(of(&world, 9)[0], (ChangeKind::MemoryGb, Some(16), Starts));
    let world = with(cluster([w(1, 8), w(2, 4)]), [t(9).cpu(6).nodes(2)]);
    assert_eq!(of(&world, 9)[0], (ChangeKind::Cpu, Some(4), Starts));
    assert_eq!(of(&world, 9)[1], (ChangeKind::NodeCount, Some(1), Starts));
    let world = with(held(), [t(9).gpu(1)]);
    assert_eq!(of(&world, 9)[0], (ChangeKind::TimeLimitS, Some(2_700), Starts));
    let mut world = cluster([w(1, 2)]);
    drain(&mut world, 1);
    let world = with(world, [t(9)]);
    assert_eq!(of(&world, 9), [(ChangeKind::Undrain, Some(1), MakesRoom)]);
    let world = with(cluster([w(1, 1)]), [t(1), t(2).priority(7), t(9).priority(4)]);
    assert_eq!(of(&world, 9), [(ChangeKind::Priority, Some(6), GoesFirst)]);
    let mut world = cluster([w(1, 4)]);
    let quota = Quota { running: Some(1), ..Quota::default() };
    world.step(Event::QuotaRequested { scope: QuotaScope::User("ada".into()), quota, by: "eve".into() });
    let world = with(world, [t(1), t(9)]);
    assert_eq!(of(&world, 9), [(ChangeKind::QuotaRunning, Some(2), Starts)]);
}

#[test]
fn a_start_is_estimated_from_limits_and_from_what_has_run() {
    let estimate = |world: &World, n| {
        let estimate = world.core.explain(task(n)).unwrap().estimated_start;
        estimate.map(|estimate| (estimate.at.since(world.now) / 1_000_000, estimate.basis))
    };
    assert_eq!(estimate(&blocked(Some(3_600), 100), 2), Some((3_500, EstimateBasis::TimeLimits)));
    assert_eq!(estimate(&blocked(None, 100), 2), None, "what runs has no limit, and nothing has ended here yet");
    assert_eq!(estimate(&blocked(Some(3_600), 900), 2), Some((2_700, EstimateBasis::TimeLimits)), "held for it");
    // Four tasks have taken a minute each: the fifth is thought to do so, too.
    let mut world = cluster([w(1, 1)]);
    for n in 1..=4 {
        world.submit(t(n));
        world.turn();
        world.reports(n, &[Report::Running]);
        for _ in 0..6 {
            world.pass(10);
            world.heard(1);
        }
        world.reports(n, &[ok()]);
    }
    let world = with(world, [t(5), t(9), t(10)]);
    assert_eq!(estimate(&world, 9), Some((60, EstimateBasis::RunTimes)));
    assert_eq!(estimate(&world, 10), None, "one goes before it, and there is no second worker");
}

#[test]
fn what_does_not_wait_says_so() {
    let mut world = with(cluster([w(1, 1)]), [t(1)]);
    assert_eq!(said(&world, 1).0, WaitReason::Placed);
    world.reports(1, &[Report::Running]);
    assert_eq!(said(&world, 1), (WaitReason::Placed, "It runs.".into()));
    world.reports(1, &[ok()]);
    assert_eq!(world.core.explain(task(1)), None);
    assert_eq!(world.core.explain_new(&t(2).0, 1).unwrap().reason, WaitReason::Starts);
}

#[test]
fn the_answer_is_small_however_many_workers_there_are() {
    let mut core = Scheduler::new(Settings::default());
    let (mut effects, now) = (Vec::new(), crate::support::START);
    for n in 0..10_000_u32 {
        let kinds = [vec![], vec![H; 2], vec![A; 8], vec![H, A]];
        let joined = w(n, 1 + n % 64).gpus(&kinds[(n % 4) as usize]).memory(1 + n % 512);
        core.step(now, joined.joined(Vec::new()), &mut effects);
        if n % 7 == 0 {
            core.step(
                now,
                Event::DrainRequested { worker: worker(n), mode: Drain::Finish, by: "eve".into() },
                &mut effects,
            );
        }
    }
    let new = t(1).gpu(4).gpu_type("H100").memory(600).nodes(3).cpu(100).image().0;
    let explanation = core.explain_new(&new, 1).unwrap();
    let size = format!("{explanation:?}").len();
    assert!(size < 32 << 10, "{size} characters");
    let counted: i64 = explanation.workers.iter().map(|group| group.count).sum();
    assert_eq!(counted, 10_000, "every worker is in it");
    assert!(explanation.workers.iter().all(|group| group.verdict == Verdict::Lacks));
}

/// A task that is tried, and what of the answer's changes is taken.
#[derive(Clone, Debug)]
struct Probe {
    demand: Demand,
    user: usize,
    limit: Option<u32>,
    change: Option<usize>,
}

fn probes() -> impl Strategy<Value = Probe> {
    let demand =
        (0..4_u32, 0..9_u32, 0..3_u32, prop::option::weighted(0.3, prop::sample::select(vec!["H100", "A100"])))
            .prop_flat_map(|(cpu, memory_gb, gpu, kind)| {
                (prop_oneof![6 => Just(1_u32), 1 => 2..4_u32], prop::bool::weighted(0.1), prop::bool::weighted(0.1))
                    .prop_map(move |(nodes, image, service)| Demand {
                        slot: if service { fetchml_api::SlotKind::Service } else { fetchml_api::SlotKind::Batch },
                        cpu,
                        memory_gb,
                        gpu,
                        gpu_type: kind.filter(|_| gpu > 0).map(Into::into),
                        nodes,
                        image,
                        reservation: None,
                    })
            });
    (demand, 0..3_usize, prop::option::of(prop::sample::select(vec![60_u32, 600, 6_000])), prop::option::of(0..3_usize))
        .prop_map(|(demand, user, limit, change)| Probe { demand, user, limit, change })
}

/// Why every task that waits does so.
fn said_of_all(world: &World) -> BTreeMap<u32, WaitReason> {
    let waiting = world.rows.values().filter(|row| row.state.status == TaskStatus::Queued);
    let said = waiting.map(|row| (number(row.spec.id.0), said(world, number(row.spec.id.0)).0));
    said.collect()
}

/// The next turn does what was said.
fn turn_does_what_is_said(world: &mut World) {
    let said = said_of_all(world);
    let before = world.core.to_string();
    world.turn();
    for (n, reason) in said {
        let waits = world.state(n).status == TaskStatus::Queued;
        assert_ne!(reason, WaitReason::Starts, "what could start has been placed, or is about to be");
        assert!(waits || reason == WaitReason::Deciding, "t{n} was said to wait: {reason:?}\n{before}\n{}", world.core);
    }
}

/// The probe with a change made to it, or to what is around it. False: it cannot be tried.
fn change_made(world: &mut World, new: &mut NewTask, kind: ChangeKind, value: Option<i64>) -> bool {
    let value = u32::try_from(value.unwrap_or(0)).expect("it is small");
    let scope = QuotaScope::User(new.user_id.clone());
    let quota = match kind {
        ChangeKind::QuotaRunning => Quota { running: Some(value), ..Quota::default() },
        ChangeKind::QuotaGpus => Quota { gpus: Some(value), ..Quota::default() },
        _ => Quota::default(),
    };
    match kind {
        ChangeKind::TimeLimitS => new.time_limit_s = Some(value),
        ChangeKind::MemoryGb => new.demand.memory_gb = value,
        ChangeKind::Cpu => new.demand.cpu = value,
        ChangeKind::GpuType => new.demand.gpu_type = None,
        ChangeKind::Gpu => new.demand.gpu = value,
        ChangeKind::NodeCount => new.demand.nodes = value,
        ChangeKind::QuotaRunning | ChangeKind::QuotaGpus => {
            let set = world.quotas.get(&scope).map(|record| record.quota).unwrap_or_default();
            let quota = Quota { running: quota.running.or(set.running), gpus: quota.gpus.or(set.gpus), ..set };
            world.step(Event::QuotaRequested { scope, quota, by: "bob".into() });
        }
        ChangeKind::Priority | ChangeKind::Undrain | ChangeKind::Gpus | ChangeKind::Workers => return false,
    }
    true
}

/// A task that is submitted starts if and only if it was said to, and so does one with a change made to it.
fn submit_does_what_is_said(world: &mut World, probe: &Probe) {
    let n = world.rows.len() as u32;
    let mut new = t(n).user(["ada", "bob", "cy"][probe.user]).0;
    (new.demand, new.time_limit_s) = (probe.demand.clone(), probe.limit);
    let explanation = match world.core.explain_new(&new, 1) {
        Ok(explanation) => explanation,
        Err(refusal) => {
            assert_eq!(world.step(Event::TaskSubmitted(new)), Answer::Refused(refusal));
            return;
        }
    };
    let change = probe.change.and_then(|which| explanation.changes.get(which));
    let change = change.filter(|change| change.effect == ChangeEffect::Starts).cloned();
    let before = world.core.to_string();
    let mut expected = match explanation.reason {
        WaitReason::Deciding => None,
        reason => Some(reason == WaitReason::Starts),
    };
    if let Some(change) = &change
        && change_made(world, &mut new, change.kind, change.value)
    {
        expected = Some(true);
    }
    assert_eq!(world.step(Event::TaskSubmitted(new.clone())), Answer::Done, "{explanation:?}");
    world.turn();
    let started = world.state(n).status != TaskStatus::Queued;
    if let Some(expected) = expected {
        assert_eq!(started, expected, "{new:?} with {change:?}\n{explanation:#?}\n{before}\n{}", world.core);
    }
    if !started {
        world.cancel(n, "bob");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn placement_does_what_is_said(steps in vec((acts(), prop::option::weighted(0.5, probes())), 1..80)) {
        let mut world = World::with(Settings { hold_after_s: 10, ..Settings::default() });
        world.join(w(0, 2).gpus(&[H]));
        for (step, probe) in steps {
            act(&mut world, step);
            turn_does_what_is_said(&mut world);
            // What a turn changed, the next has dealt with.
            for _ in 0..3 {
                world.turn();
            }
            let undecided: Vec<_> =
                said_of_all(&world).into_iter().filter(|(_, reason)| *reason == WaitReason::Deciding).collect();
            assert!(undecided.is_empty(), "nothing changes any more: {undecided:?}\n{}", world.core);
            if let Some(probe) = &probe {
                submit_does_what_is_said(&mut world, probe);
            }
            world.sent.clear();
        }
    }
}

#[test]
fn what_ends_before_a_hold_is_needed_starts_as_it_is_said_to() {
    for (limit, starts) in [(2_700, true), (2_701, false)] {
        let mut world = held();
        let new = t(9).gpu(1).limit(limit);
        let reason = world.core.explain_new(&new.0, 1).unwrap().reason;
        assert_eq!(reason, if starts { WaitReason::Starts } else { WaitReason::Held });
        world.submit(new);
        world.turn();
        assert_eq!(world.state(9).status == TaskStatus::Preparing, starts, "{limit} s");
    }
}
