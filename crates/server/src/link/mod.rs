//! Worker sessions: one WebSocket per worker. Reads frames, hands reports to the driver and log
//! bytes to the log store, and sends what the driver decides.
//!
//! Nothing a worker sends may harm the server: messages are bounded, unknown attempts are ignored,
//! silence and a full outbox end the session, and the driver fences every report.

mod finisher;
mod logs;
mod sessions;

pub use finisher::start_finisher;
pub use sessions::Sessions;

use crate::{
    app::App,
    auth::Caller,
    driver::{JoinAnswer, SessionHandle},
    instruments::StreamKind,
    limits,
    logs::LogId,
};
use axum::extract::ws::{Message, WebSocket};
use fetchml_api::{
    AttemptId, Gpu, GpuUsage, WorkerId,
    limits::{
        CPU_MAX, DATASETS_HELD_MAX, GPU_NAME_CHARS, GPU_REASON_CHARS, MEMORY_GB_MAX, NAME_CHARS, PROVENANCE_BYTES,
        UNFIT_CHARS, WORKER_GPUS_MAX,
    },
    link::{
        ByteStream, Heartbeat, Held, Hello, LogChunk, PROTOCOL, Report, SpooledReport, ToServer, ToWorker, Welcome,
    },
    snapshot::is_sha256_hex,
};
use futures_util::{SinkExt as _, StreamExt as _, stream::SplitSink};
use logs::{Kept, LogPump};
use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::{sync::mpsc, time::timeout};
use tracing::{debug, info, warn};

type Outgoing = SplitSink<WebSocket, Message>;

/// Why a session ended, for the log.
type End = String;

static NEXT_SESSION: AtomicU64 = AtomicU64::new(1);

/// Serves one worker until it goes, falls silent, misbehaves, or its key ends.
pub async fn serve(socket: WebSocket, app: Arc<App>, caller: Caller) {
    let (mut outgoing, mut incoming) = socket.split();
    let hello = match read_hello(&mut incoming).await {
        Ok(hello) => hello,
        Err(reason) => {
            refuse(&mut outgoing, reason, false).await;
            return;
        }
    };
    let worker = hello.worker_id;
    let (outbox, inbox) = mpsc::channel(limits::SESSION_OUTBOX);
    let id = NEXT_SESSION.fetch_add(1, Ordering::Relaxed);
    let held: HashMap<AttemptId, Held> = hello.inventory.iter().map(|held| (held.attempt, held.clone())).collect();
    let logs_outbox = outbox.downgrade();
    let handle = SessionHandle { id, outbox, by: caller.actor() };
    let joined = app.driver.join(hello, handle).await;
    let end = match joined {
        Ok(JoinAnswer::Welcome { incarnation, forget, keep }) => {
            let kept: Vec<Kept> = keep
                .into_iter()
                .filter_map(|(attempt, node)| {
                    let Held { task, log_acked, metrics_acked, .. } = *held.get(&attempt)?;
                    Some(Kept { attempt, task, node, log_acked, metrics_acked })
                })
                .collect();
            let logs = LogPump::new(&app, logs_outbox);
            app.sessions.began(worker, id, caller.key.clone());
            let _open = app.instruments.stream(StreamKind::Worker);
            let mut session = Session { app: &app, caller: &caller, worker, id, outgoing, inbox, logs };
            let end = session.run(&mut incoming, incarnation, forget, &kept).await;
            app.sessions.ended(worker, id);
            end
        }
        Ok(JoinAnswer::Refused { reason }) => {
            refuse(&mut outgoing, reason.clone(), true).await;
            reason
        }
        Err(error) => {
            refuse(&mut outgoing, error.to_string(), true).await;
            error.to_string()
        }
    };
    info!(%worker, session = id, reason = %end, "worker session ended");
    app.driver.closed(worker, id).await;
}

