use fetchml_testkit::TestServer;

#[tokio::test]
pub(crate) async fn says_how_the_server_is() {
    let server = TestServer::start().await;
    let health = server.anonymous().get("/health").await.expect(200).json();
    assert_eq!(health["status"], "healthy");
    assert_eq!(health["version"], env!("CARGO_PKG_VERSION"));
}
