//! One download to its end: broken connections are taken up where they broke, a version that changed is begun anew,
//! a source that gives nothing is given up. What comes out has one version and one hash.

use super::{
    cache::{Cache, Form, Known, NoRoom, Pin, Reservation},
    progress::{Progress, size},
    settings::Patience,
    sink::{Beginning, Sink, Written},
    source::{Opened, Resume, Source, Version, definite, transient},
};
use crate::{limits, staging::SourceError};
use fetchml_api::{Dataset, DatasetKey};
use futures_util::StreamExt as _;
use std::{fs, sync::Arc, time::Duration};
use tokio::{
    sync::{OwnedMutexGuard, watch},
    time::{Instant, timeout},
};

/// What a download needs.
pub(super) struct Download<'a> {
    pub(super) cache: &'a Arc<Cache>,
    pub(super) source: Source<'a>,
    pub(super) dataset: &'a Dataset,
    pub(super) patience: Patience,
    pub(super) progress: &'a watch::Sender<Progress>,
    /// Writes a line into the task's log.
    pub(super) say: &'a (dyn Fn(String) + Send + Sync),
}

/// How a download came to its end.
pub(super) enum Ended {
    /// All of it came.
    Fetched(Pin),
    /// The source still holds what is in the cache.
    Unchanged(Pin),
}

/// What a source says when it is asked.
enum Asked {
    /// It holds what is in the cache.
    Unchanged(Pin),
    /// It holds something else.
    Opened(Opened),
}

/// What is here so far.
struct Here {
    version: Version,
    bytes: u64,
    /// Some of it came in an earlier answer.
    is_pieced: bool,
}

