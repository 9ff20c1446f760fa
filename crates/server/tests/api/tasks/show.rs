use crate::completed;
use fetchml_testkit::TestServer;
use serde_json::json;

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
