//! Every kind of write, read back.

use crate::{Fixture, build::*};
use fetchml_api::{
    AttemptEpoch, AttemptPhase, AttemptRecord, Checkpoint, KeyId, Micros, Quota, QuotaRecord, QuotaScope,
    RegisteredDataset, ReservationRecord, ReservationStatus, Role, TaskState, TaskStatus,
};
use fetchml_store::{StoreError, StoredTask, TaskFilter, UsageRow, Write};
use std::sync::Arc;

pub(crate) async fn usage_adds_up_by_user_and_experiment(fixture: Fixture) {
    let row = |user: &str, experiment: Option<&str>, ms| UsageRow {
        user_id: user.into(),
        experiment_id: experiment.map(Into::into),
        cpu_ms: ms,
        gpu_ms: 2 * ms,
        idle_gpu_ms: 3 * ms,
    };
    let store = &fixture.store;
    let writes = [row("ann", None, 1), row("ann", Some("e"), 10), row("ann", None, 100), row("bob", None, 7)];
    store.commit(writes.map(Write::UsageAdd).into()).await.unwrap();
    assert_eq!(store.usage().await.unwrap(), [row("ann", None, 101), row("ann", Some("e"), 10), row("bob", None, 7)]);
}

pub(crate) async fn quotas_read_back_by_scope(fixture: Fixture) {
    let record = |scope, gpus| QuotaRecord { scope, quota: Quota { gpus: Some(gpus), ..Quota::default() } };
    let (ann, role) = (QuotaScope::User("ann".into()), QuotaScope::Role(Role::User));
    let writes = [record(ann.clone(), 1), record(role.clone(), 2), record(ann.clone(), 3)];
    let store = &fixture.store;
    store.commit(writes.map(Write::QuotaPut).into()).await.unwrap();
    let quotas = [record(role, 2), record(ann, 3)];
    assert_eq!(store.quotas().await.unwrap(), quotas);
    assert_eq!(store.restore().await.unwrap().quotas, quotas);
}

pub(crate) async fn a_task_reads_back_as_written(fixture: Fixture) {
    let store = &fixture.store;
    store.commit(vec![insert(1, "ann", "a")]).await.unwrap();
    let stored = StoredTask { spec: Arc::new(spec(1, "ann", "a")), state: queued(1) };
    assert_eq!(store.task(task_id(1)).await.unwrap(), Some(stored));
    store.commit(vec![Write::TaskUpdate(full_state(1))]).await.unwrap();
    let stored = StoredTask { spec: Arc::new(spec(1, "ann", "a")), state: full_state(1) };
    assert_eq!(store.task(task_id(1)).await.unwrap(), Some(stored));
    store.commit(vec![Write::TaskUpdate(queued(1))]).await.unwrap();
    assert_eq!(store.task(task_id(1)).await.unwrap().unwrap().state, queued(1));
    assert_eq!(store.task(task_id(2)).await.unwrap(), None);
}

pub(crate) async fn an_attempt_reads_back_and_keeps_its_artifacts(fixture: Fixture) {
    let store = &fixture.store;
    let first = attempt(1, 1, 1);
    let second = attempt(2, 1, 2);
    store
        .commit(vec![insert(1, "ann", "a"), Write::AttemptPut(second.clone()), Write::AttemptPut(first.clone())])
        .await
        .unwrap();
    assert_eq!(store.attempts(task_id(1)).await.unwrap(), [first.clone(), second.clone()]);
    assert_eq!(store.artifacts(task_id(1), None).await.unwrap(), None);

    let mut ended = first.clone();
    ended.phase = AttemptPhase::Ended;
    ended.ended_at = Some(Micros(NOW.0 + 9));
    ended.outcome = Some(outcome(150));
    store.commit(vec![Write::AttemptPut(ended.clone())]).await.unwrap();
    let read = store.attempt(first.id).await.unwrap().unwrap();
    let mut without = ended.clone();
    without.outcome.as_mut().unwrap().artifacts.clear();
    assert_eq!(read, without);
    let artifacts = outcome(150).artifacts;
    assert_eq!(store.artifacts(task_id(1), None).await.unwrap(), Some((first.id, artifacts.clone())));
    assert_eq!(store.artifacts(task_id(1), Some(second.id)).await.unwrap(), Some((second.id, vec![])));
    assert_eq!(store.artifacts(task_id(2), Some(first.id)).await.unwrap(), None, "an attempt of another task");

    // What was read back and is put again takes no artifacts away; a new list replaces the old one.
    store.commit(vec![Write::AttemptPut(read)]).await.unwrap();
    assert_eq!(store.artifacts(task_id(1), None).await.unwrap(), Some((first.id, artifacts)));
    ended.outcome = Some(outcome(2));
    store.commit(vec![Write::AttemptPut(ended)]).await.unwrap();
    assert_eq!(store.artifacts(task_id(1), None).await.unwrap(), Some((first.id, outcome(2).artifacts)));

    let mut later = second.clone();
    later.outcome = Some(outcome(1));
    store.commit(vec![Write::AttemptPut(later)]).await.unwrap();
    assert_eq!(store.artifacts(task_id(1), None).await.unwrap(), Some((second.id, outcome(1).artifacts)));
}

