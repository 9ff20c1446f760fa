//! A scripted server for tests of the agent: the real protocol over a real WebSocket, in this process.
//! It decides nothing; each test plays the server's part.

use crate::rig;
use axum::{
    Router,
    body::Bytes,
    extract::{
        Path, State, WebSocketUpgrade,
        ws::{Message, WebSocket},
    },
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::{any, get, post},
};
use fetchml_api::{
    AttemptEpoch, AttemptId, DatasetKey, Demand, FailureCause, Gpu, GpuUsage, Micros, Network, OnLost, SlotKind,
    TaskId, TaskSpec,
    link::{Assignment, ByteStream, Hello, LogChunk, Outcome, Report, SpooledReport, ToServer, ToWorker, Welcome},
    snapshot::{Manifest, ManifestEntry},
};
use fetchml_worker::{Options, Worker, gpu::Source};
use sha2::{Digest as _, Sha256};
use std::{
    collections::{BTreeMap, VecDeque},
    path::Path as FilePath,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout, timeout_at},
};
use uuid::Uuid;

pub(crate) const KEY: &str = "fml_abcdefghijkl_test";
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

struct Shared {
    sessions: mpsc::UnboundedSender<WebSocket>,
    blobs: Mutex<BTreeMap<String, Bytes>>,
    puts: AtomicU64,
    away: AtomicBool,
    /// What is answered to workers that ask for secrets, and how often they did.
    secrets: Mutex<(StatusCode, serde_json::Value)>,
    secrets_asked: AtomicU64,
}

/// The server.
pub(crate) struct Peer {
    pub(crate) url: String,
    shared: Arc<Shared>,
    sessions: mpsc::UnboundedReceiver<WebSocket>,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn connect(State(shared): State<Arc<Shared>>, headers: HeaderMap, upgrade: WebSocketUpgrade) -> Response {
    if shared.away.load(Ordering::Relaxed) {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    if headers.get("x-api-key").is_none_or(|key| key != KEY) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    upgrade.on_upgrade(move |socket| async move {
        let _ = shared.sessions.send(socket);
    })
}

async fn blob_get(State(shared): State<Arc<Shared>>, Path(id): Path<String>) -> Result<Bytes, StatusCode> {
    // A snapshot's manifest is the blob with the hash of its id.
    let sha256 = id.trim_start_matches("sha256:");
    shared.blobs.lock().unwrap().get(sha256).cloned().ok_or(StatusCode::NOT_FOUND)
}

async fn blob_put(State(shared): State<Arc<Shared>>, Path(sha256): Path<String>, bytes: Bytes) -> StatusCode {
    // The first upload finds the server out of order, as any may.
    if shared.puts.fetch_add(1, Ordering::Relaxed) == 0 {
        return StatusCode::SERVICE_UNAVAILABLE;
    }
    shared.blobs.lock().unwrap().insert(sha256, bytes);
    StatusCode::CREATED
}

async fn secrets(State(shared): State<Arc<Shared>>) -> Response {
    shared.secrets_asked.fetch_add(1, Ordering::Relaxed);
    let (status, body) = shared.secrets.lock().unwrap().clone();
    (status, axum::Json(body)).into_response()
}

impl Peer {
    pub(crate) async fn start() -> Self {
        let (sessions_in, sessions) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            sessions: sessions_in,
            blobs: Mutex::default(),
            puts: AtomicU64::new(0),
            away: AtomicBool::new(false),
            secrets: Mutex::new((StatusCode::NOT_FOUND, serde_json::Value::Null)),
            secrets_asked: AtomicU64::new(0),
        });
        let app = Router::new()
            .route("/v1/workers/connect", any(connect))
            .route("/v1/blobs/{sha256}", get(blob_get).put(blob_put))
            .route("/v1/tasks/{task}/attempts/{attempt}/secrets", post(secrets))
            .route("/v1/snapshots/{id}", get(blob_get))
            .with_state(Arc::clone(&shared));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { url, shared, sessions, server }
    }

    /// While away it answers 503 to every worker.
    pub(crate) fn set_away(&self, away: bool) {
        self.shared.away.store(away, Ordering::Relaxed);
    }

    /// What workers that ask for secrets are told from now on.
    pub(crate) fn set_secrets(&self, answer: (StatusCode, serde_json::Value)) {
        *self.shared.secrets.lock().unwrap() = answer;
    }

    /// How often they asked.
    pub(crate) fn secrets_asked(&self) -> u64 {
        self.shared.secrets_asked.load(Ordering::Relaxed)
    }

    pub(crate) fn blob(&self, sha256: &str) -> Option<Bytes> {
        self.shared.blobs.lock().unwrap().get(sha256).cloned()
    }

