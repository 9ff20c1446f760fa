//! A running server: how it starts, what it must make at its first start, and how it ends.

use crate::{
    accept,
    app::{App, Parts},
    auth::{Actor, AuthAudit, KeyedHash, Keys, NewKey},
    blobs::Blobs,
    data_dir::{DataDir, DataDirError},
    driver::{Driver, DriverSettings, DriverTask},
    instruments::Instruments,
    limits, link,
    log_rules::{LogRules, LogRulesError},
    logs::Logs,
    metrics::Metrics,
    openapi,
    options::Options,
    outbox::Outbox,
    retention::{Collector, Shelves},
    routes,
    secrets::Secrets,
    tls::{CertificateError, Tls},
};
use axum::{
    Router,
    http::{HeaderValue, header},
};
use fetchml_api::Role;
use fetchml_store::{Location, Store, StoreError};
use std::{
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex},
};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tower_http::set_header::SetResponseHeaderLayer;

const ADMIN_USER: &str = "admin";
const LOCAL_WORKER_USER: &str = "worker-local";
const ADMIN_KEY_FILE: &str = "admin.key";
const WORKER_KEY_FILE: &str = "worker.key";

/// Why a server did not start. The text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address is in use.
    #[error("the address {0} is in use by another program; stop that one or choose another with --listen")]
    AddressInUse(SocketAddr),
    /// The address cannot be used.
    #[error("cannot listen on {address}; choose another address with --listen")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// Other machines could read keys on the way.
    #[error(
        "{0} can be reached by other machines, and keys would travel unencrypted; \
         have it use TLS (--tls self-signed, or --tls-cert and --tls-key), listen on 127.0.0.1, or allow plain HTTP \
         explicitly with --allow-plain-http"
    )]
    PlainHttp(SocketAddr),
    /// The certificate cannot be used.
    #[error("TLS cannot be used: {0}")]
    Certificate(#[from] CertificateError),
    /// Rules on log lines that cannot be used.
    #[error("{0}")]
    LogRules(#[from] LogRulesError),
    /// Mail cannot be sent as asked for.
    #[error("{0}")]
    Mail(String),
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The objects cannot be used.
    #[error("the objects in the data directory cannot be used")]
    Objects(#[from] object_store::Error),
    /// The database cannot be opened.
    #[error("the database cannot be opened")]
    Open(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The database cannot be used.
    #[error("the database cannot be used")]
    Store(#[from] StoreError),
}

/// The first admin key.
#[derive(Clone, Debug)]
pub struct AdminKey {
    /// Where it is kept, with mode 0600.
    pub path: PathBuf,
    /// The key, if this start made it: show it once.
    pub fresh: Option<String>,
}

/// A running server.
pub struct Server {
    pub(crate) app: Arc<App>,
    address: SocketAddr,
    tls: Option<Tls>,
    admin_key: AdminKey,
    local_worker_key: String,
    fatal: CancellationToken,
    running: Mutex<Option<Running>>,
}

/// What is ended at a shutdown, in this order.
struct Running {
    http: JoinHandle<()>,
    driver: DriverTask,
    background: Vec<JoinHandle<()>>,
    background_stop: CancellationToken,
    data_dir: DataDir,
}

impl Server {
    /// Starts: takes the data directory, opens the store, restores the core, listens.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(options: Options) -> Result<Self, StartError> {
        if options.tls.is_none() && !options.listen.ip().is_loopback() && !options.allow_plain_http {
            return Err(StartError::PlainHttp(options.listen));
        }
        let log_rules = LogRules::compile(&options.log_rules)?;
        let data_dir = DataDir::take(&options.data_dir)?;
        let tls = options.tls.as_ref();
        let tls = tls.map(|tls| Tls::open(tls, &data_dir, options.listen.ip(), &options.host_names)).transpose()?;
        // Before anything is written: a port in use must not cost an incarnation.
        let listener = listen(options.listen).await?;
        let address = listener.local_addr().map_err(|source| StartError::Listen { address: options.listen, source })?;

        let instruments = Instruments::new();
        let store = open_store(&options, &data_dir).await?;
        let measuring = Arc::clone(&instruments);
        store.on_commit(move |measure| measuring.committed(measure));
        let pepper = data_dir.pepper()?;
        let keys = Keys::load(store.clone(), pepper, options.rate_limits).await?;
        let outbox = Outbox::new(&options).map_err(StartError::Mail)?;
        let secrets = Secrets::load(store.clone(), &data_dir).await?;
        let admin_key = first_admin_key(&data_dir, &keys).await?;
        let local_worker_key = local_worker_key(&data_dir, &keys).await?;
        let blobs = Blobs::local(&data_dir.dir("objects")?)?;

        let (stop, background_stop, fatal) = <(CancellationToken, CancellationToken, CancellationToken)>::default();
        let objects = Arc::clone(blobs.objects());
        let streams = |name| -> Result<_, DataDirError> {
            let (objects, root) = (Arc::clone(&objects), data_dir.dir(name)?);
            Ok(Logs::start(root, name, objects, background_stop.clone(), fatal.clone()))
        };
        let ((logs, log_task), (metrics, metrics_task)) = (streams("logs")?, streams("metrics")?);
        let metrics = Metrics::new(metrics);
        let (auth_audit, audit_task) = AuthAudit::start(store.clone(), keys.clone(), background_stop.clone());
        let settings = DriverSettings {
            aging_interval_s: i64::from(options.aging_interval_s),
            lost_after_s: i64::from(options.lost_after_s),
            hold_after_s: i64::from(options.hold_after_s),
            prepare_timeout_s: i64::from(options.prepare_timeout_s),
            preemption: options.preemption,
            quotas: options.quotas.clone(),
            values: KeyedHash::new(&pepper),
            incarnation_file: data_dir.join("incarnation"),
        };
        let (driver, driver_task) = Driver::start(store.clone(), settings, Arc::clone(&instruments)).await?;

        let document = serde_json::to_vec(&openapi()).expect("the document has only string keys");
        let shelves = Shelves {
            store: store.clone(),
            blobs: blobs.clone(),
            logs: logs.clone(),
            metrics: metrics.streams().clone(),
        };
        let collector = Collector::new(shelves, driver.clone(), options.retention, background_stop.clone());
        let parts = Parts {
            store,
            driver,
            keys,
            auth_audit,
            blobs,
            logs,
            log_rules,
            metrics,
            collector,
            secrets,
            instruments: Arc::clone(&instruments),
            outbox,
            stop: stop.clone(),
        };
        let app = App::new(parts, options, document.into());
        Outbox::start(&app).await?;
        let finisher = link::start_finisher(&app);
        let collecting = tokio::spawn(app.collector.clone().run());
        let left_over = tokio::spawn(finish_left_over_logs(Arc::clone(&app)));
        let watch = tokio::spawn(watch_driver(app.driver.fatal(), fatal.clone(), background_stop.clone()));
        let service = accept::Service {
            router: with_transport_security(routes::router(&app), tls.as_ref()),
            tls: tls.clone(),
            proxies: app.options.trusted_proxies.clone(),
            times: app.options.connections,
            instruments: Arc::clone(&instruments),
            stop: stop.clone(),
        };
        if let Some(tls) = &tls {
            tokio::spawn(tls.clone().watch(stop));
        }
        let http = tokio::spawn(accept::serve(listener, service));
        let keeping_up = tokio::spawn(instruments.keep_up(background_stop.clone()));
        tracing::info!(%address, tls = tls.is_some(), incarnation = app.driver.incarnation(), "listening");
        let running = Running {
            http,
            driver: driver_task,
            background: vec![log_task, metrics_task, audit_task, watch, finisher, left_over, collecting, keeping_up],
            background_stop,
            data_dir,
        };
        Ok(Self { app, address, tls, admin_key, local_worker_key, fatal, running: Mutex::new(Some(running)) })
    }

    /// The address it listens on.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its TLS; none: it speaks plain HTTP.
    pub const fn tls(&self) -> Option<&Tls> {
        self.tls.as_ref()
    }

    /// The first admin key.
    pub const fn admin_key(&self) -> &AdminKey {
        &self.admin_key
    }

    /// The key of the worker on this machine.
    pub fn local_worker_key(&self) -> String {
        self.local_worker_key.clone()
    }

    /// Resolves when the server can go on no longer: the disk failed to sync. The process must exit.
    pub async fn wait(&self) {
        self.fatal.cancelled().await;
    }

    /// Ends the server: no new connections, open requests get a bounded time, then everything that
    /// was promised is on the disk. Running tasks are not touched. Repeating it is harmless.
    pub async fn shutdown(&self) {
        let running = self.running.lock().expect("no code panics while it holds this").take();
        let Some(running) = running else { return };
        let Running { http, driver, background, background_stop, data_dir } = running;
        self.app.stop.cancel();
        // A task that panicked has logged it; there is nothing left to do for it.
        let _ = http.await;
        driver.stop().await;
        background_stop.cancel();
        let mut background = background.into_iter();
        for task in background.by_ref().take(4) {
            let _ = task.await;
        }
        // These only move files that stay readable where they are.
        background.for_each(|task| task.abort());
        self.app.collector.settled().await;
        self.app.verifications.settled().await;
        self.app.store.close().await;
        drop(data_dir);
        tracing::info!("stopped");
    }
}

/// A server that is dropped without [`Server::shutdown`] stops serving; nothing that was promised
/// depends on it.
impl Drop for Server {
    fn drop(&mut self) {
        self.app.stop.cancel();
        let running = self.running.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(running) = running.take() {
            running.background_stop.cancel();
            running.background.into_iter().for_each(|task| task.abort());
        }
    }
}

/// Browsers ask by TLS only from then on, unless the server vouches for itself: they could not get past a changed
/// certificate any more.
fn with_transport_security(router: Router, tls: Option<&Tls>) -> Router {
    if tls.is_none_or(Tls::is_self_signed) {
        return router;
    }
    let value = HeaderValue::from_str(&format!("max-age={}", limits::HSTS_S)).expect("digits and letters");
    router.layer(SetResponseHeaderLayer::overriding(header::STRICT_TRANSPORT_SECURITY, value))
}

async fn listen(address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => StartError::AddressInUse(address),
        _ => StartError::Listen { address, source },
    })
}

async fn open_store(options: &Options, data_dir: &DataDir) -> Result<Store, StartError> {
    let location = if let Some(url) = &options.database {
        Location::Postgres(url.clone())
    } else {
        let path = data_dir.join("fetchml.db");
        private_file(&path).map_err(|source| DataDirError::Unusable { root: data_dir.root().to_owned(), source })?;
        Location::Sqlite(path)
    };
    Store::open(&location).await.map_err(|error| StartError::Open(Box::new(error)))
}

/// SQLite gives its side files the mode of the database file.
fn private_file(path: &std::path::Path) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    std::fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path).map(drop)
}

