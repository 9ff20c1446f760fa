//! Deleting the logs of a task, wherever they are.

use super::{LogError, LogId, Logs, blocking, task_logs};
use fetchml_api::TaskId;
use futures_util::TryStreamExt as _;
use object_store::{ObjectMeta, ObjectStoreExt as _, path::Path as ObjectPath};
use std::{fs, io};

impl Logs {
    /// Number and bytes of the logs of a task.
    ///
    /// # Errors
    /// The file system or object store failed.
    pub(crate) async fn measure(&self, task: TaskId) -> Result<(u64, u64), LogError> {
        let objects = self.objects_of(task).await?;
        let mut sum = (objects.len() as u64, objects.iter().map(|object| object.size).sum());
        for id in self.files_of(task).await? {
            let length = fs::metadata(self.path(id)).map_or(0, |metadata| metadata.len());
            sum = (sum.0 + 1, sum.1 + length);
        }
        Ok(sum)
    }

    /// Deletes the logs of a task that has ended; what a worker may still send of them is dropped. Repeating it is
    /// harmless.
    ///
    /// # Errors
    /// The file system or object store failed; some of it may be left.
    pub(crate) async fn remove(&self, task: TaskId) -> Result<(), LogError> {
        let mut ids = self.files_of(task).await?;
        ids.extend(self.lock_live().keys().filter(|id| id.task == task).copied());
        for id in ids {
            let path = self.path(id);
            let remove = async || blocking(move || if_there(fs::remove_file(path))).await;
            // A log that is being moved is waited for.
            self.live(id).discard(remove).await?;
            self.lock_live().remove(&id);
        }
        for object in self.objects_of(task).await? {
            match self.0.objects.delete(&object.location).await {
                Err(object_store::Error::NotFound { .. }) | Ok(()) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let dir = self.0.root.join(task.to_string());
        // It is there only if logs were, and not empty only if another one came.
        blocking(move || fs::remove_dir(dir).or(Ok(()))).await?;
        Ok(())
    }

    async fn files_of(&self, task: TaskId) -> io::Result<Vec<LogId>> {
        let dir = self.0.root.join(task.to_string());
        blocking(move || task_logs(&dir, task)).await
    }

    async fn objects_of(&self, task: TaskId) -> object_store::Result<Vec<ObjectMeta>> {
        let prefix = ObjectPath::from(format!("{}/{task}", self.0.place));
        self.0.objects.list(Some(&prefix)).try_collect().await
    }
}

fn if_there(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
