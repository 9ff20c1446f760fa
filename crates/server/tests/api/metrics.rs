use crate::{NOBODY, running, small};
use fetchml_api::{
    ErrorCode, TaskMetrics,
    link::{ByteStream, Held, Outcome},
    metrics::BatchHead,
};
use fetchml_testkit::{CheckedClient, LinkWorker, TestServer};
use serde_json::{Value, json};

/// A batch as a worker sends it, seen `at_us`.
fn batch(at_us: i64, records: &str) -> Vec<u8> {
    let head = BatchHead { at_us, body: records.len() as u64, ..BatchHead::default() };
    [head.encode(), records.as_bytes().to_vec()].concat()
}

async fn metrics(client: &CheckedClient, task: impl std::fmt::Display, query: &str) -> Value {
    client.get(&format!("/v1/tasks/{task}/metrics{query}")).await.expect(200).json()
}

fn steps(series: &Value) -> Vec<i64> {
    series["points"].as_array().unwrap().iter().map(|point| point["step"].as_i64().unwrap()).collect()
}

#[tokio::test]
pub(crate) async fn are_answered_as_series() {
    let server = TestServer::start().await;
    let ada = server.user("ada").await;
    let (mut worker, assignment) = running(&server, &ada).await;
    let (task, attempt) = (assignment.spec.id, assignment.attempt);
    let none = metrics(&ada, task, "").await;
    assert_eq!((&none["attempt_id"], &none["lines"], &none["series"]), (&json!(attempt), &json!(0), &json!({})));

    let first = batch(1_764_000_000_000_000, "+{\"step\":1,\"loss\":2.5}\n+{\"step\":2,\"loss\":NaN,\"acc\":0.5}\n");
    let length = worker.stream(attempt, ByteStream::Metrics, 0, &first).await;
    let second =
        batch(1_764_000_001_000_000, "#{\"cpu_percent\":50}\n+{\"step\":3,\"time\":1764000007.5,\"loss\":0.5}\n");
    worker.stream(attempt, ByteStream::Metrics, length, &second).await;
    let shown = metrics(&ada, task, "").await;
    let point = |step: i64, time: &str, value: f64| json!({"step": step, "time": time, "value": value});
    let last = point(3, "2025-11-24T16:00:07.500000Z", 0.5);
    assert_eq!(
        shown["series"]["loss"],
        json!({
            "count": 2, "min": 0.5, "max": 2.5, "last": last,
            "points": [json!({"step": 1, "time": "2025-11-24T16:00:00.000000Z", "value": 2.5}), last],
        })
    );
    assert_eq!(steps(&shown["series"]["acc"]), [2], "the rest of a bad line counts");
    assert_eq!(shown["system"]["system.cpu_percent"]["last"]["value"], json!(50));
    assert_eq!((&shown["lines"], &shown["bad_lines"], &shown["dropped_bytes"]), (&json!(3), &json!(1), &json!(0)));
    assert_eq!(shown["first_bad_line"], json!({"line": 2, "problem": "\"loss\" is NaN"}));

    let chosen = metrics(&ada, task, "?names=acc,system.cpu_percent,nothing&attempt=1").await;
    assert_eq!((chosen["series"].as_object().unwrap().len(), chosen["system"].as_object().unwrap().len()), (1, 1));
    let ranged = metrics(&ada, task, "?from_step=2&to_step=3&names=%5B%22loss%22%5D").await;
    assert_eq!((steps(&ranged["series"]["loss"]), &ranged["series"]["loss"]["max"]), (vec![3], &json!(0.5)));
    ada.get(&format!("/v1/tasks/{task}/metrics?attempt=2")).await.error(404, ErrorCode::NotFound);
    ada.get(&format!("/v1/tasks/{NOBODY}/metrics")).await.error(404, ErrorCode::NotFound);
}

#[tokio::test]
pub(crate) async fn a_task_without_attempts_has_none() {
    let server = TestServer::start().await;
    let ada = server.user("ada").await;
    let task = ada.submit(&small()).await;
    let shown = metrics(&ada, task["id"].as_str().unwrap(), "").await;
    assert_eq!(serde_json::from_value::<TaskMetrics>(shown).unwrap(), TaskMetrics::default());
}

