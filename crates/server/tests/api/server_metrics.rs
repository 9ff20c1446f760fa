//! `/metrics`, read line by line; clients/python/tests/test_server_metrics.py reads it with Prometheus' own parser.

use crate::{completed, drained, small};
use fetchml_api::ErrorCode;
use fetchml_testkit::{CheckedClient, DEADLINE, Database, TestServer};
use reqwest::Method;
use std::{collections::BTreeMap, time::Duration};

/// Every sample, by its name and labels as they are written.
async fn scraped(client: &CheckedClient) -> BTreeMap<String, f64> {
    let answer = client.get("/metrics").await.expect(200);
    assert_eq!(answer.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    let text = String::from_utf8(answer.body.to_vec()).unwrap();
    let samples = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    samples.map(|line| line.rsplit_once(' ').unwrap()).map(|(name, v)| (name.to_owned(), v.parse().unwrap())).collect()
}

#[track_caller]
fn assert_samples(seen: &BTreeMap<String, f64>, wanted: &[(&str, f64)]) {
    for (name, value) in wanted {
        assert_eq!(seen.get(*name), Some(value), "{name}: {seen:#?}");
    }
}

/// Waits until a sample has a value.
async fn becomes(client: &CheckedClient, name: &str, wanted: f64) {
    let waiting = async {
        while scraped(client).await.get(name) != Some(&wanted) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(DEADLINE, waiting).await.unwrap_or_else(|_| panic!("{name} does not become {wanted}"));
}

#[tokio::test]
pub(crate) async fn move_as_a_task_runs() {
    let server = TestServer::start().await;
    let (admin, ada) = (server.admin(), server.user("ada").await);
    let before = scraped(&admin).await;
    assert_samples(&before, &[("fetchml_tasks_submitted_total", 0.0)]);
    let (_worker, _) = completed(&server, &ada).await;
    let cancelled = ada.submit(&small()).await;
    ada.delete(&format!("/v1/tasks/{}", cancelled["id"].as_str().unwrap())).await.expect(204);
    // Workers are looked at from time to time.
    becomes(&admin, "fetchml_workers{status=\"active\"}", 1.0).await;
    becomes(&admin, "fetchml_slots{slot=\"service\",state=\"free\"}", 1.0).await;
    let after = scraped(&admin).await;
    let wanted = [
        ("fetchml_tasks_submitted_total", 2.0),
        ("fetchml_tasks_ended_total{status=\"completed\",cause=\"none\"}", 1.0),
        ("fetchml_tasks_ended_total{status=\"failed\",cause=\"timeout\"}", 0.0),
        ("fetchml_tasks{status=\"completed\"}", 1.0),
        ("fetchml_streams_open{kind=\"worker\"}", 1.0),
        ("fetchml_health{status=\"healthy\"}", 1.0),
        ("fetchml_http_requests_total{method=\"POST\",route=\"/v1/tasks\",status=\"2xx\"}", 2.0),
        ("fetchml_http_request_duration_seconds_count{method=\"POST\",route=\"/v1/tasks\"}", 2.0),
        ("fetchml_http_requests_total{method=\"DELETE\",route=\"/v1/tasks/{taskId}\",status=\"2xx\"}", 1.0),
        ("fetchml_http_requests_in_flight", 1.0),
    ];
    assert_samples(&after, &wanted);
    // The second was placed, or was cancelled before.
    assert!((1.0..=2.0).contains(&after["fetchml_placements_total"]));
    assert!(after["fetchml_audit_sequence"] > before["fetchml_audit_sequence"]);
    for histogram in ["fetchml_turn_duration_seconds", "fetchml_commit_duration_seconds", "fetchml_commit_writers"] {
        let count = format!("{histogram}_count");
        assert!(after[&count] > before.get(&count).copied().unwrap_or(0.0), "{histogram}");
    }
    assert!(after["process_resident_memory_bytes"] > 1e6 && after["process_open_fds"] > 3.0);
}

#[tokio::test]
async fn what_is_served_is_what_is_documented() {
    let server = TestServer::start().await;
    let _ = completed(&server, &server.user("ada").await).await;
    let text = String::from_utf8(server.admin().get("/metrics").await.expect(200).body.to_vec()).unwrap();
    let mut served: Vec<String> = Vec::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').unwrap();
        assert!(text.contains(&format!("# HELP {name} ")), "{name} has no help");
        served.push(format!("{name} {kind}"));
    }
    served.sort();
    let page = include_str!("../../../../docs/observability.md");
    let rows = page.lines().filter(|line| line.starts_with("| `fetchml_") || line.starts_with("| `process_"));
    let mut documented: Vec<String> = rows
        .map(|row| row.split('|').map(str::trim).collect::<Vec<_>>())
        .map(|cells| format!("{} {}", cells[1].trim_matches('`'), cells[2]))
        .collect();
    documented.sort();
    assert_eq!(served, documented);
}

#[tokio::test]
async fn a_key_may_come_as_a_bearer_token_here_and_nowhere_else() {
    let server = TestServer::start().await;
    let viewer = server.with_role("viewer", "prometheus").await;
    let ask = |path: &'static str, value: String| {
        let anonymous = server.anonymous();
        async move { anonymous.send(anonymous.request(Method::GET, path).header("authorization", value)).await }
    };
    let key = viewer.key.clone().unwrap();
    ask("/metrics", format!("Bearer {key}")).await.expect(200);
    ask("/metrics", format!("bearer  {key}")).await.expect(200);
    for value in [format!("Basic {key}"), key.clone(), "Bearer".into(), "Bearer fml_wrong".into()] {
        ask("/metrics", value).await.error(401, ErrorCode::Unauthorized);
    }
    ask("/v1/queue", format!("Bearer {key}")).await.error(401, ErrorCode::Unauthorized);
    let seen = scraped(&viewer).await;
    let name = |reason| format!("fetchml_auth_failures_total{{reason=\"{reason}\"}}");
    assert_samples(&seen, &[(&name("missing"), 4.0), (&name("malformed"), 1.0), (&name("revoked"), 0.0)]);
}

