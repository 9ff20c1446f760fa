//! How much users may have at once: set, listed, removed, and what tasks feel of it.

use crate::small;
use fetchml_api::{ErrorCode, Quota, QuotaScope, Role, link::Outcome};
use fetchml_testkit::{Database, LinkWorker, TestServer};
use serde_json::{Value, json};

#[tokio::test]
pub(crate) async fn are_set_listed_and_removed() {
    for database in Database::ALL {
        let server = TestServer::start_with(database, |options| {
            let quota = Quota { running: Some(9), max_priority: Some(7), ..Quota::default() };
            options.quotas.insert(QuotaScope::Role(Role::User), quota);
        })
        .await;
        let admin = server.admin();
        let configured = json!({"role": "user", "source": "configuration", "quota": {"running": 9, "max_priority": 7}});
        let list = async || admin.get("/v1/admin/quotas").await.expect(200).json()["quotas"].clone();
        assert_eq!(list().await, json!([configured]));

        let set = admin.put_json("/v1/admin/quotas/users/ada", &json!({"queued": 1})).await.expect(200).json();
        assert_eq!(set, json!({"user_id": "ada", "source": "api", "quota": {"queued": 1}}));
        admin.put_json("/v1/admin/quotas/roles/user", &json!({"gpus": 2})).await.expect(200);
        let of_role = json!({"role": "user", "source": "api", "quota": {"gpus": 2}});
        assert_eq!(list().await, json!([of_role, configured, set]));

        let ada = server.user("ada").await;
        ada.submit(&small()).await;
        let refused = ada.post("/v1/tasks", &small()).await.error(422, ErrorCode::ValidationError);
        assert!(refused.error.contains("1 tasks waiting"), "{}", refused.error);
        let mut three = small();
        three["gpu"] = json!(3);
        assert_eq!(server.user("bob").await.post("/v1/tasks", &three).await.problem_fields(), ["gpu"]);
        let own = ada.get("/v1/usage").await.expect(200).json()["holdings"][0].clone();
        assert_eq!(own["quota"], json!({"running": 9, "queued": 1, "gpus": 2, "max_priority": 7}));
        assert_eq!((&own["tasks_queued"], &own["tasks_running"]), (&json!(1), &json!(0)));

        let server = server.restart().await;
        let admin = server.admin();
        let list = async || admin.get("/v1/admin/quotas").await.expect(200).json()["quotas"].clone();
        assert_eq!(list().await, json!([of_role, configured, set]), "it is durable");
        admin.delete("/v1/admin/quotas/users/ada").await.expect(204);
        admin.delete("/v1/admin/quotas/users/ada").await.error(404, ErrorCode::NotFound);
        admin.delete("/v1/admin/quotas/roles/user").await.expect(204);
        assert_eq!(list().await, json!([configured]));
        server.anonymous().with_key(ada.key).submit(&small()).await;
    }
}

#[tokio::test]
pub(crate) async fn for_nobody_are_404() {
    let server = TestServer::start().await;
    let admin = server.admin();
    for path in ["roles/worker", "roles/root", "users/a%20b", "users/%00", "teams/a", "users/a/b"] {
        let path = format!("/v1/admin/quotas/{path}");
        admin.put_json(&path, &json!({"gpus": 1})).await.error(404, ErrorCode::NotFound);
        admin.delete(&path).await.error(404, ErrorCode::NotFound);
    }
}

#[tokio::test]
pub(crate) async fn that_cannot_be() {
    let server = TestServer::start().await;
    let admin = server.admin();
    let path = "/v1/admin/quotas/users/ada";
    let put = async |body: Value| admin.put_json(path, &body).await.problem_fields();
    for name in ["running", "queued", "gpus"] {
        for value in [json!(-1), json!(1_000_001), json!(1.5), json!("1"), json!(null), json!([])] {
            assert_eq!(put(json!({name: value})).await, [name], "{value}");
        }
    }
    for value in [json!(0), json!(11), json!("7")] {
        assert_eq!(put(json!({"max_priority": value})).await, ["max_priority"], "{value}");
    }
    assert_eq!(put(json!({"gpu": 1})).await, ["gpu"], "an unknown name");
    assert_eq!(put(json!({})).await, [""], "nothing is limited");
    assert_eq!(put(json!({"gpus": -1, "running": "x", "max_priority": 0})).await.len(), 3, "all at once");
    // None at all is a quota.
    admin.put_json(path, &json!({"gpus": 0, "running": 0})).await.expect(200);
    let ada = server.user("ada").await;
    let refused = ada.post("/v1/tasks", &small()).await.error(422, ErrorCode::ValidationError);
    assert!(refused.error.contains("0 tasks running"), "{}", refused.error);
}

#[tokio::test]
async fn a_task_over_one_waits_until_there_is_room_under_it() {
    let server = TestServer::start().await;
    server.admin().put_json("/v1/admin/quotas/users/ada", &json!({"running": 1})).await.expect(200);
    let ada = server.user("ada").await;
    let first = ada.submit(&small()).await;
    let second = ada.submit(&small()).await;
    let mut worker = LinkWorker::connect(&server).await;
    let assignment = worker.run_next().await;
    assert_eq!(json!(assignment.spec.id), first["id"]);
    let path = format!("/v1/tasks/{}", second["id"].as_str().unwrap());
    assert_eq!(ada.get(&path).await.expect(200).json()["status"], "queued", "though three slots are free");
    worker.end(&assignment, Outcome::default()).await;
    assert_eq!(json!(worker.assignment().await.spec.id), second["id"]);
}
