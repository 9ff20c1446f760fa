//! Records with something in every field.

use fetchml_api::{
    Artifact, AttemptEpoch, AttemptId, AttemptPhase, AttemptRecord, AuditDraft, AuditKind, Capabilities, Demand,
    Dependency, DependencyOn, Earmark, EnforcedLimits, ExperimentId, FailureCause, GrantedGpu, Host, KeyId, KeyRecord,
    LogAction, LogRuleMatch, Micros, Network, NodeAssignment, NodeRecord, Notify, NotifyOn, OnLost, Provenance,
    PythonFacts, ReservationId, ReservationRecord, ReservationStatus, Role, SlotKind, SnapshotRecord, Source, TaskId,
    TaskSpec, TaskState, TaskStatus, WorkerId, WorkerRecord, link::Outcome,
};
use fetchml_store::{AuditRow, ChangeDraft, Store, Write};
use std::{collections::BTreeMap, sync::Arc};
use uuid::Uuid;

pub(crate) const NOW: Micros = Micros(1_764_000_000_000_000);

/// The `n`th task id; greater numbers are later ids.
pub(crate) fn task_id(n: u64) -> TaskId {
    TaskId(Uuid::from_u128(0x0199_0000_0000_7000_8000_0000_0000_0000 | u128::from(n)))
}

pub(crate) fn attempt_id(n: u64) -> AttemptId {
    AttemptId(Uuid::from_u128(0x0199_0000_0001_7000_8000_0000_0000_0000 | u128::from(n)))
}

pub(crate) fn worker_id(n: u64) -> WorkerId {
    WorkerId(Uuid::from_u128(0x0199_0000_0002_7000_8000_0000_0000_0000 | u128::from(n)))
}

pub(crate) fn spec(n: u64, user: &str, job: &str) -> TaskSpec {
    TaskSpec {
        id: task_id(n),
        user_id: user.into(),
        job_name: job.into(),
        created_at: Micros(NOW.0 + n as i64),
        demand: Demand {
            slot: SlotKind::Batch,
            cpu: 2,
            memory_gb: 8,
            gpu: 1,
            gpu_type: Some("H100".into()),
            nodes: 1,
            image: true,
            reservation: None,
        },
        entrypoint: Some("train.py".into()),
        args: Some("--größe 'ß' \u{1} \\u0000 😀".into()),
        snapshot_id: Some("sha256:00".into()),
        image: Some("docker.io/library/python:3.12".into()),
        env: BTreeMap::from([("A".into(), "b\n\"".into())]),
        secrets: Vec::new(),
        metadata: BTreeMap::from([("k".into(), "ü".into())]),
        role: fetchml_api::Role::User,
        max_retries: 3,
        time_limit_s: Some(3_600),
        network: Network::None,
        on_lost: OnLost::Keep,
        lost_after_s: Some(90),
        stall_after_s: Some(600),
        resume_from: Some(task_id(9)),
        experiment_id: Some(ExperimentId(Uuid::from_u128(5))),
        source: Some(Source { commit: "c".repeat(40), dirty: Some(true), ..Source::default() }),
        rerun_of: Some(task_id(8)),
        datasets: vec![dataset()],
        depends_on: vec![Dependency { id: task_id(7), on: DependencyOn::Any }],
        array: None,
        notify: Some(Notify { email: "ann@example.org".into(), on: vec![NotifyOn::Failed] }),
    }
}

fn dataset() -> fetchml_api::Dataset {
    fetchml_api::Dataset {
        name: "digits".into(),
        source: "https://data.example.org/digits.tar".into(),
        sha256: Some("a".repeat(64)),
        mount_path: Some("/data".into()),
        unpack: true,
    }
}

pub(crate) fn queued(n: u64) -> TaskState {
    TaskState {
        id: task_id(n),
        status: TaskStatus::Queued,
        priority: 5,
        queued_since: Micros(NOW.0 + n as i64),
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
    }
}

/// A state with something in every field.
pub(crate) fn full_state(n: u64) -> TaskState {
    TaskState {
        status: TaskStatus::Failed,
        priority: 10,
        waited_before: 77,
        blocked: true,
        not_before: Some(Micros(NOW.0 + 5)),
        attempt: Some(attempt_id(n)),
        epoch: Some(AttemptEpoch { incarnation: 3, n: 9 }),
        worker_id: Some(worker_id(1)),
        started_at: Some(Micros(NOW.0 + 6)),
        ended_at: Some(Micros(NOW.0 + 7)),
        retry_count: 1,
        requeue_count: 2,
        attempt_count: 4,
        cancelled_by: Some("bob".into()),
        cause: Some(FailureCause::OomGpu),
        exit_code: Some(-1),
        signal: Some(9),
        error: Some("out of memory".into()),
        log_rule: Some(LogRuleMatch { pattern: "^größe\\d+$".into(), action: Some(LogAction::ExcludeWorker) }),
        excluded_workers: vec![worker_id(1), worker_id(2)],
        nodes: vec![NodeAssignment { node_id: 1, worker_id: worker_id(2), slot_assigned: true }],
        ..queued(n)
    }
}

pub(crate) fn insert(n: u64, user: &str, job: &str) -> Write {
    Write::TaskInsert(Arc::new(spec(n, user, job)), queued(n))
}

