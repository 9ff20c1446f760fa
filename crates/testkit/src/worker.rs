//! A worker that speaks the link and does what the test says; it runs nothing.

use crate::{CheckedClient, DEADLINE, TestServer};
use fetchml_api::{
    AttemptId, Capabilities, WorkerId,
    link::{
        Assignment, ByteStream, Heartbeat, Held, Hello, LogChunk, Outcome, PROTOCOL, Report, SpooledReport, ToServer,
        ToWorker, Welcome,
    },
};
use futures_util::{SinkExt as _, StreamExt as _};
use std::collections::VecDeque;
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream,
    tungstenite::{Message, client::IntoClientRequest as _},
};

/// A connected worker.
pub struct LinkWorker {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    /// Its id.
    pub id: WorkerId,
    /// A client with the key that the link was opened with.
    pub client: CheckedClient,
    /// Terms of the session.
    pub welcome: Welcome,
    waiting: VecDeque<ToWorker>,
    seq: u64,
}

impl LinkWorker {
    /// Connects a fresh worker with 4 cores.
    ///
    /// # Panics
    /// It is refused.
    pub async fn connect(server: &TestServer) -> Self {
        Self::connect_as(server, WorkerId(uuid::Uuid::now_v7()), Vec::new()).await
    }

    /// Connects as a known worker that holds attempts.
    ///
    /// # Panics
    /// It is refused.
    pub async fn connect_as(server: &TestServer, id: WorkerId, inventory: Vec<Held>) -> Self {
        let mut worker = Self::hello(server, id, 1, inventory).await;
        worker.welcome = worker.wait(|m| if let ToWorker::Welcome(w) = m { Some(w.clone()) } else { None }).await;
        worker
    }

    /// Tries to connect as this run of an agent; why it is refused.
    ///
    /// # Panics
    /// It is welcome.
    pub async fn refused(server: &TestServer, id: WorkerId, agent_run: u64, inventory: Vec<Held>) -> String {
        let mut worker = Self::hello(server, id, agent_run, inventory).await;
        let answer = worker.wait(|m| match m {
            ToWorker::Refused { reason, .. } => Some(Ok(reason.clone())),
            ToWorker::Welcome(_) => Some(Err("it is welcome")),
            _ => None,
        });
        answer.await.expect("it is refused")
    }

    async fn hello(server: &TestServer, id: WorkerId, agent_run: u64, inventory: Vec<Held>) -> Self {
        let client = server.worker().await;
        let key = client.key.clone().expect("a worker's client has a key");
        let url = format!("ws://{}/v1/workers/connect", server.server().address());
        let mut request = url.into_client_request().expect("the address makes a URL");
        request.headers_mut().insert("x-api-key", key.parse().expect("a key is a valid header"));
        let (socket, _) = tokio_tungstenite::connect_async(request).await.unwrap_or_else(|e| panic!("no link: {e}"));
        let welcome = Welcome {
            protocol: 0,
            incarnation: 0,
            heartbeat_s: 0,
            lost_after_s: 0,
            forget: Vec::new(),
            log_offsets: Vec::new(),
            metrics_offsets: Vec::new(),
        };
        let mut worker = Self { socket, id, client, welcome, waiting: VecDeque::new(), seq: 0 };
        let capabilities =
            Capabilities { cpu_cores: 4, memory_gb: 8, executors: vec!["process".into()], ..Capabilities::default() };
        let hello = Hello {
            protocol: PROTOCOL,
            worker_id: id,
            agent_run,
            name: "test".into(),
            capabilities,
            batch_slots: 4,
            service_slots: 1,
            incarnation_seen: 0,
            inventory,
            unfit: None,
            datasets: Vec::new(),
        };
        worker.send(&ToServer::Hello(Box::new(hello))).await;
        worker
    }

    /// Sends a message.
    ///
    /// # Panics
    /// The session is closed.
    pub async fn send(&mut self, message: &ToServer) {
        let text = serde_json::to_string(message).expect("link messages are JSON");
        self.socket.send(Message::text(text)).await.unwrap_or_else(|e| panic!("the link is closed: {e}"));
    }

