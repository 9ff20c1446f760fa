//! Requests to URLs that users named: only addresses that may be asked are connected to, redirects are not
//! followed, and answers are not read. What the server alone can reach is kept from users.

use crate::limits;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use fetchml_api::address::Refused;
use fetchml_client::guarded::{self, GuardError, Guarded};
use hmac::{Hmac, KeyInit as _, Mac as _};
use ipnet::IpNet;
use reqwest::Url;
use sha2::Sha256;
use std::time::Duration;

/// Sends requests to webhooks.
pub(super) struct Requests(Guarded);

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
        Self(Guarded::new(allowed, move |builder| {
            builder.connect_timeout(limits::WEBHOOK_CONNECT_WITHIN).timeout(answer_within).pool_max_idle_per_host(1)
        }))
    }

    /// What is wrong with a URL, as far as can be said without asking anybody.
    pub(super) fn problem(&self, url: &str) -> Option<String> {
        self.checked(url).err()
    }

    fn checked(&self, url: &str) -> Result<Url, String> {
        let url = Url::parse(url).map_err(|error| format!("is not a URL: {error}"))?;
        self.0.check(&url).map_err(unasked)?;
        Ok(url)
    }

    /// Sends one request. Answered with 2xx, it is told.
    ///
    /// # Errors
    /// Why it is not, without anything of the answer but its status.
    pub(super) async fn send(&self, message: &Message<'_>) -> Result<(), String> {
        let url = self.checked(message.url).map_err(|why| format!("the URL {why}"))?;
        let client = self.0.client_for(&url).map_err(unasked)?;
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
}

const ALLOW: &str = "whoever runs the server can allow its network with --webhook-allow-net";

fn advice(refused: Refused) -> String {
    format!("{refused}; {ALLOW}")
}

/// Why a URL is not asked.
fn unasked(error: GuardError) -> String {
    match error {
        GuardError::Scheme(_) => "must begin with http:// or https://".into(),
        GuardError::Password => "must not hold a password: requests are signed instead".into(),
        GuardError::NoHost => "names no host".into(),
        GuardError::Refused(refused) => advice(refused),
        GuardError::Client(error) => format!("this server cannot speak HTTP: {error}"),
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
    if let Some(refused) = guarded::refused(error) {
        return advice(refused);
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