    /// Stores a snapshot; returns its id.
    pub(crate) fn snapshot(&self, files: &[(&str, &str)]) -> String {
        let mut blobs = self.shared.blobs.lock().unwrap();
        let mut manifest = Manifest::default();
        for (path, text) in files {
            let sha256 = hex::encode(Sha256::digest(text));
            blobs.insert(sha256.clone(), Bytes::copy_from_slice(text.as_bytes()));
            let (path, size_bytes) = ((*path).to_owned(), text.len() as u64);
            manifest.entries.push(ManifestEntry { path, mode: 0o644, sha256: Some(sha256), size_bytes, link: None });
        }
        let canonical = manifest.canonicalize();
        let id = Manifest::id_of(&canonical);
        blobs.insert(id["sha256:".len()..].to_owned(), canonical.into());
        id
    }

    pub(crate) fn options(&self, data_dir: &FilePath) -> Options {
        Options {
            server_url: self.url.clone(),
            key: KEY.to_owned(),
            trust: fetchml_client::Trust::System,
            data_dir: data_dir.to_owned(),
            name: Some("box".to_owned()),
            batch_slots: Some(1),
            service_slots: 1,
            log_quota_bytes: fetchml_worker::limits::LOG_QUOTA_BYTES,
            containers: fetchml_worker::container::Options {
                engine: fetchml_worker::container::EngineChoice::None,
                ..Default::default()
            },
            isolation: fetchml_worker::isolation::Isolation::None,
            gpus: Source::Simulated { count: 0, kind: None },
            cache_bytes: None,
            datasets: fetchml_worker::staging::DatasetSettings::default(),
            helper_command: rig::helper_command(),
        }
    }

    pub(crate) async fn worker(&self, data_dir: &FilePath) -> Worker {
        Worker::start(self.options(data_dir)).await.unwrap()
    }

    /// The next session, its hello read.
    pub(crate) async fn session(&mut self) -> Session {
        let socket = timeout(DEADLINE, self.sessions.recv()).await.expect("a worker connects").unwrap();
        Session::new(socket).await
    }

    /// The next session, welcomed with every log where the worker says it is.
    pub(crate) async fn welcomed(&mut self) -> Session {
        let mut session = self.session().await;
        let offsets = session.hello.inventory.iter().map(|held| (held.attempt, held.log_acked)).collect();
        session.welcome(Vec::new(), offsets).await;
        session
    }
}

/// One session, from the server's side. Heartbeats are answered and log bytes taken as messages are
/// read; dropped, the connection breaks.
pub(crate) struct Session {
    socket: WebSocket,
    pub(crate) hello: Hello,
    pub(crate) lost_after_s: u32,
    pub(crate) logs: BTreeMap<AttemptId, Vec<u8>>,
    pub(crate) metrics: BTreeMap<AttemptId, Vec<u8>>,
    /// Whether log bytes are acknowledged.
    pub(crate) ack_logs: bool,
    pub(crate) held: Vec<AttemptId>,
    /// Devices as last told.
    pub(crate) gpus: Vec<Gpu>,
    pub(crate) gpu_usage: Vec<GpuUsage>,
    /// Data sets that it last said it holds, since its hello.
    pub(crate) datasets: Vec<DatasetKey>,
    pub(crate) report_messages: u64,
    reports: VecDeque<SpooledReport>,
}

impl Session {
    async fn new(mut socket: WebSocket) -> Self {
        let message = timeout(DEADLINE, socket.recv()).await.expect("a hello").unwrap().unwrap();
        let Message::Text(text) = message else { panic!("{message:?}") };
        let ToServer::Hello(hello) = serde_json::from_str(&text).unwrap() else { panic!("{text}") };
        Self {
            socket,
            gpus: hello.capabilities.gpus.clone(),
            gpu_usage: Vec::new(),
            hello: *hello,
            lost_after_s: 600,
            logs: BTreeMap::new(),
            metrics: BTreeMap::new(),
            ack_logs: true,
            held: Vec::new(),
            datasets: Vec::new(),
            report_messages: 0,
            reports: VecDeque::new(),
        }
    }

    pub(crate) async fn welcome(&mut self, forget: Vec<AttemptId>, log_offsets: Vec<(AttemptId, u64)>) {
        let lost_after_s = self.lost_after_s;
        let (protocol, incarnation, heartbeat_s, metrics_offsets) = (1, 1, 1, Vec::new());
        let welcome =
            Welcome { protocol, incarnation, heartbeat_s, lost_after_s, forget, log_offsets, metrics_offsets };
        self.send(ToWorker::Welcome(welcome)).await;
    }

    pub(crate) async fn send(&mut self, message: ToWorker) {
        let text = serde_json::to_string(&message).unwrap();
        self.socket.send(Message::Text(text.into())).await.unwrap();
    }

    pub(crate) async fn assign(&mut self, assignment: &Assignment) {
        self.send(ToWorker::Assign(Box::new(assignment.clone()))).await;
    }

