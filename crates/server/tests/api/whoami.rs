use fetchml_testkit::{Database, TestServer};
use serde_json::json;

#[tokio::test]
pub(crate) async fn says_who_the_key_makes_its_sender() {
    for database in Database::ALL {
        let server = TestServer::start_with(database, |_| {}).await;
        for role in ["viewer", "user", "operator", "admin"] {
            let body = json!({"role": role, "user_id": "ada@lab", "name": "laptop", "expires_days": 2});
            let made = server.admin().post("/v1/keys", &body).await.expect(201).json();
            let client = server.anonymous().with_key(made["key"].as_str().map(str::to_owned));
            let known = json!({
                "user_id": "ada@lab", "role": role, "key_id": made["id"], "name": "laptop",
                "created_at": made["created_at"], "expires_at": made["expires_at"],
            });
            assert_eq!(client.get("/v1/whoami").await.expect(200).json(), known);
        }
        let plain = server.user("bob").await.get("/v1/whoami").await.expect(200).json();
        assert_eq!((plain.get("name"), plain.get("expires_at")), (None, None));
    }
}
