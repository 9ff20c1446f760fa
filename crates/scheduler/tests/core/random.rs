//! Any events in any order: late, repeated, reordered and forged reports, workers that come, go,
//! shrink and lie, restarts, time that jumps. The world checks everything after each step; in the
//! end the faults stop and all tasks must end.

use crate::support::{T, W, World, exit, failed, number, ok, reservation, ruled, t, task, w, worker};
use fetchml_api::{
    AttemptEpoch, AttemptId, FailureCause, Gpu, GpuState, LogAction, Quota, QuotaScope, Role, SlotKind, TaskStatus,
    link::{Held, Report},
};
use fetchml_scheduler::{Answer, Drain, Event, NewReservation, Settings};
use proptest::{collection::vec, prelude::*};
use std::collections::BTreeSet;

#[derive(Clone, Debug)]
pub(crate) enum Act {
    Submit {
        cpu: u32,
        memory: u32,
        gpu: u32,
        service: bool,
        priority: u8,
        user: u8,
        retries: u32,
        nodes: u32,
        /// Claims one of all reservations ever, or none.
        claim: Option<usize>,
        /// What it depends on: whichever of all tasks.
        needs: Vec<usize>,
        array: Option<u32>,
    },
    Reserve {
        gpus: u32,
        nodes: u32,
        h100: bool,
        minutes: u32,
        user: u8,
    },
    Release(usize),
    CancelArray(usize),
    /// An attempt leaves a checkpoint.
    Saves(usize),
    Cancel(usize),
    Priority(usize, u8),
    Drain(u32, u8),
    Checked(u32, bool),
    Quota {
        user: u8,
        running: Option<u32>,
        gpus: Option<u32>,
    },
    Join {
        n: u32,
        cores: u32,
        gpus: usize,
        forget: Vec<bool>,
        lie: bool,
    },
    Heard(u32),
    /// Devices of a worker change their states, or in number.
    Gpus {
        n: u32,
        states: Vec<GpuState>,
    },
    Disconnect(u32),
    /// A report on any attempt that ever was.
    Report {
        attempt: usize,
        report: usize,
    },
    /// One with something in it that is not so.
    Forged {
        attempt: usize,
        report: usize,
        forgery: u8,
    },
    /// A task lives its whole life in an instant.
    Quick(usize),
    Pass {
        milliseconds: i64,
    },
    Restart,
    Turn,
}

/// Numbers of arrays begin here.
const ARRAYS: u32 = 1_000_000;
const USERS: [&str; 3] = ["ada", "bob", "cy"];

pub(crate) fn acts() -> impl Strategy<Value = Act> {
    prop_oneof![
        3 => (1..3_u32, prop_oneof![3 => Just(1), 1 => 2..3_u32], any::<bool>(), prop_oneof![Just(1), Just(60)], 0..3_u8)
            .prop_map(|(gpus, nodes, h100, minutes, user)| Act::Reserve { gpus, nodes, h100, minutes, user }),
        1 => any::<usize>().prop_map(Act::Release),
        6 => (0..3_u32, 0..9_u32, prop_oneof![3 => Just(0), 1 => 1..3_u32], prop::bool::weighted(0.1), 1..=10_u8, 0..3_u8, 0..3_u32, prop_oneof![6 => Just(1), 1 => 2..4_u32], (prop_oneof![4 => Just(Vec::new()), 1 => vec(any::<usize>(), 1..4)], prop::option::weighted(0.15, 1..5_u32), prop::option::weighted(0.3, any::<usize>())))
            .prop_map(|(cpu, memory, gpu, service, priority, user, retries, nodes, (needs, array, claim))| Act::Submit { cpu, memory, gpu, service, priority, user, retries, nodes, claim, needs, array }),
        1 => any::<usize>().prop_map(Act::CancelArray),
        1 => any::<usize>().prop_map(Act::Saves),
        1 => any::<usize>().prop_map(Act::Cancel),
        1 => (any::<usize>(), 1..=10_u8).prop_map(|(which, priority)| Act::Priority(which, priority)),
        1 => (0..4_u32, 0..6_u8).prop_map(|(n, mode)| Act::Drain(n, mode)),
        1 => (0..4_u32, prop::bool::weighted(0.3)).prop_map(|(n, unfit)| Act::Checked(n, unfit)),
        2 => (0..3_u32, 0..4_u32, 0..3_usize, vec(prop::bool::weighted(0.2), 8), prop::bool::weighted(0.1))
            .prop_map(|(n, cores, gpus, forget, lie)| Act::Join { n, cores, gpus, forget, lie }),
        1 => (0..3_u8, prop::option::of(0..3_u32), prop::option::of(0..3_u32))
            .prop_map(|(user, running, gpus)| Act::Quota { user, running, gpus }),
        2 => (0..4_u32).prop_map(Act::Heard),
        1 => (0..4_u32).prop_map(Act::Disconnect),
        1 => (0..4_u32, vec(prop::sample::select(vec![GpuState::Available, GpuState::Withheld, GpuState::Unhealthy]), 0..3))
            .prop_map(|(n, states)| Act::Gpus { n, states }),
        8 => (any::<usize>(), 0..12_usize).prop_map(|(attempt, report)| Act::Report { attempt, report }),
        1 => (any::<usize>(), 0..12_usize, 0..4_u8).prop_map(|(attempt, report, forgery)| Act::Forged { attempt, report, forgery }),
        4 => any::<usize>().prop_map(Act::Quick),
        2 => prop_oneof![6 => 0..3_000_i64, 2 => 10_000..20_000_i64, 1 => 600_000..700_000_i64]
            .prop_map(|milliseconds| Act::Pass { milliseconds }),
        1 => prop::bool::weighted(0.2).prop_map(|restart| if restart { Act::Restart } else { Act::Turn }),
        6 => Just(Act::Turn),
    ]
}

