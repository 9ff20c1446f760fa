use crate::{NOBODY, completed, running, small};
use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode, header::LOCATION},
    response::{IntoResponse as _, Response},
    routing::post,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use fetchml_api::{ErrorCode, Webhook, WebhookList, link::Outcome};
use fetchml_server::Options;
use fetchml_testkit::{CheckedClient, DEADLINE, Database, TestServer, eventually};
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::{Value, json};
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
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

    /// As Standard Webhooks says that receivers check it.
    fn is_signed(&self, secret: &str) -> bool {
        let key = STANDARD.decode(secret.strip_prefix("whsec_").unwrap()).unwrap();
        let mut mac = Hmac::<sha2::Sha256>::new_from_slice(&key).unwrap();
        mac.update(format!("{}.{}.", self.header("webhook-id"), self.header("webhook-timestamp")).as_bytes());
        mac.update(&self.body);
        let signature = self.header("webhook-signature").strip_prefix("v1,").unwrap();
        mac.verify_slice(&STANDARD.decode(signature).unwrap()).is_ok()
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
    start_on(Database::Sqlite).await
}

/// Attempts follow soon on each other: what is waited for is not their pauses.
async fn start_on(database: Database) -> TestServer {
    let change = |options: &mut Options| {
        options.webhook_allow_net = vec!["127.0.0.0/8".parse().unwrap()];
        options.deliveries.retry_first = Duration::from_millis(1);
        options.deliveries.attempts_max = 4;
        // Who waits for a silent one waits longer than any test.
        options.deliveries.answer_within = 10 * DEADLINE;
    };
    TestServer::start_with(database, change).await
}

async fn webhooks(client: &CheckedClient) -> Vec<Webhook> {
    client.get(PATH).await.expect(200).read::<WebhookList>().webhooks
}

/// Waits until nothing waits any more to be told to the only webhook of a user.
async fn settled(client: &CheckedClient) -> Webhook {
    eventually("all is told or given up", async || webhooks(client).await.pop().filter(|hook| hook.waiting == 0)).await
}

fn id(heard: &Heard) -> String {
    heard.json()["data"]["task_id"].as_str().unwrap().to_owned()
}

async fn hear_of_own_tasks(database: Database) {
    let server = start_on(database).await;
    let (ada, bob) = (server.user("ada").await, server.user("bob").await);
    let mut receiver = Receiver::start().await;
    let made = ada.post(PATH, &json!({"url": receiver.url})).await.expect(201);
    assert_eq!(made.headers["cache-control"], "no-store");
    let made = made.json();
    assert_eq!(made["events"], json!(["task.completed", "task.failed"]));
    let secret = made["secret"].as_str().unwrap();
    let mut all = Receiver::start().await;
    let events = ["task.running", "task.queued", "task.queued", "task.completed"];
    let of_all = ada.post(PATH, &json!({"url": all.url, "events": events, "x": 1})).await.expect(201).json();
    assert_eq!(of_all["events"], json!(["task.queued", "task.running", "task.completed"]));
    assert_eq!(of_all["warnings"].as_array().unwrap().len(), 1);
    assert_ne!(of_all["secret"], made["secret"]);

    let (worker, of_bob) = completed(&server, &bob).await;
    drop(worker);
    let (_worker, of_ada) = completed(&server, &ada).await;
    let heard = receiver.next().await;
    assert!(heard.is_signed(secret) && !heard.is_signed(of_all["secret"].as_str().unwrap()));
    let told = heard.json();
    assert_eq!((&told["type"], id(&heard)), (&json!("task.completed"), of_ada.spec.id.to_string()));
    assert_eq!(told["data"]["job_name"], of_ada.spec.job_name);
    assert_eq!(heard.header("content-type"), "application/json");
    let name = format!("{}-{}", made["id"].as_str().unwrap(), told["data"]["seq"]);
    assert_eq!(heard.header("webhook-id"), name);
    let mut states = Vec::new();
    while states.last().is_none_or(|state| state != "task.completed") {
        let heard = all.next().await;
        assert_ne!(id(&heard), of_bob.spec.id.to_string(), "it is another's");
        states.push(heard.json()["type"].as_str().unwrap().to_owned());
    }
    assert_eq!(states, ["task.queued", "task.running", "task.completed"]);
    receiver.nothing_more();
    let listed = ada.get(PATH).await.expect(200);
    assert!(!String::from_utf8_lossy(&listed.body).contains("whsec_"), "the secret is shown once");
    assert_eq!(webhooks(&ada).await.len(), 2);
    assert_eq!(webhooks(&bob).await, []);
    let seen = webhooks(&server.admin()).await;
    assert_eq!(seen.iter().map(|hook| hook.user_id.as_str()).collect::<Vec<_>>(), ["ada", "ada"]);
    assert_eq!(seen[0].url, receiver.url.strip_suffix("/hook").unwrap(), "paths are not for others");
}

#[tokio::test]
pub(crate) async fn hear_of_own_tasks_signed() {
    Box::pin(hear_of_own_tasks(Database::Sqlite)).await;
}

