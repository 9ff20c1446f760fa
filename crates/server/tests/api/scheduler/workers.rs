use fetchml_api::{
    ErrorCode, Gpu, GpuState, GpuUsage,
    link::{Heartbeat, ToServer},
};
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

fn device(index: u32, state: GpuState) -> Gpu {
    let reason = (state != GpuState::Available).then(|| format!("is {}", state.as_str()));
    Gpu { index, uuid: format!("GPU-{index}"), name: "NVIDIA H100".into(), state, reason, ..Gpu::default() }
}

fn beat(gpus: Vec<Gpu>) -> Heartbeat {
    Heartbeat { sent_ms: 1, held: Vec::new(), unfit: None, gpus: Some(gpus), gpu_usage: None }
}

#[tokio::test]
pub(crate) async fn tell_of_their_devices() {
    let server = TestServer::start().await;
    let admin = server.admin();
    let mut worker = LinkWorker::connect(&server).await;
    let gpus = async |wanted: serde_json::Value| {
        let list = admin.get("/v1/scheduler/workers").await.expect(200).json();
        (list[0]["capabilities"]["gpus"] == wanted).then_some(())
    };
    worker.beat_with(beat(vec![device(0, GpuState::Unhealthy), device(3, GpuState::Available)])).await;
    let usage = |percent| {
        // The worker counts wrongly, and speaks of a device that it does not have.
        let usage = |index| GpuUsage { index, utilization_percent: Some(percent), memory_used_bytes: Some(5) };
        Heartbeat { sent_ms: 2, held: Vec::new(), unfit: None, gpus: None, gpu_usage: Some(vec![usage(3), usage(7)]) }
    };
    worker.beat_with(usage(400)).await;
    let shown = serde_json::json!([
        {"index": 0, "uuid": "GPU-0", "name": "NVIDIA H100", "memory_bytes": 0, "state": "unhealthy",
            "reason": "is unhealthy"},
        {"index": 3, "uuid": "GPU-3", "name": "NVIDIA H100", "memory_bytes": 0, "state": "available",
            "utilization_percent": 100, "memory_used_bytes": 5},
    ]);
    eventually("the devices are shown", || gpus(shown.clone())).await;

    // Two tasks want one each: the second waits until there is a second, and is overtaken by one that wants none.
    for gpu in [1, 1, 0] {
        let body = serde_json::json!({"job_name": "train", "args": "true", "gpu": gpu});
        admin.post("/v1/tasks", &body).await.expect(201);
    }
    assert_eq!(worker.run_next().await.gpus, [3]);
    assert_eq!(worker.run_next().await.gpus, [0; 0]);
    worker.beat_with(beat(vec![device(0, GpuState::Available), device(3, GpuState::Available)])).await;
    assert_eq!(worker.run_next().await.gpus, [0]);
    // What they did is forgotten with the session.
    drop(worker);
    let idle = serde_json::json!([
        {"index": 0, "uuid": "GPU-0", "name": "NVIDIA H100", "memory_bytes": 0, "state": "available"},
        {"index": 3, "uuid": "GPU-3", "name": "NVIDIA H100", "memory_bytes": 0, "state": "available"},
    ]);
    eventually("the devices are shown without figures", || gpus(idle.clone())).await;
}

#[tokio::test]
pub(crate) async fn that_claim_impossible_devices_are_cut_off() {
    let server = TestServer::start().await;
    let good = device(0, GpuState::Available);
    let claims = [
        vec![good.clone(); 2],
        (0..129).map(|index| device(index, GpuState::Available)).collect(),
        vec![Gpu { name: "x".repeat(97), ..good.clone() }],
        vec![Gpu { uuid: "a\u{1b}[31m".into(), ..good.clone() }],
        vec![Gpu { reason: Some("line\nline".into()), ..good.clone() }],
        vec![Gpu { reason: Some("x".repeat(257)), ..good }],
    ];
    for gpus in claims {
        let mut worker = LinkWorker::connect(&server).await;
        worker.send(&ToServer::Heartbeat(beat(gpus))).await;
        worker.closed().await;
    }
    let list = server.admin().get("/v1/scheduler/workers").await.expect(200).json();
    assert!(list.as_array().unwrap().iter().all(|worker| worker["capabilities"]["gpus"] == serde_json::json!([])));
}
