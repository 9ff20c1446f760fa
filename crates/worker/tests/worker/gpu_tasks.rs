//! Tasks and the GPUs they have: what they are given, and what becomes of both.

use crate::{
    agent_peer::{Peer, Session, exited, script},
    fake_nvml::FakeNvml,
    gpu::{TWO, source, with},
    rig::{survivors, until, until_exists},
};
use fetchml_api::{
    FailureCause, GpuState, GpuUsage,
    link::{Assignment, Report, ToWorker},
};
use fetchml_worker::{Options, Worker};
use std::{fs, path::Path, process::Command};
use tempfile::TempDir;

struct Lab {
    nvml: FakeNvml,
    data: TempDir,
    peer: Peer,
    worker: Option<Worker>,
}

impl Lab {
    /// A worker on that machine, and its session.
    async fn new(machine: &str) -> (Self, Session) {
        let (nvml, data) = (FakeNvml::new(machine), tempfile::tempdir().unwrap());
        let mut lab = Self { nvml, data, peer: Peer::start().await, worker: None };
        let session = lab.start().await;
        (lab, session)
    }

    async fn start(&mut self) -> Session {
        let options = Options { gpus: source(self.nvml.library()), ..self.peer.options(self.data.path()) };
        self.worker = Some(Worker::start(options).await.unwrap());
        self.peer.welcomed().await
    }

    /// Where the working directory of an attempt is.
    fn file(&self, assignment: &Assignment, name: &str) -> std::path::PathBuf {
        self.data.path().join("attempts").join(assignment.attempt.to_string()).join("output").join(name)
    }
}

fn on(gpus: &[u32], assignment: Assignment) -> Assignment {
    Assignment { gpus: gpus.to_vec(), ..assignment }
}

fn states(session: &Session) -> Vec<GpuState> {
    session.gpus.iter().map(|gpu| gpu.state).collect()
}

async fn running(session: &mut Session, assignment: &Assignment) {
    session.assign(assignment).await;
    session.expect(assignment.attempt, Report::Accepted).await;
    session.expect(assignment.attempt, Report::Running).await;
}

/// The id that a task wrote into a file of its output directory.
async fn pid_in(file: &Path) -> u32 {
    until_exists(file).await;
    until("a process id", || fs::read_to_string(file).unwrap().trim().parse().ok()).await
}

use GpuState::{Available, Unhealthy, Withheld};

#[tokio::test]
async fn devices_are_told_with_the_hello_and_whenever_they_change() {
    let (lab, mut session) = Lab::new(TWO).await;
    let told = &session.hello.capabilities;
    assert_eq!((told.gpu_count, told.gpu_type.as_deref()), (2, Some("NVIDIA H100 80GB HBM3")));
    assert_eq!((told.gpus.len(), &told.gpus[1].uuid[..]), (2, "GPU-bbbb"));
    lab.nvml.set(&with("1 ecc 1\n0 utilization 50\n0 memory_used 77", TWO));
    session.until("a device with errors", |session| states(session) == [Available, Unhealthy]).await;
    let busy = GpuUsage { index: 0, utilization_percent: Some(50), memory_used_bytes: Some(77) };
    session.until("what it does", |session| session.gpu_usage.first() == Some(&busy)).await;
    lab.nvml.set(TWO);
    session.until("a device without errors", |session| states(session) == [Available, Available]).await;
}

