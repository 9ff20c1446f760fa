//! Webhooks over real processes: no event is lost by `kill -9` between any two steps, and the check that
//! docs/webhooks.md shows to receivers accepts what the server sends, and nothing else.

use crate::support::{DEADLINE, Lab, eventually, run_with_input, shown};
use fetchml_api::TaskId;
use fetchml_client::Client;
use fetchml_failpoint::VARIABLE;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    process::Command,
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::timeout,
};

/// One request that came.
#[derive(Clone, Debug)]
struct Heard {
    headers: BTreeMap<String, String>,
    body: String,
}

impl Heard {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("JSON")
    }

    fn task(&self) -> TaskId {
        self.json()["data"]["task_id"].as_str().expect("an id").parse().expect("an id")
    }

    fn seq(&self) -> u64 {
        self.json()["data"]["seq"].as_u64().expect("a number")
    }
}

/// Somebody who hears and takes everything.
struct Receiver {
    url: String,
    heard: mpsc::UnboundedReceiver<Heard>,
}

impl Receiver {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}/hook", listener.local_addr().expect("bound"));
        let (said, heard) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(hear(stream, said.clone()));
            }
        });
        Self { url, heard }
    }

    async fn next(&mut self) -> Heard {
        timeout(DEADLINE, self.heard.recv()).await.expect("a request in time").expect("it listens")
    }
}

/// A request is heard when it is whole: who sends it may die at any moment.
async fn hear(stream: TcpStream, said: mpsc::UnboundedSender<Heard>) -> Option<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let (mut headers, mut line) = (BTreeMap::new(), String::new());
        stream.read_line(&mut line).await.ok().filter(|read| *read > 0)?;
        loop {
            line.clear();
            stream.read_line(&mut line).await.ok().filter(|read| *read > 0)?;
            let Some((name, value)) = line.trim_end().split_once(": ") else { break };
            headers.insert(name.to_ascii_lowercase(), value.to_owned());
        }
        let mut body = vec![0; headers["content-length"].parse().expect("a length")];
        stream.read_exact(&mut body).await.ok()?;
        said.send(Heard { headers, body: String::from_utf8(body).expect("UTF-8") }).ok()?;
        stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.ok()?;
    }
}

async fn serve() -> Lab {
    let mut lab = Lab::new();
    lab.serve_with(&["--webhook-allow-net", "127.0.0.0/8"]);
    lab.serve().await;
    lab
}

/// Submits until the server has died; the tasks that it acknowledged.
async fn submit_until_dead(lab: &mut Lab) -> Vec<TaskId> {
    // One try for each: what is acknowledged is all that counts.
    let client = reqwest::Client::new();
    let (url, key) = (format!("{}/v1/tasks", lab.url()), lab.admin_key());
    let mut acknowledged = Vec::new();
    eventually("the server comes to the place and dies", DEADLINE, async || {
        let body = json!({"job_name": "told", "args": "true"});
        if let Ok(answer) = client.post(&url).header("x-api-key", &key).json(&body).send().await
            && let Ok(task) = answer.json::<Value>().await
        {
            acknowledged.push(task["id"].as_str().expect("it is accepted").parse().expect("an id"));
        }
        lab.server.as_mut().expect("it was started").has_ended().then_some(())
    })
    .await;
    acknowledged
}

