use crate::small;
use fetchml_api::{DatasetKey, ErrorCode, link::ToServer};
use fetchml_testkit::{Database, LinkWorker, TestServer, eventually};
use serde_json::{Value, json};

fn digits() -> Value {
    json!({
        "name": "digits", "source": "https://data.example.org/digits.csv?rev=3", "sha256": "a".repeat(64),
        "mount_path": "/data/digits.csv",
    })
}

#[tokio::test]
pub(crate) async fn are_registered_listed_and_forgotten() {
    for database in Database::ALL {
        let server = TestServer::start_with(database, |_| {}).await;
        let ada = server.user("ada").await;
        let made = ada.post("/v1/datasets", &digits()).await.expect(201).json();
        assert_eq!((&made["name"], &made["user_id"]), (&json!("digits"), &json!("ada")));
        for field in ["source", "sha256", "mount_path"] {
            assert_eq!(made[field], digits()[field], "{field}");
        }
        assert_eq!(
            ada.post("/v1/datasets", &digits()).await.expect(200).json(),
            made,
            "the same again changes nothing"
        );
        let archive = json!({"name": "Archive-2.1", "source": "https://h/x.tar", "unpack": true});
        ada.post("/v1/datasets", &archive).await.expect(201);

        let server = server.restart().await;
        let bob = server.user("bob").await;
        let listed = bob.get("/v1/datasets").await.expect(200).json();
        let names: Vec<&Value> = listed["datasets"].as_array().unwrap().iter().map(|set| &set["name"]).collect();
        assert_eq!(names, ["Archive-2.1", "digits"]);
        assert_eq!(bob.get("/v1/datasets/digits").await.expect(200).json(), made);
        server.admin().delete("/v1/datasets/digits").await.expect(204);
        bob.get("/v1/datasets/digits").await.error(404, ErrorCode::NotFound);
    }
}

#[tokio::test]
pub(crate) async fn belong_to_who_registered_them() {
    let server = TestServer::start().await;
    let (ada, bob) = (server.user("ada").await, server.user("bob").await);
    ada.post("/v1/datasets", &digits()).await.expect(201);
    bob.delete("/v1/datasets/digits").await.error(403, ErrorCode::Forbidden);
    ada.delete("/v1/datasets/digits").await.expect(204);
    ada.delete("/v1/datasets/digits").await.error(404, ErrorCode::NotFound);
    ada.get("/v1/datasets/digits").await.error(404, ErrorCode::NotFound);
}

#[tokio::test]
pub(crate) async fn bad_ones_are_refused_with_every_problem() {
    let server = TestServer::start().await;
    let ada = server.user("ada").await;
    let text = [json!(null), json!(1), json!([]), json!("a\0b"), json!("")];
    let cases: [(&str, &[Value]); 5] = [
        ("name", &[json!(".."), json!("a/b"), json!("x".repeat(65)), json!("é")]),
        (
            "source",
            &[json!("ftp://x/y"), json!("https://u:p@x/y"), json!("x".repeat(2_049)), json!("https://x/?token=1")],
        ),
        ("sha256", &[json!("A".repeat(64)), json!("sha256:ab")]),
        ("mount_path", &[json!("/proc/x"), json!("data"), json!("/"), json!("/a/../usr")]),
        ("unpack", &[]),
    ];
    for (field, more) in cases {
        for value in text.iter().chain(more) {
            let mut body = digits();
            body[field] = value.clone();
            assert_eq!(ada.post("/v1/datasets", &body).await.problem_fields(), [field], "{value}");
        }
    }
    let all = json!({"source": "x", "sha256": "x", "mount_path": "x", "sha": 1});
    assert_eq!(ada.post("/v1/datasets", &all).await.problem_fields().len(), 5, "every problem at once");
    let mut other = digits();
    other["sha256"] = json!("b".repeat(64));
    ada.post("/v1/datasets", &digits()).await.expect(201);
    let refused = ada.post("/v1/datasets", &other).await.error(409, ErrorCode::Conflict);
    assert!(refused.hint.unwrap().contains("another name"), "a name is never given another meaning");
}

#[tokio::test]
async fn many_at_once_under_one_name_agree() {
    let server = TestServer::start().await;
    let ada = server.user("ada").await;
    let posts = (0..16).map(|n| {
        let ada = ada.clone();
        async move {
            let body = json!({"name": "x", "source": format!("https://h/{}", n % 2)});
            ada.post("/v1/datasets", &body).await.status
        }
    });
    let statuses = futures_util::future::join_all(posts).await;
    assert_eq!(statuses.iter().filter(|status| **status == 201).count(), 1, "{statuses:?}");
    assert!(statuses.iter().all(|status| [200, 201, 409].contains(status)), "{statuses:?}");
}

