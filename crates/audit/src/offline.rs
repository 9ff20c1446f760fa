//! Verification of an export with nothing but the file and the public key, chunk by chunk, in memory bounded by the
//! longest line.

use crate::{
    checkpoint::{Checkpoint, CheckpointError, Replaced, TrustedKeys},
    export::{CHECKPOINT_END, CHECKPOINT_START, CheckpointLine, EVENT_START, EventLine, FORMAT, Header, line},
    limits::{EXPORT_KEYS, LINE_BYTES},
    note::{Note, NoteError, VerifierKey},
    verify::{AuditRow, Verifier},
};
use serde::{Deserialize, Serialize};

/// What an export proves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// The log, as the header says; empty when there is none.
    pub log_id: String,
    /// Number of events before the first of the file.
    pub after: u64,
    /// Events looked at.
    pub checked_events: u64,
    /// A key that is trusted vouches for the events up to this number.
    pub proven: u64,
    /// The last checkpoint that does.
    pub checkpoint: Option<Checkpoint>,
    /// Ends of the log that were given up when older databases were restored, as such checkpoints say.
    pub given_up: Vec<Replaced>,
    /// Smallest number not proven unchanged; none: all are.
    pub first_tampered: Option<u64>,
    /// What is wrong, and in which line, counted from 1.
    pub problem: Option<Problem>,
}

/// What is wrong with an export.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// Line, from 1.
    pub line: u64,
    /// In words.
    pub what: String,
}

/// Verifies an export as its bytes come.
#[derive(Clone, Debug)]
pub struct ExportVerifier {
    trusted: TrustedKeys,
    elsewhere: Vec<Checkpoint>,
    buffer: Vec<u8>,
    line: u64,
    /// None before the header.
    body: Option<Body>,
    checkpoint: Option<Checkpoint>,
    given_up: Vec<Replaced>,
    /// Number and line of what is wrong.
    found: Option<(u64, Problem)>,
}

/// What the header told, and what was verified since.
#[derive(Clone, Debug)]
struct Body {
    log_id: String,
    after: u64,
    /// Keys that the header lists.
    keys: Vec<VerifierKey>,
    verifier: Verifier,
    /// Whether the last line was a checkpoint that is believed.
    is_closed: bool,
}

impl ExportVerifier {
    /// Believes checkpoints of these keys, and of those to which they hand over.
    pub fn new(trusted: TrustedKeys) -> Self {
        Self {
            trusted,
            elsewhere: Vec::new(),
            buffer: Vec::new(),
            line: 0,
            body: None,
            checkpoint: None,
            given_up: Vec::new(),
            found: None,
        }
    }

    /// The log has to fit these checkpoints too, which came another way, such as an anchor, and are believed.
    #[must_use]
    pub fn with_checkpoints(mut self, checkpoints: impl IntoIterator<Item = Checkpoint>) -> Self {
        self.elsewhere.extend(checkpoints);
        self
    }

    /// Takes the next bytes of the file. Returns whether it makes sense to go on.
    pub fn push(&mut self, mut bytes: &[u8]) -> bool {
        while self.found.is_none() && !bytes.is_empty() {
            let newline = bytes.iter().position(|byte| *byte == b'\n');
            let part = &bytes[..newline.unwrap_or(bytes.len())];
            if self.buffer.len() + part.len() > LINE_BYTES {
                self.line += 1;
                let kind = std::mem::take(&mut self.buffer);
                self.refuse(Kind::of(&kind, self.body.is_none()), "the line is too long");
                break;
            }
            self.buffer.extend_from_slice(part);
            let Some(newline) = newline else { break };
            let line = std::mem::take(&mut self.buffer);
            self.line += 1;
            self.on_line(&line);
            self.buffer = line;
            self.buffer.clear();
            bytes = &bytes[newline + 1..];
        }
        self.found.is_none()
    }

    /// What was found.
    pub fn finish(mut self) -> Report {
        if self.found.is_none() && !self.buffer.is_empty() {
            self.line += 1;
            let kind = Kind::of(&self.buffer, self.body.is_none());
            self.refuse(kind, "the file ends within the line");
        }
        let Some(Body { log_id, after, verifier, is_closed, .. }) = self.body.take() else {
            self.blame(1, "the file is empty".to_owned());
            return self.report(String::new(), 0, 0, 0);
        };
        let verdict = verifier.finish();
        if let (Some(number), Some(fault)) = (verdict.first_tampered, verdict.fault) {
            self.blame(number, fault.to_string());
        } else if !is_closed {
            let what = "no checkpoint by a trusted key covers the last events";
            self.blame(verdict.proven.max(after) + 1, what.to_owned());
        }
        self.report(log_id, after, verdict.checked, verdict.proven)
    }

    fn report(self, log_id: String, after: u64, checked_events: u64, proven: u64) -> Report {
        let Self { checkpoint, given_up, found, .. } = self;
        let (first_tampered, problem) = found.unzip();
        Report { log_id, after, checked_events, proven, checkpoint, given_up, first_tampered, problem }
    }

