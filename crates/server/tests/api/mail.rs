//! Mail about tasks, handed to a server that speaks SMTP.

use crate::small;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use fetchml_api::{FailureCause, link::Outcome};
use fetchml_server::{MailSettings, Options};
use fetchml_testkit::{CheckedClient, DEADLINE, Database, LinkWorker, TestServer, eventually};
use serde_json::{Value, json};
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::timeout,
};

/// What came in one `DATA`, and to whom.
#[derive(Debug)]
struct Mail {
    to: String,
    text: String,
}

impl Mail {
    /// The value of a header that stands in one line.
    fn header(&self, name: &str) -> &str {
        let mut lines = self.text.split_once("\r\n\r\n").unwrap().0.lines();
        lines
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
            .unwrap_or_else(|| panic!("{name} of {self:?}"))
    }
}

type Answers = Arc<Mutex<VecDeque<&'static str>>>;

/// An SMTP server that takes everything, but what `answers` say to the next `RCPT`s.
struct Smtp {
    port: u16,
    mails: mpsc::UnboundedReceiver<Mail>,
    answers: Answers,
    /// First words of all commands.
    commands: Arc<Mutex<Vec<String>>>,
}

const USER: &str = "fetchml";
const PASSWORD: &str = "canary-smtp-password";

impl Smtp {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (said, mails) = mpsc::unbounded_channel();
        let answers = Answers::default();
        let commands = Arc::default();
        let (script, heard) = (Arc::clone(&answers), Arc::clone(&commands));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(converse(stream, said.clone(), Arc::clone(&script), Arc::clone(&heard)));
            }
        });
        Self { port, mails, answers, commands }
    }

    async fn next(&mut self) -> Mail {
        timeout(DEADLINE, self.mails.recv()).await.expect("a mail in time").unwrap()
    }

    fn nothing_more(&mut self) {
        assert!(self.mails.try_recv().is_err());
    }

    fn answer(&self, answers: &[&'static str]) {
        self.answers.lock().unwrap().extend(answers);
    }

    async fn server(&self) -> TestServer {
        self.server_with("?tls=none").await
    }

    async fn server_with(&self, tls: &str) -> TestServer {
        let url = format!("smtp://{USER}@127.0.0.1:{}{tls}", self.port);
        let password = Some(PASSWORD.to_owned().into());
        let mail = MailSettings::new(&url, password, "FetchML <fetchml@example.org>", &["lab.test".into()]).unwrap();
        let change = |options: &mut Options| {
            options.mail = Some(mail);
            options.deliveries.retry_first = Duration::from_millis(1);
        };
        TestServer::start_with(Database::Sqlite, change).await
    }
}

/// One connection. Nobody who does not log in gets anywhere.
async fn converse(
    stream: TcpStream,
    said: mpsc::UnboundedSender<Mail>,
    answers: Answers,
    commands: Arc<Mutex<Vec<String>>>,
) -> Option<()> {
    let mut stream = BufReader::new(stream);
    stream.write_all(b"220 test ESMTP\r\n").await.ok()?;
    let (mut line, mut to, mut is_known) = (String::new(), String::new(), false);
    loop {
        line.clear();
        stream.read_line(&mut line).await.ok().filter(|read| *read > 0)?;
        commands.lock().unwrap().push(line.split_whitespace().next().unwrap_or_default().to_owned());
        let login = format!("AUTH PLAIN {}", STANDARD.encode(format!("\0{USER}\0{PASSWORD}")));
        let answer = match line.trim_end() {
            text if text.starts_with("EHLO ") => "250-test\r\n250 AUTH PLAIN",
            text if text == login => {
                is_known = true;
                "235 welcome"
            }
            text if text.starts_with("MAIL FROM:<fetchml@example.org>") && is_known => "250 ok",
            text if text.starts_with("RCPT TO:<") && is_known => {
                to = text["RCPT TO:<".len()..].trim_end_matches('>').to_owned();
                answers.lock().unwrap().pop_front().unwrap_or("250 ok")
            }
            "DATA" => {
                stream.write_all(b"354 go on\r\n").await.ok()?;
                let mut text = String::new();
                while !text.ends_with("\r\n.\r\n") {
                    stream.read_line(&mut text).await.ok().filter(|read| *read > 0)?;
                }
                said.send(Mail { to: to.clone(), text }).ok()?;
                "250 taken"
            }
            "RSET" | "NOOP" => "250 ok",
            "QUIT" => "221 bye",
            _ => "500 what?",
        };
        stream.write_all(format!("{answer}\r\n").as_bytes()).await.ok()?;
    }
}

