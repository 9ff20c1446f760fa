//! The connection to the server: one WebSocket at a time, made again whenever it breaks. It carries
//! what spool and logs hold and hands what arrives to the core; it decides nothing about attempts.

use crate::{
    agent::{clock, core::Event, lease::Lease, logs::Logs, outbox::SharedSpool},
    executor::Rendezvous,
    gpu::{Gpus, Told},
    limits,
};
use bytes::Bytes;
use fetchml_api::{
    Gpu, GpuUsage,
    limits::{LINK_LOG_CHUNK_BYTES, LINK_MESSAGE_BYTES},
    link::{ByteStream, Heartbeat, LogChunk, ToServer, ToWorker, Welcome},
};
use fetchml_client::{Trust, untrusted};
use futures_util::{
    SinkExt as _, StreamExt as _,
    stream::{SplitSink, SplitStream},
};
use std::{net::IpAddr, sync::Arc, time::Duration};
use tokio::{
    net::TcpStream,
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep, timeout},
};
use tokio_tungstenite::{
    Connector, MaybeTlsStream, WebSocketStream, connect_async_tls_with_config,
    tungstenite::{
        Error as WsError, Message,
        client::IntoClientRequest as _,
        handshake::client::Request,
        http::{HeaderValue, StatusCode},
        protocol::WebSocketConfig,
    },
};

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Where the link leads; the key stands in the request and nowhere else.
pub(crate) struct Target {
    request: Request,
    connector: Connector,
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Target").field("url", self.request.uri()).finish_non_exhaustive()
    }
}

impl Target {
    /// From `http(s)://host[:port][/base]`, a key, and how the server is known.
    pub(crate) fn new(server_url: &str, key: &str, trust: &Trust) -> Result<Self, String> {
        let base = server_url.trim_end_matches('/');
        let url = match base.split_once("://") {
            Some(("http", rest)) => format!("ws://{rest}/v1/workers/connect"),
            Some(("https", rest)) => format!("wss://{rest}/v1/workers/connect"),
            _ => return Err("it must begin with http:// or https://".to_owned()),
        };
        let mut request = url.into_client_request().map_err(|error| error.to_string())?;
        let mut key = HeaderValue::from_str(key).map_err(|_| "the key is not well formed".to_owned())?;
        key.set_sensitive(true);
        request.headers_mut().insert("x-api-key", key);
        let connector = if base.starts_with("https://") {
            Connector::Rustls(Arc::new(trust.config().map_err(|error| format!("TLS cannot be used: {error}"))?))
        } else {
            Connector::Plain
        };
        Ok(Self { request, connector })
    }
}

/// Why a session ended.
#[derive(Debug)]
enum End {
    /// Try again.
    Again(String),
    /// Never again: the agent ends with this reason.
    Final(String),
}

impl From<WsError> for End {
    fn from(error: WsError) -> Self {
        Self::Again(error.to_string())
    }
}

type Ended = Result<std::convert::Infallible, End>;

/// The link.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) target: Target,
    pub(crate) core: mpsc::Sender<Event>,
    pub(crate) spool: Arc<SharedSpool>,
    pub(crate) logs: Logs,
    pub(crate) metrics: Logs,
    pub(crate) lease: Arc<Lease>,
    pub(crate) gpus: Gpus,
    /// Changes with what is held of data sets.
    pub(crate) datasets: watch::Receiver<()>,
}

impl Link {
    /// Connects, again and again, until the server refuses for good.
    pub(crate) async fn run(self) {
        let mut ceiling = limits::RECONNECT_FIRST;
        let mut said = String::new();
        loop {
            let mut began = None;
            let end = match self.session(&mut began).await {
                Ok(never) => match never {},
                Err(end) => end,
            };
            self.logs.disconnected();
            self.metrics.disconnected();
            match end {
                End::Final(reason) => {
                    let _ = self.core.send(Event::Refused(reason)).await;
                    return;
                }
                End::Again(reason) => {
                    // An outage is said once, not at each try.
                    if reason == said {
                        tracing::debug!(%reason, "no link to the server");
                    } else {
                        tracing::warn!(%reason, "no link to the server; trying on");
                        said = reason;
                    }
                }
            }
            if began.is_some_and(|began: Instant| began.elapsed() >= limits::SESSION_GOOD) {
                ceiling = limits::RECONNECT_FIRST;
                said.clear();
            }
            sleep(jitter(ceiling)).await;
            ceiling = (ceiling * 2).min(limits::RECONNECT_MAX);
        }
    }

