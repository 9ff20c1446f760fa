//! Streams of changes go on after `kill -9` of the server: no gap, no repeat, in pieces of any size.

use crate::support::{DEADLINE, Lab};
use fetchml_api::{CreateTaskRequest, TaskId, TaskStatus};
use fetchml_store::{Location, Store};
use serde_json::Value;
use std::{fs, path::Path};

const ALL: &str = "/v1/scheduler/status/stream";
/// Tasks submitted before each kill, and after the last restart.
const TASKS: usize = 8;
const KILLS: usize = 3;

/// One event: its number in the log of changes, its kind and what it tells.
#[derive(Clone, Debug, PartialEq)]
struct Told {
    number: u64,
    kind: String,
    body: Value,
}

impl Told {
    fn ends(&self, task: TaskId) -> bool {
        self.kind == "job"
            && self.body["id"] == task.to_string()
            && ["completed", "failed"].contains(&self.body["status"].as_str().expect("a status"))
    }
}

/// One connection.
struct Reading {
    response: reqwest::Response,
    buffer: String,
}

impl Reading {
    async fn open(lab: &Lab, path: &str, after: Option<u64>) -> Self {
        let mut request = reqwest::Client::builder()
            .no_proxy()
            .build()
            .expect("a client")
            .get(format!("{}{path}", lab.url()))
            .header("x-api-key", lab.admin_key());
        if let Some(number) = after {
            request = request.header("last-event-id", number);
        }
        let response = request.send().await.expect("an answer").error_for_status().expect("it is allowed");
        Self { response, buffer: String::new() }
    }

    /// The next event; none when the connection has ended or broken. Comments are none.
    async fn next(&mut self) -> Option<Told> {
        tokio::time::timeout(DEADLINE, self.event()).await.expect("an event in time")
    }

    async fn event(&mut self) -> Option<Told> {
        loop {
            if let Some((block, rest)) = self.buffer.split_once("\n\n") {
                let field = |name: &str| {
                    block.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim().to_owned()))
                };
                let told = field("data").map(|data| Told {
                    number: field("id").expect("only a reset has none").parse().expect("a number"),
                    kind: field("event").expect("a kind"),
                    body: serde_json::from_str(&data).expect("JSON"),
                });
                self.buffer = String::from(rest);
                match told {
                    Some(told) => return Some(told),
                    None => continue,
                }
            }
            let chunk = self.response.chunk().await.ok()??;
            self.buffer.push_str(std::str::from_utf8(&chunk).expect("UTF-8"));
        }
    }
}

/// Everything that one reader was told after what it began with, over all its connections.
struct Reader {
    path: String,
    /// Number of what it began with.
    began: u64,
    told: Vec<Told>,
    connection: Option<Reading>,
    connections: usize,
}

/// More connections than this one reader makes only where what it waits for never comes.
const CONNECTIONS_MAX: usize = 2_000;

impl Reader {
    async fn begin(lab: &Lab, path: &str) -> Self {
        let mut connection = Reading::open(lab, path, None).await;
        let began = connection.next().await.expect("it begins with how things are").number;
        Self { path: path.to_owned(), began, told: Vec::new(), connection: Some(connection), connections: 1 }
    }

    fn place(&self) -> u64 {
        self.told.last().map_or(self.began, |told| told.number)
    }

    /// Connects where it has none, and reads until `done` or the connection ends. At the beginning each thing is
    /// shown under the number of the last change before: that is not one of the changes.
    async fn read(&mut self, lab: &Lab, mut done: impl FnMut(&[Told]) -> bool) {
        let place = self.place();
        if self.connection.is_none() {
            self.connections += 1;
            assert!(self.connections < CONNECTIONS_MAX, "what is waited for is not told: {:?}", self.told);
        }
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => none.insert(Reading::open(lab, &self.path, Some(place)).await),
        };
        while !done(&self.told) {
            match connection.next().await {
                Some(told) if told.number == self.began && self.told.is_empty() => {}
                Some(told) => self.told.push(told),
                None => return self.connection = None,
            }
        }
    }

    /// Hangs up, wherever it is in what was sent.
    fn hang_up(&mut self) {
        self.connection = None;
    }
}

