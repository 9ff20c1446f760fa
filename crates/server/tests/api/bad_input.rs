//! What must be refused, and how: every field of every body, one wrong value at a time.

use crate::{NOBODY, small};
use fetchml_api::ErrorCode;
use fetchml_testkit::TestServer;
use reqwest::Method;
use serde_json::{Value, json};

/// For each field of a new task, values that must be refused.
fn wrong_values() -> Vec<(&'static str, Vec<Value>)> {
    let not_text = || vec![json!(null), json!(1), json!(true), json!([]), json!({})];
    let not_int = || vec![json!(null), json!("1"), json!(1.5), json!(1.0), json!(1e3), json!(true), json!([])];
    let text = |more: Vec<Value>| [not_text(), vec![json!("a\0b")], more].concat();
    let int = |below: i64, above: i64| [not_int(), vec![json!(below), json!(above), json!(u64::MAX)]].concat();
    let map = |more: Vec<Value>| {
        [vec![json!(null), json!("x"), json!([]), json!({"A": 1}), json!({"A": null}), json!({"A": "a\0b"})], more]
            .concat()
    };
    let many = |n: usize| (0..n).map(|i| (format!("K{i}"), json!("v"))).collect::<serde_json::Map<_, _>>();
    vec![
        ("job_name", text(vec![json!(""), json!("a b"), json!("é"), json!("../x"), json!("x".repeat(65))])),
        ("priority", int(0, 11)),
        ("args", text(vec![json!("x".repeat(32_769))])),
        ("entrypoint", text(vec![json!(""), json!("  "), json!("x".repeat(32_769))])),
        ("snapshot_id", text(vec![json!("x"), json!("sha256:ABC"), json!(format!("sha256:{}", "a".repeat(64)))])),
        ("datasets", vec![json!(null), json!("x"), json!(["d"]), json!([7]), json!([""]), json!({})]),
        ("dataset_specs", vec![json!(null), json!("x"), json!([{"name": "d"}]), json!([7])]),
        ("cpu", int(-1, 4_097)),
        ("memory_gb", int(-1, 65_537)),
        ("gpu", int(-1, 65)),
        ("metadata", map(vec![json!({"k": "v".repeat(4_097)}), json!({"k".repeat(129): "v"}), json!(many(65))])),
        ("gpu_type", text(vec![json!("H100"), json!("x".repeat(65))])),
        ("max_retries", int(-1, 11)),
        ("time_limit_s", int(0, 31_536_001)),
        (
            "env",
            map(vec![
                json!({"1A": "x"}),
                json!({"": "x"}),
                json!({"A B": "x"}),
                json!({"FETCHML_X": "x"}),
                json!(many(257)),
            ]),
        ),
        ("node_count", int(0, 4_097)),
        ("reservation_id", vec![json!("r"), json!(1), json!(NOBODY)]),
        ("plugin_configs", vec![json!({})]),
        ("depends_on", vec![json!("x"), json!(["x"]), json!([1]), json!([NOBODY]), json!([{"id": NOBODY, "on": "x"}])]),
        (
            "image",
            vec![
                json!(null),
                json!(1),
                json!(""),
                json!("Python"),
                json!("a:b c"),
                json!("a@md5:1"),
                json!("x".repeat(513)),
            ],
        ),
        ("network", vec![json!(null), json!("off"), json!(1)]),
        ("secrets", vec![json!("A"), json!([1]), json!(["A-B"]), json!(["FETCHML_A"]), json!(["NOT_THERE"])]),
        ("array", vec![json!(2), json!(""), json!("0-10000"), json!(["1"])]),
        ("experiment_id", vec![json!("e")]),
        ("on_lost", vec![json!("stay"), json!(true)]),
        ("lost_after_s", int(9, 2_592_001)),
        ("resume_from", vec![json!(7), json!("x"), json!("00000000-0000-0000-0000-000000000009")]),
        ("stall_after_s", int(9, 2_592_001)),
        (
            "source",
            vec![
                json!(null),
                json!("main"),
                json!({}),
                json!({"commit": "abc"}),
                json!({"commit": "A".repeat(40)}),
                json!({"commit": "a".repeat(40), "dirty": 1}),
                json!({"commit": "a".repeat(40), "branch": "a\0b"}),
                json!({"commit": "a".repeat(40), "remote": "https://ada:pw@lab/x"}),
                json!({"commit": "a".repeat(40), "more": 1}),
            ],
        ),
    ]
}