#[tokio::test]
async fn many_points_are_reduced_and_a_part_can_be_seen_closely_also_after_the_end() {
    const LINES: i64 = 40_000;
    let server = TestServer::start().await;
    let ada = server.user("ada").await;
    let (mut worker, assignment) = running(&server, &ada).await;
    let (task, attempt) = (assignment.spec.id, assignment.attempt);
    let mut length = 0;
    for chunk in (0..LINES).collect::<Vec<_>>().chunks(2_000) {
        // One value stands out: no reduction may lose it.
        let lines =
            chunk.iter().map(|n| format!("+{{\"step\":{n},\"loss\":{}}}\n", if *n == 12_345 { 9 } else { n % 7 }));
        length = worker.stream(attempt, ByteStream::Metrics, length, &batch(1, &lines.collect::<String>())).await;
        // Read while it grows: what was understood goes on.
        metrics(&ada, task, "?points=10").await;
    }
    let check = async |ada: &CheckedClient| {
        for points in [10, 500, 5_000] {
            let shown = metrics(ada, task, &format!("?points={points}")).await;
            let loss = &shown["series"]["loss"];
            let steps = steps(loss);
            assert!(steps.len() <= points && steps.len() * 3 >= points, "{} of {points}", steps.len());
            assert!(steps.windows(2).all(|two| two[0] < two[1]) && steps.contains(&12_345), "{points}");
            assert_eq!((steps[0], *steps.last().unwrap()), (0, LINES - 1));
            assert_eq!((&loss["count"], &loss["min"], &loss["max"]), (&json!(LINES), &json!(0), &json!(9)));
        }
        let part = metrics(ada, task, "?from_step=12000&to_step=12399").await;
        assert_eq!(steps(&part["series"]["loss"]), (12_000..=12_399).collect::<Vec<_>>());
        assert_eq!(part["lines"], json!(LINES));
    };
    check(&ada).await;
    let outcome = Outcome { exit_code: Some(0), metrics_bytes: length, ..Outcome::default() };
    worker.end(&assignment, outcome).await;
    fetchml_testkit::eventually("the metrics become an object", async || {
        let place = format!("objects/metrics/{task}/{attempt}.0");
        server.data_dir().join(place).exists().then_some(())
    })
    .await;
    check(&ada).await;
    let server = server.restart().await;
    check(&CheckedClient::new(&server.url(), ada.key)).await;
}

#[tokio::test]
async fn a_worker_that_comes_back_goes_on_where_it_knows_them_to_be_safe() {
    let server = TestServer::start().await;
    let ada = server.user("ada").await;
    let (mut worker, assignment) = running(&server, &ada).await;
    let (task, attempt) = (assignment.spec.id, assignment.attempt);
    let known = batch(1, "+{\"a\":1}\n");
    let length = worker.stream(attempt, ByteStream::Metrics, 0, &known).await;
    worker.stream(attempt, ByteStream::Metrics, length, &batch(2, "+{\"a\":2}\n+{\"a\":3}\n")).await;
    assert_eq!(metrics(&ada, task, "").await["lines"], json!(3));
    let held = Held { attempt, task, epoch: assignment.epoch, log_acked: 0, metrics_acked: length };
    let mut worker = LinkWorker::connect_as(&server, worker.id, vec![held]).await;
    assert_eq!(worker.welcome.metrics_offsets, [(attempt, length)]);
    worker.stream(attempt, ByteStream::Metrics, length, &batch(3, "+{\"a\":4}\n+{\"b\":5}\n")).await;
    let shown = metrics(&ada, task, "").await;
    let values = |name: &str| shown["series"][name]["points"].as_array().unwrap().len();
    assert_eq!((values("a"), values("b"), &shown["lines"]), (2, 1, &json!(3)), "nothing of what was cut is left");
}

#[tokio::test]
async fn what_no_worker_of_ours_sends_harms_nobody() {
    let server = TestServer::start().await;
    let ada = server.user("ada").await;
    let (mut worker, assignment) = running(&server, &ada).await;
    let mut length = 0;
    let overlong = "+".repeat(200_000);
    for garbage in ["\0\0\0\n@\n@{}\n+\n-\n#\n-x\n+{\"a\":1}\n", overlong.as_str(), "\n#{\"x\":1e999}\n+{\"b\":2}"] {
        length = worker.stream(assignment.attempt, ByteStream::Metrics, length, garbage.as_bytes()).await;
        let shown = metrics(&ada, assignment.spec.id, "").await;
        assert_eq!(shown["series"]["a"]["count"], json!(1));
    }
}
