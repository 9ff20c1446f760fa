//! The JSON operations: tasks, queue, workers, keys, health, and waiting for a task.

use crate::{
    blob::ByteStream,
    connection::{Client, Repeat, encode_path},
    error::ClientError,
    limits,
};
use fetchml_api::{
    ArtifactList, AttemptId, AttemptSecrets, AttemptSecretsRequest, Checkpoint, CheckpointFiles, CreateDatasetRequest,
    CreateExperimentRequest, CreateKeyRequest, CreateReservationRequest, CreateTaskRequest, CreateWebhookRequest,
    CreatedKey, CreatedWebhook, DatasetList, EditExperimentRequest, Experiment, ExperimentId, ExperimentStatus,
    Explanation, GcReport, GcStatus, HealthResponse, KeyId, KeyInfo, KeyList, PriorityRequest, PutSecretRequest,
    QueueStats, Quota, QuotaInfo, QuotaList, QuotaScope, RegisteredDataset, Reservation, ReservationId, RunManifest,
    SchedulerStatus, SecretInfo, SecretList, SecretText, StoredSecret, Task, TaskArray, TaskId, TaskList,
    TaskListQuery, TaskStatus, UsageReport, Webhook, WebhookId, WebhookList, Whoami, Worker, WorkerId,
};
use reqwest::{Method, header::RANGE};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::ops::Range;
use tokio::time::Instant;

const NO_QUERY: &[(&str, &str)] = &[];

fn quota_path(scope: &QuotaScope) -> String {
    match scope {
        QuotaScope::Role(role) => format!("/v1/admin/quotas/roles/{}", role.as_str()),
        QuotaScope::User(user) => format!("/v1/admin/quotas/users/{}", encode_path(user)),
    }
}

impl Client {
    /// How the server is. An unhealthy server's answer is an answer, not an error.
    pub async fn health(&self) -> Result<HealthResponse, ClientError> {
        let response = self
            .request(Method::GET, "/health")
            .timeout(limits::CONNECT_TIMEOUT)
            .send()
            .await
            .map_err(|error| ClientError::transport(self.url(), &error))?;
        self.read_json(response).await
    }

    /// Submits a task. With `strict`, fields the server does not know are an error instead of a warning.
    pub async fn submit(&self, request: &CreateTaskRequest, strict: bool) -> Result<Task, ClientError> {
        // One key for all tries of this call: a repeat is answered with the first task.
        let key = uuid::Uuid::new_v4().to_string();
        let response = self
            .send(Repeat::Idempotent, || {
                self.request(Method::POST, "/v1/tasks")
                    .query(if strict { &[("strict", "true")][..] } else { NO_QUERY })
                    .header("idempotency-key", &key)
                    .timeout(limits::ANSWER_TIMEOUT)
                    .json(request)
            })
            .await?;
        self.read_json(response).await
    }

    /// What would become of a task if it were submitted now. Nothing is created.
    pub async fn submit_dry_run(&self, request: &CreateTaskRequest, strict: bool) -> Result<Explanation, ClientError> {
        let query = [("dry_run", true), ("strict", strict)];
        let request =
            || self.request(Method::POST, "/v1/tasks").query(&query).timeout(limits::ANSWER_TIMEOUT).json(request);
        let response = self.send(Repeat::Idempotent, request).await?;
        self.read_json(response).await
    }

    /// Why a task has not started.
    pub async fn explain(&self, id: TaskId) -> Result<Explanation, ClientError> {
        self.get_json(&format!("/v1/tasks/{id}/explain"), NO_QUERY).await
    }

    /// One task, with the end of its log.
    pub async fn task(&self, id: TaskId) -> Result<Task, ClientError> {
        self.get_json(&format!("/v1/tasks/{id}"), NO_QUERY).await
    }

    /// Submits a task again, with changes: a JSON merge patch of the request.
    pub async fn rerun(&self, id: TaskId, changes: &Map<String, Value>) -> Result<Task, ClientError> {
        let path = format!("/v1/tasks/{id}/rerun");
        let request = || self.request(Method::POST, &path).timeout(limits::ANSWER_TIMEOUT).json(changes);
        let response = self.send(Repeat::OnlyIfRefused, request).await?;
        self.read_json(response).await
    }

    /// How a run came about; of the latest attempt unless told its number.
    pub async fn run_manifest(&self, id: TaskId, attempt: Option<u32>) -> Result<RunManifest, ClientError> {
        self.get_json(&format!("/v1/tasks/{id}/manifest"), &[("attempt", attempt)]).await
    }