fn ready() -> Report {
    Report::Ready { address: "10.0.0.1".into(), port: 4_000 }
}

fn report(n: usize) -> Report {
    match n {
        11 => ready(),
        0 => Report::Accepted,
        1 => Report::Running,
        2 => Report::Collecting,
        3 => ok(),
        4 => exit(3),
        5 => failed(FailureCause::Launch),
        6 => failed(FailureCause::Environment),
        7 => failed(FailureCause::Preempted),
        8 => ruled(FailureCause::Launch, LogAction::ExcludeWorker),
        9 => ruled(FailureCause::ExitNonzero, LogAction::DoNotRetry),
        _ => Report::Returned,
    }
}

pub(crate) fn act(world: &mut World, act: Act) {
    let submitted = world.rows.len();
    match act {
        Act::Submit { cpu, memory, gpu, service, priority, user, retries, nodes, claim, needs, array } => {
            let new: T = t(submitted as u32).cpu(cpu).memory(memory).gpu(gpu).priority(priority).nodes(nodes);
            let new = new.user(USERS[usize::from(user)]).retries(retries);
            let new = if service { new.service() } else { new };
            let new = if retries == 1 { new.limit(600) } else { new };
            let reservations: Vec<_> = world.reservations.values().cloned().collect();
            let claimed = claim.and_then(|claim| reservations.get(claim % reservations.len().max(1)));
            let new = match claimed {
                // Mostly one that fits.
                Some(record) if priority > 1 => {
                    let nodes = nodes.min(record.node_count);
                    new.user(&record.user_id)
                        .gpu(gpu.clamp(1, record.gpu_count))
                        .nodes(nodes)
                        .reserved(number(record.id.0))
                }
                Some(record) => new.reserved(number(record.id.0)),
                None => new,
            };
            let live = world.rows.values().filter(|row| !row.state.status.is_terminal());
            let live: Vec<u32> = live
                .flat_map(|row| [Some(row.spec.id), row.spec.array.map(|array| array.id)])
                .flatten()
                .map(|id| number(id.0))
                .collect::<BTreeSet<_>>()
                .into_iter()
                .collect();
            let new = needs.iter().filter(|_| !live.is_empty()).fold(new, |new, need| {
                let id = live[need % live.len()];
                let known = new.0.depends_on.iter().any(|need| need.id == task(id));
                match (known, need % 2) {
                    (true, _) => new,
                    (false, 0) => new.after(&[id]),
                    (false, _) => new.after_any(&[id]),
                }
            });
            // A quota may refuse it.
            world.step(match array {
                None => Event::TaskSubmitted(new.0),
                Some(count) => {
                    let limit = (count > 2).then(|| count - 2);
                    Event::ArraySubmitted(new.array(ARRAYS + submitted as u32, count, limit))
                }
            });
        }
        Act::Reserve { gpus, nodes, h100, minutes, user } => {
            world.step(Event::ReservationRequested(NewReservation {
                id: reservation(world.reservations.len() as u32),
                user_id: USERS[usize::from(user)].into(),
                role: Role::Admin,
                gpu_count: gpus,
                gpu_type: h100.then(|| "H100".into()),
                node_count: nodes,
                expires_minutes: minutes,
            }));
        }
        Act::Release(which) => {
            let reservation = reservation((which % world.reservations.len().max(1)) as u32);
            world.step(Event::ReleaseRequested { reservation, by: "bob".into() });
        }
        Act::Cancel(which) if submitted > 0 => {
            world.cancel((which % submitted) as u32, "bob");
        }
        Act::Priority(which, priority) if submitted > 0 => {
            let by = "bob".into();
            world.step(Event::PriorityRequested {
                task: task((which % submitted) as u32),
                priority,
                by,
                role: Role::Admin,
            });
        }
        Act::Drain(n, mode) => {
            let (worker, by) = (worker(n), "bob".into());
            world.step(match mode {
                0 => Event::DrainRequested { worker, mode: Drain::Finish, by },
                1 => Event::DrainRequested { worker, mode: Drain::Evict, by },
                2 => Event::DrainRequested { worker, mode: Drain::DeclareDead, by },
                _ => Event::UndrainRequested { worker, by },
            });
        }
        Act::Quota { user, running, gpus } => {
            let scope = QuotaScope::User(USERS[usize::from(user)].into());
            let quota = Quota { running, gpus, ..Quota::default() };
            world.step(Event::QuotaRequested { scope, quota, by: "bob".into() });
        }
        Act::Checked(n, unfit) => {
            world.step(Event::WorkerChecked { worker: worker(n), unfit: unfit.then(|| "smoke".into()) });
        }
        Act::Join { n, cores, gpus, forget, lie } => {
            let held = world.core.worker_current_attempts(worker(n)).into_iter().zip(forget.into_iter().cycle());
            let mut inventory: Vec<Held> = held
                .filter(|(_, forget)| !forget)
                .map(|(a, _)| Held { attempt: a.id, task: a.task_id, epoch: a.epoch, log_acked: 0, metrics_acked: 0 })
                .collect();
            if lie {
                let epoch = AttemptEpoch { incarnation: 9, n: 9 };
                let attempts = world.attempts.keys().copied().take(3);
                inventory.extend(attempts.map(|attempt| Held {
                    attempt,
                    task: task(0),
                    epoch,
                    log_acked: 0,
                    metrics_acked: 0,
                }));
            }
            let names = ["NVIDIA H100", "NVIDIA A100-SXM4"];
            world.join_with(w(n, cores).gpus(&names[..gpus]).memory(8), inventory);
        }
        Act::Heard(n) => {
            world.heard(n);
        }
        Act::Gpus { n, states } => {
            let gpus = (0..).zip(states).map(|(index, state)| Gpu { index, state, ..Gpu::default() }).collect();
            world.step(Event::GpusChanged { worker: worker(n), gpus });
        }
        Act::Disconnect(n) => {
            world.step(Event::WorkerDisconnected { worker: worker(n) });
        }
        Act::Report { attempt, report: n } => {
            let Some(a) = world.attempts.values().nth(attempt % world.attempts.len().max(1)).cloned() else { return };
            let worker = match a.nodes.len() {
                0 => a.worker_id,
                nodes => a.nodes[attempt % nodes].worker_id,
            };
            let over = a.phase.is_over() || !a.is_on(worker);
            let (attempt, task, epoch) = (a.id, a.task_id, a.epoch);
            let answer = world.step(Event::AttemptReported { worker, attempt, task, epoch, report: report(n) });
            assert_eq!(answer == Answer::Stale, over, "exactly what is over is stale");
        }
        Act::Forged { attempt, report: n, forgery } => {
            let Some(mut a) = world.attempts.values().nth(attempt % world.attempts.len().max(1)).cloned() else {
                return;
            };
            match forgery {
                0 => a.epoch.n += 1,
                1 => a.worker_id = worker(77),
                2 => a.task_id = task(100_000),
                _ => a.id = AttemptId(uuid::Uuid::from_u128(7)),
            }
            let (worker, attempt, task, epoch) = (a.worker_id, a.id, a.task_id, a.epoch);
            let answer = world.step(Event::AttemptReported { worker, attempt, task, epoch, report: report(n) });
            assert_eq!(answer, Answer::Stale);
        }
        Act::Quick(which) => {
            let active: Vec<_> =
                world.rows.values().filter(|row| row.state.status.is_active()).map(|r| r.spec.id).collect();
            if let Some(id) = active.get(which % active.len().max(1)) {
                let n = number(id.0);
                for what in [ready(), Report::Running, Report::Collecting, ok()] {
                    world.report_all(n, &what);
                }
            }
        }
        Act::Pass { milliseconds } => world.pass_ms(milliseconds),
        Act::Restart => world.restart(),
        Act::Saves(which) => {
            let active = world.rows.values().filter(|row| row.state.status.is_active());
            let active: Vec<_> = active.map(|row| number(row.spec.id.0)).collect();
            if let Some(n) = active.get(which % active.len().max(1)) {
                world.saves(*n);
            }
        }
        Act::CancelArray(which) if submitted > 0 => {
            let array = world.rows.values().nth(which % submitted).and_then(|row| row.spec.array);
            let array = array.map_or(task(which as u32), |array| array.id);
            world.step(Event::ArrayCancelRequested { array, by: "bob".into() });
        }
        Act::Cancel(_) | Act::CancelArray(_) | Act::Priority(..) | Act::Turn => {
            world.turn();
        }
    }
    world.sent.clear();
}