/// Makes an admin key when there is none that works: at the first start, or when nobody could get in.
async fn first_admin_key(data_dir: &DataDir, keys: &Keys) -> Result<AdminKey, StartError> {
    let path = data_dir.join(ADMIN_KEY_FILE);
    if keys.has_admin() {
        return Ok(AdminKey { path, fresh: None });
    }
    let new = NewKey {
        user_id: ADMIN_USER.into(),
        role: Role::Admin,
        name: Some("made at the first start".into()),
        expires_at: None,
    };
    let (key, _) = keys.create(new, &Actor::system()).await?;
    data_dir.write_secret(ADMIN_KEY_FILE, format!("{key}\n").as_bytes())?;
    Ok(AdminKey { path, fresh: Some(key) })
}

/// The key in the file if it works, else a new one.
async fn local_worker_key(data_dir: &DataDir, keys: &Keys) -> Result<String, StartError> {
    if let Some(bytes) = data_dir.read_secret(WORKER_KEY_FILE)? {
        let key = String::from_utf8_lossy(&bytes).trim().to_owned();
        if keys.verify(&key, None).is_ok_and(|caller| caller.role == Role::Worker) {
            return Ok(key);
        }
    }
    let new = NewKey {
        user_id: LOCAL_WORKER_USER.into(),
        role: Role::Worker,
        name: Some("the worker on the server's machine".into()),
        expires_at: None,
    };
    let (key, _) = keys.create(new, &Actor::system()).await?;
    data_dir.write_secret(WORKER_KEY_FILE, format!("{key}\n").as_bytes())?;
    Ok(key)
}

