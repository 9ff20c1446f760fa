use crate::small;
use fetchml_testkit::{Database, TestServer};
use serde_json::json;

#[tokio::test]
pub(crate) async fn is_stored_and_shown() {
    for database in Database::ALL {
        let server = TestServer::start_with(database, |_| {}).await;
        let ada = server.user("ada").await;
        let body = json!({
            "job_name": "digits-1", "priority": 7, "entrypoint": "train.py", "args": "--name 'é \u{1F600}'",
            "cpu": 2, "memory_gb": 3, "gpu": 1, "gpu_type": "H100", "metadata": {"k": "v"}, "max_retries": 2,
            "time_limit_s": 60, "env": {"A": "1"}, "datasets": [], "dataset_specs": [], "node_count": 1,
            "network": "none", "on_lost": "keep", "lost_after_s": 90, "stall_after_s": 600,
            "image": "lab.example:5000/torch:2",
        });
        let made = ada.submit(&body).await;
        assert_eq!(made["status"], "queued");
        assert_eq!(made["user_id"], "ada");
        assert!(made.get("warnings").is_none());
        for field in [
            "job_name",
            "priority",
            "entrypoint",
            "args",
            "cpu",
            "memory_gb",
            "gpu",
            "gpu_type",
            "metadata",
            "max_retries",
            "time_limit_s",
            "env",
            "network",
            "on_lost",
            "lost_after_s",
            "stall_after_s",
            "image",
        ] {
            assert_eq!(made[field], body[field], "{field}");
        }
        assert!((made["priority_aged"].as_f64().unwrap() - 7.0).abs() < 0.1);
        let path = format!("/v1/tasks/{}", made["id"].as_str().unwrap());
        let server = server.restart().await;
        let ada = server.anonymous().with_key(ada.key);
        let shown = ada.get(&path).await.expect(200).json();
        for field in ["id", "args", "created_at", "metadata", "env", "status"] {
            assert_eq!(shown[field], made[field], "{field}");
        }
    }
}

#[tokio::test]
async fn absent_fields_have_their_defaults() {
    let server = TestServer::start().await;
    let made = server.admin().submit(&small()).await;
    assert_eq!((&made["priority"], &made["cpu"], &made["gpu"]), (&json!(5), &json!(1), &json!(0)));
    assert!(made.get("snapshot_id").is_none(), "absent fields are left out");
}

#[tokio::test]
async fn unknown_fields_warn_and_strictly_fail() {
    let server = TestServer::start().await;
    let admin = server.admin();
    let mut body = small();
    body["priorty"] = json!(3);
    let made = admin.submit(&body).await;
    assert!(made["warnings"][0].as_str().unwrap().contains("priority"));
    assert_eq!(admin.post("/v1/tasks?strict=true", &body).await.problem_fields(), ["priorty"]);
}

#[tokio::test]
async fn many_at_once_are_each_stored_once() {
    let server = TestServer::start().await;
    let admin = server.admin();
    let made = futures_util::future::join_all((0..64).map(|n| {
        let admin = admin.clone();
        async move { admin.submit(&json!({"job_name": format!("n{n}"), "args": "true"})).await }
    }));
    let made = made.await;
    let ids: std::collections::BTreeSet<&str> = made.iter().map(|t| t["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), 64);
    assert_eq!(admin.get("/v1/tasks?limit=0").await.expect(200).json()["total"], 64);
}

#[tokio::test]
async fn a_user_gives_priorities_up_to_seven() {
    let server = TestServer::start().await;
    let user = server.user("ada").await;
    for (client, priority, status) in [(&user, 7, 201), (&user, 8, 422), (&server.admin(), 8, 201)] {
        let body = json!({"job_name": "a", "args": "true", "priority": priority});
        let answer = client.post("/v1/tasks", &body).await;
        assert_eq!(answer.status, status, "{priority}");
        if status == 422 {
            assert_eq!(answer.json()["details"][0]["field"], "priority");
        }
    }
}
