//! Plain HTTP on a port where TLS is spoken: the client is told so, not just cut off.

use crate::{error::AppError, limits};
use axum::response::IntoResponse as _;
use http_body_util::BodyExt as _;
use std::io;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

/// Whether what the client sends begins like a request of HTTP. A TLS handshake begins with 22.
pub(super) async fn begins(stream: &TcpStream) -> io::Result<bool> {
    let mut first = [0];
    Ok(stream.peek(&mut first).await? == 1 && first[0].is_ascii_uppercase())
}

/// Says what is spoken here, in the form of all errors.
pub(super) async fn refuse(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) {
    let body = AppError::PlainHttp.into_response().into_body();
    let Ok(body) = body.collect().await else { return };
    let body = body.to_bytes();
    let head = format!(
        "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    let answering = async {
        stream.write_all(&[head.as_bytes(), &body].concat()).await?;
        stream.shutdown().await?;
        // Closed with bytes unread, the connection would be reset and the answer lost.
        let mut left = limits::HEADER_BYTES;
        let mut some = [0; 4_096];
        while left > 0 {
            match stream.read(&mut some).await? {
                0 => break,
                n => left = left.saturating_sub(n),
            }
        }
        io::Result::Ok(())
    };
    // Whoever does not take the answer misses it.
    let _ = timeout(limits::REFUSED_BODY_DRAIN_TIME, answering).await;
}