async fn watch_driver(
    mut driver: tokio::sync::watch::Receiver<bool>,
    fatal: CancellationToken,
    stop: CancellationToken,
) {
    tokio::select! {
        failed = driver.wait_for(|failed| *failed) => if failed.is_ok() { fatal.cancel() },
        () = stop.cancelled() => {}
    }
}

/// Moves logs and metrics of attempts that were over when the last server stopped.
async fn finish_left_over_logs(app: Arc<App>) {
    for streams in [&app.logs, app.metrics.streams()] {
        finish_left_over(&app, streams).await;
    }
}

async fn finish_left_over(app: &App, streams: &Logs) {
    let local = match streams.local().await {
        Ok(local) => local,
        Err(error) => return tracing::warn!(%error, "left-over logs cannot be listed"),
    };
    for log in local {
        let over = match app.store.attempt(log.attempt).await {
            Ok(attempt) => attempt.is_some_and(|a| a.phase.is_over()),
            Err(error) => return tracing::warn!(%error, "left-over logs stay where they are"),
        };
        if over && let Err(error) = streams.finish(log.task, log.attempt).await {
            tracing::warn!(%error, attempt = %log.attempt, "a left-over log stays where it is");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{net::Ipv4Addr, time::Duration};

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn who_waits_for_a_task_is_answered_when_the_server_stops() {
        let dir = tempfile::tempdir().unwrap();
        let mut options = Options::new(dir.path().join("data"));
        options.listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let server = Server::start(options).await.unwrap();
        let (url, key) = (format!("http://{}/v1/tasks", server.address()), server.admin_key().fresh.clone().unwrap());
        let http = reqwest::Client::new();
        let body = serde_json::json!({"job_name": "a", "args": "true"});
        let made = http.post(&url).header("x-api-key", &key).json(&body).send().await.unwrap();
        let made: serde_json::Value = made.json().await.unwrap();
        let path = format!("{url}/{}?wait=60s", made["id"].as_str().unwrap());
        let ask = || http.get(&path).header("x-api-key", &key).send();
        let places = server.app.task_waits.acquire_many(server.app.options.requests_at_once as u32 / 2).await.unwrap();
        let asked = tokio::time::Instant::now();
        assert_eq!(ask().await.unwrap().status(), 200);
        assert!(asked.elapsed() < crate::limits::TASK_WAIT_MAX, "no place: answered at once");
        drop(places);
        let answer = tokio::spawn(ask());
        let arrives = async {
            while server.app.driver.tasks_watched() == 0 {
                assert!(!answer.is_finished(), "nothing has changed yet");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), arrives).await.expect("the request arrives");
        server.shutdown().await;
        assert_eq!(server.app.driver.tasks_watched(), 0, "nothing waits behind the server's end");
        let answer = answer.await.unwrap().expect("answered, not cut off");
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.json::<serde_json::Value>().await.unwrap()["status"], "queued");
    }
}
