//! SQLite through rusqlite: the writer's connection, and a small pool for reads.

use crate::{
    database::{Database, Dialect},
    limits::{
        BUSY_TIMEOUT, READ_CONNECTIONS, READER_CACHE_KIB, SQLITE_INSERT_ROWS, STATEMENT_CACHE, WAL_PAGES,
        WRITER_CACHE_KIB,
    },
    migrate::OpenError,
    model::StoreError,
    value::{Row, Run, Value},
};
use rusqlite::{
    CachedStatement, Connection, ErrorCode, OpenFlags, ToSql,
    types::{ToSqlOutput, ValueRef},
};
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::Semaphore;

/// The writer's connection.
pub(crate) struct SqliteWriter {
    connection: Connection,
    texts: Texts,
}

impl SqliteWriter {
    pub(crate) fn open(path: &Path) -> Result<Self, OpenError> {
        let at = path.display();
        let connection = Connection::open(path).map_err(|e| {
            OpenError::Connect(format!("{at}: {e}; check that its directory exists and can be written"))
        })?;
        match set_up(&connection) {
            Ok(true) => Ok(Self { connection, texts: Texts::default() }),
            Ok(false) => Err(OpenError::NotADatabase(at.to_string())),
            Err(e) if e.sqlite_error_code() == Some(ErrorCode::NotADatabase) => {
                Err(OpenError::NotADatabase(at.to_string()))
            }
            Err(e) => Err(OpenError::Connect(format!("{at}: {e}"))),
        }
    }

    /// Makes the disk full, or not, as far as SQLite can tell.
    #[cfg(test)]
    pub(crate) fn limit_pages(&self, pages: i64) {
        self.connection.pragma_update(None, "max_page_count", pages).expect("a pragma");
    }

    fn apply(&mut self, runs: &[Run<'_>]) -> Result<(), StoreError> {
        self.connection
            .prepare_cached("BEGIN IMMEDIATE")
            .and_then(|mut s| s.raw_execute())
            .map_err(|e| classify(&e))?;
        // Runs of the same text follow each other: the statement is looked up once for all of them.
        let mut last: Option<(&str, CachedStatement<'_>)> = None;
        for run in runs {
            let sql: &str = &run.sql;
            let mut statement = match last.take() {
                Some((text, statement)) if std::ptr::eq(text, sql) => statement,
                _ => self.connection.prepare_cached(&self.texts.get(sql)).map_err(|e| classify(&e))?,
            };
            for (index, value) in run.params().enumerate() {
                statement.raw_bind_parameter(index + 1, value).map_err(|e| classify(&e))?;
            }
            let changed = statement.raw_execute().map_err(|e| classify(&e))?;
            run.check(changed as u64)?;
            last = Some((sql, statement));
        }
        drop(last);
        fetchml_failpoint::reach("store.written");
        self.connection.prepare_cached("COMMIT").and_then(|mut s| s.raw_execute()).map_err(|e| classify(&e))?;
        Ok(())
    }
}

/// Settings of the writer's connection. False: the file holds other tables than ours.
fn set_up(connection: &Connection) -> rusqlite::Result<bool> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    let count = |sql| connection.query_row(sql, [], |row| row.get::<_, i64>(0));
    let tables = count("SELECT COUNT(*) FROM sqlite_master WHERE type = 'table'")?;
    let ours = count("SELECT COUNT(*) FROM sqlite_master WHERE type = 'table' AND name = 'schema_version'")?;
    if tables > 0 && ours == 0 {
        return Ok(false);
    }
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update(None, "wal_autocheckpoint", WAL_PAGES)?;
    connection.pragma_update(None, "cache_size", -WRITER_CACHE_KIB)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.set_prepared_statement_cache_capacity(STATEMENT_CACHE);
    Ok(true)
}

impl Database for SqliteWriter {
    const BLOB: &'static str = "BLOB";
    const DIALECT: Dialect = Dialect::Sqlite;
    const INSERT_ROWS: &'static [usize] = SQLITE_INSERT_ROWS;

    async fn transact(&mut self, runs: &[Run<'_>]) -> Result<(), StoreError> {
        let outcome = self.apply(runs);
        if outcome.is_err() && !self.connection.is_autocommit() {
            // SQLite rolls some failures back by itself; for the rest it must be told.
            if let Err(e) = self.connection.execute_batch("ROLLBACK") {
                return Err(StoreError::Fatal(format!("a failed transaction cannot be rolled back: {e}")));
            }
        }
        outcome
    }

    async fn query(&mut self, sql: &'static str, params: &[Value]) -> Result<Vec<Row>, StoreError> {
        let text = self.texts.get(sql);
        query(&self.connection, &text, params)
    }

    async fn script(&mut self, sql: &str) -> Result<(), OpenError> {
        self.connection.execute_batch(sql).map_err(|e| {
            if !self.connection.is_autocommit() {
                let _ = self.connection.execute_batch("ROLLBACK");
            }
            OpenError::Failed(classify(&e))
        })
    }

    async fn close(self) {
        let emptied = self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
        if let Err(error) = emptied {
            tracing::warn!(%error, "the write-ahead log could not be copied back; the next start does it");
        }
    }
}

/// Connections that only read.
pub(crate) struct SqliteReads {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
    permits: Semaphore,
}

impl SqliteReads {
    pub(crate) fn new(path: &Path) -> Arc<Self> {
        let permits = Semaphore::new(READ_CONNECTIONS);
        Arc::new(Self { path: path.to_owned(), idle: Mutex::default(), permits })
    }