async fn read_hello(incoming: &mut futures_util::stream::SplitStream<WebSocket>) -> Result<Box<Hello>, String> {
    let frame = timeout(limits::HELLO_TIMEOUT, incoming.next()).await.map_err(|_| "no hello in time".to_owned())?;
    let Some(Ok(Message::Text(text))) = frame else {
        return Err("the first message must be a hello".into());
    };
    let mut hello = match serde_json::from_str(&text) {
        Ok(ToServer::Hello(hello)) => hello,
        Ok(_) => return Err("the first message must be a hello".into()),
        Err(error) => {
            return Err(format!("the hello cannot be read ({error}); upgrade the older of worker and server"));
        }
    };
    if hello.protocol + 1 < PROTOCOL {
        return Err(format!(
            "worker protocol {} is too old for this server (protocol {PROTOCOL}); upgrade the worker",
            hello.protocol
        ));
    }
    if let Some(problem) = claim_problem(&hello) {
        return Err(problem);
    }
    hello.capabilities.gpus = without_usage(std::mem::take(&mut hello.capabilities.gpus));
    Ok(hello)
}

/// What a worker says of itself that cannot be: a lie must not attract work or fill memory.
fn claim_problem(hello: &Hello) -> Option<String> {
    let names = [&hello.name, &hello.capabilities.hostname, &hello.capabilities.version, &hello.capabilities.isolation];
    if names.iter().any(|name| name.chars().count() > NAME_CHARS || name.contains(char::is_control)) {
        return Some(format!("names are at most {NAME_CHARS} characters without control characters"));
    }
    let slots = hello.batch_slots.max(hello.service_slots);
    if slots > limits::WORKER_SLOTS_MAX || i64::from(hello.capabilities.cpu_cores) > CPU_MAX {
        return Some(format!("at most {} slots of a kind and {CPU_MAX} cores are believed", limits::WORKER_SLOTS_MAX));
    }
    if i64::from(hello.capabilities.memory_gb) > MEMORY_GB_MAX {
        return Some(format!("at most {MEMORY_GB_MAX} GiB of memory are believed"));
    }
    if let Some(problem) = gpus_problem(&hello.capabilities.gpus) {
        return Some(problem);
    }
    if let Some(problem) = unfit_problem(hello.unfit.as_deref()) {
        return Some(problem);
    }
    if hello.inventory.len() > limits::WORKER_INVENTORY_MAX {
        return Some(format!("an inventory holds at most {} attempts", limits::WORKER_INVENTORY_MAX));
    }
    if hello.datasets.len() > DATASETS_HELD_MAX {
        return Some(format!("at most {DATASETS_HELD_MAX} data sets are listed"));
    }
    (hello.incarnation_seen > limits::INCARNATION_MAX).then(|| "no server has had that many incarnations".to_owned())
}

fn unfit_problem(unfit: Option<&str>) -> Option<String> {
    let bad = unfit.is_some_and(|text| text.chars().count() > UNFIT_CHARS || text.contains(char::is_control));
    bad.then(|| format!("what is wrong with a worker is said in {UNFIT_CHARS} characters without control characters"))
}

/// The same for its devices.
fn gpus_problem(gpus: &[Gpu]) -> Option<String> {
    if gpus.len() > WORKER_GPUS_MAX {
        return Some(format!("at most {WORKER_GPUS_MAX} GPUs are believed"));
    }
    let is_text = |text: &str, most: usize| text.chars().count() <= most && !text.contains(char::is_control);
    let is_fine = |gpu: &Gpu| {
        let names = [Some(&gpu.name), Some(&gpu.uuid), gpu.parent_uuid.as_ref(), gpu.mig_profile.as_ref()];
        names.into_iter().flatten().all(|name| is_text(name, GPU_NAME_CHARS))
            && gpu.reason.as_ref().is_none_or(|reason| is_text(reason, GPU_REASON_CHARS))
    };
    let indexes: BTreeSet<u32> = gpus.iter().map(|gpu| gpu.index).collect();
    if !gpus.iter().all(is_fine) || indexes.len() < gpus.len() {
        return Some(format!(
            "GPUs have an index of their own, names of at most {GPU_NAME_CHARS} and reasons of at most \
             {GPU_REASON_CHARS} characters, without control characters"
        ));
    }
    None
}

