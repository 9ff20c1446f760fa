//! Reports on their way to the server, kept on disk until it has dealt with them. The server's commit
//! is the durable truth; the spool only has to outlive the agent before that. So an append is a plain
//! write (it survives the agent's death), and the file is synced only while a report stays
//! unacknowledged for [`limits::SPOOL_SYNC_AFTER`].
//!
//! A line is `<16 hex of SHA-256> <JSON>\n`. JSON is a header, a report or an acknowledgement. What
//! follows the first line that does not check out is a torn tail and is cut off.

use crate::limits;
use fetchml_api::{
    AttemptId,
    link::{Report, SpooledReport},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::{
    collections::VecDeque,
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    /// First line of each file.
    Header {
        boot_id: String,
        next_seq: u64,
    },
    Report(SpooledReport),
    /// Everything up to here needs no resending.
    Ack {
        seq: u64,
    },
}

/// A report that waits for its acknowledgement.
#[derive(Debug)]
struct Waiting {
    seq: u64,
    attempt: AttemptId,
    /// When nothing follows this report: `Ended` or `Returned`.
    last: Option<Ends>,
    /// May wait a moment for company.
    patient: bool,
    json: Box<str>,
    at: Instant,
}

/// Lengths of an attempt's streams, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ends {
    pub(crate) log: u64,
    pub(crate) metrics: u64,
}

/// What an acknowledgement covered.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Acked {
    /// Attempts of which nothing more is to be said.
    pub(crate) over: Vec<AttemptId>,
}

/// The spool.
#[derive(Debug)]
pub(crate) struct Spool {
    path: PathBuf,
    boot_id: String,
    file: Arc<File>,
    file_bytes: u64,
    /// What is in memory is not all in the file: a write failed.
    behind: bool,
    waiting: VecDeque<Waiting>,
    waiting_bytes: u64,
    /// Reports of `waiting` that this session has sent.
    sent: usize,
    next_seq: u64,
    acked_seq: u64,
    acked_written: u64,
    synced_seq: u64,
}

