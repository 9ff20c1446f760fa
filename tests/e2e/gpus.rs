//! Workers with GPUs: NVIDIA's library is a stand-in that says what the test wants, everything else is real.

use crate::{
    fake_nvml::FakeNvml,
    support::{DEADLINE, Lab, eventually},
};
use fetchml_api::{CreateTaskRequest, GpuState, TaskId, TaskStatus, Worker};
use fetchml_store::{Location, Store};
use rustix::process::geteuid;
use std::{fs, process::Command};

/// A machine with one GPU at rest.
const ONE: &str = "
    all count 1
    0 uuid GPU-aaaa
    0 name NVIDIA H100 80GB HBM3
    0 minor 0
    0 memory_total 85520809984
    0 memory_used 8589934592
    0 utilization 41
    0 ecc 0
";

/// Makes a `/dev` of its own, with the nodes of two GPUs, which are `/dev/null` by another name.
const WITH_NODES: &str = r#"
    set -e
    dev=$1; shift
    mkdir -p $dev; mount -t tmpfs -o mode=755 tmpfs $dev
    for node in null zero full random urandom tty; do cp -a /dev/$node $dev/; done
    mkdir $dev/pts $dev/shm; mount --rbind /dev/pts $dev/pts; mount -t tmpfs tmpfs $dev/shm
    ln -s /proc/self/fd $dev/fd; ln -s pts/ptmx $dev/ptmx
    for node in nvidia0 nvidia1 nvidiactl nvidia-uvm; do mknod -m 666 $dev/$node c 1 3; done
    mount --move $dev /dev
    exec "$@"
"#;

fn named(name: &str, nvml: &FakeNvml) -> [String; 3] {
    let library = format!("FETCHML_NVML_LIBRARY={}", nvml.library().display());
    ["/usr/bin/env".to_owned(), format!("FETCHML_WORKER_NAME={name}"), library]
}

async fn submit(lab: &Lab, script: &str, gpu: i32) -> TaskId {
    let args = Some(format!("bash -c '{script}'"));
    let request = CreateTaskRequest { job_name: "gpu".into(), args, gpu: Some(gpu), ..Default::default() };
    lab.client().submit(&request, true).await.expect("the task is accepted").id
}

