use crate::{
    NOBODY,
    events::{Event, Events},
};
use fetchml_api::{
    ErrorCode, Gpu,
    link::{Heartbeat, Outcome},
};
use fetchml_testkit::{CheckedClient, Database, LinkWorker, TestServer, eventually};
use serde_json::{Value, json};

const ALL: &str = "/v1/scheduler/reservations";

/// A worker with so many H100.
pub(crate) async fn worker(server: &TestServer, count: u32) -> LinkWorker {
    let mut worker = LinkWorker::connect(server).await;
    let gpus = (0..count).map(|index| Gpu {
        index,
        uuid: format!("GPU-{index}"),
        name: "NVIDIA H100 80GB".into(),
        ..Gpu::default()
    });
    let gpus = Some(gpus.collect());
    worker.beat_with(Heartbeat { sent_ms: 1, held: Vec::new(), unfit: None, gpus, gpu_usage: None }).await;
    let admin = server.admin();
    eventually("the devices are known", async || {
        let workers = admin.get("/v1/scheduler/workers").await.expect(200).json();
        let mut known = workers.as_array()?.iter().filter(|shown| shown["id"] == worker.id.to_string());
        known.any(|shown| shown["capabilities"]["gpu_count"] == count).then_some(())
    })
    .await;
    worker
}

async fn reserve(client: &CheckedClient, body: &Value) -> Value {
    client.post(ALL, body).await.expect(201).json()
}

async fn list(client: &CheckedClient) -> Vec<Value> {
    client.get(ALL).await.expect(200).json().as_array().unwrap().clone()
}

fn path(reservation: &Value) -> String {
    format!("{ALL}/{}", reservation["id"].as_str().unwrap())
}

/// A task that claims a reservation.
fn claim(reservation: &Value, gpu: u32) -> Value {
    json!({"job_name": "train", "args": "true", "gpu": gpu, "reservation_id": reservation["id"]})
}

#[tokio::test]
pub(crate) async fn are_made_listed_claimed_and_end_with_their_task() {
    for database in Database::ALL {
        let server = TestServer::start_with(database, |_| {}).await;
        let ada = server.user("ada").await;
        let mut worker = worker(&server, 4).await;
        assert_eq!(list(&ada).await, [json!(null); 0]);
        let body = json!({"gpu_count": 2, "gpu_type": "h100", "expires_minutes": 90, "gpu_typ": "x"});
        let made = reserve(&ada, &body).await;
        assert_eq!(
            (&made["gpus_held"], &made["status"], &made["node_count"]),
            (&json!(2), &json!("active"), &json!(1))
        );
        assert!(made["expires_at"].is_string(), "all are held, so the time runs: {made}");
        assert!(made["warnings"][0].as_str().unwrap().contains("gpu_type"), "{made}");
        let shown = list(&server.user("bob").await).await;
        assert_eq!(shown.len(), 1);
        assert_eq!((&shown[0]["id"], &shown[0]["user_id"]), (&made["id"], &json!("ada")));
        let status = server.admin().get("/v1/scheduler/status").await.expect(200).json();
        assert_eq!(status["reservations_active"], 1);

        // Another's task gets what is left, its own the rest.
        let other = server.user("bob").await;
        other.submit(&json!({"job_name": "other", "args": "true", "gpu": 2})).await;
        let first = worker.run_next().await;
        assert_eq!((first.spec.user_id.as_str(), first.gpus.as_slice()), ("bob", &[2, 3][..]));
        let task = ada.submit(&claim(&made, 2)).await;
        assert_eq!(task["reservation_id"], made["id"]);
        let second = worker.run_next().await;
        assert_eq!((second.spec.user_id.as_str(), second.gpus.as_slice()), ("ada", &[0, 1][..]));
        let claimed = list(&ada).await;
        assert_eq!((&claimed[0]["status"], &claimed[0]["task_id"]), (&json!("claimed"), &task["id"]));
        let of_it = ada.get(&format!("/v1/tasks?reservation_id={}", made["id"].as_str().unwrap())).await.expect(200);
        assert_eq!((&of_it.json()["total"], &of_it.json()["tasks"][0]["id"]), (&json!(1), &task["id"]));
        worker.end(&second, Outcome { exit_code: Some(0), ..Outcome::default() }).await;
        eventually("it ends with its task", async || list(&ada).await.is_empty().then_some(())).await;
    }
}