    /// A page of tasks, newest first.
    pub async fn tasks(&self, query: &TaskListQuery) -> Result<TaskList, ClientError> {
        let metadata: Vec<_> = query.metadata.iter().map(|(key, value)| (format!("metadata.{key}"), value)).collect();
        let request =
            || self.request(Method::GET, "/v1/tasks").query(query).query(&metadata).timeout(limits::ANSWER_TIMEOUT);
        let response = self.send(Repeat::Idempotent, request).await?;
        self.read_json(response).await
    }

    /// Asks to cancel a task; repeating it changes nothing. An ended task is not hidden by this: the caller
    /// looks first, because the same operation hides ended tasks.
    pub async fn cancel(&self, id: TaskId) -> Result<(), ClientError> {
        self.delete(id, false).await
    }

    /// Cancels a task that is not over, hides one that is. `purge` hides a cancelled one too.
    pub async fn delete(&self, id: TaskId, purge: bool) -> Result<(), ClientError> {
        let query: &[_] = if purge { &[("purge", "true")] } else { NO_QUERY };
        self.delete_path(&format!("/v1/tasks/{id}"), query).await
    }

    /// An array, its tasks counted; none when there is none.
    pub async fn array(&self, id: TaskId) -> Result<Option<TaskArray>, ClientError> {
        match self.get_json(&format!("/v1/arrays/{id}"), NO_QUERY).await {
            Err(ClientError::Api { status: 404, .. }) => Ok(None),
            other => other.map(Some),
        }
    }

    /// Asks to cancel all tasks of an array that have not ended; repeating it changes nothing.
    pub async fn array_cancel(&self, id: TaskId) -> Result<(), ClientError> {
        self.delete_path(&format!("/v1/arrays/{id}"), NO_QUERY).await
    }

    /// Counts over the queue.
    pub async fn queue(&self) -> Result<QueueStats, ClientError> {
        self.get_json("/v1/queue", NO_QUERY).await
    }

    /// Queue depths, workers and what runs.
    pub async fn status(&self) -> Result<SchedulerStatus, ClientError> {
        self.get_json("/v1/scheduler/status", NO_QUERY).await
    }

    /// One worker.
    pub async fn worker(&self, id: WorkerId) -> Result<Worker, ClientError> {
        self.get_json(&format!("/v1/scheduler/workers/{id}"), NO_QUERY).await
    }