#[tokio::test]
async fn hear_of_own_tasks_on_postgres() {
    Box::pin(hear_of_own_tasks(Database::Postgres)).await;
}

#[tokio::test]
async fn failures_and_restarts_lose_nothing_and_turn_nothing_round() {
    let server = start().await;
    let ada = server.user("ada").await;
    let mut receiver = Receiver::start().await;
    // A redirect is a failure: it is not followed.
    receiver.answers.lock().unwrap().extend([500, 307, 302]);
    let made = ada.post(PATH, &json!({"url": receiver.url})).await.expect(201).json();
    let (worker, first) = completed(&server, &ada).await;
    drop(worker);
    let first_try = receiver.next().await;
    let server = server.restart().await;
    let ada = CheckedClient::new(&server.url(), ada.key);
    let (worker, second) = completed(&server, &ada).await;
    drop(worker);
    // The third failure may be told before the restart and marked after it, and then comes once more.
    let mut heard = vec![first_try];
    while id(heard.last().unwrap()) != second.spec.id.to_string() {
        heard.push(receiver.next().await);
    }
    let of_first = &heard[..heard.len() - 1];
    assert!(of_first.len() >= 4, "in order, after the one before is told");
    for again in of_first {
        assert_eq!(again.header("webhook-id"), of_first[0].header("webhook-id"));
        assert_eq!(again.body, of_first[0].body);
        assert!(again.is_signed(made["secret"].as_str().unwrap()), "a restart opens what was sealed");
        assert_eq!(id(again), first.spec.id.to_string());
    }
    let hook = settled(&ada).await;
    assert_eq!((hook.failed, hook.error), (0, None));
    receiver.nothing_more();
}

#[tokio::test]
async fn what_is_never_taken_is_given_up_and_shown() {
    let server = start().await;
    let ada = server.user("ada").await;
    let mut receiver = Receiver::start().await;
    receiver.answers.lock().unwrap().extend([500; 4]);
    ada.post(PATH, &json!({"url": receiver.url})).await.expect(201);
    let (worker, first) = completed(&server, &ada).await;
    drop(worker);
    for _ in 0..4 {
        assert_eq!(id(&receiver.next().await), first.spec.id.to_string());
    }
    let (_worker, second) = completed(&server, &ada).await;
    assert_eq!(id(&receiver.next().await), second.spec.id.to_string());
    let hook = settled(&ada).await;
    assert_eq!((hook.failed, hook.error.as_deref(), hook.next_attempt_at), (1, Some("it answered 500"), None));
}

#[tokio::test]
async fn one_who_never_answers_does_not_delay_others() {
    let server = start().await;
    let (ada, bob) = (server.user("ada").await, server.user("bob").await);
    // Takes connections and says nothing, however long the server waits.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", silent.local_addr().unwrap());
    let mut held = Vec::new();
    for _ in 0..6 {
        ada.post(PATH, &json!({"url": url, "events": ["task.queued"]})).await.expect(201);
    }
    let mut receiver = Receiver::start().await;
    bob.post(PATH, &json!({"url": receiver.url, "events": ["task.queued"]})).await.expect(201);
    ada.submit(&small()).await;
    for _ in 0..fetchml_server::limits::DELIVERIES_OF_USER_AT_ONCE {
        held.push(timeout(DEADLINE, silent.accept()).await.unwrap().unwrap());
    }
    bob.submit(&small()).await;
    receiver.next().await;
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
    let mut fields = ada.post(&format!("{PATH}?strict=true"), &many).await.problem_fields();
    fields.sort();
    assert_eq!(fields, ["events[1]", "events[2]", "url", "urls"]);
    ada.post_raw(PATH, "{").await.error(400, ErrorCode::BadRequest);

    // A name is looked at when it is asked.
    let receiver = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://localhost:{}/", receiver.local_addr().unwrap().port());
    ada.post(PATH, &json!({"url": url})).await.expect(201);
    completed(&server, &ada).await;
    let refused =
        eventually("it is refused", async || webhooks(&ada).await.into_iter().find_map(|webhook| webhook.error)).await;
    assert!(refused.contains("is not a public address"), "{refused}");
    assert!(timeout(Duration::ZERO, receiver.accept()).await.is_err(), "nobody connected");
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
    ada.post(PATH, &json!({"url": receiver.url, "events": ["task.queued", "task.completed"]})).await.expect(201);
    let (mut worker, assignment) = running(&server, &ada).await;
    receiver.next().await;
    let id = ada.key.as_deref().unwrap().split('_').nth(1).unwrap();
    server.admin().delete(&format!("/v1/keys/{id}")).await.expect(204);
    worker.end(&assignment, Outcome { exit_code: Some(0), ..Outcome::default() }).await;
    let given_up = async || webhooks(&server.admin()).await.pop().filter(|hook| hook.failed == 1);
    let hook = eventually("what was to be told is given up", given_up).await;
    assert!(hook.error.as_deref().unwrap().contains("no key that works"), "{:?}", hook.error);
    receiver.nothing_more();
}
