//! Networks that delay, fall silent and break: one attempt of a task has authority, and logs are whole.

use crate::{
    namespace::{Namespace, Way},
    proxy::Proxy,
    support::{DEADLINE, Lab, eventually},
};
use fetchml_api::{TaskId, TaskStatus};
use fetchml_client::LogQuery;
use futures_util::TryStreamExt as _;
use sha2::{Digest as _, Sha256};
use std::{collections::BTreeSet, fs, time::Duration};

/// Attempts of a task of which a process lives.
fn living(task: TaskId) -> BTreeSet<String> {
    let mark = format!("FETCHML_TASK_ID={task}");
    let mut attempts = BTreeSet::new();
    for entry in fs::read_dir("/proc").expect("/proc").flatten() {
        let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
        let variables: Vec<_> = environment.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
        if variables.iter().any(|variable| *variable == mark) {
            attempts.extend(variables.iter().filter_map(|v| Some(v.strip_prefix("FETCHML_ATTEMPT_ID=")?.to_owned())));
        }
    }
    attempts
}

/// Long enough for a lease of a fifth of a minute to run out on a busy machine.
const LEASE_DEADLINE: Duration = Duration::from_mins(2);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g2_a_worker_that_is_cut_off_stops_before_another_one_starts() {
    let mut lab = Lab::new();
    lab.serve_with(&["--lost-after", "12"]);
    lab.serve().await;
    let proxy = Proxy::to(lab.listen()).await;
    lab.worker_at(1, &proxy.url()).await;
    let hold = |on| proxy.set(|weather| (weather.hold_up, weather.hold_down) = (on, on));
    stops_before_another_one_starts(lab, || hold(true), || hold(false)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g2_a_worker_that_the_server_does_not_hear_stops_before_another_one_starts() {
    one_way(Way::Up).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g2_a_worker_that_does_not_hear_the_server_stops_before_another_one_starts() {
    one_way(Way::Down).await;
}

/// Packets of one direction are dropped, those of the other arrive.
async fn one_way(way: Way) {
    let namespace = Namespace::new();
    let mut lab = Lab::new().listening_on(namespace.server_ip()).worker_wrapped(&namespace.wrapper());
    lab.serve_with(&["--lost-after", "12"]);
    lab.serve().await;
    lab.worker(1).await;
    lab.wrap_next_workers(&[""; 0]);
    stops_before_another_one_starts(lab, || namespace.cut(way), || namespace.heal()).await;
}

async fn stops_before_another_one_starts(mut lab: Lab, cut: impl FnOnce(), heal: impl FnOnce()) {
    let gate = lab.path("gate");
    let script =
        format!("echo begun; trap \"\" TERM; while [ ! -e {} ]; do sleep 0.05; done; echo ended", gate.display());
    let task = lab.submit(&format!("bash -c '{script}'")).await;
    let before = lab.until(task, TaskStatus::Running).await;
    eventually("the process runs", DEADLINE, async || (!living(task).is_empty()).then_some(())).await;
    lab.worker(2).await;

    cut();
    let mut seen = BTreeSet::new();
    let second = eventually("the task runs on the other worker", LEASE_DEADLINE, async || {
        let now = living(task);
        assert!(now.len() <= 1, "two copies run at once: {now:?}");
        seen.extend(now);
        (seen.len() == 2 && living(task).len() == 1).then_some(())?;
        let task = lab.client().task(task).await.ok()?;
        (task.status == TaskStatus::Running && task.attempt_id != before.attempt_id).then_some(task)
    })
    .await;
    assert_ne!(second.worker_id, before.worker_id);
    assert_eq!((second.retry_count, second.requeue_count), (0, 1), "lost costs no retry");

    // What the first worker has to say comes now, and changes nothing.
    heal();
    lab.workers_active(2).await;
    fs::write(&gate, "").expect("a file");
    let ended = lab.until(task, TaskStatus::Completed).await;
    assert_eq!((ended.attempt_id, ended.requeue_count), (second.attempt_id, 1));
    assert_eq!(lab.log(task).await, "begun\nended\n");
    eventually("the first worker holds nothing any more", DEADLINE, async || {
        fs::read_dir(lab.path("worker1").join("attempts")).ok()?.next().is_none().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_is_dead_in_one_direction_is_noticed_and_made_again() {
    let mut lab = Lab::new();
    lab.serve().await;
    let proxy = Proxy::to(lab.listen()).await;
    lab.worker_at(1, &proxy.url()).await;
    let gate = lab.path("gate");
    let task =
        lab.submit(&format!("bash -c 'while [ ! -e {} ]; do sleep 0.05; done; echo ended'", gate.display())).await;
    let before = lab.until(task, TaskStatus::Running).await;

    // The worker hears nothing any more, while the server goes on hearing the worker.
    proxy.set(|weather| weather.hold_down = true);
    fs::write(&gate, "").unwrap();
    eventually("the worker gave the link up", DEADLINE, async || {
        lab.workers[0].stderr().contains("does not answer heartbeats").then_some(())
    })
    .await;
    proxy.set(|weather| weather.hold_down = false);

    let ended = lab.until(task, TaskStatus::Completed).await;
    assert_eq!((ended.attempt_id, ended.retry_count, ended.requeue_count), (before.attempt_id, 0, 0));
    assert_eq!(lab.log(task).await, "ended\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g6_a_log_is_whole_though_one_packet_in_ten_is_lost() {
    const LINES: usize = 200_000;
    let namespace = Namespace::new();
    let mut lab = Lab::new().listening_on(namespace.server_ip()).worker_wrapped(&namespace.wrapper());
    lab.serve().await;
    namespace.lose(10);
    lab.worker(1).await;
    let task = lab.submit(&format!("seq 1 {LINES}")).await;
    let ended = lab.until(task, TaskStatus::Completed).await;
    assert_eq!((ended.retry_count, ended.requeue_count), (0, 0));
    let expected = (1..=LINES).fold(String::new(), |all, line| all + &format!("{line}\n"));
    assert!(lab.log(task).await == expected, "the log is another one");
}

/// Bytes of the log in the next test: many windows of the link, small enough for a debug build.
const LOG_BYTES: usize = 24 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g6_a_log_of_garbage_is_whole_after_every_kind_of_break() {
    let mut lab = Lab::new();
    lab.serve().await;
    let proxy = Proxy::to(lab.listen()).await;
    proxy.set(|weather| weather.delay = Duration::from_millis(2));
    lab.worker_at(1, &proxy.url()).await;
    // Everything that is no UTF-8, in no lines.
    let chunks = LOG_BYTES >> 20;
    let generator = format!(
        "python3 -c \"import random, sys; r = random.Random(7); \
         [sys.stdout.buffer.write(r.randbytes(1 << 20)) for _ in range({chunks})]\""
    );
    let expected = std::process::Command::new("bash").args(["-c", &generator]).output().unwrap().stdout;
    assert_eq!(expected.len(), LOG_BYTES);
    let task = lab.submit(&format!("bash -c '{generator}'")).await;

    let client = lab.client();
    let reached = async |length: u64| {
        eventually("the log grows", DEADLINE, async || {
            let last = client.logs(task, LogQuery::default(), Some(length - 1..length)).await.ok()?;
            last.try_collect::<Vec<_>>().await.ok()
        })
        .await;
    };
    reached(1 << 20).await;
    proxy.reset();
    reached(6 << 20).await;
    lab.kill_server();
    lab.serve().await;
    reached(12 << 20).await;
    lab.kill_worker(0);
    lab.restart_worker(0).await;
    reached(18 << 20).await;
    proxy.reset();

    lab.until(task, TaskStatus::Completed).await;
    let log = lab.client().logs(task, LogQuery::default(), None).await.unwrap();
    let hash = log.try_fold(Sha256::new(), async |hash, part| Ok(hash.chain_update(&part))).await.unwrap();
    assert_eq!(hex::encode(hash.finalize()), hex::encode(Sha256::digest(&expected)));
}
