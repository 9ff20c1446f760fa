//! HTTP with a guard: every address that is connected to was checked first, also those of redirects, and no other
//! than the checked one is connected to.

use super::{
    settings::Patience,
    source::{definite, transient},
};
use crate::{limits, staging::SourceError};
use fetchml_api::address::Refused;
use fetchml_client::guarded::{self, GuardError, Guarded};
use ipnet::IpNet;
use reqwest::{Client, Request, Response, StatusCode, Url, header::LOCATION};
use std::error::Error;
use tokio::time::timeout;

/// A client that asks only addresses that may be asked.
#[derive(Debug)]
pub(super) struct Guard {
    clients: Guarded,
    patience: Patience,
}

impl Guard {
    pub(super) fn new(allowed: &[IpNet], patience: Patience) -> Self {
        let connect = patience.connect;
        Self { clients: Guarded::new(allowed, move |builder| builder.connect_timeout(connect)), patience }
    }

    /// Sends a GET; follows redirects, each checked like the first. `build` is asked for every hop.
    pub(super) async fn get(
        &self,
        url: &str,
        build: impl Fn(reqwest::RequestBuilder) -> reqwest::RequestBuilder,
    ) -> Result<Response, SourceError> {
        let mut url = Url::parse(url).map_err(|error| definite(format!("the source is not a URL: {error}")))?;
        for _ in 0..=limits::DATASET_REDIRECTS {
            let client = self.client_for(&url)?;
            let request = build(client.get(url.clone())).build().map_err(|error| fault(&error))?;
            let response = self.send(client, request).await?;
            if !is_redirect(response.status()) {
                return Ok(response);
            }
            let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
            let next = location.and_then(|location| url.join(location).ok());
            let next = next.ok_or_else(|| definite(format!("{} redirects to nowhere", host(&url))))?;
            if url.scheme() == "https" && next.scheme() != "https" {
                return Err(definite(format!("{} redirects from https to {}", host(&url), next.scheme())));
            }
            url = next;
        }
        Err(definite(format!("it redirects more than {} times", limits::DATASET_REDIRECTS)))
    }

    /// Sends one request to a host that was checked by [`Self::client_for`].
    async fn send(&self, client: &Client, request: Request) -> Result<Response, SourceError> {
        let late = transient(format!("{} did not answer in time", host(request.url())));
        let answer = timeout(self.patience.answer, client.execute(request)).await;
        answer.map_err(|_| late)?.map_err(|error| fault(&error))
    }

    /// The client for a URL, once the URL itself is one that may be asked. Names are checked when they are resolved.
    fn client_for(&self, url: &Url) -> Result<&Client, SourceError> {
        self.clients.client_for(url).map_err(|error| match error {
            GuardError::Scheme(other) => definite(format!("{other:?} is not followed; only http and https are")),
            GuardError::Password => definite(format!("{} is to be asked with a password from a redirect", host(url))),
            GuardError::NoHost => definite("the source names no host".to_owned()),
            GuardError::Refused(refused) => definite(advice(refused)),
            GuardError::Client(error) => transient(format!("this worker cannot speak HTTP: {}", chain(&error))),
        })
    }
}

/// That an address is refused, and what can be done.
fn advice(refused: Refused) -> String {
    let net = refused.net();
    format!(
        "{refused}; the worker's owner can allow its network with --dataset-allow-net, such as --dataset-allow-net {net}"
    )
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// The host alone: the rest of a redirect's target may be a secret.
fn host(url: &Url) -> &str {
    url.host_str().unwrap_or("the source")
}

/// A failed request. An address that was refused stays so; everything else may go better another time.
pub(super) fn fault(error: &reqwest::Error) -> SourceError {
    if let Some(refused) = guarded::refused(error) {
        return definite(advice(refused));
    }
    transient(chain(error))
}

/// The words of an error and its causes, without the URL.
fn chain(error: &reqwest::Error) -> String {
    let mut words = match error {
        error if error.is_connect() => "cannot connect".to_owned(),
        error if error.is_timeout() => "no answer in time".to_owned(),
        error if error.is_body() || error.is_decode() => "the connection broke".to_owned(),
        _ => "the request failed".to_owned(),
    };
    let mut next = error.source();
    while let Some(cause) = next {
        // Each layer repeats the one below it or says something of its own; only the last is news.
        if cause.source().is_none() {
            words = format!("{words}: {cause}");
        }
        next = cause.source();
    }
    words
}
