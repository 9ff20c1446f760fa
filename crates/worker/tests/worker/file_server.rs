//! A real HTTP server on loopback that behaves as badly as a test wants: it breaks off, hangs, drips, lies about
//! ranges, redirects.

use std::{
    fmt::Write as _,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::JoinHandle,
};

/// A request as it came.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Asked {
    pub(crate) path: String,
    /// First byte asked for.
    pub(crate) from: Option<usize>,
    pub(crate) if_range: Option<String>,
    /// How many came before it.
    pub(crate) number: usize,
    /// Its first line and its headers.
    pub(crate) head: String,
}

impl Asked {
    pub(crate) fn method(&self) -> &str {
        self.head.split(' ').next().unwrap_or_default()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.head.lines().filter_map(|line| line.split_once(": "));
        found.filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value).next()
    }
}

/// An answer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
    /// No length is said; the end of the connection is the end.
    pub(crate) no_length: bool,
    /// Only so much of the body is sent, then the connection ends.
    pub(crate) cut_at: Option<usize>,
    /// Only so much of the body is sent before this; then the rest.
    pub(crate) wait_at: Option<(usize, Arc<Notify>)>,
    /// Only so much of the body is sent, then nothing for ever.
    pub(crate) hang_at: Option<usize>,
    /// Sent byte by byte, with this pause.
    pub(crate) drip: Option<Duration>,
}

impl Reply {
    pub(crate) fn ok(body: &[u8]) -> Self {
        Self { status: 200, body: body.to_vec(), ..Self::default() }
    }

    pub(crate) fn status(status: u16) -> Self {
        Self { status, body: b"no".to_vec(), ..Self::default() }
    }

    pub(crate) fn redirect(to: impl Into<String>) -> Self {
        Self::status(302).with("Location", to)
    }

    /// The file, or the rest of it when that is asked for and the tag is still the same.
    pub(crate) fn file(asked: &Asked, body: &[u8], etag: &str) -> Self {
        match asked.from {
            Some(from) if asked.if_range.as_deref().is_none_or(|tag| tag == etag) => Self::rest(body, from, etag),
            _ => Self::ok(body).with("ETag", etag),
        }
    }

    pub(crate) fn rest(body: &[u8], from: usize, etag: &str) -> Self {
        let range = format!("bytes {from}-{}/{}", body.len() - 1, body.len());
        Self { status: 206, ..Self::ok(&body[from..]) }.with("ETag", etag).with("Content-Range", range)
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(crate) fn cut_at(self, at: usize) -> Self {
        Self { cut_at: Some(at), ..self }
    }

    pub(crate) fn hang_at(self, at: usize) -> Self {
        Self { hang_at: Some(at), ..self }
    }
}

/// The server.
pub(crate) struct FileServer {
    pub(crate) port: u16,
    asked: Arc<Mutex<Vec<Asked>>>,
    serving: JoinHandle<()>,
}

impl Drop for FileServer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl FileServer {
    pub(crate) async fn start(answer: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (answer, log) = (Arc::new(answer), Arc::clone(&asked));
        let serving = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (answer, log) = (Arc::clone(&answer), Arc::clone(&log));
                tokio::spawn(async move {
                    let _ = serve(socket, &*answer, &log).await;
                });
            }
        });
        Self { port, asked, serving }
    }

    /// Serves one file at every path.
    pub(crate) async fn of(body: &'static [u8]) -> Self {
        Self::start(move |asked| Reply::file(asked, body, "\"v1\"")).await
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}/{path}", self.port)
    }

    /// What was asked so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

async fn serve(
    mut socket: TcpStream,
    answer: &(impl Fn(&Asked) -> Reply + Sync),
    log: &Mutex<Vec<Asked>>,
) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let mut asked = Asked { path: head.split(' ').nth(1).unwrap_or_default().to_owned(), head, ..Asked::default() };
    asked.from = asked.header("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    asked.if_range = asked.header("if-range").map(str::to_owned);
    {
        let mut log = log.lock().unwrap();
        asked.number = log.len();
        log.push(asked.clone());
    }
    let reply = answer(&asked);
    let mut text = format!("HTTP/1.1 {} X\r\nConnection: close\r\n", reply.status);
    if !reply.no_length {
        let _ = write!(text, "Content-Length: {}\r\n", reply.body.len());
    }
    for (name, value) in &reply.headers {
        let _ = write!(text, "{name}: {value}\r\n");
    }
    socket.write_all(format!("{text}\r\n").as_bytes()).await?;
    if asked.method() != "HEAD" {
        send(&mut socket, &reply).await?;
    }
    socket.shutdown().await
}

async fn send(socket: &mut TcpStream, reply: &Reply) -> std::io::Result<()> {
    let end = reply.cut_at.or(reply.hang_at).unwrap_or(reply.body.len());
    let mut body = &reply.body[..end];
    if let Some((at, wait)) = &reply.wait_at {
        socket.write_all(&body[..*at]).await?;
        wait.notified().await;
        body = &body[*at..];
    }
    if let Some(pause) = reply.drip {
        for byte in body {
            socket.write_all(&[*byte]).await?;
            tokio::time::sleep(pause).await;
        }
        return Ok(());
    }
    socket.write_all(body).await?;
    if reply.hang_at.is_some() {
        std::future::pending::<()>().await;
    }
    Ok(())
}
