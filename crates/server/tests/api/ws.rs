use crate::{NOBODY, running, small};
use fetchml_api::{ErrorCode, limits::WS_MESSAGE_BYTES, link::Outcome};
use fetchml_server::Options;
use fetchml_testkit::{CheckedClient, DEADLINE, Database, LinkWorker, TestServer, WsClient};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

const POLICY: u16 = 1008;

async fn open(server: &TestServer, client: &CheckedClient) -> WsClient {
    let key = client.key.as_deref().unwrap();
    WsClient::open(server, "", &[("x-api-key", key)]).await.expect("it opens")
}

async fn submit(client: &CheckedClient) -> String {
    client.submit(&small()).await["id"].as_str().unwrap().to_owned()
}

/// What is said of tasks, up to the end of one of them.
async fn until_complete(socket: &mut WsClient, id: &str) -> Vec<Value> {
    let mut heard = Vec::new();
    loop {
        let message = socket.hear().await.unwrap();
        if message["type"] == "ping" {
            continue;
        }
        let last = message["type"] == "task_complete" && message["task"]["id"] == id;
        heard.push(message);
        if last {
            return heard;
        }
    }
}

fn seqs(heard: &[Value]) -> Vec<u64> {
    heard.iter().map(|message| message["seq"].as_u64().unwrap()).collect()
}

async fn end(worker: &mut LinkWorker, assignment: &fetchml_api::link::Assignment) {
    worker.end(assignment, Outcome { exit_code: Some(0), ..Outcome::default() }).await;
}

#[tokio::test]
pub(crate) async fn tells_of_tasks_and_resumes() {
    let server = TestServer::start().await;
    let ada = server.user("ada").await;
    let mut socket = open(&server, &ada).await;
    let begin = socket.hear_of("subscribed").await["seq"].as_u64().unwrap();
    let (mut worker, assignment) = running(&server, &ada).await;
    let id = assignment.spec.id.to_string();
    end(&mut worker, &assignment).await;
    let heard = until_complete(&mut socket, &id).await;
    assert_eq!((&heard[0]["type"], &heard[0]["task"]["status"]), (&json!("task_update"), &json!("queued")));
    assert_eq!(heard.last().unwrap()["task"]["status"], "completed");
    assert_eq!(heard.iter().filter(|message| message["type"] == "task_complete").count(), 1);
    assert!(heard.iter().all(|message| message["task"].get("output").is_none()));
    assert!(seqs(&heard).is_sorted() && seqs(&heard)[0] > begin);

    // Missed by everyone who listened, and the server is another.
    drop((socket, worker));
    let missed = submit(&ada).await;
    let server = server.restart().await;
    let ada = CheckedClient::new(&server.url(), ada.key);
    for known in 0..heard.len() {
        let mut socket = open(&server, &ada).await;
        let place = seqs(&heard)[known];
        socket.say(&json!({"type": "subscribe", "since": place})).await;
        let mut again = Vec::new();
        while again.last().is_none_or(|message: &Value| message["task"]["id"] != missed.as_str()) {
            let message = socket.hear().await.unwrap();
            if message["type"] == "subscribed" {
                again.clear();
            } else {
                again.push(message);
            }
        }
        again.pop();
        assert_eq!(again, heard[known + 1..], "after {place}: no gap, no repeat");
    }
}

#[tokio::test]
async fn a_subscription_narrows_and_shows_what_it_names() {
    let server = TestServer::start().await;
    let ada = server.user("ada").await;
    let (mut worker, assignment) = running(&server, &ada).await;
    let first = assignment.spec.id.to_string();
    let second = submit(&ada).await;
    let mut socket = open(&server, &ada).await;
    socket.hear_of("subscribed").await;
    socket.say(&json!({"type": "subscribe", "task_ids": [second, NOBODY]})).await;
    socket.hear_of("subscribed").await;
    // In the order of their ids.
    let unknown = socket.hear().await.unwrap();
    assert_eq!(unknown, json!({"type": "error", "error": format!("There is no task {NOBODY}.")}));
    let shown = socket.hear().await.unwrap();
    assert_eq!((&shown["type"], &shown["task"]["id"]), (&json!("task_update"), &json!(second)));
    end(&mut worker, &assignment).await;
    let assignment = worker.run_next().await;
    end(&mut worker, &assignment).await;
    let heard = until_complete(&mut socket, &second).await;
    assert!(heard.len() > 1 && heard.iter().all(|message| message["task"]["id"] == second.as_str()), "{heard:?}");

    // What has ended is complete, however it is asked for.
    socket.say(&json!({"type": "subscribe", "task_ids": [first]})).await;
    socket.hear_of("subscribed").await;
    assert_eq!(socket.hear().await.unwrap()["type"], "task_complete");
    socket.say(&json!({"type": "subscribe", "task_ids": [first], "since": 0})).await;
    socket.hear_of("subscribed").await;
    let heard = until_complete(&mut socket, &first).await;
    assert!(heard.len() > 2 && heard.iter().all(|message| message["task"]["id"] == first.as_str()), "{heard:?}");
}

