//! The connection to one server: address, key, and the one place where requests are sent, repeated
//! and their failures told apart.

use crate::{error::ClientError, limits, trust::Trust};
use bytes::{Bytes, BytesMut};
use fetchml_api::ErrorResponse;
use futures_util::StreamExt as _;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use reqwest::{
    Method, RequestBuilder, Response, StatusCode, Url,
    header::{HeaderMap, HeaderValue, RETRY_AFTER},
};
use serde::{Serialize, de::DeserializeOwned};
use std::{fmt, sync::Arc, time::Duration};

/// Everything but unreserved characters and `/`.
const PATH: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'[')
    .add(b']')
    .add(b'\\')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// A client of one server. Cheap to clone; clones share connections.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    http: reqwest::Client,
    /// Without a slash at the end.
    url: String,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("url", &self.inner.url).field("key", &"***").finish()
    }
}

/// Whether a failed call may be sent again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Repeat {
    /// Sending it twice is the same as sending it once.
    Idempotent,
    /// Only when the server said that it did nothing: 429.
    OnlyIfRefused,
    /// Never: the body can be read only once, or the caller repeats by itself.
    Never,
}

impl Client {
    /// A client of the server at `url` (such as `http://127.0.0.1:9101`) that identifies itself by `key`.
    /// Does not connect yet.
    ///
    /// # Errors
    /// `url` or `key` is not well formed.
    pub fn new(url: &str, key: &str) -> Result<Self, ClientError> {
        Self::trusting(url, key, &Trust::System)
    }

    /// The same, of a server that is known by `trust`.
    ///
    /// # Errors
    /// `url` or `key` is not well formed; the authorities of the system cannot be used.
    pub fn trusting(url: &str, key: &str, trust: &Trust) -> Result<Self, ClientError> {
        let parsed = check_url(url)?;
        if parsed.scheme() == "http" && !matches!(trust, Trust::System) {
            let problem = "it must begin with https://: a certificate is named that it must have".into();
            return Err(ClientError::BadUrl { url: shown_url(url).into(), problem });
        }
        let mut headers = HeaderMap::new();
        headers.insert("x-api-key", check_key(key)?);
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("fetchml/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers)
            .connect_timeout(limits::CONNECT_TIMEOUT)
            .tcp_keepalive(Duration::from_secs(30))
            .tcp_nodelay(true)
            // A redirect could carry the key to another host.
            .redirect(reqwest::redirect::Policy::none());
        if is_loopback(&parsed) {
            // A proxy from the environment cannot reach this machine's own loopback.
            builder = builder.no_proxy();
        }
        if parsed.scheme() == "http" {
            // Reading the system's root certificates costs more than the whole call.
            builder = builder.tls_certs_only([]);
        } else {
            let config = trust.config();
            let config = config.map_err(|error| ClientError::Tls { problem: error.to_string() })?;
            builder = builder.tls_backend_preconfigured(config);
        }
        let http = builder.build().map_err(|error| ClientError::transport(url, &error))?;
        let url = parsed.as_str().trim_end_matches('/').to_owned();
        Ok(Self { inner: Arc::new(Inner { http, url }) })
    }

    /// The server's address, without a slash at the end.
    pub fn url(&self) -> &str {
        &self.inner.url
    }

    /// A request to `path`, which begins with `/` and is already encoded.
    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.inner.http.request(method, format!("{}{path}", self.inner.url))
    }

    /// Sends a request, again if `repeat` allows, until it succeeds (2xx) or fails for good.
    pub(crate) async fn send(
        &self,
        repeat: Repeat,
        build: impl Fn() -> RequestBuilder,
    ) -> Result<Response, ClientError> {
        self.send_unless(|| false, repeat, build).await
    }

