//! Streams a file of each attempt to the server, by offset, from one task: one instance for the logs, one for
//! the metrics. It only reads: the user's process writes its log straight to the file and never waits for the
//! network.
//!
//! The stream of an attempt is its file up to the quota; when the file is longer, a marker with the
//! number of dropped bytes follows at the end. The same file gives the same stream each time, so any part
//! can be sent again after a reconnect. Secrets are hidden on the way, byte for byte.

use crate::{
    agent::{
        identity::write_json,
        log_part::{Mask, Part},
    },
    limits,
    redact::Redactor,
};
use bytes::Bytes;
use fetchml_api::{
    AttemptId,
    limits::LINK_LOG_CHUNK_BYTES,
    link::{ByteStream, LogChunk},
};
use sha2::{Digest as _, Sha256};
use std::{
    collections::BTreeMap,
    fs::File,
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::Duration,
};

/// Name of the file that is streamed, in an attempt's directory.
pub(crate) const fn file_name(stream: ByteStream) -> &'static str {
    match stream {
        ByteStream::Log => crate::shim::files::LOG,
        ByteStream::Metrics => "metrics.stream",
    }
}

/// Name of the file with the acknowledged offset, which may lag behind.
const fn mark_name(stream: ByteStream) -> &'static str {
    match stream {
        ByteStream::Log => "log_acked.json",
        ByteStream::Metrics => "metrics_acked.json",
    }
}

/// What the log task is told.
#[derive(Debug)]
enum Tell {
    Track { attempt: AttemptId, dir: PathBuf, acked: u64, mask: Mask },
    Redact { attempt: AttemptId, mask: Mask, done: oneshot::Sender<()> },
    Finish { attempt: AttemptId, dir: PathBuf, done: oneshot::Sender<u64> },
    Forget(AttemptId),
    Acked { attempt: AttemptId, offset: u64 },
    Connected { frames: mpsc::Sender<Bytes>, offsets: Vec<(AttemptId, u64)> },
    Disconnected,
    Offsets(oneshot::Sender<BTreeMap<AttemptId, u64>>),
    Flush(oneshot::Sender<()>),
}

/// The way to the log task. Unbounded, as its senders are bounded: a few messages for each attempt, and
/// acknowledgements, which the log window bounds.
#[derive(Clone, Debug)]
pub(crate) struct Logs {
    tell: mpsc::UnboundedSender<Tell>,
    kind: ByteStream,
    quota_bytes: u64,
}

impl Logs {
    /// Starts the task. It ends when the last handle is dropped.
    pub(crate) fn start(stream: ByteStream, quota_bytes: u64) -> Self {
        let (tell, told) = mpsc::unbounded_channel();
        tokio::spawn(Streams::new(stream, quota_bytes).run(told));
        Self { tell, kind: stream, quota_bytes }
    }

    fn tell(&self, what: Tell) {
        // It lives as long as any handle.
        let _ = self.tell.send(what);
    }

    /// Streams the log in `dir` from what is acknowledged.
    pub(crate) fn track(&self, attempt: AttemptId, dir: &Path, acked: u64, mask: Mask) {
        self.tell(Tell::Track { attempt, dir: dir.to_owned(), acked, mask });
    }

    /// Hides secrets in all that is sent from when this returns.
    pub(crate) async fn redact(&self, attempt: AttemptId, redactor: Option<Arc<Redactor>>) {
        let (done, is_done) = oneshot::channel();
        self.tell(Tell::Redact { attempt, mask: redactor.map_or(Mask::Open, Mask::Hides), done });
        let _ = is_done.await;
    }

    /// The file grows no more: resolves with the stream's length once all of it is acknowledged.
    pub(crate) fn finish(&self, attempt: AttemptId, dir: &Path) -> oneshot::Receiver<u64> {
        let (done, is_done) = oneshot::channel();
        self.tell(Tell::Finish { attempt, dir: dir.to_owned(), done });
        is_done
    }

    /// Stops streaming.
    pub(crate) fn forget(&self, attempt: AttemptId) {
        self.tell(Tell::Forget(attempt));
    }

    /// The server has this much. Lower than sent: the rest goes again.
    pub(crate) fn acked(&self, attempt: AttemptId, offset: u64) {
        self.tell(Tell::Acked { attempt, offset });
    }

