//! `s3://BUCKET/KEY`: objects of stores that speak S3, read with the worker's own credentials in buckets that its owner
//! allows. Which host is asked is the owner's word too, so that it is not checked like one that a task names.

use super::{
    settings::{AllowedBucket, Patience, StoreSettings},
    source::{Opened, Resume, Version, definite, transient},
};
use crate::{limits, staging::SourceError};
use futures_util::{StreamExt as _, TryStreamExt as _};
use object_store::{
    ClientOptions, Error, GetOptions, GetRange, GetResult, ObjectMeta, ObjectStore as _, RetryConfig,
    aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey},
    path::Path,
};
use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::time::timeout;
use url::Url;

/// The stores that may be asked.
#[derive(Debug)]
pub(super) struct Stores {
    settings: StoreSettings,
    patience: Patience,
    /// By bucket: each keeps its connections and temporary credentials.
    clients: Mutex<BTreeMap<String, Arc<AmazonS3>>>,
}

impl Stores {
    pub(super) fn new(settings: StoreSettings, patience: Patience) -> Self {
        Self { settings, patience, clients: Mutex::default() }
    }

    /// Begins to read an object.
    pub(super) async fn open(&self, url: &str, resume: Option<Resume<'_>>) -> Result<Opened, SourceError> {
        let (bucket, key) = self.find(url)?;
        let client = self.client(bucket)?;
        let resume = resume.filter(|resume| resume.offset > 0 && resume.version.etag.is_some());
        if let Some(resume) = resume
            && let Some(rest) = self.rest(&client, &key, resume).await?
        {
            return Ok(rest);
        }
        Ok(opened(self.get(&client, &key, GetOptions::default()).await?))
    }

    /// The rest of the version that a part is here of; none when the store holds another by now.
    async fn rest(
        &self,
        client: &AmazonS3,
        key: &Path,
        Resume { offset, version }: Resume<'_>,
    ) -> Result<Option<Opened>, SourceError> {
        let options = GetOptions {
            range: Some(GetRange::Offset(offset)),
            if_match: version.etag.clone(),
            ..GetOptions::default()
        };
        match self.get(client, key, options).await {
            Ok(got) => {
                let fits = got.range.start == offset && version_of(&got.meta).is_same(version);
                Ok(fits.then(|| opened(got)))
            }
            Err(error) if !error.transient => Err(error),
            Err(error) => {
                // A store that passes over If-Match may refuse the range of a shorter one.
                let now = self.get(client, key, GetOptions { head: true, ..GetOptions::default() }).await?;
                if version_of(&now.meta).is_same(version) { Err(error) } else { Ok(None) }
            }
        }
    }

    async fn get(&self, client: &AmazonS3, key: &Path, options: GetOptions) -> Result<GetResult, SourceError> {
        let answer = timeout(self.patience.answer, client.get_opts(key, options)).await;
        answer.map_err(|_| transient("the store did not answer in time".to_owned()))?.map_err(|error| fault(&error))
    }

    /// Bucket and key of a source, if they are allowed.
    fn find<'a>(&'a self, url: &str) -> Result<(&'a str, Path), SourceError> {
        if self.settings.allowed.is_empty() {
            return Err(definite(
                "this worker reads no object store; its owner can allow a bucket with --dataset-store s3://BUCKET"
                    .to_owned(),
            ));
        }
        let url = Url::parse(url).map_err(|error| definite(format!("the source is not a URL: {error}")))?;
        let key = Path::from_url_path(url.path());
        let key = key.map_err(|error| definite(format!("the source names no object that can be read: {error}")))?;
        let bucket = url.host_str().unwrap_or_default();
        let allowed = self.settings.allowed.iter().find(|allowed| allowed.holds(bucket, &key));
        let allowed = allowed.ok_or_else(|| {
            definite("it lies in no bucket that the worker's owner allows by --dataset-store".to_owned())
        })?;
        Ok((allowed.bucket(), key))
    }

    fn client(&self, bucket: &str) -> Result<Arc<AmazonS3>, SourceError> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(bucket) {
            return Ok(Arc::clone(client));
        }
        let client = self.build(bucket).map_err(|error| transient(format!("the store cannot be used: {error}")))?;
        let client = Arc::new(client);
        clients.insert(bucket.to_owned(), Arc::clone(&client));
        Ok(client)
    }

    fn build(&self, bucket: &str) -> Result<AmazonS3, Error> {
        let http = ClientOptions::new()
            .with_connect_timeout(self.patience.connect)
            // Of the whole answer; the pace of its bytes is watched by who reads them.
            .with_timeout_disabled();
        let mut builder = AmazonS3Builder::new()
            .with_client_options(http)
            // Who downloads tries again by itself.
            .with_retry(RetryConfig { max_retries: 0, ..RetryConfig::default() });
        let mut is_plain = false;
        for (name, value) in &self.settings.variables {
            let Ok(key) = name.to_ascii_lowercase().parse::<AmazonS3ConfigKey>() else { continue };
            is_plain |= matches!(key, AmazonS3ConfigKey::Endpoint | AmazonS3ConfigKey::S3Endpoint)
                && value.starts_with("http://");
            builder = builder.with_config(key, value);
        }
        if is_plain {
            // Whoever writes such an address means it.
            builder = builder.with_allow_http(true);
        }
        builder.with_bucket_name(bucket).build()
    }
}

impl AllowedBucket {
    /// Whether it is that bucket, and the key lies where it may.
    fn holds(&self, bucket: &str, key: &Path) -> bool {
        self.bucket() == bucket && key.prefix_matches(self.prefix())
    }
}

fn opened(got: GetResult) -> Opened {
    let (version, offset) = (version_of(&got.meta), got.range.start);
    let body = got.into_stream().map_err(|error| fault(&error));
    Opened { version, offset, body: body.boxed() }
}

fn version_of(meta: &ObjectMeta) -> Version {
    Version { etag: meta.e_tag.clone(), modified: Some(meta.last_modified.to_rfc3339()), size: Some(meta.size) }
}

/// A failed request. What the store says is passed on in part: it may be anything.
fn fault(error: &Error) -> SourceError {
    match error {
        Error::NotFound { .. } => definite("the store has no such object, or no such bucket".to_owned()),
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => definite(
            "the store refuses this worker's credentials; its owner sets them in the worker's environment (AWS_...)"
                .to_owned(),
        ),
        error => transient(format!("the store: {}", chain(error))),
    }
}

/// The words of an error and its causes, each once.
fn chain(error: &Error) -> String {
    let mut words = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        let said = cause.to_string();
        if !words.contains(&said) {
            let _ = write!(words, ": {said}");
        }
        next = cause.source();
    }
    words.chars().map(|c| if c.is_control() { ' ' } else { c }).take(limits::DATASET_STORE_WORDS).collect()
}
