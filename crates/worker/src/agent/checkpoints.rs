//! Brings an attempt's checkpoint directory to the server while it runs, and back before the next one. A file
//! counts once it was renamed into place, or left alone for [`limits::CHECKPOINT_QUIET`]; until then what was stored
//! of it last stands.

use crate::{
    agent::{
        artifacts::{self, Seen},
        attempt::Workshop,
    },
    executor::AttemptDir,
    limits,
    staging::{StageError, outlast},
};
use fetchml_api::{Artifact, AttemptId, Checkpoint, CheckpointFiles, FailureCause, TaskId, link::Assignment};
use fetchml_client::{Client, ClientError};
use futures_util::StreamExt as _;
use sha2::{Digest as _, Sha256};
use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::AsyncWriteExt as _,
    time::{Instant, MissedTickBehavior},
};

/// A file of the directory.
#[derive(Debug)]
struct Tracked {
    seen: Seen,
    /// When it was first seen as it is.
    since: Instant,
    /// What of it is at the server.
    stored: Option<Artifact>,
    /// Whether that is what it is now.
    is_fresh: bool,
}

/// The checkpoint directory of one attempt.
#[derive(Debug)]
pub(crate) struct Checkpoints {
    shop: Arc<Workshop>,
    task: TaskId,
    attempt: AttemptId,
    dir: PathBuf,
    files: BTreeMap<String, Tracked>,
    /// The list as the server has it; none: it has none.
    stored: Option<Vec<Artifact>>,
}

impl Checkpoints {
    pub(crate) fn new(shop: Arc<Workshop>, assignment: &Assignment, dir: &AttemptDir) -> Self {
        let (task, attempt) = (assignment.spec.id, assignment.attempt);
        Self { shop, task, attempt, dir: dir.checkpoint(), files: BTreeMap::new(), stored: None }
    }

    /// Stores what settles while the process runs; does not end.
    pub(crate) async fn keep(&mut self) {
        let mut look = tokio::time::interval(limits::CHECKPOINT_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            look.tick().await;
            self.round(limits::CHECKPOINT_QUIET).await;
        }
    }

    /// Whether there is nothing to store, now that the process is dead.
    pub(crate) fn is_empty(&self) -> bool {
        self.stored.is_none() && artifacts::is_empty(&self.dir).unwrap_or(false)
    }

    /// Stores what there is, the process being dead; waits while the server is away.
    pub(crate) async fn finish(&mut self) {
        self.round(Duration::ZERO).await;
    }

    /// Stores what has changed and was left alone for `quiet` since.
    async fn round(&mut self, quiet: Duration) {
        if let Err(message) = self.try_round(quiet).await {
            tracing::warn!(task = %self.task, attempt = %self.attempt, message, "a checkpoint is not stored");
        }
    }

    async fn try_round(&mut self, quiet: Duration) -> Result<(), String> {
        let dir = self.dir.clone();
        let seen = tokio::task::spawn_blocking(move || artifacts::list(&dir)).await;
        let seen = seen.map_err(|error| error.to_string())?.map_err(|error| error.message)?;
        if seen.len() > fetchml_api::limits::CHECKPOINT_FILES_MAX {
            return Err(format!("the checkpoint directory holds {} files, too many to be stored", seen.len()));
        }
        self.track(seen, Instant::now());
        let due = |file: &Tracked| !file.is_fresh && (file.seen.is_renamed() || file.since.elapsed() >= quiet);
        let paths: Vec<String> =
            self.files.iter().filter(|(_, file)| due(file)).map(|(path, _)| path.clone()).collect();
        for path in paths {
            self.store(&path).await?;
        }
        let files: Vec<_> = self.files.values().filter_map(|file| file.stored.clone()).collect();
        if self.stored.as_ref().map_or(files.is_empty(), |stored| *stored == files) {
            return Ok(());
        }
        let list = CheckpointFiles { files };
        fetchml_failpoint::reach("checkpoint.uploaded");
        put(&self.shop.client, self.task, self.attempt, &list).await.map_err(|error| error.to_string())?;
        self.stored = Some(list.files);
        Ok(())
    }

    fn track(&mut self, seen: Vec<Seen>, now: Instant) {
        let mut before = std::mem::take(&mut self.files);
        for seen in seen {
            let tracked = match before.remove(&seen.path) {
                Some(known) if known.seen == seen => known,
                known => Tracked { since: now, stored: known.and_then(|k| k.stored), is_fresh: false, seen },
            };
            self.files.insert(tracked.seen.path.clone(), tracked);
        }
    }

