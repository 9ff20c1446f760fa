//! Opening, closing, opening again.

use crate::{Fixture, build::*};
use fetchml_api::Checkpoint;
use fetchml_store::{OpenError, Store, StoreError, Write};

pub(crate) async fn a_reopened_store_goes_on(mut fixture: Fixture) {
    let (log_id, genesis) = (fixture.store.log_id(), fixture.store.audit_head());
    assert_eq!(genesis, (0, fetchml_audit::genesis_hash(&log_id)));
    for n in 1..4 {
        let writes = vec![insert(n, "ann", "a"), Write::Audit(audit("x")), Write::Change(change("x", NOW))];
        let committed = fixture.store.commit(writes).await.unwrap();
        assert_eq!((committed.audit_sequence, committed.change_sequence), (n, n));
        let head = fixture.store.audit_head();
        fixture.reopen().await;
        assert_eq!((fixture.store.log_id(), fixture.store.audit_head()), (log_id.clone(), head));
        assert_eq!(fixture.store.restore().await.unwrap().tasks.len() as u64, n);
    }
    assert_eq!(assert_log_verifies(&fixture.store).await, 3);
}

pub(crate) async fn a_newer_schema_is_refused(fixture: Fixture) {
    fixture.store.close().await;
    fixture.execute("INSERT INTO schema_version (version) VALUES (999)").await.unwrap();
    let Err(refused) = Store::open(&fixture.location).await else { panic!("it opened") };
    assert!(matches!(refused, OpenError::Newer { found: 999, .. }), "{refused:?}");
    assert!(refused.to_string().contains("newer FetchML"));
}

/// Takes back what migrations after the first one did.
const UNDO: &[&str] = &[
    "DROP INDEX audit_by_time",
    "DROP INDEX audit_by_user",
    "DROP INDEX audit_by_type",
    "DROP INDEX audit_by_resource",
    "DROP TABLE delivery",
    "DROP TABLE webhook",
    "DROP INDEX task_by_creation",
    "DROP TABLE idempotency",
    "DROP INDEX task_by_experiment",
    "ALTER TABLE task DROP COLUMN experiment_id",
    "DROP TABLE experiment",
    "ALTER TABLE attempt DROP COLUMN preempted_for",
    "DROP INDEX task_by_array",
    "ALTER TABLE task DROP COLUMN blocked",
    "ALTER TABLE task DROP COLUMN array_id",
    "DROP TABLE share",
    "DROP TABLE usage",
    "DROP TABLE quota",
    "DROP TABLE collected",
    "DROP INDEX task_by_snapshot",
    "DROP INDEX task_by_resume",
    "DROP INDEX task_by_hiding",
    "ALTER TABLE task DROP COLUMN snapshot_id",
    "ALTER TABLE task DROP COLUMN resume_from",
    "ALTER TABLE task DROP COLUMN hidden_at",
    "ALTER TABLE snapshot DROP COLUMN used_at",
    "ALTER TABLE worker DROP COLUMN evicting",
    "ALTER TABLE worker DROP COLUMN unfit",
    "ALTER TABLE attempt DROP COLUMN nodes",
    "ALTER TABLE task DROP COLUMN nodes",
    "ALTER TABLE task DROP COLUMN node_count",
    "DROP TABLE attempt_provenance",
    "DROP TABLE provenance",
    "DROP TABLE dataset",
    "DROP TABLE attempt_secret",
    "DROP TABLE secret",
    "DROP TABLE reservation",
    "DROP TABLE checkpoint",
    "ALTER TABLE task DROP COLUMN log_rule",
    "ALTER TABLE task DROP COLUMN excluded_workers",
    "DELETE FROM schema_version WHERE version > 1",
];

pub(crate) async fn a_database_of_the_first_version_is_brought_up(mut fixture: Fixture) {
    let writes = vec![insert(1, "ann", "a"), Write::AttemptPut(attempt(1, 1, 1)), Write::Audit(audit("x"))];
    fixture.store.commit(writes).await.unwrap();
    fixture.store.close().await;
    for statement in UNDO {
        fixture.execute(statement).await.unwrap();
    }
    fixture.reopen().await;
    let checkpoint = Checkpoint { attempt_id: attempt(1, 1, 1).id, saved_at: NOW, files: outcome(2).artifacts };
    fixture.store.commit(vec![Write::CheckpointPut(checkpoint.clone())]).await.unwrap();
    assert_eq!(fixture.store.checkpoint(task_id(1)).await.unwrap(), Some(checkpoint));
    fixture.store.commit(vec![Write::TaskUpdate(full_state(1))]).await.unwrap();
    assert_eq!(fixture.store.task(task_id(1)).await.unwrap().unwrap().state, full_state(1));
    assert_eq!(fixture.store.snapshot_tasks("sha256:00").await.unwrap(), 1, "what it refers to is known");
    assert_eq!(assert_log_verifies(&fixture.store).await, 1);
}

pub(crate) async fn a_closed_store_says_so(fixture: Fixture) {
    let store = &fixture.store;
    let last = store.commit(vec![Write::Audit(audit("x"))]);
    last.await.unwrap();
    store.close().await;
    store.close().await;
    assert!(matches!(store.commit(vec![]).await, Err(StoreError::Unavailable(_))));
    assert!(matches!(store.restore().await, Err(StoreError::Unavailable(_))));
}
