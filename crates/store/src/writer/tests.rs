//! Commits that fail for reasons other than data: full disk, lost connection, unknown outcome, broken disk.

use super::*;
use crate::{
    database::Dialect,
    migrate::{OpenError, log_id, migrate},
    model::{ChangeDraft, Write},
    sqlite::{SqliteReads, SqliteWriter},
    value::Row,
};
use fetchml_api::{AuditDraft, AuditKind};
use std::{collections::BTreeMap, path::Path};

/// A database whose next transaction fails as told.
struct Flaky {
    inner: SqliteWriter,
    next: Option<Failure>,
}

enum Failure {
    /// Before anything was written.
    Before(StoreError),
    /// After COMMIT: durable, but nobody was told.
    After(StoreError),
}

impl Database for Flaky {
    const BLOB: &'static str = SqliteWriter::BLOB;
    const DIALECT: Dialect = SqliteWriter::DIALECT;
    const INSERT_ROWS: &'static [usize] = SqliteWriter::INSERT_ROWS;

    async fn transact(&mut self, runs: &[Run<'_>]) -> Result<(), StoreError> {
        match self.next.take() {
            Some(Failure::Before(error)) => Err(error),
            Some(Failure::After(error)) => self.inner.transact(runs).await.and(Err(error)),
            None => self.inner.transact(runs).await,
        }
    }

    async fn query(&mut self, sql: &'static str, params: &[Value]) -> Result<Vec<Row>, StoreError> {
        self.inner.query(sql, params).await
    }

    async fn script(&mut self, sql: &str) -> Result<(), OpenError> {
        self.inner.script(sql).await
    }

    async fn close(self) {
        self.inner.close().await;
    }
}

async fn writer(path: &Path) -> Writer<Flaky> {
    let mut database = Flaky { inner: SqliteWriter::open(path).unwrap(), next: None };
    migrate(&mut database).await.unwrap();
    let log_id = log_id(&mut database).await.unwrap();
    Writer::new(database, log_id).await.unwrap()
}

fn event(body_bytes: usize) -> Prepared {
    let audit = AuditDraft {
        at: Micros(1),
        kind: AuditKind::FileAccess,
        user_id: "ann".into(),
        resource: "x".into(),
        action: "read".into(),
        success: true,
        ip_address: None,
        error: None,
        metadata: BTreeMap::new(),
    };
    let change = ChangeDraft { at: Micros(1), kind: "job", entity: "x".into(), body: "0".repeat(body_bytes) };
    Prepared::new(vec![Write::Audit(audit), Write::Change(change)]).unwrap()
}

async fn commit(writer: &mut Writer<Flaky>, group: Vec<Prepared>) -> Vec<Result<Committed, StoreError>> {
    let (replies, answers): (Vec<_>, Vec<_>) = group.iter().map(|_| oneshot::channel()).unzip();
    writer.commit(group.into_iter().zip(replies).collect()).await;
    let mut all = Vec::new();
    for answer in answers {
        all.push(answer.await.unwrap());
    }
    all
}

/// Number of audit rows in the database, which must verify and end where the writer says.
async fn verified(writer: &mut Writer<Flaky>) -> u64 {
    let rows = writer.database.query(sql::AUDIT_PAGE, &[Value::Int(0), Value::Int(1_000)]).await.unwrap();
    let rows = rows.into_iter().map(|row| rows::read_audit(row).unwrap());
    let verdict = fetchml_audit::verify(&writer.log_id, rows);
    assert_eq!(verdict.first_tampered, None);
    assert_eq!((verdict.checked, verdict.head), *writer.audit_head.lock().unwrap());
    verdict.checked
}

#[tokio::test]
async fn a_full_disk_refuses_writes_until_there_is_room() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    let mut writer = writer(&path).await;
    let reads = SqliteReads::new(&path);
    assert!(commit(&mut writer, vec![event(1)]).await[0].is_ok());
    writer.database.inner.limit_pages(1);
    let mut written = 1;
    let refused = loop {
        match commit(&mut writer, vec![event(20_000), event(20_000)]).await.pop().unwrap() {
            Ok(_) => written += 2,
            Err(error) => break error,
        }
        assert!(written < 100, "the limit holds");
    };
    assert!(matches!(refused, StoreError::Unavailable(_)), "{refused:?}");
    assert!(matches!(writer.probe().await, Err(StoreError::Unavailable(_))));
    assert_eq!(reads.point(sql::AUDIT_PAGE, &[Value::Int(0), Value::Int(1_000)]).await.unwrap().len(), written);

