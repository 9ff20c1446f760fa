use crate::{NOBODY, completed, running, small};
use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode, header::LOCATION},
    response::{IntoResponse as _, Response},
    routing::post,
};
use fetchml_api::{ErrorCode, Webhook, WebhookList, link::Outcome};
use fetchml_server::Options;
use fetchml_testkit::{CheckedClient, DEADLINE, Database, TestServer, eventually};
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::{Value, json};
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};
use tokio::{net::TcpListener, sync::mpsc, time::timeout};

const PATH: &str = "/v1/webhooks";

/// One request that came.
struct Heard {
    headers: HeaderMap,
    body: Bytes,
}

impl Heard {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().unwrap()
    }

    /// As docs/webhooks.md says that receivers check it.
    fn is_signed(&self, secret: &str) -> bool {
        let (t, v1) = self.header("fetchml-signature").split_once(",v1=").unwrap();
        let mut mac = Hmac::<sha2::Sha256>::new_from_slice(secret.as_bytes()).unwrap();
        mac.update(t.strip_prefix("t=").unwrap().as_bytes());
        mac.update(b".");
        mac.update(&self.body);
        mac.verify_slice(&hex::decode(v1).unwrap()).is_ok()
    }
}

type Answers = Arc<Mutex<VecDeque<u16>>>;

/// Somebody who hears: answers with what it is told to, then 200.
struct Receiver {
    url: String,
    heard: mpsc::UnboundedReceiver<Heard>,
    answers: Answers,
}

impl Receiver {
    async fn start() -> Self {
        async fn hear(
            State((said, answers)): State<(mpsc::UnboundedSender<Heard>, Answers)>,
            headers: HeaderMap,
            body: Bytes,
        ) -> Response {
            let _ = said.send(Heard { headers, body });
            let status = answers.lock().unwrap().pop_front().unwrap_or(200);
            (StatusCode::from_u16(status).unwrap(), [(LOCATION, "/elsewhere")]).into_response()
        }
        let (said, heard) = mpsc::unbounded_channel();
        let answers = Answers::default();
        let router = Router::new()
            .route("/hook", post(hear))
            .route("/elsewhere", post(hear).get(hear))
            .with_state((said, Arc::clone(&answers)));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, heard, answers }
    }

    async fn next(&mut self) -> Heard {
        timeout(DEADLINE, self.heard.recv()).await.expect("a request in time").unwrap()
    }

    fn nothing_more(&mut self) {
        assert!(self.heard.try_recv().is_err());
    }
}

async fn start() -> TestServer {
    let change = |options: &mut Options| options.webhook_allow_net = vec!["127.0.0.0/8".parse().unwrap()];
    TestServer::start_with(Database::Sqlite, change).await
}

async fn own(client: &CheckedClient) -> Vec<Webhook> {
    client.get(PATH).await.expect(200).read::<WebhookList>().webhooks
}

#[tokio::test]
pub(crate) async fn hear_of_own_tasks_signed() {
    let server = start().await;
    let (ada, bob) = (server.user("ada").await, server.user("bob").await);
    let mut receiver = Receiver::start().await;
    let made = ada.post(PATH, &json!({"url": receiver.url})).await.expect(201).json();
    assert_eq!(made["events"], json!(["task.completed", "task.failed"]));
    let secret = made["secret"].as_str().unwrap();
    let mut all = Receiver::start().await;
    let events = ["task.running", "task.queued", "task.queued", "task.completed"];
    let of_all = ada.post(PATH, &json!({"url": all.url, "events": events})).await.expect(201).json();
    assert_ne!(of_all["secret"], made["secret"]);

    let (worker, of_bob) = completed(&server, &bob).await;
    drop(worker);
    let (_worker, of_ada) = completed(&server, &ada).await;
    let heard = receiver.next().await;
    assert!(heard.is_signed(secret) && !heard.is_signed(of_all["secret"].as_str().unwrap()));
    let told = heard.json();
    assert_eq!((&told["type"], &told["task"]["id"]), (&json!("task.completed"), &json!(of_ada.spec.id.to_string())));
    assert_eq!(heard.header("fetchml-event"), "task.completed");
    assert_eq!(heard.header("fetchml-delivery"), format!("{}-{}", made["id"].as_str().unwrap(), told["seq"]));
    let mut states = Vec::new();
    while states.last().is_none_or(|state| state != "task.completed") {
        let told = all.next().await.json();
        assert_ne!(told["task"]["id"], of_bob.spec.id.to_string(), "it is another's");
        states.push(told["type"].as_str().unwrap().to_owned());
    }
    assert_eq!(states, ["task.queued", "task.running", "task.completed"]);
    receiver.nothing_more();
    let listed = ada.get(PATH).await.expect(200);
    assert!(!String::from_utf8_lossy(&listed.body).contains("fmw_"), "the secret is shown once");
    assert_eq!(own(&ada).await.len(), 2);
    assert_eq!(own(&bob).await, []);
}

