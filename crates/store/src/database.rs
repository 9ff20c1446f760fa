//! What the writer needs of a database: the one trait with two thin drivers behind it.

use crate::{
    migrate::OpenError,
    model::StoreError,
    value::{Row, Run, Value},
};

/// The writing connection of a database. It lives on the writer's thread and is used by it alone.
pub(crate) trait Database: Sized {
    /// What `{blob}` stands for in a migration.
    const BLOB: &'static str;
    /// Which of a migration's special parts is this database's.
    const DIALECT: Dialect;

    /// Sizes of multi-row INSERTs that serve it best, largest first; the last is 1.
    const INSERT_ROWS: &'static [usize];

    /// Runs everything in one transaction: whole or not at all, and durable when it returns.
    async fn transact(&mut self, runs: &[Run<'_>]) -> Result<(), StoreError>;

    /// Reads what is committed.
    async fn query(&mut self, sql: &'static str, params: &[Value]) -> Result<Vec<Row>, StoreError>;

    /// Runs statements without parameters that begin and end their own transaction.
    async fn script(&mut self, sql: &str) -> Result<(), OpenError>;

    /// Leaves everything in order.
    async fn close(self);
}

/// The two databases.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Dialect {
    Sqlite,
    Postgres,
}