pub(crate) async fn a_data_set_has_its_name_alone_and_can_be_forgotten(fixture: Fixture) {
    let store = &fixture.store;
    let set = |name: &str, user: &str| RegisteredDataset {
        name: name.into(),
        source: "https://data.example.org/x?a=1".into(),
        sha256: Some("a".repeat(64)),
        mount_path: Some("/data/x".into()),
        unpack: true,
        user_id: user.into(),
        created_at: NOW,
    };
    let (b, a) = (set("b", "ann"), RegisteredDataset { sha256: None, unpack: false, ..set("a", "bob") });
    store.commit(vec![Write::DatasetInsert(b.clone()), Write::DatasetInsert(a.clone())]).await.unwrap();
    assert_eq!(store.datasets().await.unwrap(), [a.clone(), b.clone()]);
    assert_eq!(store.dataset("b").await.unwrap(), Some(b));
    assert_eq!(store.dataset_count().await.unwrap(), 2);
    assert_eq!(store.dataset("c\0").await.unwrap(), None);

    let taken = store.commit(vec![Write::DatasetInsert(set("a", "eve"))]).await;
    assert!(matches!(taken, Err(StoreError::Data(_))), "{taken:?}");
    assert_eq!(store.dataset("a").await.unwrap(), Some(a));
    let delete = |name: &str| vec![Write::DatasetDelete { name: name.into(), at: NOW }];
    store.commit(delete("a")).await.unwrap();
    assert_eq!(store.dataset("a").await.unwrap(), None);
    assert!(matches!(store.commit(delete("a")).await, Err(StoreError::Data(_))));
}

pub(crate) async fn nodes_of_an_attempt_read_back_and_each_adds_its_artifacts(fixture: Fixture) {
    let store = &fixture.store;
    let mut gang = attempt(1, 1, 1);
    gang.nodes = vec![node(1), node(2)];
    store.commit(vec![insert(1, "ann", "a"), Write::AttemptPut(gang.clone())]).await.unwrap();
    assert_eq!(store.attempt(gang.id).await.unwrap(), Some(gang.clone()));
    let (mut first, mut second) = (outcome(1), outcome(1));
    second.artifacts[0].path = "node1/out".into();
    for outcome in [&first, &second, &second] {
        let record = AttemptRecord { outcome: Some(outcome.clone()), ..gang.clone() };
        store.commit(vec![Write::AttemptPut(record)]).await.unwrap();
    }
    first.artifacts.extend(second.artifacts);
    first.artifacts.sort_by(|a, b| a.path.cmp(&b.path));
    assert_eq!(store.artifacts(task_id(1), None).await.unwrap(), Some((gang.id, first.artifacts)));
}

