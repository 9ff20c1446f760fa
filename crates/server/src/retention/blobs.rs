//! Blobs that nothing refers to: found by looking at everything that refers to any, in groups that fit into memory.

use super::{Ended, pass::Pass, tasks::event};
use crate::{limits, routes::hash_of};
use fetchml_api::{AuditKind, GcKind, Micros};
use fetchml_store::Write;
use serde::Deserialize;
use std::{borrow::Cow, collections::HashMap};

/// Hash and size.
pub(super) type Candidates = HashMap<[u8; 32], u64>;

/// What of a manifest is of interest here.
#[derive(Deserialize)]
struct Listed<'a> {
    #[serde(borrow)]
    entries: Vec<ListedEntry<'a>>,
}

#[derive(Deserialize)]
struct ListedEntry<'a> {
    #[serde(borrow, default)]
    sha256: Option<Cow<'a, str>>,
}

impl Pass<'_> {
    /// Deletes every blob that nothing refers to and nobody claimed since `before`.
    pub(super) async fn sweep(&mut self, before: Micros) -> Result<(), Ended> {
        let earlier = self.tally().of(GcKind::Blobs);
        let swept = self.sweep_groups(before).await;
        let (count, bytes) = self.tally().of(GcKind::Blobs);
        let (count, bytes) = (count - earlier.0, bytes - earlier.1);
        // Also of a sweep that was cut off.
        if self.gone.is_none() && count > 0 {
            let metadata = [("count", count.to_string()), ("bytes", bytes.to_string())];
            let audit = event(AuditKind::FileAccess, "blobs_collect", "blobs".into(), &metadata);
            self.shelves.store.commit(vec![Write::Audit(audit)]).await?;
        }
        swept
    }

    async fn sweep_groups(&mut self, before: Micros) -> Result<(), Ended> {
        let mut group = Candidates::new();
        for first in 0..=u8::MAX {
            self.pace.step().await?;
            for (name, size) in self.shelves.blobs.unclaimed(first, before).await? {
                group.extend(hash(&name).map(|hash| (hash, size)));
            }
            if group.len() >= limits::GC_CANDIDATES || first == u8::MAX {
                let orphans = self.unreferenced(std::mem::take(&mut group)).await?;
                self.discard(orphans, before).await?;
            }
        }
        Ok(())
    }

    /// Those of the candidates that nothing refers to. Whatever comes to refer to one meanwhile has claimed it.
    pub(super) async fn unreferenced(&mut self, mut candidates: Candidates) -> Result<Candidates, Ended> {
        let mut after = None;
        while !candidates.is_empty() {
            self.pace.step().await?;
            let page = self.shelves.store.artifact_blobs(after.as_ref(), limits::GC_BLOB_PAGE).await?;
            self.strike(&mut candidates, &page.blobs);
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        let mut after = None;
        while !candidates.is_empty() {
            self.pace.step().await?;
            let page = self.shelves.store.checkpoint_blobs(after, limits::GC_CHECKPOINT_PAGE).await?;
            self.strike(&mut candidates, &page.blobs);
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        let mut after = String::new();
        while !candidates.is_empty() {
            let page = self.shelves.store.snapshot_ids(&after, limits::GC_PAGE).await?;
            let Some(last) = page.last() else { break };
            after.clone_from(last);
            for id in page {
                self.pace.step().await?;
                if self.gone.as_ref().is_none_or(|gone| !gone.snapshots.contains(&id)) {
                    candidates = self.strike_snapshot(candidates, &id).await?;
                }
            }
        }
        Ok(candidates)
    }

    fn strike(&self, candidates: &mut Candidates, referred: &[(fetchml_api::AttemptId, String)]) {
        let gone = self.gone.as_ref();
        for (attempt, sha256) in referred {
            if gone.is_none_or(|gone| !gone.attempts.contains(attempt))
                && let Some(hash) = hash(sha256)
            {
                candidates.remove(&hash);
            }
        }
    }

    /// The manifest and all that it lists.
    async fn strike_snapshot(&self, mut candidates: Candidates, id: &str) -> Result<Candidates, Ended> {
        let name = hash_of(id).to_owned();
        let manifest = match self.shelves.blobs.read_whole(&name).await {
            Ok(manifest) => manifest,
            Err(object_store::Error::NotFound { .. }) => {
                // Without it nobody can reach its files either.
                tracing::warn!(snapshot = id, "the manifest of a snapshot is missing");
                return Ok(candidates);
            }
            Err(error) => return Err(error.into()),
        };
        let id = id.to_owned();
        let strike = move || {
            // What cannot be read may refer to anything: nothing is deleted then.
            let listed: Listed<'_> = serde_json::from_slice(&manifest)
                .map_err(|error| Ended::Failed(format!("the manifest of snapshot {id} cannot be read: {error}")))?;
            for sha256 in listed.entries.iter().filter_map(|entry| entry.sha256.as_deref()).chain([&*name]) {
                if let Some(hash) = hash(sha256) {
                    candidates.remove(&hash);
                }
            }
            Ok(candidates)
        };
        tokio::task::spawn_blocking(strike).await.map_err(|error| Ended::Failed(error.to_string()))?
    }

    /// Deletes those that still nobody claimed.
    pub(super) async fn discard(&mut self, orphans: Candidates, before: Micros) -> Result<(), Ended> {
        for (hash, size) in orphans {
            if self.gone.is_some() {
                self.tally().add(GcKind::Blobs, (1, size));
                continue;
            }
            self.pace.step().await?;
            if let Some(bytes) = self.shelves.blobs.discard(&hex::encode(hash), before).await? {
                self.tally().add(GcKind::Blobs, (1, bytes));
            }
        }
        Ok(())
    }
}

fn hash(sha256: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    hex::decode_to_slice(sha256, &mut bytes).ok().map(|()| bytes)
}
