use crate::{completed, small};
use fetchml_testkit::{TestServer, eventually};
use serde_json::{Value, json};

#[tokio::test]
pub(crate) async fn counts_what_waits_runs_and_ended() {
    let server = TestServer::start().await;
    let admin = server.admin();
    let status = async || admin.get("/v1/scheduler/status").await.expect(200).json();
    let counts = |status: &Value| {
        ["batch_queue_depth", "service_queue_depth", "tasks_running", "tasks_completed_24h", "workers_active"]
            .map(|name| status[name].as_i64().unwrap())
    };
    assert_eq!(counts(&status().await), [0; 5]);
    admin.submit(&json!({"job_name": "a", "entrypoint": "/bin/true", "cpu": 4})).await;
    assert_eq!(counts(&status().await), [1, 0, 0, 0, 0], "an acknowledged submit shows at once");

    let (mut worker, first) = completed(&server, &admin).await;
    eventually("the worker counts", async || (counts(&status().await)[4] == 1).then_some(())).await;
    let second = worker.run_next().await;
    assert_ne!(first.spec.id, second.spec.id);
    admin.submit(&small()).await;
    let [queued, _, running, completed, _] = counts(&status().await);
    assert_eq!((queued + running, completed), (2, 1));
    drop(worker);
    eventually("the worker is gone", async || (status().await["workers_active"] == 0).then_some(())).await;
    assert_eq!(status().await["workers_total"], 1);

    // Counted anew from what is stored.
    let server = server.restart().await;
    let status = server.admin().get("/v1/scheduler/status").await.expect(200).json();
    assert_eq!(status["tasks_completed_24h"], 1);
}