    /// Waits for a message that `pick` takes; others are kept for later waits.
    ///
    /// # Panics
    /// The session ends, or the deadline passes.
    pub async fn wait<T>(&mut self, pick: impl Fn(&ToWorker) -> Option<T>) -> T {
        if let Some(at) = self.waiting.iter().position(|m| pick(m).is_some())
            && let Some(found) = self.waiting.remove(at).as_ref().and_then(&pick)
        {
            return found;
        }
        loop {
            let frame = timeout(DEADLINE, self.socket.next()).await.expect("the server sends what is waited for");
            match frame.unwrap_or_else(|| panic!("the session ended")).unwrap_or_else(|e| panic!("link: {e}")) {
                Message::Text(text) => {
                    let message: ToWorker = serde_json::from_str(&text).expect("the server sends link messages");
                    match pick(&message) {
                        Some(found) => return found,
                        None => self.waiting.push_back(message),
                    }
                }
                Message::Close(_) => panic!("the session was closed"),
                _ => {}
            }
        }
    }

    /// Resolves when the server has closed the session.
    ///
    /// # Panics
    /// It does not within the deadline.
    pub async fn closed(&mut self) {
        let closing = async {
            while let Some(Ok(frame)) = self.socket.next().await {
                if frame.is_close() {
                    return;
                }
            }
        };
        timeout(DEADLINE, closing).await.expect("the server closes the session");
    }

    /// The next assignment.
    pub async fn assignment(&mut self) -> Assignment {
        self.wait(|m| if let ToWorker::Assign(a) = m { Some((**a).clone()) } else { None }).await
    }

    /// Reports about an attempt and waits until the report is dealt with.
    pub async fn report(&mut self, assignment: &Assignment, report: Report) {
        self.seq += 1;
        let seq = self.seq;
        let report = SpooledReport {
            seq,
            attempt: assignment.attempt,
            task: assignment.spec.id,
            epoch: assignment.epoch,
            report,
        };
        self.send(&ToServer::Reports { reports: vec![report] }).await;
        self.wait(|m| matches!(m, ToWorker::Ack { seq: acked } if *acked >= seq).then_some(())).await;
    }

    /// Takes the next assignment up to running user code.
    pub async fn run_next(&mut self) -> Assignment {
        let assignment = self.assignment().await;
        self.report(&assignment, Report::Accepted).await;
        self.report(&assignment, Report::Running).await;
        assignment
    }

    /// Ends an attempt.
    pub async fn end(&mut self, assignment: &Assignment, outcome: Outcome) {
        self.report(assignment, Report::Collecting).await;
        self.report(assignment, Report::Ended(outcome)).await;
    }

    /// Sends a binary frame.
    ///
    /// # Panics
    /// The session is closed.
    pub async fn send_frame(&mut self, frame: Vec<u8>) {
        self.socket.send(Message::binary(frame)).await.unwrap_or_else(|e| panic!("the link is closed: {e}"));
    }

    /// Sends log bytes; returns the durable length that the server acknowledges.
    ///
    /// # Panics
    /// The session is closed.
    pub async fn log(&mut self, attempt: AttemptId, offset: u64, bytes: &[u8]) -> u64 {
        self.stream(attempt, ByteStream::Log, offset, bytes).await
    }

    /// Sends bytes of one of an attempt's streams; returns the durable length that the server acknowledges.
    ///
    /// # Panics
    /// The session is closed.
    pub async fn stream(&mut self, attempt: AttemptId, stream: ByteStream, offset: u64, bytes: &[u8]) -> u64 {
        self.send_frame(LogChunk { attempt, stream, node: 0, offset, bytes }.encode()).await;
        self.wait(|m| match m {
            ToWorker::LogAck { attempt: of, stream: its, offset } if (*of, *its) == (attempt, stream) => Some(*offset),
            _ => None,
        })
        .await
    }

    /// Sends a sign of life.
    pub async fn beat(&mut self, held: Vec<AttemptId>) {
        self.beat_with(Heartbeat { sent_ms: 1, held, unfit: None, gpus: None, gpu_usage: None }).await;
    }

    /// Sends a sign of life that says more.
    pub async fn beat_with(&mut self, beat: Heartbeat) {
        self.send(&ToServer::Heartbeat(beat)).await;
        self.wait(|m| matches!(m, ToWorker::BeatAck { .. }).then_some(())).await;
    }
}
