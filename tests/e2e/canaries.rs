//! Canary secrets of many shapes go every way that a secret can go, well and badly; then everything that is written
//! or answered is searched for them. What they may stand in: the sealed store, the key files, and the process itself.

use crate::support::{DEADLINE, Lab, Process, bare_command, eventually, run, run_with_input, shown};
use fetchml_api::{FailureCause, TaskId, TaskStatus};
use fetchml_store::{Location, Store};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::{Command, Output},
};

const SAY: &str = include_str!("canaries/say.py");
/// Files of a data directory that hold keys by design.
const KEY_FILES: [&str; 3] = ["admin.key", "worker.key", "secrets.key"];

/// A part of every canary that stands in nothing else, by what the canary is.
struct Canaries(BTreeMap<String, String>);

impl Canaries {
    fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// A new one.
    fn mark(&mut self, what: &str) -> String {
        let mark = format!("Canary{:02}{}", self.0.len(), uuid());
        self.0.insert(what.to_owned(), mark.clone());
        mark
    }

    /// One that came about elsewhere, such as a key.
    fn add(&mut self, what: &str, mark: &str) {
        assert!(mark.len() >= 16, "{what} is too short to be looked for");
        self.0.insert(what.to_owned(), mark.to_owned());
    }

    /// Those that stand in `bytes`: as they are, in base64 at any of three places, or in hexadecimal digits.
    fn in_bytes(&self, bytes: &[u8]) -> Vec<&str> {
        let within = |needle: &[u8]| memchr::memmem::find(bytes, needle).is_some();
        let found = self.0.iter().filter(|(_, mark)| {
            let encoded = (0..3).map(|shift| base64_core(mark.as_bytes(), shift));
            within(mark.as_bytes()) || within(hex::encode(mark).as_bytes()) || encoded.into_iter().any(|e| within(&e))
        });
        found.map(|(what, _)| what.as_str()).collect()
    }

    #[track_caller]
    fn assert_none(&self, place: &str, bytes: &[u8]) {
        let found = self.in_bytes(bytes);
        assert!(found.is_empty(), "{found:?} in {place}:\n{}", String::from_utf8_lossy(bytes));
    }

    #[track_caller]
    fn assert_none_shown(&self, output: &Output) {
        self.assert_none("the output of a command", shown(output).as_bytes());
    }

    /// Files below `dir` that hold any.
    fn in_files(&self, dir: &Path) -> Vec<String> {
        let mut found = Vec::new();
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                found.extend(self.in_files(&path));
            } else if !KEY_FILES.iter().any(|name| path.ends_with(name)) {
                // A socket or a file that goes away meanwhile holds nothing.
                let canaries = fs::read(&path).map(|bytes| self.in_bytes(&bytes).join(", ")).unwrap_or_default();
                if !canaries.is_empty() {
                    found.push(format!("{}: {canaries}", path.display()));
                }
            }
        }
        found
    }
}

fn uuid() -> String {
    fs::read_to_string("/proc/sys/kernel/random/uuid").expect("random").trim().replace('-', "")
}

/// What stands in the base64 of any text that holds `mark` at a place `shift` bytes behind a multiple of 3.
fn base64_core(mark: &[u8], shift: usize) -> Vec<u8> {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD_NO_PAD.encode([&[0; 3][..shift], mark].concat());
    text.as_bytes()[(shift * 8).div_ceil(6)..(shift + mark.len()) * 8 / 6].to_vec()
}

/// Secrets of tasks, in shapes that people have.
fn task_secrets(canaries: &mut Canaries) -> BTreeMap<&'static str, String> {
    let mut mark = |what| canaries.mark(what);
    let mut lines = vec!["-----BEGIN PRIVATE KEY-----".to_owned()];
    let long = mark("a private key of many lines");
    lines.extend((0..20).map(|n| format!("{n:02}{long}{n:02}")));
    lines.push("-----END PRIVATE KEY-----\n".to_owned());
    BTreeMap::from([
        ("TOKEN", mark("a token")),
        ("PASSWORD", format!("p@ss w/rd+{}\"'\\&=%é", mark("a password"))),
        ("WEBHOOK", format!("https://hook:{}@example.invalid/in?x=1", mark("a webhook with userinfo"))),
        ("ACCOUNT", json!({"type": "service_account", "key": mark("a key in JSON")}).to_string()),
        ("PRIVATE_KEY", lines.join("\n")),
        ("LONG", format!("{}{}", "x".repeat(1_500), mark("a long one").repeat(40))),
        ("UNICODE", format!("ключ-{}-鍵", mark("a key with letters of all kinds"))),
    ])
}

async fn set(lab: &Lab, name: &str, value: &str) -> Output {
    run_with_input(lab.command(&["secrets", "set", name]), value.as_bytes()).await
}