#[tokio::test]
async fn no_event_is_lost_by_kill_9() {
    let mut lab = serve().await;
    let mut receiver = Receiver::start().await;
    lab.output(&["webhooks", "create", &receiver.url, "--event", "task.queued"]).await;
    let mut acknowledged = Vec::new();
    // After the commit of what is to be told, and between telling and the note of it.
    for (round, place) in
        ["outbox.written:1", "outbox.told:1", "outbox.written:3", "outbox.told:4"].into_iter().enumerate()
    {
        lab.kill_server();
        let hits = lab.path(&format!("hits-{round}"));
        lab.start_next_with("serve", VARIABLE, format!("{place}:{}", hits.display()));
        lab.serve().await;
        File::create(&hits).expect("a file for the hits");
        acknowledged.extend(submit_until_dead(&mut lab).await);
    }
    lab.serve().await;
    let last = lab.submit("true").await;
    acknowledged.push(last);
    let mut heard = vec![receiver.next().await];
    while heard.last().is_none_or(|heard| heard.task() != last) {
        heard.push(receiver.next().await);
    }
    let told: BTreeSet<TaskId> = heard.iter().map(Heard::task).collect();
    let lost: Vec<_> = acknowledged.iter().filter(|id| !told.contains(id)).collect();
    assert!(lost.is_empty(), "lost: {lost:?}; {} of {} heard", told.len(), acknowledged.len());
    let in_order = heard.windows(2).all(|pair| pair[0].seq() <= pair[1].seq());
    assert!(in_order, "{:?}", heard.iter().map(Heard::seq).collect::<Vec<_>>());
    // What came twice is known by its id and is otherwise the same.
    let mut bodies = BTreeMap::new();
    for one in &heard {
        let before = bodies.insert(&one.headers["webhook-id"], &one.body);
        assert!(before.is_none_or(|before| *before == one.body));
    }
    assert!(bodies.len() < heard.len(), "one was told, died for, and told again");
    let client: Client = lab.client();
    eventually("nothing waits", DEADLINE, async || {
        let webhooks = client.webhooks().await.ok()?;
        assert_eq!((webhooks.len(), webhooks[0].failed), (1, 0), "{webhooks:?}");
        (webhooks[0].waiting == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_documented_check_accepts_what_is_sent_and_nothing_else() {
    let lab = serve().await;
    let mut receiver = Receiver::start().await;
    let made = lab.output(&["webhooks", "create", &receiver.url, "--event", "task.queued", "--json"]).await;
    let made: Value = serde_json::from_str(&made).expect("JSON");
    lab.submit("true").await;
    let heard = receiver.next().await;
    let secret = made["secret"].as_str().expect("a secret");
    assert!(is_ours(secret, &heard).await);

    let other = secret.replacen(|c: char| c.is_ascii_digit(), "x", 1);
    assert!(!is_ours(&other, &heard).await, "another secret");
    let mut changed = heard.clone();
    changed.body = changed.body.replace("task.queued", "task.failed");
    assert!(!is_ours(secret, &changed).await, "another body");
    for name in ["webhook-id", "webhook-signature"] {
        let mut changed = heard.clone();
        changed.headers.get_mut(name).expect("it is there").insert(3, '0');
        assert!(!is_ours(secret, &changed).await, "another {name}");
    }
    // Signed by the same rule, but long ago: only the time is wrong.
    let sent_at: i64 = heard.headers["webhook-timestamp"].parse().expect("seconds");
    let late = format!("time.time = lambda: {}", sent_at + 301);
    assert!(!check(secret, &heard, &late).await, "what was heard once may be sent again by others");
    assert!(check(secret, &heard, &format!("time.time = lambda: {}", sent_at + 299)).await);

    let id = made["id"].as_str().expect("an id");
    let listed = lab.output(&["webhooks", "list"]).await;
    assert!(listed.contains(id) && !listed.contains(secret), "{listed}");
    lab.output(&["webhooks", "delete", &id[24..]]).await;
    assert_eq!(lab.client().webhooks().await.expect("an answer"), []);
}

async fn is_ours(secret: &str, heard: &Heard) -> bool {
    check(secret, heard, "").await
}

/// Runs the check of docs/webhooks.md as it stands there, in surroundings changed by `setup`.
async fn check(secret: &str, heard: &Heard, setup: &str) -> bool {
    let docs = include_str!("../../docs/webhooks.md");
    let (_, snippet) = docs.split_once("```python\n").expect("it shows the check");
    let (snippet, _) = snippet.split_once("```").expect("it ends");
    let script = format!(
        "{snippet}\nimport json, sys\n{setup}\nsecret, headers, body = json.load(sys.stdin)\n\
         print(is_ours(secret, headers, body.encode()))"
    );
    let mut python = Command::new("python3");
    python.args(["-c", &script]);
    let input = json!([secret, heard.headers, heard.body]).to_string();
    let output = run_with_input(python, input.as_bytes()).await;
    match output.stdout.as_slice() {
        b"True\n" => true,
        b"False\n" => false,
        _ => panic!("the check fails: {}", shown(&output)),
    }
}
