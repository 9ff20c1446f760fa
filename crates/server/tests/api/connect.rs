use fetchml_api::ErrorCode;
use fetchml_testkit::{LinkWorker, TestServer};

#[tokio::test]
pub(crate) async fn a_worker_joins() {
    let server = TestServer::start().await;
    let mut worker = LinkWorker::connect(&server).await;
    assert_eq!(worker.welcome.protocol, fetchml_api::link::PROTOCOL);
    assert!(worker.welcome.incarnation >= 1);
    worker.beat(Vec::new()).await;
}

#[tokio::test]
pub(crate) async fn without_upgrade() {
    let server = TestServer::start().await;
    server.worker().await.get("/v1/workers/connect").await.error(400, ErrorCode::BadRequest);
}
