//! A client that checks every answer: the error form, the trace id, the contract's schemas, and
//! that the served document names the status.

use crate::{Answer, Contract};
use reqwest::{Method, RequestBuilder};
use serde_json::Value;
use std::sync::Arc;

/// A client with one key, or none.
#[derive(Clone)]
pub struct CheckedClient {
    http: reqwest::Client,
    base: String,
    /// The key it sends.
    pub key: Option<String>,
    contract: Arc<Contract>,
}

impl CheckedClient {
    /// A client of the server at `base`, such as `http://127.0.0.1:9101`.
    ///
    /// # Panics
    /// The HTTP client cannot be made.
    pub fn new(base: &str, key: Option<String>) -> Self {
        // Loading root certificates takes longer than most tests, and none of them speaks TLS.
        let builder = reqwest::Client::builder().no_proxy().tls_certs_only(std::iter::empty());
        let http = builder.build().expect("an HTTP client without extras can be made");
        Self { http, base: base.to_owned(), key, contract: Contract::shared() }
    }

    /// The same client with another key.
    #[must_use]
    pub fn with_key(&self, key: Option<String>) -> Self {
        Self { key, ..self.clone() }
    }

    /// A request to change before it is sent.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.base));
        match &self.key {
            Some(key) => request.header("x-api-key", key),
            None => request,
        }
    }

    /// Sends and checks.
    ///
    /// # Panics
    /// No answer came, or it breaks the contract.
    #[track_caller]
    pub fn send(&self, request: RequestBuilder) -> impl Future<Output = Answer> + Send + use<> {
        let (http, contract) = (self.http.clone(), Arc::clone(&self.contract));
        async move {
            let request = request.build().expect("a test builds valid requests");
            let (method, path) = (request.method().clone(), request.url().path().to_owned());
            let asked = format!("{method} {}", request.url());
            let response = http.execute(request).await.unwrap_or_else(|e| panic!("{asked}: no answer: {e:?}"));
            let (status, headers) = (response.status().as_u16(), response.headers().clone());
            let body = response.bytes().await.unwrap_or_else(|e| panic!("{asked}: the answer broke off: {e:?}"));
            let answer = Answer { asked, status, headers, body };
            contract.check(&method, &path, &answer);
            answer
        }
    }

    /// `GET`
    pub async fn get(&self, path: &str) -> Answer {
        self.send(self.request(Method::GET, path)).await
    }

    /// `DELETE`
    pub async fn delete(&self, path: &str) -> Answer {
        self.send(self.request(Method::DELETE, path)).await
    }

    /// `POST` of JSON.
    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(self.request(Method::POST, path).json(body)).await
    }

    /// `POST` of any bytes said to be JSON.
    pub async fn post_raw(&self, path: &str, body: impl Into<reqwest::Body>) -> Answer {
        self.send(self.request(Method::POST, path).header("content-type", "application/json").body(body)).await
    }

    /// `PUT` of bytes.
    pub async fn put(&self, path: &str, body: impl Into<reqwest::Body>) -> Answer {
        self.send(self.request(Method::PUT, path).body(body)).await
    }

    /// `PUT` of JSON.
    pub async fn put_json(&self, path: &str, body: &Value) -> Answer {
        self.send(self.request(Method::PUT, path).json(body)).await
    }

    /// `PATCH` of JSON.
    pub async fn patch(&self, path: &str, body: &Value) -> Answer {
        self.send(self.request(Method::PATCH, path).json(body)).await
    }

    /// Submits a task and returns it.
    ///
    /// # Panics
    /// It was refused.
    pub async fn submit(&self, body: &Value) -> Value {
        self.post("/v1/tasks", body).await.expect(201).json()
    }
}
