//! A PostgreSQL for tests: the server named by `FETCHML_TEST_POSTGRES`, else a private one that this process
//! starts and that ends with it. Each test makes a database of its own in it.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};
use tokio_postgres::NoTls;

/// Names a server to use instead of a private one: a URL or settings that connect as a superuser, without a
/// database name in settings.
pub const SERVER_VARIABLE: &str = "FETCHML_TEST_POSTGRES";

/// Which user runs PostgreSQL when the tests run as root, which it refuses.
const UNPRIVILEGED: [&str; 2] = ["postgres", "nobody"];

/// A PostgreSQL server that tests may fill.
pub struct TestPostgres {
    settings: String,
    /// Held for its standard input: the guard stops the server when that closes, however this process ends.
    _guard: Option<Child>,
}

/// A database of a test's own; dropped with this value.
pub struct TestDatabase {
    server: &'static TestPostgres,
    name: String,
    /// What to open the store with.
    pub url: String,
}

impl TestPostgres {
    /// The server of this process.
    ///
    /// # Panics
    /// Without PostgreSQL on this machine: tests of it are never skipped.
    pub fn shared() -> &'static Self {
        static SERVER: OnceLock<TestPostgres> = OnceLock::new();
        SERVER.get_or_init(|| match std::env::var(SERVER_VARIABLE) {
            Ok(settings) if !settings.is_empty() => Self { settings, _guard: None },
            _ => Self::start(),
        })
    }

    /// Starts a private server that ends with this process. For a runner that sets [`SERVER_VARIABLE`] for all tests.
    ///
    /// # Panics
    /// Without PostgreSQL on this machine.
    pub fn start() -> Self {
        let binaries = binaries();
        let directory = private_directory();
        let guard = Command::new("sh")
            .args(["-c", GUARD, "guard"])
            .args([&binaries, &directory])
            .arg(unprivileged_user().unwrap_or_default())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn();
        let mut guard = guard.expect("sh starts");
        let mut ready = [0];
        let told = guard.stdout.take().expect("piped above").read_exact(&mut ready);
        if told.is_err() {
            let log = fs::read_to_string(directory.join("log")).unwrap_or_default();
            let _ = fs::remove_dir_all(&directory);
            panic!("PostgreSQL of {} did not start:\n{log}", binaries.display());
        }
        Self { settings: format!("host={} user=postgres", directory.display()), _guard: Some(guard) }
    }

    /// What connects to this server as a superuser; fit for [`SERVER_VARIABLE`].
    pub fn settings(&self) -> &str {
        &self.settings
    }

    /// A fresh empty database, sorted as FetchML needs it.
    pub async fn database(&'static self) -> TestDatabase {
        self.database_with("LC_COLLATE 'C' LC_CTYPE 'C'").await
    }

    /// A fresh empty database with other options of `CREATE DATABASE`.
    pub async fn database_with(&'static self, options: &str) -> TestDatabase {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970").as_micros();
        let name = format!("t{}_{}_{since}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let create = format!("CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8' {options}");
        self.execute("postgres", &create).await.expect("a superuser may create a database");
        TestDatabase { server: self, url: self.url(&name), name }
    }

    /// Runs SQL in one of this server's databases.
    ///
    /// # Errors
    /// What PostgreSQL says.
    pub async fn execute(&self, database: &str, sql: &str) -> Result<(), tokio_postgres::Error> {
        let (client, connection) = tokio_postgres::connect(&self.url(database), NoTls).await?;
        let connection = tokio::spawn(connection);
        let outcome = client.batch_execute(sql).await;
        drop(client);
        let _ = connection.await;
        outcome
    }

    fn url(&self, database: &str) -> String {
        let Some((scheme, rest)) = self.settings.split_once("://") else {
            return format!("{} dbname={database}", self.settings);
        };
        let (before, query) = rest.split_once('?').map_or((rest, String::new()), |(b, q)| (b, format!("?{q}")));
        let authority = before.split('/').next().unwrap_or_default();
        format!("{scheme}://{authority}/{database}{query}")
    }
}

