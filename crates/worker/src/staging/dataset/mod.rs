//! Data sets: fetched once, verified while they are fetched, kept by their hash and shown to any number of tasks,
//! which cannot change them.
//!
//! [`source`] says where from ([`http`] behind the [`guard`] of [`address`], [`file`], [`store`]), [`download`] brings it
//! through [`sink`] into the [`cache`], [`unpack`] opens archives, and this module gives tasks what they named.

mod cache;
mod download;
mod file;
mod guard;
mod http;
mod progress;
mod settings;
mod sink;
mod source;
mod store;
mod tree;
mod unpack;

pub use settings::{AllowedBucket, DatasetSettings, Patience, StoreSettings};
pub use sink::verify_file;

use super::{StageError, note};
use crate::{executor::AttemptDir, limits, shim::Mount, staging::SourceError};
use cache::{Cache, Form, Pin};
use download::{Download, Ended};
use fetchml_api::{Dataset, DatasetKey, FailureCause};
use file::Directories;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use guard::Guard;
use progress::{Progress, size};
use serde::{Deserialize, Serialize};
use source::{Ways, definite, transient};
use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};
use store::Stores;
use tokio::sync::{OwnedMutexGuard, Semaphore, watch};
use tokio_util::sync::CancellationToken;

/// Who data sets are staged for.
#[derive(Clone, Copy, Debug)]
pub struct DatasetRequest<'a> {
    /// What the task named.
    pub datasets: &'a [Dataset],
    /// Where the attempt's files lie.
    pub dir: &'a AttemptDir,
    /// Whether the task can see files at other paths than they have outside.
    pub remaps: bool,
    /// Gives up.
    pub cancel: &'a CancellationToken,
}

/// A data set as a task has it: a line of `datasets.json`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StagedDataset {
    /// Its name.
    pub name: String,
    /// Where it came from.
    pub source: String,
    /// What its bytes are, declared or not; of the archive, when it was unpacked.
    pub sha256: DatasetKey,
    /// What it takes, bytes.
    pub size_bytes: u64,
    /// Where the task sees it.
    pub mount_path: PathBuf,
    /// Whether the task sees a directory.
    #[serde(default)]
    pub unpack: bool,
}

/// Data sets ready for a task. While this lives they stay in the cache.
#[derive(Debug, Default)]
pub struct StagedDatasets {
    /// In the order of the request.
    pub datasets: Vec<StagedDataset>,
    /// What its sandbox has to show.
    pub mounts: Vec<Mount>,
    pins: Vec<Pin>,
}

/// The data sets of a worker.
#[derive(Debug)]
pub struct Datasets {
    cache: Arc<Cache>,
    data_dir: PathBuf,
    ways: Ways,
    settings: DatasetSettings,
    turns: Mutex<BTreeMap<(Form, DatasetKey), Turn>>,
    downloads: Semaphore,
}

/// The right to download or unpack one data set, and how far whoever has it is.
#[derive(Clone, Debug)]
struct Turn {
    lock: Arc<tokio::sync::Mutex<()>>,
    progress: watch::Sender<Progress>,
}

impl Datasets {
    /// Data sets below `data_dir`.
    ///
    /// # Errors
    /// The cache cannot be read.
    pub fn open(data_dir: &Path, settings: DatasetSettings) -> io::Result<Self> {
        Ok(Self {
            cache: Arc::new(Cache::open(&data_dir.join("datasets"), settings.cache_bytes)?),
            data_dir: data_dir.to_owned(),
            ways: Ways {
                guard: Guard::new(&settings.allowed_nets, settings.patience),
                directories: Directories::new(&settings.directories),
                stores: Stores::new(settings.stores.clone(), settings.patience),
            },
            settings,
            turns: Mutex::default(),
            downloads: Semaphore::new(limits::DATASET_DOWNLOADS),
        })
    }

