//! Requests to URLs that users named: only addresses that may be asked are connected to, redirects are not
//! followed, and answers are not read. What the server alone can reach is kept from users.

use crate::limits;
use fetchml_api::address;
use hmac::{Hmac, KeyInit as _, Mac as _};
use ipnet::IpNet;
use reqwest::{
    Client, Url,
    dns::{Addrs, Name, Resolve, Resolving},
};
use sha2::Sha256;
use std::{
    error::Error,
    net::{IpAddr, SocketAddr},
    sync::{Arc, OnceLock},
};
use tokio::sync::Semaphore;

/// Sends requests to webhooks.
pub(super) struct Outgoing {
    allowed: Arc<[IpNet]>,
    /// Without TLS: reading the system's certificates takes time, and may fail.
    plain: OnceLock<Client>,
    secure: OnceLock<Client>,
    at_once: Semaphore,
}

/// What is sent.
pub(super) struct Delivery<'a> {
    pub(super) url: &'a str,
    pub(super) id: String,
    pub(super) event: &'static str,
    pub(super) body: String,
    pub(super) secret: &'a str,
    pub(super) at_s: i64,
}

impl Outgoing {
    pub(super) fn new(allowed: &[IpNet]) -> Self {
        let at_once = Semaphore::new(limits::WEBHOOKS_AT_ONCE);
        Self { allowed: allowed.into(), plain: OnceLock::new(), secure: OnceLock::new(), at_once }
    }

    /// What is wrong with a URL, as far as can be said without asking anybody.
    pub(super) fn problem(&self, url: &str) -> Option<String> {
        self.checked(url).err()
    }

    fn checked(&self, url: &str) -> Result<Url, String> {
        let url = Url::parse(url).map_err(|error| format!("is not a URL: {error}"))?;
        if !["http", "https"].contains(&url.scheme()) {
            return Err("must begin with http:// or https://".into());
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("must not hold a password: requests are signed instead".into());
        }
        let host = url.host_str().ok_or("names no host")?;
        // Addresses in the URL are never resolved: they are checked here.
        let literal: Option<IpAddr> = host.trim_start_matches('[').trim_end_matches(']').parse().ok();
        if let Some(literal) = literal {
            address::check(literal, &self.allowed).map_err(|refused| format!("{refused}; {ALLOW}"))?;
        }
        Ok(url)
    }

    /// Sends one request. Answered with 2xx, it is delivered.
    ///
    /// # Errors
    /// Why it is not, without anything of the answer but its status.
    pub(super) async fn send(&self, delivery: &Delivery<'_>) -> Result<(), String> {
        let url = self.checked(delivery.url).map_err(|why| format!("the URL {why}"))?;
        let client = self.client_for(&url)?;
        let _place = self.at_once.acquire().await.expect("the semaphore is never closed");
        let request = client
            .post(url)
            .header("content-type", "application/json")
            .header("fetchml-event", delivery.event)
            .header("fetchml-delivery", &delivery.id)
            .header("fetchml-signature", signature(delivery))
            .body(delivery.body.clone());
        let answer = request.send().await.map_err(|error| words(&error))?;
        if answer.status().is_success() { Ok(()) } else { Err(format!("it answered {}", answer.status().as_u16())) }
    }

    fn client_for(&self, url: &Url) -> Result<&Client, String> {
        let plain = url.scheme() == "http";
        let cell = if plain { &self.plain } else { &self.secure };
        if let Some(client) = cell.get() {
            return Ok(client);
        }
        let builder = Client::builder()
            .user_agent(concat!("fetchml/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(limits::WEBHOOK_CONNECT_WITHIN)
            .timeout(limits::WEBHOOK_ANSWER_WITHIN)
            .redirect(reqwest::redirect::Policy::none())
            // A proxy would resolve names by itself.
            .no_proxy()
            .pool_max_idle_per_host(1)
            .retry(reqwest::retry::never())
            .dns_resolver(Arc::new(CheckedNames(Arc::clone(&self.allowed))));
        let builder = if plain { builder.tls_certs_only([]) } else { builder };
        let client = builder.build().map_err(|error| format!("this server cannot speak HTTP: {error}"))?;
        Ok(cell.get_or_init(|| client))
    }
}

const ALLOW: &str = "whoever runs the server can allow its network with --webhook-allow-net";

/// Resolves names to addresses that may be asked. One that may not refuses the name: nobody mixes them by accident.
struct CheckedNames(Arc<[IpNet]>);

impl Resolve for CheckedNames {
    fn resolve(&self, name: Name) -> Resolving {
        let allowed = Arc::clone(&self.0);
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            for address in &found {
                address::check(address.ip(), &allowed)?;
            }
            let addresses: Addrs = Box::new(found.into_iter());
            Ok(addresses)
        })
    }
}

/// `t=<seconds>,v1=<hex>`: HMAC-SHA-256 of `<seconds>.<body>`.
fn signature(delivery: &Delivery<'_>) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(delivery.secret.as_bytes()).expect("HMAC takes keys of any length");
    mac.update(format!("{}.{}", delivery.at_s, delivery.body).as_bytes());
    format!("t={},v1={}", delivery.at_s, hex::encode(mac.finalize().into_bytes()))
}

/// Why a request failed: an address that was refused, or what kind of failure it was.
fn words(error: &reqwest::Error) -> String {
    let mut next: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(cause) = next {
        if let Some(refused) = cause.downcast_ref::<address::Refused>() {
            return format!("{refused}; {ALLOW}");
        }
        next = cause.source();
    }
    if error.is_timeout() {
        "no answer in time".into()
    } else if error.is_connect() {
        "cannot connect".into()
    } else {
        "the request failed".into()
    }
}
