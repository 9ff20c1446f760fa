use fetchml_api::ErrorCode;
use fetchml_testkit::{LinkWorker, TestServer, eventually};

#[tokio::test]
pub(crate) async fn are_listed() {
    let server = TestServer::start().await;
    let admin = server.admin();
    assert_eq!(admin.get("/v1/scheduler/workers").await.expect(200).json(), serde_json::json!([]));
    let worker = LinkWorker::connect(&server).await;
    let status = async |wanted: &str| {
        let list = admin.get("/v1/scheduler/workers").await.expect(200).json();
        let found = list.as_array()?.iter().find(|w| w["id"] == worker.id.to_string() && w["status"] == wanted)?;
        Some(found.clone())
    };
    let shown = eventually("the worker is active", || status("active")).await;
    assert_eq!(shown["slots"]["batch_total"], 4);
    assert_eq!(shown["capabilities"]["cpu_cores"], 4);
    let one = admin.get(&format!("/v1/scheduler/workers/{}", worker.id)).await.expect(200).json();
    assert_eq!((&one["id"], &one["slots"]), (&shown["id"], &shown["slots"]));
}

#[tokio::test]
pub(crate) async fn unknown_ones_are_404() {
    let server = TestServer::start().await;
    for id in [crate::NOBODY, "no-id", "%00"] {
        server.admin().get(&format!("/v1/scheduler/workers/{id}")).await.error(404, ErrorCode::NotFound);
    }
}
