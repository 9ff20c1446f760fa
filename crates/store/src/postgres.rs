//! PostgreSQL through tokio-postgres: the writer's session, which holds the lock on the database, and a few
//! sessions for reads that connect again by themselves.

use crate::{
    database::{Database, Dialect},
    limits::{CONNECT_TIMEOUT, LOCK_WAIT, POSTGRES_INSERT_ROWS, READ_CONNECTIONS},
    migrate::OpenError,
    model::StoreError,
    value::{Row, Run, Value},
};
use bytes::BytesMut;
use std::{
    collections::HashMap,
    error::Error as _,
    future::poll_fn,
    pin::Pin,
    sync::atomic::{AtomicUsize, Ordering},
    task::Poll,
    time::{Duration, Instant},
};
use tokio::sync::Mutex;
use tokio_postgres::{
    Client, Config, Error, NoTls, Statement,
    types::{IsNull, ToSql, Type, to_sql_checked},
};

/// The advisory lock of a FetchML server: `fetchml` in ASCII.
const LOCK: i64 = 0x0066_6574_6368_6d6c;
const LOCK_TAKE: &str = "SELECT CASE WHEN pg_try_advisory_lock($1) THEN 1::BIGINT ELSE 0::BIGINT END";
/// In C order upper case comes before lower case.
const COLLATION: &str = "SELECT pg_encoding_to_char(encoding)::TEXT, datcollate::TEXT, \
    CASE WHEN 'a' < 'B' OR 'a-c' > 'ab' THEN 1::BIGINT ELSE 0::BIGINT END FROM pg_database WHERE datname = current_database()";

/// A connection with its prepared statements.
struct Session {
    client: Client,
    statements: HashMap<String, Statement>,
}

impl Session {
    async fn connect(config: &Config) -> Result<Self, Error> {
        let (client, connection) = config.connect(NoTls).await?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to PostgreSQL ended");
            }
        });
        // Whatever the database's default: what is acknowledged must be on disk.
        client.batch_execute("SET synchronous_commit = on; SET client_min_messages = warning").await?;
        Ok(Self { client, statements: HashMap::new() })
    }

    async fn prepare(&mut self, sql: &str) -> Result<Statement, Error> {
        if let Some(statement) = self.statements.get(sql) {
            return Ok(statement.clone());
        }
        let statement = self.client.prepare(sql).await?;
        self.statements.insert(sql.to_owned(), statement.clone());
        Ok(statement)
    }

    async fn query(&mut self, sql: &str, params: &[Value]) -> Result<Vec<Row>, Error> {
        let statement = self.prepare(sql).await?;
        let params: Vec<&(dyn ToSql + Sync)> = params.iter().map(|value| value as _).collect();
        self.client.query(&statement, &params).await?.iter().map(read_row).collect()
    }

    /// Takes the lock that keeps a second server away.
    async fn lock(&mut self) -> Result<bool, Error> {
        let rows = self.query(LOCK_TAKE, &[Value::Int(LOCK)]).await?;
        Ok(rows.into_iter().next().is_some_and(|mut row| row.int().is_ok_and(|taken| taken == 1)))
    }
}

/// The writer's session; connects again after a loss.
pub(crate) struct PostgresWriter {
    config: Config,
    session: Option<Session>,
}

/// Reads a URL or a list of settings.
pub(crate) fn parse_url(url: &str) -> Result<Config, OpenError> {
    let mut config: Config = url.parse().map_err(|e: Error| {
        OpenError::Connect(format!("not a PostgreSQL URL: {}; write postgresql://user@host/database", full(&e)))
    })?;
    config.connect_timeout(CONNECT_TIMEOUT).keepalives_idle(Duration::from_secs(10));
    config.tcp_user_timeout(Duration::from_secs(20));
    if config.get_application_name().is_none() {
        config.application_name("fetchml");
    }
    Ok(config)
}

