use crate::{completed, small};
use fetchml_api::{ErrorCode, link::Outcome};
use fetchml_testkit::{CheckedClient, LinkWorker, TestServer};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

#[tokio::test]
pub(crate) async fn shows_output_and_hides_env() {
    let server = TestServer::start().await;
    let (ada, bob) = (server.user("ada").await, server.user("bob").await);
    let made = ada.submit(&json!({"job_name": "a", "args": "true", "env": {"TOKEN": "s3cret"}})).await;
    let path = format!("/v1/tasks/{}", made["id"].as_str().unwrap());
    assert_eq!(ada.get(&path).await.expect(200).json()["env"]["TOKEN"], "s3cret");
    for other in
        [bob, server.admin(), server.with_role("operator", "op").await, server.with_role("viewer", "ada").await]
    {
        assert_eq!(other.get(&path).await.expect(200).json()["env"]["TOKEN"], "***");
        let list = other.get("/v1/tasks").await.expect(200);
        assert!(!String::from_utf8_lossy(&list.body).contains("s3cret"));
    }
}

#[tokio::test]
async fn an_ended_task_shows_its_worker_and_attempt() {
    let server = TestServer::start().await;
    let admin = server.admin();
    let (worker, assignment) = completed(&server, &admin).await;
    let task = admin.get(&format!("/v1/tasks/{}", assignment.spec.id)).await.expect(200).json();
    assert_eq!(task["status"], "completed");
    assert_eq!(task["worker_id"], worker.id.to_string());
    assert_eq!(task["attempt_id"], assignment.attempt.to_string());
    assert_eq!(task["output"], "");
    assert!(task["started_at"].is_string() && task["ended_at"].is_string());
    assert!(task.get("failure").is_none() && task.get("error").is_none());
}

/// The longest wait that there is.
const LONGEST: Duration = Duration::from_mins(1);

fn path(task: &Value) -> String {
    format!("/v1/tasks/{}", task["id"].as_str().unwrap())
}

/// Waits in the background until a task is another than `known`; fails where that took the whole time.
fn other_than(client: &CheckedClient, task: &Value, known: &str) -> tokio::task::JoinHandle<String> {
    let (client, path) = (client.clone(), format!("{}?wait=60s&known={known}", path(task)));
    tokio::spawn(async move {
        let began = Instant::now();
        let task = client.get(&path).await.expect(200).json();
        assert!(began.elapsed() < LONGEST, "a change ends the wait");
        task["status"].as_str().unwrap().to_owned()
    })
}

#[tokio::test]
async fn a_wait_ends_at_a_change_or_after_its_time() {
    let server = TestServer::start().await;
    let ada = server.user("ada").await;
    let task = ada.submit(&small()).await;
    for query in ["wait=1s", "wait=1&known=queued"] {
        let began = Instant::now();
        let same = ada.get(&format!("{}?{query}", path(&task))).await.expect(200).json();
        assert_eq!(same["status"], "queued");
        assert!(began.elapsed() >= Duration::from_secs(1), "{query}: {:?}", began.elapsed());
    }
    for query in ["known=running", "wait=0s", "wait=60s&known=running"] {
        let began = Instant::now();
        ada.get(&format!("{}?{query}", path(&task))).await.expect(200);
        assert!(began.elapsed() < LONGEST, "{query}");
    }

    let started = other_than(&ada, &task, "queued");
    let mut worker = LinkWorker::connect(&server).await;
    let assignment = worker.run_next().await;
    assert_ne!(started.await.unwrap(), "queued");
    let ended = other_than(&ada, &task, "running");
    worker.end(&assignment, Outcome { exit_code: Some(0), ..Outcome::default() }).await;
    assert_ne!(ended.await.unwrap(), "running");
    let began = Instant::now();
    let over = ada.get(&format!("{}?wait=60s&known=completed", path(&task))).await.expect(200).json();
    assert_eq!(over["status"], "completed", "what is over does not change");
    assert!(began.elapsed() < LONGEST);
}

#[tokio::test]
async fn a_wait_ends_with_its_key_and_with_its_task() {
    let server = TestServer::start().await;
    let (ada, bob, admin) = (server.user("ada").await, server.user("bob").await, server.admin());
    let task = ada.submit(&small()).await;
    let cancelled = other_than(&ada, &task, "queued");
    ada.delete(&path(&task)).await.expect(204);
    assert_eq!(cancelled.await.unwrap(), "failed");

    let task = ada.submit(&small()).await;
    let waiting = path(&task) + "?wait=60s";
    let waiting = tokio::spawn(async move { bob.get(&waiting).await });
    let keys = admin.get("/v1/keys").await.expect(200).json();
    let of_bob = keys["keys"].as_array().unwrap().iter().find(|key| key["user_id"] == "bob").unwrap();
    admin.delete(&format!("/v1/keys/{}", of_bob["id"].as_str().unwrap())).await.expect(204);
    waiting.await.unwrap().error(401, ErrorCode::Unauthorized);
}