    /// A session began; its terms say where each log goes on.
    pub(crate) fn connected(&self, frames: mpsc::Sender<Bytes>, offsets: Vec<(AttemptId, u64)>) {
        self.tell(Tell::Connected { frames, offsets });
    }

    /// The session ended.
    pub(crate) fn disconnected(&self) {
        self.tell(Tell::Disconnected);
    }

    /// SHA-256 of the stream of a file that grows no more, from `from` on, with secrets hidden as they are in what is
    /// sent; none of an empty one.
    pub(crate) async fn digest(
        &self,
        dir: &Path,
        from: u64,
        redactor: Option<Arc<Redactor>>,
    ) -> io::Result<Option<String>> {
        let (path, quota_bytes) = (dir.join(file_name(self.kind)), self.quota_bytes);
        let mask = redactor.map_or(Mask::Open, Mask::Hides);
        tokio::task::spawn_blocking(move || digest(&path, quota_bytes, from, &mask)).await.map_err(io::Error::other)?
    }

    /// Acknowledged bytes of every attempt that has any.
    pub(crate) async fn offsets(&self) -> BTreeMap<AttemptId, u64> {
        let (ask, answer) = oneshot::channel();
        self.tell(Tell::Offsets(ask));
        answer.await.unwrap_or_default()
    }
}

impl Logs {
    /// Writes the acknowledged offsets to disk.
    pub(crate) async fn flush(&self) {
        let (done, is_done) = oneshot::channel();
        self.tell(Tell::Flush(done));
        let _ = is_done.await;
    }
}

/// The acknowledged offset written for an attempt; 0 when there is none.
pub(crate) fn mark_read(dir: &Path, stream: ByteStream) -> u64 {
    std::fs::read(dir.join(mark_name(stream))).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or(0)
}

/// Length of the stream of a finished log file, and its marker.
fn stream_of(file_bytes: u64, quota_bytes: u64) -> (u64, Bytes) {
    if file_bytes <= quota_bytes {
        return (file_bytes, Bytes::new());
    }
    let dropped = file_bytes - quota_bytes;
    let marker =
        format!("\n[fetchml: the log is longer than {quota_bytes} bytes; {dropped} bytes were dropped here]\n");
    (quota_bytes + marker.len() as u64, Bytes::from(marker))
}

fn digest(path: &Path, quota_bytes: u64, from: u64, mask: &Mask) -> io::Result<Option<String>> {
    let file = match open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let (end, marker) = stream_of(file.metadata()?.len(), quota_bytes);
    if end == 0 {
        return Ok(None);
    }
    let (mut at, of_file) = (from.min(end), end - marker.len() as u64);
    let mut hasher = Sha256::new();
    while at < of_file {
        let want = (of_file - at).min(limits::HASH_BUFFER_BYTES as u64) as usize;
        let bytes = Part { from: at, want, ends_at: Some(of_file) }.read(&file, mask)?;
        if bytes.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        hasher.update(&bytes);
        at += bytes.len() as u64;
    }
    hasher.update(&marker[(at - of_file) as usize..]);
    Ok(Some(hex::encode(hasher.finalize())))
}

#[derive(Debug)]
struct Stream {
    kind: ByteStream,
    dir: PathBuf,
    mask: Mask,
    file: Option<Arc<File>>,
    acked: u64,
    acked_written: u64,
    sent: u64,
    /// Set once the file grows no more: the stream's length, the marker and whom to tell.
    end: Option<(u64, Bytes)>,
    done: Option<oneshot::Sender<u64>>,
    /// When the acknowledged mark, or what is sent after it, last moved.
    moved: Instant,
    rewound: Option<Instant>,
}

#[derive(Debug)]
struct Streams {
    kind: ByteStream,
    quota_bytes: u64,
    open: BTreeMap<AttemptId, Stream>,
    /// Of attempts with secrets, also before there is anything to stream.
    masks: BTreeMap<AttemptId, Mask>,
    frames: Option<mpsc::Sender<Bytes>>,
    pause: Duration,
    marks_written: Instant,
}

impl Streams {
    fn new(kind: ByteStream, quota_bytes: u64) -> Self {
        Self {
            kind,
            quota_bytes,
            open: BTreeMap::new(),
            masks: BTreeMap::new(),
            frames: None,
            pause: limits::LOG_POLL_ACTIVE,
            marks_written: Instant::now(),
        }
    }