    writer.database.inner.limit_pages(1_000_000);
    writer.probe().await.unwrap();
    assert!(commit(&mut writer, vec![event(20_000)]).await[0].is_ok());
    assert_eq!(verified(&mut writer).await, written as u64 + 1);
}

#[tokio::test]
async fn heads_move_only_with_what_is_durable() {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = writer(&directory.path().join("store.db")).await;
    assert!(commit(&mut writer, vec![event(1), event(1)]).await.iter().all(Result::is_ok));

    writer.database.next = Some(Failure::Before(StoreError::Unavailable("gone".into())));
    let refused = commit(&mut writer, vec![event(1), event(1)]).await;
    assert!(refused.iter().all(|answer| matches!(answer, Err(StoreError::Unavailable(_)))));
    let next = commit(&mut writer, vec![event(1)]).await.pop().unwrap().unwrap();
    assert_eq!((next.audit_sequence, next.change_sequence), (3, 3));

    writer.database.next = Some(Failure::After(StoreError::Unknown("broke during COMMIT".into())));
    let unknown = commit(&mut writer, vec![event(1), event(1)]).await;
    assert!(unknown.iter().all(|answer| matches!(answer, Err(StoreError::Unknown(_)))));
    let next = commit(&mut writer, vec![event(1)]).await.pop().unwrap().unwrap();
    assert_eq!((next.audit_sequence, next.change_sequence), (6, 6), "it goes on behind what became durable");
    assert_eq!(verified(&mut writer).await, 6);
}

#[tokio::test]
async fn after_an_unknown_outcome_restore_tells_it() {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = writer(&directory.path().join("store.db")).await;
    writer.database.next = Some(Failure::After(StoreError::Unknown("broke during COMMIT".into())));
    assert!(commit(&mut writer, vec![event(1)]).await[0].is_err());
    assert_eq!(writer.audit_head.lock().unwrap().0, 0);
    assert_eq!(writer.restore().await.unwrap().last_time, Micros(1));
    assert_eq!(verified(&mut writer).await, 1);
}

#[tokio::test]
async fn after_a_disk_failure_nothing_is_written_any_more() {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = writer(&directory.path().join("store.db")).await;
    writer.database.next = Some(Failure::Before(StoreError::Fatal("fsync".into())));
    for _ in 0..2 {
        assert!(matches!(commit(&mut writer, vec![event(1)]).await[0], Err(StoreError::Fatal(_))));
        assert!(matches!(writer.probe().await, Err(StoreError::Fatal(_))));
    }
    assert_eq!(verified(&mut writer).await, 0);
}

#[tokio::test]
async fn a_replay_stops_at_the_first_failure_that_is_not_of_data() {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = writer(&directory.path().join("store.db")).await;
    let unknown_task = || {
        let missing = Statement::new("DELETE FROM task WHERE id = $1", vec!["x".into()]).must_change("no such task");
        Prepared { statements: vec![missing], writes: 1, ..Prepared::default() }
    };
    let answers = commit(&mut writer, vec![event(1), unknown_task(), event(1)]).await;
    assert!(answers[0].is_ok() && answers[2].is_ok());
    assert!(matches!(answers[1], Err(StoreError::Data(_))));

    let group = [event(1), unknown_task(), event(1)];
    writer.database.next = Some(Failure::After(StoreError::Unknown("broke".into())));
    let answers = writer.replay(&group).await;
    assert!(matches!(answers[0], Err(StoreError::Unknown(_))));
    assert!(matches!(answers[1], Err(StoreError::Unavailable(_))), "not tried: its outcome is known");
    assert!(matches!(answers[2], Err(StoreError::Unavailable(_))));
}