#[tokio::test]
async fn a_task_gets_its_devices_by_uuid_and_may_use_them() {
    let (lab, mut session) = Lab::new(TWO).await;
    let task = on(&[1, 0], script("echo $CUDA_VISIBLE_DEVICES; echo $$ > $FETCHML_OUTPUT_DIR/pid; exec sleep 1000"));
    running(&mut session, &task).await;
    let pid = pid_in(&lab.file(&task, "pid")).await;
    // Its own process, and one that is not visible from here, as of a container.
    lab.nvml.set(&with(&format!("0 process {pid}\n0 process 4194999\n1 ecc 1"), TWO));
    session.until("a look with its process", |session| states(session) == [Available, Unhealthy]).await;
    session.send(ToWorker::Cancel { attempt: task.attempt, cause: FailureCause::Cancelled, grace_s: 0 }).await;
    until("it is dead", || survivors(task.attempt).is_empty().then_some(())).await;
    lab.nvml.set(TWO);
    session.ended(task.attempt).await;
    let log = String::from_utf8(session.logs[&task.attempt].clone()).unwrap();
    let (first, rest) = log.split_once('\n').unwrap();
    assert_eq!(first, "GPU-bbbb,GPU-aaaa");
    let note =
        "fetchml: GPU 1 (NVIDIA A100-SXM4-40GB) is unhealthy: 1 memory error could not be corrected; reset the GPU\n";
    assert_eq!(rest, note, "nothing was done to the task, but its log says what happened");
}

#[tokio::test]
async fn what_its_devices_do_stands_in_the_samples_of_a_task() {
    let busy = "0 utilization 11\n1 utilization 50\n1 memory_used 77";
    let (_lab, mut session) = Lab::new(&with(busy, TWO)).await;
    let task = on(&[1], script("exec sleep 1000"));
    running(&mut session, &task).await;
    let sampled = |session: &Session| {
        let stream = session.metrics.get(&task.attempt).map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        stream.is_some_and(|text| {
            let has = |figure: &str| text.contains(figure);
            assert!(!has("gpu.0."), "a device of others: {text}");
            has("\"gpu.1.utilization_percent\":50.0") && has("\"gpu.1.memory_bytes\":77.0") && has("\"memory_bytes\":")
        })
    };
    session.until("a sample", sampled).await;
    session.send(ToWorker::Cancel { attempt: task.attempt, cause: FailureCause::Cancelled, grace_s: 0 }).await;
    session.ended(task.attempt).await;
}

#[tokio::test]
async fn a_process_on_a_device_of_another_task_is_a_stranger_there() {
    let (lab, mut session) = Lab::new(TWO).await;
    let task = on(&[0], script("echo $$ > $FETCHML_OUTPUT_DIR/pid; exec sleep 1000"));
    running(&mut session, &task).await;
    let pid = pid_in(&lab.file(&task, "pid")).await;
    lab.nvml.set(&with(&format!("0 process {pid}\n1 process {pid}"), TWO));
    session.until("the other is withheld", |session| states(session) == [Available, Withheld]).await;
    let reason = format!("it is used by process {pid} (sleep), to which it was not given");
    assert_eq!(session.gpus[1].reason.as_ref(), Some(&reason));
}

#[tokio::test]
async fn what_a_task_leaves_on_its_device_is_waited_for_and_then_withholds_it() {
    let (lab, mut session) = Lab::new(TWO).await;
    for gone in [true, false] {
        let task = on(&[0], script("echo $$ > $FETCHML_OUTPUT_DIR/pid; exec sleep 1000"));
        running(&mut session, &task).await;
        let pid = pid_in(&lab.file(&task, "pid")).await;
        lab.nvml.set(&with(&format!("0 process {pid}"), TWO));
        session.send(ToWorker::Cancel { attempt: task.attempt, cause: FailureCause::Cancelled, grace_s: 0 }).await;
        until("it is dead", || survivors(task.attempt).is_empty().then_some(())).await;
        if gone {
            lab.nvml.set(TWO);
        }
        session.expect(task.attempt, Report::Collecting).await;
        // Told before the device is free by that report, so nothing can be placed on it in between.
        assert_eq!(states(&session), [if gone { Available } else { Withheld }, Available]);
        session.ended(task.attempt).await;
    }
    let reason = session.gpus[0].reason.clone().unwrap();
    assert!(
        reason.starts_with("it is used by process ") && reason.ends_with(", to which it was not given"),
        "{reason}"
    );
    lab.nvml.set(TWO);
    session.until("the driver has freed it", |session| states(session) == [Available, Available]).await;
}