impl Spool {
    /// Reads the spool of an earlier life, cuts a torn tail.
    pub(crate) fn open(path: &Path, boot_id: &str) -> io::Result<Self> {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        let file = File::options().create(true).append(true).mode(0o600).open(path)?;
        let mut spool = Self {
            path: path.to_owned(),
            boot_id: boot_id.to_owned(),
            file: Arc::new(file),
            file_bytes: 0,
            behind: false,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            sent: 0,
            next_seq: 1,
            acked_seq: 0,
            acked_written: 0,
            synced_seq: 0,
        };
        let mut of_boot = None;
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            let Some(parsed) = parse(line) else {
                tracing::warn!(kept_bytes = spool.file_bytes, file_bytes = bytes.len(), "the spool had a torn tail");
                break;
            };
            spool.file_bytes += line.len() as u64;
            match parsed {
                Line::Header { boot_id, next_seq } => {
                    spool.next_seq = spool.next_seq.max(next_seq);
                    of_boot = Some(boot_id);
                }
                Line::Report(report) => {
                    spool.next_seq = spool.next_seq.max(report.seq.saturating_add(1));
                    spool.hold(&report)?;
                }
                Line::Ack { seq } => {
                    spool.acked_seq = spool.acked_seq.max(seq);
                    while spool.waiting.front().is_some_and(|first| first.seq <= seq) {
                        spool.pop();
                    }
                }
            }
        }
        if of_boot.as_deref().is_some_and(|of_boot| of_boot != boot_id) {
            spool.next_seq = spool.next_seq.saturating_add(limits::SPOOL_SEQ_SKIP);
        }
        // A new file starts this life: header of this boot, no torn tail, nothing acknowledged.
        spool.rewrite()?;
        Ok(spool)
    }

    fn hold(&mut self, report: &SpooledReport) -> io::Result<()> {
        let json = serde_json::to_string(report).map_err(io::Error::other)?.into_boxed_str();
        self.waiting_bytes += json.len() as u64;
        self.waiting.push_back(Waiting {
            seq: report.seq,
            attempt: report.attempt,
            last: match &report.report {
                Report::Ended(outcome) => Some(Ends { log: outcome.log_bytes, metrics: outcome.metrics_bytes }),
                Report::Returned => Some(Ends::default()),
                Report::Accepted | Report::Ready { .. } | Report::Running | Report::Collecting => None,
            },
            patient: matches!(report.report, Report::Accepted | Report::Running),
            json,
            at: Instant::now(),
        });
        Ok(())
    }

    fn pop(&mut self) -> Option<Waiting> {
        let first = self.waiting.pop_front()?;
        self.waiting_bytes -= first.json.len() as u64;
        self.sent = self.sent.saturating_sub(1);
        Some(first)
    }

    /// Numbers a report and keeps it. When the disk refuses it, it is still kept in memory and sent;
    /// [`Self::tend`] writes it later.
    pub(crate) fn append(&mut self, make: impl FnOnce(u64) -> SpooledReport) -> io::Result<()> {
        let report = make(self.next_seq);
        self.next_seq += 1;
        self.hold(&report)?;
        let json = &self.waiting.back().expect("just pushed").json;
        let line = checked(&format!("{{\"report\":{json}}}"));
        self.write(&line)
    }

    fn write(&mut self, line: &str) -> io::Result<()> {
        if self.behind {
            return Ok(());
        }
        match (&*self.file).write_all(line.as_bytes()) {
            Ok(()) => {
                fetchml_failpoint::reach("spool.written");
                self.file_bytes += line.len() as u64;
                Ok(())
            }
            Err(error) => {
                // Part of the line may be there. Later lines would follow a broken one and be cut.
                self.behind = true;
                let _ = self.file.set_len(self.file_bytes);
                Err(error)
            }
        }
    }

    /// The next message of reports that this session has not sent yet, at most
    /// [`limits::REPORTS_MESSAGE_BYTES`] unless one report alone is longer.
    pub(crate) fn take_unsent(&mut self) -> Option<String> {
        if self.sent == self.waiting.len() {
            return None;
        }
        let mut message = String::from(r#"{"type":"reports","reports":["#);
        let start = message.len();
        for waiting in self.waiting.iter().skip(self.sent) {
            if message.len() > start {
                if message.len() + waiting.json.len() > limits::REPORTS_MESSAGE_BYTES {
                    break;
                }
                message.push(',');
            }
            message.push_str(&waiting.json);
            self.sent += 1;
        }
        message.push_str("]}");
        Some(message)
    }

    /// Whether something unsent should not wait for company.
    pub(crate) fn is_urgent(&self) -> bool {
        self.waiting.iter().skip(self.sent).any(|waiting| !waiting.patient)
    }

    /// A new session: everything unacknowledged goes again, in order.
    pub(crate) fn resend(&mut self) {
        self.sent = 0;
    }

    /// The server has dealt with everything up to `seq`.
    pub(crate) fn ack(&mut self, seq: u64) -> Acked {
        let mut acked = Acked::default();
        // A number that was never given cannot be acknowledged.
        let seq = seq.min(self.next_seq - 1);
        while self.waiting.front().is_some_and(|first| first.seq <= seq) {
            let first = self.pop().expect("looked at above");
            if first.last.is_some() {
                acked.over.push(first.attempt);
            }
        }
        self.acked_seq = self.acked_seq.max(seq);
        acked
    }

    /// Drops what is said of an attempt that the server has no use for.
    pub(crate) fn drop_attempt(&mut self, attempt: AttemptId) {
        let Self { waiting, sent, waiting_bytes, .. } = self;
        let mut at = 0;
        let sent_before = *sent;
        waiting.retain(|report| {
            let was_sent = at < sent_before;
            at += 1;
            let keep = report.attempt != attempt;
            if !keep {
                *waiting_bytes -= report.json.len() as u64;
                *sent -= usize::from(was_sent);
            }
            keep
        });
    }

    /// Lengths of its streams when the attempt's last report waits here: it must not be run or
    /// collected again, and the server has all of them.
    pub(crate) fn last_of(&self, attempt: AttemptId) -> Option<Ends> {
        self.waiting.iter().filter(|waiting| waiting.attempt == attempt).find_map(|waiting| waiting.last)
    }

    /// Whether every report is acknowledged.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether [`Self::tend`] has something to do, now or soon.
    pub(crate) fn wants_tending(&self) -> bool {
        self.behind
            || self.acked_seq > self.acked_written
            || self.waiting.back().is_some_and(|last| last.seq > self.synced_seq)
    }

    /// Housekeeping, every [`limits::SPOOL_SYNC_AFTER`]: writes how far the server is, compacts, and says
    /// what must be synced (the file, and the number that is safe then; see [`Self::synced`]).
    pub(crate) fn tend(&mut self) -> io::Result<Option<(Arc<File>, u64)>> {
        let mostly_acked = self.file_bytes >= limits::SPOOL_COMPACT_BYTES && self.waiting_bytes < self.file_bytes / 2;
        if self.behind || mostly_acked {
            self.rewrite()?;
        } else if self.acked_seq > self.acked_written {
            self.acked_written = self.acked_seq;
            self.write(&checked(&format!("{{\"ack\":{{\"seq\":{}}}}}", self.acked_seq)))?;
        }
        let first_unsafe = self.waiting.iter().find(|waiting| waiting.seq > self.synced_seq);
        Ok(first_unsafe
            .filter(|waiting| waiting.at.elapsed() >= limits::SPOOL_SYNC_AFTER)
            .map(|_| (Arc::clone(&self.file), self.next_seq - 1)))
    }

    /// The file given by [`Self::tend`] was synced up to `seq`.
    pub(crate) fn synced(&mut self, file: &Arc<File>, seq: u64) {
        if Arc::ptr_eq(file, &self.file) {
            self.synced_seq = self.synced_seq.max(seq);
        }
    }

    /// The file could not be synced: it is replaced at the next [`Self::tend`].
    pub(crate) fn distrust(&mut self) {
        self.behind = true;
        self.synced_seq = 0;
    }

    /// Writes what is still to be written; the file given is to be synced.
    pub(crate) fn close(&mut self) -> io::Result<Arc<File>> {
        self.tend()?;
        Ok(Arc::clone(&self.file))
    }

    /// Writes what is unacknowledged into a new file and puts it in place of the old.
    fn rewrite(&mut self) -> io::Result<()> {
        let header = Line::Header { boot_id: self.boot_id.clone(), next_seq: self.next_seq };
        let mut text = checked(&serde_json::to_string(&header).map_err(io::Error::other)?);
        for waiting in &self.waiting {
            text.push_str(&checked(&format!("{{\"report\":{}}}", waiting.json)));
        }
        let new = self.path.with_extension("new");
        let _ = fs::remove_file(&new);
        let file = File::options().create_new(true).append(true).mode(0o600).open(&new)?;
        (&file).write_all(text.as_bytes())?;
        // What the old file had safely on disk must be so in the new one before it takes its place.
        if self.waiting.front().is_some_and(|first| first.seq <= self.synced_seq) {
            file.sync_data()?;
        }
        fetchml_failpoint::reach("spool.rewritten");
        fs::rename(&new, &self.path)?;
        self.file = Arc::new(file);
        self.file_bytes = text.len() as u64;
        self.acked_written = self.acked_seq;
        self.behind = false;
        Ok(())
    }
}