#[tokio::test]
async fn a_place_that_is_not_there_resets() {
    let server = TestServer::start().await;
    let ada = server.user("ada").await;
    let id = submit(&ada).await;
    let mut socket = open(&server, &ada).await;
    socket.say(&json!({"type": "subscribe", "task_ids": [id], "since": u64::MAX})).await;
    let reset = socket.hear_of("reset").await;
    let shown = socket.hear_of("task_update").await;
    assert_eq!((&shown["seq"], &shown["task"]["id"]), (&reset["seq"], &json!(id)));
    ada.delete(&format!("/v1/tasks/{id}")).await.expect(204);
    until_complete(&mut socket, &id).await;
}

#[tokio::test]
async fn who_does_not_pong_is_cut_off() {
    let change = |options: &mut Options| {
        options.ws.ping_every = Duration::from_millis(50);
        options.ws.pong_within = Duration::from_secs(4);
    };
    let server = TestServer::start_with(Database::Sqlite, change).await;
    let admin = server.admin();
    let (mut silent, mut alive) = (open(&server, &admin).await, open(&server, &admin).await);
    alive.say(&json!({"type": "ping"})).await;
    alive.hear_of("pong").await;
    let answering = async {
        loop {
            alive.hear_of("ping").await;
            // A place in the middle: answering each would be a flood.
            tokio::time::sleep(Duration::from_millis(400)).await;
            alive.say(&json!({"type": "pong"})).await;
        }
    };
    tokio::select! {
        closed = silent.closed() => assert_eq!(closed, (POLICY, "no pong in time".to_owned())),
        () = answering => {}
    }
    alive.say(&json!({"type": "ping"})).await;
    alive.hear_of("pong").await;
}

#[tokio::test]
async fn ends_with_its_key() {
    let server = TestServer::start().await;
    let (ada, bob) = (server.user("ada").await, server.user("bob").await);
    let mut by_key = open(&server, &ada).await;
    let ticket = ada.post("/v1/ws-tickets", &json!({})).await.expect(201).json();
    let query = format!("?ticket={}", ticket["ticket"].as_str().unwrap());
    let mut by_ticket = WsClient::open(&server, &query, &[]).await.expect("it opens");
    let unused = ada.post("/v1/ws-tickets", &json!({})).await.expect(201).json();
    let mut of_bob = open(&server, &bob).await;
    let id = ada.key.as_deref().unwrap().split('_').nth(1).unwrap();
    server.admin().delete(&format!("/v1/keys/{id}")).await.expect(204);
    for socket in [&mut by_key, &mut by_ticket] {
        assert_eq!(socket.closed().await, (POLICY, "the key works no more".to_owned()));
    }
    let query = format!("?ticket={}", unused["ticket"].as_str().unwrap());
    assert_eq!(WsClient::open(&server, &query, &[]).await.err(), Some(401));
    of_bob.say(&json!({"type": "ping"})).await;
    of_bob.hear_of("pong").await;
}

#[tokio::test]
pub(crate) async fn a_ticket_opens_it_once() {
    let server = TestServer::start().await;
    let ada = server.user("ada").await;
    let answer = ada.post("/v1/ws-tickets", &json!({})).await.expect(201).json();
    let ticket = answer["ticket"].as_str().unwrap();
    assert!(!ticket.contains(ada.key.as_deref().unwrap()));
    let query = format!("?ticket={ticket}");
    // It opens nothing else.
    server.anonymous().get(&format!("/v1/tasks{query}")).await.error(401, ErrorCode::Unauthorized);
    let mut socket = WsClient::open(&server, &query, &[]).await.expect("it opens");
    socket.hear_of("subscribed").await;
    for wrong in [query.as_str(), "?ticket=", "?ticket=fmt_00", "", &format!("?ticket={}", ada.key.as_deref().unwrap())]
    {
        assert_eq!(WsClient::open(&server, wrong, &[]).await.err(), Some(401), "{wrong}");
    }
    // A key has so many at a time.
    for _ in 0..fetchml_server::limits::WS_TICKETS_PER_KEY {
        ada.post("/v1/ws-tickets", &json!({})).await.expect(201);
    }
    let refused = ada.post("/v1/ws-tickets", &json!({})).await;
    refused.error(429, ErrorCode::RateLimited);
    assert_eq!(refused.header("retry-after"), "30");
    server.user("bob").await.post("/v1/ws-tickets", &json!({})).await.expect(201);
}