    /// As [`Self::send`], but not again once `given_up` says that a repeat cannot help.
    pub(crate) async fn send_unless(
        &self,
        given_up: impl Fn() -> bool,
        repeat: Repeat,
        build: impl Fn() -> RequestBuilder,
    ) -> Result<Response, ClientError> {
        let mut attempt = 0;
        loop {
            let error = match self.send_once(build()).await {
                Ok(response) => return Ok(response),
                Err(error) => error,
            };
            let may_repeat = match repeat {
                Repeat::Idempotent => true,
                Repeat::OnlyIfRefused => matches!(error, ClientError::Api { status: 429, .. }),
                Repeat::Never => false,
            };
            // A server that is not there is reported at once: the caller knows better how long to hope.
            let at_once = match &error {
                ClientError::Unreachable { reason, .. } => reason == "connection refused",
                ClientError::Untrusted { .. } => true,
                _ => false,
            };
            match error.retry_delay(attempt) {
                Some(delay) if may_repeat && !at_once && !given_up() && attempt < limits::RETRIES_MAX => {
                    tokio::time::sleep(delay).await;
                    attempt += 1;
                }
                _ => return Err(error),
            }
        }
    }

    /// Sends a request once; any status but 2xx is an error.
    pub(crate) async fn send_once(&self, request: RequestBuilder) -> Result<Response, ClientError> {
        let response = request.send().await.map_err(|error| ClientError::transport(self.url(), &error))?;
        if response.status().is_success() { Ok(response) } else { Err(self.refusal(response).await) }
    }

    async fn refusal(&self, response: Response) -> ClientError {
        let status = response.status();
        let retry_after = response
            .headers()
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok()?.trim().parse().ok())
            .map(Duration::from_secs);
        let body = match self.read_body(response, limits::ERROR_ANSWER_BYTES_MAX).await {
            Ok(body) => body,
            Err(error) => return error,
        };
        match serde_json::from_slice::<ErrorResponse>(&body) {
            Ok(error) => ClientError::Api { status: status.as_u16(), error: Box::new(error), retry_after },
            // HEAD answers have no body; a proxy's page is not ours.
            Err(_) => ClientError::Protocol {
                url: self.url().into(),
                problem: format!("status {status} without FetchML's error form"),
            },
        }
    }

    /// Reads a whole answer of at most `max` bytes.
    pub(crate) async fn read_body(&self, response: Response, max: usize) -> Result<Bytes, ClientError> {
        let mut body = BytesMut::new();
        let mut chunks = response.bytes_stream();
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|error| ClientError::transport(self.url(), &error))?;
            if body.len() + chunk.len() > max {
                return Err(self.protocol(format!("an answer of more than {max} bytes")));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body.freeze())
    }

    pub(crate) async fn read_json<T: DeserializeOwned>(&self, response: Response) -> Result<T, ClientError> {
        let body = self.read_body(response, limits::ANSWER_BYTES_MAX).await?;
        serde_json::from_slice(&body).map_err(|error| self.protocol(format!("not the promised JSON: {error}")))
    }

    /// As [`Self::read_json`] for an answer of which nothing may be told, not even what is wrong with it.
    pub(crate) async fn read_secret_json<T: DeserializeOwned>(&self, response: Response) -> Result<T, ClientError> {
        let body = self.read_body(response, limits::ANSWER_BYTES_MAX).await?;
        serde_json::from_slice(&body).map_err(|_| self.protocol("not the promised JSON"))
    }

    pub(crate) async fn get_json<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &(impl Serialize + Sync + ?Sized),
    ) -> Result<T, ClientError> {
        let response = self
            .send(Repeat::Idempotent, || self.request(Method::GET, path).query(query).timeout(limits::ANSWER_TIMEOUT))
            .await?;
        self.read_json(response).await
    }

    /// Sends a DELETE; a 404 of a repeated call means that an earlier try went through.
    pub(crate) async fn delete_path(
        &self,
        path: &str,
        query: &(impl Serialize + Sync + ?Sized),
    ) -> Result<(), ClientError> {
        self.send(Repeat::Idempotent, || {
            self.request(Method::DELETE, path).query(query).timeout(limits::ANSWER_TIMEOUT)
        })
        .await
        .map(drop)
    }

    pub(crate) fn protocol(&self, problem: impl Into<String>) -> ClientError {
        ClientError::Protocol { url: self.url().into(), problem: problem.into() }
    }
}

/// Time given to an upload of `size_bytes`.
pub(crate) fn upload_timeout(size_bytes: u64) -> Duration {
    limits::ANSWER_TIMEOUT + Duration::from_secs(size_bytes / limits::UPLOAD_BYTES_PER_SECOND_MIN)
}

/// Encodes a relative path for use below an operation's path; slashes stay.
pub(crate) fn encode_path(path: &str) -> String {
    utf8_percent_encode(path, PATH).to_string()
}