fn with_mail(notify: Value) -> Value {
    let mut body = small();
    body["notify"] = notify;
    body
}

/// Runs the next task to its end.
async fn run(worker: &mut LinkWorker, exit_code: i32) {
    let assignment = worker.run_next().await;
    let mut outcome = Outcome { exit_code: Some(exit_code), ..Outcome::default() };
    if exit_code != 0 {
        outcome.cause = Some(FailureCause::ExitNonzero);
        outcome.error = Some("it broke\r\nBcc: bob@lab.test\r\n.\r\nQUIT".into());
    }
    worker.end(&assignment, outcome).await;
}

#[tokio::test]
async fn tells_how_tasks_ended_whoever_asked_for_it() {
    let mut smtp = Smtp::start().await;
    let server = smtp.server().await;
    let (ada, bob) = (server.user("ada").await, server.user("bob").await);
    let mut worker = LinkWorker::connect(&server).await;
    bob.submit(&small()).await;
    run(&mut worker, 0).await;
    let first = ada.submit(&with_mail(json!({"email": "ada@lab.test"}))).await;
    assert_eq!(first["notify"], json!({"email": "ada@lab.test", "on": ["completed", "failed"]}));
    run(&mut worker, 0).await;
    let mail = smtp.next().await;
    assert_eq!(mail.to, "ada@lab.test");
    assert_eq!((mail.header("Subject"), mail.header("To")), ("[FetchML] a completed", "ada@lab.test"));
    assert_eq!(
        (mail.header("From"), mail.header("Auto-Submitted")),
        ("FetchML <fetchml@example.org>", "auto-generated")
    );
    assert!(mail.text.contains(first["id"].as_str().unwrap()), "{mail:?}");

    let second = ada.submit(&with_mail(json!({"email": "ada@lab.test", "on": ["running", "failed"]}))).await;
    run(&mut worker, 3).await;
    let (mail, ended) = (smtp.next().await, smtp.next().await);
    assert_eq!(mail.header("Subject"), "[FetchML] a is running");
    assert!(ended.header("Subject").starts_with("[FetchML] a failed"), "{ended:?}");
    assert!(ended.text.contains("exit code  3") && ended.text.contains("it broke"), "{ended:?}");
    assert!(!ended.text.contains("\r\nBcc"), "{ended:?}");
    assert_ne!(mail.header("Message-ID"), ended.header("Message-ID"));
    smtp.nothing_more();

    // Others see that mail is sent, and of what, but not to whom.
    let path = format!("/v1/tasks/{}", second["id"].as_str().unwrap());
    assert_eq!(ada.get(&path).await.expect(200).json()["notify"]["email"], "ada@lab.test");
    let hidden = json!({"email": "***", "on": ["running", "failed"]});
    assert_eq!(bob.get(&path).await.expect(200).json()["notify"], hidden);
    // Whoever runs it again says anew who is told.
    let again = ada.post(&format!("{path}/rerun"), &json!({})).await.expect(201).json();
    assert_eq!(again["notify"], Value::Null);
}

#[tokio::test]
async fn an_array_is_told_of_once_when_it_is_over() {
    let mut smtp = Smtp::start().await;
    let server = smtp.server().await;
    let ada = server.user("ada").await;
    let mut worker = LinkWorker::connect(&server).await;
    let mut body = with_mail(json!({"email": "ada@lab.test", "on": ["running", "completed", "failed"]}));
    body["array"] = json!("0-2%1");
    let array = ada.submit(&body).await["array_id"].as_str().unwrap().to_owned();
    for exit_code in [0, 7, 0] {
        run(&mut worker, exit_code).await;
    }
    // Another task's mail comes after whatever more the array would send.
    ada.submit(&with_mail(json!({"email": "ada@lab.test"}))).await;
    run(&mut worker, 0).await;
    let mail = smtp.next().await;
    assert_eq!(mail.header("Subject"), "[FetchML] array a failed");
    let counts = ["tasks      3", "completed  2", "failed     1"];
    assert!(mail.text.contains(&array) && counts.iter().all(|count| mail.text.contains(count)), "{mail:?}");
    assert_eq!(smtp.next().await.header("Subject"), "[FetchML] a completed");
    smtp.nothing_more();
}

