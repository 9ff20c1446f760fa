use crate::{NOBODY, running, sha256, small};
use fetchml_api::{
    Artifact, EnforcedLimits, ErrorCode, FailureCause, Host, Provenance, PythonFacts, Source,
    link::{Assignment, Outcome, Report},
};
use fetchml_testkit::{CheckedClient, Database, LinkWorker, TestServer};
use serde_json::{Value, json};

fn provenance() -> Provenance {
    let packages = vec!["numpy==2.0".to_owned()];
    Provenance {
        host: Host { hostname: "box".into(), kernel: "6.1".into(), cpu_cores: 4, ..Host::default() },
        isolation: "bubblewrap".into(),
        limits: EnforcedLimits { memory_bytes: Some(1 << 30), by: Some("rlimit".into()), ..EnforcedLimits::default() },
        python: Some(PythonFacts { environment: "e".into(), packages, ..PythonFacts::default() }),
        ..Provenance::default()
    }
}

async fn manifest(client: &CheckedClient, task: impl std::fmt::Display, query: &str) -> Value {
    client.get(&format!("/v1/tasks/{task}/manifest{query}")).await.expect(200).json()
}

/// A task whose worker says how it runs it.
async fn begun(server: &TestServer, owner: &CheckedClient) -> (LinkWorker, Assignment) {
    let mut body = small();
    body["env"] = json!({"PYTHONHASHSEED": "7", "TOKEN": "hush"});
    body["source"] = json!(Source { commit: "c".repeat(40), dirty: Some(false), ..Source::default() });
    body["max_retries"] = json!(1);
    owner.submit(&body).await;
    let mut worker = LinkWorker::connect(server).await;
    let assignment = worker.assignment().await;
    worker.report(&assignment, Report::Accepted).await;
    worker.report_with(&assignment, Report::Running, Some(provenance())).await;
    (worker, assignment)
}

#[tokio::test]
pub(crate) async fn tells_how_a_run_came_about() {
    for database in Database::ALL {
        let server = TestServer::start_with(database, |_| {}).await;
        let (ada, bob) = (server.user("ada").await, server.user("bob").await);
        let (mut worker, assignment) = begun(&server, &ada).await;
        let (task, attempt) = (assignment.spec.id, assignment.attempt);
        let running = manifest(&ada, task, "").await;
        assert_eq!((&running["schema"], &running["outcome"], &running["log"]), (&json!(1), &Value::Null, &Value::Null));
        assert_eq!(running["nodes"][0]["worker_id"], json!(worker.id));
        assert_eq!(running["nodes"][0]["provenance"], json!(provenance()));

        let log = worker.log(attempt, 0, b"fetchml: ready\nloss 1\n").await;
        let artifact = Artifact { path: "m.pt".into(), size_bytes: 1, sha256: sha256(b"x") };
        let outcome = Outcome {
            exit_code: Some(0),
            log_bytes: log,
            log_from: 15,
            log_sha256: Some(sha256(b"loss 1\n")),
            artifacts: vec![artifact.clone()],
            ..Outcome::default()
        };
        worker.end(&assignment, outcome).await;
        let answer = ada.get(&format!("/v1/tasks/{task}/manifest?attempt=1")).await.expect(200);
        assert_eq!(answer.header("etag"), format!("\"{}\"", sha256(&answer.body)));
        let text = String::from_utf8(answer.body.to_vec()).unwrap();
        let ended: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(text, ended.to_string(), "members in order, no blanks");
        assert_eq!(ended["outcome"], json!({"success": true, "exit_code": 0}));
        assert_eq!(ended["artifacts"], json!([artifact]));
        assert_eq!(ended["log"], json!({"size_bytes": 7, "sha256": sha256(b"loss 1\n")}));
        assert_eq!((&ended["attempt"]["id"], &ended["attempt"]["phase"]), (&json!(attempt), &json!("ended")));
        let spec = &ended["spec"];
        assert_eq!((&spec["entrypoint"], &spec["cpu"], &spec["priority"]), (&json!("/bin/true"), &json!(1), &json!(5)));
        assert_eq!(spec["source"]["commit"], json!("c".repeat(40)));
        assert_eq!((&spec["env"]["TOKEN"], &ended["seeds"]), (&json!("hush"), &json!({"PYTHONHASHSEED": "7"})));

        // What is in the environment is the owner's alone; everything else is the lab's.
        for other in [&bob, &server.admin()] {
            let mut theirs = manifest(other, task, "").await;
            assert_eq!(
                (&theirs["spec"]["env"]["TOKEN"], &theirs["seeds"]["PYTHONHASHSEED"]),
                (&json!("***"), &json!("***"))
            );
            (theirs["spec"]["env"], theirs["seeds"]) = (ended["spec"]["env"].clone(), ended["seeds"].clone());
            assert_eq!(theirs, ended);
        }
        let server = server.restart().await;
        assert_eq!(manifest(&CheckedClient::new(&server.url(), ada.key), task, "").await, ended);
    }
}