/// Whether the status says that nothing is there.
pub(crate) fn is_missing(status: StatusCode) -> bool {
    status == StatusCode::NOT_FOUND
}

/// An address as it may be shown: not at all where it may hold a password or a key.
pub fn shown_url(url: &str) -> &str {
    if url.contains(['@', '?', '#']) { "(not shown)" } else { url }
}

fn check_url(url: &str) -> Result<Url, ClientError> {
    let bad = |problem: &str| ClientError::BadUrl { url: shown_url(url).into(), problem: problem.into() };
    if !url.contains("://") {
        return Err(bad("it must begin with http:// or https://"));
    }
    let parsed = Url::parse(url.trim()).map_err(|error| bad(&error.to_string()))?;
    if !matches!(parsed.scheme(), "http" | "https") {
        return Err(bad("it must begin with http:// or https://"));
    }
    if !parsed.username().is_empty() || parsed.password().is_some() {
        return Err(bad("it must not hold a user name or password; keys go into FETCHML_API_KEY"));
    }
    if parsed.query().is_some() || parsed.fragment().is_some() {
        return Err(bad("it must not have a query or fragment"));
    }
    Ok(parsed)
}

fn check_key(key: &str) -> Result<HeaderValue, ClientError> {
    let bad = |problem| ClientError::BadKey { problem };
    let key = key.trim();
    if key.is_empty() {
        return Err(bad("it is empty"));
    }
    let Some(rest) = key.strip_prefix("fml_") else {
        return Err(bad("it does not begin with fml_"));
    };
    if !rest.contains('_') || !rest.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-') {
        return Err(bad("it is cut off or has characters that no key has"));
    }
    let mut value = HeaderValue::from_str(key).map_err(|_| bad("it has characters that no key has"))?;
    value.set_sensitive(true);
    Ok(value)
}

fn is_loopback(url: &Url) -> bool {
    match url.host_str() {
        Some("localhost") => true,
        Some(host) => {
            host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
        }
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "fml_abcdefghijkl_secretsecret";

    #[test]
    fn the_key_is_never_shown() {
        let client = Client::new("http://127.0.0.1:9101/", KEY).unwrap();
        assert_eq!(format!("{client:?}"), r#"Client { url: "http://127.0.0.1:9101", key: "***" }"#);
        let shown = format!("{:?}", client.request(Method::GET, "/health").build().unwrap());
        assert!(!shown.contains("secret"), "{shown}");
    }

    #[test]
    fn bad_addresses_and_keys_are_told_apart() {
        for url in ["", "127.0.0.1:9101", "ftp://x", "http://user:pw@x", "u:pw@x", "ftp://u:pw@x", "http://x/?key=pw"] {
            let error = Client::new(url, KEY).unwrap_err();
            assert!(matches!(error, ClientError::BadUrl { .. }), "{url}: {error}");
            assert!(!error.to_string().contains("pw"));
        }
        for key in ["", "abc", "fml_short", "fml_a_b c", "fml_a_b\n_c"] {
            let error = Client::new("http://x", key).unwrap_err();
            assert!(matches!(error, ClientError::BadKey { .. }), "{key}");
        }
    }

    #[test]
    fn a_pinned_certificate_is_not_asked_for_in_plain_text() {
        let pinned = Trust::Pinned(fetchml_api::Fingerprint::of(b"a"));
        let refused = Client::trusting("http://127.0.0.1:9101", KEY, &pinned).unwrap_err();
        assert!(matches!(refused, ClientError::BadUrl { .. }), "{refused}");
        Client::trusting("https://127.0.0.1:9101", KEY, &pinned).unwrap();
    }

    #[test]
    fn paths_are_encoded_but_keep_their_slashes() {
        assert_eq!(encode_path("a b/50%?#.txt"), "a%20b/50%25%3F%23.txt");
    }

    #[test]
    fn loopback_is_known_in_every_spelling() {
        for (url, loopback) in
            [("http://localhost:1", true), ("http://127.1.2.3", true), ("http://[::1]:9", true), ("http://lab", false)]
        {
            assert_eq!(is_loopback(&Url::parse(url).unwrap()), loopback, "{url}");
        }
    }
}