#[tokio::test]
async fn what_the_server_takes_later_comes_later_and_what_it_never_takes_is_given_up() {
    let mut smtp = Smtp::start().await;
    let server = smtp.server().await;
    let (ada, bob) = (server.user("ada").await, server.user("bob").await);
    let mut worker = LinkWorker::connect(&server).await;
    smtp.answer(&["451 not now", "452 later", "250 ok", "550 nobody here"]);
    ada.submit(&with_mail(json!({"email": "late@lab.test"}))).await;
    run(&mut worker, 0).await;
    assert_eq!(smtp.next().await.to, "late@lab.test");
    ada.submit(&with_mail(json!({"email": "nobody@lab.test"}))).await;
    run(&mut worker, 0).await;
    eventually("the refusal is heard", async || smtp.answers.lock().unwrap().is_empty().then_some(())).await;
    ada.submit(&with_mail(json!({"email": "ada@lab.test"}))).await;
    run(&mut worker, 0).await;
    assert_eq!(smtp.next().await.to, "ada@lab.test", "the one before was given up at once");

    // What waits outlives a restart: the server is away, and then is there at the same place.
    smtp.answer(&["421 closing"; 3]);
    bob.submit(&with_mail(json!({"email": "bob@lab.test"}))).await;
    run(&mut worker, 0).await;
    drop(worker);
    let _server = server.restart().await;
    assert_eq!(smtp.next().await.to, "bob@lab.test");
    smtp.nothing_more();
}

#[tokio::test]
async fn nothing_is_said_without_tls_unless_it_is_asked_for() {
    let mut smtp = Smtp::start().await;
    let server = smtp.server_with("").await;
    let mut worker = LinkWorker::connect(&server).await;
    server.user("ada").await.submit(&with_mail(json!({"email": "ada@lab.test"}))).await;
    run(&mut worker, 0).await;
    let greetings = async || {
        let commands = smtp.commands.lock().unwrap().clone();
        (commands.iter().filter(|command| *command == "EHLO").count() > 1).then_some(commands)
    };
    let commands = eventually("it is tried, and tried again", greetings).await;
    assert!(commands.iter().all(|command| ["EHLO", "QUIT"].contains(&command.as_str())), "{commands:?}");
    smtp.nothing_more();
}

#[tokio::test]
pub(crate) async fn mail_that_may_not_be_asked_for() {
    let (smtp, plain) = (Smtp::start().await, TestServer::start().await);
    let server = smtp.server().await;
    let ada = server.user("ada").await;
    let fields = async |client: &CheckedClient, notify: Value| {
        client.post("/v1/tasks", &with_mail(notify)).await.problem_fields()
    };
    let without = plain.user("ada").await;
    assert_eq!(fields(&without, json!({"email": "ada@lab.test"})).await, ["notify.email"], "it sends no mail");
    for email in [
        "",
        "ada",
        "ada@evil.test",
        "ada@lab.test@evil.test",
        "ada@lab.test\r\nBcc: bob@evil.test",
        "ada@lab.test\r\nRCPT TO:<bob@evil.test>",
        "ada@lab.test, bob@evil.test",
        "Ada <ada@lab.test>",
        "ada@lab.test> NOTIFY=SUCCESS",
        "a\u{0}da@lab.test",
    ] {
        assert_eq!(fields(&ada, json!({"email": email})).await, ["notify.email"], "{email:?}");
    }
    for (notify, expected) in [
        (json!("ada@lab.test"), &["notify"][..]),
        (json!({}), &["notify.email"]),
        (json!({"email": "ada@lab.test", "on": []}), &["notify.on"]),
        (json!({"email": "ada@lab.test", "on": "failed"}), &["notify.on"]),
        (json!({"email": 1, "on": ["failed", "eaten", 2]}), &["notify.email", "notify.on[2]"]),
        (json!({"email": "ada@lab.test", "on": ["eaten"], "at": 1}), &["notify.at", "notify.on[0]"]),
    ] {
        let mut found = fields(&ada, notify.clone()).await;
        found.sort();
        assert_eq!(found, expected, "{notify}");
    }
}