#[tokio::test]
async fn a_failure_with_a_fault_of_the_device_is_not_the_tasks() {
    let (lab, mut session) = Lab::new(TWO).await;
    let fails = "until test -e $FETCHML_OUTPUT_DIR/go; do sleep 0.01; done; exit 3";
    // The fault shows only after the failure is seen: it is looked for.
    for (device, fault, expected) in [
        (0, "0 xid 31", (Some(FailureCause::ExitNonzero), Some(3))),
        (1, "0 xid 31\n1 ecc 1", (Some(FailureCause::Lost), Some(3))),
        (0, "0 xid 31\n0 xid 79", (Some(FailureCause::Lost), Some(3))),
    ] {
        lab.nvml.set(TWO);
        session.until("devices", |session| session.gpus[device as usize].state == Available).await;
        let task = on(&[device], script(fails));
        running(&mut session, &task).await;
        lab.nvml.set(&with(fault, TWO));
        fs::write(lab.file(&task, "go"), "").unwrap();
        let outcome = session.ended(task.attempt).await;
        assert_eq!(exited(&outcome), expected, "{outcome:?}");
        if outcome.cause == Some(FailureCause::Lost) {
            let error = outcome.error.unwrap();
            assert!(error.starts_with(&format!("the process failed, and its GPU {device} (NVIDIA ")), "{error}");
        }
    }
    // What is unhealthy is given to nobody, whatever the server believes.
    for (device, problem) in [(0, "is unhealthy: the driver reported XID 79"), (9, "is not there any more")] {
        let task = on(&[device], script("true"));
        session.assign(&task).await;
        let outcome = session.ended(task.attempt).await;
        assert_eq!((outcome.cause, outcome.transient), (Some(FailureCause::Launch), true));
        assert!(outcome.error.as_ref().unwrap().contains(problem), "{outcome:?}");
    }
}

#[tokio::test]
async fn an_agent_that_comes_back_knows_whose_the_processes_are() {
    let (mut lab, mut session) = Lab::new(TWO).await;
    let task = on(&[1], script("echo $$ > $FETCHML_OUTPUT_DIR/pid; exec env -i sleep 1000"));
    running(&mut session, &task).await;
    let pid = pid_in(&lab.file(&task, "pid")).await;
    lab.worker.take().unwrap().shutdown(false).await;
    drop(session);
    // The first GPU is gone meanwhile, and NVML counts the other as the first.
    let alone = TWO.replace("count 2", "count 1").replace("\n    0 ", "\n    9 ").replace("\n    1 ", "\n    0 ");
    lab.nvml.set(&with(&format!("0 process {pid}"), &alone));
    let mut session = lab.start().await;
    let told = &session.hello.capabilities.gpus;
    assert_eq!((told.len(), told[0].index, told[0].state), (1, 1, Available), "{told:?}");
    let mut stranger = Command::new("sleep").arg("1000").spawn().unwrap();
    lab.nvml.set(&with(&format!("0 process {pid}\n0 process {}", stranger.id()), &alone));
    session.until("a stranger beside it", |session| states(session) == [Withheld]).await;
    stranger.kill().unwrap();
    stranger.wait().unwrap();
    session.send(ToWorker::Cancel { attempt: task.attempt, cause: FailureCause::Cancelled, grace_s: 0 }).await;
    lab.nvml.set(&alone);
    session.ended(task.attempt).await;
    session.until("nobody has it", |session| states(session) == [Available]).await;
}

#[tokio::test]
async fn an_index_that_an_attempt_has_is_given_to_no_other_device() {
    let (mut lab, mut session) = Lab::new(TWO).await;
    let task = on(&[0], script("sleep 1000"));
    running(&mut session, &task).await;
    lab.worker.take().unwrap().shutdown(false).await;
    drop(session);
    // Both GPUs are replaced, and the task is still there.
    lab.nvml.set(&TWO.replace("GPU-aaaa", "GPU-cccc").replace("GPU-bbbb", "GPU-dddd"));
    let session = lab.start().await;
    let told: Vec<_> = session.gpus.iter().map(|gpu| (gpu.index, &gpu.uuid[..])).collect();
    assert_eq!(told, [(1, "GPU-cccc"), (2, "GPU-dddd")]);
}
