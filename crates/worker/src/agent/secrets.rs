//! The secrets of an attempt on this worker: asked of the server when user code is about to start, held in
//! memory only. An agent that was restarted asks again, for the same values, before it shows anything of the log.

use crate::{
    agent::{
        artifacts,
        attempt::{Begin, Runner, Workshop, outcome_of_stop, stopped},
    },
    limits,
    redact::Redactor,
};
use fetchml_api::{
    AttemptSecret, AttemptSecrets, AttemptSecretsRequest, FailureCause,
    link::{Assignment, Outcome},
};
use fetchml_client::ClientError;
use std::sync::Arc;
use tokio_util::task::AbortOnDropHandle;

/// What is to be hidden, on its way to be known again.
pub(crate) type Learning = AbortOnDropHandle<Option<Arc<Redactor>>>;

impl Runner {
    /// Learns what an earlier agent knew of the secrets, while the process runs on.
    pub(crate) fn learn_secrets(&self, begin: &Begin) -> Option<Learning> {
        let known_later = matches!(begin, Begin::Staging) || self.assignment.spec.secrets.is_empty();
        let learn = || tokio::spawn(learn(Arc::clone(&self.shop), Arc::clone(&self.assignment)));
        (!known_later).then(|| AbortOnDropHandle::new(learn()))
    }

    /// Its secrets, as they are now; from here on they are hidden in its log.
    pub(crate) async fn take_secrets(&mut self) -> Result<Vec<AttemptSecret>, Outcome> {
        if self.assignment.spec.secrets.is_empty() {
            return Ok(Vec::new());
        }
        let given = tokio::select! {
            given = ask(&self.shop, &self.assignment) => given?,
            stop = stopped(&mut self.orders) => return Err(outcome_of_stop(stop)),
        };
        hide(&self.shop, &self.assignment, given.redactor.as_ref()).await;
        self.redactor = given.redactor;
        Ok(given.values)
    }

    /// Hides them in what is told, whatever it was made from.
    pub(crate) fn hide_secrets(&self, outcome: &mut Outcome) {
        if let (Some(redactor), Some(error)) = (&self.redactor, &mut outcome.error) {
            *error = redactor.text(error);
        }
    }
}

/// What an attempt was given.
#[derive(Debug)]
struct Given {
    /// For its environment.
    values: Vec<AttemptSecret>,
    /// What keeps them out of all that leaves the worker; absent when none can be recognised.
    redactor: Option<Arc<Redactor>>,
}

/// Asks for the secrets of an attempt whose task names any; waits while the server is away.
///
/// # Errors
/// It will not be given them.
async fn ask(shop: &Workshop, assignment: &Assignment) -> Result<Given, Outcome> {
    let holder = AttemptSecretsRequest { worker_id: shop.worker_id, epoch: assignment.epoch };
    let mut pause = limits::UPLOAD_RETRY_FIRST;
    let AttemptSecrets { secrets: values } = loop {
        match shop.client.attempt_secrets(assignment.spec.id, assignment.attempt, &holder).await {
            Ok(given) => break given,
            Err(error) if may_pass(&error) => {
                tracing::debug!(attempt = %assignment.attempt, %error, "no secrets yet");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(limits::UPLOAD_RETRY_MAX);
            }
            Err(error) => return Err(refused(&error)),
        }
    };
    let named = values.clone();
    // Takes a moment for long values.
    let redactor =
        tokio::task::spawn_blocking(move || Redactor::new(named.iter().map(|secret| secret.value.expose()))).await;
    // It does not panic; if it did, nothing would be shown.
    let redactor = redactor.unwrap_or_else(|_| Some(Redactor::everything()));
    Ok(Given { values, redactor: redactor.map(Arc::new) })
}

/// Learns again what an attempt that an earlier agent started was given, so that its log can go on. When that cannot
/// be known any more, nothing of the log is shown.
async fn learn(shop: Arc<Workshop>, assignment: Arc<Assignment>) -> Option<Arc<Redactor>> {
    let redactor = match ask(&shop, &assignment).await {
        Ok(given) => given.redactor,
        Err(outcome) => {
            let why = outcome.error.unwrap_or_default();
            tracing::warn!(attempt = %assignment.attempt, why, "its secrets are not known any more: its log is hidden");
            Some(Arc::new(Redactor::everything()))
        }
    };
    hide(&shop, &assignment, redactor.as_ref()).await;
    redactor
}

/// From here on they are hidden in what is sent of the attempt's files.
async fn hide(shop: &Workshop, assignment: &Assignment, redactor: Option<&Arc<Redactor>>) {
    for stream in [&shop.logs, &shop.metrics] {
        stream.redact(assignment.attempt, redactor.cloned()).await;
    }
}

/// Whether asking again may help: the server, a proxy, the network or the link is at fault. A key that is not accepted
/// ends the agent by itself.
fn may_pass(error: &ClientError) -> bool {
    let not_the_servers = matches!(error, ClientError::Protocol { .. } | ClientError::Api { status: 401, .. });
    error.is_transient() || artifacts::is_server_fault(error) || not_the_servers
}

fn refused(error: &ClientError) -> Outcome {
    let (cause, transient, told) = match error {
        ClientError::Api { status: 422, error, .. } if !error.details.is_empty() => {
            let problems: Vec<&str> = error.details.iter().map(|problem| problem.problem.as_str()).collect();
            (FailureCause::Secret, false, format!("{}; then submit the task again", problems.join("; ")))
        }
        error => {
            let told = format!("this worker was not given the secrets of the task: {error}");
            (FailureCause::Launch, true, told)
        }
    };
    Outcome { cause: Some(cause), transient, error: Some(told), ..Outcome::default() }
}