    fn on_line(&mut self, line: &[u8]) {
        let kind = Kind::of(line, self.body.is_none());
        let outcome = match kind {
            Kind::Header => self.on_header(line),
            Kind::Event => self.on_event(line),
            Kind::Checkpoint => self.on_checkpoint(line),
        };
        if let Err(what) = outcome {
            self.refuse(kind, what);
        } else if let Some((number, fault)) = self.body.as_ref().and_then(|body| body.verifier.found()) {
            self.blame(number, fault.to_string());
        }
    }

    fn on_header(&mut self, bytes: &[u8]) -> Result<(), &'static str> {
        let header: Header = parse(bytes)?;
        if header.format != FORMAT {
            return Err("the file is not an export of an audit log in the form fetchml/audit-export/v1");
        }
        let start = header.start().ok_or("the header does not fit the log that it names")?;
        if header.keys.len() > EXPORT_KEYS {
            return Err("the header lists too many keys");
        }
        let keys = header.keys.iter().map(|key| key.parse()).collect::<Result<Vec<_>, NoteError>>();
        let keys = keys.map_err(|_| "the header lists a key that is none")?;
        let elsewhere = std::mem::take(&mut self.elsewhere);
        let verifier = Verifier::from_start(&header.log_id, start).with_checkpoints(elsewhere);
        self.body = Some(Body { log_id: header.log_id, after: header.after, keys, verifier, is_closed: false });
        match header.checkpoint {
            None if header.after == 0 => Ok(()),
            Some(note) if header.after > 0 => {
                self.take_checkpoint(&note)?;
                let body = self.body.as_ref().expect("set above");
                let fits = body.is_closed && body.verifier.proven() == header.after;
                if fits { Ok(()) } else { Err("no trusted key says that the log was there what the header says") }
            }
            _ => Err("the header has a checkpoint when, and only when, events come before the first of the file"),
        }
    }

    fn on_event(&mut self, bytes: &[u8]) -> Result<(), &'static str> {
        let event: EventLine<'_> = parse(bytes)?;
        let body = self.body.as_mut().expect("the header comes first");
        body.is_closed = false;
        body.verifier.push(&AuditRow {
            sequence: event.sequence_num,
            prev_hash: event.prev_hash,
            event_hash: event.event_hash,
            body: event.body.into_owned().into_bytes(),
        });
        Ok(())
    }

    fn on_checkpoint(&mut self, bytes: &[u8]) -> Result<(), &'static str> {
        let line: CheckpointLine<'_> = parse(bytes)?;
        self.take_checkpoint(&line.checkpoint)
    }

    fn take_checkpoint(&mut self, note: &str) -> Result<(), &'static str> {
        let body = self.body.as_mut().expect("the header comes first");
        let note = Note::parse(note).map_err(|_| "the checkpoint is not a signed note")?;
        // Also those which nobody here trusts: what stands in the file is whole.
        let signers = note.verify(&body.keys).map_err(|_| "a signature of the checkpoint does not fit")?;
        if signers.len() != note.signature_count() {
            return Err("the header does not list all keys that signed the checkpoint");
        }
        let (checkpoint, is_believed) = match self.trusted.open(&note) {
            Ok(checkpoint) => (checkpoint, true),
            Err(CheckpointError::Note(NoteError::UnknownKeys)) => {
                (Checkpoint::parse_text(note.text()).map_err(|_| "the signed text is not a checkpoint")?, false)
            }
            Err(CheckpointError::Note(_)) => return Err("a signature of the checkpoint does not fit"),
            Err(CheckpointError::Text) => return Err("the signed text is not a checkpoint"),
        };
        body.verifier.checkpoint(&checkpoint, is_believed);
        body.is_closed |= is_believed;
        if is_believed {
            self.given_up.extend(checkpoint.replaces);
            self.checkpoint = Some(checkpoint);
        }
        Ok(())
    }

    /// Names the smallest number which a bad line leaves unproven: 1 for the header, itself for an event, and for a
    /// checkpoint the first that the one before does not cover.
    fn refuse(&mut self, kind: Kind, what: &str) {
        let number = match (&self.body, kind) {
            (Some(body), Kind::Event) => body.verifier.size() + 1,
            (Some(body), Kind::Checkpoint) => body.verifier.proven().max(body.after) + 1,
            (_, Kind::Header) | (None, _) => 1,
        };
        self.blame(number, what.to_owned());
    }

    /// What was found first stays.
    fn blame(&mut self, number: u64, what: String) {
        let line = self.line;
        self.found.get_or_insert((number, Problem { line, what }));
    }
}

/// What a line is, also when a bit of it is wrong.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Header,
    Event,
    Checkpoint,
}

impl Kind {
    fn of(line: &[u8], is_first: bool) -> Self {
        if is_first {
            Self::Header
        } else if line.starts_with(EVENT_START) {
            Self::Event
        } else if line.starts_with(CHECKPOINT_START) || line.ends_with(CHECKPOINT_END) {
            Self::Checkpoint
        } else {
            Self::Event
        }
    }
}

/// Reads a line in its one spelling.
fn parse<'a, T: Serialize + Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, &'static str> {
    let value: T = serde_json::from_slice(bytes).map_err(|_| "the line is not one of an export")?;
    let spelled = line(&value);
    if spelled.strip_suffix(b"\n") == Some(bytes) { Ok(value) } else { Err("the line is spelled otherwise") }
}