impl PostgresWriter {
    pub(crate) async fn open(config: Config) -> Result<Self, OpenError> {
        let cannot = |e: Error| {
            OpenError::Connect(format!("PostgreSQL: {}; check that it runs, and the URL, user and database", full(&e)))
        };
        let mut session = Session::connect(&config).await.map_err(cannot)?;
        let rows = session.query(COLLATION, &[]).await.map_err(cannot)?;
        let mut row =
            rows.into_iter().next().ok_or_else(|| OpenError::Connect("PostgreSQL hides its own name".into()))?;
        let (encoding, collation, by_language) = (row.text()?, row.text()?, row.truth()?);
        if encoding != "UTF8" || by_language {
            let collation = if by_language { format!("{collation} (sorts by language)") } else { collation };
            return Err(OpenError::Collation { encoding, collation });
        }
        // A server that was killed holds the lock until PostgreSQL sees its connection close.
        let deadline = Instant::now() + LOCK_WAIT;
        while !session.lock().await.map_err(cannot)? {
            if Instant::now() > deadline {
                return Err(OpenError::InUse);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(Self { config, session: Some(session) })
    }

    /// The session, connected and holding the lock. Having the lock also proves that a session lost during
    /// COMMIT is over, so that what is read next is its final outcome.
    async fn session(&mut self) -> Result<&mut Session, StoreError> {
        if self.session.as_ref().is_none_or(|session| session.client.is_closed()) {
            self.session = None;
            let mut session = Session::connect(&self.config).await.map_err(|e| classify(&e))?;
            if !session.lock().await.map_err(|e| classify(&e))? {
                return Err(StoreError::Unavailable("another session holds the lock on the database".into()));
            }
            self.session = Some(session);
        }
        Ok(self.session.as_mut().expect("set above"))
    }

    async fn apply(&mut self, runs: &[Run<'_>]) -> Result<(), StoreError> {
        let session = self.session().await?;
        let mut statements = Vec::with_capacity(runs.len());
        for run in runs {
            statements.push(session.prepare(&run.sql).await.map_err(|e| classify(&e))?);
        }
        if let Err(error) = execute(&session.client, runs, &statements).await {
            if session.client.batch_execute("ROLLBACK").await.is_err() {
                // Without a session PostgreSQL rolls back by itself.
                self.session = None;
            }
            return Err(error);
        }
        // Only now that every statement has succeeded: COMMIT of a failed transaction would roll back and say so
        // in a way that is easy to miss.
        session.client.batch_execute("COMMIT").await.map_err(|error| {
            self.session = None;
            match classify(&error) {
                data @ StoreError::Data(_) => data,
                _ => StoreError::Unknown(full(&error)),
            }
        })
    }
}

/// Sends BEGIN and all statements at once, then reads the answers in order.
async fn execute(client: &Client, runs: &[Run<'_>], statements: &[Statement]) -> Result<(), StoreError> {
    type Answer<'a> = Pin<Box<dyn Future<Output = Result<u64, Error>> + 'a>>;
    let mut answers: Vec<Answer<'_>> = Vec::with_capacity(runs.len() + 1);
    answers.push(Box::pin(async { client.batch_execute("BEGIN").await.map(|()| 1) }));
    for (run, statement) in runs.iter().zip(statements) {
        let params: Vec<&(dyn ToSql + Sync)> = run.params().map(|value| value as _).collect();
        answers.push(Box::pin(async move { client.execute(statement, &params).await }));
    }
    // The first poll of each sends its request; that order is the order of the statements.
    let mut sent = false;
    let mut first = 0;
    let mut counts: Vec<Option<Result<u64, Error>>> = answers.iter().map(|_| None).collect();
    poll_fn(|context| {
        for (index, answer) in answers.iter_mut().enumerate().skip(first) {
            if counts[index].is_none() {
                match answer.as_mut().poll(context) {
                    Poll::Ready(count) => counts[index] = Some(count),
                    // Answers come in order: those behind this one cannot be there yet.
                    Poll::Pending if sent => break,
                    Poll::Pending => {}
                }
            }
        }
        sent = true;
        first += counts[first..].iter().take_while(|count| count.is_some()).count();
        if first == counts.len() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    for (index, count) in counts.into_iter().flatten().enumerate() {
        let changed = count.map_err(|e| classify(&e))?;
        if index > 0 {
            runs[index - 1].check(changed)?;
        }
    }
    Ok(())
}

impl Database for PostgresWriter {
    const BLOB: &'static str = "BYTEA";
    const DIALECT: Dialect = Dialect::Postgres;
    const INSERT_ROWS: &'static [usize] = POSTGRES_INSERT_ROWS;

    async fn transact(&mut self, runs: &[Run<'_>]) -> Result<(), StoreError> {
        self.apply(runs).await
    }

    async fn query(&mut self, sql: &'static str, params: &[Value]) -> Result<Vec<Row>, StoreError> {
        self.session().await?.query(sql, params).await.map_err(|e| classify(&e))
    }

    async fn script(&mut self, sql: &str) -> Result<(), OpenError> {
        let session = self.session().await?;
        if let Err(error) = session.client.batch_execute(sql).await {
            let _ = session.client.batch_execute("ROLLBACK").await;
            return Err(classify(&error).into());
        }
        Ok(())
    }

    async fn close(self) {}
}

/// Sessions that only read, taken in turn.
pub(crate) struct PostgresReads {
    config: Config,
    sessions: [Mutex<Option<Session>>; READ_CONNECTIONS],
    next: AtomicUsize,
}

impl PostgresReads {
    pub(crate) fn new(config: Config) -> Self {
        Self { config, sessions: Default::default(), next: AtomicUsize::new(0) }
    }

    pub(crate) async fn query(&self, sql: &str, params: &[Value]) -> Result<Vec<Row>, StoreError> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % READ_CONNECTIONS;
        let mut slot = self.sessions[turn].lock().await;
        if let Some(session) = slot.as_mut().filter(|session| !session.client.is_closed()) {
            match session.query(sql, params).await {
                // Lost since its last use: a read may be tried again.
                Err(error) if error.is_closed() || session.client.is_closed() => {}
                outcome => return outcome.map_err(|e| classify(&e)),
            }
        }
        let mut session = Session::connect(&self.config).await.map_err(|e| classify(&e))?;
        let rows = session.query(sql, params).await.map_err(|e| classify(&e));
        *slot = Some(session);
        rows
    }

    pub(crate) async fn close(&self) {
        for session in &self.sessions {
            session.lock().await.take();
        }
    }
}

fn read_row(row: &tokio_postgres::Row) -> Result<Row, Error> {
    let value = |index: usize| -> Result<Value, Error> {
        Ok(match *row.columns()[index].type_() {
            Type::INT8 => row.try_get::<_, Option<i64>>(index)?.map_or(Value::Null, Value::Int),
            Type::BYTEA => row.try_get::<_, Option<Vec<u8>>>(index)?.map_or(Value::Null, Value::Blob),
            _ => row.try_get::<_, Option<String>>(index)?.map_or(Value::Null, |text| Value::Text(text.into())),
        })
    };
    Ok(Row::new((0..row.len()).map(value).collect::<Result<_, _>>()?))
}

impl ToSql for Value {
    fn to_sql(&self, ty: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        match self {
            Self::Null => Ok(IsNull::Yes),
            Self::Int(number) => number.to_sql(ty, out),
            Self::Text(text) => text.as_ref().to_sql(ty, out),
            Self::Blob(bytes) => bytes.as_slice().to_sql(ty, out),
        }
    }

    fn accepts(ty: &Type) -> bool {
        [Type::INT8, Type::TEXT, Type::BYTEA].contains(ty)
    }

    to_sql_checked!();
}

/// The message with what is behind it: the outer one alone often says only "db error".
fn full(error: &Error) -> String {
    match (error.as_db_error(), error.source()) {
        (Some(db), _) => format!("{} ({})", db.message(), db.code().code()),
        (None, Some(source)) => format!("{error}: {source}"),
        (None, None) => error.to_string(),
    }
}

/// What a failure before COMMIT means for its caller: PostgreSQL has rolled back, or will.
fn classify(error: &Error) -> StoreError {
    let text = full(error);
    match error.code() {
        // Data exception, constraint, feature, PL/pgSQL exception, syntax or access rule, limit of the program.
        Some(code) if ["22", "23", "0A", "P0", "42", "54"].contains(&&code.code()[..2]) => StoreError::Data(text),
        // A value that could not be encoded never left this process.
        None if !error.is_closed() && text.contains("error serializing parameter") => StoreError::Data(text),
        // Out of space, shutting down, or the connection is lost.
        Some(_) | None => StoreError::Unavailable(text),
    }
}