    /// The workers.
    pub async fn workers(&self) -> Result<Vec<Worker>, ClientError> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Answer {
            Bare(Vec<Worker>),
            Wrapped { workers: Vec<Worker> },
        }
        Ok(match self.get_json("/v1/scheduler/workers", NO_QUERY).await? {
            Answer::Bare(workers) | Answer::Wrapped { workers } => workers,
        })
    }

    /// Who the key of this client makes it.
    pub async fn whoami(&self) -> Result<Whoami, ClientError> {
        self.get_json("/v1/whoami", NO_QUERY).await
    }

    /// All keys, without their secrets.
    pub async fn keys_list(&self) -> Result<Vec<KeyInfo>, ClientError> {
        let list: KeyList = self.get_json("/v1/keys", NO_QUERY).await?;
        Ok(list.keys)
    }

    /// Makes a key; its secret is in the answer and nowhere else.
    pub async fn keys_create(&self, request: &CreateKeyRequest) -> Result<CreatedKey, ClientError> {
        let response = self
            .send(Repeat::OnlyIfRefused, || {
                self.request(Method::POST, "/v1/keys").timeout(limits::ANSWER_TIMEOUT).json(request)
            })
            .await?;
        self.read_json(response).await
    }

    /// Makes a key useless.
    pub async fn keys_revoke(&self, id: &KeyId) -> Result<(), ClientError> {
        self.delete_path(&format!("/v1/keys/{}", encode_path(&id.0)), NO_QUERY).await
    }

    /// Another priority for a task that has not ended.
    pub async fn priority_set(&self, id: TaskId, priority: i32) -> Result<Task, ClientError> {
        let path = format!("/v1/scheduler/jobs/{id}/priority");
        let request = PriorityRequest { priority };
        let response = self
            .send(Repeat::Idempotent, || {
                self.request(Method::PATCH, &path).timeout(limits::ANSWER_TIMEOUT).json(&request)
            })
            .await?;
        self.read_json(response).await
    }

    /// Lets a worker take nothing new. `force` also stops what it runs; `declare_dead` says that the machine is dead
    /// for certain.
    pub async fn worker_drain(&self, id: WorkerId, force: bool, declare_dead: bool) -> Result<(), ClientError> {
        let query = [("force", force), ("declare_dead", declare_dead)];
        self.delete_path(&format!("/v1/scheduler/workers/{id}"), &query).await
    }

    /// Lets a drained worker take work again.
    pub async fn worker_undrain(&self, id: WorkerId) -> Result<(), ClientError> {
        let path = format!("/v1/scheduler/workers/{id}/undrain");
        let request = || self.request(Method::POST, &path).timeout(limits::ANSWER_TIMEOUT);
        self.send(Repeat::Idempotent, request).await.map(drop)
    }

    /// What was used and is held: everybody's, or one user's.
    pub async fn usage(&self, user: Option<&str>) -> Result<UsageReport, ClientError> {
        let query: Vec<_> = user.map(|user| ("user_id", user)).into_iter().collect();
        self.get_json("/v1/usage", &query).await
    }

    /// All quotas.
    pub async fn quotas(&self) -> Result<QuotaList, ClientError> {
        self.get_json("/v1/admin/quotas", NO_QUERY).await
    }

    /// Sets a quota in place of what was set before.
    pub async fn quota_put(&self, scope: &QuotaScope, quota: &Quota) -> Result<QuotaInfo, ClientError> {
        let path = quota_path(scope);
        let request = || self.request(Method::PUT, &path).timeout(limits::ANSWER_TIMEOUT).json(quota);
        let response = self.send(Repeat::Idempotent, request).await?;
        self.read_json(response).await
    }

    /// Takes back a quota that was set.
    pub async fn quota_delete(&self, scope: &QuotaScope) -> Result<(), ClientError> {
        self.delete_path(&quota_path(scope), NO_QUERY).await
    }

    /// Deletes what is not needed any more, or with `dry_run` says what would be deleted. The report says whether
    /// it still goes on.
    pub async fn gc(&self, dry_run: bool) -> Result<GcReport, ClientError> {
        let query: &[_] = if dry_run { &[("dry_run", "true")] } else { NO_QUERY };
        let request = || self.request(Method::POST, "/v1/admin/gc").query(query).timeout(limits::ANSWER_TIMEOUT);
        let response = self.send(Repeat::OnlyIfRefused, request).await?;
        self.read_json(response).await
    }

    /// How far the last collection is.
    pub async fn gc_status(&self) -> Result<GcStatus, ClientError> {
        self.get_json("/v1/admin/gc", NO_QUERY).await
    }

    /// All registered data sets, by name.
    pub async fn datasets(&self) -> Result<Vec<RegisteredDataset>, ClientError> {
        let list: DatasetList = self.get_json("/v1/datasets", NO_QUERY).await?;
        Ok(list.datasets)
    }

    /// A registered data set.
    pub async fn dataset(&self, name: &str) -> Result<RegisteredDataset, ClientError> {
        self.get_json(&dataset_path(name), NO_QUERY).await
    }

    /// Registers a data set. Doing it again changes nothing.
    pub async fn dataset_create(&self, request: &CreateDatasetRequest) -> Result<RegisteredDataset, ClientError> {
        let response = self
            .send(Repeat::Idempotent, || {
                self.request(Method::POST, "/v1/datasets").timeout(limits::ANSWER_TIMEOUT).json(request)
            })
            .await?;
        self.read_json(response).await
    }

    /// Forgets a registered data set.
    pub async fn dataset_delete(&self, name: &str) -> Result<(), ClientError> {
        self.delete_path(&dataset_path(name), NO_QUERY).await
    }

    /// All experiments of a status, newest first; none: all that are not deleted.
    pub async fn experiments(&self, status: Option<ExperimentStatus>) -> Result<Vec<Experiment>, ClientError> {
        let query: Vec<(&str, &str)> = status.iter().map(|status| ("status", status.as_str())).collect();
        self.get_json("/v1/experiments", &query).await
    }

    /// An experiment.
    pub async fn experiment(&self, id: ExperimentId) -> Result<Experiment, ClientError> {
        self.get_json(&format!("/v1/experiments/{id}"), NO_QUERY).await
    }

    /// Makes an experiment.
    pub async fn experiment_create(&self, request: &CreateExperimentRequest) -> Result<Experiment, ClientError> {
        let request = || self.request(Method::POST, "/v1/experiments").timeout(limits::ANSWER_TIMEOUT).json(request);
        let response = self.send(Repeat::OnlyIfRefused, request).await?;
        self.read_json(response).await
    }

    /// Changes an experiment.
    pub async fn experiment_edit(
        &self,
        id: ExperimentId,
        request: &EditExperimentRequest,
    ) -> Result<Experiment, ClientError> {
        let path = format!("/v1/experiments/{id}");
        let request = || self.request(Method::PATCH, &path).timeout(limits::ANSWER_TIMEOUT).json(request);
        let response = self.send(Repeat::Idempotent, request).await?;
        self.read_json(response).await
    }

    /// Webhooks: one's own; for admins all.
    pub async fn webhooks(&self) -> Result<Vec<Webhook>, ClientError> {
        let list: WebhookList = self.get_json("/v1/webhooks", NO_QUERY).await?;
        Ok(list.webhooks)
    }

    /// Makes a webhook.
    pub async fn webhook_create(&self, request: &CreateWebhookRequest) -> Result<CreatedWebhook, ClientError> {
        let request = || self.request(Method::POST, "/v1/webhooks").timeout(limits::ANSWER_TIMEOUT).json(request);
        let response = self.send(Repeat::OnlyIfRefused, request).await?;
        self.read_json(response).await
    }

    /// Deletes a webhook.
    pub async fn webhook_delete(&self, id: WebhookId) -> Result<(), ClientError> {
        self.delete_path(&format!("/v1/webhooks/{id}"), NO_QUERY).await
    }

    /// Reservations that are active or claimed.
    pub async fn reservations(&self) -> Result<Vec<Reservation>, ClientError> {
        self.get_json("/v1/scheduler/reservations", NO_QUERY).await
    }

    /// Sets GPUs aside. Unknown fields are refused.
    pub async fn reserve(&self, request: &CreateReservationRequest) -> Result<Reservation, ClientError> {
        let key = uuid::Uuid::new_v4().to_string();
        let response = self
            .send(Repeat::OnlyIfRefused, || {
                self.request(Method::POST, "/v1/scheduler/reservations?strict=true")
                    .header("idempotency-key", &key)
                    .timeout(limits::ANSWER_TIMEOUT)
                    .json(request)
            })
            .await?;
        self.read_json(response).await
    }

    /// Gives a reservation up.
    pub async fn release(&self, id: ReservationId) -> Result<(), ClientError> {
        self.delete_path(&format!("/v1/scheduler/reservations/{id}"), NO_QUERY).await
    }

    /// Own secrets, without their values.
    pub async fn secrets(&self) -> Result<Vec<SecretInfo>, ClientError> {
        let list: SecretList = self.get_json("/v1/secrets", NO_QUERY).await?;
        Ok(list.secrets)
    }

    /// Sets an own secret.
    pub async fn secret_put(&self, name: &str, value: SecretText) -> Result<StoredSecret, ClientError> {
        let path = format!("/v1/secrets/{}", encode_path(name));
        let request = PutSecretRequest { value };
        let response = self
            .send(Repeat::Idempotent, || {
                self.request(Method::PUT, &path).timeout(limits::ANSWER_TIMEOUT).json(&request)
            })
            .await?;
        self.read_json(response).await
    }

    /// Deletes an own secret.
    pub async fn secret_delete(&self, name: &str) -> Result<(), ClientError> {
        self.delete_path(&format!("/v1/secrets/{}", encode_path(name)), NO_QUERY).await
    }

    /// The secrets of an attempt, for the worker that holds it.
    pub async fn attempt_secrets(
        &self,
        task: TaskId,
        attempt: AttemptId,
        holder: &AttemptSecretsRequest,
    ) -> Result<AttemptSecrets, ClientError> {
        let path = format!("/v1/tasks/{task}/attempts/{attempt}/secrets");
        let request = || self.request(Method::POST, &path).timeout(limits::ANSWER_TIMEOUT).json(holder);
        let response = self.send(Repeat::Idempotent, request).await?;
        self.read_secret_json(response).await
    }

    /// The files a task left.
    pub async fn artifacts(&self, id: TaskId) -> Result<ArtifactList, ClientError> {
        self.get_json(&format!("/v1/tasks/{id}/artifacts"), NO_QUERY).await
    }

    /// The checkpoint of a task; none when it has written none.
    pub async fn checkpoint(&self, id: TaskId) -> Result<Option<Checkpoint>, ClientError> {
        match self.get_json(&format!("/v1/tasks/{id}/checkpoint"), NO_QUERY).await {
            Err(ClientError::Api { status: 404, .. }) => Ok(None),
            other => other.map(Some),
        }
    }

    /// Stores the checkpoint of an attempt, whose files are stored blobs. For workers.
    pub async fn checkpoint_put(
        &self,
        task: TaskId,
        attempt: AttemptId,
        files: &CheckpointFiles,
    ) -> Result<(), ClientError> {
        let path = format!("/v1/tasks/{task}/attempts/{attempt}/checkpoint");
        let request = || self.request(Method::PUT, &path).timeout(limits::ANSWER_TIMEOUT * 5).json(files);
        self.send(Repeat::Idempotent, request).await?;
        Ok(())
    }

    /// The bytes of one artifact, or of a part of it (`range`, bytes).
    pub async fn artifact_get(
        &self,
        id: TaskId,
        path: &str,
        range: Option<Range<u64>>,
    ) -> Result<ByteStream, ClientError> {
        let path = format!("/v1/tasks/{id}/artifacts/{}", encode_path(path));
        self.get_bytes(&path, NO_QUERY, range).await
    }

    /// The task as soon as its status is another than `known`; if it stays the same, after [`limits::TASK_WAIT`].
    /// From a server that cannot wait, at once.
    pub async fn task_other_than(&self, id: TaskId, known: TaskStatus) -> Result<Task, ClientError> {
        let wait = format!("{}s", limits::TASK_WAIT.as_secs());
        self.get_json(&format!("/v1/tasks/{id}"), &[("wait", wait.as_str()), ("known", known.as_str())]).await
    }

    /// Waits until a task is over, through restarts of the server of up to [`limits::OUTAGE_MAX`].
    /// `changed` sees the task at first and each time its status, attempt or retry count is another.
    pub async fn wait(&self, id: TaskId, mut changed: impl FnMut(&Task)) -> Result<Task, ClientError> {
        let (shortest, longest) = limits::POLL_DELAY;
        let mut delay = shortest;
        let mut last: Option<(TaskStatus, Option<AttemptId>, _, _)> = None;
        let mut silent_since: Option<Instant> = None;
        loop {
            let asked = Instant::now();
            let answer = match last {
                None => self.task(id).await,
                Some((known, ..)) => self.task_other_than(id, known).await,
            };
            match answer {
                Ok(task) => {
                    silent_since = None;
                    let state = (task.status, task.attempt_id, task.retry_count, task.requeue_count);
                    let is_new = last != Some(state);
                    if is_new {
                        changed(&task);
                        last = Some(state);
                        delay = shortest;
                    }
                    if task.status.is_terminal() {
                        return Ok(task);
                    }
                    if is_new || asked.elapsed() >= limits::TASK_WAIT {
                        continue;
                    }
                }
                Err(error) if error.is_transient() => {
                    let since = *silent_since.get_or_insert_with(Instant::now);
                    // Never seen it at all: the caller should hear of it now, not in ten minutes.
                    if last.is_none() || since.elapsed() > limits::OUTAGE_MAX {
                        return Err(error);
                    }
                }
                Err(error) => return Err(error),
            }
            tokio::time::sleep(delay).await;
            delay = (delay * 3 / 2).min(longest);
        }
    }

    /// Sends a GET whose answer is bytes, not JSON.
    pub(crate) async fn get_bytes(
        &self,
        path: &str,
        query: &[(&str, &str)],
        range: Option<Range<u64>>,
    ) -> Result<ByteStream, ClientError> {
        if range.as_ref().is_some_and(Range::is_empty) {
            return Ok(ByteStream::empty());
        }
        let response = self
            .send(Repeat::Idempotent, || {
                let request = self.request(Method::GET, path).query(query);
                match &range {
                    Some(range) if range.end == u64::MAX => request.header(RANGE, format!("bytes={}-", range.start)),
                    Some(range) => request.header(RANGE, format!("bytes={}-{}", range.start, range.end - 1)),
                    None => request,
                }
            })
            .await?;
        if range.is_some_and(|range| range.start > 0) && response.status() != reqwest::StatusCode::PARTIAL_CONTENT {
            return Err(self.protocol("the whole file instead of the part asked for"));
        }
        Ok(ByteStream::of(self.url(), response))
    }
}

fn dataset_path(name: &str) -> String {
    // A slash would lead to another path.
    format!("/v1/datasets/{}", encode_path(name).replace('/', "%2F"))
}