    /// Brings in what a task named, and notes it in its directory.
    ///
    /// # Errors
    /// Cause `dataset`: transient when the network or a server is at fault, definite when the data set or its place
    /// is; `cancelled` when it was.
    pub async fn stage(&self, request: DatasetRequest<'_>) -> Result<StagedDatasets, StageError> {
        if request.datasets.is_empty() {
            return Ok(StagedDatasets::default());
        }
        let mut places = Vec::new();
        for dataset in request.datasets {
            places.push(self.place(dataset, &request)?);
        }
        // Made in a loop: a lazy map here hides from the compiler that the whole can move between threads.
        let mut fetches = Vec::new();
        for dataset in request.datasets {
            fetches.push(self.fetch(dataset, &request));
        }
        let fetching = stream::iter(fetches).buffered(limits::DATASET_DOWNLOADS).try_collect::<Vec<Pin>>();
        let pins = tokio::select! {
            fetched = fetching => fetched?,
            () = request.cancel.cancelled() => return Err(cancelled()),
        };
        let mut staged = StagedDatasets::default();
        for ((dataset, place), pin) in request.datasets.iter().zip(places).zip(pins) {
            staged.datasets.push(StagedDataset {
                name: dataset.name.clone(),
                source: dataset.source.clone(),
                sha256: pin.sha256(),
                size_bytes: pin.size_bytes(),
                mount_path: place,
                unpack: dataset.unpack,
            });
            staged.pins.push(pin);
        }
        let local = |error: io::Error| StageError::local(FailureCause::Dataset, &request.dir.datasets(), &error);
        staged.mounts = show(&staged, request.dir, request.remaps).map_err(local)?;
        let notes = serde_json::to_vec_pretty(&staged.datasets).map_err(io::Error::from).map_err(local)?;
        fs::write(request.dir.datasets_file(), notes).map_err(local)?;
        Ok(staged)
    }

    /// Keeps what an attempt uses that an earlier agent started.
    pub fn keep(&self, dir: &AttemptDir) -> StagedDatasets {
        let noted = fs::read(dir.datasets_file()).ok();
        let datasets: Vec<StagedDataset> =
            noted.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        let form = |set: &StagedDataset| if set.unpack { Form::Tree } else { Form::File };
        let pins = datasets.iter().filter_map(|set| self.cache.pin(form(set), set.sha256)).collect();
        StagedDatasets { datasets, mounts: Vec::new(), pins }
    }

    /// Keys of what is in the cache, the last used first.
    pub fn held(&self) -> Vec<DatasetKey> {
        self.cache.held()
    }

