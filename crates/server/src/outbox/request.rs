//! Requests to URLs that users named: only addresses that may be asked are connected to, redirects are not
//! followed, and answers are not read. What the server alone can reach is kept from users.

use crate::limits;
use base64::{Engine as _, engine::general_purpose::STANDARD};
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
    time::Duration,
};

/// Sends requests to webhooks.
pub(super) struct Requests {
    allowed: Arc<[IpNet]>,
    answer_within: Duration,
    /// Without TLS: reading the system's certificates takes time, and may fail.
    plain: OnceLock<Client>,
    secure: OnceLock<Client>,
}

/// What is sent, as Standard Webhooks has it.
pub(super) struct Message<'a> {
    pub(super) url: &'a str,
    /// The same each time that it is sent.
    pub(super) id: String,
    pub(super) body: &'a str,
    pub(super) key: &'a [u8],
    pub(super) at_s: i64,
}

impl Requests {
    pub(super) fn new(allowed: &[IpNet], answer_within: Duration) -> Self {
        Self { allowed: allowed.into(), answer_within, plain: OnceLock::new(), secure: OnceLock::new() }
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

    /// Sends one request. Answered with 2xx, it is told.
    ///
    /// # Errors
    /// Why it is not, without anything of the answer but its status.
    pub(super) async fn send(&self, message: &Message<'_>) -> Result<(), String> {
        let url = self.checked(message.url).map_err(|why| format!("the URL {why}"))?;
        let client = self.client_for(&url)?;
        let request = client
            .post(url)
            .header("content-type", "application/json")
            .header("webhook-id", &message.id)
            .header("webhook-timestamp", message.at_s)
            .header("webhook-signature", signature(message))
            .body(message.body.to_owned());
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
            .timeout(self.answer_within)
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

/// `v1,<base64>`: HMAC-SHA-256 of `<id>.<seconds>.<body>`.
fn signature(message: &Message<'_>) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(message.key).expect("HMAC takes keys of any length");
    mac.update(format!("{}.{}.", message.id, message.at_s).as_bytes());
    mac.update(message.body.as_bytes());
    format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the Standard Webhooks specification's own libraries.
    #[test]
    fn requests_are_signed_as_standard_webhooks_has_it() {
        let key = STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let message = Message {
            url: "",
            id: "msg_p5jXN8AQM9LWM0D4loKWxJek".into(),
            body: r#"{"test": 2432232314}"#,
            key: &key,
            at_s: 1_614_265_330,
        };
        assert_eq!(signature(&message), "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }
}
