//! Who may do what: every operation, by every role, on what belongs to its user and to somebody else.
//! The table is written by hand from what the project promises, not taken from the server's.

use crate::{NOBODY, running, scheduler::reservations, sha256, small};
use fetchml_api::{
    Artifact, ErrorCode, TaskId,
    link::{Assignment, Outcome},
};
use fetchml_server::{Operation, Visibility};
use fetchml_testkit::{CheckedClient, Database, LinkWorker, TestServer};
use reqwest::Method;
use serde_json::{Value, json};
use std::cell::Cell;

const ROLES: [&str; 5] = ["viewer", "user", "operator", "admin", "worker"];

/// The status of what is allowed, then by role: `yes`; `no`: 403; `own`: what belongs to others is 403; `hid`: what
/// belongs to others is 404; `self`: it cannot even name what belongs to others.
const TABLE: &str = "
                    is   viewer user operator admin worker
    Health          200  yes    yes  yes      yes   yes
    Document        200  yes    yes  yes      yes   yes
    DocsPage        200  yes    yes  yes      yes   yes
    DocsFile        200  yes    yes  yes      yes   yes
    ServerMetrics   200  yes    yes  yes      yes   yes
    TaskList        200  yes    yes  yes      yes   no
    TaskCreate      201  no     yes  yes      yes   no
    TaskShow        200  yes    yes  yes      yes   no
    TaskDelete      204  no     own  yes      yes   no
    TaskRerun       201  no     own  yes      yes   no
    ArrayShow       200  yes    yes  yes      yes   no
    ArrayDelete     204  no     own  yes      yes   no
    LogRead         200  yes    yes  yes      yes   no
    ArtifactList    200  yes    yes  yes      yes   no
    ArtifactRead    200  yes    yes  yes      yes   no
    CheckpointShow  200  yes    yes  yes      yes   yes
    CheckpointPut   409  no     no   no       no    yes
    MetricsShow     200  yes    yes  yes      yes   no
    RunManifestShow 200  yes    yes  yes      yes   no
    DatasetList     200  yes    yes  yes      yes   no
    DatasetCreate   201  no     yes  yes      yes   no
    DatasetShow     200  yes    yes  yes      yes   no
    DatasetDelete   204  no     own  own      yes   no
    ExperimentList  200  yes    yes  yes      yes   no
    ExperimentCreate 201 no     yes  yes      yes   no
    ExperimentShow  200  yes    yes  yes      yes   no
    ExperimentEdit  200  no     own  own      own   no
    QueueShow       200  yes    yes  yes      yes   no
    WorkerList      200  yes    yes  yes      yes   no
    WorkerShow      200  yes    yes  yes      yes   no
    StatusShow      200  yes    yes  yes      yes   no
    StatusStream    200  yes    yes  yes      yes   no
    JobStream       200  yes    yes  yes      yes   no
    WebSocket       400  yes    yes  yes      yes   no
    WsTicketCreate  201  yes    yes  yes      yes   no
    WebhookList     200  no     self self     yes   no
    WebhookCreate   201  no     yes  yes      yes   no
    WebhookDelete   204  no     own  own      yes   no
    ReservationList 200  yes    yes  yes      yes   no
    ReservationCreate 201 no    yes  yes      yes   no
    ReservationRelease 204 no   own  yes      yes   no
    Whoami          200  yes    yes  yes      yes   no
    KeyList         200  no     no   no       yes   no
    KeyCreate       201  no     no   no       yes   no
    KeyRevoke       204  no     no   no       yes   no
    SnapshotCreate  201  no     yes  yes      yes   no
    SnapshotRead    200  yes    yes  yes      yes   yes
    BlobPut         201  no     yes  yes      yes   yes
    BlobRead        200  yes    yes  yes      yes   yes
    SecretList      200  no     self self     self  no
    SecretPut       201  no     self self     self  no
    SecretDelete    204  no     hid  hid      hid   no
    AttemptSecrets  404  no     no   no       no    yes
    WorkerConnect   400  no     no   no       no    yes
    GcRun           200  no     no   no       yes   no
    GcShow          200  no     no   no       yes   no
    TaskExplain     200  yes    yes  yes      yes   no
    JobPriority     200  no     own  yes      yes   no
    WorkerDrain     204  no     no   yes      yes   no
    WorkerUndrain   204  no     no   yes      yes   no
    UsageShow       200  own    own  own      yes   no
    QuotaList       200  no     no   no       yes   no
    QuotaPut        200  no     no   no       yes   no
    QuotaDelete     204  no     no   no       yes   no
    AuditList       200  no     no   yes      yes   no
    AuditVerify     200  no     no   yes      yes   no
    AuditVerifyStop 404  no     no   yes      yes   no
    AuditRoot       200  yes    yes  yes      yes   no";

