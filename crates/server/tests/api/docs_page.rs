//! `/docs`, as it is built in or not; tests/e2e/docs_page.rs looks at it in a browser.

use fetchml_api::ErrorCode;
use fetchml_testkit::TestServer;
use reqwest::Method;

#[tokio::test]
pub(crate) async fn is_served_under_a_strict_policy() {
    let server = TestServer::start().await;
    let client = server.anonymous();
    let page = client.get("/docs").await.expect(200);
    assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
    let text = String::from_utf8(page.body.to_vec()).unwrap();
    assert!(text.contains("<title>FetchML API</title>") && text.contains("openapi.json"), "{text}");
    let mut files: Vec<&str> = text.split("\"docs/").skip(1).map(|rest| rest.split_once('"').unwrap().0).collect();
    assert!(files.contains(&"page.css"), "{files:?}");
    let has_script = files.contains(&"start.js");
    assert_eq!(has_script, !text.contains("cargo xtask web"), "a page without its script says how to have it");
    files.push("page.css");
    for path in files.into_iter().map(|file| format!("/docs/{file}")).chain(["/docs".to_owned()]) {
        let answer = client.get(&path).await.expect(200);
        let policy = answer.header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self';"), "{path}: {policy}");
        assert!(!policy.contains("unsafe"), "{path}: {policy}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{path}");
        let kind = match path.rsplit_once('.') {
            Some((_, "css")) => "text/css; charset=utf-8",
            Some((_, "js")) => "text/javascript; charset=utf-8",
            _ => "text/html; charset=utf-8",
        };
        assert_eq!(answer.header("content-type"), kind, "{path}");
        let request = client.request(Method::GET, &path).header("if-none-match", answer.header("etag"));
        let again = client.send(request).await.expect(304);
        assert!(again.body.is_empty(), "{path}");
    }
}

#[tokio::test]
pub(crate) async fn unknown_files_are_404() {
    let server = TestServer::start().await;
    for name in ["none.js", "..%2fCargo.toml", "%00", "package.json", "start.js%20"] {
        server.anonymous().get(&format!("/docs/{name}")).await.error(404, ErrorCode::NotFound);
    }
    server.anonymous().get("/docs/").await.error(404, ErrorCode::NotFound);
}