    async fn session(&self, began: &mut Option<Instant>) -> Ended {
        let mut socket = self.connect().await?;
        let address = local_address(&socket);
        let hello_ms = clock::boottime_ms();
        let hello = self.ask(Event::HelloWanted).await?;
        let incarnation_seen = hello.incarnation_seen;
        let mut devices = DevicesTold { news: self.gpus.subscribe(), gpus: hello.capabilities.gpus.clone(), looks: 0 };
        socket.send(text(&ToServer::Hello(Box::new(hello)))).await?;
        let welcome = timeout(limits::WELCOME_TIMEOUT, read_welcome(&mut socket))
            .await
            .map_err(|_| End::Again("the server did not answer the hello in time".to_owned()))??;
        if welcome.incarnation < incarnation_seen {
            // A new or restored server; it hears of the higher number and decides. Attempts are fenced by id.
            tracing::warn!(
                incarnation = welcome.incarnation,
                incarnation_seen,
                "the server is behind what this worker has seen"
            );
        }
        let beat_every = Duration::from_secs(
            welcome.heartbeat_s.clamp(*limits::HEARTBEAT_S.start(), *limits::HEARTBEAT_S.end()).into(),
        );
        tracing::info!(incarnation = welcome.incarnation, lost_after_s = welcome.lost_after_s, "linked to the server");
        *began = Some(Instant::now());
        let (offsets, metrics_offsets) = (welcome.log_offsets.clone(), welcome.metrics_offsets.clone());
        self.lease.began(hello_ms, welcome.lost_after_s);
        // The core drops what the server forgets before anything is sent again.
        self.ask(|done| Event::Welcomed(welcome, address, done)).await?;
        let (frames, logs) = mpsc::channel(limits::LINK_LOG_FRAMES);
        self.metrics.connected(frames.clone(), metrics_offsets);
        self.logs.connected(frames, offsets);
        self.spool.lock().resend();
        let (sink, stream) = socket.split();
        // Reading goes on while a send waits, so the two ends cannot wait for each other.
        tokio::select! {
            ended = self.write(sink, logs, beat_every, &mut devices) => ended,
            ended = self.read(stream) => ended,
            ended = self.watchdog() => ended,
        }
    }

    async fn connect(&self) -> Result<Socket, End> {
        let config = WebSocketConfig::default()
            .max_message_size(Some(LINK_MESSAGE_BYTES))
            .max_frame_size(Some(LINK_MESSAGE_BYTES))
            .write_buffer_size(limits::WS_WRITE_BUFFER_BYTES)
            .max_write_buffer_size(limits::WS_WRITE_BUFFER_MAX_BYTES);
        let Target { request, connector } = &self.target;
        let connecting = connect_async_tls_with_config(request.clone(), Some(config), true, Some(connector.clone()));
        let refused = match timeout(limits::CONNECT_TIMEOUT, connecting).await {
            Err(_) => return Err(End::Again("the server cannot be reached: no answer in time".to_owned())),
            Ok(Ok((socket, _))) => return Ok(socket),
            Ok(Err(WsError::Http(response))) => response.status(),
            Ok(Err(error)) => {
                return Err(End::Again(match untrusted(&error) {
                    Some(reason) => format!(
                        "what answers in the server's place is not it: {reason}; if the server has a new certificate, \
                         tell this worker (--tls-fingerprint, --ca-cert)"
                    ),
                    None => format!("the server cannot be reached: {error}"),
                }));
            }
        };
        Err(match refused {
            StatusCode::UNAUTHORIZED => End::Final(
                "the server does not accept this worker key; make a new one with `fetchml keys create --role worker`"
                    .to_owned(),
            ),
            StatusCode::FORBIDDEN => {
                End::Final("this key may not open a worker link; it needs the role worker or admin".to_owned())
            }
            status => End::Again(format!("the server answered {status} where the worker link should be")),
        })
    }

    /// Asks the core something. It answers as long as the agent lives.
    async fn ask<T>(&self, question: impl FnOnce(oneshot::Sender<T>) -> Event) -> Result<T, End> {
        let gone = || End::Again("the agent is ending".to_owned());
        let (ask, answer) = oneshot::channel();
        self.core.send(question(ask)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())
    }