/// What is another word where what tasks write and leave is private.
const PRIVATE: &str = "
                    is   viewer user operator admin worker
    LogRead         200  own    own  yes      yes   no
    ArtifactList    200  own    own  yes      yes   no
    ArtifactRead    200  own    own  yes      yes   no
    CheckpointShow  200  own    own  yes      yes   yes
    MetricsShow     200  own    own  yes      yes   no
    RunManifestShow 200  own    own  yes      yes   no";

/// A row: operation, the status of success, a word for each role.
fn rows(visibility: Visibility) -> Vec<Row> {
    let mut rows = read(TABLE);
    if visibility == Visibility::Private {
        for private in read(PRIVATE) {
            let row = rows.iter_mut().find(|row| row.0 == private.0).expect("the other table names it");
            assert_ne!(*row, private, "it is another");
            *row = private;
        }
    }
    rows
}

type Row = (&'static str, u16, Vec<&'static str>);

fn read(table: &'static str) -> Vec<Row> {
    let lines = table.lines().map(str::trim).filter(|line| !line.is_empty()).skip(1);
    let row = |line: &'static str| {
        let mut words = line.split_whitespace();
        let (name, status) = (words.next().unwrap(), words.next().unwrap());
        (name, status.parse().unwrap(), words.collect())
    };
    lines.map(row).collect()
}

/// What an operation is asked of.
pub(crate) struct Asked {
    method: Method,
    path: String,
    body: Option<Value>,
    /// Kept while it is asked.
    _worker: Option<LinkWorker>,
}

impl Asked {
    fn new(method: Method, path: impl Into<String>) -> Self {
        Self { method, path: path.into(), body: None, _worker: None }
    }

    fn get(path: impl Into<String>) -> Self {
        Self::new(Method::GET, path)
    }

    fn delete(path: impl Into<String>) -> Self {
        Self::new(Method::DELETE, path)
    }

    fn post(path: impl Into<String>, body: Value) -> Self {
        Self::new(Method::POST, path).with(body)
    }

    fn with(self, body: Value) -> Self {
        Self { body: Some(body), ..self }
    }

    fn beside(self, worker: LinkWorker) -> Self {
        Self { _worker: Some(worker), ..self }
    }
}

/// A user whose things are asked for.
pub(crate) struct Owner<'a> {
    server: &'a TestServer,
    user: &'static str,
    client: CheckedClient,
    ended: Assignment,
    made: Cell<u32>,
}

impl<'a> Owner<'a> {
    pub(crate) async fn new(server: &'a TestServer, user: &'static str) -> Self {
        let client = server.user(user).await;
        let ended = Box::pin(ended(server, &client)).await;
        Self { server, user, client, ended, made: Cell::new(0) }
    }

    /// A name that nothing has yet.
    fn name(&self) -> String {
        self.made.set(self.made.get() + 1);
        format!("{}_{}", self.user, self.made.get())
    }

    /// A task that waits.
    async fn task(&self) -> TaskId {
        self.client.submit(&waits()).await["id"].as_str().unwrap().parse().unwrap()
    }

    async fn array(&self) -> String {
        let mut body = waits();
        body["array"] = json!("0-1");
        format!("/v1/arrays/{}", self.client.submit(&body).await["array_id"].as_str().unwrap())
    }

