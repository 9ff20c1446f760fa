//! Copies the lines that a task writes to its metrics file into the attempt's stream, with when they were seen; see
//! [`fetchml_api::metrics`]. The stream says how far it has come, so an agent that was killed goes on exactly there.
//! The file belongs to user code, which may do anything to it: it is only read, and only if it is a regular file.

use crate::{
    agent::{
        log_part::read_at,
        logs::{self, file_name},
    },
    executor::AttemptDir,
    limits,
};
use fetchml_api::{
    limits::{METRICS_BYTES, METRICS_LINE_BYTES, METRICS_SAMPLES_BYTES},
    link::ByteStream,
    metrics::{BatchHead, LINE, LONG_LINE, SAMPLE, Sample, last_batch},
};
use std::{
    fs::File,
    io,
    os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

/// One attempt's file and its stream.
#[derive(Debug)]
pub(crate) struct Tail {
    source: PathBuf,
    path: PathBuf,
    file: Option<File>,
    stream: Option<File>,
    /// Bytes in the stream.
    length: u64,
    /// What is still to be written to it: a disk that was full may have taken half a batch, and what it took may
    /// have been sent.
    pending: Vec<u8>,
    /// How far this has come.
    head: BatchHead,
    /// The dropped bytes that the stream tells of.
    dropped_told: u64,
}

impl Tail {
    /// Goes on where an earlier agent was killed, or begins. A stream that nobody understands is left as it is, and
    /// nothing is added to it.
    pub(crate) fn open(dir: &AttemptDir) -> io::Result<Self> {
        let path = dir.root().join(file_name(ByteStream::Metrics));
        let mut tail = Self {
            source: dir.metrics(),
            path,
            file: None,
            stream: None,
            length: 0,
            pending: Vec::new(),
            head: BatchHead::default(),
            dropped_told: 0,
        };
        let Some(stream) = open_stream(&tail.path, false)? else { return Ok(tail) };
        let length = stream.metadata()?.len();
        let from = length.saturating_sub(limits::METRICS_TAIL_BYTES);
        let bytes = read_at(&stream, from, (length - from) as usize)?;
        match last_batch(&bytes) {
            Some((head, end)) => (tail.head, tail.length) = (head, from + end as u64),
            None if length <= limits::METRICS_TAIL_BYTES => {}
            None => return Err(io::Error::other("the stream of an attempt's metrics cannot be understood")),
        }
        // Of what was torn nothing counts: it is read from the task's file again.
        stream.set_len(tail.length)?;
        tail.dropped_told = tail.head.dropped;
        tail.stream = Some(stream);
        Ok(tail)
    }

    /// Bytes in the stream.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// Takes the whole lines that are new; with `last` also what stands after the last line feed. Says whether
    /// there were any.
    pub(crate) fn advance(&mut self, at_us: i64, last: bool) -> io::Result<bool> {
        let before = self.length;
        self.write_pending()?;
        if let Some(old) = self.left_behind()? {
            self.read(&old, at_us, true)?;
        }
        if let Some(file) = self.file.take().map_or_else(|| self.open_source(), |file| Ok(Some(file)))? {
            let read = self.read(&file, at_us, last);
            self.file = Some(file);
            read?;
        }
        Ok(self.length > before)
    }

    /// Adds what was measured.
    pub(crate) fn sample(&mut self, at_us: i64, sample: &Sample) -> io::Result<()> {
        self.write_pending()?;
        let mut body = vec![SAMPLE];
        serde_json::to_writer(&mut body, sample)?;
        body.push(b'\n');
        if self.head.sampled.saturating_add(body.len() as u64) > METRICS_SAMPLES_BYTES {
            return Ok(());
        }
        self.head.sampled += body.len() as u64;
        self.put(at_us, &body)
    }

    /// The file that was read, when its name leads to another one by now.
    fn left_behind(&mut self) -> io::Result<Option<File>> {
        let Some(file) = &self.file else { return Ok(None) };
        let is_same = match std::fs::symlink_metadata(&self.source) {
            Ok(named) => named.ino() == file.metadata()?.ino(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => true,
            Err(error) => return Err(error),
        };
        Ok(if is_same { None } else { self.file.take() })
    }

    /// Opens the task's file, if there is something in it.
    fn open_source(&mut self) -> io::Result<Option<File>> {
        match std::fs::symlink_metadata(&self.source) {
            Ok(metadata) if metadata.is_file() && metadata.len() > 0 => {}
            Ok(_) => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        }
        let file = logs::open(&self.source)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Ok(None);
        }
        if metadata.ino() != self.head.file {
            self.head = BatchHead { file: metadata.ino(), next: 0, long: 0, ..self.head };
        }
        Ok(Some(file))
    }

    fn read(&mut self, file: &File, at_us: i64, last: bool) -> io::Result<()> {
        let length = file.metadata()?.len();
        if length < self.head.next {
            // It was emptied and begun again.
            self.head = BatchHead { next: 0, long: 0, ..self.head };
        }
        while self.head.used < METRICS_BYTES {
            let bytes = read_at(file, self.head.next, limits::METRICS_READ_BYTES)?;
            let (body, taken) = self.records(&bytes);
            if taken == 0 {
                return if last && !(bytes.is_empty() && self.head.long == 0) {
                    let mut body = Vec::new();
                    self.record(&bytes, &mut body);
                    self.took(bytes.len());
                    self.put(at_us, &body)
                } else {
                    Ok(())
                };
            }
            self.took(taken);
            self.put(at_us, &body)?;
        }
        self.drop_rest(length, at_us, last)
    }

    fn took(&mut self, bytes: usize) {
        self.head.next += bytes as u64;
        self.head.used += bytes as u64;
    }

    /// Records of the lines that end in `bytes`, and of how many of the bytes they are.
    fn records(&mut self, bytes: &[u8]) -> (Vec<u8>, usize) {
        let mut body = Vec::with_capacity(bytes.len() + bytes.len() / 16);
        let mut taken = 0;
        while let Some(end) = bytes[taken..].iter().position(|byte| *byte == b'\n') {
            self.record(&bytes[taken..taken + end], &mut body);
            taken += end + 1;
        }
        let rest = bytes.len() - taken;
        if rest > METRICS_LINE_BYTES || self.head.long > 0 {
            // Its end may be far: it is passed over as it comes.
            self.head.long += rest as u64;
            taken = bytes.len();
        }
        (body, taken)
    }

    fn record(&mut self, line: &[u8], body: &mut Vec<u8>) {
        let length = std::mem::take(&mut self.head.long) + line.len() as u64;
        if length > METRICS_LINE_BYTES as u64 {
            body.push(LONG_LINE);
            body.extend_from_slice(length.to_string().as_bytes());
        } else {
            body.push(LINE);
            body.extend_from_slice(line);
        }
        body.push(b'\n');
    }

    /// Beyond the limit bytes are only counted, and that is told each time there are twice as many.
    fn drop_rest(&mut self, length: u64, at_us: i64, last: bool) -> io::Result<()> {
        self.head.dropped = self.head.dropped.max(length.saturating_sub(self.head.next));
        let is_news = self.head.dropped > self.dropped_told;
        if is_news && (last || self.head.dropped / 2 >= self.dropped_told) {
            self.dropped_told = self.head.dropped;
            self.put(at_us, &[])?;
        }
        Ok(())
    }

    fn put(&mut self, at_us: i64, body: &[u8]) -> io::Result<()> {
        let head = BatchHead { at_us, body: body.len() as u64, ..self.head };
        self.pending.extend_from_slice(&head.encode());
        self.pending.extend_from_slice(body);
        self.write_pending()
    }

    /// Writes what it can, and keeps the rest for the next time.
    fn write_pending(&mut self) -> io::Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let stream = match self.stream.take() {
            Some(stream) => stream,
            None => open_stream(&self.path, true)?.expect("it is made when it is not there"),
        };
        let (mut done, mut result) = (0, Ok(()));
        while done < self.pending.len() && result.is_ok() {
            match stream.write_at(&self.pending[done..], self.length + done as u64) {
                Ok(0) => result = Err(io::ErrorKind::WriteZero.into()),
                Ok(wrote) => done += wrote,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => result = Err(error),
            }
        }
        self.length += done as u64;
        self.pending.drain(..done);
        self.stream = Some(stream);
        result
    }
}

/// Outside of a sandbox a task reaches the attempt's directory: no link in the stream's place is followed.
fn open_stream(path: &Path, create: bool) -> io::Result<Option<File>> {
    let mut options = File::options();
    options.read(true).write(true).create(create).mode(0o600).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    match options.open(path) {
        Ok(file) if file.metadata()?.is_file() => Ok(Some(file)),
        Ok(_) => Err(io::Error::other("the stream of an attempt's metrics is no file")),
        Err(error) if error.kind() == io::ErrorKind::NotFound && !create => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;
