//! Clients that keep to no rule, over bare TCP: heads and bodies that trickle or never end.

use fetchml_testkit::{CheckedClient, DEADLINE, Database, TestServer};
use serde_json::json;
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

/// Longer than the server waits for the slowest.
const PATIENCE: Duration = Duration::from_mins(2);

pub(crate) async fn connect(server: &TestServer) -> TcpStream {
    TcpStream::connect(server.server().address()).await.unwrap()
}

/// The head of a submit with more headers.
fn submit(client: &CheckedClient, more: &str) -> String {
    let key = client.key.as_deref().unwrap();
    format!("POST /v1/tasks HTTP/1.1\r\nhost: a\r\nx-api-key: {key}\r\ncontent-type: application/json\r\n{more}\r\n")
}

/// Everything the server says until it closes the connection.
pub(crate) async fn said(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> String {
    let mut text = Vec::new();
    // A reset is an end too: what came before it has been read.
    let reading = stream.read_to_end(&mut text);
    let _ = timeout(PATIENCE, reading).await.expect("the server closes the connection");
    String::from_utf8_lossy(&text).into_owned()
}

/// The first answer of a connection.
async fn answer(stream: &mut TcpStream) -> String {
    until(stream, "}").await
}

/// What the server says, until it has said this last.
async fn until(stream: &mut TcpStream, end: &str) -> String {
    let mut text = Vec::new();
    let reading = async {
        while !text.ends_with(end.as_bytes()) {
            let mut some = [0; 1_024];
            match stream.read(&mut some).await {
                Ok(0) | Err(_) => break,
                Ok(n) => text.extend_from_slice(&some[..n]),
            }
        }
    };
    timeout(DEADLINE, reading).await.expect("the server answers");
    String::from_utf8_lossy(&text).into_owned()
}

/// Writes one byte after another for as long as the server takes them; what it said.
async fn trickled(stream: TcpStream, begin: String, byte: &'static [u8]) -> String {
    let (mut reading, mut writing) = stream.into_split();
    let trickle = tokio::spawn(async move {
        writing.write_all(begin.as_bytes()).await.unwrap();
        while writing.write_all(byte).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
    let text = said(&mut reading).await;
    trickle.abort();
    text
}

/// Half a minute by the server's limits: nobody can hold a connection by being slow.
#[tokio::test]
async fn slow_heads_and_bodies_are_cut_off() {
    let server = TestServer::start().await;
    let head = trickled(connect(&server).await, "GET /health HTTP/1.1\r\nhost: a\r\nx-a: ".into(), b"a");
    let begin = submit(&server.admin(), "content-length: 1000000\r\nconnection: close\r\n") + "{\"job_name\": \"";
    let body = trickled(connect(&server).await, begin, b"a");
    let silent = async { said(&mut connect(&server).await).await };
    let (head, body, silent) = tokio::join!(head, body, silent);
    assert!(head.is_empty() || head.starts_with("HTTP/1.1 408"), "{head}");
    assert!(body.starts_with("HTTP/1.1 400") && body.contains("took too long to arrive"), "{body}");
    assert_eq!(silent, "");
    server.anonymous().get("/health").await.expect(200);
}

#[tokio::test]
async fn floods_of_headers_are_refused() {
    let server = TestServer::start().await;
    let many = "x-a: a\r\n".repeat(101);
    let large = format!("x-a: {}\r\n", "a".repeat(96 << 10));
    let endless = "x-a: a".repeat(1 << 16);
    for headers in [many, large, endless] {
        let (mut reading, mut writing) = connect(&server).await.into_split();
        let head = format!("GET /health HTTP/1.1\r\nhost: a\r\n{headers}\r\n");
        // The server may close before all is written.
        let (text, _) = tokio::join!(said(&mut reading), writing.write_all(head.as_bytes()));
        assert!(text.is_empty() || text.starts_with("HTTP/1.1 431"), "{}", &text[..text.len().min(200)]);
        server.anonymous().get("/health").await.expect(200);
    }
    let mut stream = connect(&server).await;
    let few = "x-a: a\r\n".repeat(90);
    stream.write_all(format!("GET /health HTTP/1.1\r\nhost: a\r\n{few}\r\n").as_bytes()).await.unwrap();
    assert!(answer(&mut stream).await.starts_with("HTTP/1.1 200"), "as many as are allowed");
}

#[tokio::test]
async fn chunks_without_end_are_cut_off() {
    let server = TestServer::start().await;
    let (known, unknown) = (server.admin(), server.anonymous().with_key(Some("fml_wrong".into())));
    for (client, status) in [(known, "413"), (unknown, "401")] {
        let (mut reading, mut writing) = connect(&server).await.into_split();
        let head = submit(&client, "transfer-encoding: chunked\r\n");
        let flood = tokio::spawn(async move {
            writing.write_all(head.as_bytes()).await.unwrap();
            let chunk = format!("10000\r\n{}\r\n", " ".repeat(0x10000));
            while writing.write_all(chunk.as_bytes()).await.is_ok() {}
        });
        let text = said(&mut reading).await;
        assert!(text.starts_with(&format!("HTTP/1.1 {status}")), "{text}");
        timeout(PATIENCE, flood).await.expect("the flood has an end").unwrap();
    }
    assert_eq!(server.admin().get("/v1/tasks").await.expect(200).json()["total"], 0);
}

#[tokio::test]
async fn numbers_depths_and_doubles_that_no_client_sends() {
    let server = TestServer::start().await;
    let admin = server.admin();
    let nested = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
    let cases = [
        (r#"{"job_name":"a","args":"x","priority":1e400}"#.to_owned(), &["400", "422"][..]),
        (r#"{"job_name":"a","args":"x","priority":9223372036854775808}"#.to_owned(), &["422"]),
        (r#"{"job_name":"a","args":"x","priority":-9223372036854775809}"#.to_owned(), &["400", "422"]),
        (r#"{"job_name":"a","args":"x","priority":18446744073709551616}"#.to_owned(), &["400", "422"]),
        (r#"{"job_name":"a","job_name":"b","args":"x"}"#.to_owned(), &["400"]),
        (r#"{"job_name":"a","args":"x","metadata":{"k":"v","\u006b":"w"}}"#.to_owned(), &["400"]),
        (format!(r#"{{"job_name":"a","args":"x","more":{}}}"#, nested(33)), &["400"]),
        (format!(r#"{{"job_name":"a","args":"x","more":{}}}"#, nested(100_000)), &["400"]),
        (r#"{"job_name":"a\u0000","args":"x"}"#.to_owned(), &["422"]),
        (r#"{"job_name":"a\u202egnp","args":"x"}"#.to_owned(), &["422"]),
        (r#"{"job_name":"a","args":"\ud800"}"#.to_owned(), &["400", "422"]),
    ];
    for (body, statuses) in cases {
        let mut stream = connect(&server).await;
        let request = submit(&admin, &format!("content-length: {}\r\n", body.len())) + &body;
        stream.write_all(request.as_bytes()).await.unwrap();
        let text = answer(&mut stream).await;
        let status = text.split(' ').nth(1).unwrap_or_default();
        assert!(statuses.contains(&status), "{}: {text}", &body[..body.len().min(80)]);
    }
    for limit in ["-1", "1001", "10000000000000000000", "1e3", "%00", "9223372036854775808"] {
        admin.get(&format!("/v1/tasks?limit={limit}")).await.expect(400);
    }
    assert_eq!(admin.get("/v1/tasks?limit=0").await.expect(200).json()["tasks"], json!([]));
    assert_eq!(admin.get("/v1/tasks").await.expect(200).json()["total"], 0, "nothing of this was stored");
}

#[tokio::test]
async fn names_that_show_as_others_are_refused() {
    let server = TestServer::start().await;
    let admin = server.admin();
    for name in ["a\u{202e}nimda", "\u{2066}a", "a\u{200f}", "a\u{1b}[2J", "a\nb", "\u{7f}"] {
        let key = json!({"role": "user", "user_id": "ada", "name": name});
        assert_eq!(admin.post("/v1/keys", &key).await.problem_fields(), ["name"], "{name:?}");
        let experiment = admin.post("/v1/experiments", &json!({ "name": name })).await;
        assert_eq!(experiment.problem_fields(), ["name"], "{name:?}");
    }
    admin.post("/v1/keys", &json!({"role": "user", "user_id": "ada", "name": "Ada's ноутбук"})).await.expect(201);
}

#[tokio::test]
async fn more_requests_than_can_be_worked_on_are_told_to_come_again() {
    let server = TestServer::start_with(Database::Sqlite, |options| options.requests_at_once = 2).await;
    let admin = server.admin();
    let body = crate::small().to_string();
    let (first, rest) = body.split_at(5);
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut stream = connect(&server).await;
        let begin = submit(&admin, &format!("content-length: {}\r\nexpect: 100-continue\r\n", body.len()));
        stream.write_all(begin.as_bytes()).await.unwrap();
        // Who is told to go on has a place.
        assert!(until(&mut stream, "\r\n\r\n").await.starts_with("HTTP/1.1 100"));
        stream.write_all(first.as_bytes()).await.unwrap();
        held.push(stream);
    }
    let refused = admin.get("/v1/queue").await;
    refused.error(503, fetchml_api::ErrorCode::ServiceUnavailable);
    assert_eq!(refused.header("retry-after"), "1");
    server.anonymous().get("/health").await.expect(200);
    for stream in &mut held {
        stream.write_all(rest.as_bytes()).await.unwrap();
        assert!(answer(stream).await.starts_with("HTTP/1.1 201"), "who has a place keeps it");
    }
    admin.get("/v1/queue").await.expect(200);
}

/// Known to the client by its own writes, which fail once the server has closed.
#[tokio::test]
async fn a_stream_that_nobody_reads_is_closed() {
    let patience = Duration::from_millis(100);
    let server = TestServer::start_with(Database::Sqlite, |options| options.connections.taken_within = patience).await;
    let admin = server.admin();
    let (mut worker, assignment) = crate::running(&server, &admin).await;
    let (path, key) = (format!("/v1/tasks/{}/logs?follow=true", assignment.spec.id), admin.key.as_deref().unwrap());
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    let mut silent = socket.connect(server.server().address()).await.unwrap();
    silent.write_all(format!("GET {path} HTTP/1.1\r\nhost: a\r\nx-api-key: {key}\r\n\r\n").as_bytes()).await.unwrap();
    // More than the kernel takes on behalf of one who does not read.
    let line = [b"x".repeat(200 << 10), b"\n".to_vec()].concat();
    let mut offset = 0;
    for _ in 0..100 {
        offset = worker.log(assignment.attempt, offset, &line).await;
    }
    let writing = async {
        while silent.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, writing).await.expect("the server closes a connection that takes nothing");
    assert_eq!(server.anonymous().get("/health").await.expect(200).status, 200);
}