    async fn dataset(&self) -> String {
        let path = format!("/v1/datasets/{}", self.name());
        let name = path.rsplit('/').next().unwrap();
        self.client.post("/v1/datasets", &dataset(name)).await.expect(201);
        path
    }

    async fn experiment(&self) -> String {
        let made = self.client.post("/v1/experiments", &json!({"name": self.name()})).await.expect(201).json();
        format!("/v1/experiments/{}", made["id"].as_str().unwrap())
    }

    async fn secret(&self) -> String {
        let path = format!("/v1/secrets/{}", self.name());
        self.client.put_json(&path, &json!({"value": "canary"})).await.expect(201);
        path
    }

    async fn secrets(&self) -> Value {
        self.client.get("/v1/secrets").await.expect(200).json()
    }

    pub(crate) async fn asked(&self, operation: Operation) -> Asked {
        use Operation as O;
        let ended = format!("/v1/tasks/{}", self.ended.spec.id);
        let attempt = format!("{ended}/attempts/{}", self.ended.attempt);
        match operation {
            O::AuditVerify => Asked::new(Method::POST, "/v1/audit/verify"),
            O::AuditVerifyStop => Asked::delete("/v1/audit/verify"),
            O::WsTicketCreate => Asked::new(Method::POST, "/v1/ws-tickets"),
            O::Health
            | O::Document
            | O::DocsPage
            | O::ServerMetrics
            | O::TaskList
            | O::DatasetList
            | O::ExperimentList
            | O::QueueShow
            | O::WorkerList
            | O::StatusShow
            | O::StatusStream
            | O::ReservationList
            | O::WebhookList
            | O::Whoami
            | O::KeyList
            | O::GcShow
            | O::QuotaList
            | O::WorkerConnect
            | O::AuditList
            | O::AuditRoot
            | O::WebSocket => Asked::get(operation.route().1),
            O::DocsFile => Asked::get("/docs/page.css"),
            O::TaskCreate => Asked::post("/v1/tasks", waits()),
            O::TaskShow => Asked::get(ended),
            O::TaskDelete => Asked::delete(format!("/v1/tasks/{}", self.task().await)),
            O::TaskRerun => Asked::post(format!("/v1/tasks/{}/rerun", self.task().await), json!({})),
            O::ArrayShow => Asked::get(self.array().await),
            O::ArrayDelete => Asked::delete(self.array().await),
            O::LogRead => Asked::get(format!("{ended}/logs")),
            O::ArtifactList => Asked::get(format!("{ended}/artifacts")),
            O::ArtifactRead => Asked::get(format!("{ended}/artifacts/result")),
            O::CheckpointShow => Asked::get(format!("{ended}/checkpoint")),
            O::CheckpointPut => Asked::new(Method::PUT, format!("{attempt}/checkpoint")).with(json!({"files": []})),
            O::MetricsShow => Asked::get(format!("{ended}/metrics")),
            O::RunManifestShow => Asked::get(format!("{ended}/manifest")),
            O::DatasetCreate => Asked::post("/v1/datasets", dataset(&self.name())),
            O::DatasetShow => Asked::get(self.dataset().await),
            O::DatasetDelete => Asked::delete(self.dataset().await),
            O::ExperimentCreate => Asked::post("/v1/experiments", json!({"name": self.name()})),
            O::ExperimentShow => Asked::get(self.experiment().await),
            O::ExperimentEdit => Asked::new(Method::PATCH, self.experiment().await).with(json!({"status": "archived"})),
            O::WorkerShow | O::WorkerDrain | O::WorkerUndrain => {
                let worker = reservations::worker(self.server, 1).await;
                let path = format!("/v1/scheduler/workers/{}", worker.id);
                let asked = match operation {
                    O::WorkerShow => Asked::get(path),
                    O::WorkerDrain => Asked::delete(path),
                    _ => {
                        self.server.admin().delete(&path).await.expect(204);
                        Asked::new(Method::POST, format!("{path}/undrain"))
                    }
                };
                asked.beside(worker)
            }
            O::JobStream => Asked::get(format!("/v1/scheduler/jobs/{}/stream", self.task().await)),
            O::ReservationCreate | O::ReservationRelease => {
                let worker = reservations::worker(self.server, 2).await;
                let (path, body) = ("/v1/scheduler/reservations", json!({"gpu_count": 1, "expires_minutes": 1}));
                if operation == O::ReservationCreate {
                    return Asked::post(path, body).beside(worker);
                }
                let made = self.client.post(path, &body).await.expect(201).json();
                Asked::delete(format!("{path}/{}", made["id"].as_str().unwrap())).beside(worker)
            }
            O::WebhookCreate => Asked::post("/v1/webhooks", webhook()),
            O::WebhookDelete => {
                let made = self.client.post("/v1/webhooks", &webhook()).await.expect(201).json();
                Asked::delete(format!("/v1/webhooks/{}", made["id"].as_str().unwrap()))
            }
            O::KeyCreate => Asked::post("/v1/keys", json!({"role": "user", "user_id": self.user})),
            O::KeyRevoke => {
                let body = json!({"role": "user", "user_id": self.user});
                let made = self.server.admin().post("/v1/keys", &body).await.expect(201).json();
                Asked::delete(format!("/v1/keys/{}", made["id"].as_str().unwrap()))
            }
            O::SnapshotCreate => {
                let entry = json!({"path": self.name(), "mode": 0o644, "sha256": sha256(b"one"), "size_bytes": 3});
                Asked::post("/v1/snapshots", json!({"entries": [entry]}))
            }
            O::SnapshotRead => {
                let Asked { path, body, .. } = Box::pin(self.asked(O::SnapshotCreate)).await;
                let stored = self.client.post(&path, &body.unwrap()).await.expect(201).json();
                Asked::get(format!("{path}/{}", stored["snapshot_id"].as_str().unwrap()))
            }
            O::BlobPut => {
                let body = json!(self.name());
                Asked::new(Method::PUT, format!("/v1/blobs/{}", sha256(body.to_string().as_bytes()))).with(body)
            }
            O::BlobRead => Asked::get(format!("/v1/blobs/{}", sha256(b"one"))),
            O::SecretList => {
                self.secret().await;
                Asked::get("/v1/secrets")
            }
            O::SecretPut => {
                // Not by the owner's name: the caller has a secret of this name afterwards.
                let path = format!("/v1/secrets/{}", self.name().replace("bob", "other"));
                if self.user != "ada" {
                    self.client.put_json(&path, &json!({"value": "canary"})).await.expect(201);
                }
                Asked::new(Method::PUT, path).with(json!({"value": "taken over"}))
            }
            O::SecretDelete => Asked::delete(self.secret().await),
            O::AttemptSecrets => {
                let body = json!({"worker_id": NOBODY, "epoch": self.ended.epoch});
                Asked::post(format!("{ended}/attempts/{NOBODY}/secrets"), body)
            }
            O::GcRun => Asked::new(Method::POST, "/v1/admin/gc?dry_run=true"),
            O::TaskExplain => Asked::get(format!("/v1/tasks/{}/explain", self.task().await)),
            O::JobPriority => {
                let path = format!("/v1/scheduler/jobs/{}/priority", self.task().await);
                Asked::new(Method::PATCH, path).with(json!({"priority": 6}))
            }
            O::UsageShow => Asked::get(format!("/v1/usage?user_id={}", self.user)),
            O::QuotaPut => {
                Asked::new(Method::PUT, format!("/v1/admin/quotas/users/{}", self.name())).with(json!({"gpus": 9}))
            }
            O::QuotaDelete => {
                let path = format!("/v1/admin/quotas/users/{}", self.name());
                self.server.admin().put_json(&path, &json!({"gpus": 9})).await.expect(200);
                Asked::delete(path)
            }
        }
    }
}