    async fn write(
        &self,
        mut sink: SplitSink<Socket, Message>,
        mut logs: mpsc::Receiver<Bytes>,
        beat_every: Duration,
        devices: &mut DevicesTold,
    ) -> Ended {
        let mut beat = tokio::time::interval(beat_every);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut changes = self.datasets.clone();
        let mut told = Instant::now();
        self.send_reports(&mut sink).await?;
        loop {
            tokio::select! {
                biased;
                _ = beat.tick() => self.beat(&mut sink, devices).await?,
                // Before the reports: what a task leaves behind on its device must be known when it is offered.
                () = devices.changed() => self.beat(&mut sink, devices).await?,
                () = self.spool.changed() => {
                    if !self.spool.lock().is_urgent() {
                        sleep(limits::REPORT_LINGER).await;
                    }
                    self.send_reports(&mut sink).await?;
                }
                () = changed(&mut changes, told) => {
                    told = Instant::now();
                    let held = self.ask(Event::DatasetsWanted).await?;
                    sink.send(text(&ToServer::Datasets { held })).await?;
                }
                frame = logs.recv() => {
                    let Some(frame) = frame else {
                        return Err(End::Again("the log task ended".to_owned()));
                    };
                    debug_assert!(frame.len() <= LogChunk::HEADER_BYTES + LINK_LOG_CHUNK_BYTES);
                    sink.send(Message::Binary(frame)).await?;
                }
            }
        }
    }

    async fn beat(&self, sink: &mut SplitSink<Socket, Message>, devices: &mut DevicesTold) -> Result<(), End> {
        let (held, unfit) = self.ask(Event::BeatWanted).await?;
        let sent_ms = clock::boottime_ms();
        self.lease.beat_sent(sent_ms);
        let (gpus, gpu_usage) = devices.take();
        Ok(sink.send(text(&ToServer::Heartbeat(Heartbeat { sent_ms, held, unfit, gpus, gpu_usage }))).await?)
    }

    async fn send_reports(&self, sink: &mut SplitSink<Socket, Message>) -> Result<(), End> {
        loop {
            let Some(message) = self.spool.lock().take_unsent() else { break };
            sink.feed(Message::text(message)).await?;
        }
        Ok(sink.flush().await?)
    }

