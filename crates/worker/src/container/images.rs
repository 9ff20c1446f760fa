//! Bringing in the image that a task names: whether the worker's owner allows it, whether it is here, and the pull.
//!
//! An image that is here is used as it is. One whose tag is `latest`, or that has none, is looked up anew each time,
//! for its name says nothing about which it is; when the registry does not answer, the one that is here is used.

use super::{
    Containers,
    engine::{Engine, EngineError},
};
use crate::{
    limits,
    staging::{self, StageError},
};
use bollard::models::CreateImageInfo;
use fetchml_api::{FailureCause, ImageName};
use futures_util::StreamExt as _;
use serde::Serialize;
use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

/// The name of the record about an attempt's image in its directory.
pub const IMAGE_FILE: &str = "image.json";

/// An image that is here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Image {
    /// `sha256:<hex>` of its configuration: says on this machine exactly which it is.
    pub id: String,
    /// `<repository>@sha256:<hex>` under which registries have it.
    pub digests: Vec<String>,
    /// Variables that it sets, each `NAME=value`.
    pub env: Vec<String>,
    /// Whether it asks for a command to be run in it now and then.
    pub has_healthcheck: bool,
}

/// `image.json`: what a run's manifest says about its container.
#[derive(Debug, Serialize)]
struct Record<'a> {
    /// The name that was asked for, in full.
    image: &'a str,
    /// The digest under which a registry has it; the id where none does.
    digest: &'a str,
    /// The image's id.
    id: &'a str,
    /// Who ran it, such as `podman 5.4.2`.
    engine: &'a str,
}

/// Pulls that go on, by name: one at a time for each.
pub(super) type Pulls = Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>;

/// Who an image is brought in for.
#[derive(Clone, Copy, Debug)]
pub struct ImageRequest<'a> {
    /// Its name.
    pub name: &'a str,
    /// The attempt's directory, which gets the record.
    pub dir: &'a Path,
    /// The attempt's log, which shows how a pull goes.
    pub log: &'a Path,
    /// Ends a pull.
    pub cancel: &'a CancellationToken,
}

impl Containers {
    /// Brings an image in and records which it is.
    ///
    /// # Errors
    /// Cause `image`, final where the image is not allowed or does not exist; `launch` where the engine does not answer.
    pub async fn bring_in(&self, request: ImageRequest<'_>) -> Result<Image, StageError> {
        let name: ImageName = request.name.parse().map_err(|why: String| definite(why))?;
        let rules = self.rules();
        if !rules.allows(&name) {
            return Err(definite(format!(
                "the image {} is not allowed on this worker; its owner allows: {rules}. Ask for one of these, or ask \
                 the owner (--allow-images)",
                name.familiar()
            )));
        }
        let engine = self.engine().await.map_err(|error| silent(&error))?;
        let image = tokio::select! {
            image = self.find_or_pull(&engine, &name, request.log) => image?,
            () = request.cancel.cancelled() => return Err(cancelled()),
        };
        let digest = image.digest_in(&name.repository());
        let record = Record { image: &name.to_string(), digest, id: &image.id, engine: &self.engine_name() };
        let file = request.dir.join(IMAGE_FILE);
        serde_json::to_vec(&record)
            .map_err(Into::into)
            .and_then(|json| fs::write(&file, json))
            .map_err(|error| StageError::local(FailureCause::Image, &file, &error))?;
        note(request.log, &format!("image {}: {digest}", name.familiar()))?;
        Ok(image)
    }