pub(crate) async fn the_latest_checkpoint_reads_back(fixture: Fixture) {
    let store = &fixture.store;
    let (first, second) = (attempt(1, 1, 1), attempt(2, 1, 2));
    let writes = vec![insert(1, "ann", "a"), Write::AttemptPut(first.clone()), Write::AttemptPut(second.clone())];
    store.commit(writes).await.unwrap();
    assert_eq!(store.checkpoint(task_id(1)).await.unwrap(), None);
    let of = |attempt: &AttemptRecord, files| Checkpoint {
        attempt_id: attempt.id,
        saved_at: NOW,
        files: outcome(files).artifacts,
    };
    for (put, latest) in [
        (of(&first, 1), of(&first, 1)),
        (of(&first, 2), of(&first, 2)),
        (of(&second, 0), of(&second, 0)),
        (of(&first, 1), of(&second, 0)),
        (of(&second, 1), of(&second, 1)),
    ] {
        store.commit(vec![Write::CheckpointPut(put)]).await.unwrap();
        assert_eq!(store.checkpoint(task_id(1)).await.unwrap(), Some(latest));
    }
    assert_eq!(store.checkpoint(task_id(2)).await.unwrap(), None);
}

pub(crate) async fn how_an_attempt_is_run_reads_back_by_node(fixture: Fixture) {
    let store = &fixture.store;
    let writes = vec![insert(1, "ann", "a"), Write::AttemptPut(attempt(1, 1, 1)), Write::AttemptPut(attempt(2, 1, 2))];
    store.commit(writes).await.unwrap();
    assert_eq!(store.provenance(attempt_id(1)).await.unwrap(), []);
    let put = |n, node, isolation| Write::ProvenancePut {
        attempt: attempt_id(n),
        node,
        provenance: Box::new(provenance(isolation)),
    };
    store.commit(vec![put(1, 1, "b"), put(1, 0, "a"), put(2, 0, "a")]).await.unwrap();
    assert_eq!(store.provenance(attempt_id(1)).await.unwrap(), [(0, provenance("a")), (1, provenance("b"))]);
    store.commit(vec![put(1, 0, "c"), put(1, 0, "c")]).await.unwrap();
    assert_eq!(store.provenance(attempt_id(1)).await.unwrap(), [(0, provenance("c")), (1, provenance("b"))]);
    assert_eq!(store.provenance(attempt_id(2)).await.unwrap(), [(0, provenance("a"))], "it is its own");
    assert!(matches!(store.commit(vec![put(9, 0, "a")]).await, Err(StoreError::Data(_))), "there is no such attempt");
}

pub(crate) async fn workers_keys_snapshots_and_meta_read_back(fixture: Fixture) {
    let store = &fixture.store;
    let mut newer = key("k2");
    newer.created_at = Micros(NOW.0 + 1);
    let writes = vec![
        Write::WorkerPut(worker(1)),
        Write::WorkerPut(worker(2)),
        Write::KeyInsert(key("k1")),
        Write::KeyInsert(newer.clone()),
        Write::SnapshotPut(snapshot("sha256:a")),
        Write::MetaPut { name: "incarnation", value: "1".into() },
    ];
    store.commit(writes).await.unwrap();
    assert_eq!(store.restore().await.unwrap().workers, [worker(1), worker(2)]);
    assert_eq!(store.keys().await.unwrap(), [newer.clone(), key("k1")]);
    assert_eq!(store.snapshot("sha256:a").await.unwrap(), Some(snapshot("sha256:a")));
    assert_eq!(store.snapshot("sha256:\0").await.unwrap(), None);
    assert_eq!(store.meta("incarnation").await.unwrap(), Some("1".into()));
    assert_eq!(store.meta("nothing").await.unwrap(), None);

    let (first, second) = (Micros(NOW.0 + 2), Micros(NOW.0 + 3));
    let mut again = snapshot("sha256:a");
    again.user_id = "bob".into();
    let mut renamed = worker(1);
    renamed.name = "other".into();
    let writes = vec![
        Write::WorkerPut(renamed.clone()),
        Write::KeyRevoke { id: KeyId("k1".into()), at: first },
        Write::KeyRevoke { id: KeyId("k1".into()), at: second },
        Write::KeyRevoke { id: KeyId("unknown".into()), at: second },
        Write::SnapshotPut(again),
        Write::MetaPut { name: "incarnation", value: "2".into() },
    ];
    store.commit(writes).await.unwrap();
    let mut revoked = key("k1");
    revoked.revoked_at = Some(first);
    assert_eq!(store.keys().await.unwrap(), [newer, revoked]);
    assert_eq!(store.snapshot("sha256:a").await.unwrap(), Some(snapshot("sha256:a")));
    assert_eq!(store.meta("incarnation").await.unwrap(), Some("2".into()));
    assert_eq!(store.restore().await.unwrap().workers, [renamed, worker(2)]);
    let reserved = store.commit(vec![Write::MetaPut { name: "log_id", value: "x".into() }]).await;
    assert!(matches!(reserved, Err(StoreError::Data(_))), "the chain hangs on it");
}