/// Devices without figures, which must not be kept: the driver fills them in where they are shown.
fn without_usage(mut gpus: Vec<Gpu>) -> Vec<Gpu> {
    for gpu in &mut gpus {
        (gpu.utilization_percent, gpu.memory_used_bytes) = (None, None);
    }
    gpus
}

fn believable(mut usage: Vec<GpuUsage>) -> Vec<GpuUsage> {
    usage.truncate(WORKER_GPUS_MAX);
    for usage in &mut usage {
        usage.utilization_percent = usage.utilization_percent.map(|percent| percent.min(100));
    }
    usage
}

async fn refuse(outgoing: &mut Outgoing, reason: String, retry: bool) {
    warn!(%reason, "worker refused");
    // The worker may be gone already; it finds out either way.
    let _ = send(outgoing, &ToWorker::Refused { reason, retry }).await;
    let _ = outgoing.close().await;
}

async fn send(outgoing: &mut Outgoing, message: &ToWorker) -> Result<(), End> {
    let text = serde_json::to_string(message).expect("link messages have only string keys and finite numbers");
    match timeout(limits::LINK_SEND_TIMEOUT, outgoing.feed(Message::Text(text.into()))).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(format!("cannot send: {error}")),
        Err(_) => Err("the worker does not read its messages".into()),
    }
}

struct Session<'a> {
    app: &'a Arc<App>,
    caller: &'a Caller,
    worker: WorkerId,
    id: u64,
    outgoing: Outgoing,
    inbox: mpsc::Receiver<ToWorker>,
    logs: LogPump,
}

