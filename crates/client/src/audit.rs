//! The audit log: its events, its end, its verification.

use crate::{
    blob::ByteStream,
    connection::{Client, Repeat},
    error::ClientError,
    limits,
    sse::SseParser,
};
use fetchml_api::{AuditEventList, AuditQuery, ChainRoot, VerificationProgress, VerificationResult};
use futures_util::StreamExt as _;
use reqwest::{Method, header::ACCEPT};

impl Client {
    /// A page of the audit log.
    pub async fn audit_events(&self, query: &AuditQuery) -> Result<AuditEventList, ClientError> {
        self.get_json("/v1/audit/events", query).await
    }

    /// The end of the audit log.
    pub async fn audit_root(&self) -> Result<ChainRoot, ClientError> {
        self.get_json("/v1/audit/chain-root", &[(); 0]).await
    }

    /// Verifies the audit log; `progress` hears how far it is. Dropping the future ends the verification.
    pub async fn audit_verify(
        &self,
        mut progress: impl FnMut(VerificationProgress),
    ) -> Result<VerificationResult, ClientError> {
        let build = || self.request(Method::POST, "/v1/audit/verify").header(ACCEPT, "text/event-stream");
        let answer = tokio::time::timeout(limits::ANSWER_TIMEOUT, self.send(Repeat::OnlyIfRefused, build)).await;
        let broken = |reason: &str| ClientError::Unreachable { url: self.url().into(), reason: reason.into() };
        let response = answer.map_err(|_| broken("no answer in time"))??;
        let mut bytes = ByteStream::of(self.url(), response);
        let mut parser = SseParser::new();
        while let Some(chunk) = bytes.next().await.transpose()? {
            for event in parser.push(&chunk).map_err(|error| self.protocol(error.to_string()))? {
                let unread = |error| self.protocol(format!("not the promised JSON: {error}"));
                match event.event.as_str() {
                    "progress" => progress(serde_json::from_str(&event.data).map_err(unread)?),
                    "result" => return serde_json::from_str(&event.data).map_err(unread),
                    "failed" => return Err(broken(&failure(&event.data))),
                    // A newer server may tell more.
                    _ => {}
                }
            }
        }
        Err(broken("the server closed the stream before the verification had a result"))
    }
}

fn failure(data: &str) -> String {
    let told: serde_json::Value = serde_json::from_str(data).unwrap_or_default();
    format!("the verification has no result: {}", told["error"].as_str().unwrap_or("unknown"))
}
