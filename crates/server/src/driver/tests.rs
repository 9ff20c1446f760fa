//! The driver against a real store: nothing is promised before it is durable, and a failed commit
//! costs no more than it must.

use super::*;
use crate::instruments::Instruments;
use fetchml_api::{
    Demand, Network, OnLost, SlotKind, TaskSpec, TaskStatus,
    link::{Report, ToWorker},
};
use fetchml_store::Location;
use std::{collections::BTreeMap, time::Duration};
use tempfile::TempDir;
use uuid::Uuid;

struct Bench {
    dir: TempDir,
    store: Store,
    driver: Driver,
    task: DriverTask,
}

impl Bench {
    async fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap()).await
    }

    async fn start_in(dir: TempDir) -> Self {
        let store = Store::open(&Location::Sqlite(dir.path().join("test.db"))).await.unwrap();
        let settings = DriverSettings {
            aging_interval_s: 1_800,
            lost_after_s: 600,
            hold_after_s: 900,
            prepare_timeout_s: 1_800,
            quotas: BTreeMap::new(),
            preemption: Preemption::default(),
            values: KeyedHash::new(&[7; 32]),
            incarnation_file: dir.path().join("incarnation"),
        };
        let (driver, task) = Driver::start(store.clone(), settings, Instruments::new()).await.unwrap();
        Self { dir, store, driver, task }
    }

    /// Takes the write lock of the database, as a backup tool or a stray shell would.
    fn lock(&self) -> rusqlite::Connection {
        let connection = rusqlite::Connection::open(self.dir.path().join("test.db")).unwrap();
        connection.busy_timeout(Duration::from_secs(20)).unwrap();
        connection.execute_batch("BEGIN IMMEDIATE").unwrap();
        connection
    }

    async fn stop(self) -> TempDir {
        self.task.stop().await;
        self.store.close().await;
        self.dir
    }
}

fn by(user: &str) -> Actor {
    Actor { user_id: user.into(), ip: Some("192.0.2.7".parse().unwrap()), ..Actor::system() }
}