#[tokio::test]
async fn pages_of_other_origins_are_refused() {
    let server = TestServer::start().await;
    let key = server.admin().key.unwrap();
    let own = server.url();
    for (origin, answer) in
        [(own.as_str(), None), ("http://evil.example", Some(403)), ("null", Some(403)), (&own[7..], Some(403))]
    {
        let opened = WsClient::open(&server, "", &[("x-api-key", &key), ("origin", origin)]).await;
        assert_eq!(opened.err(), answer, "{origin}");
    }
}

#[tokio::test]
pub(crate) async fn what_is_not_allowed_closes_it() {
    let server = TestServer::start().await;
    let admin = server.admin();
    admin.get("/ws").await.error(400, ErrorCode::BadRequest);

    // What cannot be read is said, and changes nothing.
    let mut socket = open(&server, &admin).await;
    for bad in
        ["", "{", "[]", r#"{"type":"shout"}"#, r#"{"type":"subscribe","task_ids":[]}"#, r#"{"type":"pong","x":1}"#]
    {
        socket.say_text(bad).await;
        let error = socket.hear_of("error").await;
        assert!(error["error"].as_str().unwrap().len() > 10, "{error}");
    }
    socket.say(&json!({"type": "ping"})).await;
    socket.hear_of("pong").await;

    socket.say_bytes(b"{}".to_vec()).await;
    assert_eq!(socket.closed().await, (1003, "messages are text".to_owned()));
    let mut socket = open(&server, &admin).await;
    socket.say_text(&"x".repeat(WS_MESSAGE_BYTES + 1)).await;
    let (code, _) = socket.closed().await;
    assert!([0, 1002].contains(&code), "{code}");
    // A flood: the other side may hear of it, or find the connection closed.
    let mut socket = open(&server, &admin).await;
    for _ in 0..10_000 {
        socket.say(&json!({"type": "pong"})).await;
    }
    let (code, reason) = socket.closed().await;
    assert!(code == 0 || (code == POLICY && reason == "too many messages"), "{code} {reason}");
}

/// Opens `/ws` on a bare socket.
async fn bare(server: &TestServer, key: &str, receive_buffer: Option<u32>) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    if let Some(bytes) = receive_buffer {
        socket.set_recv_buffer_size(bytes).unwrap();
    }
    let mut stream = socket.connect(server.server().address()).await.unwrap();
    let request = format!(
        "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nX-API-Key: {key}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
    stream
}

#[tokio::test]
async fn frames_that_are_not_allowed_close_it() {
    let server = TestServer::start().await;
    let key = server.admin().key.unwrap();
    let pong = br#"{"type":"pong"}"#;
    let mut unmasked = vec![0x81, pong.len() as u8];
    unmasked.extend_from_slice(pong);
    let frames: [(&str, &[u8]); 5] = [
        ("unmasked", &unmasked),
        ("a reserved bit", &[0xc1, 0x80, 0, 0, 0, 0]),
        ("an unknown opcode", &[0x83, 0x80, 0, 0, 0, 0]),
        ("a length of 2^63", &[0x81, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        ("not UTF-8", &[0x81, 0x81, 0, 0, 0, 0, 0xff]),
    ];
    for (what, frame) in frames {
        let mut stream = bare(&server, &key, None).await;
        stream.write_all(frame).await.unwrap();
        let mut rest = Vec::new();
        // Closed, or reset with what it had not read.
        let _ = timeout(DEADLINE, stream.read_to_end(&mut rest)).await.unwrap_or_else(|_| panic!("{what}: stays open"));
    }
    server.admin().get("/health").await.expect(200);
}

/// Fills what the kernel keeps for it, and no more.
#[tokio::test]
async fn a_client_that_never_reads_is_cut_off() {
    let change = |options: &mut Options| options.ws.taken_within = Duration::from_millis(500);
    let server = TestServer::start_with(Database::Sqlite, change).await;
    let admin = server.admin();
    let stream = bare(&server, admin.key.as_deref().unwrap(), Some(4 << 10)).await;
    // More than the kernel takes for one connection.
    let large = json!({"job_name": "a", "entrypoint": "/bin/true", "args": "x".repeat(30_000), "array": "1-400"});
    admin.post("/v1/tasks", &large).await.expect(201);
    let (_, mut outgoing) = stream.into_split();
    // To write is the only way to learn of it without reading.
    let cut = async {
        let pong = br#"{"type":"pong"}"#;
        let mut masked = vec![0x81, 0x80 | pong.len() as u8, 0, 0, 0, 0];
        masked.extend_from_slice(pong);
        while outgoing.write_all(&masked).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    timeout(DEADLINE, cut).await.expect("it is cut off");
    // Nobody else is harmed.
    let mut reads = open(&server, &admin).await;
    let id = submit(&admin).await;
    while reads.hear_of("task_update").await["task"]["id"] != id.as_str() {}
}
