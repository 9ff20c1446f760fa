//! Numbered migrations, embedded, each in a transaction of its own; and why a database cannot be opened.

use crate::{
    database::{Database, Dialect},
    model::StoreError,
    sql,
    value::Value,
};

struct Migration {
    common: &'static str,
    sqlite: &'static str,
    postgres: &'static str,
}

/// In order: the first has number 1. What has been released never changes.
const MIGRATIONS: [Migration; 19] = [
    Migration {
        common: include_str!("migrations/0001_first.sql"),
        sqlite: include_str!("migrations/0001_sqlite.sql"),
        postgres: include_str!("migrations/0001_postgres.sql"),
    },
    Migration { common: include_str!("migrations/0002_checkpoint.sql"), sqlite: "", postgres: "" },
    Migration { common: include_str!("migrations/0003_log_rules.sql"), sqlite: "", postgres: "" },
    Migration { common: include_str!("migrations/0004_drain.sql"), sqlite: "", postgres: "" },
    Migration { common: include_str!("migrations/0005_share.sql"), sqlite: "", postgres: "" },
    Migration {
        common: include_str!("migrations/0006_retention.sql"),
        sqlite: include_str!("migrations/0006_sqlite.sql"),
        postgres: include_str!("migrations/0006_postgres.sql"),
    },
    Migration { common: include_str!("migrations/0007_nodes.sql"), sqlite: "", postgres: "" },
    Migration { common: include_str!("migrations/0008_secret.sql"), sqlite: "", postgres: "" },
    Migration { common: include_str!("migrations/0009_array.sql"), sqlite: "", postgres: "" },
    Migration { common: include_str!("migrations/0010_reservation.sql"), sqlite: "", postgres: "" },
    Migration { common: include_str!("migrations/0011_dataset.sql"), sqlite: "", postgres: "" },
    Migration { common: include_str!("migrations/0012_usage.sql"), sqlite: "", postgres: "" },
    Migration { common: include_str!("migrations/0013_provenance.sql"), sqlite: "", postgres: "" },
    Migration { common: include_str!("migrations/0014_preemption.sql"), sqlite: "", postgres: "" },
    Migration { common: include_str!("migrations/0015_experiment.sql"), sqlite: "", postgres: "" },
    Migration { common: include_str!("migrations/0016_idempotency.sql"), sqlite: "", postgres: "" },
    Migration { common: include_str!("migrations/0017_creation.sql"), sqlite: "", postgres: "" },
    Migration { common: include_str!("migrations/0018_webhook.sql"), sqlite: "", postgres: "" },
    Migration { common: include_str!("migrations/0019_audit.sql"), sqlite: "", postgres: "" },
];

const VERSION_TABLE: &str = "CREATE TABLE IF NOT EXISTS schema_version (version BIGINT NOT NULL)";
const VERSION_GET: &str = "SELECT COALESCE(MAX(version), 0) FROM schema_version";

/// Why a database cannot be used. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file is something else.
    #[error("{0} is not a FetchML database; give another data directory, or move that file away")]
    NotADatabase(String),
    /// Written by a newer FetchML.
    #[error(
        "the database has schema version {found}, this FetchML knows {known}: it was written by a newer FetchML; \
         start that one, or restore a backup from before the upgrade"
    )]
    Newer {
        /// Version of the database.
        found: i64,
        /// Version of this program.
        known: i64,
    },
    /// Sorts by language.
    #[error(
        "the PostgreSQL database has encoding {encoding} and collation {collation}; FetchML needs UTF8 and C: \
         CREATE DATABASE fetchml TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C'"
    )]
    Collation {
        /// Its encoding.
        encoding: String,
        /// Its collation.
        collation: String,
    },
    /// Locked by another server.
    #[error("another FetchML server uses this database; stop it first, or give this one a database of its own")]
    InUse,
    /// Not there, or not accessible.
    #[error("cannot open the database: {0}")]
    Connect(String),
    /// It opened and then failed.
    #[error("cannot prepare the database")]
    Failed(#[from] StoreError),
}

/// Brings the schema to the newest version.
pub(crate) async fn migrate<D: Database>(database: &mut D) -> Result<(), OpenError> {
    database.script(VERSION_TABLE).await?;
    let found = first_int(database.query(VERSION_GET, &[]).await?)?;
    let known = MIGRATIONS.len() as i64;
    if found > known {
        return Err(OpenError::Newer { found, known });
    }
    for (migration, version) in MIGRATIONS.iter().zip(1_i64..).skip(usize::try_from(found).unwrap_or(0)) {
        let special = match D::DIALECT {
            Dialect::Sqlite => migration.sqlite,
            Dialect::Postgres => migration.postgres,
        };
        let common = migration.common.replace("{blob}", D::BLOB);
        let text =
            format!("BEGIN;\n{common}\n{special}\nINSERT INTO schema_version (version) VALUES ({version});\nCOMMIT;");
        database.script(&text).await?;
    }
    Ok(())
}

/// Makes the log's id at the first start; reads it later.
pub(crate) async fn log_id<D: Database>(database: &mut D) -> Result<String, StoreError> {
    let name = Value::from(crate::prepare::LOG_ID);
    if let Some(mut row) = database.query(sql::META_GET, std::slice::from_ref(&name)).await?.pop() {
        return row.text();
    }
    let id = uuid::Uuid::new_v4().to_string();
    let add = crate::value::Statement::new(sql::META_ADD, vec![name, Value::word(&id)]);
    database.transact(&[add.run()]).await?;
    Ok(id)
}

/// The number in the first column of the only row.
pub(crate) fn first_int(rows: Vec<crate::value::Row>) -> Result<i64, StoreError> {
    rows.into_iter().next().ok_or_else(|| crate::value::unreadable("no row"))?.int()
}