/// A node of an attempt that has several.
pub(crate) fn node(n: u64) -> NodeRecord {
    NodeRecord {
        worker_id: worker_id(n),
        gpus: vec![2],
        phase: AttemptPhase::Ready,
        address: Some("10.0.0.1".into()),
        port: Some(65_535),
    }
}

pub(crate) fn attempt(n: u64, task: u64, number: u32) -> AttemptRecord {
    AttemptRecord {
        preempted_for: Some(task_id(8)),
        id: attempt_id(n),
        task_id: task_id(task),
        number,
        epoch: AttemptEpoch { incarnation: 1, n },
        worker_id: worker_id(1),
        gpus: vec![0, 3],
        nodes: Vec::new(),
        phase: AttemptPhase::Running,
        created_at: NOW,
        started_at: Some(Micros(NOW.0 + 1)),
        ended_at: None,
        outcome: None,
    }
}

pub(crate) fn outcome(artifacts: usize) -> Outcome {
    Outcome {
        cause: Some(FailureCause::ExitNonzero),
        transient: false,
        exit_code: Some(2),
        signal: None,
        error: Some("exit code 2".into()),
        metrics_bytes: 0,
        log_bytes: 1 << 40,
        log_from: 7,
        log_sha256: Some("a".repeat(64)),
        artifacts: (0..artifacts)
            .map(|n| Artifact { path: format!("out/{n:04}.bin"), size_bytes: n as u64, sha256: format!("{n:064x}") })
            .collect(),
        log_rule: None,
    }
}

pub(crate) fn provenance(isolation: &str) -> Provenance {
    Provenance {
        host: Host { hostname: "größe".into(), memory_bytes: 1 << 40, ..Host::default() },
        isolation: isolation.into(),
        limits: EnforcedLimits { memory_bytes: Some(1 << 40), by: Some("rlimit".into()), ..EnforcedLimits::default() },
        gpus: vec![GrantedGpu { index: 3, uuid: "GPU-3".into(), name: "H100".into(), memory_bytes: 80 << 30 }],
        python: Some(PythonFacts { packages: vec!["numpy==1.0".into()], ..PythonFacts::default() }),
        datasets: Vec::new(),
        image: None,
    }
}

pub(crate) fn worker(n: u64) -> WorkerRecord {
    WorkerRecord {
        id: worker_id(n),
        name: format!("box-{n}"),
        capabilities: Capabilities { cpu_cores: 8, memory_gb: 64, hostname: "h".into(), ..Capabilities::default() },
        batch_slots: 8,
        service_slots: 4,
        draining: n % 2 == 1,
        evicting: n % 4 == 1,
        unfit: n.is_multiple_of(3).then(|| "the disk is full".into()),
        connected_at: NOW,
    }
}

pub(crate) fn reservation(n: u64) -> ReservationRecord {
    ReservationRecord {
        id: ReservationId(Uuid::from_u128(0x0196_0000_0000_7000_8000_0000_0000_0000 + u128::from(n))),
        user_id: "ann".into(),
        gpu_count: 2,
        gpu_type: Some("H100".into()),
        node_count: 2,
        expires_minutes: 30,
        status: ReservationStatus::Active,
        task_id: None,
        gpus_held: 3,
        earmarks: (1..=2).map(|n| Earmark { worker_id: worker_id(n), gpus: vec![0, 3] }).collect(),
        created_at: NOW,
        expires_at: None,
        ended_at: None,
    }
}

pub(crate) fn key(id: &str) -> KeyRecord {
    KeyRecord {
        id: KeyId(id.into()),
        user_id: "ann".into(),
        role: Role::User,
        name: Some("laptop".into()),
        digest: (0..32).collect(),
        created_at: NOW,
        expires_at: Some(Micros(NOW.0 + 1)),
        revoked_at: None,
    }
}

pub(crate) fn snapshot(id: &str) -> SnapshotRecord {
    SnapshotRecord {
        id: id.into(),
        user_id: "ann".into(),
        file_count: 3,
        size_bytes: 1 << 40,
        created_at: NOW,
        used_at: NOW,
    }
}

pub(crate) fn audit(resource: &str) -> AuditDraft {
    AuditDraft {
        at: NOW,
        kind: AuditKind::JobQueued,
        user_id: "ann".into(),
        resource: resource.into(),
        action: "submit".into(),
        success: true,
        ip_address: None,
        error: None,
        metadata: BTreeMap::from([("job_name".into(), "größe\u{1}".into())]),
    }
}

pub(crate) fn change(entity: &str, at: Micros) -> ChangeDraft {
    ChangeDraft { at, kind: "job", entity: entity.into(), body: r#"{"id":1}"#.into() }
}

/// The whole audit log.
pub(crate) async fn audit_log(store: &Store) -> Vec<AuditRow> {
    let mut rows = Vec::new();
    loop {
        let page = store.audit_rows(rows.len() as u64, 500).await.expect("readable");
        if page.is_empty() {
            return rows;
        }
        rows.extend(page);
    }
}

/// Asserts that the audit log verifies up to the head that the store tells.
pub(crate) async fn assert_log_verifies(store: &Store) -> u64 {
    let verdict = fetchml_audit::verify(&store.log_id(), audit_log(store).await);
    assert_eq!(verdict.first_tampered, None);
    assert_eq!((verdict.checked, verdict.head), store.audit_head());
    verdict.checked
}