    /// Reads one message; false when nothing came until `until`.
    async fn read(&mut self, until: Instant) -> bool {
        let Ok(message) = timeout_at(until, self.socket.recv()).await else { return false };
        match message.expect("the worker stays").expect("the worker stays") {
            Message::Text(text) => match serde_json::from_str(&text).unwrap() {
                ToServer::Hello(_) => panic!("a second hello"),
                ToServer::Heartbeat(beat) => {
                    self.held = beat.held;
                    self.gpus = beat.gpus.unwrap_or_else(|| std::mem::take(&mut self.gpus));
                    self.gpu_usage = beat.gpu_usage.unwrap_or_else(|| std::mem::take(&mut self.gpu_usage));
                    self.send(ToWorker::BeatAck { sent_ms: beat.sent_ms }).await;
                }
                ToServer::Datasets { held } => self.datasets = held,
                ToServer::Reports { reports } => {
                    self.report_messages += 1;
                    self.reports.extend(reports);
                }
            },
            Message::Binary(frame) => {
                let chunk = LogChunk::decode(&frame).unwrap();
                let streams = match chunk.stream {
                    ByteStream::Log => &mut self.logs,
                    ByteStream::Metrics => &mut self.metrics,
                };
                let log = streams.entry(chunk.attempt).or_default();
                if chunk.offset <= log.len() as u64 {
                    log.truncate(chunk.offset as usize);
                    log.extend_from_slice(chunk.bytes);
                }
                let (attempt, offset) = (chunk.attempt, log.len() as u64);
                if self.ack_logs {
                    self.send(ToWorker::LogAck { attempt, stream: chunk.stream, offset }).await;
                }
            }
            Message::Ping(_) | Message::Pong(_) => {}
            Message::Close(_) => panic!("the worker closed the link"),
        }
        true
    }

    /// The next report.
    pub(crate) async fn report(&mut self) -> SpooledReport {
        let until = Instant::now() + DEADLINE;
        loop {
            if let Some(report) = self.reports.pop_front() {
                return report;
            }
            assert!(self.read(until).await, "no report in time");
        }
    }

    /// The next report, which must be this; acknowledged.
    pub(crate) async fn expect(&mut self, attempt: AttemptId, report: Report) {
        let found = self.report().await;
        assert_eq!((found.attempt, &found.report), (attempt, &report));
        self.send(ToWorker::Ack { seq: found.seq }).await;
    }

    /// Reports up to the end of `attempt`, acknowledged; others are passed over.
    pub(crate) async fn ended(&mut self, attempt: AttemptId) -> Outcome {
        loop {
            let found = self.report().await;
            self.send(ToWorker::Ack { seq: found.seq }).await;
            if let Report::Ended(outcome) = found.report
                && found.attempt == attempt
            {
                return outcome;
            }
        }
    }

    /// Reads on until `done`.
    pub(crate) async fn until(&mut self, what: &str, mut done: impl FnMut(&Self) -> bool) {
        let until = Instant::now() + DEADLINE;
        while !done(self) {
            assert!(self.read(until).await, "not in time: {what}");
        }
    }

    /// Reports that come until the beat after the next: by then anything under way is here.
    pub(crate) async fn reports_until_beats(&mut self) -> Vec<SpooledReport> {
        for _ in 0..2 {
            self.held = vec![AttemptId(Uuid::nil())];
            self.until("a beat", |session| session.held != [AttemptId(Uuid::nil())]).await;
        }
        self.reports.drain(..).collect()
    }
}

/// An attempt of a new task that runs `command`.
pub(crate) fn assignment(command: &str) -> Assignment {
    let id = TaskId(Uuid::now_v7());
    let demand = Demand {
        slot: SlotKind::Batch,
        cpu: 0,
        memory_gb: 0,
        gpu: 0,
        gpu_type: None,
        nodes: 1,
        image: false,
        reservation: None,
    };
    let spec = TaskSpec {
        id,
        user_id: "ada".to_owned(),
        job_name: "test".to_owned(),
        created_at: Micros(0),
        demand,
        entrypoint: None,
        args: Some(command.to_owned()),
        snapshot_id: None,
        image: None,
        env: BTreeMap::new(),
        secrets: Vec::new(),
        metadata: BTreeMap::new(),
        role: fetchml_api::Role::User,
        max_retries: 0,
        time_limit_s: None,
        network: Network::On,
        on_lost: OnLost::Fence,
        lost_after_s: None,
        stall_after_s: None,
        resume_from: None,
        experiment_id: None,
        source: None,
        rerun_of: None,
        datasets: Vec::new(),
        depends_on: Vec::new(),
        array: None,
        notify: None,
    };
    let epoch = AttemptEpoch { incarnation: 1, n: id.0.as_u64_pair().0 };
    Assignment { attempt: AttemptId(Uuid::new_v4()), number: 1, epoch, spec, gpus: Vec::new(), node: 0, grace_s: 1 }
}

/// As [`assignment`], for a shell script.
pub(crate) fn script(script: &str) -> Assignment {
    assert!(!script.contains('\''));
    assignment(&format!("sh -c '{script}'"))
}

/// The outcome of a process that exited.
pub(crate) fn exited(outcome: &Outcome) -> (Option<FailureCause>, Option<i32>) {
    (outcome.cause, outcome.exit_code)
}