    /// Changes with what is in the cache.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.cache.changes()
    }

    /// Gives up what no task uses, the longest unused first, for as long as the disk is short. Blocks.
    pub fn shed(&self, disk_is_short: impl Fn() -> bool) {
        self.cache.shed(disk_is_short);
    }

    /// Where a task is to see a data set.
    fn place(&self, dataset: &Dataset, request: &DatasetRequest<'_>) -> Result<PathBuf, StageError> {
        let below = request.dir.datasets().join(&dataset.name);
        let Some(wanted) = dataset.mount_path.as_ref().map(PathBuf::from) else { return Ok(below) };
        if wanted == below {
            return Ok(below);
        }
        if !request.remaps {
            return Err(of(
                dataset,
                &definite(format!(
                    "mount_path {} needs a sandbox by bubblewrap, which this worker does not have; leave it out and read \
                 $FETCHML_DATASET_DIR/{}",
                    wanted.display(),
                    dataset.name
                )),
            ));
        }
        if wanted.starts_with(&self.data_dir) || self.data_dir.starts_with(&wanted) {
            return Err(of(
                dataset,
                &definite(format!(
                    "mount_path {} would hide the worker's own directories; choose another, such as /data/{}",
                    wanted.display(),
                    dataset.name
                )),
            ));
        }
        Ok(wanted)
    }

    async fn fetch(&self, dataset: &Dataset, request: &DatasetRequest<'_>) -> Result<Pin, StageError> {
        let log = request.dir.log();
        let staged = if dataset.unpack { self.tree(dataset, &log).await } else { self.file(dataset, &log).await };
        staged.map_err(|error| of(dataset, &error))
    }

    /// The tree of a data set that is an archive, in the cache.
    async fn tree(&self, dataset: &Dataset, log: &Path) -> Result<Pin, SourceError> {
        let say = |text: String| drop(note(FailureCause::Dataset, log, &format!("data set {}: {text}", dataset.name)));
        let declared = dataset.sha256.as_ref().and_then(|_| self.cache.pin(Form::Tree, dataset.key()));
        if let Some(pin) = declared {
            say(format!("{} at hand, unpacked", size(pin.size_bytes())));
            return Ok(pin);
        }
        let archive = self.file(dataset, log).await?;
        if archive.form() == Form::Tree {
            return Ok(archive);
        }
        let turn = self.turn((Form::Tree, archive.sha256()));
        let _right = self.wait(&turn, "waiting for another task to unpack it", &say).await;
        if let Some(pin) = self.cache.pin(Form::Tree, archive.sha256()) {
            say(format!("{} at hand, unpacked", size(pin.size_bytes())));
            return Ok(pin);
        }
        say("unpacking".to_owned());
        let cancel = CancellationToken::new();
        // Dropped with this future: the thread sees it.
        let _stop = cancel.clone().drop_guard();
        let cache = Arc::clone(&self.cache);
        let unpacking = tokio::task::spawn_blocking(move || unpack::unpack(&cache, &archive, &cancel));
        let pin = unpacking.await.map_err(|error| transient(error.to_string()))??;
        say(format!("{} unpacked", size(pin.size_bytes())));
        Ok(pin)
    }

    /// The file of a data set, in the cache.
    async fn file(&self, dataset: &Dataset, log: &Path) -> Result<Pin, SourceError> {
        let key = dataset.key();
        let say = |text: String| drop(note(FailureCause::Dataset, log, &format!("data set {}: {text}", dataset.name)));
        let at_hand = || dataset.sha256.as_ref().and_then(|_| self.cache.pin(Form::File, key));
        if let Some(pin) = at_hand() {
            say(format!("{} at hand", size(pin.size_bytes())));
            return Ok(pin);
        }
        let turn = self.turn((Form::File, key));
        let told = progress::tell(log, &dataset.name, turn.progress.subscribe());
        let fetched = async {
            let right = self.wait(&turn, "waiting for the download that another task started", &say).await;
            if let Some(pin) = at_hand() {
                say(format!("{} at hand", size(pin.size_bytes())));
                return Ok(pin);
            }
            turn.progress.send_replace(Progress::default());
            self.download(dataset, &turn, right, &say).await
        };
        tokio::select! {
            fetched = fetched => fetched,
            () = told => unreachable!("it does not end"),
        }
    }

    async fn wait(&self, turn: &Turn, why: &str, say: &(impl Fn(String) + Sync)) -> OwnedMutexGuard<()> {
        if let Ok(right) = Arc::clone(&turn.lock).try_lock_owned() {
            return right;
        }
        say(why.to_owned());
        Arc::clone(&turn.lock).lock_owned().await
    }

    async fn download(
        &self,
        dataset: &Dataset,
        turn: &Turn,
        right: OwnedMutexGuard<()>,
        say: &(impl Fn(String) + Send + Sync),
    ) -> Result<Pin, SourceError> {
        let _slot = self.downloads.acquire().await.expect("never closed");
        say(format!("from {}", dataset.source));
        let began = tokio::time::Instant::now();
        let download = Download {
            cache: &self.cache,
            source: self.ways.source(&dataset.source)?,
            dataset,
            patience: self.settings.patience,
            progress: &turn.progress,
            say,
        };
        Ok(match download.run(right).await? {
            Ended::Unchanged(pin) => {
                say(format!("{} at hand, unchanged at its source", size(pin.size_bytes())));
                pin
            }
            Ended::Fetched(pin) => {
                let (bytes, seconds) = (size(pin.size_bytes()), began.elapsed().as_secs_f64());
                say(format!("{bytes} in {seconds:.1} s, sha256 {}", pin.sha256()));
                pin
            }
        })
    }

    fn turn(&self, key: (Form, DatasetKey)) -> Turn {
        let new = || Turn { lock: Arc::default(), progress: watch::Sender::default() };
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that nobody waits for, nor writes by, any more.
        turns.retain(|_, turn| Arc::strong_count(&turn.lock) > 1);
        turns.entry(key).or_insert_with(new).clone()
    }
}

/// Makes what is staged visible below `dir`; gives what a sandbox must show.
fn show(staged: &StagedDatasets, dir: &AttemptDir, remaps: bool) -> io::Result<Vec<Mount>> {
    let seen = staged.datasets.iter().zip(&staged.pins).map(|(set, pin)| (set, pin.path()));
    if remaps {
        return Ok(seen.map(|(set, path)| Mount::read_only(path).at(&set.mount_path)).collect());
    }
    // Without a namespace of mounts there are links, and the permission to read what they lead to.
    fs::create_dir_all(dir.datasets())?;
    let mut mounts = vec![Mount::read_only(dir.datasets())];
    for (set, path) in seen {
        symlink(&path, &set.mount_path)?;
        mounts.push(Mount::read_only(path));
    }
    Ok(mounts)
}

/// A fault of one data set.
fn of(dataset: &Dataset, error: &SourceError) -> StageError {
    StageError {
        cause: FailureCause::Dataset,
        transient: error.transient,
        message: format!("data set {}: {error}", dataset.name),
    }
}

fn cancelled() -> StageError {
    StageError {
        cause: FailureCause::Cancelled,
        transient: false,
        message: "cancelled while its data sets were fetched".to_owned(),
    }
}
