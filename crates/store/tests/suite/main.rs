//! The store's whole suite, written once and run on SQLite and on PostgreSQL.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod audit;
mod build;
mod commit;
mod counters;
mod crash;
mod open;
mod outbox;
mod postgres_only;
mod records;
mod retention;
mod secrets;
mod sqlite_only;
mod tasks;

use fetchml_store::{
    Location, Store,
    testing::{TestDatabase, TestPostgres, announce},
};
use std::path::PathBuf;
use tempfile::TempDir;

/// A database of a test's own, with a store open on it.
pub(crate) struct Fixture {
    pub(crate) store: Store,
    pub(crate) location: Location,
    pub(crate) kept: Kept,
}

/// What must outlive the store.
pub(crate) enum Kept {
    Directory(#[expect(dead_code, reason = "deleted when it is dropped")] TempDir),
    Database(TestDatabase),
}

impl Fixture {
    pub(crate) async fn sqlite() -> Self {
        let directory = tempfile::tempdir_in(fast_directory()).expect("a directory");
        let location = Location::Sqlite(directory.path().join("store.db"));
        let store = Store::open(&location).await.expect("a fresh file opens");
        Self { store, location, kept: Kept::Directory(directory) }
    }

    pub(crate) async fn postgres() -> Self {
        let database = TestPostgres::shared().database().await;
        let location = Location::Postgres(database.url.clone());
        let store = Store::open(&location).await.expect("a fresh database opens");
        Self { store, location, kept: Kept::Database(database) }
    }

    /// Closes the store and opens it again, as a restart of the server does.
    pub(crate) async fn reopen(&mut self) {
        self.store.close().await;
        self.store = Store::open(&self.location).await.expect("it opens again");
    }

    /// Runs SQL behind the store's back.
    pub(crate) async fn execute(&self, sql: &str) -> Result<(), String> {
        match (&self.location, &self.kept) {
            (Location::Sqlite(path), _) => {
                let connection = rusqlite::Connection::open(path).map_err(|e| e.to_string())?;
                connection.busy_timeout(std::time::Duration::from_secs(5)).map_err(|e| e.to_string())?;
                connection.execute_batch(sql).map_err(|e| e.to_string())
            }
            (_, Kept::Database(database)) => {
                database.execute(sql).await.map_err(|e| e.as_db_error().map_or(e.to_string(), |db| db.message().into()))
            }
            _ => unreachable!("PostgreSQL keeps a database"),
        }
    }
}

/// Memory where there is some to write to: only crash tests care for the disk.
pub(crate) fn fast_directory() -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    if tempfile::tempfile_in(&memory).is_ok() { memory } else { std::env::temp_dir() }
}

/// Makes `sqlite::<name>` and `postgres::<name>` of each test function over a [`Fixture`].
macro_rules! on_both {
    ($($module:ident :: $name:ident),* $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$module::$name(super::Fixture::sqlite().await).await;
            })*
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$module::$name(super::Fixture::postgres().await).await;
            })*
        }
    };
}

on_both![
    records::a_task_reads_back_as_written,
    records::an_attempt_reads_back_and_keeps_its_artifacts,
    records::nodes_of_an_attempt_read_back_and_each_adds_its_artifacts,
    records::a_data_set_has_its_name_alone_and_can_be_forgotten,
    records::the_latest_checkpoint_reads_back,
    records::how_an_attempt_is_run_reads_back_by_node,
    records::workers_keys_snapshots_and_meta_read_back,
    records::u0000_is_refused_everywhere,
    records::numbers_over_63_bits_are_refused,
    records::change_rows_are_numbered_and_paged,
    records::restore_gives_what_lives,
    records::usage_adds_up_by_user_and_experiment,
    records::quotas_read_back_by_scope,
    records::reservations_are_kept_as_they_change_and_given_back_while_they_live,
    tasks::completed_tasks_of_the_last_day_are_counted_by_minute,
    secrets::a_secret_has_one_current_value,
    secrets::an_attempt_keeps_the_values_it_was_given,
    secrets::only_an_attempt_that_has_not_started_is_given_values,
    secrets::a_value_is_gone_with_the_last_that_has_it,
    outbox::webhooks_read_back_and_are_deleted_with_what_waits,
    outbox::a_lane_gives_what_waits_in_order,
    outbox::a_full_lane_gives_up_what_comes_and_what_was_given_up_goes,
    tasks::lists_filter_page_and_count,
    tasks::lists_filter_by_time_and_metadata,
    tasks::hidden_tasks_are_gone_from_reads,
    tasks::queue_counts_know_since_when,
    tasks::arrays_are_found_by_their_tasks,
    tasks::a_restart_is_told_how_what_is_needed_ended,
    counters::counters_equal_a_recount,
    commit::one_bad_row_costs_only_its_own_commit,
    commit::concurrent_commits_keep_the_log_dense,
    commit::an_unknown_task_is_refused,
    commit::each_transaction_is_told_to_who_measures,
    commit::a_refused_commit_leaves_nothing,
    commit::the_audit_log_refuses_update_and_delete,
    commit::old_change_rows_are_pruned,
    commit::an_empty_commit_and_probes_succeed,
    audit::events_are_filtered_paged_and_counted,
    audit::rows_somebody_changed_are_read_as_they_stand,
    retention::a_hidden_task_is_found_by_when_it_was_hidden,
    retention::a_task_is_collected_in_steps,
    retention::what_tasks_have_in_common_goes_with_the_last,
    retention::what_is_needed_is_not_collected,
    retention::whoever_is_told_of_something_finds_it,
    retention::past_tasks_are_paged_oldest_first,
    retention::blobs_that_are_referred_to_are_paged,
    open::a_reopened_store_goes_on,
    open::a_newer_schema_is_refused,
    open::a_database_of_the_first_version_is_brought_up,
    open::a_closed_store_says_so,
];

#[tokio::test]
async fn ran_on_both_databases() {
    for fixture in [Fixture::sqlite().await, Fixture::postgres().await] {
        let database = fixture.store.describe().await.expect("it has a version");
        announce(&format!("the store's suite runs on {database}")).expect("standard error");
    }
}
