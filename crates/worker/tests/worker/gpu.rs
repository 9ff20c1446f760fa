//! What a worker knows of its GPUs, by the real wrapper of a library that tells what the test says.

use crate::{fake_nvml::FakeNvml, rig::until};
use fetchml_api::{Gpu, GpuState};
use fetchml_worker::gpu::{GpuSample, Gpus, Source, Timing};
use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};
use tempfile::TempDir;

const MILLISECONDS: Duration = Duration::from_millis(1);

/// Two GPUs at rest.
pub(crate) const TWO: &str = "
    all count 2
    0 uuid GPU-aaaa
    0 name NVIDIA H100 80GB HBM3
    0 minor 0
    0 memory_total 85520809984
    0 memory_used 1000000
    0 utilization 0
    0 power_mw 71250
    0 temperature 31
    0 ecc 0
    1 uuid GPU-bbbb
    1 name NVIDIA A100-SXM4-40GB
    1 minor 1
    1 memory_total 42949672960
    1 ecc 0
";

/// One GPU that is split in two, and one that is not.
const SPLIT: &str = "
    all count 2
    0 uuid GPU-aaaa
    0 name NVIDIA H100 80GB HBM3
    0 minor 0
    0 mig 7
    0.0 uuid MIG-1111
    0.0 name NVIDIA H100 80GB HBM3 MIG 3g.40gb
    0.0 memory_total 42949672960
    0.0 memory_used 2048
    0.0 gi 1
    0.0 ci 0
    0.4 uuid MIG-2222
    0.4 name NVIDIA H100 80GB HBM3 MIG 1g.10gb
    0.4 memory_total 10737418240
    0.4 gi 9
    0.4 ci 0
    1 uuid GPU-bbbb
    1 name NVIDIA H100 80GB HBM3
    1 minor 1
    1 memory_total 85520809984
";

/// A machine of before with lines before it: the first that is found counts.
pub(crate) fn with(lines: &str, machine: &str) -> String {
    format!("{lines}\n{machine}")
}

pub(crate) fn source(library: PathBuf) -> Source {
    let timing = Timing {
        look_every: 20 * MILLISECONDS,
        answer_within: 5_000 * MILLISECONDS,
        release_within: 300 * MILLISECONDS,
    };
    Source::Nvml { library: Some(library), timing }
}

struct Machine {
    data: TempDir,
    nvml: FakeNvml,
}

impl Machine {
    fn new(machine: &str) -> Self {
        Self { data: tempfile::tempdir().unwrap(), nvml: FakeNvml::new(machine) }
    }

    async fn gpus(&self) -> Gpus {
        Gpus::start(source(self.nvml.library()), self.data.path(), &[]).await
    }
}

fn states(gpus: &Gpus) -> Vec<(u32, GpuState)> {
    gpus.devices().iter().map(|gpu| (gpu.index, gpu.state)).collect()
}

async fn until_states(gpus: &Gpus, wanted: &[(u32, GpuState)]) -> Vec<Gpu> {
    until(&format!("{wanted:?}"), || (states(gpus) == wanted).then(|| gpus.devices().to_vec())).await
}

use GpuState::{Available, Unhealthy, Withheld};

#[tokio::test]
async fn devices_are_listed_with_what_they_do() {
    let machine = Machine::new(TWO);
    let gpus = machine.gpus().await;
    let expected = |index, uuid: &str, name: &str, memory_bytes| Gpu {
        index,
        uuid: uuid.into(),
        name: name.into(),
        memory_bytes,
        ..Gpu::default()
    };
    assert_eq!(
        **gpus.devices(),
        [
            expected(0, "GPU-aaaa", "NVIDIA H100 80GB HBM3", 85_520_809_984),
            expected(1, "GPU-bbbb", "NVIDIA A100-SXM4-40GB", 42_949_672_960)
        ]
    );
    let without_age = |index| {
        let samples = gpus.sample(&[index]);
        samples.into_iter().map(|sample| GpuSample { age: Duration::ZERO, ..sample }).collect::<Vec<_>>()
    };
    let idle = GpuSample {
        index: 0,
        utilization_percent: Some(0),
        memory_used_bytes: Some(1_000_000),
        memory_total_bytes: Some(85_520_809_984),
        power_watts: Some(71.25),
        temperature_celsius: Some(31),
        age: Duration::ZERO,
    };
    assert_eq!(without_age(0), std::slice::from_ref(&idle));
    machine.nvml.set(&with("0 utilization 97\n0 memory_used 70000000000\n0 power_mw 698000\n0 temperature 74", TWO));
    let busy = GpuSample {
        utilization_percent: Some(97),
        memory_used_bytes: Some(70_000_000_000),
        power_watts: Some(698.0),
        temperature_celsius: Some(74),
        ..idle.clone()
    };
    until("it is busy", || (without_age(0) == [busy.clone()]).then_some(())).await;
    let poor = GpuSample {
        index: 1,
        utilization_percent: None,
        memory_used_bytes: Some(0),
        memory_total_bytes: Some(42_949_672_960),
        power_watts: None,
        temperature_celsius: None,
        age: Duration::ZERO,
    };
    assert_eq!(without_age(1), [poor], "what a device does not say is absent");
    assert_eq!(without_age(7), [], "what is not there says nothing");
    assert_eq!(gpus.sample(&[1, 0]).iter().map(|sample| sample.index).collect::<Vec<_>>(), [1, 0]);
}

