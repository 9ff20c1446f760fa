//! Devices that their worker says are not available.

use crate::support::{World, ok, t, w, worker};
use fetchml_api::{Gpu, GpuState, WorkerStatus, link::Report};
use fetchml_scheduler::{Answer, Event};

use GpuState::{Available, Unhealthy, Withheld};

fn changed(gpus: Vec<Gpu>) -> Event {
    Event::GpusChanged { worker: worker(1), gpus }
}

#[test]
fn a_device_that_is_not_available_gets_nothing_until_it_is() {
    for state in [Withheld, Unhealthy] {
        let mut world = World::new();
        let joining = w(1, 4).gpus(&["H100", "H100"]);
        world.join(joining.clone());
        assert_eq!(world.step(changed(joining.devices(&[(0, state)]))), Answer::Done);
        world.submit(t(1).gpu(1));
        world.submit(t(2).gpu(1));
        assert_eq!(world.turn(), ["w1: assign t1#1 gpus [1]"], "{state:?}");
        assert_eq!(
            world.core.workers(world.now)[0].capabilities.gpus[0].reason.as_deref().map(|r| &r[..3]),
            Some("is ")
        );
        // Nothing has become free, only available: that is room as well.
        assert_eq!(world.step(changed(joining.devices(&[]))), Answer::Done);
        assert_eq!(world.turn(), ["w1: assign t2#1 gpus [0]"], "{state:?}");
        assert_eq!(world.step(changed(joining.devices(&[]))), Answer::Unchanged);
    }
}

#[test]
fn a_task_on_a_device_that_gets_a_fault_goes_on_and_leaves_it_to_nobody() {
    let mut world = World::new();
    let joining = w(1, 4).gpus(&["H100"]);
    world.join(joining.clone());
    world.submit(t(1).gpu(1));
    world.submit(t(2).gpu(1));
    assert_eq!(world.turn(), ["w1: assign t1#1 gpus [0]"]);
    world.reports(1, &[Report::Accepted, Report::Running]);
    world.step(changed(joining.devices(&[(0, Unhealthy)])));
    assert_eq!(world.turn(), [""; 0]);
    world.reports(1, &[Report::Collecting, ok()]);
    assert_eq!(world.says(1), "completed");
    assert_eq!(world.turn(), ["w1: forget t1#1"], "the device has a fault");
    world.step(changed(joining.devices(&[(0, Available)])));
    assert_eq!(world.turn(), ["w1: assign t2#1 gpus [0]"]);
}

#[test]
fn faults_are_audited_and_outlive_a_restart_of_the_server() {
    let mut world = World::new();
    let joining = w(1, 4).gpus(&["H100", "H100"]);
    world.join(joining.clone());
    world.step(changed(joining.devices(&[(0, Withheld), (1, Unhealthy)])));
    assert_eq!(std::mem::take(&mut world.audited), ["w1 gpus/1 gpu_drain by system: is unhealthy"]);
    world.restart();
    assert_eq!(world.core.workers(world.now)[0].status, WorkerStatus::Offline);
    assert_eq!(world.core.workers(world.now)[0].capabilities.gpus[1].state, Unhealthy);
    // A worker that comes back says what is true now.
    world.join(joining);
    assert_eq!(std::mem::take(&mut world.audited), ["w1 gpus/1 gpu_undrain by system"]);
    world.submit(t(1).gpu(2));
    assert_eq!(world.turn(), ["w1: assign t1#1 gpus [0, 1]"]);
}

#[test]
fn devices_may_come_and_go() {
    let mut world = World::new();
    let joining = w(1, 4).gpus(&["H100"]);
    world.join(joining.clone());
    world.submit(t(1).gpu(1));
    world.submit(t(2).gpu(1));
    world.turn();
    // The GPU was split while it was in use: its old index means nothing any more.
    let parts = [3, 4].map(|index| Gpu { index, uuid: format!("MIG-{index}"), ..Gpu::default() });
    world.step(changed(parts.to_vec()));
    assert_eq!(world.turn(), ["w1: assign t2#1 gpus [3]"]);
    world.reports(1, &[Report::Accepted, Report::Running, Report::Collecting, ok()]);
    world.step(changed(joining.devices(&[])));
    world.submit(t(3).gpu(1));
    assert_eq!(world.turn(), ["w1: forget t1#1", "w1: assign t3#1 gpus [0]"]);
}

#[test]
fn a_worker_that_never_joined_has_no_devices() {
    assert_eq!(World::new().step(changed(vec![Gpu::default()])), Answer::Unchanged);
}
