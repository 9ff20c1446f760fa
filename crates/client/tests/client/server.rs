//! A server that answers as it is told and remembers what it was asked.

use fetchml_client::Client;
use std::sync::{Arc, Mutex};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

/// A request as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// Such as `GET /v1/queue`.
    pub(crate) line: String,
    /// Header lines, lower case.
    pub(crate) headers: String,
    pub(crate) body: Vec<u8>,
}

impl Asked {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

/// What to answer: raw bytes, after which the connection is closed.
pub(crate) type Answer = Vec<u8>;

/// A whole answer with a body.
pub(crate) fn answer(status: u16, headers: &str, body: &str) -> Answer {
    format!("HTTP/1.1 {status} X\r\n{headers}content-length: {}\r\nconnection: close\r\n\r\n{body}", body.len()).into()
}

/// The project's error form.
pub(crate) fn refusal(status: u16, headers: &str, code: &str) -> Answer {
    let body = format!(r#"{{"error":"refused","code":"{code}","trace_id":"t","hint":"try less"}}"#);
    answer(status, headers, &body)
}

/// The beginning of an event stream; closing the connection ends it.
pub(crate) fn events(text: &str) -> Answer {
    format!("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n{text}").into()
}

/// The same, broken off in the middle as by a server that was killed.
pub(crate) fn broken_events(text: &str) -> Answer {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    format!("{head}{:x}\r\n{text}\r\nff\r\n", text.len()).into()
}

pub(crate) struct TestServer {
    pub(crate) client: Client,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl TestServer {
    /// Answers each request, numbered from 0, by `answer`.
    pub(crate) async fn start(answer: impl Fn(usize, &Asked) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let client = Client::new(&url, "fml_aaaaaaaaaaaa_secret").unwrap();
        let (log, answer) = (Arc::clone(&asked), Arc::new(answer));
        tokio::spawn(async move {
            loop {
                let (connection, _) = listener.accept().await.unwrap();
                let (log, answer) = (Arc::clone(&log), Arc::clone(&answer));
                tokio::spawn(async move {
                    let _ = serve(connection, &log, &*answer).await;
                });
            }
        });
        Self { client, asked }
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

async fn serve(
    mut connection: TcpStream,
    log: &Mutex<Vec<Asked>>,
    answer: &(dyn Fn(usize, &Asked) -> Answer + Send + Sync),
) -> std::io::Result<()> {
    let mut bytes = Vec::new();
    let head_end = loop {
        if let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            break end + 4;
        }
        if connection.read_buf(&mut bytes).await? == 0 {
            return Ok(());
        }
    };
    let head = String::from_utf8(bytes[..head_end].to_vec()).unwrap();
    let (line, headers) = head.split_once("\r\n").unwrap();
    let headers = headers.to_lowercase();
    let length = headers.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
    let mut body = bytes.split_off(head_end);
    while body.len() < length.unwrap_or(0) {
        if connection.read_buf(&mut body).await? == 0 {
            return Ok(());
        }
    }
    let asked = Asked { line: line.trim_end_matches(" HTTP/1.1").to_owned(), headers, body };
    let number = {
        let mut log = log.lock().unwrap();
        log.push(asked.clone());
        log.len() - 1
    };
    connection.write_all(&answer(number, &asked)).await?;
    connection.shutdown().await
}