#[tokio::test]
async fn mig_devices_are_devices_of_their_own() {
    let machine = Machine::new(SPLIT);
    let gpus = machine.gpus().await;
    let shown: Vec<_> = gpus
        .devices()
        .iter()
        .map(|gpu| {
            let Gpu { index, uuid, name, memory_bytes, parent_uuid, mig_profile, .. } = gpu.clone();
            (index, uuid, name, memory_bytes >> 30, parent_uuid, mig_profile)
        })
        .collect();
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(
        shown,
        [
            // The split GPU itself is none of them, and leaves no gap: indexes are given in the order of finding.
            (0, "MIG-1111".into(), "NVIDIA H100 80GB HBM3 MIG 3g.40gb".into(), 40, text("GPU-aaaa"), text("3g.40gb")),
            (1, "MIG-2222".into(), "NVIDIA H100 80GB HBM3 MIG 1g.10gb".into(), 10, text("GPU-aaaa"), text("1g.10gb")),
            (2, "GPU-bbbb".into(), "NVIDIA H100 80GB HBM3".into(), 79, None, None),
        ]
    );
    assert_eq!(gpus.sample(&[0])[0].memory_used_bytes, Some(2048));
    // A fault of the GPU is one of all its parts.
    machine.nvml.set(&with("0 ecc 1", SPLIT));
    until_states(&gpus, &[(0, Unhealthy), (1, Unhealthy), (2, Available)]).await;
    // It is split in another way: other devices, with other indexes. And then not at all.
    machine.nvml.set(&SPLIT.replace("MIG-1111", "MIG-3333").replace("MIG-2222", "MIG-4444"));
    let uuids = until_states(&gpus, &[(2, Available), (3, Available), (4, Available)]).await;
    assert_eq!(uuids.iter().map(|gpu| &gpu.uuid[..]).collect::<Vec<_>>(), ["GPU-bbbb", "MIG-3333", "MIG-4444"]);
    machine.nvml.set(TWO);
    let whole = until_states(&gpus, &[(2, Available), (5, Available)]).await;
    assert_eq!(whole[1].uuid, "GPU-aaaa");
    // A split GPU without parts offers nothing.
    machine.nvml.set(&with("0 mig 0", TWO));
    until_states(&gpus, &[(2, Available)]).await;
}

#[tokio::test]
async fn a_process_of_nobody_withholds_its_device_until_it_ends() {
    let machine = Machine::new(TWO);
    let mut stranger = Command::new("sleep").arg("1000").spawn().unwrap();
    machine.nvml.set(&with(&format!("1 process {}", stranger.id()), TWO));
    let gpus = machine.gpus().await;
    let devices = until_states(&gpus, &[(0, Available), (1, Withheld)]).await;
    let reason = format!("it is used by process {} (sleep), to which it was not given", stranger.id());
    assert_eq!(devices[1].reason.as_ref(), Some(&reason));
    // Dead, but the driver has not freed its memory yet.
    stranger.kill().unwrap();
    stranger.wait().unwrap();
    let nameless = reason.replace(" (sleep)", "");
    until("it is withheld still", || (gpus.devices()[1].reason.as_ref() == Some(&nameless)).then_some(())).await;
    machine.nvml.set(TWO);
    until_states(&gpus, &[(0, Available), (1, Available)]).await;
    assert_eq!(gpus.devices()[1].reason, None);
}

#[tokio::test]
async fn memory_errors_and_xids_drain_a_device() {
    let machine = Machine::new(TWO);
    let gpus = machine.gpus().await;
    let reason = |index: usize| gpus.devices()[index].reason.clone().unwrap_or_default();
    // XIDs that programs cause by themselves are not the GPU's.
    machine.nvml.set(&with("1 ecc 3\n0 xid 13\n0 xid 31", TWO));
    until_states(&gpus, &[(0, Available), (1, Unhealthy)]).await;
    assert_eq!(reason(1), "3 memory errors could not be corrected; reset the GPU");
    // After a reset the counter is at 0.
    machine.nvml.set(&with("0 xid 13\n0 xid 31\n0 xid 79", TWO));
    until_states(&gpus, &[(0, Unhealthy), (1, Available)]).await;
    assert_eq!(reason(0), "the driver reported XID 79; reset the GPU and restart the worker");
    // It was told once, and nobody said that it is well again.
    machine.nvml.set(&with("1 ecc 1", TWO));
    until_states(&gpus, &[(0, Unhealthy), (1, Unhealthy)]).await;
    drop(gpus);
    machine.nvml.set(TWO);
    assert_eq!(states(&machine.gpus().await), [(0, Available), (1, Available)]);
}

