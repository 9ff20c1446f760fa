//! Draining workers, and taking that back.

use crate::{NOBODY, running, small};
use fetchml_api::{
    ErrorCode, FailureCause,
    link::{Outcome, ToWorker},
};
use fetchml_testkit::{CheckedClient, LinkWorker, TestServer, eventually};
use serde_json::{Value, json};

async fn until_status(admin: &CheckedClient, worker: &LinkWorker, wanted: &str) -> Value {
    eventually(&format!("the worker is {wanted}"), || async {
        let shown = admin.get(&path(worker)).await.json();
        (shown["status"] == wanted).then_some(shown)
    })
    .await
}

fn path(worker: &LinkWorker) -> String {
    format!("/v1/scheduler/workers/{}", worker.id)
}

#[tokio::test]
pub(crate) async fn takes_nothing_new_and_may_be_taken_back() {
    let server = TestServer::start().await;
    let admin = server.admin();
    let (mut worker, first) = running(&server, &admin).await;
    for _ in 0..2 {
        admin.delete(&path(&worker)).await.expect(204);
    }
    worker.wait(|m| matches!(m, ToWorker::Drain { on: true }).then_some(())).await;
    let shown = until_status(&admin, &worker, "draining").await;
    assert_eq!(shown["active_tasks"], json!([first.spec.id]), "it goes on with what it has");
    let waits = admin.submit(&small()).await;
    worker.end(&first, Outcome { exit_code: Some(0), ..Outcome::default() }).await;
    let shown = admin.get(&format!("/v1/tasks/{}", waits["id"].as_str().unwrap())).await.expect(200).json();
    assert_eq!(shown["status"], "queued", "though a slot is free");
    for _ in 0..2 {
        admin.post(&format!("{}/undrain", path(&worker)), &json!({})).await.expect(204);
    }
    assert_eq!(json!(worker.assignment().await.spec.id), waits["id"]);
    until_status(&admin, &worker, "active").await;
}

#[tokio::test]
async fn by_force_stops_what_runs_and_queues_it_again() {
    let server = TestServer::start().await;
    let admin = server.admin();
    let (mut worker, first) = running(&server, &admin).await;
    admin.delete(&format!("{}?force=true", path(&worker))).await.expect(204);
    let attempt = first.attempt;
    worker
        .wait(|m| {
            let evicted =
                matches!(m, ToWorker::Cancel { attempt: of, cause: FailureCause::Preempted, .. } if *of == attempt);
            evicted.then_some(())
        })
        .await;
    let outcome = Outcome { cause: Some(FailureCause::Preempted), signal: Some(15), ..Outcome::default() };
    worker.end(&first, outcome).await;
    let shown = admin.get(&format!("/v1/tasks/{}", first.spec.id)).await.expect(200).json();
    assert_eq!((&shown["status"], &shown["retry_count"]), (&json!("queued"), &json!(0)));
    let mut other = LinkWorker::connect(&server).await;
    assert_eq!(other.assignment().await.spec.id, first.spec.id);
}

#[tokio::test]
async fn what_is_declared_dead_loses_its_tasks_at_once() {
    let server = TestServer::start().await;
    let admin = server.admin();
    let (worker, first) = running(&server, &admin).await;
    let path = path(&worker);
    drop(worker);
    eventually("the worker is offline", || async {
        let shown = admin.get(&path).await.json();
        (shown["status"] == "offline").then_some(())
    })
    .await;
    let task = format!("/v1/tasks/{}", first.spec.id);
    admin.delete(&format!("{path}?force=true")).await.expect(204);
    assert_eq!(admin.get(&task).await.expect(200).json()["status"], "running", "it may still run");
    admin.delete(&format!("{path}?declare_dead=true")).await.expect(204);
    let shown = admin.get(&task).await.expect(200).json();
    assert_eq!((&shown["status"], &shown["requeue_count"]), (&json!("queued"), &json!(1)));
    let (store, _data) = server.stop_and_open_store().await;
    let rows = store.audit_rows(0, 1_000).await.unwrap();
    let audited: Vec<_> = rows.iter().map(|row| String::from_utf8_lossy(&row.body)).collect();
    for action in ["drain_force", "declare_dead"] {
        assert!(audited.iter().any(|body| body.contains(&format!("\"action\":\"{action}\""))), "{action} is audited");
    }
}

#[tokio::test]
pub(crate) async fn unknown_ones_are_404() {
    let server = TestServer::start().await;
    let admin = server.admin();
    for id in [NOBODY, "no-id", "%00"] {
        for query in ["", "?force=true", "?declare_dead=true"] {
            let path = format!("/v1/scheduler/workers/{id}{query}");
            admin.delete(&path).await.error(404, ErrorCode::NotFound);
        }
        let undrain = format!("/v1/scheduler/workers/{id}/undrain");
        admin.post(&undrain, &json!({})).await.error(404, ErrorCode::NotFound);
    }
}