#[tokio::test]
pub(crate) async fn there_is_none_before_the_first_attempt() {
    let server = TestServer::start().await;
    let ada = server.user("ada").await;
    let task = ada.submit(&small()).await["id"].as_str().unwrap().to_owned();
    for path in [format!("{task}/manifest"), format!("{task}/manifest?attempt=1"), format!("{NOBODY}/manifest")] {
        ada.get(&format!("/v1/tasks/{path}")).await.error(404, ErrorCode::NotFound);
    }
}

#[tokio::test]
async fn each_attempt_has_its_own_and_only_its_worker_is_believed() {
    let server = TestServer::start().await;
    let ada = server.user("ada").await;
    let (mut worker, first) = begun(&server, &ada).await;
    let task = first.spec.id;
    let failed = Outcome { cause: Some(FailureCause::ExitNonzero), exit_code: Some(3), ..Outcome::default() };
    worker.end(&first, failed).await;
    let second = worker.assignment().await;
    worker.report(&second, Report::Accepted).await;
    worker.report(&second, Report::Running).await;
    let lie = || Some(Provenance { isolation: "a lie".into(), ..provenance() });
    // Of an attempt that is over, and from a worker that does not have it.
    worker.report_with(&first, Report::Running, lie()).await;
    let mut stranger = LinkWorker::connect(&server).await;
    stranger.report_with(&second, Report::Running, lie()).await;
    assert_eq!(manifest(&ada, task, "?attempt=1").await["nodes"][0]["provenance"]["isolation"], json!("bubblewrap"));
    assert_eq!(manifest(&ada, task, "?attempt=1").await["outcome"]["exit_code"], json!(3));
    assert_eq!(manifest(&ada, task, "").await["nodes"][0]["provenance"], Value::Null);
    // What no database takes, and what is no hash, is left out: the report counts.
    let nul = Provenance { isolation: "a\0b".into(), ..provenance() };
    worker.report_with(&second, Report::Collecting, Some(nul)).await;
    let outcome = Outcome { exit_code: Some(0), log_sha256: Some("no hash".into()), ..Outcome::default() };
    worker.report(&second, Report::Ended(outcome)).await;
    let ended = manifest(&ada, task, "").await;
    assert_eq!((&ended["outcome"]["success"], &ended["nodes"][0]["provenance"]), (&json!(true), &Value::Null));
    assert_eq!(ended["log"]["sha256"], Value::Null);
}

#[tokio::test]
async fn a_task_that_did_not_say_how_it_ran_has_one_too() {
    let server = TestServer::start().await;
    let ada = server.user("ada").await;
    let (_worker, assignment) = running(&server, &ada).await;
    let shown = manifest(&ada, assignment.spec.id, "").await;
    assert_eq!((&shown["spec"]["job_name"], &shown["seeds"]), (&json!("a"), &json!({})));
}
