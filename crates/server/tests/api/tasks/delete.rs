use crate::{completed, running, small};
use fetchml_api::{
    ErrorCode, FailureCause,
    link::{Outcome, ToWorker},
};
use fetchml_testkit::{Database, TestServer};

#[tokio::test]
pub(crate) async fn ends_a_queued_task() {
    for database in Database::ALL {
        let server = TestServer::start_with(database, |_| {}).await;
        let ada = server.user("ada").await;
        let made = ada.submit(&small()).await;
        let path = format!("/v1/tasks/{}", made["id"].as_str().unwrap());
        ada.delete(&path).await.expect(204);
        let task = ada.get(&path).await.expect(200).json();
        assert_eq!(task["status"], "failed");
        assert_eq!(task["failure"]["cause"], "cancelled");
        assert_eq!(task["failure"]["retryable"], false);
        assert_eq!(task["error"], "cancelled by ada");
        ada.delete(&path).await.expect(204);
        assert_eq!(ada.get(&path).await.expect(200).json(), task, "a repeat changes nothing");
        ada.delete(&format!("{path}?purge=true")).await.expect(204);
        ada.get(&path).await.error(404, ErrorCode::NotFound);
        ada.delete(&path).await.error(404, ErrorCode::NotFound);
        assert_eq!(ada.get("/v1/tasks").await.expect(200).json()["total"], 0);
    }
}

#[tokio::test]
async fn stops_an_active_task() {
    let server = TestServer::start().await;
    let ada = server.user("ada").await;
    let (mut worker, assignment) = running(&server, &ada).await;
    let path = format!("/v1/tasks/{}", assignment.spec.id);
    ada.delete(&path).await.expect(204);
    ada.delete(&path).await.expect(204);
    ada.delete(&format!("{path}?purge=true")).await.error(409, ErrorCode::Conflict);
    let attempt = assignment.attempt;
    worker.wait(|m| matches!(m, ToWorker::Cancel { attempt: of, .. } if *of == attempt).then_some(())).await;
    assert_eq!(ada.get(&path).await.expect(200).json()["status"], "running");
    let outcome = Outcome { cause: Some(FailureCause::Cancelled), signal: Some(15), ..Outcome::default() };
    worker.end(&assignment, outcome).await;
    let task = ada.get(&path).await.expect(200).json();
    assert_eq!((task["status"].as_str(), task["error"].as_str()), (Some("failed"), Some("cancelled by ada")));
}

#[tokio::test]
async fn hides_an_ended_task() {
    let server = TestServer::start().await;
    let ada = server.user("ada").await;
    let (_worker, assignment) = completed(&server, &ada).await;
    let path = format!("/v1/tasks/{}", assignment.spec.id);
    ada.delete(&path).await.expect(204);
    for gone in [path.clone(), format!("{path}/logs"), format!("{path}/artifacts")] {
        ada.get(&gone).await.error(404, ErrorCode::NotFound);
    }
}

#[tokio::test]
pub(crate) async fn refuses_what_belongs_to_others() {
    let server = TestServer::start().await;
    let (ada, bob) = (server.user("ada").await, server.user("bob").await);
    let made = ada.submit(&small()).await;
    let path = format!("/v1/tasks/{}", made["id"].as_str().unwrap());
    bob.delete(&path).await.error(403, ErrorCode::Forbidden);
    assert_eq!(ada.get(&path).await.expect(200).json()["status"], "queued");
    bob.delete(&format!("/v1/tasks/{}", crate::NOBODY)).await.error(404, ErrorCode::NotFound);
    server.admin().delete(&path).await.expect(204);
    assert_eq!(ada.get(&path).await.expect(200).json()["error"], "cancelled by admin");
}