    /// Reads a few rows by key, on the calling thread: handing it to another would cost more than the read.
    pub(crate) async fn point(&self, sql: &str, params: &[Value]) -> Result<Vec<Row>, StoreError> {
        let _permit = self.permits.acquire().await.map_err(|_| closed())?;
        self.read(sql, params)
    }

    /// Reads many rows, or looks through many, on a thread that may block.
    pub(crate) async fn list(self: &Arc<Self>, sql: String, params: Vec<Value>) -> Result<Vec<Row>, StoreError> {
        let _permit = self.permits.acquire().await.map_err(|_| closed())?;
        let reads = Arc::clone(self);
        tokio::task::spawn_blocking(move || reads.read(&sql, &params))
            .await
            .map_err(|e| StoreError::Unavailable(format!("a read was stopped: {e}")))?
    }

    /// Refuses all later reads and closes what is idle.
    pub(crate) fn close(&self) {
        self.permits.close();
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn read(&self, sql: &str, params: &[Value]) -> Result<Vec<Row>, StoreError> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let connection = match idle {
            Some(connection) => connection,
            None => self.connect().map_err(|e| classify(&e))?,
        };
        let rows = query(&connection, &question_marks(sql), params);
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        rows
    }

    fn connect(&self) -> rusqlite::Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.path, flags)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.pragma_update(None, "cache_size", -READER_CACHE_KIB)?;
        connection.set_prepared_statement_cache_capacity(STATEMENT_CACHE);
        Ok(connection)
    }
}

fn query(connection: &Connection, text: &str, params: &[Value]) -> Result<Vec<Row>, StoreError> {
    let read = || -> rusqlite::Result<Vec<Row>> {
        let mut statement = connection.prepare_cached(text)?;
        for (index, value) in params.iter().enumerate() {
            statement.raw_bind_parameter(index + 1, value)?;
        }
        let columns = statement.column_count();
        let mut rows = statement.raw_query();
        let mut all = Vec::new();
        while let Some(row) = rows.next()? {
            let values = (0..columns).map(|column| row.get_ref(column).map(read_value));
            all.push(Row::new(values.collect::<Result<_, _>>()?));
        }
        Ok(all)
    };
    read().map_err(|e| classify(&e))
}

fn read_value(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(number) => Value::Int(number),
        // No column holds a fraction.
        ValueRef::Real(number) => Value::Int(number as i64),
        ValueRef::Text(text) => Value::Text(String::from_utf8_lossy(text).into_owned().into()),
        ValueRef::Blob(bytes) => Value::Blob(bytes.to_vec()),
    }
}

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Null => ValueRef::Null,
            Self::Int(number) => ValueRef::Integer(*number),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
            Self::Blob(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

/// SQL texts with `?n` for `$n`, each rewritten once.
#[derive(Default)]
struct Texts(HashMap<String, Arc<str>>);

impl Texts {
    fn get(&mut self, sql: &str) -> Arc<str> {
        if let Some(text) = self.0.get(sql) {
            return Arc::clone(text);
        }
        let text: Arc<str> = question_marks(sql).into();
        self.0.insert(sql.to_owned(), Arc::clone(&text));
        text
    }
}

/// `$n` is a name for SQLite, numbered by first use; `?n` is a number. None of our texts quotes a `$`.
fn question_marks(sql: &str) -> String {
    sql.replace('$', "?")
}

fn closed() -> StoreError {
    StoreError::Unavailable("the store is closed".into())
}

/// What a failure of SQLite means for its caller.
fn classify(error: &rusqlite::Error) -> StoreError {
    use ErrorCode as C;
    let text = error.to_string();
    match error.sqlite_error_code() {
        Some(C::SystemIoFailure | C::DatabaseCorrupt | C::NotADatabase) => StoreError::Fatal(text),
        Some(
            C::DiskFull
            | C::DatabaseBusy
            | C::DatabaseLocked
            | C::ReadOnly
            | C::CannotOpen
            | C::OutOfMemory
            | C::PermissionDenied
            | C::OperationInterrupted
            | C::OperationAborted
            | C::FileLockingProtocolFailed
            | C::SchemaChanged,
        ) => StoreError::Unavailable(text),
        _ => StoreError::Data(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rusqlite::ffi;

    #[test]
    fn failures_are_told_apart() {
        let class = |code| classify(&rusqlite::Error::SqliteFailure(ffi::Error::new(code), None));
        for code in [ffi::SQLITE_IOERR_FSYNC, ffi::SQLITE_IOERR_WRITE, ffi::SQLITE_CORRUPT] {
            assert!(matches!(class(code), StoreError::Fatal(_)), "{code}");
        }
        for code in [
            ffi::SQLITE_FULL,
            ffi::SQLITE_BUSY,
            ffi::SQLITE_BUSY_SNAPSHOT,
            ffi::SQLITE_LOCKED,
            ffi::SQLITE_READONLY,
            ffi::SQLITE_CANTOPEN,
        ] {
            assert!(matches!(class(code), StoreError::Unavailable(_)), "{code}");
        }
        for code in
            [ffi::SQLITE_CONSTRAINT_UNIQUE, ffi::SQLITE_CONSTRAINT_TRIGGER, ffi::SQLITE_MISMATCH, ffi::SQLITE_TOOBIG]
        {
            assert!(matches!(class(code), StoreError::Data(_)), "{code}");
        }
    }
}