#[tokio::test]
async fn a_device_that_is_lost_is_unhealthy_and_the_others_are_not() {
    let machine = Machine::new(TWO);
    let gpus = machine.gpus().await;
    // 15: lost, 16: reset required, 999: unknown.
    for (error, reason) in [
        ("0 error * 15", "it fell off the bus; restart the machine, and have the card looked at"),
        (
            "0 error nvmlDeviceGetMemoryInfo_v2 15",
            "it fell off the bus; restart the machine, and have the card looked at",
        ),
        (
            "0 error nvmlDeviceGetUtilizationRates 16",
            "it needs a reset: nvidia-smi --gpu-reset, or restart the machine",
        ),
        ("0 error nvmlDeviceGetUUID 999", "it does not answer: an internal driver error occurred"),
    ] {
        machine.nvml.set(&with(error, TWO));
        let devices = until_states(&gpus, &[(0, Unhealthy), (1, Available)]).await;
        assert_eq!((devices[0].reason.as_deref(), &devices[0].uuid[..]), (Some(reason), "GPU-aaaa"));
        assert_eq!(gpus.sample(&[0]), [], "nobody knows what it does");
        machine.nvml.set(TWO);
        until_states(&gpus, &[(0, Available), (1, Available)]).await;
    }
    // Gone from the list altogether: the other one, which NVML counts as the first now, stays what it was.
    machine
        .nvml
        .set(&TWO.replace("count 2", "count 1").replace("\n    0 ", "\n    9 ").replace("\n    1 ", "\n    0 "));
    let devices = until_states(&gpus, &[(0, Unhealthy), (1, Available)]).await;
    assert_eq!(devices[0].reason.as_deref(), Some("it is not there any more; restart the worker when that is meant"));
    assert_eq!(devices[1].uuid, "GPU-bbbb");
    // Also for the next agent, which has never seen the other.
    drop(gpus);
    let gpus = machine.gpus().await;
    assert_eq!(states(&gpus), [(1, Available)]);
    machine.nvml.set(TWO);
    until_states(&gpus, &[(0, Available), (1, Available)]).await;
}

#[tokio::test]
async fn a_device_that_never_answered_does_not_hide_the_others() {
    let machine = Machine::new(&with("0 error * 15", TWO));
    let gpus = machine.gpus().await;
    assert_eq!(states(&gpus), [(1, Available)]);
    machine.nvml.set(TWO);
    until_states(&gpus, &[(0, Available), (1, Available)]).await;
}

#[tokio::test]
async fn a_driver_that_hangs_hangs_nobody() {
    let machine = Machine::new(TWO);
    let timing = Timing { look_every: 20 * MILLISECONDS, answer_within: 300 * MILLISECONDS, ..Timing::default() };
    let library = Some(machine.nvml.library());
    let gpus = Gpus::start(Source::Nvml { library, timing }, machine.data.path(), &[]).await;
    until_states(&gpus, &[(0, Available), (1, Available)]).await;
    for function in ["nvmlDeviceGetCount_v2", "nvmlDeviceGetPowerUsage"] {
        machine.nvml.set(&with(&format!("all hang {function}"), TWO));
        let devices = until_states(&gpus, &[(0, Unhealthy), (1, Unhealthy)]).await;
        assert_eq!(devices[1].reason.as_deref(), Some("driver does not answer"));
        assert_eq!(gpus.sample(&[0, 1]), []);
        machine.nvml.set(TWO);
        until_states(&gpus, &[(0, Available), (1, Available)]).await;
    }
}

#[tokio::test]
async fn a_driver_that_hangs_at_the_start_is_waited_for_and_then_not() {
    let machine = Machine::new(&with("all hang nvmlInit_v2", TWO));
    let timing = Timing { look_every: 20 * MILLISECONDS, answer_within: 100 * MILLISECONDS, ..Timing::default() };
    let library = Some(machine.nvml.library());
    let gpus = Gpus::start(Source::Nvml { library, timing }, machine.data.path(), &[]).await;
    assert_eq!(states(&gpus), []);
    machine.nvml.set(TWO);
    until_states(&gpus, &[(0, Available), (1, Available)]).await;
}