    async fn run(mut self, mut told: mpsc::UnboundedReceiver<Tell>) {
        loop {
            // With nothing to watch, or nobody to send to, it sleeps until it is told something.
            let watching = self.frames.is_some() && !self.open.is_empty();
            let what = tokio::select! {
                what = told.recv() => match what { Some(what) => Some(what), None => break },
                () = tokio::time::sleep(self.pause), if watching => None,
            };
            let was_timer = what.is_none();
            if let Some(what) = what {
                self.on(what);
                while let Ok(what) = told.try_recv() {
                    self.on(what);
                }
            }
            let sent = self.pump(was_timer).await;
            if was_timer {
                self.pause = if sent { limits::LOG_POLL_ACTIVE } else { (self.pause * 2).min(limits::LOG_POLL_IDLE) };
                if self.marks_written.elapsed() >= limits::LOG_MARK_EVERY {
                    self.write_marks();
                }
            }
        }
        self.write_marks();
    }

    fn on(&mut self, what: Tell) {
        match what {
            Tell::Track { attempt, dir, acked, mask } => {
                self.pause = limits::LOG_POLL_ACTIVE;
                let mask = self.masks.get(&attempt).cloned().unwrap_or(mask);
                self.open.entry(attempt).or_insert_with(|| Stream::new(self.kind, dir, acked, mask));
            }
            Tell::Redact { attempt, mask, done } => {
                self.pause = limits::LOG_POLL_ACTIVE;
                if let Some(stream) = self.open.get_mut(&attempt) {
                    stream.mask = mask.clone();
                }
                self.masks.insert(attempt, mask);
                let _ = done.send(());
            }
            Tell::Finish { attempt, dir, done } => {
                let mask = self.masks.get(&attempt).cloned().unwrap_or(Mask::Open);
                let stream = self.open.entry(attempt).or_insert_with(|| Stream::new(self.kind, dir, 0, mask));
                let file_bytes = stream.file_bytes();
                stream.end = Some(stream_of(file_bytes, self.quota_bytes));
                stream.done = Some(done);
                stream.check_done();
            }
            Tell::Forget(attempt) => {
                self.open.remove(&attempt);
                self.masks.remove(&attempt);
            }
            Tell::Acked { attempt, offset } => {
                if let Some(stream) = self.open.get_mut(&attempt) {
                    stream.on_ack(offset);
                }
            }
            Tell::Connected { frames, offsets } => {
                self.frames = Some(frames);
                for stream in self.open.values_mut() {
                    stream.sent = stream.acked;
                }
                for (attempt, offset) in offsets {
                    if let Some(stream) = self.open.get_mut(&attempt) {
                        stream.acked = offset;
                        stream.sent = offset;
                        stream.check_done();
                    }
                }
            }
            Tell::Disconnected => self.frames = None,
            Tell::Flush(done) => {
                self.write_marks();
                let _ = done.send(());
            }
            Tell::Offsets(answer) => {
                let offsets = self.open.iter().map(|(attempt, stream)| (*attempt, stream.acked)).collect();
                let _ = answer.send(offsets);
            }
        }
    }

    /// Sends what there is and what the window allows. `looking` also asks every file for growth; else
    /// only ended logs and those that are behind move.
    async fn pump(&mut self, looking: bool) -> bool {
        let mut any = false;
        loop {
            let mut more = false;
            for (attempt, stream) in &mut self.open {
                let Some(frames) = &self.frames else { return any };
                if looking {
                    stream.resend_stale();
                }
                if matches!(stream.mask, Mask::Waits) || (!looking && stream.is_even()) {
                    continue;
                }
                // Round robin by single chunks, so that one loud attempt does not keep the others waiting.
                // Never waits for the link: what it cannot take now goes at the next look or acknowledgement.
                let Ok(permit) = frames.try_reserve() else { return any };
                match stream.next_chunk(*attempt, self.quota_bytes).await {
                    Ok(Some(frame)) => {
                        permit.send(frame);
                        more = true;
                        any = true;
                    }
                    Ok(None) => {}
                    Err(error) => tracing::warn!(%attempt, %error, "cannot read what an attempt wrote"),
                }
            }
            if !more {
                return any;
            }
        }
    }

    fn write_marks(&mut self) {
        self.marks_written = Instant::now();
        for stream in self.open.values_mut().filter(|stream| stream.acked != stream.acked_written) {
            // Lower is safe, so a failure costs only bytes sent twice.
            if write_json(&stream.dir.join(mark_name(self.kind)), &stream.acked, false).is_ok() {
                stream.acked_written = stream.acked;
            }
        }
    }
}

