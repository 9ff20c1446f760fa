//! Commits: together, refused, numbered.

use crate::{Fixture, build::*};
use fetchml_api::Micros;
use fetchml_store::{Committed, StoreError, TaskFilter, Write, limits};
use std::collections::BTreeSet;
use tokio::task::JoinSet;

pub(crate) async fn one_bad_row_costs_only_its_own_commit(fixture: Fixture) {
    let store = &fixture.store;
    store.commit(vec![Write::KeyInsert(key("taken"))]).await.unwrap();
    for round in 0..20 {
        let mut tasks = JoinSet::new();
        for n in 0..11 {
            let store = store.clone();
            tasks.spawn(async move {
                let id = round * 100 + n;
                let mut writes = vec![insert(id, "ann", "a"), Write::Audit(audit(&format!("tasks/{id}")))];
                if n == 5 {
                    writes.push(Write::KeyInsert(key("taken")));
                }
                (n, store.commit(writes).await)
            });
        }
        while let Some(done) = tasks.join_next().await {
            let (n, outcome) = done.unwrap();
            if n == 5 {
                assert!(matches!(outcome, Err(StoreError::Data(_))), "{outcome:?}");
            } else {
                outcome.unwrap();
            }
        }
        assert_eq!(store.task(task_id(round * 100 + 5)).await.unwrap(), None);
    }
    assert_eq!(store.tasks(&TaskFilter::default()).await.unwrap().1, 200);
    assert_eq!(assert_log_verifies(store).await, 200);
}

pub(crate) async fn each_transaction_is_told_to_who_measures(fixture: Fixture) {
    let store = &fixture.store;
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    store.on_commit(move |measure| tell.send(measure).unwrap());
    store.commit(vec![insert(1, "ann", "a"), insert(2, "ann", "a")]).await.unwrap();
    store.commit(vec![Write::KeyInsert(key("taken"))]).await.unwrap();
    store.commit(vec![Write::KeyInsert(key("taken"))]).await.unwrap_err();
    store.commit(Vec::new()).await.unwrap();
    let seen: Vec<_> = std::iter::from_fn(|| told.try_recv().ok()).map(|m| (m.commits, m.succeeded)).collect();
    assert_eq!(seen, [(1, true), (1, true), (1, false)]);
}

pub(crate) async fn concurrent_commits_keep_the_log_dense(mut fixture: Fixture) {
    let mut tasks = JoinSet::new();
    for client in 0..16_u64 {
        let store = fixture.store.clone();
        tasks.spawn(async move {
            let mut numbers = Vec::new();
            for n in 0..25 {
                let id = client * 1_000 + n;
                let writes = vec![
                    insert(id, "ann", "a"),
                    Write::Audit(audit(&format!("tasks/{id}"))),
                    Write::Audit(audit("second")),
                    Write::Change(change(&id.to_string(), NOW)),
                ];
                numbers.push(store.commit(writes).await.unwrap());
            }
            numbers
        });
    }
    let mut audit_numbers = BTreeSet::new();
    let mut change_numbers = BTreeSet::new();
    while let Some(done) = tasks.join_next().await {
        for Committed { audit_sequence, change_sequence } in done.unwrap() {
            assert!(audit_numbers.insert(audit_sequence), "each commit has its own");
            change_numbers.insert(change_sequence);
        }
    }
    assert_eq!(audit_numbers.into_iter().collect::<Vec<_>>(), (1..=400).map(|n| n * 2).collect::<Vec<_>>());
    assert_eq!(change_numbers.into_iter().collect::<Vec<_>>(), (1..=400).collect::<Vec<_>>());
    assert_eq!(assert_log_verifies(&fixture.store).await, 800);
    fixture.reopen().await;
    assert_eq!(assert_log_verifies(&fixture.store).await, 800);
}

pub(crate) async fn an_unknown_task_is_refused(fixture: Fixture) {
    for write in [Write::TaskUpdate(queued(1)), Write::AttemptPut(attempt(1, 1, 1))] {
        let outcome = fixture.store.commit(vec![write]).await;
        assert!(matches!(outcome, Err(StoreError::Data(_))), "{outcome:?}");
    }
}

pub(crate) async fn a_refused_commit_leaves_nothing(fixture: Fixture) {
    let store = &fixture.store;
    store.commit(vec![insert(1, "ann", "a"), Write::Audit(audit("1"))]).await.unwrap();
    let head = store.audit_head();
    let writes =
        vec![insert(2, "ann", "a"), Write::Audit(audit("2")), Write::Change(change("2", NOW)), insert(1, "ann", "a")];
    assert!(matches!(store.commit(writes).await, Err(StoreError::Data(_))));
    assert_eq!(store.audit_head(), head);
    assert_eq!(store.task(task_id(2)).await.unwrap(), None);
    assert_eq!(store.tasks(&TaskFilter::default()).await.unwrap().1, 1);
    assert!(store.change_rows(0, 10).await.unwrap().is_empty());
    store.commit(vec![Write::Audit(audit("3"))]).await.unwrap();
    assert_eq!(assert_log_verifies(store).await, 2);
}

pub(crate) async fn the_audit_log_refuses_update_and_delete(fixture: Fixture) {
    fixture.store.commit(vec![Write::Audit(audit("1"))]).await.unwrap();
    for sql in ["UPDATE audit SET user_id = 'eve'", "DELETE FROM audit"] {
        let refused = fixture.execute(sql).await.unwrap_err();
        assert!(refused.contains("the audit log is append-only"), "{refused}");
    }
    assert_eq!(assert_log_verifies(&fixture.store).await, 1);
}

pub(crate) async fn old_change_rows_are_pruned(mut fixture: Fixture) {
    let store = &fixture.store;
    let old = || (0..limits::PRUNE_EVERY / 2).map(|_| Write::Change(change("old", NOW)));
    store.commit(old().collect()).await.unwrap();
    let later = Micros(NOW.0 + limits::CHANGE_AGE_US + 1);
    let new = || (0..limits::PRUNE_EVERY / 2).map(|_| Write::Change(change("new", later)));
    let last = store.commit(new().collect()).await.unwrap();
    let rows = store.change_rows(0, limits::PAGE_ROWS).await.unwrap();
    assert_eq!(rows.len() as u64, limits::PRUNE_EVERY / 2);
    assert!(rows.iter().all(|row| row.entity == "new"));
    assert_eq!(rows.last().unwrap().sequence, last.change_sequence);

    // Even when all are old the newest stays, and numbering goes on from it.
    let much_later = Micros(later.0 + limits::CHANGE_AGE_US + 1);
    let again = (0..limits::PRUNE_EVERY).map(|_| Write::Change(change("new", NOW)));
    let writes = again.chain([Write::Audit(fetchml_api::AuditDraft { at: much_later, ..audit("x") })]);
    let last = store.commit(writes.collect()).await.unwrap();
    let rows = store.change_rows(0, 10).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.sequence).collect::<Vec<_>>(), [last.change_sequence]);
    fixture.reopen().await;
    let next = fixture.store.commit(vec![Write::Change(change("next", NOW))]).await.unwrap();
    assert_eq!(next.change_sequence, last.change_sequence + 1);
}

pub(crate) async fn an_empty_commit_and_probes_succeed(fixture: Fixture) {
    let store = &fixture.store;
    assert_eq!(store.commit(vec![]).await.unwrap(), Committed::default());
    store.probe_read().await.unwrap();
    store.probe_write().await.unwrap();
    assert_eq!(store.meta("probe").await.unwrap(), None);
}