    /// Hashes and uploads one file; one that changes meanwhile is left for a later round.
    async fn store(&mut self, path: &str) -> Result<(), String> {
        let Some(file) = self.files.get_mut(path) else { return Ok(()) };
        let (dir, seen) = (self.dir.clone(), file.seen.clone());
        let hashed = tokio::task::spawn_blocking(move || artifacts::hash(&dir, &seen)).await;
        let artifact = match hashed.map_err(|error| error.to_string())? {
            Ok(Some(artifact)) if artifact.size_bytes == file.seen.size_bytes => artifact,
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(format!("{path}: {error}")),
        };
        match artifacts::bring(&self.dir, &artifact, &self.shop.client, &self.shop.uploads).await {
            Ok(()) => (file.stored, file.is_fresh) = (Some(artifact), true),
            Err(error) => tracing::debug!(path, error = error.message, "a checkpoint's file was not stored"),
        }
        Ok(())
    }
}

/// Tells the server what is stored; tries again while it is away.
async fn put(client: &Client, task: TaskId, attempt: AttemptId, list: &CheckpointFiles) -> Result<(), ClientError> {
    let mut pause = limits::UPLOAD_RETRY_FIRST;
    loop {
        match client.checkpoint_put(task, attempt, list).await {
            Err(error) if error.is_transient() || artifacts::is_server_fault(&error) => {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(limits::UPLOAD_RETRY_MAX);
            }
            other => return other,
        }
    }
}

/// Lays out the checkpoint that an attempt starts from: the one of an earlier attempt, else the one of the task
/// it was told to resume from.
pub(crate) async fn restore(client: &Client, assignment: &Assignment, dir: &AttemptDir) -> Result<(), StageError> {
    let spec = &assignment.spec;
    if let Some(checkpoint) = of(client, spec.id, assignment.number > 1).await? {
        return lay_out(client, &checkpoint, &dir.checkpoint()).await;
    }
    let Some(from) = spec.resume_from else { return Ok(()) };
    match of(client, from, true).await? {
        Some(checkpoint) => lay_out(client, &checkpoint, &dir.checkpoint()).await,
        None => Err(failed(false, format!("the checkpoint of task {from} is not there any more"))),
    }
}

async fn of(client: &Client, task: TaskId, ask: bool) -> Result<Option<Checkpoint>, StageError> {
    if !ask {
        return Ok(None);
    }
    outlast(ClientError::is_away, || client.checkpoint(task))
        .await
        .map_err(|error| failed(true, format!("the checkpoint of task {task} could not be had: {error}")))
}

fn failed(transient: bool, message: String) -> StageError {
    StageError { cause: FailureCause::Dataset, transient, message }
}

async fn lay_out(client: &Client, checkpoint: &Checkpoint, into: &Path) -> Result<(), StageError> {
    let listed = CheckpointFiles { files: checkpoint.files.clone() };
    if let Some(problem) = listed.problems().first() {
        return Err(failed(false, format!("the checkpoint is refused: {}", problem.problem)));
    }
    for file in &listed.files {
        let path = into.join(&file.path);
        let disk =
            |error: io::Error| failed(true, format!("checkpoint file {}: the worker's disk: {error}", file.path));
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(disk)?;
        }
        let fetched = outlast(Fetch::is_away, || fetch(client, &file.sha256, &path));
        let sha256 = fetched.await.map_err(|error| match error {
            Fetch::Disk(error) => disk(error),
            Fetch::Far(error) => {
                let transient = error.is_transient() || artifacts::is_server_fault(&error);
                failed(transient, format!("checkpoint file {} could not be had: {error}", file.path))
            }
        })?;
        if sha256 != file.sha256 {
            return Err(failed(true, format!("checkpoint file {} did not arrive whole", file.path)));
        }
    }
    Ok(())
}

/// Why a blob is not in its file.
#[derive(Debug, thiserror::Error)]
enum Fetch {
    #[error(transparent)]
    Disk(#[from] io::Error),
    #[error(transparent)]
    Far(#[from] ClientError),
}

impl Fetch {
    fn is_away(&self) -> bool {
        matches!(self, Self::Far(error) if error.is_away())
    }
}

/// Writes a blob into a file, from its beginning. Returns the hash of what came.
async fn fetch(client: &Client, sha256: &str, into: &Path) -> Result<String, Fetch> {
    let mut bytes = client.blob_get(sha256).await?;
    let mut to = tokio::fs::File::create(into).await?;
    let mut hasher = Sha256::new();
    while let Some(chunk) = bytes.next().await {
        let chunk = chunk?;
        hasher.update(&chunk);
        to.write_all(&chunk).await?;
    }
    to.flush().await?;
    Ok(hex::encode(hasher.finalize()))
}