fn checksum(json: &str) -> String {
    hex::encode(&Sha256::digest(json.as_bytes())[..8])
}

fn checked(json: &str) -> String {
    format!("{} {json}\n", checksum(json))
}

fn parse(line: &[u8]) -> Option<Line> {
    if line.len() > limits::SPOOL_LINE_BYTES {
        return None;
    }
    let line = std::str::from_utf8(line).ok()?.strip_suffix('\n')?;
    let (sum, json) = line.split_once(' ')?;
    if sum != checksum(json) {
        return None;
    }
    serde_json::from_str(json).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use fetchml_api::{
        AttemptEpoch, TaskId,
        link::{Outcome, ToServer},
    };
    use uuid::Uuid;

    fn attempt(n: u128) -> AttemptId {
        AttemptId(Uuid::from_u128(n))
    }

    fn add(spool: &mut Spool, n: u128, report: Report) {
        spool
            .append(|seq| SpooledReport {
                provenance: None,
                seq,
                attempt: attempt(n),
                task: TaskId(Uuid::from_u128(n)),
                epoch: AttemptEpoch { incarnation: 1, n: 1 },
                report,
            })
            .unwrap();
    }

    fn take(spool: &mut Spool) -> Vec<SpooledReport> {
        let Some(message) = spool.take_unsent() else { return Vec::new() };
        match serde_json::from_str(&message).unwrap() {
            ToServer::Reports { reports } => reports,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_not_acknowledged_survives_and_goes_again_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("spool");
        let mut spool = Spool::open(&path, "boot").unwrap();
        add(&mut spool, 1, Report::Accepted);
        add(&mut spool, 1, Report::Running);
        add(&mut spool, 2, Report::Accepted);
        assert_eq!(take(&mut spool).len(), 3);
        assert!(take(&mut spool).is_empty());
        assert_eq!(spool.ack(1), Acked::default());
        spool.tend().unwrap();
        drop(spool);

        let mut spool = Spool::open(&path, "boot").unwrap();
        add(&mut spool, 1, Report::Ended(Outcome::default()));
        let reports = take(&mut spool);
        assert_eq!(reports.iter().map(|report| report.seq).collect::<Vec<_>>(), [2, 3, 4]);
        assert_eq!((spool.last_of(attempt(1)), spool.last_of(attempt(2))), (Some(Ends::default()), None));
        spool.resend();
        spool.drop_attempt(attempt(2));
        assert_eq!(take(&mut spool).len(), 2);
        assert_eq!(spool.ack(u64::MAX).over, [attempt(1)]);
        assert!(spool.is_empty());
    }

    #[test]
    fn a_torn_tail_is_cut_and_numbers_are_not_used_twice() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("spool");
        let whole = {
            let mut spool = Spool::open(&path, "boot").unwrap();
            add(&mut spool, 1, Report::Accepted);
            add(&mut spool, 1, Report::Running);
            fs::read(&path).unwrap()
        };
        for cut in 0..whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            let mut spool = Spool::open(&path, "boot").unwrap();
            let kept = take(&mut spool).len();
            add(&mut spool, 2, Report::Accepted);
            drop(spool);
            let mut again = Spool::open(&path, "boot").unwrap();
            assert_eq!(take(&mut again).len(), kept + 1, "cut at {cut}");
        }
        fs::write(&path, &whole).unwrap();
        let mut spool = Spool::open(&path, "another boot").unwrap();
        take(&mut spool);
        add(&mut spool, 2, Report::Accepted);
        assert_eq!(take(&mut spool)[0].seq, 3 + limits::SPOOL_SEQ_SKIP);
    }

    #[test]
    fn a_flipped_bit_ends_the_spool_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("spool");
        let mut spool = Spool::open(&path, "boot").unwrap();
        add(&mut spool, 1, Report::Accepted);
        drop(spool);
        let mut bytes = fs::read(&path).unwrap();
        let at = bytes.len() - 10;
        bytes[at] ^= 1;
        fs::write(&path, &bytes).unwrap();
        assert!(take(&mut Spool::open(&path, "boot").unwrap()).is_empty());
    }

    #[test]
    fn it_stays_short_while_the_server_keeps_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("spool");
        let mut spool = Spool::open(&path, "boot").unwrap();
        for n in 0..20_000 {
            add(&mut spool, n, Report::Accepted);
            if n % 100 == 0 {
                take(&mut spool);
                spool.ack(u64::MAX);
                assert!(spool.tend().unwrap().is_none(), "nothing waits long enough to be synced");
            }
        }
        assert!(fs::metadata(&path).unwrap().len() < 2 * limits::SPOOL_COMPACT_BYTES);
        let next = spool.next_seq;
        drop(spool);
        assert_eq!(Spool::open(&path, "boot").unwrap().next_seq, next);
    }
}
