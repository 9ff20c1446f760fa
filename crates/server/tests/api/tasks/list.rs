use fetchml_testkit::{Database, TestServer};
use serde_json::{Value, json};

#[tokio::test]
pub(crate) async fn pages_from_the_newest() {
    for database in Database::ALL {
        let server = TestServer::start_with(database, |_| {}).await;
        let (ada, bob) = (server.user("ada").await, server.user("bob").await);
        let mut ids = Vec::new();
        for n in 0..5 {
            let owner = if n == 2 { &bob } else { &ada };
            let made = owner.submit(&json!({"job_name": format!("n{}", n % 2), "args": "true"})).await;
            ids.insert(0, made["id"].as_str().unwrap().to_owned());
        }
        let page = async |query: &str| {
            let list = ada.get(&format!("/v1/tasks?{query}")).await.expect(200).json();
            let found: Vec<String> =
                list["tasks"].as_array().unwrap().iter().map(|t| t["id"].as_str().unwrap().to_owned()).collect();
            (found, list["total"].as_i64().unwrap())
        };
        assert_eq!(page("").await, (ids.clone(), 5));
        assert_eq!(page("limit=2&offset=1").await, (ids[1..3].to_vec(), 5));
        assert_eq!(page("limit=0").await, (vec![], 5));
        assert_eq!(page("offset=9").await, (vec![], 5));
        assert_eq!(page("user_id=bob").await, (ids[2..3].to_vec(), 1));
        assert_eq!(page("job_name=n1").await, (vec![ids[1].clone(), ids[3].clone()], 2));
        assert_eq!(page(&format!("after={}&limit=2", ids[1])).await.0, ids[2..4].to_vec());
        assert_eq!(page("status=queued&node_count=1&unknown=x").await.1, 5);
        assert_eq!(page("status=completed").await, (vec![], 0));
        assert_eq!(page("node_count=2").await, (vec![], 0));
        assert_eq!(page("reservation_id=x").await, (vec![], 0));
        let gang = ada.submit(&json!({"job_name": "gang", "args": "true", "node_count": 2})).await;
        let gang = gang["id"].as_str().unwrap().to_owned();
        assert_eq!(page("node_count=2").await, (vec![gang.clone()], 1));
        assert_eq!(page("node_count=1").await.1, 5);
        ada.delete(&format!("/v1/tasks/{gang}")).await.expect(204);
        ada.delete(&format!("/v1/tasks/{gang}?purge=true")).await;
        assert_eq!(page("plugin_configs=%7B%7D").await.1, 5);
        let list: Value = ada.get("/v1/tasks?limit=3").await.expect(200).json();
        assert_eq!((&list["limit"], &list["offset"]), (&json!(3), &json!(0)));
        assert!(list["tasks"][0].get("output").is_none());
    }
}

#[tokio::test]
async fn finds_tasks_by_metadata_and_time() {
    let server = TestServer::start().await;
    let ada = server.user("ada").await;
    let submit =
        async |metadata: Value| ada.submit(&json!({"job_name": "a", "args": "true", "metadata": metadata})).await;
    let first = submit(json!({"lr": "0.1", "the model": "x+y"})).await;
    let second = submit(json!({"lr": "0.1"})).await;
    submit(json!({})).await;
    let found = async |query: &str| {
        let list = ada.get(&format!("/v1/tasks?{query}")).await.expect(200).json();
        let ids: Vec<Value> = list["tasks"].as_array().unwrap().iter().map(|task| task["id"].clone()).collect();
        assert_eq!(list["total"], ids.len());
        ids
    };
    assert_eq!(found("metadata.lr=0.1").await, [second["id"].clone(), first["id"].clone()]);
    assert_eq!(found("metadata.lr=0.1&metadata.the+model=x%2By").await, [first["id"].clone()]);
    assert!(found("metadata.lr=0.2").await.is_empty() && found("metadata.=").await.is_empty());
    let (at, later) = (first["created_at"].as_str().unwrap(), second["created_at"].as_str().unwrap());
    assert!(found(&format!("created_before={at}")).await.is_empty());
    assert_eq!(found(&format!("created_before={later}")).await, [first["id"].clone()]);
    assert_eq!(found(&format!("created_after={at}&metadata.lr=0.1")).await, [second["id"].clone()]);
    assert_eq!(found("created_after=2020-01-01T00:00:00%2B02:00").await.len(), 3);
}
