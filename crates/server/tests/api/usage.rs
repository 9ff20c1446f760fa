//! What users have used and hold.

use crate::small;
use fetchml_api::{
    ErrorCode, Gpu, GpuUsage,
    link::{Assignment, Heartbeat, Outcome},
};
use fetchml_testkit::{CheckedClient, DEADLINE, Database, LinkWorker, TestServer};
use serde_json::{Value, json};
use tokio::time::timeout;

fn beat(gpus: Option<Vec<Gpu>>, percent: u32) -> Heartbeat {
    let usage = GpuUsage { index: 0, utilization_percent: Some(percent), memory_used_bytes: None };
    Heartbeat { sent_ms: 1, held: Vec::new(), unfit: None, gpus, gpu_usage: Some(vec![usage]) }
}

/// A task of ada's that has the only GPU of a worker.
async fn with_gpu(server: &TestServer, ada: &CheckedClient, percent: u32) -> (LinkWorker, Assignment) {
    let mut worker = LinkWorker::connect(server).await;
    let gpu = Gpu { uuid: "GPU-0".into(), name: "H100".into(), ..Gpu::default() };
    worker.beat_with(beat(Some(vec![gpu]), percent)).await;
    let mut body = small();
    body["gpu"] = json!(1);
    ada.submit(&body).await;
    let assignment = worker.run_next().await;
    (worker, assignment)
}

async fn used(client: &CheckedClient) -> Value {
    client.get("/v1/usage").await.expect(200).json()["usage"][0].clone()
}

fn seconds(used: &Value, what: &str) -> f64 {
    used[what].as_f64().unwrap_or_default()
}

/// Beats until so much was used.
async fn until_used(worker: &mut LinkWorker, ada: &CheckedClient, percent: u32, what: &str) -> Value {
    timeout(DEADLINE, async {
        loop {
            worker.beat_with(beat(None, percent)).await;
            let used = used(ada).await;
            if seconds(&used, what) > 0.01 {
                return used;
            }
        }
    })
    .await
    .unwrap_or_else(|_| panic!("no {what}"))
}

#[tokio::test]
pub(crate) async fn is_counted_and_shown() {
    for database in Database::ALL {
        let server = TestServer::start_with(database, |_| {}).await;
        let ada = server.user("ada").await;
        let nothing = ada.get("/v1/usage").await.expect(200).json();
        assert_eq!((&nothing["usage"], &nothing["holdings"][0]["user_id"]), (&json!([]), &json!("ada")));
        let (mut worker, assignment) = with_gpu(&server, &ada, 0).await;
        // What runs is counted while it runs, and so is that its GPU does nothing.
        let running = until_used(&mut worker, &ada, 0, "idle_gpu_seconds").await;
        assert_eq!((&running["user_id"], running.get("experiment_id")), (&json!("ada"), None));
        assert!(seconds(&running, "idle_gpu_seconds") <= seconds(&running, "gpu_seconds"), "{running}");
        let held = ada.get("/v1/usage").await.expect(200).json()["holdings"][0].clone();
        assert_eq!((&held["tasks_running"], &held["gpus"]), (&json!(1), &json!(1)));
        assert!(held["share"].as_f64().unwrap() > 0.9, "the only GPU: {held}");

        worker.end(&assignment, Outcome { exit_code: Some(0), ..Outcome::default() }).await;
        let ended = used(&ada).await;
        assert!(seconds(&ended, "gpu_seconds") >= seconds(&running, "gpu_seconds"), "{ended}");
        let server = server.restart().await;
        let ada = server.anonymous().with_key(ada.key);
        let stored = used(&ada).await;
        assert_eq!(stored["gpu_seconds"], ended["gpu_seconds"], "it is durable");
        assert_eq!(ada.get("/v1/usage").await.expect(200).json()["holdings"][0]["gpus"], 0);
    }
}

#[tokio::test]
async fn busy_gpus_are_not_idle() {
    let server = TestServer::start().await;
    let ada = server.user("ada").await;
    let (mut worker, _assignment) = with_gpu(&server, &ada, 5).await;
    let used = until_used(&mut worker, &ada, 5, "gpu_seconds").await;
    assert_eq!(used["idle_gpu_seconds"], json!(0.0));
}

#[tokio::test]
async fn is_ones_own_but_for_admins() {
    let server = TestServer::start().await;
    let (ada, bob, admin) = (server.user("ada").await, server.user("bob").await, server.admin());
    ada.submit(&small()).await;
    bob.submit(&small()).await;
    let users = async |client: &CheckedClient, query: &str| {
        let report = client.get(&format!("/v1/usage{query}")).await.expect(200).json();
        let holdings = report["holdings"].as_array().unwrap().clone();
        holdings.iter().map(|holding| holding["user_id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(users(&admin, "").await, ["ada", "bob"]);
    assert_eq!(users(&admin, "?user_id=bob").await, ["bob"]);
    assert_eq!(users(&admin, "?user_id=nobody").await, [""; 0]);
    assert_eq!(users(&ada, "").await, ["ada"]);
    assert_eq!(users(&ada, "?user_id=ada").await, ["ada"]);
    ada.get("/v1/usage?user_id=bob").await.error(403, ErrorCode::Forbidden);
}