/// A task that no worker ever takes.
fn waits() -> Value {
    let mut body = small();
    (body["gpu"], body["gpu_type"]) = (json!(1), json!("none"));
    body
}

fn dataset(name: &str) -> Value {
    json!({"name": name, "source": format!("https://data.example.org/{name}")})
}

fn webhook() -> Value {
    json!({"url": "https://hooks.example.org/"})
}

/// A task that has ended, with a log, an artifact and a checkpoint.
async fn ended(server: &TestServer, owner: &CheckedClient) -> Assignment {
    let (mut worker, assignment) = running(server, owner).await;
    let hash = sha256(b"one");
    let uploaded = worker.client.put(&format!("/v1/blobs/{hash}"), "one").await;
    assert!(matches!(uploaded.status, 201 | 204), "{}", uploaded.status);
    let file = json!({"path": "model", "size_bytes": 3, "sha256": hash});
    let path = format!("/v1/tasks/{}/attempts/{}/checkpoint", assignment.spec.id, assignment.attempt);
    worker.client.put_json(&path, &json!({"files": [file]})).await.expect(200);
    worker.log(assignment.attempt, 0, b"line\n").await;
    let artifacts = vec![Artifact { path: "result".into(), size_bytes: 3, sha256: hash }];
    worker.end(&assignment, Outcome { exit_code: Some(0), artifacts, ..Outcome::default() }).await;
    assignment
}