async fn submit(lab: &Lab, secrets: &[&str], how: &str) -> TaskId {
    let dir = lab.project("say", &[("say.py", SAY)]);
    let mut words = vec!["submit", "--json", "--dir", dir.to_str().expect("UTF-8")];
    for name in secrets {
        words.extend(["--secret", name]);
    }
    words.extend(["--", "/usr/bin/python3", "say.py", how]);
    words.extend(secrets);
    let task: Value = serde_json::from_str(&lab.output(&words).await).expect("JSON");
    task["id"].as_str().expect("an id").parse().expect("an id")
}

/// What anybody may see of a task.
async fn all_about(lab: &Lab, task: TaskId) -> Vec<u8> {
    let shown = lab.output(&["show", &task.to_string(), "--json"]).await;
    [shown.as_bytes(), lab.log(task).await.as_bytes()].concat()
}

/// Tasks that show their secrets in every way: to a good end, a bad one, none, and none at all.
async fn tasks_that_tell(lab: &mut Lab, canaries: &mut Canaries) {
    let secrets = task_secrets(canaries);
    for (name, value) in &secrets {
        let output = set(lab, name, value).await;
        assert!(output.status.success(), "{}", shown(&output));
        canaries.assert_none_shown(&output);
    }
    let names: Vec<&str> = secrets.keys().copied().collect();
    let told = submit(lab, &names, "tell").await;
    lab.until(told, TaskStatus::Completed).await;
    let log = lab.log(told).await;
    assert!(log.contains("in a line: <***") && log.contains("\"k\": \"***"), "it did tell: {log}");
    let failed = submit(lab, &names, "fail").await;
    lab.until(failed, TaskStatus::Failed).await;
    assert!(lab.log(failed).await.contains("the password ***"));
    let hanging = submit(lab, &["TOKEN"], "hang").await;
    lab.until(hanging, TaskStatus::Running).await;
    let token = secrets["TOKEN"].as_str();
    eventually("it says something", DEADLINE, async || lab.log(hanging).await.contains("****").then_some(())).await;
    assert_no_argument_holds(token);
    lab.output(&["cancel", &hanging.to_string()]).await;
    lab.until(hanging, TaskStatus::Failed).await;

    // Replaced and deleted ones, and one that is deleted before its task starts.
    let blocker = submit(lab, &["TOKEN"], "hang").await;
    lab.until(blocker, TaskStatus::Running).await;
    for (name, what) in
        [("GONE", "a deleted secret"), ("GONE_TOO", "a replaced secret"), ("GONE_TOO", "its second value")]
    {
        let value = canaries.mark(what);
        canaries.assert_none_shown(&set(lab, name, &value).await);
    }
    let waiting = submit(lab, &["GONE", "TOKEN"], "tell").await;
    lab.output(&["secrets", "rm", "GONE"]).await;
    lab.output(&["secrets", "rm", "GONE_TOO"]).await;
    lab.output(&["cancel", &blocker.to_string()]).await;
    let task = lab.until(waiting, TaskStatus::Failed).await;
    assert_eq!(task.failure.expect("it failed").cause, FailureCause::Secret);
    assert!(task.error.expect("why").contains("GONE"));
    for task in [told, failed, hanging, blocker, waiting] {
        canaries.assert_none(&format!("task {task}"), &all_about(lab, task).await);
    }
}

/// No process has it in its arguments, where all others of the machine can read it.
fn assert_no_argument_holds(value: &str) {
    for entry in fs::read_dir("/proc").expect("/proc").flatten() {
        let arguments = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let held = memchr::memmem::find(&arguments, value.as_bytes()).is_some();
        assert!(!held, "{}", String::from_utf8_lossy(&arguments));
    }
}

/// A task over whose run the server and the worker are killed.
async fn a_task_through_crashes(lab: &mut Lab, canaries: &mut Canaries) {
    let value = canaries.mark("a secret over crashes");
    set(lab, "CRASH", &value).await;
    let task = submit(lab, &["CRASH"], "slowly").await;
    lab.until(task, TaskStatus::Running).await;
    // Its attempt keeps the value that it has.
    set(lab, "CRASH", &canaries.mark("the value after")).await;
    lab.kill_worker(0);
    lab.kill_server();
    lab.serve().await;
    lab.restart_worker(0).await;
    lab.output(&["secrets", "rm", "CRASH"]).await;
    lab.kill_worker(0);
    lab.restart_worker(0).await;
    lab.until(task, TaskStatus::Completed).await;
    let stars = "*".repeat(value.len());
    let expected: Vec<String> = (0..100).map(|n| format!("{n} {stars}\n")).collect();
    let expected = expected.concat();
    assert_eq!(lab.log(task).await, expected, "not a byte more or less");
    canaries.assert_none(&format!("task {task}"), &all_about(lab, task).await);
}

