use fetchml_api::ErrorCode;
use fetchml_testkit::{Database, TestServer};
use serde_json::json;

#[tokio::test]
pub(crate) async fn are_made_listed_and_revoked() {
    for database in Database::ALL {
        made_listed_and_revoked(database).await;
    }
}

async fn made_listed_and_revoked(database: Database) {
    let server = TestServer::start_with(database, |_| ()).await;
    let admin = server.admin();
    let body = json!({"role": "user", "user_id": "ada@lab", "name": "laptop"});
    let made = admin.post("/v1/keys", &body).await.expect(201).json();
    let id = made["id"].as_str().unwrap();
    let client = server.anonymous().with_key(made["key"].as_str().map(str::to_owned));
    client.get("/v1/queue").await.expect(200);

    let listed = admin.get("/v1/keys").await.expect(200);
    let secret = made["key"].as_str().unwrap();
    assert!(!String::from_utf8_lossy(&listed.body).contains(secret), "a list shows no secrets");
    let found = listed.json()["keys"].as_array().unwrap().iter().find(|k| k["id"] == id).unwrap().clone();
    assert_eq!((&found["name"], &found["user_id"]), (&json!("laptop"), &json!("ada@lab")));

    admin.delete(&format!("/v1/keys/{id}")).await.expect(204);
    admin.delete(&format!("/v1/keys/{id}")).await.expect(204);
    client.get("/v1/queue").await.error(401, ErrorCode::Unauthorized);

    let server = server.restart().await;
    client_of(&server, secret).get("/v1/queue").await.error(401, ErrorCode::Unauthorized);
    let listed = server.admin().get("/v1/keys").await.expect(200).json();
    assert!(listed["keys"].as_array().unwrap().iter().any(|k| k["id"] == id && k["revoked_at"].is_string()));
}

fn client_of(server: &TestServer, key: &str) -> fetchml_testkit::CheckedClient {
    server.anonymous().with_key(Some(key.to_owned()))
}

#[tokio::test]
async fn the_last_admin_key_cannot_be_revoked() {
    for database in Database::ALL {
        last_admin_key_stays(database).await;
    }
}

async fn last_admin_key_stays(database: Database) {
    let server = TestServer::start_with(database, |_| ()).await;
    let admin = server.admin();
    let keys = admin.get("/v1/keys").await.expect(200).json();
    let first = keys["keys"].as_array().unwrap().iter().find(|k| k["role"] == "admin").unwrap()["id"].clone();
    let path = format!("/v1/keys/{}", first.as_str().unwrap());
    admin.delete(&path).await.error(409, ErrorCode::Conflict);
    let second = admin.post("/v1/keys", &json!({"role": "admin", "user_id": "b"})).await.expect(201).json();
    client_of(&server, second["key"].as_str().unwrap()).delete(&path).await.expect(204);
    admin.get("/v1/keys").await.error(401, ErrorCode::Unauthorized);
}