#[tokio::test]
pub(crate) async fn every_field_of_a_task() {
    let server = TestServer::start().await;
    let admin = server.admin();
    for (field, values) in wrong_values() {
        for value in values {
            let mut body = small();
            body[field] = value.clone();
            let shown: String = value.to_string().chars().take(60).collect();
            let fields = admin.post("/v1/tasks", &body).await.problem_fields();
            let named = fields
                .iter()
                .all(|f| f.strip_prefix(field).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '['])));
            assert!(!fields.is_empty() && named, "{field} = {shown}: {fields:?}");
        }
        // A field that stands twice is never read as either.
        let twice = format!(r#"{{"job_name": "a", "args": "x", "{field}": null, "{field}": null}}"#);
        admin.post_raw("/v1/tasks", twice).await.error(400, ErrorCode::BadRequest);
    }
    let mut body = small();
    body.as_object_mut().unwrap().remove("job_name");
    assert_eq!(admin.post("/v1/tasks", &body).await.problem_fields(), ["job_name"]);
    assert_eq!(admin.post("/v1/tasks", &json!({"job_name": "a"})).await.problem_fields(), ["entrypoint"]);
    let all = json!({"job_name": "", "priority": 0, "cpu": "x"});
    assert_eq!(admin.post("/v1/tasks", &all).await.problem_fields().len(), 4, "every problem at once");
    assert_eq!(admin.get("/v1/tasks").await.expect(200).json()["total"], 0, "nothing of this was stored");
}

#[tokio::test]
pub(crate) async fn every_field_of_a_key() {
    let server = TestServer::start().await;
    let admin = server.admin();
    let text = [json!(null), json!(1), json!([]), json!("a\0b")];
    let cases = [
        ("role", [&text[..], &[json!("root"), json!("")]].concat()),
        ("user_id", [&text[..], &[json!(""), json!("a b"), json!("x".repeat(65))]].concat()),
        ("name", [&text[..], &[json!("x".repeat(65))]].concat()),
        ("expires_days", vec![json!(null), json!("1"), json!(0), json!(3_651), json!(1.5)]),
        (
            "expires_at",
            [
                &text[..],
                &[json!("tomorrow"), json!("2030-01-31"), json!("2020-01-31T12:00:00Z"), json!("2999-01-31T12:00:00Z")],
            ]
            .concat(),
        ),
    ];
    for (field, values) in cases {
        for value in values {
            let mut body = json!({"role": "user", "user_id": "ada"});
            body[field] = value.clone();
            assert_eq!(admin.post("/v1/keys", &body).await.problem_fields(), [field], "{value}");
        }
    }
    let both = json!({"role": "user", "user_id": "ada", "expires_days": 1, "expires_at": "2999-01-31T12:00:00Z"});
    assert_eq!(admin.post("/v1/keys", &both).await.problem_fields(), ["expires_at"], "one of the two");
    assert_eq!(admin.post("/v1/keys", &json!({})).await.problem_fields(), ["role", "user_id"]);
}

#[tokio::test]
async fn bodies_that_cannot_be_read() {
    let server = TestServer::start().await;
    let admin = server.admin();
    for path in ["/v1/tasks", "/v1/keys"] {
        let deep = format!("{}{}", "[".repeat(100), "]".repeat(100));
        for body in ["", "{", "{]", "nul", "{\"a\":1,}", "{} {}", "{\"a\":\"\u{1}\"}", "'a'", deep.as_str()] {
            admin.post_raw(path, body.to_owned()).await.error(400, ErrorCode::BadRequest);
        }
        admin.post_raw(path, b"{\"job_name\": \"\xff\"}".to_vec()).await.error(400, ErrorCode::BadRequest);
        for body in ["[]", "null", "1", "\"x\""] {
            admin.post_raw(path, body).await.error(422, ErrorCode::ValidationError);
        }
        let large = format!("{{\"job_name\": \"{}\"}}", "x".repeat(1 << 20));
        admin.post_raw(path, large).await.error(413, ErrorCode::BadRequest);
        for content_type in [None, Some("text/plain"), Some("application/x-www-form-urlencoded"), Some("json")] {
            let mut request = admin.request(Method::POST, path).body("{}");
            if let Some(content_type) = content_type {
                request = request.header("content-type", content_type);
            }
            admin.send(request).await.error(415, ErrorCode::BadRequest);
        }
    }
    let with_charset =
        admin.request(Method::POST, "/v1/tasks").header("content-type", "Application/JSON; charset=utf-8");
    admin.send(with_charset.body(small().to_string())).await.expect(201);
}