/// Requests that are wrong and hold a canary.
async fn bad_requests(lab: &Lab, canaries: &mut Canaries) {
    let http = reqwest::Client::new();
    let admin = lab.admin_key();
    let mut mark = |what| canaries.mark(what);
    let json = "application/json";
    let nul = format!("{{\"value\": \"{}\\u0000\"}}", mark("a value with U+0000"));
    let broken = format!("{{\"value\": \"{}", mark("a value in broken JSON"));
    let number = format!("{{\"value\": [\"{}\"]}}", mark("a value of a wrong type"));
    let misnamed = json!({"value": mark("a value under a bad name")}).to_string();
    let long = format!("{{\"value\": \"{}\"}}", mark("a value that is too long").repeat(2_000));
    let env = json!({"job_name": "a", "args": "x", "env": {"A": [mark("an env value of a wrong type")]}}).to_string();
    let slip = json!({"job_name": "a", "args": "x", "secrets": [mark("a value in place of a name") + "!"]}).to_string();
    let unknown = mark("a key nobody has");
    let requests = [
        ("PUT", "/v1/secrets/A", &admin, nul),
        ("PUT", "/v1/secrets/A", &admin, broken),
        ("PUT", "/v1/secrets/A", &admin, number),
        ("PUT", "/v1/secrets/A-B", &admin, misnamed),
        ("PUT", "/v1/secrets/A", &admin, long),
        ("POST", "/v1/tasks", &admin, env),
        ("POST", "/v1/tasks", &admin, slip),
        ("GET", "/v1/tasks", &format!("fml_aaaaaaaaaaaa_{unknown}"), String::new()),
        ("GET", "/v1/tasks", &unknown, String::new()),
        ("PUT", "/v1/secrets/A", &unknown, json!({"value": mark("a value without a valid key")}).to_string()),
    ];
    for (method, path, key, body) in requests {
        let request = http.request(method.parse().expect("a method"), format!("{}{path}", lab.url()));
        let answer = request.header("x-api-key", key).header("content-type", json).body(body).send().await;
        let answer = answer.expect("an answer");
        assert!(answer.status().is_client_error(), "{path}: {}", answer.status());
        let head = format!("{:?}", answer.headers());
        canaries.assert_none(path, &[head.as_bytes(), &answer.bytes().await.expect("a body")].concat());
    }
}

/// Commands that are given a canary where it cannot be of use.
async fn bad_commands(lab: &Lab, canaries: &mut Canaries) {
    let mut outputs = Vec::new();
    let password = canaries.mark("the password of the database");
    let database = |url: String, lab: &Lab| {
        let mut command = bare_command();
        command.args(["serve", "--listen", "127.0.0.1:0", "--data-dir"]).arg(lab.path("other"));
        command.env("HOME", lab.path("home")).env("FETCHML_DATABASE", url).env("FETCHML_LOG", "trace");
        command
    };
    for url in
        ["postgres://u:PW@127.0.0.1:1/x", "postgres://u:PW@/x?bad=1", "postgres://u:PW@[::1/x", "mysql://u:PW@h/x"]
    {
        outputs.push(run(database(url.replace("PW", &password), lab)).await);
    }
    let userinfo = canaries.mark("a password in the server's address");
    for url in ["http://u:PW@127.0.0.1:1", "u:PW@h", "ftp://u:PW@h", "http://h/?key=PW"] {
        let url = url.replace("PW", &userinfo);
        let mut command = lab.command(&["tasks"]);
        command.env("FETCHML_URL", &url);
        outputs.push(run(command).await);
        let mut command = lab.command(&["worker", "--isolation", "none", "--server", &url, "--data-dir"]);
        command.arg(lab.path("other-worker")).arg("--key-file").arg(lab.path("worker.key"));
        outputs.push(run(command).await);
    }
    let key = canaries.mark("a key that is none");
    for key in
        [key.clone(), format!("fml_{key}"), format!("fml_aaaaaaaaaaaa_{key}"), format!("fml_aaaaaaaaaaaa_{key} \n")]
    {
        let mut command = lab.command(&["tasks"]);
        command.env("FETCHML_API_KEY", &key);
        outputs.push(run(command).await);
        let file = lab.path("bad.key");
        fs::write(&file, &key).expect("a file");
        let mut command = lab.command(&["worker", "--isolation", "none", "--server", &lab.url(), "--data-dir"]);
        command.arg(lab.path("other-worker")).arg("--key-file").arg(&file).env_remove("FETCHML_API_KEY");
        outputs.push(run(command).await);
    }
    outputs.push(set(lab, "not-a-name", &canaries.mark("a value for a bad name")).await);
    outputs.push(set(lab, "A", &canaries.mark("a value too long for the command").repeat(2_000)).await);
    for output in outputs {
        assert!(!output.status.success(), "{}", shown(&output));
        canaries.assert_none_shown(&output);
    }
    let mut command = lab.command(&["config"]);
    command.env("FETCHML_DATABASE", format!("postgres://u:{password}@h/x")).env("FETCHML_API_KEY", lab.admin_key());
    let output = run(command).await;
    assert!(output.status.success(), "{}", shown(&output));
    canaries.assert_none_shown(&output);
}

