//! Microseconds of a submit (task, audit row, change row) in commits of 64, on SQLite, without the cost of fsync
//! when the directory is on tmpfs: `cargo run --release -p fetchml-store --example store_bench [DIRECTORY]`.

use fetchml_api::{
    AuditDraft, AuditKind, Demand, Micros, Network, OnLost, SlotKind, TaskId, TaskSpec, TaskState, TaskStatus,
};
use fetchml_store::{ChangeDraft, Location, Store, Write};
use std::{collections::BTreeMap, fs, path::PathBuf, sync::Arc, time::Instant};

const BATCH: usize = 64;
const BATCHES: usize = 500;

fn submit(n: u128) -> [Write; 3] {
    let id = TaskId(uuid::Uuid::from_u128((0x0199_0000_0000_7000_8000 << 48) | n));
    let now = Micros(1_764_000_000_000_000 + n as i64);
    let spec = TaskSpec {
        id,
        user_id: format!("user{}", n % 8),
        job_name: format!("train-{}", n % 100),
        created_at: now,
        demand: Demand {
            slot: SlotKind::Batch,
            cpu: 1,
            memory_gb: 4,
            gpu: 1,
            gpu_type: None,
            nodes: 1,
            image: false,
            reservation: None,
        },
        entrypoint: Some("train.py".into()),
        args: Some("--epochs 10 --lr 0.001".into()),
        snapshot_id: Some(format!("sha256:{n:064x}")),
        image: None,
        env: BTreeMap::new(),
        secrets: Vec::new(),
        metadata: BTreeMap::from([("team".into(), "vision".into())]),
        role: fetchml_api::Role::User,
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
    };
    let state = TaskState {
        id,
        status: TaskStatus::Queued,
        priority: 5,
        queued_since: now,
        waited_before: 0,
        blocked: false,
        not_before: None,
        attempt: None,
        epoch: None,
        worker_id: None,
        started_at: None,
        ended_at: None,
        retry_count: 0,
        requeue_count: 0,
        attempt_count: 0,
        cancelled_by: None,
        cause: None,
        exit_code: None,
        signal: None,
        error: None,
        hidden: false,
        log_rule: None,
        excluded_workers: Vec::new(),
        nodes: Vec::new(),
    };
    let audit = AuditDraft {
        at: now,
        kind: AuditKind::JobQueued,
        user_id: spec.user_id.clone(),
        resource: format!("tasks/{id}"),
        action: "submit".into(),
        success: true,
        ip_address: Some("127.0.0.1".into()),
        error: None,
        metadata: BTreeMap::from([("job_name".into(), spec.job_name.clone())]),
    };
    let body =
        format!(r#"{{"id":"{id}","status":"queued","user_id":"{}","job_name":"{}"}}"#, spec.user_id, spec.job_name);
    let change = ChangeDraft { at: now, kind: "job", entity: id.to_string(), body };
    [Write::TaskInsert(Arc::new(spec), state), Write::Audit(audit), Write::Change(change)]
}

/// CPU time of this process so far, microseconds; one tick is 10 ms.
fn cpu_us() -> u64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|f| f.parse::<u64>().ok()).unwrap_or(0);
    (ticks(11) + ticks(12)) * 10_000
}

#[tokio::main]
async fn main() {
    let base = std::env::args().nth(1).map_or_else(std::env::temp_dir, PathBuf::from);
    let directory = tempfile::tempdir_in(base).expect("the directory can be written");
    let path = directory.path().join("bench.db");
    let store = Store::open(&Location::Sqlite(path)).await.expect("a fresh file opens");
    let batches: Vec<Vec<Vec<Write>>> =
        (0..BATCHES).map(|batch| (0..BATCH).map(|n| submit((batch * BATCH + n) as u128).to_vec()).collect()).collect();
    let (wall, cpu) = (Instant::now(), cpu_us());
    for batch in batches {
        store.commit(batch.into_iter().flatten().collect()).await.expect("commits");
    }
    let submits = (BATCH * BATCHES) as f64;
    println!(
        "{submits} submits in commits of {BATCH}: {:.1} us wall, {:.1} us CPU each",
        wall.elapsed().as_secs_f64() * 1e6 / submits,
        (cpu_us() - cpu) as f64 / submits
    );
    store.close().await;
}
