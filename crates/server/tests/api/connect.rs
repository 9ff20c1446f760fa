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

/// Its connection must not look alive: the worker would believe in a lease that the server does not renew.
#[tokio::test]
async fn a_session_that_another_replaced_ends() {
    let server = TestServer::start().await;
    let mut first = LinkWorker::connect(&server).await;
    first.beat(Vec::new()).await;
    let mut second = LinkWorker::connect_as(&server, first.id, Vec::new()).await;
    first.closed().await;
    second.beat(Vec::new()).await;
}