    async fn find_or_pull(&self, engine: &Engine, name: &ImageName, log: &Path) -> Result<Image, StageError> {
        let full = name.to_string();
        let look = async || engine.image(&full).await.map_err(|error| silent(&error));
        let mut here = look().await?;
        if let (None, Some(digest)) = (&here, name.digest()) {
            // Of an image that no registry has, its id is all there is.
            here = engine.image(digest).await.map_err(|error| silent(&error))?;
        }
        let shown = name.familiar();
        match here {
            Some(image) if !name.is_latest() || name.is_local() => return Ok(image),
            None if name.is_local() => {
                return Err(definite(format!(
                    "there is no image {shown} on this worker, and localhost/ names images that no registry has"
                )));
            }
            _ => {}
        }
        let turn =
            Arc::clone(self.pulls().lock().unwrap_or_else(PoisonError::into_inner).entry(full.clone()).or_default());
        let _turn = if let Ok(turn) = turn.try_lock() {
            turn
        } else {
            note(log, &format!("image {shown}: waiting for the pull that another task started"))?;
            let turn = turn.lock().await;
            if let Some(image) = look().await? {
                return Ok(image);
            }
            turn
        };
        note(log, &format!("image {shown}: pulling"))?;
        match (self.pull(engine, name, log).await, here) {
            (Ok(()), _) => {}
            (Err(error), Some(image)) => {
                note(log, &format!("image {shown}: the one that is here is used; {}", error.message))?;
                return Ok(image);
            }
            (Err(error), None) => return Err(error),
        }
        look().await?.ok_or_else(|| StageError {
            cause: FailureCause::Image,
            transient: true,
            message: format!("the image {shown} was pulled and is gone already; the worker's disk may be full"),
        })
    }

    async fn pull(&self, engine: &Engine, name: &ImageName, log: &Path) -> Result<(), StageError> {
        let shown = name.familiar();
        let mut events = engine.pull(&name.to_string());
        let mut layers = Layers::default();
        let mut next_note = Instant::now() + limits::PULL_NOTE_EVERY;
        loop {
            match timeout(limits::PULL_SILENCE, events.next()).await {
                Err(_) => {
                    let message = format!("the pull of image {shown} stood still for too long");
                    return Err(StageError { cause: FailureCause::Image, transient: true, message });
                }
                Ok(None) => return Ok(()),
                Ok(Some(Err(error))) => return Err(pull_failed(&shown, &error)),
                Ok(Some(Ok(event))) => layers.hear(event),
            }
            if Instant::now() >= next_note {
                next_note = Instant::now() + limits::PULL_NOTE_EVERY;
                note(log, &format!("image {shown}: {layers}"))?;
            }
        }
    }
}

impl Image {
    /// The digest under which its registry has it, or its id.
    fn digest_in(&self, repository: &str) -> &str {
        let of = |digest: &&String| digest.split_once('@').is_some_and(|(name, _)| name == repository);
        let known = self.digests.iter().find(of).or_else(|| self.digests.first());
        known.and_then(|digest| digest.split_once('@')).map_or(&self.id, |(_, digest)| digest)
    }
}

/// How far a pull is.
#[derive(Debug, Default)]
struct Layers(BTreeMap<String, (u64, u64)>);

impl Layers {
    fn hear(&mut self, event: CreateImageInfo) {
        let (Some(layer), Some(progress)) = (event.id, event.progress_detail) else { return };
        let bytes = |value: Option<i64>| value.and_then(|value| u64::try_from(value).ok()).unwrap_or(0);
        let (done, total) = (bytes(progress.current), bytes(progress.total));
        // Unpacking begins anew at 0, and a finished layer says nothing more.
        if total > 0 && self.0.len() < limits::PULL_LAYERS_MAX {
            let known = self.0.entry(layer).or_default();
            *known = (known.0.max(done.min(total)), known.1.max(total));
        }
    }
}

impl std::fmt::Display for Layers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (done, total) = self.0.values().fold((0, 0), |(done, total), layer| (done + layer.0, total + layer.1));
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        write!(f, "{:.1} of {:.1} MiB of {} layers", mib(done), mib(total), self.0.len())
    }
}

/// Words of engines and registries for an image that is not there, or not for us.
const DEFINITE: [&str; 11] = [
    "manifest unknown",
    "name unknown",
    "not found",
    "does not exist",
    "unauthorized",
    "access denied",
    "denied:",
    "authentication required",
    "no matching manifest",
    "no image found in manifest list",
    "invalid reference format",
];

