//! Arrays: one request, a task for each index, shown and cancelled as one.

use crate::{NOBODY, small};
use fetchml_api::{ErrorCode, link::Outcome};
use fetchml_testkit::{CheckedClient, Database, LinkWorker, TestServer};
use serde_json::{Value, json};

fn array(spec: &str) -> Value {
    let mut body = small();
    body["array"] = json!(spec);
    body
}

fn path(task: &Value) -> String {
    format!("/v1/arrays/{}", task["array_id"].as_str().unwrap())
}

/// Indices of the tasks of an array, newest first.
async fn indices(client: &CheckedClient, task: &Value) -> Vec<i64> {
    let path = format!("/v1/tasks?limit=1000&array_id={}", task["array_id"].as_str().unwrap());
    let list = client.get(&path).await.expect(200).json();
    let tasks = list["tasks"].as_array().unwrap();
    assert_eq!(list["total"], tasks.len());
    tasks.iter().map(|task| task["array_index"].as_i64().unwrap()).collect()
}

fn ok() -> Outcome {
    Outcome { exit_code: Some(0), ..Outcome::default() }
}

#[tokio::test]
pub(crate) async fn are_made_shown_and_cancelled_as_one() {
    for database in Database::ALL {
        let server = TestServer::start_with(database, |_| {}).await;
        let ada = server.user("ada").await;
        let first = ada.submit(&array("0-3,20,30-40:5%2")).await;
        assert_eq!(first["array_index"], 0);
        assert_eq!(indices(&ada, &first).await, [40, 35, 30, 20, 3, 2, 1, 0]);
        let server = server.restart().await;
        let ada = server.anonymous().with_key(ada.key);
        let mut worker = LinkWorker::connect(&server).await;
        let runs = [worker.run_next().await, worker.run_next().await];
        let members = runs.each_ref().map(|run| run.spec.array.unwrap());
        assert_eq!(members.map(|member| member.index), [0, 1]);
        assert_eq!(members[0].id.to_string(), first["array_id"].as_str().unwrap());
        worker.end(&runs[0], ok()).await;
        let next = worker.run_next().await;
        assert_eq!(next.spec.array.unwrap().index, 2, "two at once");
        let shown = ada.get(&path(&first)).await.expect(200).json();
        let counts = ["queued", "running", "completed", "failed"].map(|status| shown[status].as_i64().unwrap());
        assert_eq!(counts, [5, 2, 1, 0], "{shown}");
        assert_eq!((&shown["count"], &shown["max_running"]), (&json!(8), &json!(2)));
        assert_eq!((&shown["first_task"], &shown["user_id"]), (&first["id"], &json!("ada")));
        ada.delete(&path(&first)).await.expect(204);
        ada.delete(&path(&first)).await.expect(204);
        for run in [&runs[1], &next] {
            worker.end(run, ok()).await;
        }
        let shown = ada.get(&path(&first)).await.expect(200).json();
        let counts = ["queued", "running", "completed", "failed"].map(|status| shown[status].as_i64().unwrap());
        assert_eq!(counts, [0, 0, 1, 7], "what was cancelled while it ran ends as cancelled too: {shown}");
        ada.delete(&path(&first)).await.expect(204);
    }
}

#[tokio::test]
async fn a_task_may_wait_for_all_of_an_array() {
    let server = TestServer::start().await;
    let ada = server.user("ada").await;
    let first = ada.submit(&array("1-2")).await;
    let mut body = small();
    body["depends_on"] = json!([first["array_id"]]);
    let last = ada.submit(&body).await;
    let mut worker = LinkWorker::connect(&server).await;
    let runs = [worker.run_next().await, worker.run_next().await];
    for run in &runs {
        let shown = ada.get(&format!("/v1/tasks/{}", last["id"].as_str().unwrap())).await.expect(200).json();
        assert_eq!(shown["blocked"], true);
        worker.end(run, ok()).await;
    }
    assert_eq!(worker.run_next().await.spec.id.to_string(), last["id"].as_str().unwrap());
    // The array has ended, and well.
    let again = ada.submit(&body).await;
    assert_eq!(worker.run_next().await.spec.id.to_string(), again["id"].as_str().unwrap());
}

#[tokio::test]
async fn ten_thousand_are_made_in_one_request() {
    let server = TestServer::start().await;
    let ada = server.user("ada").await;
    let first = ada.submit(&array("0-9999")).await;
    assert_eq!(ada.get(&path(&first)).await.expect(200).json()["queued"], 10_000);
    assert_eq!(ada.get("/v1/queue").await.expect(200).json()["queued"], 10_000);
    ada.delete(&path(&first)).await.expect(204);
    assert_eq!(ada.get(&path(&first)).await.expect(200).json()["failed"], 10_000);
}

#[tokio::test]
pub(crate) async fn cannot_be_of_everything() {
    let server = TestServer::start().await;
    let admin = server.admin();
    for spec in ["", "x", "3-1", "0-10000", "0-99999999999", "0-9%0", "1000000000"] {
        assert_eq!(admin.post("/v1/tasks", &array(spec)).await.problem_fields(), ["array"], "{spec}");
    }
    let mut body = array("0-9999");
    body["metadata"] = json!({"k": "x".repeat(4_000), "l": "x".repeat(4_000)});
    assert_eq!(admin.post("/v1/tasks", &body).await.problem_fields(), ["array"], "too much together");
    body["array"] = json!("0-99");
    admin.submit(&body).await;
    admin.get("/v1/tasks?array_id=x").await.error(400, ErrorCode::BadRequest);
    assert_eq!(admin.get(&format!("/v1/tasks?array_id={NOBODY}")).await.expect(200).json()["total"], 0);
}

#[tokio::test]
pub(crate) async fn of_others_are_left_alone() {
    let server = TestServer::start().await;
    let (ada, bob) = (server.user("ada").await, server.user("bob").await);
    let first = ada.submit(&array("0-1")).await;
    bob.delete(&path(&first)).await.error(403, ErrorCode::Forbidden);
    assert_eq!(bob.get(&path(&first)).await.expect(200).json()["queued"], 2);
    // A task is no array, and an array no task.
    let task = first["id"].as_str().unwrap();
    ada.get(&format!("/v1/arrays/{task}")).await.error(404, ErrorCode::NotFound);
    ada.get(&path(&first).replace("arrays", "tasks")).await.error(404, ErrorCode::NotFound);
    server.admin().delete(&path(&first)).await.expect(204);
    assert_eq!(ada.get(&path(&first)).await.expect(200).json()["failed"], 2);
}