#[tokio::test]
async fn a_task_keeps_what_a_name_meant_at_its_submit() {
    let server = TestServer::start().await;
    let ada = server.user("ada").await;
    ada.post("/v1/datasets", &digits()).await.expect(201);
    let mut body = small();
    body["datasets"] = json!(["digits"]);
    body["dataset_specs"] = json!([{"name": "own", "source": "https://h/x.zip", "unpack": true}]);
    let task = ada.submit(&body).await;
    assert_eq!(task["datasets"], json!(["own", "digits"]));
    assert_eq!(task["dataset_specs"], json!([{"name": "own", "source": "https://h/x.zip", "unpack": true}, digits()]));

    ada.delete("/v1/datasets/digits").await.expect(204);
    let other = json!({"name": "digits", "source": "https://else.example/x"});
    ada.post("/v1/datasets", &other).await.expect(201);
    let mut worker = LinkWorker::connect(&server).await;
    let assigned = worker.run_next().await.spec.datasets;
    assert_eq!(assigned.iter().map(|set| set.name.as_str()).collect::<Vec<_>>(), ["own", "digits"]);
    assert_eq!(assigned[1].source, digits()["source"].as_str().unwrap());
    let path = format!("/v1/tasks/{}", task["id"].as_str().unwrap());
    assert_eq!(ada.get(&path).await.expect(200).json()["dataset_specs"], task["dataset_specs"]);
}

#[tokio::test]
async fn a_task_is_told_every_problem_of_its_data_sets() {
    let server = TestServer::start().await;
    let ada = server.user("ada").await;
    ada.post("/v1/datasets", &digits()).await.expect(201);
    let mut body = small();
    body["priority"] = json!(11);
    body["datasets"] = json!(["digit", "nothing-like-it"]);
    body["dataset_specs"] = json!([{"name": "a", "source": "https://h/x", "mount_path": "/usr/x", "sha256": "x"}]);
    let refused = ada.post("/v1/tasks", &body).await.error(422, ErrorCode::ValidationError);
    let fields: Vec<&str> = refused.details.iter().map(|problem| problem.field.as_str()).collect();
    for field in ["priority", "datasets[0]", "datasets[1]", "dataset_specs[0].mount_path", "dataset_specs[0].sha256"] {
        assert!(fields.contains(&field), "{field}: {fields:?}");
    }
    let of = |field: &str| &refused.details.iter().find(|problem| problem.field == field).unwrap().problem;
    assert!(of("datasets[0]").contains("did you mean \"digits\""), "{}", of("datasets[0]"));
    assert!(of("datasets[1]").contains("POST /v1/datasets"), "{}", of("datasets[1]"));
}

/// What a worker holds is shown, and draws the tasks that need it.
#[tokio::test]
async fn a_task_goes_to_the_worker_that_holds_its_data_set() {
    let server = TestServer::start().await;
    let admin = server.admin();
    let (mut first, mut second) = (LinkWorker::connect(&server).await, LinkWorker::connect(&server).await);
    for (worker, held) in [(&mut first, "b"), (&mut second, "a")] {
        let held: Vec<DatasetKey> = vec![held.repeat(64).parse().unwrap()];
        worker.send(&ToServer::Datasets { held }).await;
        worker.beat(Vec::new()).await;
    }
    let shown = eventually("what is held is shown", async || {
        let list = admin.get("/v1/scheduler/workers").await.expect(200).json();
        let of = |id: String| list.as_array()?.iter().find(|w| w["id"] == id)?.get("datasets").cloned();
        of(first.id.to_string()).zip(of(second.id.to_string()))
    })
    .await;
    assert_eq!(shown, (json!(["b".repeat(64)]), json!(["a".repeat(64)])));
    let mut body = small();
    body["dataset_specs"] = json!([{"name": "a", "source": "https://h/x", "sha256": "a".repeat(64)}]);
    let task = admin.submit(&body).await;
    assert_eq!(second.assignment().await.spec.id.to_string(), task["id"].as_str().unwrap());

    let many = (0..=fetchml_api::limits::DATASETS_HELD_MAX).map(|n| DatasetKey::of_source(&n.to_string())).collect();
    first.send(&ToServer::Datasets { held: many }).await;
    first.closed().await;
}
