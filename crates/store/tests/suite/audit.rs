//! Reads of the audit log.

use crate::Fixture;
use fetchml_api::{AuditDraft, AuditKind, Micros};
use fetchml_audit::parse_body;
use fetchml_store::{AuditFilter, StoredAudit, Write};
use std::collections::BTreeMap;

fn event(at: i64, kind: AuditKind, user: &str, resource: &str) -> Write {
    Write::Audit(AuditDraft {
        at: Micros(at),
        kind,
        user_id: user.into(),
        resource: resource.into(),
        action: "a".into(),
        success: true,
        ip_address: None,
        error: None,
        metadata: BTreeMap::new(),
    })
}

/// Twenty events of two users; the clock went back once.
async fn filled(fixture: &Fixture) {
    let writes = (1..=20_i64).map(|n| {
        let at = if n == 10 { 3_000_000 } else { n * 1_000_000 };
        let kind = if n % 3 == 0 { AuditKind::FileAccess } else { AuditKind::JobQueued };
        event(at, kind, if n % 2 == 0 { "ada" } else { "bob" }, if n > 15 { "tasks/b" } else { "tasks/a" })
    });
    fixture.store.commit(writes.collect()).await.unwrap();
}

fn numbers(page: &[StoredAudit]) -> Vec<u64> {
    page.iter().map(|event| event.row.sequence).collect()
}

pub(crate) async fn events_are_filtered_paged_and_counted(fixture: Fixture) {
    let all = AuditFilter { limit: 1_000, ..AuditFilter::default() };
    assert_eq!(fixture.store.audit_events(&all).await.unwrap(), (Vec::new(), 0));
    filled(&fixture).await;
    let ask = async |filter: AuditFilter| {
        let (page, total) = fixture.store.audit_events(&filter).await.unwrap();
        (numbers(&page), total)
    };
    assert_eq!(ask(all.clone()).await, ((1..=20).collect(), 20));
    assert_eq!(ask(AuditFilter { limit: 0, ..all.clone() }).await, (Vec::new(), 20));
    assert_eq!(ask(AuditFilter { limit: 3, offset: 5, ..all.clone() }).await, (vec![6, 7, 8], 20));
    assert_eq!(ask(AuditFilter { limit: 3, after: Some(18), ..all.clone() }).await, (vec![19, 20], 20));
    assert_eq!(ask(AuditFilter { after: Some(u64::MAX), ..all.clone() }).await, (Vec::new(), 20));
    let newest = AuditFilter { newest_first: true, ..all.clone() };
    assert_eq!(ask(AuditFilter { limit: 2, ..newest.clone() }).await, (vec![20, 19], 20));
    assert_eq!(ask(AuditFilter { limit: 2, after: Some(19), ..newest.clone() }).await, (vec![18, 17], 20));
    assert_eq!(ask(AuditFilter { after: Some(0), ..newest }).await, (Vec::new(), 20));
    // Both ends are within; the event whose clock was behind is found by its time, at its place.
    let (from, to) = (Some(Micros(3_000_000)), Some(Micros(5_000_000)));
    assert_eq!(ask(AuditFilter { from, to, ..all.clone() }).await, (vec![3, 4, 5, 10], 4));
    let ada = Some("ada".to_owned());
    assert_eq!(ask(AuditFilter { from, to, user_id: ada.clone(), ..all.clone() }).await, (vec![4, 10], 2));
    let kind = Some(AuditKind::FileAccess);
    assert_eq!(ask(AuditFilter { kind, user_id: ada.clone(), ..all.clone() }).await, (vec![6, 12, 18], 3));
    let resource = Some("tasks/b".to_owned());
    assert_eq!(ask(AuditFilter { resource, user_id: ada, limit: 1, ..all.clone() }).await, (vec![16], 3));
    for nobody in ["", "a\0", "'; DROP TABLE audit; --"] {
        assert_eq!(ask(AuditFilter { user_id: Some(nobody.into()), ..all.clone() }).await, (Vec::new(), 0));
    }
}

pub(crate) async fn rows_somebody_changed_are_read_as_they_stand(fixture: Fixture) {
    filled(&fixture).await;
    let agree = async || {
        let rows = fixture.store.audit_stored(None, 1_000).await.unwrap();
        let agrees = |event: &StoredAudit| parse_body(&event.row.body).is_ok_and(|body| event.agrees_with(&body));
        (numbers(&rows), rows.iter().filter(|event| !agrees(event)).map(|event| event.row.sequence).collect::<Vec<_>>())
    };
    assert_eq!(agree().await, ((1..=20).collect(), Vec::new()));
    let unguarded = match fixture.location {
        fetchml_store::Location::Sqlite(_) => "DROP TRIGGER audit_refuses_update; DROP TRIGGER audit_refuses_delete;",
        fetchml_store::Location::Postgres(_) => "DROP TRIGGER audit_refuses_change ON audit;",
    };
    fixture.execute(unguarded).await.unwrap();
    let edits = [
        "at = at + 1",
        "event_type = 'job_started'",
        "event_type = 'nonsense'",
        "user_id = 'eve'",
        "resource = 'x'",
        "action = 'x'",
        "success = 0",
        "success = 7",
    ];
    for (edit, sequence) in edits.iter().zip(2..) {
        fixture.execute(&format!("UPDATE audit SET {edit} WHERE sequence = {sequence}")).await.unwrap();
    }
    assert_eq!(agree().await, ((1..=20).collect(), (2..=9).collect()));
    fixture.execute("UPDATE audit SET sequence = -5 WHERE sequence = 1").await.unwrap();
    assert_eq!(agree().await.0[..2], [0, 2], "what stands before the first is seen");
    let last = fixture.store.audit_stored(Some(18), 1).await.unwrap();
    assert_eq!(numbers(&last), [19]);
}