impl Download<'_> {
    /// Runs it; `turn` is the right to write under the data set's key.
    pub(super) async fn run(&self, turn: OwnedMutexGuard<()>) -> Result<Ended, SourceError> {
        let declared = self.dataset.sha256.as_deref().and_then(|sha256| sha256.parse::<DatasetKey>().ok());
        let key = self.dataset.key();
        let first = match declared {
            Some(_) => None,
            None => match self.unchanged(key).await? {
                Asked::Unchanged(pin) => return Ok(Ended::Unchanged(pin)),
                Asked::Opened(opened) => Some(opened),
            },
        };
        let (sink, beginning) = Sink::open(self.cache, key, &self.dataset.source, declared.is_some(), turn).await?;
        let (written, here, room) = self.fetch(sink, beginning, first).await?;
        if let Some(declared) = declared.filter(|declared| *declared != written.sha256) {
            let _ = fs::remove_file(&written.path);
            return Err(mismatch(declared, written.sha256, here.is_pieced));
        }
        let Written { path, sha256, bytes, turn: _turn } = written;
        let disk = |error: std::io::Error| transient(format!("the worker's disk: {error}"));
        let pin = self.cache.put(Form::File, sha256, &path, bytes, room).map_err(disk)?;
        if declared.is_none() && here.version.is_known() {
            self.cache.know(key, Known { version: here.version, sha256 }).map_err(disk)?;
        }
        Ok(Ended::Fetched(pin))
    }

    /// Asks a source without a declared hash, which may still hold what it held.
    async fn unchanged(&self, key: DatasetKey) -> Result<Asked, SourceError> {
        let opened = self.open_patiently(None).await?;
        let known = self.cache.known(key).filter(|known| known.version.is_same(&opened.version));
        let forms = [self.dataset.unpack.then_some(Form::Tree), Some(Form::File)];
        let pin =
            known.and_then(|known| forms.into_iter().flatten().find_map(|form| self.cache.pin(form, known.sha256)));
        Ok(pin.map_or(Asked::Opened(opened), Asked::Unchanged))
    }

    /// Opens the source, again while it fails for a reason that may pass.
    async fn open_patiently(&self, resume: Option<Resume<'_>>) -> Result<Opened, SourceError> {
        let mut tries = Tries::new(self.patience);
        loop {
            match self.source.open(resume).await {
                Err(error) if error.transient => {
                    let Some(pause) = tries.next() else { return Err(error) };
                    (self.say)(format!("{error}; trying again"));
                    tokio::time::sleep(pause).await;
                }
                other => return other,
            }
        }
    }

    /// Until all bytes are written.
    async fn fetch(
        &self,
        mut sink: Sink,
        beginning: Beginning,
        mut opened: Option<Opened>,
    ) -> Result<(Written, Here, Reservation), SourceError> {
        let Beginning { bytes, version } = beginning;
        let mut here = Here { is_pieced: bytes > 0, version, bytes };
        let mut room = self.cache.reserve(0, 0).map_err(|error| no_room(&error))?;
        let mut tries = Tries::new(self.patience);
        let mut begun_anew = 0;
        loop {
            let before = here.bytes;
            let result = self.piece(&mut sink, &mut here, &mut room, &mut begun_anew, opened.take()).await;
            match result {
                Ok(()) => return Ok((sink.finish().await?, here, room)),
                Err(Broken::Off(error)) => return Err(error),
                Err(Broken::Again(error)) => {
                    if here.bytes.saturating_sub(before) >= limits::DATASET_PROGRESS_BYTES {
                        tries = Tries::new(self.patience);
                    }
                    let Some(pause) = tries.next() else { return Err(error) };
                    (self.say)(format!("{error}; going on at {}", size(here.bytes)));
                    here.is_pieced |= here.bytes > 0;
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    /// One answer of the source, to its end.
    async fn piece(
        &self,
        sink: &mut Sink,
        here: &mut Here,
        room: &mut Reservation,
        begun_anew: &mut u32,
        opened: Option<Opened>,
    ) -> Result<(), Broken> {
        let resume = (here.bytes > 0).then_some(Resume { offset: here.bytes, version: &here.version });
        let is_whole = here.bytes > 0 && here.version.size == Some(here.bytes);
        let opened = match opened {
            // The last try broke between the last byte and its end.
            _ if is_whole => return Ok(()),
            Some(opened) if here.bytes == 0 || !opened.version.is_same(&here.version) => opened,
            _ => self.source.open(resume).await?,
        };
        if opened.offset != here.bytes || here.bytes == 0 {
            if here.bytes > 0 {
                self.begin_anew(here, &opened, begun_anew)?;
            }
            sink.start_over(opened.version.clone()).await.map_err(Broken::Off)?;
            *here = Here { version: opened.version, bytes: 0, is_pieced: false };
        }
        let total = here.version.size;
        room.grow_to(total.unwrap_or(0), here.bytes).map_err(|error| Broken::Off(no_room(&error)))?;
        let mut body = opened.body;
        let mut pace = Pace::new(self.patience.slow);
        loop {
            let next = timeout(self.patience.idle, body.next()).await;
            let Some(chunk) = next.map_err(|_| transient("the source sends nothing any more".to_owned()))? else {
                break;
            };
            let chunk = chunk?;
            pace.add(chunk.len() as u64)?;
            let bytes = here.bytes + chunk.len() as u64;
            if total.is_some_and(|total| bytes > total) {
                return Err(definite("the source sends more bytes than it said it has".to_owned()).into());
            }
            if bytes > room.bytes() {
                // In steps: each look at the disk is a call of the system.
                let step = room.grow_to(bytes.saturating_add(limits::DATASET_ROOM_BYTES), here.bytes);
                step.or_else(|_| room.grow_to(bytes, here.bytes)).map_err(|error| Broken::Off(no_room(&error)))?;
            }
            sink.append(chunk).await.map_err(Broken::Off)?;
            here.bytes = bytes;
            self.progress.send_replace(Progress { done: bytes, total });
        }
        match total {
            Some(total) if here.bytes < total => {
                Err(transient(format!("the connection ended {} early", size(total - here.bytes))).into())
            }
            _ => Ok(()),
        }
    }

    /// The beginning that is here is of no use any more.
    fn begin_anew(&self, here: &Here, opened: &Opened, begun_anew: &mut u32) -> Result<(), Broken> {
        let known = here.version.is_known() && opened.version.is_known();
        let changed = known && !here.version.is_same(&opened.version);
        *begun_anew += 1;
        if *begun_anew > limits::DATASET_BEGUN_ANEW {
            let why = if changed { "changes at its source while it is downloaded" } else { "breaks again and again" };
            let told = format!("it {why}, {begun_anew} times now; it is not taken while it does");
            return Err(Broken::Off(transient(told)));
        }
        (self.say)(if changed {
            "changed at its source while it was downloaded; starting over".to_owned()
        } else {
            "the source cannot go on in the middle; starting over".to_owned()
        });
        Ok(())
    }
}

/// Why an answer of the source did not come to its end.
enum Broken {
    /// It may go on.
    Again(SourceError),
    /// It goes no further now, and perhaps never.
    Off(SourceError),
}

impl From<SourceError> for Broken {
    fn from(error: SourceError) -> Self {
        if error.transient { Self::Again(error) } else { Self::Off(error) }
    }
}

/// Pauses between tries, until there were too many.
struct Tries {
    left: u32,
    pause: Duration,
}

impl Tries {
    const fn new(patience: Patience) -> Self {
        Self { left: patience.tries, pause: patience.retry }
    }

    fn next(&mut self) -> Option<Duration> {
        self.left = self.left.checked_sub(1)?;
        let pause = self.pause;
        self.pause = (pause * 2).min(limits::DATASET_RETRY_MAX);
        Some(pause)
    }
}

/// Tells a source that drips from one that flows.
struct Pace {
    window: Duration,
    since: Instant,
    bytes: u64,
}

impl Pace {
    fn new(window: Duration) -> Self {
        Self { window, since: Instant::now(), bytes: 0 }
    }

    fn add(&mut self, bytes: u64) -> Result<(), SourceError> {
        self.bytes += bytes;
        if self.since.elapsed() < self.window {
            return Ok(());
        }
        if self.bytes < limits::DATASET_SLOW_BYTES {
            let window = self.window.as_secs();
            return Err(transient(format!("the source is too slow: {} in {window} s", size(self.bytes))));
        }
        *self = Self::new(self.window);
        Ok(())
    }
}

fn mismatch(declared: DatasetKey, found: DatasetKey, is_pieced: bool) -> SourceError {
    if is_pieced {
        return transient(format!(
            "what came in several pieces has SHA-256 {found} instead of {declared}; it is downloaded anew"
        ));
    }
    definite(format!(
        "its bytes have SHA-256 {found}, not {declared} as declared; if the new content is right, declare its hash"
    ))
}

fn no_room(error: &NoRoom) -> SourceError {
    transient(error.to_string())
}