fn draft(job_name: &str) -> NewTaskDraft {
    NewTaskDraft {
        by: by("ann"),
        array: None,
        once: None,
        needs: Vec::new(),
        broken_by: None,
        spec: TaskSpec {
            id: TaskId(Uuid::nil()),
            user_id: "ada".into(),
            job_name: job_name.into(),
            created_at: Micros(0),
            demand: Demand {
                slot: SlotKind::Batch,
                cpu: 1,
                memory_gb: 0,
                gpu: 0,
                gpu_type: None,
                nodes: 1,
                image: false,
                reservation: None,
            },
            entrypoint: None,
            args: Some("true".into()),
            snapshot_id: None,
            image: None,
            env: BTreeMap::new(),
            secrets: Vec::new(),
            metadata: BTreeMap::new(),
            role: Role::User,
            max_retries: 0,
            time_limit_s: None,
            network: Network::On,
            on_lost: OnLost::Fence,
            lost_after_s: None,
            stall_after_s: None,
            resume_from: None,
            experiment_id: None,
            source: None,
            rerun_of: None,
            datasets: Vec::new(),
            depends_on: Vec::new(),
            array: None,
            notify: None,
        },
        priority: 5,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_acknowledged_that_cannot_be_committed() {
    let bench = Bench::start().await;
    let lock = bench.lock();
    // Were the reply sent before the commit, this would be an acknowledgement.
    let refused = bench.driver.submit(draft("locked")).await.unwrap_err();
    assert!(matches!(refused, CommandError::Unavailable { .. }), "{refused:?}");
    assert_eq!(bench.driver.health().0, HealthStatus::Degraded);

    drop(lock);
    let accepted = tokio::time::timeout(Duration::from_secs(30), async {
        loop {
            if let Ok(task) = bench.driver.submit(draft("free")).await {
                return task;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("the driver recovers without a restart");
    assert_eq!(bench.driver.health().0, HealthStatus::Healthy);

    let dir = bench.stop().await;
    let bench = Bench::start_in(dir).await;
    assert_eq!(bench.driver.live(accepted.task.state.id).unwrap().spec, accepted.task.spec);
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_the_database_refuses_costs_only_its_own_request() {
    let bench = Bench::start().await;
    let mut bad = draft("bad");
    bad.spec.metadata.insert("k".into(), "a\0b".into());
    // All at once, so that they share a turn.
    let submits = (0..20).map(|i| {
        let draft = if i == 7 { bad.clone() } else { draft(&format!("good-{i}")) };
        let driver = bench.driver.clone();
        tokio::spawn(async move { driver.submit(draft).await })
    });
    let mut outcomes = Vec::new();
    for submit in submits.collect::<Vec<_>>() {
        outcomes.push(submit.await.unwrap());
    }
    for (i, outcome) in outcomes.iter().enumerate() {
        match outcome {
            Ok(task) => {
                assert_ne!(i, 7);
                let stored = bench.store.task(task.task.state.id).await.unwrap().expect("acknowledged, so stored");
                assert_eq!(stored.state.status, TaskStatus::Queued);
            }
            Err(error) => {
                assert_eq!(i, 7, "{error:?}");
                assert!(matches!(error, CommandError::Refused(_)), "{error:?}");
            }
        }
    }
    assert_eq!(bench.driver.health().0, HealthStatus::Healthy);
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_task_leaves_the_live_view_and_stays_in_the_store() {
    let bench = Bench::start().await;
    let id = bench.driver.submit(draft("one")).await.unwrap().task.state.id;
    assert!(bench.driver.live(id).is_some());
    assert_eq!(bench.driver.cancel(id, by("ada")).await.unwrap(), CancelAnswer::Recorded);
    assert!(bench.driver.live(id).is_none());
    assert_eq!(bench.store.task(id).await.unwrap().unwrap().state.status, TaskStatus::Failed);
    assert_eq!(bench.driver.cancel(id, by("ada")).await.unwrap(), CancelAnswer::NotActive);
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_and_incarnations_grow_over_restarts_and_an_older_database() {
    let bench = Bench::start().await;
    let first = bench.driver.submit(draft("one")).await.unwrap().task.state.id;
    let incarnation = bench.driver.incarnation();
    let dir = bench.stop().await;

    // The file beside the database knows more than the database does after a restore.
    std::fs::write(dir.path().join("incarnation"), "41\n").unwrap();
    let bench = Bench::start_in(dir).await;
    assert_eq!((incarnation, bench.driver.incarnation()), (1, 42));
    assert!(bench.driver.submit(draft("two")).await.unwrap().task.state.id > first);
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_priority_is_durable_and_audited() {
    let bench = Bench::start().await;
    let id = bench.driver.submit(draft("one")).await.unwrap().task.state.id;
    assert_eq!(bench.driver.priority_set(id, 9, by("eve"), Role::Admin).await.unwrap(), ChangeAnswer::Done);
    assert_eq!(bench.driver.priority_set(id, 9, by("eve"), Role::Admin).await.unwrap(), ChangeAnswer::Unchanged);
    assert_eq!(bench.driver.live(id).unwrap().state.priority, 9);
    let rows = bench.store.audit_rows(0, 100).await.unwrap();
    let body = String::from_utf8(rows.last().unwrap().body.clone()).unwrap();
    assert!(["\"priority\"", "192.0.2.7", "eve"].iter().all(|fact| body.contains(fact)), "{body}");
    let dir = bench.stop().await;
    let bench = Bench::start_in(dir).await;
    assert_eq!(bench.driver.live(id).unwrap().state.priority, 9);
    bench.driver.cancel(id, by("ada")).await.unwrap();
    assert_eq!(bench.driver.priority_set(id, 3, by("eve"), Role::Admin).await.unwrap(), ChangeAnswer::NotActive);
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_outlives_a_restart_and_reaches_the_worker() {
    let bench = Bench::start().await;
    let worker = WorkerId(Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0007));
    assert_eq!(
        bench.driver.worker_drain(worker, Drain::Finish, by("eve")).await.unwrap(),
        ChangeAnswer::NotActive,
        "an unknown worker"
    );
    let mut outbox = join(&bench.driver, worker).await;
    bench.driver.submit(draft("one")).await.unwrap();
    assert!(matches!(outbox.recv().await, Some(ToWorker::Assign(_))));
    assert_eq!(bench.driver.worker_drain(worker, Drain::Evict, by("eve")).await.unwrap(), ChangeAnswer::Done);
    assert!(matches!(outbox.recv().await, Some(ToWorker::Drain { on: true })));
    assert!(matches!(outbox.recv().await, Some(ToWorker::Cancel { .. })));
    let dir = bench.stop().await;
    let bench = Bench::start_in(dir).await;
    join(&bench.driver, worker).await;
    assert_eq!(
        bench.driver.worker_drain(worker, Drain::Evict, by("eve")).await.unwrap(),
        ChangeAnswer::Unchanged,
        "it is drained still"
    );
    assert_eq!(bench.driver.worker_undrain(worker, by("eve")).await.unwrap(), ChangeAnswer::Done);
    bench.stop().await;
}

/// Opens a session as a worker with one core does; what is sent to it.
async fn join(driver: &Driver, worker: WorkerId) -> mpsc::Receiver<ToWorker> {
    let (outbox, sent) = mpsc::channel(64);
    let session = SessionHandle { id: 1, outbox, by: by("box") };
    let hello = Hello {
        datasets: Vec::new(),
        protocol: fetchml_api::link::PROTOCOL,
        worker_id: worker,
        agent_run: 1,
        name: "box".into(),
        capabilities: fetchml_api::Capabilities { cpu_cores: 1, ..Default::default() },
        batch_slots: 1,
        service_slots: 0,
        incarnation_seen: 0,
        inventory: Vec::new(),
        unfit: None,
    };
    let answer = driver.join(Box::new(hello), session).await.unwrap();
    assert!(matches!(answer, JoinAnswer::Welcome { .. }), "{answer:?}");
    sent
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quota_is_durable_and_what_it_refuses_is_not_stored() {
    let bench = Bench::start().await;
    let scope = QuotaScope::User("ada".into());
    let quota = Quota { queued: Some(1), ..Quota::default() };
    assert_eq!(bench.driver.quota_set(scope, quota, by("eve")).await.unwrap(), ChangeAnswer::Done);
    let dir = bench.stop().await;
    let bench = Bench::start_in(dir).await;
    bench.driver.submit(draft("one")).await.unwrap();
    let refused = bench.driver.submit(draft("two")).await.unwrap_err();
    assert_eq!(refused, CommandError::NotAllowed(Refusal::Queued { limit: 1 }));
    let (tasks, total) =
        bench.store.tasks(&fetchml_store::TaskFilter { limit: 9, ..Default::default() }).await.unwrap();
    assert_eq!((tasks.len(), total), (1, 1));
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_task_used_is_stored_with_its_end() {
    let bench = Bench::start().await;
    let worker = WorkerId(Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0007));
    let mut outbox = join(&bench.driver, worker).await;
    bench.driver.submit(draft("one")).await.unwrap();
    let Some(ToWorker::Assign(assignment)) = outbox.recv().await else { panic!("nothing was assigned") };
    let report = |seq, report| SpooledReport {
        provenance: None,
        seq,
        attempt: assignment.attempt,
        task: assignment.spec.id,
        epoch: assignment.epoch,
        report,
    };
    bench.driver.reports(worker, 1, vec![report(1, Report::Running)]).await.unwrap();
    assert!(matches!(outbox.recv().await, Some(ToWorker::Ack { seq: 1 })));
    // The use is in whole milliseconds of logical time: some must pass.
    let since = bench.driver.now();
    while bench.driver.now().since(since) < 5_000 {
        tokio::task::yield_now().await;
    }
    bench
        .driver
        .reports(worker, 1, vec![report(2, Report::Ended(fetchml_api::link::Outcome::default()))])
        .await
        .unwrap();
    while !matches!(outbox.recv().await, Some(ToWorker::Ack { seq: 2 })) {}
    let usage = bench.store.usage().await.unwrap();
    assert_eq!(usage.len(), 1);
    assert_eq!((usage[0].user_id.as_str(), usage[0].cpu_ms >= 4, usage[0].gpu_ms), ("ada", true, 0), "{usage:?}");
    bench.stop().await;
}
