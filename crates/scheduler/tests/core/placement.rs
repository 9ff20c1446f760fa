//! Who goes where: fit of slots, cores, memory and GPUs, best fit, order of heads.

use crate::support::{T, W, World, ok, t, w, worker};
use fetchml_api::{WorkerStatus, link::Report};
use fetchml_scheduler::Event;

/// Workers, tasks, and what each task must get in one turn.
fn check(what: &str, workers: Vec<W>, tasks: Vec<T>, expected: &[&str]) {
    let mut world = World::new();
    for worker in workers {
        world.join(worker);
    }
    for task in tasks {
        world.submit(task);
    }
    assert_eq!(world.turn(), expected, "{what}");
    assert_eq!(world.turn(), [""; 0], "{what}: a second turn changes nothing");
}

#[test]
fn a_task_goes_where_it_fits() {
    const H: &str = "NVIDIA H100 80GB HBM3";
    const A: &str = "NVIDIA A100-SXM4-80GB";
    check("one to one", vec![w(1, 1)], vec![t(1)], &["w1: assign t1#1"]);
    check("no worker", vec![], vec![t(1)], &[]);
    check("slots end", vec![w(1, 2)], vec![t(1), t(2), t(3)], &["w1: assign t1#1", "w1: assign t2#1"]);
    check("cores end before slots", vec![w(1, 2).slots(4, 0)], vec![t(1).cpu(2), t(2)], &["w1: assign t1#1"]);
    check(
        "cpu 0 takes a slot only",
        vec![w(1, 1).slots(2, 0)],
        vec![t(1), t(2).cpu(0)],
        &["w1: assign t1#1", "w1: assign t2#1"],
    );
    check(
        "memory",
        vec![w(1, 4).memory(8)],
        vec![t(1).memory(6), t(2).memory(3), t(3).memory(2)],
        &["w1: assign t1#1", "w1: assign t3#1"],
    );
    check(
        "service slots are others",
        vec![w(1, 4).slots(1, 1)],
        vec![t(1), t(2), t(3).service(), t(4).service()],
        &["w1: assign t3#1", "w1: assign t1#1"],
    );
    check("too big for any", vec![w(1, 4)], vec![t(1).cpu(5), t(2)], &["w1: assign t2#1"]);
    check(
        "best fit by cores",
        vec![w(1, 8), w(2, 2), w(3, 4)],
        vec![t(1).cpu(2), t(2).cpu(3)],
        &["w2: assign t1#1", "w3: assign t2#1"],
    );
    check(
        "best fit passes over too little memory",
        vec![w(1, 8), w(2, 2).memory(1)],
        vec![t(1).memory(2)],
        &["w1: assign t1#1"],
    );
    check("no GPU wanted: workers without first", vec![w(1, 2).gpus(&[H]), w(2, 8)], vec![t(1)], &["w2: assign t1#1"]);
    check(
        "no GPU wanted: a GPU worker when it must be",
        vec![w(1, 2).gpus(&[H]), w(2, 1)],
        vec![t(1), t(2)],
        &["w2: assign t1#1", "w1: assign t2#1"],
    );
    check(
        "GPUs by index",
        vec![w(1, 4).gpus(&[H, H, H])],
        vec![t(1).gpu(2), t(2).gpu(1), t(3).gpu(1)],
        &["w1: assign t1#1 gpus [0, 1]", "w1: assign t2#1 gpus [2]"],
    );
    check(
        "fewest free GPUs that do",
        vec![w(1, 4).gpus(&[H, H, H, H]), w(2, 4).gpus(&[H])],
        vec![t(1).gpu(1), t(2).gpu(4)],
        &["w2: assign t1#1 gpus [0]", "w1: assign t2#1 gpus [0, 1, 2, 3]"],
    );
    check(
        "type by token",
        vec![w(1, 4).gpus(&[H, A])],
        vec![t(1).gpu(1).gpu_type("a100"), t(2).gpu(1).gpu_type("100")],
        &["w1: assign t1#1 gpus [1]"],
    );
    check(
        "as many of the type as wanted",
        vec![w(1, 4).gpus(&[H, A, H])],
        vec![t(1).gpu(2).gpu_type("H100")],
        &["w1: assign t1#1 gpus [0, 2]"],
    );
    check(
        "GPUs free, cores not",
        vec![w(1, 1).gpus(&[H]), w(2, 4).gpus(&[H, H])],
        vec![t(1).gpu(1).cpu(2)],
        &["w2: assign t1#1 gpus [0]"],
    );
    check("GPUs of one worker only", vec![w(1, 4).gpus(&[H]), w(2, 4).gpus(&[H])], vec![t(1).gpu(2)], &[]);
    check(
        "a stopped shape does not stop others",
        vec![w(1, 2)],
        vec![t(1).gpu(1), t(2).cpu(3), t(3)],
        &["w1: assign t3#1"],
    );
    check(
        "order is priority, then age",
        vec![w(1, 2)],
        vec![t(1), t(2).priority(7), t(3).priority(6)],
        &["w1: assign t2#1", "w1: assign t3#1"],
    );
    check(
        "users of a shape share one order",
        vec![w(1, 2)],
        vec![t(1), t(2).user("bob").priority(9), t(3).user("bob")],
        &["w1: assign t2#1", "w1: assign t1#1"],
    );
}