/// A fair world: one big worker, every attempt runs and ends well.
fn drain(world: &mut World) {
    for user in USERS {
        let scope = QuotaScope::User(user.into());
        world.step(Event::QuotaRequested { scope, quota: Quota::default(), by: "bob".into() });
    }
    let reservations: Vec<_> = world.core.reservations().map(|record| record.id).collect();
    for reservation in reservations {
        // Those of tasks stay.
        world.step(Event::ReleaseRequested { reservation, by: "bob".into() });
    }
    // One whose task waits for others may be what keeps those from starting: then it is for people to end it.
    let claimants: Vec<_> = world.core.reservations().filter_map(|record| record.task_id).collect();
    let waiting = world.rows.values().filter(|row| row.state.blocked && claimants.contains(&row.spec.id));
    for n in waiting.map(|row| number(row.spec.id.0)).collect::<Vec<_>>() {
        world.cancel(n, "bob");
    }
    for n in 0..3 {
        world.step(Event::WorkerDisconnected { worker: worker(n) });
    }
    world.pass(1_000);
    for n in 8..11 {
        let big: W = w(n, 8).gpus(&["NVIDIA H100", "NVIDIA H100"]).slots(4, 2);
        world.join(big);
    }
    for _ in 0..10 * (world.rows.len() + 1) {
        world.pass(5);
        (8..11).for_each(|n| {
            world.heard(n);
        });
        world.turn();
        let attempts: Vec<_> = world.attempts.values().filter(|a| !a.phase.is_over()).cloned().collect();
        for record in attempts {
            let n = number(record.task_id.0);
            for what in [ready(), Report::Running, ok()] {
                world.report_all(n, &what);
            }
        }
        if world.rows.values().all(|row| row.state.status.is_terminal()) {
            break;
        }
    }
    for row in world.rows.values() {
        assert!(row.state.status.is_terminal(), "everything ends: {row:?}\n{}", world.core);
        if row.state.cancelled_by.is_some() {
            assert_eq!(row.state.status, TaskStatus::Failed, "what was cancelled never completes");
        }
    }
    world.pass(8 * 24 * 3_600);
    assert_eq!(world.core.reservations().count(), 0, "every reservation ends\n{}", world.core);
    assert_eq!(world.core.queue_depth(SlotKind::Batch), 0);
    assert_eq!(world.core.queue_depth(SlotKind::Service), 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_corrupts_the_core(steps in vec(acts(), 1..120), preempts in any::<bool>()) {
        let settings = Settings { preempt_batch: preempts, preempt_service: preempts, preempt_cooldown_s: 60, ..Settings::default() };
        let mut world = World::with(settings);
        world.join(w(0, 2).gpus(&["NVIDIA H100"]));
        for step in steps {
            act(&mut world, step);
        }
        drain(&mut world);
    }
}
