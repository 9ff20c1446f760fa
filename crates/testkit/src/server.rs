//! A server in this process, on a port of its own, with a data directory of its own.

use crate::CheckedClient;
use fetchml_server::{Options, Server};
use fetchml_store::{
    Location, Store,
    testing::{TestDatabase, TestPostgres},
};
use serde_json::json;
use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
};

/// Which database a test server uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Database {
    /// In the data directory.
    Sqlite,
    /// A database of its own in a private server.
    Postgres,
}

impl Database {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Sqlite, Self::Postgres];
}

/// A running server. It ends, without care, when it is dropped.
pub struct TestServer {
    server: Server,
    options: Options,
    admin_key: String,
    dir: tempfile::TempDir,
    database_held: Option<TestDatabase>,
}

impl TestServer {
    /// On SQLite, without rate limits.
    pub async fn start() -> Self {
        Self::start_with(Database::Sqlite, |_| {}).await
    }

    /// With settings changed from: any port of loopback, no rate limits.
    ///
    /// # Panics
    /// It does not start.
    pub async fn start_with(database: Database, change: impl FnOnce(&mut Options)) -> Self {
        let dir = tempfile::tempdir().expect("tests may make directories");
        let mut options = Options::new(dir.path().join("data"));
        options.listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        options.rate_limits = None;
        let database = match database {
            Database::Sqlite => None,
            Database::Postgres => Some(TestPostgres::shared().database().await),
        };
        options.database = database.as_ref().map(|d| d.url.clone());
        change(&mut options);
        let server = Server::start(options.clone()).await.unwrap_or_else(|e| panic!("the server does not start: {e}"));
        let admin_key = server.admin_key().fresh.clone().expect("the first start makes an admin key");
        Self { server, options, admin_key, dir, database_held: database }
    }

    /// Stops it with care and starts it again on the same data and another port.
    ///
    /// # Panics
    /// It does not start.
    #[must_use]
    pub async fn restart(self) -> Self {
        self.server.shutdown().await;
        let Self { options, admin_key, dir, database_held, .. } = self;
        let server = Server::start(options.clone()).await.unwrap_or_else(|e| panic!("no restart: {e}"));
        Self { server, options, admin_key, dir, database_held }
    }

    /// Stops it with care and opens its store, to look at what is written. The second value keeps the
    /// data alive.
    ///
    /// # Panics
    /// The store does not open.
    pub async fn stop_and_open_store(self) -> (Store, impl Sized) {
        self.server.shutdown().await;
        let location = match &self.options.database {
            Some(url) => Location::Postgres(url.clone()),
            None => Location::Sqlite(self.options.data_dir.join("fetchml.db")),
        };
        let store = Store::open(&location).await.unwrap_or_else(|e| panic!("the store does not open: {e}"));
        (store, (self.dir, self.database_held))
    }

    /// The server itself.
    pub const fn server(&self) -> &Server {
        &self.server
    }

    /// Its settings.
    pub const fn options(&self) -> &Options {
        &self.options
    }

    /// Its data directory.
    pub fn data_dir(&self) -> &Path {
        &self.options.data_dir
    }

    /// `http://127.0.0.1:<port>`, or https.
    pub fn url(&self) -> String {
        let scheme = if self.server.tls().is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.server.address())
    }

    /// A client without a key.
    pub fn anonymous(&self) -> CheckedClient {
        CheckedClient::new(&self.url(), None)
    }

    /// A client with the first admin key.
    pub fn admin(&self) -> CheckedClient {
        CheckedClient::new(&self.url(), Some(self.admin_key.clone()))
    }

    /// A client with a fresh key of a user.
    pub async fn user(&self, name: &str) -> CheckedClient {
        self.with_role("user", name).await
    }

    /// A client with a fresh key of a worker.
    pub async fn worker(&self) -> CheckedClient {
        self.with_role("worker", "worker").await
    }

    /// A client with a fresh key of a role, for a user.
    ///
    /// # Panics
    /// The server makes none.
    pub async fn with_role(&self, role: &str, name: &str) -> CheckedClient {
        let created = self.admin().post("/v1/keys", &json!({"role": role, "user_id": name})).await.expect(201).json();
        let key = created["key"].as_str().expect("a created key is shown").to_owned();
        CheckedClient::new(&self.url(), Some(key))
    }
}
