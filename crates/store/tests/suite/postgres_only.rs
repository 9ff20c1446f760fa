//! What only a server can do: sort by language, serve two at once, break connections.

use crate::{Fixture, Kept, build::*};
use fetchml_store::{Location, OpenError, Store, StoreError, Write, testing::TestPostgres};
use std::time::{Duration, Instant};

async fn refused(url: &str) -> OpenError {
    match Store::open(&Location::Postgres(url.into())).await {
        Ok(_) => panic!("it opened"),
        Err(error) => error,
    }
}

#[tokio::test]
async fn a_database_sorted_by_language_is_refused() {
    let options = "LC_COLLATE 'C' LC_CTYPE 'C' LOCALE_PROVIDER icu ICU_LOCALE 'en-US'";
    let database = TestPostgres::shared().database_with(options).await;
    let error = refused(&database.url).await;
    assert!(matches!(error, OpenError::Collation { .. }), "{error:?}");
    assert!(error.to_string().contains("LC_COLLATE 'C'"), "it says what to do");
}

#[tokio::test]
async fn a_second_server_is_refused_until_the_first_ends() {
    let mut fixture = Fixture::postgres().await;
    let Location::Postgres(url) = fixture.location.clone() else { panic!("PostgreSQL") };
    assert!(matches!(refused(&url).await, OpenError::InUse));
    fixture.store.commit(vec![Write::Audit(audit("x"))]).await.unwrap();
    fixture.reopen().await;
    assert_eq!(assert_log_verifies(&fixture.store).await, 1);
}

#[tokio::test]
async fn a_server_that_cannot_be_reached_is_named() {
    for url in ["host=/nonexistent user=x dbname=y", "postgresql://127.0.0.1:1/x", "mysql://x"] {
        let error = refused(url).await;
        assert!(matches!(error, OpenError::Connect(_)), "{error:?}");
        assert!(error.to_string().contains("PostgreSQL"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_connections_are_made_again() {
    let fixture = Fixture::postgres().await;
    let Kept::Database(database) = &fixture.kept else { panic!("PostgreSQL") };
    let store = &fixture.store;
    let mut acknowledged = 0;
    for round in 0..5 {
        database.disconnect_all().await;
        store.audit_rows(0, 1).await.expect("reads connect again at once");
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            match store.commit(vec![Write::Audit(audit("x")), insert(round, "ann", "a")]).await {
                Ok(_) => break,
                Err(StoreError::Unavailable(_)) => {}
                Err(error) => panic!("{error:?}"),
            }
            assert!(Instant::now() < deadline, "writes come back");
        }
        acknowledged += 1;
        assert_eq!(assert_log_verifies(store).await, acknowledged);
    }
}