#[tokio::test]
pub(crate) async fn are_released_by_their_owner_and_by_who_may() {
    let server = TestServer::start().await;
    let (ada, bob) = (server.user("ada").await, server.user("bob").await);
    let _worker = worker(&server, 4).await;
    let (first, second) =
        (reserve(&ada, &json!({"gpu_count": 2})).await, reserve(&ada, &json!({"gpu_count": 2})).await);
    bob.delete(&path(&first)).await.error(403, ErrorCode::Forbidden);
    ada.delete(&path(&first)).await.expect(204);
    ada.delete(&path(&first)).await.error(404, ErrorCode::NotFound);
    let task = ada.submit(&claim(&second, 1)).await;
    let refused = ada.delete(&path(&second)).await.error(409, ErrorCode::Conflict);
    assert!(refused.error.contains(task["id"].as_str().unwrap()), "{refused:?}");
    let third = reserve(&ada, &json!({"gpu_count": 1})).await;
    server.admin().delete(&path(&third)).await.expect(204);
    assert_eq!(list(&ada).await.len(), 1);
    for id in [NOBODY, "no-id", "%00"] {
        ada.delete(&format!("{ALL}/{id}")).await.error(404, ErrorCode::NotFound);
    }
}

#[tokio::test]
pub(crate) async fn what_is_not_there_is_not_reserved() {
    let server = TestServer::start().await;
    let ada = server.user("ada").await;
    ada.post(ALL, &json!({"gpu_count": 1})).await.error(409, ErrorCode::Conflict);
    let _worker = worker(&server, 4).await;
    for body in [
        json!({"gpu_count": 5}),
        json!({"gpu_count": 64}),
        json!({"gpu_count": 1, "node_count": 2}),
        json!({"gpu_count": 1, "node_count": 4_096}),
        json!({"gpu_count": 1, "gpu_type": "A100"}),
    ] {
        let refused = ada.post(ALL, &body).await.error(409, ErrorCode::Conflict);
        let there = if body["gpu_type"] == "A100" { "there are 0" } else { "there are 4" };
        assert!(refused.error.contains(there), "{body}: {refused:?}");
    }
    reserve(&ada, &json!({"gpu_count": 3})).await;
    ada.post(ALL, &json!({"gpu_count": 2})).await.error(409, ErrorCode::Conflict);
}

#[tokio::test]
pub(crate) async fn bad_requests() {
    let server = TestServer::start().await;
    let ada = server.user("ada").await;
    let huge = json!(99_999_999_999_u64);
    for (field, values) in [
        ("gpu_count", vec![json!(0), json!(-1), json!(65), huge.clone(), json!(1.5), json!("1"), json!(null)]),
        ("node_count", vec![json!(0), json!(-1), json!(4_097), huge.clone(), json!(null)]),
        ("expires_minutes", vec![json!(0), json!(-1), json!(10_081), huge, json!("30")]),
        ("gpu_type", vec![json!(""), json!(" - "), json!(7), json!("x".repeat(65)), json!("a\u{0}b")]),
    ] {
        for value in values {
            let mut body = json!({"gpu_count": 1});
            body[field] = value;
            let answer = ada.post(ALL, &body).await;
            answer.error(422, ErrorCode::ValidationError);
            assert_eq!(answer.problem_fields(), [field], "{body}");
        }
    }
    let all = ada.post(ALL, &json!({"gpu_count": 0, "node_count": 0, "expires_minutes": 0})).await;
    assert_eq!(all.problem_fields().len(), 3, "every problem at once");
    ada.post(ALL, &json!({})).await.error(422, ErrorCode::ValidationError);
    ada.post(ALL, &json!([])).await.error(422, ErrorCode::ValidationError);
    ada.post(&format!("{ALL}?strict=true"), &json!({"gpu_count": 1, "gpus": 1}))
        .await
        .error(422, ErrorCode::ValidationError);
    ada.post_raw(ALL, "{").await.error(400, ErrorCode::BadRequest);
}

