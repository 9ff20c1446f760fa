use crate::{completed, small};
use fetchml_api::ErrorCode;
use fetchml_testkit::{CheckedClient, TestServer};
use reqwest::Method;
use serde_json::{Value, json};

fn full() -> Value {
    json!({
        "job_name": "full", "priority": 7, "entrypoint": "/bin/echo", "args": "a 'b c'", "cpu": 2, "memory_gb": 1,
        "max_retries": 3, "time_limit_s": 60, "network": "none", "on_lost": "keep", "stall_after_s": 30,
        "env": {"SEED": "1", "TOKEN": "hush"}, "metadata": {"k": "v"}, "node_count": 2,
        "source": {"commit": "c".repeat(40), "dirty": true},
    })
}

async fn rerun(client: &CheckedClient, task: &Value, changes: &Value) -> fetchml_testkit::Answer {
    client.post(&format!("/v1/tasks/{}/rerun", task["id"].as_str().unwrap()), changes).await
}

/// Without what is of one task alone.
fn what_runs(task: &Value) -> Value {
    let mut task = task.clone();
    for own in ["id", "created_at", "rerun_of", "priority_aged", "status", "user_id", "node_assignments"] {
        task.as_object_mut().unwrap().remove(own);
    }
    task
}

#[tokio::test]
pub(crate) async fn submits_the_same_again() {
    let server = TestServer::start().await;
    let ada = server.user("ada").await;
    let first = ada.submit(&full()).await;
    let path = format!("/v1/tasks/{}/rerun", first["id"].as_str().unwrap());
    let again = ada.send(ada.request(Method::POST, &path)).await.expect(201).json();
    assert_eq!(what_runs(&again), what_runs(&first));
    assert_eq!((&again["rerun_of"], &again["user_id"]), (&first["id"], &json!("ada")));
    assert_ne!(again["id"], first["id"]);
    let of_again = rerun(&ada, &again, &json!({})).await.expect(201).json();
    assert_eq!((what_runs(&of_again), &of_again["rerun_of"]), (what_runs(&first), &again["id"]));

    let changes = json!({"env": {"SEED": "2", "TOKEN": null, "NEW": "x"}, "args": null, "priority": 1});
    let changed = rerun(&ada, &first, &changes).await.expect(201).json();
    assert_eq!(changed["env"], json!({"SEED": "2", "NEW": "x"}));
    assert_eq!((&changed["args"], &changed["priority"], &changed["cpu"]), (&Value::Null, &json!(1), &json!(2)));

    // One that has ended runs again too.
    let (_worker, assignment) = completed(&server, &ada).await;
    let shown = ada.get(&format!("/v1/tasks/{}", assignment.spec.id)).await.expect(200).json();
    assert_eq!(rerun(&ada, &shown, &json!({})).await.expect(201).json()["status"], json!("queued"));
}

#[tokio::test]
pub(crate) async fn others_may_not_and_admins_only_as_it_is() {
    let server = TestServer::start().await;
    let (ada, bob, admin) = (server.user("ada").await, server.user("bob").await, server.admin());
    let first = ada.submit(&full()).await;
    rerun(&bob, &first, &json!({})).await.error(403, ErrorCode::Forbidden);
    // What an admin runs again stays its owner's: what is in its environment is not shown for it.
    rerun(&admin, &first, &json!({"env": {"SEED": "2"}})).await.error(403, ErrorCode::Forbidden);
    rerun(&admin, &first, &json!({"priority": 2})).await.error(403, ErrorCode::Forbidden);
    let again = rerun(&admin, &first, &json!({})).await.expect(201).json();
    assert_eq!((&again["user_id"], &again["env"]["TOKEN"]), (&json!("ada"), &json!("***")));
    let path = format!("/v1/tasks/{}", again["id"].as_str().unwrap());
    assert_eq!(ada.get(&path).await.expect(200).json()["env"]["TOKEN"], json!("hush"));

    let (store, _held) = server.stop_and_open_store().await;
    let rows = store.audit_rows(0, 1_000).await.unwrap();
    let events: Vec<Value> = rows.iter().map(|row| serde_json::from_slice(&row.body).unwrap()).collect();
    let reruns: Vec<&Value> = events.iter().filter(|event| event["action"] == "rerun").collect();
    let [event] = reruns[..] else { panic!("{events:#?}") };
    assert_eq!((&event["user_id"], &event["resource"]), (&json!("admin"), &json!(&path["/v1/".len()..])));
    let metadata = &event["metadata"];
    assert_eq!(
        (&metadata["of"], &metadata["owner"], &metadata["verified"]),
        (&first["id"], &json!("ada"), &json!("true"))
    );
}

#[tokio::test]
pub(crate) async fn changes_are_checked_like_a_new_task() {
    let server = TestServer::start().await;
    let ada = server.user("ada").await;
    let first = ada.submit(&small()).await;
    for (changes, field) in [
        (json!({"cpu": -1}), "cpu"),
        (json!({"job_name": null}), "job_name"),
        (json!({"entrypoint": null}), "entrypoint"),
        (json!({"env": {"FETCHML_X": "1"}}), "env.FETCHML_X"),
        (json!({"env": {"A": 1}}), "env.A"),
        (json!({"priorty": 3}), "priorty"),
        (json!({"snapshot_id": format!("sha256:{}", "a".repeat(64))}), "snapshot_id"),
    ] {
        assert_eq!(rerun(&ada, &first, &changes).await.problem_fields(), [field], "{changes}");
    }
    let path = format!("/v1/tasks/{}/rerun", first["id"].as_str().unwrap());
    ada.post_raw(&path, "{").await.error(400, ErrorCode::BadRequest);
    ada.post_raw(&path, "[]").await.error(422, ErrorCode::ValidationError);
    let large = format!("{{\"args\": \"{}\"}}", "x".repeat(1 << 20));
    ada.post_raw(&path, large).await.error(413, ErrorCode::BadRequest);
    ada.send(ada.request(Method::POST, &path).body("{}")).await.error(415, ErrorCode::BadRequest);
    assert_eq!(ada.get("/v1/tasks").await.expect(200).json()["total"], json!(1), "nothing of this was stored");
}

#[tokio::test]
async fn a_source_is_not_said_of_other_files() {
    let server = TestServer::start().await;
    let ada = server.user("ada").await;
    let empty = json!({"entries": []});
    let stored = ada.post("/v1/snapshots", &empty).await.expect(201);
    let id = stored.json()["snapshot_id"].clone();
    let first = ada.submit(&full()).await;
    let other = rerun(&ada, &first, &json!({"snapshot_id": id, "node_count": 1})).await.expect(201).json();
    assert_eq!((&other["snapshot_id"], &other["source"]), (&id, &Value::Null));
    let same = rerun(&ada, &other, &json!({"source": {"commit": "d".repeat(40)}})).await.expect(201).json();
    assert_eq!(same["source"]["commit"], json!("d".repeat(40)));
}