#[tokio::test]
async fn nothing_is_lost_by_failures_and_restarts() {
    let server = start().await;
    let ada = server.user("ada").await;
    let mut receiver = Receiver::start().await;
    // A redirect is a failure: it is not followed.
    receiver.answers.lock().unwrap().extend([500, 307, 302]);
    let made = ada.post(PATH, &json!({"url": receiver.url})).await.expect(201).json();
    let (worker, first) = completed(&server, &ada).await;
    drop(worker);
    let (worker, second) = completed(&server, &ada).await;
    drop(worker);
    let first_try = receiver.next().await;
    let failed = eventually("the failure is shown", async || {
        own(&ada).await.into_iter().find(|webhook| webhook.failures > 0 && webhook.next_attempt_at.is_some())
    })
    .await;
    assert_eq!(failed.error.as_deref(), Some("it answered 500"));
    let server = server.restart().await;
    let ada = CheckedClient::new(&server.url(), ada.key);
    let id = |heard: &Heard| heard.json()["task"]["id"].as_str().unwrap().to_owned();
    for _ in 0..3 {
        let again = receiver.next().await;
        assert_eq!(again.header("fetchml-delivery"), first_try.header("fetchml-delivery"));
        assert_eq!(again.body, first_try.body);
        assert!(again.is_signed(made["secret"].as_str().unwrap()));
        assert_eq!(id(&again), first.spec.id.to_string());
    }
    assert_eq!(id(&receiver.next().await), second.spec.id.to_string(), "in order, after the one before");
    let settled = async || own(&ada).await.into_iter().find(|w| w.failures == 0 && w.place > failed.place);
    assert_eq!(eventually("it is delivered", settled).await.error, None);
    receiver.nothing_more();
}

#[tokio::test]
pub(crate) async fn urls_that_may_not_be_asked() {
    // As servers are, unless somebody allows networks.
    let server = TestServer::start().await;
    let ada = server.user("ada").await;
    for url in [
        "",
        "x",
        "ftp://example.org/",
        "file:///etc/passwd",
        "http://user:password@example.org/",
        "http://127.0.0.1:9101/v1/tasks",
        "http://127.1/",
        "http://2130706433/",
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://169.254.169.254/latest/meta-data/",
        "http://10.0.0.1/",
        "https://[fd00:ec2::254]/",
    ] {
        assert_eq!(ada.post(PATH, &json!({"url": url})).await.problem_fields(), ["url"], "{url}");
    }
    let many = json!({"url": 7, "events": ["task.completed", "task.eaten", "x"], "urls": []});
    let mut fields = ada.post(PATH, &many).await.problem_fields();
    fields.sort();
    assert_eq!(fields, ["events[1]", "events[2]", "url", "urls"]);
    ada.post_raw(PATH, "{").await.error(400, ErrorCode::BadRequest);

    // A name is looked at when it is asked.
    let receiver = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://localhost:{}/", receiver.local_addr().unwrap().port());
    ada.post(PATH, &json!({"url": url})).await.expect(201);
    completed(&server, &ada).await;
    let refused =
        eventually("it is refused", async || own(&ada).await.into_iter().find_map(|webhook| webhook.error)).await;
    assert!(refused.contains("is not a public address"), "{refused}");
    assert!(timeout(std::time::Duration::ZERO, receiver.accept()).await.is_err(), "nobody connected");
}

#[tokio::test]
pub(crate) async fn belong_to_their_users_and_are_deleted() {
    let server = start().await;
    let (ada, bob) = (server.user("ada").await, server.user("bob").await);
    let mut receiver = Receiver::start().await;
    let made = ada.post(PATH, &json!({"url": receiver.url, "events": ["task.queued"]})).await.expect(201).json();
    let path = format!("{PATH}/{}", made["id"].as_str().unwrap());
    bob.delete(&path).await.error(403, ErrorCode::Forbidden);
    ada.submit(&small()).await;
    receiver.next().await;
    ada.delete(&path).await.expect(204);
    ada.delete(&path).await.error(404, ErrorCode::NotFound);
    ada.submit(&small()).await;
    // An admin may stop any; another hook tells when the second task would have been told of.
    let mut later = Receiver::start().await;
    let of_bob = bob.post(PATH, &json!({"url": later.url, "events": ["task.queued"]})).await.expect(201).json();
    bob.submit(&small()).await;
    later.next().await;
    receiver.nothing_more();
    server.admin().delete(&format!("{PATH}/{}", of_bob["id"].as_str().unwrap())).await.expect(204);
    for _ in 0..fetchml_server::limits::WEBHOOKS_PER_USER {
        ada.post(PATH, &json!({"url": receiver.url})).await.expect(201);
    }
    ada.post(PATH, &json!({"url": receiver.url})).await.error(409, ErrorCode::Conflict);
}

#[tokio::test]
pub(crate) async fn unknown_ones_are_404() {
    let server = start().await;
    for id in [NOBODY, "x"] {
        server.admin().delete(&format!("{PATH}/{id}")).await.error(404, ErrorCode::NotFound);
    }
}

#[tokio::test]
async fn a_user_without_a_key_hears_nothing() {
    let server = start().await;
    let ada = server.user("ada").await;
    let mut receiver = Receiver::start().await;
    receiver.answers.lock().unwrap().push_back(500);
    ada.post(PATH, &json!({"url": receiver.url, "events": ["task.queued", "task.completed"]})).await.expect(201);
    let (mut worker, assignment) = running(&server, &ada).await;
    receiver.next().await;
    let id = ada.key.as_deref().unwrap().split('_').nth(1).unwrap();
    server.admin().delete(&format!("/v1/keys/{id}")).await.expect(204);
    worker.end(&assignment, Outcome { exit_code: Some(0), ..Outcome::default() }).await;
    let database = server.data_dir().join("fetchml.db");
    eventually("what was to be told is passed over", async || {
        let database = rusqlite::Connection::open(&database).unwrap();
        let error: Option<String> = database.query_row("SELECT error FROM webhook", [], |row| row.get(0)).unwrap();
        error.filter(|error| error.contains("no key")).map(drop)
    })
    .await;
    receiver.nothing_more();
}
