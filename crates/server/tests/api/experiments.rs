use crate::small;
use fetchml_api::ErrorCode;
use fetchml_testkit::{CheckedClient, Database, LinkWorker, TestServer, eventually};
use serde_json::{Value, json};

async fn make(client: &CheckedClient, name: &str) -> Value {
    client.post("/v1/experiments", &json!({ "name": name })).await.expect(201).json()
}

fn path(experiment: &Value) -> String {
    format!("/v1/experiments/{}", experiment["id"].as_str().unwrap())
}

fn of(experiment: &Value) -> Value {
    let mut body = small();
    body["experiment_id"] = experiment["id"].clone();
    body
}

async fn names(client: &CheckedClient, query: &str) -> Vec<String> {
    let list = client.get(&format!("/v1/experiments{query}")).await.expect(200).json();
    list.as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
pub(crate) async fn are_made_found_and_changed() {
    for database in Database::ALL {
        let server = TestServer::start_with(database, |_| {}).await;
        let ada = server.user("ada").await;
        let body = json!({"name": "digits", "description": "learning rates", "nme": 1});
        let digits = ada.post("/v1/experiments", &body).await.expect(201).json();
        assert_eq!((&digits["status"], &digits["user_id"]), (&json!("active"), &json!("ada")));
        assert_eq!((&digits["description"], digits.get("commit_id")), (&json!("learning rates"), None));
        assert!(digits["warnings"][0].as_str().unwrap().contains("did you mean"), "{digits}");
        make(&ada, "digits").await;
        assert_eq!(names(&ada, "").await, ["digits", "digits"], "names need not be unique");

        let other = make(&ada, "other").await;
        let edited = ada.patch(&path(&other), &json!({"status": "archived"})).await.expect(200).json();
        assert_eq!((&edited["status"], &edited["name"]), (&json!("archived"), &json!("other")));
        let edited = ada.patch(&path(&digits), &json!({"name": "numbers", "description": ""})).await.expect(200).json();
        assert_eq!((&edited["name"], edited.get("description")), (&json!("numbers"), None));

        let server = server.restart().await;
        let bob = server.user("bob").await;
        assert_eq!(names(&bob, "").await, ["other", "digits", "numbers"], "newest first");
        assert_eq!(names(&bob, "?status=archived").await, ["other"]);
        let ada = server.user("ada").await;
        ada.patch(&path(&digits), &json!({"status": "deleted"})).await.expect(200);
        assert_eq!(names(&ada, "").await, ["other", "digits"]);
        assert_eq!(names(&ada, "?status=deleted").await, ["numbers"]);
        assert_eq!(bob.get(&path(&digits)).await.expect(200).json()["status"], "deleted");
    }
}

#[tokio::test]
async fn have_tasks_while_they_are_active() {
    for database in Database::ALL {
        let server = TestServer::start_with(database, |_| {}).await;
        let (ada, bob) = (server.user("ada").await, server.user("bob").await);
        let (digits, other) = (make(&ada, "digits").await, make(&ada, "other").await);
        let first = ada.submit(&of(&digits)).await;
        assert_eq!(first["experiment_id"], digits["id"]);
        let second = bob.submit(&of(&digits)).await;
        ada.submit(&of(&other)).await;
        ada.submit(&small()).await;
        let list = |query: String| {
            let ada = ada.clone();
            async move {
                let list = ada.get(&format!("/v1/tasks?{query}")).await.expect(200).json();
                let ids: Vec<Value> = list["tasks"].as_array().unwrap().iter().map(|task| task["id"].clone()).collect();
                (ids, list["total"].clone())
            }
        };
        let id = digits["id"].as_str().unwrap();
        assert_eq!(
            list(format!("experiment_id={id}")).await,
            (vec![second["id"].clone(), first["id"].clone()], json!(2))
        );
        assert_eq!(list(format!("experiment_id={id}&limit=1")).await, (vec![second["id"].clone()], json!(2)));
        let mine = list(format!("experiment_id={id}&user_id=ada")).await;
        assert_eq!(mine, (vec![first["id"].clone()], json!(1)));

        let rerun = format!("/v1/tasks/{}/rerun", first["id"].as_str().unwrap());
        let again = ada.post(&rerun, &json!({})).await.expect(201).json();
        assert_eq!(again["experiment_id"], digits["id"], "a repetition belongs to the same");
        for status in ["archived", "deleted"] {
            ada.patch(&path(&digits), &json!({ "status": status })).await.expect(200);
            assert_eq!(ada.post("/v1/tasks", &of(&digits)).await.problem_fields(), ["experiment_id"], "{status}");
        }
        ada.patch(&path(&digits), &json!({"status": "active"})).await.expect(200);
        ada.submit(&of(&digits)).await;
        for id in [json!("01900000-0000-7000-8000-000000000000"), json!("digits"), json!(1)] {
            assert_eq!(ada.post("/v1/tasks", &of(&json!({ "id": id }))).await.problem_fields(), ["experiment_id"]);
        }
    }
}

#[tokio::test]
async fn know_the_newest_code_and_what_was_used() {
    for database in Database::ALL {
        let server = TestServer::start_with(database, |_| {}).await;
        let ada = server.user("ada").await;
        let digits = make(&ada, "digits").await;
        let mut snapshots = Vec::new();
        for code in ["one", "two"] {
            let snapshot = crate::snapshots::stored(&ada, "train.py", code).await;
            let mut body = of(&digits);
            body["snapshot_id"] = json!(snapshot);
            ada.submit(&body).await;
            snapshots.push(snapshot);
        }
        ada.submit(&of(&digits)).await;
        assert_ne!(snapshots[0], snapshots[1]);
        assert_eq!(ada.get(&path(&digits)).await.expect(200).json()["commit_id"], json!(snapshots[1]));

        let mut worker = LinkWorker::connect(&server).await;
        worker.run_next().await;
        let usage = eventually("its use is counted", async || {
            let report = ada.get("/v1/usage").await.expect(200).json();
            let used = report["usage"].as_array()?.iter().find(|row| row["experiment_id"] == digits["id"]).cloned();
            used.filter(|row| row["cpu_seconds"].as_f64() > Some(0.0))
        })
        .await;
        assert_eq!(usage["user_id"], "ada");
    }
}

#[tokio::test]
pub(crate) async fn belong_to_who_made_them() {
    let server = TestServer::start().await;
    let (ada, bob) = (server.user("ada").await, server.user("bob").await);
    let digits = make(&ada, "digits").await;
    let edit = json!({"status": "deleted"});
    bob.patch(&path(&digits), &edit).await.error(403, ErrorCode::Forbidden);
    server.admin().patch(&path(&digits), &edit).await.error(403, ErrorCode::Forbidden);
    for unknown in ["/v1/experiments/01900000-0000-7000-8000-000000000000", "/v1/experiments/digits"] {
        ada.get(unknown).await.error(404, ErrorCode::NotFound);
        ada.patch(unknown, &edit).await.error(404, ErrorCode::NotFound);
    }
}

#[tokio::test]
pub(crate) async fn bad_ones_are_refused_with_every_problem() {
    let server = TestServer::start().await;
    let ada = server.user("ada").await;
    let digits = make(&ada, "digits").await;
    let bad = json!({"name": "x".repeat(129), "description": ["x"], "status": "gone"});
    assert_eq!(ada.post("/v1/experiments?strict=true", &bad).await.problem_fields(), ["name", "description", "status"]);
    assert_eq!(ada.patch(&path(&digits), &bad).await.problem_fields(), ["name", "description", "status"]);
    assert_eq!(ada.post("/v1/experiments", &json!({})).await.problem_fields(), ["name"]);
    let edited = ada.patch(&path(&digits), &json!({"nam": "x"})).await.expect(200).json();
    assert!(edited["warnings"][0].is_string(), "{edited}");
    assert_eq!(ada.get(&path(&digits)).await.expect(200).json(), digits, "nothing was changed");
}