#[tokio::test]
async fn nothing_that_somebody_chose_becomes_a_label() {
    let server = TestServer::start_with(Database::Sqlite, |options| {
        options.rate_limits = Some(fetchml_server::RateLimits {
            viewer: fetchml_server::Rate { per_second: 1, burst: 1 },
            ..fetchml_server::RateLimits::default()
        });
    })
    .await;
    let (admin, ada) = (server.admin(), server.user("canary_user").await);
    ada.post("/v1/tasks", &serde_json::json!({"job_name": "canary-job", "entrypoint": "canary"})).await.expect(201);
    for path in ["/canary", "/v1/tasks/canary", "/v1/tasks/%63anary/logs", "/v1/blobs/canary?canary=1"] {
        ada.get(path).await.expect(404);
    }
    admin.send(admin.request(Method::PATCH, "/v1/tasks")).await.expect(405);
    let viewer = server.with_role("viewer", "canary_viewer").await;
    viewer.get("/v1/queue").await.expect(200);
    while viewer.get("/v1/queue").await.status != 429 {}
    let text = String::from_utf8(admin.get("/metrics").await.expect(200).body.to_vec()).unwrap();
    assert!(!text.contains("canary"), "{text}");
    let seen = scraped(&admin).await;
    let wanted = [
        ("fetchml_http_requests_total{method=\"other\",route=\"other\",status=\"4xx\"}", 2.0),
        ("fetchml_http_requests_total{method=\"GET\",route=\"/v1/tasks/{taskId}\",status=\"4xx\"}", 1.0),
        ("fetchml_http_rejected_total{reason=\"key_rate\"}", 1.0),
    ];
    assert_samples(&seen, &wanted);
}

#[tokio::test]
async fn streams_count_while_they_are_open() {
    let server = TestServer::start().await;
    let admin = server.admin();
    let task = admin.submit(&small()).await["id"].as_str().unwrap().to_owned();
    let paths = [
        ("status", "/v1/scheduler/status/stream".to_owned()),
        ("job", format!("/v1/scheduler/jobs/{task}/stream")),
        ("log", format!("/v1/tasks/{task}/logs?follow=true")),
    ];
    for (kind, path) in paths {
        let name = format!("fetchml_streams_open{{kind=\"{kind}\"}}");
        let stream = admin.request(Method::GET, &path).send().await.unwrap();
        assert_eq!(stream.status(), 200);
        becomes(&admin, &name, 1.0).await;
        drop(stream);
        becomes(&admin, &name, 0.0).await;
    }
    let mut stream = admin.request(Method::GET, &format!("/v1/scheduler/jobs/{task}/stream")).send().await.unwrap();
    admin.delete(&format!("/v1/tasks/{task}")).await.expect(204);
    drained(&mut stream).await;
    becomes(&admin, "fetchml_streams_open{kind=\"job\"}", 0.0).await;
}