#[tokio::test]
async fn half_a_surrogate_pair_is_refused_where_it_stands() {
    let server = TestServer::start().await;
    let admin = server.admin();
    for (body, field) in [
        (r#"{"job_name": "a", "args": "x\ud800"}"#, "args"),
        (r#"{"job_name": "a", "args": "x\udc00y"}"#, "args"),
        (r#"{"job_name": "a", "args": "x", "metadata": {"k": "\ud83d"}}"#, "metadata.k"),
        (r#"{"job_name": "a", "args": "x", "env": {"K": "\u0000"}}"#, "env.K"),
    ] {
        assert_eq!(admin.post_raw("/v1/tasks", body).await.problem_fields(), [field], "{body}");
    }
}

#[tokio::test]
pub(crate) async fn query_parameters() {
    let server = TestServer::start().await;
    let admin = server.admin();
    for query in [
        "limit=-1",
        "limit=1001",
        "limit=x",
        "limit=1.5",
        "limit=",
        "limit=1&limit=2",
        "offset=-1",
        "offset=99999999999999999999",
        "status=done",
        "status=",
        "after=x",
        "array_id=x",
        "node_count=0",
        "node_count=x",
        "plugin_configs=x",
        "plugin_configs=[]",
        "user_id=%00",
        "job_name=%ff",
        "created_after=yesterday",
        "created_before=2026-01-01",
        "metadata.lr=1&metadata.lr=2",
        "metadata.lr=%00",
    ] {
        let error = admin.get(&format!("/v1/tasks?{query}")).await.error(400, ErrorCode::BadRequest);
        assert_eq!(error.details.len(), 1, "{query}");
    }
    let error = admin.get("/v1/tasks?limit=x&offset=y&status=z").await.error(400, ErrorCode::BadRequest);
    assert_eq!(error.details.len(), 3);
    let many: Vec<String> = (0..65).map(|n| format!("metadata.k{n}=v")).collect();
    admin.get(&format!("/v1/tasks?{}", many.join("&"))).await.error(400, ErrorCode::BadRequest);
    let task = admin.submit(&small()).await;
    let id = task["id"].as_str().unwrap();
    for query in ["wait=x", "wait=-1s", "wait=61s", "wait=1m", "wait=", "known=done", "wait=1s&wait=2s"] {
        admin.get(&format!("/v1/tasks/{id}?{query}")).await.error(400, ErrorCode::BadRequest);
    }
    for path in [
        "logs?node=x",
        "logs?node=-1",
        "logs?follow=maybe",
        "logs?attempt=x",
        "manifest?attempt=x",
        "metrics?attempt=x",
        "metrics?node=-1",
        "metrics?points=9",
        "metrics?points=5001",
        "metrics?from_step=x",
        "metrics?to_step=nan",
        "metrics?from_step=2&to_step=1",
        "metrics?names=%5B1%5D",
        "artifacts?attempt=x",
        "artifacts/a?attempt=x",
    ] {
        admin.get(&format!("/v1/tasks/{id}/{path}")).await.error(400, ErrorCode::BadRequest);
    }
    admin.delete(&format!("/v1/tasks/{id}?purge=maybe")).await.error(400, ErrorCode::BadRequest);
    admin.post("/v1/tasks?strict=maybe", &small()).await.error(400, ErrorCode::BadRequest);
    admin.post("/v1/admin/gc?dry_run=maybe", &json!({})).await.error(400, ErrorCode::BadRequest);
    for query in ["force=maybe", "declare_dead=1.5", "force=true&force=true"] {
        admin.delete(&format!("/v1/scheduler/workers/{NOBODY}?{query}")).await.error(400, ErrorCode::BadRequest);
    }
    for query in [
        "limit=1001",
        "limit=-1",
        "offset=-1",
        "offset=x",
        "after=-1",
        "after=x",
        "order=down",
        "event_type=x",
        "event_type=",
        "from=yesterday",
        "to=2026-01-01",
        "user_id=%00",
        "resource=%ff",
        "user_id=a&user_id=b",
    ] {
        let error = admin.get(&format!("/v1/audit/events?{query}")).await.error(400, ErrorCode::BadRequest);
        assert_eq!(error.details.len(), 1, "{query}");
    }
    let error = admin.get("/v1/audit/events?limit=x&from=y&order=z").await.error(400, ErrorCode::BadRequest);
    assert_eq!(error.details.len(), 3);
    admin.get("/v1/usage?user_id=%00").await.error(400, ErrorCode::BadRequest);
    admin.get(&format!("/v1/tasks/{id}/logs?attempt={NOBODY}")).await.error(404, ErrorCode::NotFound);
}

#[tokio::test]
async fn a_head_that_is_too_large_or_slow_costs_only_its_connection() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let server = TestServer::start().await;
    let mut socket = tokio::net::TcpStream::connect(server.server().address()).await.unwrap();
    let mut head = String::from("GET /health HTTP/1.1\r\nHost: x\r\n");
    for n in 0..200_usize {
        head.push_str(["X-A: y\r\n", "X-B: y\r\n"][n % 2]);
    }
    socket.write_all((head + "\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    server.anonymous().get("/health").await.expect(200);
}
