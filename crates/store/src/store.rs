//! The store's handle: opens a database, starts its writer, hands commits to it.

use crate::{
    database::Database,
    limits::COMMIT_QUEUE,
    migrate::{OpenError, log_id, migrate},
    model::{Committed, Restored, StoreError, Write},
    postgres::{PostgresReads, PostgresWriter, parse_url},
    prepare::Prepared,
    read::Reads,
    sqlite::{SqliteReads, SqliteWriter},
    writer::{Command, CommitMeasure, Published, Reply, Writer},
};
use std::{
    path::PathBuf,
    sync::{Arc, PoisonError},
    thread,
};
use tokio::{
    runtime::Builder,
    sync::{
        mpsc::{self, error::TrySendError},
        oneshot, watch,
    },
};

/// Where the database is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Location {
    /// A file, made when absent.
    Sqlite(PathBuf),
    /// A URL such as `postgresql://fetchml@db.lab/fetchml`. The database must exist.
    Postgres(String),
}

/// An open database. Clones share it.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    commands: mpsc::Sender<Command>,
    reads: Reads,
    log_id: String,
    published: Published,
}

/// What the writer's thread tells once it is ready.
type Opened = Result<(String, Published), OpenError>;

impl Store {
    /// Opens a database: makes the SQLite file when absent, brings the schema up to date.
    ///
    /// # Errors
    /// [`OpenError`] says what is wrong and what to do.
    pub async fn open(location: &Location) -> Result<Self, OpenError> {
        let (commands, received) = mpsc::channel(COMMIT_QUEUE);
        let (opened, ready) = oneshot::channel();
        let reads = match location {
            Location::Sqlite(path) => {
                let path = path.clone();
                let reads = Reads::Sqlite(SqliteReads::new(&path));
                start(opened, received, async move || SqliteWriter::open(&path));
                reads
            }
            Location::Postgres(url) => {
                let config = parse_url(url)?;
                let reads = Reads::Postgres(Box::new(PostgresReads::new(config.clone())));
                start(opened, received, async move || PostgresWriter::open(config).await);
                reads
            }
        };
        let (log_id, published) = ready.await.map_err(|_| OpenError::Connect("the writer did not start".into()))??;
        Ok(Self { inner: Arc::new(Inner { commands, reads, log_id, published }) })
    }

    /// Writes all of it in one transaction, whole or not at all; durable when it returns. What waits at the same
    /// time shares one transaction. Dropping the future does not undo the commit.
    ///
    /// # Errors
    /// [`StoreError`] tells what became of the writes.
    pub async fn commit(&self, writes: Vec<Write>) -> Result<Committed, StoreError> {
        let prepared = Prepared::new(writes)?;
        self.ask(|reply| Command::Commit(prepared, reply)).await
    }

    /// All that a restart needs. Waits for commits sent before; after [`StoreError::Unknown`] it tells the outcome.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn restore(&self) -> Result<Restored, StoreError> {
        self.ask(Command::Restore).await
    }

    /// Whether writes work: writes more than a page and takes it away again.
    ///
    /// # Errors
    /// As a commit would fail.
    pub async fn probe_write(&self) -> Result<(), StoreError> {
        self.ask(Command::Probe).await
    }

    /// Tells `tell` of each transaction from now on; it must not block. Only the first call counts.
    pub fn on_commit(&self, tell: impl Fn(CommitMeasure) + Send + Sync + 'static) {
        // Set already: somebody measures, and one is enough.
        let _ = self.inner.published.observer.set(Box::new(tell));
    }

    /// Number and hash of the last audit event that is durable; 0 and the genesis hash: none yet.
    pub fn audit_head(&self) -> (u64, [u8; 32]) {
        *self.inner.published.audit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Number of the last change row that is durable, and each later one; 0: none yet.
    pub fn change_head(&self) -> watch::Receiver<u64> {
        self.inner.published.change.clone()
    }

    /// Id of the audit log, made with the database.
    pub fn log_id(&self) -> String {
        self.inner.log_id.clone()
    }

    /// Finishes what is queued and leaves the database in order; later calls fail as [`StoreError::Unavailable`].
    pub async fn close(&self) {
        let (reply, closed) = oneshot::channel();
        // Read connections go first: SQLite empties its write-ahead log only when nobody reads it.
        self.inner.reads.close().await;
        if self.inner.commands.send(Command::Close(reply)).await.is_ok() {
            let _ = closed.await;
        }
    }

    pub(crate) fn reads(&self) -> &Reads {
        &self.inner.reads
    }

    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.inner.commands.try_send(command(reply)).map_err(|error| match error {
            TrySendError::Full(_) => StoreError::Unavailable(format!("{COMMIT_QUEUE} commits wait already; try again")),
            TrySendError::Closed(_) => StoreError::Unavailable("the store is closed".into()),
        })?;
        // The writer answers everything it takes; without an answer its thread died, in whatever it was doing.
        answer.await.unwrap_or_else(|_| Err(StoreError::Unknown("the store's writer has ended".into())))
    }
}

/// Starts the writer on a thread of its own with a runtime of its own, so that a busy server does not slow it.
fn start<D: Database + 'static>(
    opened: oneshot::Sender<Opened>,
    commands: mpsc::Receiver<Command>,
    open: impl AsyncFnOnce() -> Result<D, OpenError> + Send + 'static,
) {
    let work = move || {
        let runtime = match Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return drop(opened.send(Err(OpenError::Connect(error.to_string())))),
        };
        runtime.block_on(async {
            match prepare(open).await {
                Ok((writer, log_id)) => {
                    if opened.send(Ok((log_id, writer.published()))).is_ok() {
                        writer.run(commands).await;
                    }
                }
                Err(error) => drop(opened.send(Err(error))),
            }
        });
    };
    // When no thread can be had, `opened` is dropped and the caller is told so.
    drop(thread::Builder::new().name("fetchml-store".into()).spawn(work));
}

async fn prepare<D: Database>(
    open: impl AsyncFnOnce() -> Result<D, OpenError>,
) -> Result<(Writer<D>, String), OpenError> {
    let mut database = open().await?;
    migrate(&mut database).await?;
    let log_id = log_id(&mut database).await?;
    Ok((Writer::new(database, log_id.clone()).await?, log_id))
}