/// Asks; the status, and the body unless it has no end.
pub(crate) async fn ask(client: &CheckedClient, operation: Operation, asked: &Asked) -> (u16, String) {
    let mut request = client.request(asked.method.clone(), &asked.path);
    if let Some(body) = &asked.body {
        request = request.json(body);
    }
    if matches!(operation, Operation::StatusStream | Operation::JobStream) {
        return (request.send().await.unwrap().status().as_u16(), String::new());
    }
    let answer = client.send(request).await;
    if answer.status == 403 {
        assert!(answer.error(403, ErrorCode::Forbidden).hint.is_some(), "{operation:?} says who may");
    }
    (answer.status, String::from_utf8_lossy(&answer.body).into_owned())
}

#[test]
fn every_operation_has_its_row() {
    let rows = rows(Visibility::Lab);
    let named: Vec<String> = rows.iter().map(|(name, ..)| (*name).to_owned()).collect();
    assert_eq!(named, Operation::ALL.map(|operation| format!("{operation:?}")), "the table names all, in their order");
    for (name, _, words) in rows {
        assert_eq!(words.len(), ROLES.len(), "{name}");
    }
}

#[tokio::test]
pub(crate) async fn every_role_may_do_what_the_table_says_and_nothing_else() {
    for database in Database::ALL {
        Box::pin(does_what_the_table_says(database, Visibility::Lab)).await;
    }
}

#[tokio::test]
async fn the_same_where_what_tasks_leave_is_private() {
    Box::pin(does_what_the_table_says(Database::Sqlite, Visibility::Private)).await;
}

async fn does_what_the_table_says(database: Database, visibility: Visibility) {
    let server = TestServer::start_with(database, |options| options.visibility = visibility).await;
    let owners = [Owner::new(&server, "ada").await, Owner::new(&server, "bob").await];
    let mut wrong = Vec::new();
    for (column, role) in ROLES.into_iter().enumerate() {
        let caller = server.with_role(role, "ada").await;
        for (operation, (_, success, words)) in Operation::ALL.into_iter().zip(rows(visibility)) {
            for owner in &owners {
                let own = owner.user == "ada";
                let expected = match (words[column], own) {
                    ("yes" | "self", _) | ("own" | "hid", true) => success,
                    ("no", _) | ("own", false) => 403,
                    ("hid", false) => 404,
                    (word, _) => panic!("{operation:?} as {role}: what is {word:?}?"),
                };
                let asked = Box::pin(owner.asked(operation)).await;
                let before = owner.secrets().await;
                let (status, body) = ask(&caller, operation, &asked).await;
                if status != expected {
                    wrong.push(format!("{operation:?} as {role} of {}: {status}, not {expected}: {body}", owner.user));
                }
                if !own && words[column] != "yes" {
                    assert_eq!(owner.secrets().await, before, "{operation:?} as {role}");
                    assert!(operation != Operation::SecretList || !body.contains("bob_"), "{role}: {body}");
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
