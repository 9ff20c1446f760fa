//! The secrets of users: set, listed without values, and given to attempts. Values are sealed before they
//! reach the store, and opened only for a worker that holds an attempt whose task names them.
//!
//! An attempt that asks for the first time is bound to the current values, and is given the same ones
//! again however often it asks and whatever was set or deleted since: its worker needs them after a
//! restart too, to keep them out of its log.

mod seal;

use crate::{
    app::file_access,
    auth::{Caller, wall_clock},
    data_dir::DataDir,
    error::AppError,
    server::StartError,
};
use fetchml_api::{
    AttemptRecord, AttemptSecret, AttemptSecrets, Problem, SecretInfo, SecretRecord, SecretText, TaskSpec,
    limits::{TASK_SECRETS_BYTES, USER_SECRETS},
};
use fetchml_store::{SecretHead, Store, Write};
use seal::{OpenError, SealKeys};
use tokio::sync::Mutex;

/// The secrets.
pub struct Secrets {
    store: Store,
    keys: SealKeys,
    /// One is set at a time, so that counting them and adding one is one step.
    setting: Mutex<()>,
}

impl Secrets {
    /// Reads the keys, or makes the first one.
    ///
    /// # Errors
    /// The key file or the store cannot be used.
    pub async fn load(store: Store, data_dir: &DataDir) -> Result<Self, StartError> {
        let used = store.secret_key_last().await?;
        Ok(Self { keys: SealKeys::load(data_dir, used)?, store, setting: Mutex::new(()) })
    }

    /// The caller's own, by name.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn list(&self, caller: &Caller) -> Result<Vec<SecretInfo>, AppError> {
        Ok(self.store.secrets(&caller.user_id).await?.into_iter().map(|head| head.info).collect())
    }

    /// Sets a secret of the caller; the second value says whether there was none of that name.
    ///
    /// # Errors
    /// It has too many, or the store cannot be written.
    pub async fn set(&self, caller: &Caller, name: &str, value: &SecretText) -> Result<(SecretInfo, bool), AppError> {
        let _one = self.setting.lock().await;
        let known = self.store.secrets(&caller.user_id).await?;
        let before = known.iter().find(|head| head.info.name == name);
        if before.is_none() && known.len() >= USER_SECRETS {
            return Err(AppError::Conflict {
                error: format!("You have {USER_SECRETS} secrets, which is the most."),
                hint: Some("Delete one that is not needed any more.".into()),
            });
        }
        let now = wall_clock();
        let mut record = SecretRecord {
            id: uuid::Uuid::new_v4(),
            user_id: caller.user_id.clone(),
            name: name.to_owned(),
            created_at: before.map_or(now, |head| head.info.created_at),
            updated_at: now,
            key_version: 0,
            sealed: Vec::new(),
        };
        self.keys.seal(&mut record, value);
        let info = SecretInfo { name: record.name.clone(), created_at: record.created_at, updated_at: now };
        let audit = file_access(caller, "secret_set", resource(caller, name));
        self.store.commit(vec![Write::SecretPut(record), Write::Audit(audit)]).await?;
        Ok((info, before.is_none()))
    }

    /// Deletes a secret of the caller; whether there was one. Attempts that have its value keep it to their end.
    ///
    /// # Errors
    /// The store cannot be written.
    pub async fn delete(&self, caller: &Caller, name: &str) -> Result<bool, AppError> {
        let _one = self.setting.lock().await;
        if !self.store.secrets(&caller.user_id).await?.iter().any(|head| head.info.name == name) {
            return Ok(false);
        }
        let delete = Write::SecretDelete { user_id: caller.user_id.clone(), name: name.to_owned() };
        let audit = file_access(caller, "secret_delete", resource(caller, name));
        self.store.commit(vec![delete, Write::Audit(audit)]).await?;
        Ok(true)
    }

    /// What keeps a new task of this user from having the secrets it names.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn problems(&self, user_id: &str, names: &[String]) -> Result<Vec<Problem>, AppError> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let known = self.store.secrets(user_id).await?;
        let found = |name: &String| known.iter().find(|head| head.info.name == *name);
        let mut problems: Vec<_> = names
            .iter()
            .enumerate()
            .filter(|(_, name)| found(name).is_none())
            .map(|(i, name)| {
                let problem = format!("you have no secret {name}; set it with PUT /v1/secrets/{name}");
                Problem::new(format!("secrets[{i}]"), problem)
            })
            .collect();
        let bytes: usize = names.iter().filter_map(found).map(value_bytes).sum();
        problems.extend(too_many_bytes(bytes));
        Ok(problems)
    }

    /// Seals a value of the server's own into `record`, which no user's secret can stand in for: its name is none that
    /// a variable may have.
    pub(crate) fn seal(&self, record: &mut SecretRecord, value: &SecretText) {
        self.keys.seal(record, value);
    }

    /// What [`Secrets::seal`] sealed.
    ///
    /// # Errors
    /// Its key is not there any more, or it is not what was sealed.
    pub(crate) fn open(&self, record: &SecretRecord) -> Result<SecretText, OpenError> {
        self.keys.open(record)
    }

    /// The values for an attempt, asked for by the worker that holds it. Recorded before they are read.
    ///
    /// # Errors
    /// 422 when a secret is gone or cannot be read.
    pub async fn give(
        &self,
        caller: &Caller,
        spec: &TaskSpec,
        attempt: &AttemptRecord,
    ) -> Result<AttemptSecrets, AppError> {
        let resource = format!("tasks/{}/attempts/{}/secrets", spec.id, attempt.id);
        let mut audit = file_access(caller, "secrets_read", resource);
        audit.metadata.insert("names".to_owned(), spec.secrets.join(","));
        let bind =
            Write::SecretsBind { attempt: attempt.id, user_id: spec.user_id.clone(), names: spec.secrets.clone() };
        self.store.commit(vec![bind, Write::Audit(audit)]).await?;
        let records = self.store.attempt_secrets(attempt.id).await?;
        let mut secrets = Vec::with_capacity(records.len());
        let mut problems = Vec::new();
        for name in &spec.secrets {
            let opened = match records.iter().find(|record| record.name == *name) {
                Some(record) => self.keys.open(record).map_err(|error| {
                    tracing::error!(user = spec.user_id, name, %error, "a secret cannot be read");
                    format!("the secret {name} cannot be read any more; set it again")
                }),
                None => Err(format!("the secret {name} does not exist any more; set it again")),
            };
            match opened {
                Ok(value) => secrets.push(AttemptSecret { name: name.clone(), value }),
                Err(problem) => problems.push(Problem::new(format!("secrets.{name}"), problem)),
            }
        }
        problems.extend(too_many_bytes(secrets.iter().map(|secret| secret.value.expose().len()).sum()));
        if problems.is_empty() { Ok(AttemptSecrets { secrets }) } else { Err(AppError::Invalid(problems)) }
    }
}

fn resource(caller: &Caller, name: &str) -> String {
    format!("secrets/{}/{name}", caller.user_id)
}

fn value_bytes(head: &SecretHead) -> usize {
    (head.sealed_bytes as usize).saturating_sub(seal::OVERHEAD_BYTES)
}

fn too_many_bytes(bytes: usize) -> Option<Problem> {
    (bytes > TASK_SECRETS_BYTES).then(|| {
        let problem = format!("have {bytes} bytes together; at most {TASK_SECRETS_BYTES} are allowed for one task");
        Problem::new("secrets", problem)
    })
}