#[tokio::test]
async fn a_claim_that_is_not_right_is_refused() {
    let server = TestServer::start().await;
    let (ada, bob) = (server.user("ada").await, server.user("bob").await);
    let _worker = worker(&server, 4).await;
    let made = reserve(&ada, &json!({"gpu_count": 2, "gpu_type": "H100"})).await;
    bob.post("/v1/tasks", &claim(&made, 1)).await.error(403, ErrorCode::Forbidden);
    let mut other = claim(&made, 3);
    other["node_count"] = json!(2);
    other["gpu_type"] = json!("A100");
    let answer = ada.post("/v1/tasks", &other).await;
    answer.error(422, ErrorCode::ValidationError);
    assert_eq!(answer.problem_fields(), ["gpu", "node_count", "gpu_type"], "every problem at once");
    let none = ada.post("/v1/tasks", &claim(&made, 0)).await;
    none.error(422, ErrorCode::ValidationError);
    assert_eq!(none.problem_fields(), ["gpu"]);
    let mut many = claim(&made, 2);
    many["array"] = json!("0-1");
    let answer = ada.post("/v1/tasks", &many).await;
    answer.error(422, ErrorCode::ValidationError);
    assert_eq!(answer.problem_fields(), ["reservation_id"]);
    ada.submit(&claim(&made, 2)).await;
    ada.post("/v1/tasks", &claim(&made, 2)).await.error(409, ErrorCode::Conflict);
    let released = reserve(&ada, &json!({"gpu_count": 1})).await;
    ada.delete(&path(&released)).await.expect(204);
    let late = ada.post("/v1/tasks", &claim(&released, 1)).await.error(409, ErrorCode::Conflict);
    assert!(late.error.contains("expired at"), "{late:?}");
    let unknown = ada.post("/v1/tasks", &claim(&json!({"id": NOBODY}), 1)).await;
    unknown.error(422, ErrorCode::ValidationError);
    assert_eq!(unknown.problem_fields(), ["reservation_id"]);
}

#[tokio::test]
async fn streams_tell_of_them_and_a_restart_keeps_them() {
    let server = TestServer::start().await;
    let ada = server.user("ada").await;
    let worker = worker(&server, 4).await;
    let mut events = Events::open(&ada, "/v1/scheduler/status/stream", None).await;
    let made = reserve(&ada, &json!({"gpu_count": 4})).await;
    let mut next = async |status: &str| -> Event {
        loop {
            let event = events.next().await.unwrap();
            if event.name == "reservation" && event.data["status"] == status {
                return event;
            }
        }
    };
    assert_eq!(next("active").await.data["id"], made["id"]);
    ada.delete(&path(&made)).await.expect(204);
    assert_eq!(next("expired").await.data["id"], made["id"]);

    let kept = reserve(&ada, &json!({"gpu_count": 3})).await;
    ada.submit(&claim(&kept, 3)).await;
    let before = list(&ada).await;
    drop(worker);
    let server = server.restart().await;
    let ada = server.user("ada").await;
    assert_eq!(list(&ada).await, before);
    let mut events = Events::open(&ada, "/v1/scheduler/status/stream", None).await;
    loop {
        let event = events.next().await.unwrap();
        if event.name == "reservation" {
            assert_eq!(event.data, before[0], "a stream begins with them");
            break;
        }
    }
}
