//! `depends_on` through the whole server.

use crate::{NOBODY, completed, small};
use fetchml_api::{FailureCause, link::Outcome};
use fetchml_testkit::{CheckedClient, Database, LinkWorker, TestServer};
use serde_json::{Value, json};

fn after(id: &Value, on: &str) -> Value {
    let mut body = small();
    body["depends_on"] = if on == "ok" { json!([id]) } else { json!([{"id": id, "on": on}]) };
    body
}

async fn show(client: &CheckedClient, task: &Value) -> Value {
    client.get(&format!("/v1/tasks/{}", task["id"].as_str().unwrap())).await.expect(200).json()
}

fn ended(well: bool) -> Outcome {
    let cause = (!well).then_some(FailureCause::ExitNonzero);
    Outcome { cause, exit_code: Some(i32::from(!well)), ..Outcome::default() }
}

/// Waits until a task has left a status.
async fn left(client: &CheckedClient, task: &Value, status: &str) -> Value {
    let leaving = async {
        loop {
            let shown = show(client, task).await;
            if shown["status"] != status {
                return shown;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(fetchml_testkit::DEADLINE, leaving).await.expect("it does not stay so")
}

#[tokio::test]
async fn a_task_waits_for_what_it_depends_on() {
    for database in Database::ALL {
        let server = TestServer::start_with(database, |_| {}).await;
        let ada = server.user("ada").await;
        let first = ada.submit(&small()).await;
        let second = ada.submit(&after(&first["id"], "ok")).await;
        assert_eq!((&second["status"], &second["blocked"]), (&json!("queued"), &json!(true)));
        assert_eq!(second["depends_on"], json!([{"id": first["id"], "on": "ok"}]));
        let server = server.restart().await;
        let ada = server.anonymous().with_key(ada.key);
        let mut worker = LinkWorker::connect(&server).await;
        let assignment = worker.run_next().await;
        assert_eq!(assignment.spec.id.to_string(), first["id"].as_str().unwrap());
        assert_eq!(show(&ada, &second).await["blocked"], true);
        worker.end(&assignment, ended(true)).await;
        assert_eq!(worker.run_next().await.spec.id.to_string(), second["id"].as_str().unwrap());
        assert!(show(&ada, &second).await.get("blocked").is_none());
    }
}

#[tokio::test]
async fn one_that_broke_ends_those_that_depend_on_it() {
    let server = TestServer::start().await;
    let ada = server.user("ada").await;
    let first = ada.submit(&small()).await;
    let second = ada.submit(&after(&first["id"], "ok")).await;
    let third = ada.submit(&after(&second["id"], "ok")).await;
    let cleanup = ada.submit(&after(&second["id"], "any")).await;
    let mut worker = LinkWorker::connect(&server).await;
    let assignment = worker.run_next().await;
    worker.end(&assignment, ended(false)).await;
    for (task, need) in [(&second, &first), (&third, &second)] {
        let task = left(&ada, task, "queued").await;
        assert_eq!((&task["status"], &task["failure"]["cause"]), (&json!("failed"), &json!("dependency")));
        assert_eq!(task["failure"]["retryable"], false);
        assert!(task["error"].as_str().unwrap().contains(need["id"].as_str().unwrap()), "{task}");
    }
    assert_eq!(worker.run_next().await.spec.id.to_string(), cleanup["id"].as_str().unwrap());
}

#[tokio::test]
async fn what_has_ended_before_the_submit_counts_the_same() {
    let server = TestServer::start().await;
    let ada = server.user("ada").await;
    let (mut worker, good) = completed(&server, &ada).await;
    ada.submit(&small()).await;
    let bad = worker.run_next().await;
    worker.end(&bad, ended(false)).await;
    for (need, on, runs) in [(&good, "ok", true), (&good, "any", true), (&bad, "any", true), (&bad, "ok", false)] {
        let task = ada.submit(&after(&json!(need.spec.id), on)).await;
        if runs {
            assert_eq!(worker.run_next().await.spec.id.to_string(), task["id"].as_str().unwrap());
        } else {
            assert_eq!(left(&ada, &task, "queued").await["failure"]["cause"], "dependency");
        }
    }
}

#[tokio::test]
async fn a_submit_that_races_with_the_end_of_its_need_is_sound() {
    let server = TestServer::start().await;
    let ada = server.user("ada").await;
    let mut worker = LinkWorker::connect(&server).await;
    for _ in 0..20 {
        let first = ada.submit(&small()).await;
        let assignment = worker.run_next().await;
        let body = after(&first["id"], "ok");
        let (second, ()) = tokio::join!(ada.submit(&body), worker.end(&assignment, ended(true)));
        let next = worker.run_next().await;
        assert_eq!(next.spec.id.to_string(), second["id"].as_str().unwrap());
        worker.end(&next, ended(true)).await;
    }
}

#[tokio::test]
pub(crate) async fn on_what_there_is_not_are_refused() {
    let server = TestServer::start().await;
    let (ada, bob) = (server.user("ada").await, server.user("bob").await);
    let first = ada.submit(&small()).await;
    let mut body = small();
    body["depends_on"] = json!([NOBODY, first["id"], {"id": NOBODY.replace('1', "2"), "on": "any"}]);
    body["snapshot_id"] = json!(format!("sha256:{}", "a".repeat(64)));
    let answer = ada.post("/v1/tasks", &body).await;
    assert_eq!(answer.problem_fields(), ["snapshot_id", "depends_on[0]", "depends_on[2]"], "all at once");
    // What is hidden is not there any more.
    ada.delete(&format!("/v1/tasks/{}", first["id"].as_str().unwrap())).await.expect(204);
    ada.delete(&format!("/v1/tasks/{}?purge=true", first["id"].as_str().unwrap())).await.expect(204);
    assert_eq!(ada.post("/v1/tasks", &after(&first["id"], "any")).await.problem_fields(), ["depends_on[0]"]);
    // Everybody sees every task, and may wait for it.
    let other = bob.submit(&small()).await;
    ada.submit(&after(&other["id"], "ok")).await;
}