#[tokio::test]
async fn without_the_library_or_its_driver_there_are_no_devices() {
    let data = tempfile::tempdir().unwrap();
    let gpus = Gpus::start(source("/nonexistent/libnvidia-ml.so.1".into()), data.path(), &[]).await;
    assert_eq!(states(&gpus), []);
    // A driver that is loaded after the worker is found; one that is unloaded is as gone as its devices.
    let machine = Machine::new(&with("all error nvmlInit_v2 9", TWO));
    let gpus = machine.gpus().await;
    assert_eq!(states(&gpus), []);
    machine.nvml.set(TWO);
    until_states(&gpus, &[(0, Available), (1, Available)]).await;
    machine.nvml.set(&with("all error * 9", TWO));
    until_states(&gpus, &[(0, Unhealthy), (1, Unhealthy)]).await;
    machine.nvml.set(TWO);
    until_states(&gpus, &[(0, Available), (1, Available)]).await;
}

#[tokio::test]
async fn an_older_driver_tells_less() {
    let lacking = [
        "nvmlDeviceGetMemoryInfo_v2",
        "nvmlDeviceGetComputeRunningProcesses_v3",
        "nvmlDeviceGetMigMode",
        "nvmlDeviceGetTotalEccErrors",
        "nvmlDeviceGetPowerUsage",
        "nvmlEventSetCreate",
        "nvmlDeviceGetMinorNumber",
    ];
    let nvml = FakeNvml::without(&lacking, &with("0 process 1\n0 ecc 9\n0 xid 79", TWO));
    let data = tempfile::tempdir().unwrap();
    let gpus = Gpus::start(source(nvml.library()), data.path(), &[]).await;
    assert_eq!(states(&gpus), [(0, Available), (1, Available)]);
    assert_eq!(gpus.devices()[0].memory_bytes, 0);
    let sample = gpus.sample(&[0]).remove(0);
    assert_eq!((sample.memory_used_bytes, sample.power_watts, sample.temperature_celsius), (None, None, Some(31)));
    // Without names there is no device.
    let nvml = FakeNvml::without(&["nvmlDeviceGetUUID"], TWO);
    assert_eq!(states(&Gpus::start(source(nvml.library()), data.path(), &[]).await), []);
    let nvml = FakeNvml::without(&["nvmlInit_v2"], TWO);
    assert_eq!(states(&Gpus::start(source(nvml.library()), data.path(), &[]).await), []);
}

#[tokio::test]
async fn simulated_devices_say_so() {
    let data = tempfile::tempdir().unwrap();
    let start = async |count, kind: Option<&str>| {
        Gpus::start(Source::Simulated { count, kind: kind.map(Into::into) }, data.path(), &[]).await.devices().to_vec()
    };
    let named = |gpus: Vec<Gpu>| gpus.into_iter().map(|gpu| (gpu.index, gpu.uuid, gpu.name)).collect::<Vec<_>>();
    assert_eq!(named(start(0, None).await), []);
    assert_eq!(named(start(1, None).await), [(0, "simulated-0".into(), "simulated".into())]);
    let two = named(start(2, Some("H100")).await);
    assert_eq!(two[1], (1, "simulated-1".into(), "simulated H100".into()));
}

/// On a machine with a GPU this reads the real one. A GPU is nothing that a test run can install, so on
/// every other machine the same must hold of the stand-in.
#[tokio::test]
async fn the_gpu_of_this_machine_is_read() {
    let (machine, data) = (Machine::new(TWO), tempfile::tempdir().unwrap());
    let is_real = Path::new("/dev/nvidia0").exists();
    let source = if is_real { Source::default() } else { source(machine.nvml.library()) };
    let gpus = Gpus::start(source, data.path(), &[]).await;
    let devices = gpus.devices();
    println!("{} {devices:?}", if is_real { "real" } else { "stand-in" });
    assert!(!devices.is_empty());
    let indexes: Vec<u32> = devices.iter().map(|gpu| gpu.index).collect();
    for gpu in devices.iter() {
        assert!(gpu.uuid.starts_with("GPU-") || gpu.uuid.starts_with("MIG-"), "{gpu:?}");
        assert!(!gpu.name.is_empty() && gpu.memory_bytes > 1 << 28, "{gpu:?}");
        assert!(gpu.state == Available || gpu.reason.is_some(), "{gpu:?}");
        assert_eq!(gpu.parent_uuid.is_some(), gpu.uuid.starts_with("MIG-"), "{gpu:?}");
    }
    let samples = gpus.sample(&indexes);
    assert_eq!(samples.len(), indexes.len());
    for sample in samples {
        assert!(sample.memory_used_bytes <= sample.memory_total_bytes, "{sample:?}");
        assert!(sample.utilization_percent.is_none_or(|percent| percent <= 100), "{sample:?}");
        assert!(sample.temperature_celsius.is_none_or(|degrees| (1..150).contains(&degrees)), "{sample:?}");
        assert!(sample.power_watts.is_none_or(|watts| (0.0..5_000.0).contains(&watts)), "{sample:?}");
    }
}
