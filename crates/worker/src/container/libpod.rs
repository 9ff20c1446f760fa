//! What only podman's own API can say or do: whether it is a user's, with which control groups, and devices by CDI
//! name, which its API of docker does not take. Two requests by hand over its socket.

use super::engine::EngineError;
use crate::limits;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Method, Request, header};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::{fmt::Display, path::Path};
use tokio::net::UnixStream;

/// The version of the API: that of the oldest podman that knows devices by CDI name.
const VERSION: &str = "v4.1.0";

/// What only podman says about itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Host {
    /// Runs as a user who is not root.
    pub(super) rootless: bool,
    /// Control groups in which it can set limits.
    pub(super) controllers: Vec<String>,
}

pub(super) async fn host(socket: &Path) -> Result<Host, EngineError> {
    let info = ask(socket, Method::GET, "info", Bytes::new()).await?;
    let names = info.pointer("/host/cgroupControllers").and_then(Value::as_array);
    Ok(Host {
        // Without a word about it nothing is certain, and a user's can do less.
        rootless: info.pointer("/host/security/rootless").and_then(Value::as_bool).unwrap_or(true),
        controllers: names.into_iter().flatten().filter_map(Value::as_str).map(ToOwned::to_owned).collect(),
    })
}

/// Makes a container from podman's own description of one.
pub(super) async fn create(socket: &Path, specification: &Value) -> Result<(), EngineError> {
    ask(socket, Method::POST, "containers/create", specification.to_string().into()).await.map(drop)
}

async fn ask(socket: &Path, method: Method, what: &str, body: Bytes) -> Result<Value, EngineError> {
    tokio::time::timeout(limits::ENGINE_ANSWER, exchange(socket, method, what, body))
        .await
        .map_err(|_| EngineError::Silent("no answer in time".to_owned()))?
}

async fn exchange(socket: &Path, method: Method, what: &str, body: Bytes) -> Result<Value, EngineError> {
    let stream = UnixStream::connect(socket).await.map_err(silent)?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(silent)?;
    let request = Request::builder()
        .method(method)
        .uri(format!("/{VERSION}/libpod/{what}"))
        .header(header::HOST, "podman")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(body))
        .map_err(silent)?;
    let answer = async move {
        let answer = sender.send_request(request).await.map_err(silent)?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), limits::ENGINE_ANSWER_BYTES).collect().await.map_err(silent)?;
        Ok::<_, EngineError>((status, body.to_bytes()))
    };
    let (answer, _) = tokio::join!(answer, connection);
    let (status, body) = answer?;
    let value: Value = serde_json::from_slice(&body).unwrap_or_default();
    if status.is_success() {
        return Ok(value);
    }
    let message = value.get("message").and_then(Value::as_str).unwrap_or("no reason given").to_owned();
    Err(EngineError::Refused { status: status.as_u16(), message })
}

fn silent(error: impl Display) -> EngineError {
    EngineError::Silent(error.to_string())
}
