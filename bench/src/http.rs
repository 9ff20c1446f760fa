//! A lean HTTP/1.1 client on one kept connection: requests are bytes made beforehand, so that the
//! load generator takes little of the cores it shares with the server.

use anyhow::{Context as _, Result, bail};
use std::net::SocketAddr;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

const HEAD_BYTES_MAX: usize = 64 << 10;

/// An answer.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
}

/// A kept connection.
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// The bytes of a request.
pub(crate) fn request(method: &str, path: &str, address: SocketAddr, key: &str, body: &str) -> Vec<u8> {
    format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nX-API-Key: {key}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).await.with_context(|| format!("connecting to {address}"))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::with_capacity(8 << 10) })
    }

    /// Sends a request and reads its whole answer. The server must name the body's length.
    pub(crate) async fn exchange(&mut self, request: &[u8]) -> Result<Answer> {
        self.stream.write_all(request).await.context("sending a request")?;
        let head_length = loop {
            if let Some(end) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
            if self.buffer.len() > HEAD_BYTES_MAX {
                bail!("the head of an answer is too long");
            }
            self.read_some().await?;
        };
        let head = std::str::from_utf8(&self.buffer[..head_length]).context("the head of an answer is not UTF-8")?;
        let status = head.get(9..12).and_then(|text| text.parse().ok()).context("an answer without a status")?;
        let length = head
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
            .and_then(|(_, value)| value.trim().parse::<usize>().ok())
            .with_context(|| format!("an answer without a length: {head}"))?;
        while self.buffer.len() < head_length + length {
            self.read_some().await?;
        }
        let body = self.buffer[head_length..head_length + length].to_vec();
        self.buffer.drain(..head_length + length);
        Ok(Answer { status, body })
    }

    async fn read_some(&mut self) -> Result<()> {
        if self.stream.read_buf(&mut self.buffer).await.context("reading an answer")? == 0 {
            bail!("the server closed the connection");
        }
        Ok(())
    }
}