/// Every row of the logs of changes and of audit events.
async fn assert_no_row_holds(lab: &Lab, canaries: &Canaries) {
    let store = Store::open(&Location::Sqlite(lab.data_dir().join("fetchml.db"))).await.expect("the server has ended");
    let (mut after, mut seen) = (0, 0);
    loop {
        let rows = store.change_rows(after, 1_000).await.expect("rows");
        let Some(last) = rows.last() else { break };
        after = last.sequence;
        seen += rows.len();
        for row in &rows {
            canaries.assert_none("a change", row.body.as_bytes());
        }
    }
    assert!(seen > 20, "{seen}");
    let rows = store.audit_rows(0, 10_000).await.expect("rows");
    for row in &rows {
        canaries.assert_none("an audit event", &row.body);
    }
    let actions: Vec<String> = rows.iter().map(|row| String::from_utf8_lossy(&row.body).into_owned()).collect();
    for action in ["secret_set", "secret_delete", "secrets_read"] {
        assert!(actions.iter().any(|body| body.contains(action)), "{action} is recorded");
    }
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_canary_secrets_stand_nowhere_outside_of_their_store() {
    let mut canaries = Canaries::new();
    let mut lab = Lab::new().sandboxed().verbose();
    lab.serve().await;
    lab.worker_with(1, &["--slots", "1"]).await;
    for (what, file) in
        [("the admin's key", lab.data_dir().join("admin.key")), ("a worker's key", lab.path("worker.key"))]
    {
        let key = fs::read_to_string(file).expect("a key");
        canaries.add(what, key.trim().rsplit('_').next().expect("a secret part"));
    }
    tasks_that_tell(&mut lab, &mut canaries).await;
    a_task_through_crashes(&mut lab, &mut canaries).await;
    bad_requests(&lab, &mut canaries).await;
    bad_commands(&lab, &mut canaries).await;
    assert!(canaries.0.len() >= 20, "{}", canaries.0.len());

    // The processes' own logs hold them: 0600, and gone with the attempt.
    let attempts = lab.path("worker1").join("attempts");
    eventually("what ended attempts left is deleted", DEADLINE, async || {
        let left = fs::read_dir(&attempts).expect("attempts").count();
        let trash = fs::read_dir(lab.path("worker1").join("trash")).expect("trash").count();
        (left + trash == 0).then_some(())
    })
    .await;
    // The search would find what is there: a variable that is no secret stands in the open.
    let control = format!("Control{}", uuid());
    let seen = Canaries(BTreeMap::from([("the control".to_owned(), control.clone())]));
    let request = fetchml_api::CreateTaskRequest {
        job_name: "control".into(),
        args: Some("sh -c 'echo $A | base64'".into()),
        env: BTreeMap::from([("A".into(), control)]),
        ..Default::default()
    };
    let task = lab.client().submit(&request, true).await.expect("accepted").id;
    lab.until(task, TaskStatus::Completed).await;

    for process in lab.workers.iter_mut().chain(&mut lab.server) {
        Process::terminate(process).await;
    }
    assert_no_row_holds(&lab, &canaries).await;
    fs::remove_file(lab.path("bad.key")).expect("the test's own");
    let places = seen.in_files(&lab.path("")).join(" ");
    assert!(places.contains("fetchml.db") && places.contains("objects"), "{places}");
    assert_eq!(canaries.in_files(&lab.path("")), [""; 0]);
    for process in lab.workers.iter().chain(&lab.server) {
        assert!(process.stderr().contains("DEBUG"), "they say all they can");
        canaries.assert_none("what a process said", process.stderr().as_bytes());
    }
}

/// A command's words are seen by the whole machine: there is no way to give a value among them.
#[test]
fn no_command_takes_a_value_as_an_argument() {
    let mut command: Command = bare_command();
    let output = command.args(["secrets", "set", "A", "value-in-the-open"]).output().expect("it starts");
    assert!(!output.status.success());
    assert!(!shown(&output).contains("is set"), "{}", shown(&output));
}
