//! Ended tasks: their files, then they themselves, then the snapshots that no task names any more.

use super::{
    Ended,
    pass::{Gone, Pass},
};
use crate::{auth::wall_clock, limits};
use fetchml_api::{AuditDraft, AuditKind, CollectReason, GcKind, Micros, TaskId};
use fetchml_store::{Collect, Holdings, Past, PastTask, StoreError, Write};
use std::collections::BTreeMap;

/// An event of the collector's own.
pub(super) fn event(kind: AuditKind, action: &str, resource: String, metadata: &[(&str, String)]) -> AuditDraft {
    AuditDraft {
        at: wall_clock(),
        kind,
        user_id: "system".into(),
        resource,
        action: action.into(),
        success: true,
        ip_address: None,
        error: None,
        metadata: metadata.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect::<BTreeMap<_, _>>(),
    }
}

impl Pass<'_> {
    /// Goes on where a collection was cut off.
    pub(super) async fn finish_begun(&mut self) -> Result<(), Ended> {
        let mut after = None;
        loop {
            let begun = self.shelves.store.collected_in_part(after, limits::GC_PAGE).await?;
            let Some(last) = begun.last() else { return Ok(()) };
            after = Some(*last);
            for task in begun {
                let holdings = self.shelves.store.holdings(task).await?;
                self.clear(task, &holdings).await?;
            }
        }
    }

    /// The files of tasks that ended, or were deleted, before an instant.
    pub(super) async fn collect_files(&mut self, which: Past, before: Micros, why: CollectReason) -> Result<(), Ended> {
        self.collect_until(which, before, why, u64::MAX).await.map(drop)
    }

    /// The same, oldest first, until `wanted` bytes went; returns how many did.
    pub(super) async fn collect_until(
        &mut self,
        which: Past,
        before: Micros,
        why: CollectReason,
        wanted: u64,
    ) -> Result<u64, Ended> {
        let mut after: Option<PastTask> = None;
        let mut went = 0_u64;
        loop {
            let page = self.shelves.store.past_tasks(which, before, after.as_ref(), limits::GC_PAGE).await?;
            let Some(last) = page.last() else { return Ok(went) };
            after = Some(last.clone());
            for task in page {
                if went >= wanted {
                    return Ok(went);
                }
                went = went.saturating_add(self.collect_task(&task, why).await?.unwrap_or(0));
            }
        }
    }

    /// The files of one task, unless something that lives needs them; returns their bytes.
    async fn collect_task(&mut self, task: &PastTask, reason: CollectReason) -> Result<Option<u64>, Ended> {
        self.pace.step().await?;
        let holdings = self.shelves.store.holdings(task.id).await?;
        let logs = self.shelves.logs.measure(task.id).await?;
        let metrics = self.shelves.metrics.measure(task.id).await?;
        let all = [logs, metrics, holdings.artifacts, holdings.checkpoints];
        let bytes = all.iter().fold(0_u64, |sum, (_, bytes)| sum.saturating_add(*bytes));
        if !self.begin(task, reason, &holdings, bytes).await? {
            return Ok(None);
        }
        {
            let mut tally = self.tally();
            tally.add(GcKind::Logs, logs);
            tally.add(GcKind::Metrics, metrics);
            tally.add(GcKind::Artifacts, holdings.artifacts);
            tally.add(GcKind::Checkpoints, holdings.checkpoints);
            tally.add_task_files(task.id, &task.user_id, task.since, bytes);
        }
        if self.gone.is_none() {
            self.clear(task.id, &holdings).await?;
        }
        Ok(Some(bytes))
    }

    /// Decides that the files of a task go. False: something needs them.
    async fn begin(
        &mut self,
        task: &PastTask,
        reason: CollectReason,
        holdings: &Holdings,
        bytes: u64,
    ) -> Result<bool, Ended> {
        let used_before = self.claimed_before;
        if let Some(gone) = &mut self.gone {
            if gone.tasks.len() == limits::GC_DRY_RUN_TASKS {
                return Err(Ended::Failed(format!("only the {} oldest tasks are counted", limits::GC_DRY_RUN_TASKS)));
            }
            let goes =
                !gone.tasks.contains(&task.id) && self.shelves.store.is_collectable(task.id, used_before).await?;
            if goes {
                gone.tasks.insert(task.id);
                gone.attempts.extend(holdings.attempts.iter().map(|(attempt, _)| *attempt));
            }
            return Ok(goes);
        }
        let metadata = [("reason", reason.as_str().to_owned()), ("bytes", bytes.to_string())];
        let audit = event(AuditKind::FileAccess, "files_collect", format!("tasks/{}", task.id), &metadata);
        let begin = Collect::Begin { task: task.id, at: self.at, reason, used_before };
        self.take(vec![Write::Collect(begin), Write::Audit(audit)]).await
    }

    /// Deletes what was decided to go: rows in small steps, then logs and metrics. The blobs are found later by nothing referring
    /// to them.
    async fn clear(&mut self, task: TaskId, holdings: &Holdings) -> Result<(), Ended> {
        for (attempt, count) in &holdings.attempts {
            for _ in 0..count.div_ceil(u64::from(limits::GC_ROWS)) {
                self.pace.step().await?;
                let step = Collect::Artifacts { task, attempt: *attempt, rows: limits::GC_ROWS };
                self.take(vec![Write::Collect(step)]).await?;
            }
        }
        self.pace.step().await?;
        self.shelves.logs.remove(task).await?;
        self.shelves.metrics.remove(task).await?;
        self.pace.step().await?;
        self.take(vec![Write::Collect(Collect::End { task })]).await.map(drop)
    }

    /// Tasks that ended before an instant go from lists. Only those whose files are gone.
    pub(super) async fn purge_tasks(&mut self, before: Micros) -> Result<(), Ended> {
        let mut after: Option<PastTask> = None;
        loop {
            let page = self.shelves.store.past_tasks(Past::All, before, after.as_ref(), limits::GC_PAGE).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.clone());
            for task in page {
                if self.purge_task(&task).await? {
                    self.tally().add(GcKind::Tasks, (1, 0));
                }
            }
        }
    }

    async fn purge_task(&mut self, task: &PastTask) -> Result<bool, Ended> {
        self.pace.step().await?;
        if let Some(gone) = &mut self.gone {
            let goes = gone.tasks.contains(&task.id) || self.shelves.store.collected(task.id).await?.is_some();
            if let (true, Some(snapshot)) = (goes, &task.snapshot_id) {
                *gone.named.entry(snapshot.clone()).or_default() += 1;
            }
            return Ok(goes);
        }
        let audit = event(AuditKind::JobCompleted, "purge", format!("tasks/{}", task.id), &[]);
        self.take(vec![Write::Collect(Collect::Task { task: task.id }), Write::Audit(audit)]).await
    }

    /// Snapshots that no task names, and that nobody was told of for a while.
    pub(super) async fn delete_snapshots(&mut self) -> Result<(), Ended> {
        let mut after = String::new();
        loop {
            let unused = self.shelves.store.snapshots_unused(self.claimed_before, &after, limits::GC_PAGE).await?;
            let Some(last) = unused.last() else { break };
            after.clone_from(&last.id);
            for snapshot in unused {
                self.pace.step().await?;
                let went = match &mut self.gone {
                    Some(gone) => gone.snapshots.insert(snapshot.id.clone()),
                    None => self.delete_snapshot(&snapshot.id).await?,
                };
                if went {
                    self.tally().add(GcKind::Snapshots, (1, snapshot.size_bytes));
                }
            }
        }
        if let Some(mut gone) = self.gone.take() {
            let counted = self.count_snapshots(&mut gone).await;
            self.gone = Some(gone);
            counted?;
        }
        Ok(())
    }

    async fn delete_snapshot(&mut self, id: &str) -> Result<bool, Ended> {
        let audit = event(AuditKind::FileAccess, "snapshot_collect", format!("snapshots/{id}"), &[]);
        let delete = Collect::Snapshot { id: id.to_owned(), used_before: self.claimed_before };
        self.take(vec![Write::Collect(delete), Write::Audit(audit)]).await
    }

    /// Snapshots that are named only by tasks that would go.
    async fn count_snapshots(&mut self, gone: &mut Gone) -> Result<(), Ended> {
        for (id, named) in &gone.named {
            self.pace.step().await?;
            let Some(snapshot) = self.shelves.store.snapshot(id).await? else { continue };
            if snapshot.used_at < self.claimed_before && self.shelves.store.snapshot_tasks(id).await? == *named {
                gone.snapshots.insert(id.clone());
                self.tally().add(GcKind::Snapshots, (1, snapshot.size_bytes));
            }
        }
        Ok(())
    }

    /// Commits a step. False: it is not so any more, and nothing was written.
    async fn take(&self, writes: Vec<Write>) -> Result<bool, Ended> {
        match self.shelves.store.commit(writes).await {
            Ok(_) => Ok(true),
            Err(StoreError::Data(why)) => {
                tracing::debug!(why, "something is kept");
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }
}