impl TestDatabase {
    /// Runs SQL behind the store's back.
    ///
    /// # Errors
    /// What PostgreSQL says.
    pub async fn execute(&self, sql: &str) -> Result<(), tokio_postgres::Error> {
        self.server.execute(&self.name, sql).await
    }

    /// Breaks every connection to this database, as a restart of PostgreSQL does.
    pub async fn disconnect_all(&self) {
        let sql = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{}'", self.name);
        self.server.execute("postgres", &sql).await.expect("a superuser may end sessions");
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let drop_it = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
        // Drop is not async, and a runtime may be running on this thread: so a thread with its own.
        let server = self.server;
        let work = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            if let Ok(runtime) = runtime {
                let _ = runtime.block_on(server.execute("postgres", &drop_it));
            }
        };
        let _ = std::thread::spawn(work).join();
    }
}

/// Makes a cluster, runs it, says `.`, waits until its standard input closes, stops it and deletes everything.
/// Arguments: directory of the binaries, an empty directory, the user to run as or nothing.
const GUARD: &str = r#"
trap '' INT TERM HUP
B=$1; D=$2; U=$3
as() { if [ -n "$U" ]; then setpriv --reuid="$U" --regid="$(id -g "$U")" --clear-groups "$@"; else "$@"; fi; }
if [ -n "$U" ]; then chown "$U" "$D"; fi
cd "$D"
as "$B/initdb" -D "$D/data" -A trust -U postgres --no-sync -E UTF8 --locale=C >"$D/log" 2>&1 </dev/null &&
as "$B/pg_ctl" -D "$D/data" -w -t 60 -l "$D/server.log" -o "-k $D -c listen_addresses='' -c fsync=off -c full_page_writes=off -c max_connections=300 -c shared_buffers=64MB" start >>"$D/log" 2>&1 </dev/null &&
printf . && exec >/dev/null && cat >/dev/null
as "$B/pg_ctl" -D "$D/data" -m immediate stop >/dev/null 2>&1 </dev/null
cd /; rm -rf "$D"
"#;

/// The newest of Debian's versions, or what `PATH` names.
fn binaries() -> PathBuf {
    let mut found: Vec<(u32, PathBuf)> = Vec::new();
    for entry in fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten() {
        let version = entry.file_name().to_string_lossy().parse().unwrap_or(0);
        found.push((version, entry.path().join("bin")));
    }
    found.sort();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let candidates = found.into_iter().rev().map(|(_, bin)| bin).chain(std::env::split_paths(&path));
    let mut usable = candidates.filter(|bin| bin.join("initdb").is_file() && bin.join("pg_ctl").is_file());
    usable.next().unwrap_or_else(|| {
        panic!(
            "these tests need PostgreSQL: install it (Debian: apt-get install postgresql), or set {SERVER_VARIABLE} \
             to the URL of a server to use"
        )
    })
}

/// A new empty directory with a path short enough for a socket in it.
fn private_directory() -> PathBuf {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970").as_micros();
    let directory = Path::new("/tmp").join(format!("fetchml-pg-{}-{since}", std::process::id()));
    fs::create_dir(&directory).expect("/tmp can be written");
    directory
}

fn unprivileged_user() -> Option<&'static str> {
    let effective = fs::read_to_string("/proc/self/status").ok()?;
    let uid = effective.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    if uid.split_whitespace().nth(1) != Some("0") {
        return None;
    }
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let known = |user: &&str| passwd.lines().any(|line| line.split(':').next() == Some(user));
    UNPRIVILEGED.into_iter().find(known)
}

/// Prints a line past the capture of test output, so that a run shows which databases it covered.
///
/// # Errors
/// Standard error cannot be written.
pub fn announce(line: &str) -> io::Result<()> {
    writeln!(io::stderr().lock(), "{line}")
}