pub(crate) async fn u0000_is_refused_everywhere(fixture: Fixture) {
    let mut worker = worker(1);
    worker.capabilities.hostname = "a\0".into();
    let mut in_env = spec(1, "ann", "a");
    in_env.env.insert("A".into(), "\\\0".into());
    let mut in_metadata = audit("x");
    in_metadata.metadata.insert("k".into(), "\0".into());
    let mut in_state = queued(1);
    in_state.error = Some("\0".into());
    let mut in_body = change("x", NOW);
    in_body.body = "\0".into();
    for write in [
        insert(1, "a\0", "a"),
        insert(1, "a", "a\0"),
        Write::TaskInsert(Arc::new(in_env), queued(1)),
        Write::TaskUpdate(in_state),
        Write::WorkerPut(worker),
        Write::KeyInsert(key("k\0")),
        Write::KeyRevoke { id: KeyId("\0".into()), at: NOW },
        Write::SnapshotPut(snapshot("\0")),
        Write::MetaPut { name: "x", value: "\0".into() },
        Write::Audit(audit("\0")),
        Write::Audit(in_metadata),
        Write::Change(change("\0", NOW)),
        Write::Change(in_body),
    ] {
        let told = format!("{write:?}");
        let outcome = fixture.store.commit(vec![write]).await;
        assert!(matches!(outcome, Err(StoreError::Data(_))), "{told}: {outcome:?}");
    }
    assert_eq!(fixture.store.audit_head().0, 0);
}

pub(crate) async fn numbers_over_63_bits_are_refused(fixture: Fixture) {
    let mut snapshot = snapshot("sha256:a");
    snapshot.size_bytes = u64::MAX;
    let state = TaskState { epoch: Some(AttemptEpoch { incarnation: u64::MAX, n: 1 }), ..queued(1) };
    for write in [Write::SnapshotPut(snapshot), Write::TaskUpdate(state)] {
        assert!(matches!(fixture.store.commit(vec![write]).await, Err(StoreError::Data(_))));
    }
}