impl Stream {
    fn new(kind: ByteStream, dir: PathBuf, acked: u64, mask: Mask) -> Self {
        Self {
            kind,
            dir,
            mask,
            file: None,
            acked,
            acked_written: acked,
            sent: acked,
            end: None,
            done: None,
            moved: Instant::now(),
            rewound: None,
        }
    }

    /// Whether nothing is to be sent unless the file has grown.
    fn is_even(&self) -> bool {
        self.end.is_none() && self.sent == self.acked
    }

    fn file_bytes(&self) -> u64 {
        let found = match &self.file {
            Some(file) => file.metadata(),
            None => std::fs::symlink_metadata(self.dir.join(file_name(self.kind))),
        };
        found.map_or(0, |metadata| metadata.len())
    }

    /// An acknowledgement that does not move the mark forward says that what was sent after it did not
    /// fit: it goes again from there. Every chunk under way gives the same answer, so once in a while only.
    fn on_ack(&mut self, offset: u64) {
        // More than was sent cannot be known to be ours.
        let offset = offset.min(self.sent);
        if offset > self.acked {
            self.moved = Instant::now();
        } else if self.sent > offset
            && (offset < self.acked || self.rewound.is_none_or(|at| at.elapsed() >= limits::LOG_REWIND_EVERY))
        {
            self.sent = offset;
            self.rewound = Some(Instant::now());
        }
        self.acked = offset;
        self.check_done();
    }

    /// Sends again what was not acknowledged for long.
    fn resend_stale(&mut self) {
        if self.sent > self.acked && self.moved.elapsed() >= limits::LOG_RESEND_AFTER {
            self.sent = self.acked;
            self.moved = Instant::now();
        }
    }

    fn check_done(&mut self) {
        if let Some((end, _)) = self.end
            && self.acked >= end
            && let Some(done) = self.done.take()
        {
            let _ = done.send(end);
        }
    }

    async fn next_chunk(&mut self, attempt: AttemptId, quota_bytes: u64) -> io::Result<Option<Bytes>> {
        let file_bytes = self.file_bytes();
        let end = match &self.end {
            Some((end, _)) => *end,
            None => file_bytes.min(quota_bytes),
        };
        let window_end = self.acked.saturating_add(limits::LOG_WINDOW_BYTES);
        let want = end.min(window_end).saturating_sub(self.sent).min(LINK_LOG_CHUNK_BYTES as u64) as usize;
        if want == 0 {
            return Ok(None);
        }
        let bytes = match &self.end {
            Some((_, marker)) if self.sent >= quota_bytes => {
                let from = (self.sent - quota_bytes) as usize;
                marker.slice(from..(from + want).min(marker.len())).to_vec()
            }
            _ => {
                let want = want.min((quota_bytes - self.sent) as usize);
                let file = if let Some(file) = &self.file {
                    Arc::clone(file)
                } else {
                    let file = Arc::new(open(&self.dir.join(file_name(self.kind)))?);
                    self.file = Some(Arc::clone(&file));
                    file
                };
                let is_last = self.end.is_some() || file_bytes > quota_bytes;
                let part = Part { from: self.sent, want, ends_at: is_last.then(|| file_bytes.min(quota_bytes)) };
                let mask = self.mask.clone();
                // Off the runtime's threads: a log that is not in memory any more is read from disk.
                tokio::task::spawn_blocking(move || part.read(&file, &mask)).await.map_err(io::Error::other)??
            }
        };
        if bytes.is_empty() {
            return Ok(None);
        }
        if self.sent == self.acked {
            self.moved = Instant::now();
        }
        let frame = LogChunk { attempt, stream: self.kind, node: 0, offset: self.sent, bytes: &bytes }.encode();
        self.sent += bytes.len() as u64;
        Ok(Some(Bytes::from(frame)))
    }
}

