use crate::{completed, small};
use fetchml_api::ErrorCode;
use fetchml_testkit::{CheckedClient, Database, LinkWorker, TestServer};
use serde_json::{Value, json};

async fn explained(client: &CheckedClient, task: &Value) -> Value {
    client.get(&format!("/v1/tasks/{}/explain", task["id"].as_str().unwrap())).await.expect(200).json()
}

fn with(field: &str, value: impl Into<Value>) -> Value {
    let mut body = small();
    body[field] = value.into();
    body
}

#[tokio::test]
pub(crate) async fn says_why_a_task_waits_and_what_would_help() {
    for database in Database::ALL {
        let server = TestServer::start_with(database, |_| {}).await;
        let (ada, bob) = (server.user("ada").await, server.user("bob").await);
        let task = ada.submit(&with("cpu", 8)).await;
        let said = explained(&bob, &task).await;
        assert_eq!(
            (&said["reason"], &said["summary"]),
            (&json!("no_workers"), &json!("No worker has ever been connected."))
        );
        assert_eq!((&said["task_id"], &said["workers"]), (&task["id"], &json!([])));
        let _worker = LinkWorker::connect(&server).await;
        let said = explained(&ada, &task).await;
        assert_eq!(said["summary"], "No worker has 8 cores; the most that one has is 4.");
        assert_eq!((&said["changes"][0]["kind"], &said["changes"][0]["value"]), (&json!("cpu"), &json!(4)));
        let group = json!({"constraint": "cpu", "wanted": 8, "most": 4});
        assert_eq!((&said["workers"][0]["count"], &said["workers"][0]["obstacles"]), (&json!(1), &json!([group])));
        // With the change it does start.
        let less = ada.submit(&with("cpu", 4)).await;
        assert_eq!(explained(&ada, &less).await["reason"], "placed");
    }
}

#[tokio::test]
async fn of_a_task_that_has_ended_it_says_how() {
    let server = TestServer::start().await;
    let ada = server.user("ada").await;
    let (_worker, assignment) = completed(&server, &ada).await;
    let said = explained(&ada, &json!({"id": assignment.spec.id})).await;
    assert_eq!((&said["reason"], &said["summary"]), (&json!("ended"), &json!("It has ended, and well.")));
    let task = ada.submit(&with("gpu", 4)).await;
    ada.delete(&format!("/v1/tasks/{}", task["id"].as_str().unwrap())).await.expect(204);
    assert_eq!(explained(&ada, &task).await["summary"], "It has failed: cancelled by ada.");
}

#[tokio::test]
async fn a_dry_run_answers_the_same_and_creates_nothing() {
    let server = TestServer::start().await;
    let ada = server.user("ada").await;
    let dry = async |body: &Value| ada.post("/v1/tasks?dry_run=true", body).await;
    let said = dry(&small()).await.expect(200).json();
    assert_eq!((&said["reason"], said.get("task_id")), (&json!("no_workers"), None));
    let _worker = LinkWorker::connect(&server).await;
    assert_eq!(dry(&small()).await.expect(200).json()["reason"], "starts");
    let said = dry(&with("gpu", 1)).await.expect(200).json();
    assert_eq!(said["summary"], "No worker has a GPU.");
    // What a submit would refuse or warn of, this does, too.
    assert_eq!(dry(&with("priority", 8)).await.problem_fields(), ["priority"]);
    assert_eq!(dry(&with("cpu", -1)).await.problem_fields(), ["cpu"]);
    assert!(dry(&with("priorty", 5)).await.expect(200).json()["warnings"][0].as_str().unwrap().contains("priority"));
    ada.post("/v1/tasks?dry_run=maybe", &small()).await.error(400, ErrorCode::BadRequest);
    let first = ada.submit(&with("cpu", 4)).await;
    let after = dry(&with("depends_on", json!([first["id"]]))).await.expect(200).json();
    assert_eq!((&after["reason"], &after["waits_for"]), (&json!("dependency"), &json!([first["id"]])));
    let unknown = dry(&with("depends_on", json!([crate::NOBODY]))).await;
    assert_eq!(unknown.problem_fields(), ["depends_on[0]"]);
    assert_eq!(ada.get("/v1/tasks").await.expect(200).json()["total"], 1, "nothing was created but by the submit");
}