pub(crate) async fn change_rows_are_numbered_and_paged(fixture: Fixture) {
    let store = &fixture.store;
    let first = store.commit((0..5).map(|n| Write::Change(change(&n.to_string(), NOW))).collect()).await.unwrap();
    assert_eq!((first.audit_sequence, first.change_sequence), (0, 5));
    let rows = store.change_rows(1, 2).await.unwrap();
    assert_eq!(rows.iter().map(|row| (row.sequence, row.entity.as_str())).collect::<Vec<_>>(), [(2, "1"), (3, "2")]);
    assert_eq!((rows[0].kind.as_str(), rows[0].body.as_str()), ("job", r#"{"id":1}"#));
    assert!(store.change_rows(u64::MAX, 10).await.unwrap().is_empty());

    assert_eq!((store.change_first().await.unwrap(), *store.change_head().borrow()), (1, 5));
    let of_one = store.change_rows_of(&rows[0].entity, 0, 10).await.unwrap();
    assert_eq!(of_one.iter().map(|row| row.sequence).collect::<Vec<_>>(), [2]);
    assert!(store.change_rows_of(&rows[0].entity, 2, 10).await.unwrap().is_empty());
    assert!(store.change_rows_of("nobody", 0, 10).await.unwrap().is_empty());
}

pub(crate) async fn restore_gives_what_lives(fixture: Fixture) {
    let store = &fixture.store;
    let empty = store.restore().await.unwrap();
    assert!(empty.tasks.is_empty() && empty.attempts.is_empty() && empty.workers.is_empty());
    assert_eq!((empty.last_task_id, empty.last_time), (None, Micros(0)));

    let running = TaskState { status: TaskStatus::Running, attempt: Some(attempt_id(22)), ..queued(2) };
    let saved = |n: u64| {
        let saved_at = Micros(NOW.0 + n as i64);
        Checkpoint { attempt_id: attempt_id(n), saved_at, files: Vec::new() }
    };
    let writes = vec![
        insert(3, "ann", "a"),
        insert(1, "ann", "a"),
        insert(2, "bob", "b"),
        insert(4, "ann", "ended"),
        Write::TaskUpdate(running.clone()),
        Write::TaskUpdate(full_state(4)),
        Write::AttemptPut(attempt(21, 2, 1)),
        Write::AttemptPut(attempt(22, 2, 2)),
        Write::AttemptPut(attempt(4, 4, 1)),
        Write::CheckpointPut(saved(21)),
        Write::CheckpointPut(saved(22)),
        Write::WorkerPut(worker(1)),
        Write::Audit(fetchml_api::AuditDraft { at: Micros(NOW.0 + 1_000), ..audit("x") }),
    ];
    store.commit(writes).await.unwrap();
    let restored = store.restore().await.unwrap();
    let states: Vec<_> = restored.tasks.into_iter().map(|task| task.state).collect();
    assert_eq!(states, [queued(1), running, queued(3)]);
    assert_eq!(restored.attempts, [attempt(22, 2, 2)]);
    assert_eq!(restored.workers, [worker(1)]);
    assert_eq!(restored.checkpoints.into_iter().collect::<Vec<_>>(), [(attempt_id(22), Micros(NOW.0 + 22))]);
    assert_eq!(restored.last_task_id, Some(task_id(4)));
    assert_eq!(restored.last_time, Micros(NOW.0 + 1_000));
    // Earlier times do not take it back.
    store.commit(vec![Write::Audit(audit("x"))]).await.unwrap();
    assert_eq!(store.restore().await.unwrap().last_time, Micros(NOW.0 + 1_000));
}

pub(crate) async fn reservations_are_kept_as_they_change_and_given_back_while_they_live(fixture: Fixture) {
    let store = &fixture.store;
    let (first, second) = (reservation(1), reservation(2));
    let writes = vec![
        Write::ReservationPut(second.clone()),
        Write::ReservationPut(first.clone()),
        insert(7, "ann", "a"),
        insert(8, "ann", "a"),
    ];
    store.commit(writes).await.unwrap();
    assert_eq!(store.restore().await.unwrap().reservations, [first.clone(), second.clone()]);

    let claimed = ReservationRecord {
        status: ReservationStatus::Claimed,
        task_id: Some(task_id(7)),
        gpus_held: 4,
        earmarks: vec![first.earmarks[0].clone()],
        expires_at: Some(Micros(NOW.0 + 5)),
        ..first
    };
    store.commit(vec![Write::ReservationPut(claimed.clone())]).await.unwrap();
    assert_eq!(store.restore().await.unwrap().reservations, [claimed.clone(), second.clone()]);
    let filter = TaskFilter { reservation: Some(claimed.id), limit: 10, ..TaskFilter::default() };
    let (tasks, total) = store.tasks(&filter).await.unwrap();
    assert_eq!((tasks.iter().map(|task| task.spec.id).collect::<Vec<_>>(), total), (vec![task_id(7)], 1));
    let filter = TaskFilter { reservation: Some(second.id), ..filter };
    assert_eq!(store.tasks(&filter).await.unwrap().1, 0);

    let over = |record, at| ReservationRecord {
        status: ReservationStatus::Expired,
        earmarks: Vec::new(),
        ended_at: Some(Micros(at)),
        ..record
    };
    let (claimed, second) = (over(claimed, NOW.0 + 10), over(second, NOW.0 + 10));
    let writes = [claimed.clone(), second.clone()].map(Write::ReservationPut);
    store.commit(writes.into()).await.unwrap();
    assert_eq!(store.restore().await.unwrap().reservations, []);
    assert_eq!(store.reservation(second.id).await.unwrap(), Some(second.clone()));
    let days_later = NOW.0 + 3 * 24 * 3_600 * 1_000_000;
    store.commit(vec![Write::ReservationPut(over(reservation(3), days_later))]).await.unwrap();
    assert_eq!(store.reservation(second.id).await.unwrap(), None, "nobody had it, and a day has passed");
    assert_eq!(store.reservation(claimed.id).await.unwrap(), Some(claimed), "its task names it");
    assert_eq!(store.reservation(reservation(4).id).await.unwrap(), None);
}