/// The attempt's directory is within reach of user code: a link put in the log's place is not followed.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    File::options().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    const ATTEMPT: AttemptId = AttemptId(Uuid::from_u128(7));

    /// Takes what is sent, acknowledging all of it, until the log is done.
    async fn drain(logs: &Logs, mut frames: mpsc::Receiver<Bytes>, done: oneshot::Receiver<u64>) -> (Vec<u8>, u64) {
        let mut stored = Vec::new();
        tokio::pin!(done);
        loop {
            tokio::select! {
                frame = frames.recv() => {
                    let frame = frame.unwrap();
                    let chunk = LogChunk::decode(&frame).unwrap();
                    assert_eq!(chunk.offset, stored.len() as u64, "no gap, no repeat");
                    stored.extend_from_slice(chunk.bytes);
                    logs.acked(ATTEMPT, stored.len() as u64);
                }
                end = &mut done => return (stored, end.unwrap()),
            }
        }
    }

    #[tokio::test]
    async fn a_log_longer_than_window_and_channel_arrives_whole() {
        let dir = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0..(limits::LOG_WINDOW_BYTES * 3 + 17)).map(|n| (n % 251) as u8).collect();
        std::fs::write(dir.path().join(file_name(ByteStream::Log)), &bytes).unwrap();
        let logs = Logs::start(ByteStream::Log, limits::LOG_QUOTA_BYTES);
        let (frames, received) = mpsc::channel(2);
        logs.track(ATTEMPT, dir.path(), 0, Mask::Open);
        logs.connected(frames, Vec::new());
        let done = logs.finish(ATTEMPT, dir.path());
        let (stored, end) = drain(&logs, received, done).await;
        assert_eq!(end, bytes.len() as u64);
        assert!(stored == bytes);
    }

    #[tokio::test]
    async fn the_digest_is_that_of_the_stream() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(file_name(ByteStream::Log));
        let logs = Logs::start(ByteStream::Log, 300_000);
        assert_eq!(logs.digest(dir.path(), 0, None).await.unwrap(), None);
        let secret = Arc::new(Redactor::new(["canary-in-a-log"]).unwrap());
        for (redactor, length) in [
            (None, 1_usize),
            (None, 300_000),
            (None, 300_001),
            (Some(secret.clone()), 900_000),
            (Some(secret), 200_000),
        ] {
            std::fs::write(&file, &b"canary-in-a-log. ".repeat(length / 17 + 1)[..length]).unwrap();
            let (frames, received) = mpsc::channel(2);
            logs.connected(frames, Vec::new());
            logs.redact(ATTEMPT, redactor.clone()).await;
            let done = logs.finish(ATTEMPT, dir.path());
            let (stored, _) = drain(&logs, received, done).await;
            assert_eq!(stored.starts_with(b"***"), redactor.is_some(), "hidden in what is sent");
            for from in [0, 1, 299_999, stored.len() - 1, stored.len(), stored.len() + 9] {
                let part = &stored[from.min(stored.len())..];
                let digest = logs.digest(dir.path(), from as u64, redactor.clone()).await.unwrap();
                assert_eq!(digest, Some(hex::encode(Sha256::digest(part))), "{length} from {from}");
            }
            logs.forget(ATTEMPT);
        }
    }

    #[tokio::test]
    async fn over_the_quota_a_marker_counts_what_was_dropped() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(file_name(ByteStream::Log)), [b'x'; 1_000]).unwrap();
        let logs = Logs::start(ByteStream::Log, 100);
        let (frames, received) = mpsc::channel(2);
        logs.connected(frames, Vec::new());
        let done = logs.finish(ATTEMPT, dir.path());
        let (stored, end) = drain(&logs, received, done).await;
        assert_eq!(stored.len() as u64, end);
        let text = String::from_utf8(stored).unwrap();
        assert!(text.starts_with(&"x".repeat(100)) && text.contains("900 bytes were dropped"), "{text}");
    }

    #[tokio::test]
    async fn a_new_session_goes_on_where_the_server_says() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(file_name(ByteStream::Log)), b"0123456789").unwrap();
        let logs = Logs::start(ByteStream::Log, limits::LOG_QUOTA_BYTES);
        logs.track(ATTEMPT, dir.path(), 0, Mask::Open);
        let (frames, mut received) = mpsc::channel(2);
        logs.connected(frames, Vec::new());
        let first = received.recv().await.unwrap();
        assert_eq!(LogChunk::decode(&first).unwrap().bytes, b"0123456789");
        logs.disconnected();
        let (frames, mut received) = mpsc::channel(2);
        logs.connected(frames, vec![(ATTEMPT, 4)]);
        let again = received.recv().await.unwrap();
        let chunk = LogChunk::decode(&again).unwrap();
        assert_eq!((chunk.offset, chunk.bytes), (4, &b"456789"[..]));
        assert_eq!(logs.offsets().await.get(&ATTEMPT), Some(&4));
    }
}