async fn worker(lab: &Lab, name: &str) -> Worker {
    serde_json::from_str(&lab.output(&["workers", name, "--json"]).await).expect("a worker")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_waits_for_a_device_that_is_used_by_others_and_leaves_one_with_a_fault() {
    let (one, two) = (FakeNvml::new(ONE), FakeNvml::new(&ONE.replace("GPU-aaaa", "GPU-bbbb")));
    let mut stranger = Command::new("sleep").arg("1000").spawn().unwrap();
    one.set(&format!("0 process {}\n{ONE}", stranger.id()));
    let mut lab = Lab::new().worker_wrapped(&named("gpu-box-1", &one));
    lab.serve().await;
    lab.worker(1).await;
    let gate = lab.path("gate");
    let script = format!("echo on $CUDA_VISIBLE_DEVICES; until [ -e {} ]; do sleep 0.05; done; exit 3", gate.display());
    let task =
        submit(&lab, &format!("[ $FETCHML_ATTEMPT = 1 ] || exec echo on $CUDA_VISIBLE_DEVICES; {script}"), 1).await;
    let without = submit(&lab, "true", 0).await;
    lab.until(without, TaskStatus::Completed).await;
    assert_eq!(lab.client().task(task).await.unwrap().status, TaskStatus::Queued, "the only GPU is withheld");
    let reason =
        format!("GPU 0 is withheld: it is used by process {} (sleep), to which it was not given", stranger.id());
    // Its figures come with a heartbeat, after what it offers.
    eventually("the device is shown with its figures", DEADLINE, async || {
        let shown = lab.output(&["workers", "gpu-box-1"]).await;
        assert!(shown.contains(&reason), "{shown}");
        (shown.contains("8.0 GiB of 79.6 GiB") && shown.contains("41 %")).then_some(())
    })
    .await;
    let shown = lab.output(&["workers"]).await;
    assert!(shown.contains("1 x NVIDIA H100 80GB HBM3 (1 withheld)"), "{shown}");

    stranger.kill().unwrap();
    stranger.wait().unwrap();
    one.set(ONE);
    lab.until(task, TaskStatus::Running).await;
    lab.wrap_next_workers(&named("gpu-box-2", &two));
    lab.worker(2).await;
    one.set(&format!("0 ecc 2\n{ONE}"));
    fs::write(&gate, "").unwrap();
    let ended = lab.until(task, TaskStatus::Completed).await;
    assert_eq!((ended.requeue_count, ended.retry_count), (1, 0), "it was no fault of the task");
    assert_eq!(ended.worker_id, Some(worker(&lab, "gpu-box-2").await.id));
    assert_eq!(lab.log(task).await, "on GPU-bbbb\n");
    let worker_1 = worker(&lab, "gpu-box-1").await;
    let faulty = &worker_1.capabilities.gpus[0];
    assert_eq!(faulty.state, GpuState::Unhealthy, "told before the device was free");
    assert_eq!(faulty.reason.as_deref(), Some("2 memory errors could not be corrected; reset the GPU"));

    // The audit log says which device, and why.
    lab.server.take().unwrap().terminate().await;
    let store = Store::open(&Location::Sqlite(lab.data_dir().join("fetchml.db"))).await.unwrap();
    let drains = store.audit_rows(0, 1_000).await.unwrap().into_iter().filter_map(|row| {
        let body: serde_json::Value = serde_json::from_slice(&row.body).unwrap();
        (body["action"] == "gpu_drain").then(|| (body["resource"].clone(), body["error"].clone()))
    });
    let resource = format!("workers/{}/gpus/0", worker_1.id);
    assert_eq!(
        drains.collect::<Vec<_>>(),
        [(resource.into(), "2 memory errors could not be corrected; reset the GPU".into())]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_sees_the_nodes_of_its_own_gpus_only() {
    assert!(geteuid().is_root(), "this test needs root: run `sudo -E cargo xtask test`");
    let two = "
        1 uuid GPU-bbbb
        1 name NVIDIA H100 80GB HBM3
        1 minor 1
    ";
    let nvml = FakeNvml::new(&format!("all count 2\n{ONE}{two}"));
    let lab = Lab::new().sandboxed();
    let dev = lab.path("dev").display().to_string();
    let own_nodes = ["unshare", "--mount", "sh", "-c", WITH_NODES, "sh", &dev];
    let wrapper: Vec<_> = named("gpu-box", &nvml).into_iter().chain(own_nodes.map(ToOwned::to_owned)).collect();
    let mut lab = lab.worker_wrapped(&wrapper);
    lab.serve().await;
    lab.worker(1).await;
    let look = "ls /dev | grep nvidia; for node in /dev/nvidia*; do : < $node && echo opened; done; exit 0";
    for (gpu, seen) in [
        (0, ""),
        (1, "nvidia-uvm\nnvidia0\nnvidiactl\nopened\nopened\nopened\n"),
        (2, "nvidia-uvm\nnvidia0\nnvidia1\nnvidiactl\nopened\nopened\nopened\nopened\n"),
    ] {
        let task = submit(&lab, &format!("shopt -s nullglob; {look}"), gpu).await;
        lab.until(task, TaskStatus::Completed).await;
        assert_eq!(lab.log(task).await, seen, "{gpu} GPUs");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn simulated_devices_are_placed_like_real_ones() {
    let mut lab = Lab::new();
    lab.up(&["--gpus", "2", "--gpu-type", "H100", "--slots", "4"]).await;
    let shown = lab.output(&["workers"]).await;
    assert!(shown.contains("2 x simulated H100"), "{shown}");
    let gate = lab.path("gate");
    let script = format!("echo $CUDA_VISIBLE_DEVICES; until [ -e {} ]; do sleep 0.05; done", gate.display());
    let request = |gpu| CreateTaskRequest {
        job_name: "gpu".into(),
        args: Some(format!("bash -c '{script}'")),
        cpu: Some(0),
        gpu: Some(gpu),
        gpu_type: Some("H100".into()),
        ..Default::default()
    };
    let mut tasks = Vec::new();
    for _ in 0..3 {
        tasks.push(lab.client().submit(&request(1), true).await.unwrap().id);
    }
    for task in &tasks[..2] {
        lab.until(*task, TaskStatus::Running).await;
    }
    assert_eq!(lab.client().task(tasks[2]).await.unwrap().status, TaskStatus::Queued, "both devices are taken");
    fs::write(&gate, "").unwrap();
    let mut given = Vec::new();
    for task in tasks {
        lab.until(task, TaskStatus::Completed).await;
        given.push(lab.log(task).await);
    }
    assert_eq!(given[..2], ["0\n", "1\n"]);
}