#[test]
fn what_ends_makes_room_for_the_next() {
    let mut world = World::new();
    world.join(w(1, 4).gpus(&["NVIDIA H100"]).slots(2, 0));
    for task in [t(1).gpu(1), t(2).gpu(1), t(3).cpu(3)] {
        world.submit(task);
    }
    assert_eq!(world.turn(), ["w1: assign t1#1 gpus [0]", "w1: assign t3#1"]);
    world.reports(1, &[Report::Accepted, Report::Running]);
    assert_eq!(world.turn(), [""; 0]);
    world.reports(1, &[Report::Collecting]);
    assert_eq!(world.turn(), ["w1: assign t2#1 gpus [0]"], "slot and GPU are free when the tree is dead");
    world.reports(1, &[ok()]);
    insta::assert_snapshot!(world.text(), @r"
    worker w1 online batch 2/2 service 0/0 cpu 4/4 memory 0/16 gpus free 0/1
      1.2 t3 Assigned gpus []
      1.3 t2 Assigned gpus [0]
    ");
}

#[test]
fn a_life_in_rows_and_audit() {
    let mut world = World::new();
    world.join(w(1, 1));
    world.submit(t(1));
    world.turn();
    assert_eq!(world.says(1), "preparing");
    world.reports(1, &[Report::Accepted]);
    assert_eq!(world.says(1), "preparing");
    world.pass(1);
    world.reports(1, &[Report::Running]);
    assert_eq!((world.says(1).as_str(), world.state(1).started_at), ("running", Some(world.now)));
    world.reports(1, &[Report::Collecting]);
    assert_eq!(world.says(1), "collecting");
    world.reports(1, &[ok()]);
    assert_eq!(world.says(1), "completed");
    assert_eq!((world.state(1).exit_code, world.state(1).ended_at), (Some(0), Some(world.now)));
    assert_eq!(world.turn(), ["w1: forget t1#1"]);
    assert_eq!(world.audited, ["t1 submit by ada", "t1 start by system", "t1 complete by system"]);
}

#[test]
fn workers_are_shown_with_what_is_free() {
    let mut world = World::new();
    world.join(w(1, 2).slots(2, 1));
    world.submit(t(1));
    world.turn();
    let shown = &world.core.workers(world.now)[0];
    assert_eq!((shown.slots.batch_available, shown.slots.batch_total, shown.slots.service_available), (1, 2, 1));
    assert_eq!((shown.active_tasks.len(), shown.status), (1, WorkerStatus::Active));
    world.step(Event::WorkerDisconnected { worker: worker(1) });
    assert_eq!(world.core.workers(world.now)[0].status, WorkerStatus::Offline);
}

#[test]
fn a_task_with_an_image_goes_where_containers_run() {
    let mut world = World::new();
    world.join(w(1, 4).gpus(&["H100"]));
    world.submit(t(1).image());
    world.submit(t(2).image().gpu(1));
    world.submit(t(3));
    assert_eq!(world.turn(), ["w1: assign t3#1"]);
    // An engine that was installed meanwhile.
    world.join(w(1, 4).gpus(&["H100"]).containers());
    assert_eq!(world.turn(), ["w1: assign t1#1", "w1: assign t2#1 gpus [0]"]);
    world.join(w(2, 4));
    world.join(w(3, 8).containers());
    world.submit(t(4).image().cpu(4));
    assert_eq!(world.turn(), ["w3: assign t4#1"]);
}

#[test]
fn a_worker_may_claim_anything() {
    let mut world = World::new();
    let gpu = fetchml_api::Gpu {
        index: 7,
        uuid: "G".into(),
        name: "H100".into(),
        memory_bytes: u64::MAX,
        ..Default::default()
    };
    let capabilities = fetchml_api::Capabilities {
        gpu_count: 9,
        cpu_cores: u32::MAX,
        memory_gb: u32::MAX,
        gpus: vec![gpu.clone(), gpu],
        ..Default::default()
    };
    let joined = Event::WorkerJoined {
        worker: worker(1),
        name: "liar".into(),
        capabilities,
        batch_slots: u32::MAX,
        service_slots: u32::MAX,
        inventory: vec![],
        unfit: None,
    };
    world.step(joined);
    world.submit(t(1).gpu(2));
    world.submit(t(2).gpu(1));
    world.submit(t(3).cpu(u32::MAX).memory(u32::MAX));
    world.submit(t(4));
    assert_eq!(world.turn(), ["w1: assign t2#1 gpus [7]", "w1: assign t4#1"], "two devices of one index are one");
}

#[test]
fn room_on_a_worker_without_an_engine_is_none_for_an_image() {
    let mut world = World::new();
    world.join(w(1, 2));
    world.submit(t(1).cpu(2));
    world.turn();
    world.submit(t(2).image());
    // It fits nowhere; then a worker without an engine has room again, and only that is looked at.
    assert_eq!(world.turn(), [""; 0]);
    world.reports(1, &[Report::Running, ok()]);
    world.sent.clear();
    assert_eq!(world.turn(), [""; 0]);
    world.join(w(2, 1).containers());
    assert_eq!(world.turn(), ["w2: assign t2#1"]);
}