impl Session<'_> {
    async fn run(
        &mut self,
        incoming: &mut futures_util::stream::SplitStream<WebSocket>,
        incarnation: u64,
        forget: Vec<AttemptId>,
        kept: &[Kept],
    ) -> End {
        let log_offsets = self.logs.resume(kept, ByteStream::Log).await;
        let metrics_offsets = self.logs.resume(kept, ByteStream::Metrics).await;
        let welcome = Welcome {
            protocol: PROTOCOL,
            incarnation,
            heartbeat_s: limits::HEARTBEAT_S,
            lost_after_s: self.app.options.lost_after_s,
            forget,
            log_offsets,
            metrics_offsets,
        };
        // Flushed: a worker says nothing before it is welcome.
        if let Err(end) = self.on_message(ToWorker::Welcome(welcome)).await {
            return end;
        }
        let gone = self.app.caller_gone(self.caller);
        tokio::pin!(gone);
        loop {
            let done = tokio::select! {
                () = &mut gone => Err("its key ended or the server stops".into()),
                frame = timeout(limits::LINK_SILENCE, incoming.next()) => match frame {
                    Err(_) => Err("silence".into()),
                    Ok(None) => Err("closed by the worker".into()),
                    Ok(Some(Err(error))) => Err(error.to_string()),
                    Ok(Some(Ok(frame))) => self.on_frame(frame).await,
                },
                message = self.inbox.recv() => match message {
                    Some(message) => self.on_message(message).await,
                    None => Err("closed by the server; the worker joins again".into()),
                },
                () = self.logs.settle() => Ok(()),
            };
            if let Err(end) = done {
                return end;
            }
        }
    }

    /// Sends a message and all that wait behind it, then flushes once.
    async fn on_message(&mut self, first: ToWorker) -> Result<(), End> {
        let mut next = Some(first);
        while let Some(message) = next {
            if let ToWorker::Assign(assignment) = &message {
                self.logs.admit(assignment.attempt, assignment.spec.id, assignment.node);
            }
            send(&mut self.outgoing, &message).await?;
            next = self.inbox.try_recv().ok();
        }
        match timeout(limits::LINK_SEND_TIMEOUT, self.outgoing.flush()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(format!("cannot send: {error}")),
            Err(_) => Err("the worker does not read its messages".into()),
        }
    }

    async fn on_frame(&mut self, frame: Message) -> Result<(), End> {
        match frame {
            Message::Text(text) => match serde_json::from_str::<ToServer>(&text) {
                Ok(message) => self.on_report(message).await,
                Err(error) => Err(format!("a message cannot be read: {error}")),
            },
            Message::Binary(frame) => match LogChunk::decode(&frame) {
                Some(chunk) => {
                    let bytes = frame.slice(LogChunk::HEADER_BYTES..);
                    self.logs.push(chunk.attempt, chunk.stream, chunk.offset, bytes).await;
                    Ok(())
                }
                None => Err("a binary frame is no chunk of a stream".into()),
            },
            Message::Close(_) => Err("closed by the worker".into()),
            Message::Ping(_) | Message::Pong(_) => Ok(()),
        }
    }

    async fn on_report(&mut self, message: ToServer) -> Result<(), End> {
        let taken = match message {
            ToServer::Hello(_) => return Err("a second hello".into()),
            ToServer::Heartbeat(beat) => {
                if let Some(problem) = unfit_problem(beat.unfit.as_deref()) {
                    return Err(problem);
                }
                if let Some(problem) = beat.gpus.as_deref().and_then(gpus_problem) {
                    return Err(problem);
                }
                let (gpus, gpu_usage) = (beat.gpus.map(without_usage), beat.gpu_usage.map(believable));
                self.app.driver.heard(self.worker, self.id, Heartbeat { gpus, gpu_usage, ..beat }).await
            }
            ToServer::Datasets { held } if held.len() > DATASETS_HELD_MAX => {
                return Err(format!("at most {DATASETS_HELD_MAX} data sets are listed"));
            }
            ToServer::Datasets { held } => self.app.driver.datasets_held(self.worker, self.id, held).await,
            ToServer::Reports { mut reports } => {
                debug!(worker = %self.worker, count = reports.len(), "reports");
                for report in &mut reports {
                    believe_provenance(report);
                    self.apply_log_rules(report).await;
                }
                self.app.driver.reports(self.worker, self.id, reports).await
            }
        };
        taken.map_err(|error| error.to_string())
    }

    /// The whole log of an attempt is here before its end is reported.
    async fn apply_log_rules(&mut self, report: &mut SpooledReport) {
        let SpooledReport { attempt, task, report: Report::Ended(outcome), .. } = report else { return };
        outcome.log_rule = None;
        if !self.app.log_rules.concern(outcome) || !self.logs.admits(*attempt, *task) {
            return;
        }
        let id = LogId { task: *task, attempt: *attempt, node: 0 };
        let tail = match self.app.logs.tail(id, limits::LOG_RULE_TAIL_BYTES).await {
            Ok(tail) => tail,
            Err(error) => return warn!(%attempt, %error, "the log cannot be read; no rule is applied"),
        };
        let (app, mut changed) = (Arc::clone(self.app), std::mem::take(outcome));
        let applying = tokio::task::spawn_blocking(move || {
            app.log_rules.apply(&mut changed, &tail);
            changed
        });
        *outcome = applying.await.expect("matching does not panic");
    }
}

/// What a worker says of how it runs an attempt is kept if it can be: it is no reason to refuse a report.
fn believe_provenance(report: &mut SpooledReport) {
    let attempt = report.attempt;
    report.provenance = report.provenance.take().filter(|provenance| {
        let text = serde_json::to_string(provenance).expect("it has only string keys");
        let is_kept = text.len() <= PROVENANCE_BYTES && !text.contains("\\u0000");
        if !is_kept {
            warn!(%attempt, bytes = text.len(), "what a worker says of how it runs an attempt cannot be kept");
        }
        is_kept
    });
    if let Report::Ended(outcome) = &mut report.report {
        outcome.log_sha256 = outcome.log_sha256.take().filter(|sha256| is_sha256_hex(sha256));
    }
}