    async fn read(&self, mut stream: SplitStream<Socket>) -> Ended {
        loop {
            let message = match stream.next().await {
                Some(message) => message?,
                None => return Err(End::Again("the server closed the link".to_owned())),
            };
            match message {
                Message::Text(text) => match serde_json::from_str::<ToWorker>(&text) {
                    Ok(message) => self.on_message(message).await?,
                    // A newer server may say what this worker does not know; its protocol number says that
                    // this is safe to pass over.
                    Err(error) => tracing::warn!(%error, "a message of the server was not understood"),
                },
                Message::Close(_) => return Err(End::Again("the server closed the link".to_owned())),
                Message::Binary(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
            }
        }
    }

    async fn on_message(&self, message: ToWorker) -> Result<(), End> {
        let event = match message {
            ToWorker::Ack { seq } => {
                let over = self.spool.lock().ack(seq).over;
                if over.is_empty() {
                    return Ok(());
                }
                Event::Over(over)
            }
            ToWorker::LogAck { attempt, stream, offset } => {
                match stream {
                    ByteStream::Log => self.logs.acked(attempt, offset),
                    ByteStream::Metrics => self.metrics.acked(attempt, offset),
                }
                return Ok(());
            }
            ToWorker::BeatAck { sent_ms } => {
                if !self.lease.beat_acked(sent_ms) {
                    return Ok(());
                }
                Event::LeaseRenewed
            }
            ToWorker::Refused { reason, retry } => return Err(refused(reason, retry)),
            ToWorker::Welcome(_) => {
                tracing::warn!("a second welcome was ignored");
                return Ok(());
            }
            ToWorker::Drain { on } => {
                tracing::info!(on, "drain");
                return Ok(());
            }
            ToWorker::Assign(assignment) => Event::Assign(assignment),
            ToWorker::Cancel { attempt, cause, grace_s } => Event::Cancel { attempt, cause, grace_s },
            ToWorker::Release { attempt, address, port } => {
                Event::Release { attempt, at: Rendezvous { address: address.into(), port } }
            }
            ToWorker::Revoke { attempt } => Event::Revoke(attempt),
            ToWorker::Forget { attempt } => Event::Forget(attempt),
        };
        self.core.send(event).await.map_err(|_| End::Again("the agent is ending".to_owned()))
    }

    /// Ends a session whose beats are not answered: a half-open connection looks alive for hours.
    async fn watchdog(&self) -> Ended {
        loop {
            sleep(limits::FENCE_EVERY).await;
            if let Some(waiting) = self.lease.beat_unanswered_for()
                && waiting >= limits::BEAT_TIMEOUT
            {
                return Err(End::Again("the server does not answer heartbeats".to_owned()));
            }
        }
    }
}

/// What this session has told of the devices, and how to hear that there is more.
struct DevicesTold {
    news: watch::Receiver<Told>,
    gpus: Vec<Gpu>,
    looks: u64,
}

impl DevicesTold {
    /// There is something new.
    async fn changed(&mut self) {
        if self.news.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// What is to be told now: devices that are not as told, and what they do if there was a look.
    fn take(&mut self) -> (Option<Vec<Gpu>>, Option<Vec<GpuUsage>>) {
        let told = self.news.borrow_and_update();
        let gpus = (*told.gpus != self.gpus).then(|| told.gpus.to_vec());
        let usage = (told.looks != self.looks).then(|| told.usage.clone());
        self.looks = told.looks;
        if let Some(gpus) = &gpus {
            self.gpus.clone_from(gpus);
        }
        (gpus, usage)
    }
}

/// The address of this machine by which it reaches the server: others of the cluster can reach it there.
fn local_address(socket: &Socket) -> Option<IpAddr> {
    let stream = match socket.get_ref() {
        MaybeTlsStream::Plain(stream) => stream,
        MaybeTlsStream::Rustls(stream) => stream.get_ref().0,
        _ => return None,
    };
    stream.local_addr().ok().map(|address| address.ip())
}

/// Resolves when what is held has changed, but not at once after it was told.
async fn changed(changes: &mut watch::Receiver<()>, told: Instant) {
    tokio::time::sleep_until(told + limits::DATASET_TOLD_EVERY).await;
    if changes.changed().await.is_err() {
        // The agent is ending.
        std::future::pending::<()>().await;
    }
}

async fn read_welcome(socket: &mut Socket) -> Result<Welcome, End> {
    loop {
        match socket.next().await {
            None | Some(Ok(Message::Close(_))) => {
                return Err(End::Again("the server closed the link before its welcome".to_owned()));
            }
            Some(Err(error)) => return Err(error.into()),
            Some(Ok(Message::Text(text))) => match serde_json::from_str(&text) {
                Ok(ToWorker::Welcome(welcome)) => return Ok(welcome),
                Ok(ToWorker::Refused { reason, retry }) => return Err(refused(reason, retry)),
                Ok(_) => return Err(End::Again("the server did not begin with a welcome".to_owned())),
                Err(error) => return Err(End::Again(format!("the server's welcome cannot be read: {error}"))),
            },
            Some(Ok(_)) => {}
        }
    }
}

fn refused(reason: String, retry: bool) -> End {
    if retry { End::Again(format!("refused: {reason}")) } else { End::Final(reason) }
}

fn text(message: &ToServer) -> Message {
    Message::text(serde_json::to_string(message).expect("link messages have only string keys and finite numbers"))
}

/// A random part of `ceiling`.
fn jitter(ceiling: Duration) -> Duration {
    let mut random = [0_u8; 4];
    // Without randomness the full wait is right too, only less spread.
    let part =
        getrandom::fill(&mut random).map_or(1.0, |()| f64::from(u32::from_ne_bytes(random)) / f64::from(u32::MAX));
    ceiling.mul_f64(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_link_is_beside_the_api_and_the_key_is_not_shown() {
        let target = Target::new("http://127.0.0.1:9101/", "fml_secret", &Trust::System).unwrap();
        assert_eq!(target.request.uri(), "ws://127.0.0.1:9101/v1/workers/connect");
        assert!(!format!("{target:?}").contains("secret"));
        let target = Target::new("https://lab.example/base", "k", &Trust::System).unwrap();
        assert_eq!(target.request.uri(), "wss://lab.example/base/v1/workers/connect");
        assert!(Target::new("lab:9101", "k", &Trust::System).is_err());
        assert!(Target::new("http://lab", "k\n", &Trust::System).is_err());
    }

    #[test]
    fn waits_stay_below_their_ceiling() {
        for _ in 0..100 {
            assert!(jitter(limits::RECONNECT_MAX) <= limits::RECONNECT_MAX);
        }
    }
}
