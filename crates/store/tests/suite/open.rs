//! Opening, closing, opening again.

use crate::{Fixture, build::*};
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
    assert!(matches!(refused, OpenError::Newer { found: 999, known: 1 }), "{refused:?}");
    assert!(refused.to_string().contains("newer FetchML"));
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