/// Words for a network or a registry that will be well again: they count first.
const PASSING: [&str; 12] = [
    "timeout",
    "timed out",
    "connection refused",
    "connection reset",
    "no such host",
    "temporary failure",
    "network is unreachable",
    "toomanyrequests",
    "too many requests",
    "unexpected eof",
    "status: 5",
    "http status: 5",
];

fn pull_failed(shown: &str, error: &EngineError) -> StageError {
    let said = error.to_string();
    let words = said.to_lowercase();
    let has = |signs: &[&str]| signs.iter().any(|sign| words.contains(sign));
    let transient = has(&PASSING) || !(error.is_missing() || has(&DEFINITE));
    let advice = if transient { "" } else { "; check its name, and whether this worker may read it" };
    let said: String = said.chars().take(limits::PULL_ERROR_CHARS).collect();
    StageError {
        cause: FailureCause::Image,
        transient,
        message: format!("the image {shown} could not be pulled: {said}{advice}"),
    }
}

fn note(log: &Path, text: &str) -> Result<(), StageError> {
    staging::note(FailureCause::Image, log, text)
}

fn definite(message: String) -> StageError {
    StageError { cause: FailureCause::Image, transient: false, message }
}

fn silent(error: &EngineError) -> StageError {
    StageError { cause: FailureCause::Launch, transient: true, message: error.to_string() }
}

fn cancelled() -> StageError {
    StageError {
        cause: FailureCause::Cancelled,
        transient: false,
        message: "cancelled while its image was being pulled".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_will_pass_is_tried_again() {
        let refused = |status, message: &str| EngineError::Refused { status, message: message.to_owned() };
        for (error, transient) in [
            (refused(404, "manifest for x:9 not found: manifest unknown"), false),
            (refused(0, "initializing source docker://a/b:1: reading manifest 1 in a/b: manifest unknown"), false),
            (refused(500, "pull access denied for x, repository does not exist or may require 'docker login'"), false),
            (refused(500, "dial tcp 127.0.0.1:5000: connect: connection refused"), true),
            (refused(500, "lookup nowhere.example: no such host"), true),
            (refused(0, "received unexpected HTTP status: 503 Service Unavailable"), true),
            (refused(500, "toomanyrequests: You have reached your pull rate limit"), true),
            (refused(500, "something nobody has seen before"), true),
            (EngineError::Silent("connection closed".to_owned()), true),
        ] {
            assert_eq!(pull_failed("x", &error).transient, transient, "{error}");
        }
    }

    #[test]
    fn progress_never_goes_back() {
        let event = |id: &str, current, total| CreateImageInfo {
            id: Some(id.to_owned()),
            progress_detail: Some(bollard::models::ProgressDetail { current: Some(current), total: Some(total) }),
            ..Default::default()
        };
        let mut layers = Layers::default();
        for (id, current, total) in [("a", 1 << 20, 4 << 20), ("b", 1 << 20, 2 << 20), ("a", 0, 4 << 20), ("c", -1, -1)]
        {
            layers.hear(event(id, current, total));
        }
        assert_eq!(layers.to_string(), "2.0 of 6.0 MiB of 2 layers");
    }

    #[test]
    fn the_digest_is_that_of_the_registry_it_came_from() {
        let image = Image {
            id: "sha256:00".into(),
            digests: vec!["mirror.io/x@sha256:11".into(), "docker.io/library/x@sha256:22".into()],
            env: Vec::new(),
            has_healthcheck: false,
        };
        assert_eq!(image.digest_in("docker.io/library/x"), "sha256:22");
        assert_eq!(image.digest_in("other/x"), "sha256:11");
        assert_eq!(Image { digests: Vec::new(), ..image }.digest_in("x"), "sha256:00");
    }
}
