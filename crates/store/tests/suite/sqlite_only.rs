//! What only a file can be.

use crate::{Fixture, build::*, fast_directory};
use fetchml_store::{Location, OpenError, Store, Write};
use std::fs;

async fn refused(path: std::path::PathBuf) -> OpenError {
    match Store::open(&Location::Sqlite(path)).await {
        Ok(_) => panic!("it opened"),
        Err(error) => error,
    }
}

#[tokio::test]
async fn a_file_of_something_else_is_refused_and_left_alone() {
    let directory = tempfile::tempdir_in(fast_directory()).unwrap();
    let text = directory.path().join("notes.txt");
    fs::write(&text, "not a database, but long enough to look like one: ".repeat(100)).unwrap();
    let error = refused(text.clone()).await;
    assert!(matches!(error, OpenError::NotADatabase(_)), "{error:?}");
    assert!(error.to_string().contains("notes.txt is not a FetchML database"));
    assert!(fs::read_to_string(text).unwrap().starts_with("not a database"));

    let other = directory.path().join("other.db");
    rusqlite::Connection::open(&other).unwrap().execute_batch("CREATE TABLE theirs (a)").unwrap();
    assert!(matches!(refused(other).await, OpenError::NotADatabase(_)));
}

#[tokio::test]
async fn a_missing_directory_says_what_to_check() {
    let directory = tempfile::tempdir_in(fast_directory()).unwrap();
    let error = refused(directory.path().join("missing/store.db")).await;
    assert!(matches!(error, OpenError::Connect(_)), "{error:?}");
    assert!(error.to_string().contains("check that its directory exists"), "{error}");
}

#[tokio::test]
async fn close_empties_the_write_ahead_log() {
    let fixture = Fixture::sqlite().await;
    fixture.store.commit(vec![insert(1, "ann", "a"), Write::Audit(audit("x"))]).await.unwrap();
    fixture.store.task(task_id(1)).await.unwrap();
    fixture.store.close().await;
    let Location::Sqlite(path) = &fixture.location else { panic!("SQLite") };
    let left = fs::metadata(path.with_extension("db-wal")).map_or(0, |wal| wal.len());
    assert_eq!(left, 0, "the database is one file again");
}