/// A task that waits for the gate.
async fn submit_gated(lab: &Lab, gate: &Path) -> TaskId {
    let args = Some(format!("bash -c 'while [ ! -e {} ]; do sleep 0.1; done'", gate.display()));
    let request = CreateTaskRequest { job_name: "told".into(), args, cpu: Some(0), ..Default::default() };
    lab.client().submit(&request, true).await.expect("a task").id
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g7_streams_go_on_after_kill_9_of_the_server_without_gap_or_repeat() {
    let mut lab = Lab::new().worker_wrapped(&["/usr/bin/env", "FETCHML_SLOTS=4"]);
    lab.serve_with(&["--rate-limits", "off"]);
    lab.serve().await;
    lab.worker(1).await;
    // One hangs up all the time, one is only cut off by the kills, one follows a task.
    let mut restless = Reader::begin(&lab, ALL).await;
    let mut steady = Reader::begin(&lab, ALL).await;
    let mut of_task = None;
    let mut tasks = Vec::new();
    for kill in 0..KILLS {
        let gate = lab.path(&format!("gate{kill}"));
        let before = tasks.len();
        for _ in 0..TASKS {
            tasks.push(submit_gated(&lab, &gate).await);
        }
        let (first, last) = (tasks[before], tasks[before + TASKS - 1]);
        lab.until(first, TaskStatus::Running).await;
        if kill == 0 {
            of_task = Some((first, Reader::begin(&lab, &format!("/v1/scheduler/jobs/{first}/stream")).await));
        }
        let mut pieces = 0;
        while !restless.told.iter().any(|told| told.body["id"] == last.to_string()) {
            pieces += 1;
            let enough = restless.told.len() + pieces % 5 + 1;
            restless.read(&lab, |told| told.len() >= enough).await;
            restless.hang_up();
        }
        lab.kill_server();
        // They end, and the next of them wait, while nobody is there to tell of it.
        fs::write(&gate, "").unwrap();
        steady.read(&lab, |_| false).await;
        lab.serve().await;
        // Goes on, and takes what comes when it is cut off again.
        steady.read(&lab, |_| true).await;
        for task in &tasks[before..] {
            lab.until(*task, TaskStatus::Completed).await;
        }
    }
    let (task, mut of_task) = of_task.unwrap();
    while !of_task.told.last().is_some_and(|told| told.ends(task)) {
        // Cut off by the kills.
        of_task.read(&lab, |told| told.last().is_some_and(|told| told.ends(task))).await;
    }
    for reader in [&mut restless, &mut steady] {
        while !tasks.iter().all(|task| reader.told.iter().any(|told| told.ends(*task))) {
            let all = |told: &[Told]| tasks.iter().all(|task| told.iter().any(|told| told.ends(*task)));
            reader.read(&lab, all).await;
        }
    }

    lab.kill_server();
    let rows = written(&lab).await;
    for reader in [&restless, &steady] {
        let expected: Vec<Told> =
            rows.iter().filter(|row| row.number > reader.began).take(reader.told.len()).cloned().collect();
        assert_eq!(reader.told, expected);
    }
    let of_it: Vec<Told> =
        rows.into_iter().filter(|row| row.number > of_task.began && row.body["id"] == task.to_string()).collect();
    assert_eq!(of_task.told, of_it);
    assert!(of_it.len() > 1, "it was running when the server died");
}

/// The log of changes, as it stands in the database.
async fn written(lab: &Lab) -> Vec<Told> {
    let store = Store::open(&Location::Sqlite(lab.data_dir().join("fetchml.db"))).await.expect("it opens");
    let mut rows: Vec<Told> = Vec::new();
    loop {
        let page = store.change_rows(rows.last().map_or(0, |row| row.number), 1_000).await.expect("rows");
        if page.is_empty() {
            return rows;
        }
        rows.extend(page.into_iter().map(|row| Told {
            number: row.sequence,
            kind: row.kind,
            body: serde_json::from_str(&row.body).expect("JSON"),
        }));
    }
}
