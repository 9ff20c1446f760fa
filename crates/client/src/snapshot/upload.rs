//! Sending a snapshot: the manifest, then the blobs the server lacks, then the manifest again.

use super::{OnProgress, Progress, Snapshot, SnapshotError, hash};
use crate::{BlobSource, Client, ClientError, limits};
use fetchml_api::snapshot::SnapshotResponse;
use futures_util::{StreamExt as _, stream};
use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

/// What an upload came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Uploaded {
    /// The stored snapshot.
    pub stored: SnapshotResponse,
    /// Blobs that were sent.
    pub blobs_sent: u64,
    /// Their sizes, bytes.
    pub bytes_sent: u64,
}

impl Client {
    /// Stores `snapshot` on the server, sending only the blobs it lacks. A file that changed since it was
    /// hashed is read again, so the snapshot may have another id afterwards.
    ///
    /// # Errors
    /// Besides failed calls: a file that changed in each of [`limits::CHANGED_FILE_TRIES`] tries.
    pub async fn snapshot_upload(
        &self,
        snapshot: &mut Snapshot,
        progress: Arc<dyn Fn(Progress) + Send + Sync>,
    ) -> Result<Uploaded, ClientError> {
        let (mut blobs_sent, mut bytes_sent) = (0, 0);
        let mut changes: HashMap<String, u32> = HashMap::new();
        // Each round but the last sends something or finds a changed file; the server's own clean-up
        // could make a blob missing again, so the rounds are bounded too.
        for round in 0..=2 * limits::CHANGED_FILE_TRIES {
            let stored = self.snapshot_put(snapshot.canonical()).await?;
            if stored.snapshot_id != snapshot.id() {
                return Err(self.protocol("the server computed another snapshot id"));
            }
            let jobs = snapshot.jobs(&stored.missing).ok_or_else(|| self.protocol("it misses blobs of no file"))?;
            let bytes: u64 = jobs.iter().map(|job| job.size_bytes).sum();
            if round == 0 || !jobs.is_empty() {
                let files = snapshot.manifest.entries.len() as u64;
                progress(Progress::Missing { blobs: jobs.len() as u64, bytes, files });
            }
            if jobs.is_empty() {
                return Ok(Uploaded { stored, blobs_sent, bytes_sent });
            }
            let changed = self.send_blobs(jobs, &progress, &mut blobs_sent, &mut bytes_sent).await?;
            for path in changed {
                let times = changes.entry(path.clone()).or_default();
                *times += 1;
                if *times >= limits::CHANGED_FILE_TRIES {
                    return Err(SnapshotError::KeepsChanging { path }.into());
                }
                progress(Progress::Changed { path: path.clone() });
                *snapshot = rehashed(snapshot.clone(), path, Arc::clone(&progress)).await?;
            }
        }
        Err(self.protocol("it goes on missing blobs that were sent"))
    }

    /// Sends blobs, some at a time; returns the files that changed meanwhile.
    async fn send_blobs(
        &self,
        jobs: Vec<Job>,
        progress: &Arc<dyn Fn(Progress) + Send + Sync>,
        blobs_sent: &mut u64,
        bytes_sent: &mut u64,
    ) -> Result<BTreeSet<String>, ClientError> {
        let sent: Arc<dyn Fn(u64) + Send + Sync> = {
            let progress = Arc::clone(progress);
            Arc::new(move |bytes| progress(Progress::Sent { bytes }))
        };
        let uploads = jobs.into_iter().map(|job| {
            let sent = Arc::clone(&sent);
            async move {
                let result = self.blob_put_with(&job.sha256, job.size_bytes, job.source.clone(), sent).await;
                (job, result)
            }
        });
        let mut uploads = stream::iter(uploads).buffer_unordered(limits::UPLOADS_AT_ONCE);
        let mut changed = BTreeSet::new();
        while let Some((job, result)) = uploads.next().await {
            match result {
                Ok(()) => {
                    *blobs_sent += 1;
                    *bytes_sent += job.size_bytes;
                }
                Err(ClientError::Changed { .. }) => drop(changed.insert(job.path)),
                Err(error) => return Err(error),
            }
        }
        Ok(changed)
    }
}

struct Job {
    path: String,
    sha256: String,
    size_bytes: u64,
    source: BlobSource,
}

impl Snapshot {
    /// What to send for the hashes named; none when one of them is not in the manifest.
    fn jobs(&self, missing: &[String]) -> Option<Vec<Job>> {
        let job = |sha256: &String| {
            let entry = &self.manifest.entries[*self.blobs.get(sha256)?];
            let source = BlobSource::File(self.root.join(&entry.path));
            Some(Job { path: entry.path.clone(), sha256: sha256.clone(), size_bytes: entry.size_bytes, source })
        };
        missing.iter().map(job).collect()
    }
}

/// The snapshot with one file read again.
async fn rehashed(
    mut snapshot: Snapshot,
    path: String,
    progress: Arc<dyn Fn(Progress) + Send + Sync>,
) -> Result<Snapshot, SnapshotError> {
    let work = move || {
        let mut buffer = vec![0; limits::READ_BUFFER_BYTES];
        let quiet: OnProgress<'_> = &|step| {
            if matches!(step, Progress::Changed { .. }) {
                progress(step);
            }
        };
        let entry = hash::hash_file(&snapshot.root, &path, &mut buffer, quiet)?;
        let place = snapshot.manifest.entries.iter_mut().find(|entry| entry.path == path);
        *place.expect("the path came from this manifest") = entry;
        snapshot.seal()?;
        Ok(snapshot)
    };
    tokio::task::spawn_blocking(work).await.expect("hashing does not panic and is not aborted")
}
