use crate::{completed, small};
use fetchml_testkit::TestServer;
use serde_json::json;

#[tokio::test]
pub(crate) async fn counts() {
    let server = TestServer::start().await;
    let admin = server.admin();
    let expected = json!({"queued": 0, "running": 0, "completed": 0, "failed": 0, "workers": 0});
    assert_eq!(admin.get("/v1/queue").await.expect(200).json(), expected);
    let cancelled = admin.submit(&small()).await;
    admin.delete(&format!("/v1/tasks/{}", cancelled["id"].as_str().unwrap())).await.expect(204);
    let (_worker, _) = completed(&server, &admin).await;
    let counts = admin.get("/v1/queue").await.expect(200).json();
    assert_eq!((&counts["completed"], &counts["failed"]), (&json!(1), &json!(1)));
    assert_eq!((&counts["queued"], &counts["running"]), (&json!(0), &json!(0)));
}
