use crate::sha256;
use fetchml_api::ErrorCode;
use fetchml_testkit::TestServer;
use reqwest::Method;

#[tokio::test]
pub(crate) async fn are_stored_and_read() {
    let server = TestServer::start().await;
    let ada = server.user("ada").await;
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let path = format!("/v1/blobs/{}", sha256(&bytes));
    ada.send(ada.request(Method::HEAD, &path)).await.expect(404);
    ada.put(&path, bytes.clone()).await.expect(201);
    ada.put(&path, bytes.clone()).await.expect(204);
    let head = ada.send(ada.request(Method::HEAD, &path)).await.expect(200);
    assert_eq!(head.header("content-length"), "3000000");
    let whole = ada.get(&path).await.expect(200);
    assert_eq!(whole.body, bytes);
    let etag = whole.header("etag").to_owned();
    assert_eq!(etag, format!("\"{}\"", sha256(&bytes)));
    let part = ada.send(ada.request(Method::GET, &path).header("range", "bytes=1000000-1000009")).await.expect(206);
    assert_eq!(part.body, &bytes[1_000_000..1_000_010]);
    assert_eq!(part.header("content-range"), "bytes 1000000-1000009/3000000");
    let past = ada.send(ada.request(Method::GET, &path).header("range", "bytes=3000000-")).await;
    past.error(416, ErrorCode::BadRequest);
    assert_eq!(past.header("content-range"), "bytes */3000000");
    ada.send(ada.request(Method::GET, &path).header("if-none-match", etag)).await.expect(304);
    // The empty blob is a blob too.
    let empty = format!("/v1/blobs/{}", sha256(b""));
    ada.put(&empty, "").await.expect(201);
    assert_eq!(ada.get(&empty).await.expect(200).body.len(), 0);
}

#[tokio::test]
pub(crate) async fn bytes_that_do_not_match() {
    let server = TestServer::start().await;
    let ada = server.user("ada").await;
    let path = format!("/v1/blobs/{}", sha256(b"right"));
    let error = ada.put(&path, "wrong").await.error(422, ErrorCode::ValidationError);
    assert!(error.details[0].problem.contains(&sha256(b"wrong")));
    ada.get(&path).await.error(404, ErrorCode::NotFound);
    ada.put(&path, "right").await.expect(201);
}
