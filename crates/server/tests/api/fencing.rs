//! Promise G2 on the link: what an attempt without authority sends, late, repeated or about another one, changes
//! nothing.

use crate::{running, sha256, small};
use fetchml_api::{
    AttemptId, ErrorCode, FailureCause, LogAction,
    link::{Assignment, ByteStream, Held, LogChunk, Outcome, Report},
};
use fetchml_server::LogRule;
use fetchml_testkit::{Database, LinkWorker, TestServer};
use serde_json::{Value, json};

fn held(assignment: &Assignment, log_acked: u64) -> Held {
    let Assignment { attempt, epoch, spec, .. } = assignment;
    Held { attempt: *attempt, task: spec.id, epoch: *epoch, log_acked, metrics_acked: 0 }
}

fn ended(exit_code: i32) -> Report {
    let cause = (exit_code != 0).then_some(FailureCause::ExitNonzero);
    Report::Ended(Outcome { cause, exit_code: Some(exit_code), log_bytes: 4, ..Outcome::default() })
}

/// After a failure the next attempt goes to another worker.
fn elsewhere() -> LogRule {
    LogRule { pattern: "^one$".into(), action: Some(LogAction::ExcludeWorker), cause: None, message: None }
}

async fn log_of(client: &fetchml_testkit::CheckedClient, task: &str, attempt: AttemptId) -> Vec<u8> {
    client.get(&format!("/v1/tasks/{task}/logs?attempt={attempt}")).await.expect(200).body.to_vec()
}

#[tokio::test]
async fn g2_late_and_repeated_frames_of_an_attempt_that_is_over_change_nothing() {
    for database in Database::ALL {
        let server = TestServer::start_with(database, |options| options.log_rules = vec![elsewhere()]).await;
        let ada = server.user("ada").await;
        let mut request = small();
        request["max_retries"] = json!(1);
        ada.submit(&request).await;
        let mut first = LinkWorker::connect(&server).await;
        let lost = first.run_next().await;
        let id = lost.spec.id.to_string();
        assert_eq!(first.log(lost.attempt, 0, b"one\n").await, 4);
        let first_id = first.id;
        let mut second = LinkWorker::connect(&server).await;
        first.end(&lost, Outcome { cause: Some(FailureCause::Signal), signal: Some(9), ..Outcome::default() }).await;
        drop(first);
        let current = second.run_next().await;
        assert_eq!((current.spec.id, current.number), (lost.spec.id, 2));
        assert!(current.epoch > lost.epoch);
        second.log(current.attempt, 0, b"two\n").await;

        // It comes back with both, and is told at once that it has no authority any more.
        let mut first = LinkWorker::connect_as(&server, first_id, vec![held(&lost, 4), held(&current, 0)]).await;
        let mut forget = first.welcome.forget.clone();
        forget.sort_unstable();
        assert_eq!(forget, [lost.attempt, current.attempt]);
        assert_eq!(first.welcome.log_offsets, []);
        for report in [Report::Running, Report::Collecting, ended(0), ended(0), Report::Returned, ended(9)] {
            first.report(&lost, report).await;
        }
        // Of the other's attempt, with that one's epoch and its own.
        first.report(&current, ended(8)).await;
        first.report(&Assignment { attempt: current.attempt, ..lost.clone() }, ended(8)).await;
        for (attempt, offset) in [(lost.attempt, 4), (lost.attempt, 0), (current.attempt, 4)] {
            first
                .send_frame(LogChunk { attempt, stream: ByteStream::Log, node: 0, offset, bytes: b"LATE\n" }.encode())
                .await;
        }
        first.beat(Vec::new()).await;
        let worker = server.worker().await;
        let blob = sha256(b"late");
        worker.put(&format!("/v1/blobs/{blob}"), "late").await.expect(201);
        let files = json!({"files": [{"path": "late", "size_bytes": 4, "sha256": blob}]});
        let path = format!("/v1/tasks/{id}/attempts/{}/checkpoint", lost.attempt);
        worker.put_json(&path, &files).await.error(409, ErrorCode::Conflict);

        let shown = ada.get(&format!("/v1/tasks/{id}")).await.expect(200).json();
        assert_eq!((&shown["status"], &shown["attempt_id"]), (&json!("running"), &json!(current.attempt)));
        assert_eq!((&shown["requeue_count"], &shown["retry_count"]), (&json!(0), &json!(1)));
        second
            .end(&current, Outcome { cause: Some(FailureCause::ExitNonzero), exit_code: Some(3), ..Outcome::default() })
            .await;
        let shown = ada.get(&format!("/v1/tasks/{id}")).await.expect(200).json();
        assert_eq!((&shown["status"], &shown["failure"]["exit_code"]), (&json!("failed"), &json!(3)));
        assert_eq!(log_of(&ada, &id, lost.attempt).await, b"one\n");
        assert_eq!(log_of(&ada, &id, current.attempt).await, b"two\n");
        ada.get(&format!("/v1/tasks/{id}/checkpoint")).await.error(404, ErrorCode::NotFound);

        let (store, _held) = server.stop_and_open_store().await;
        let audit = store.audit_rows(0, 1_000).await.unwrap();
        let actions: Vec<String> = audit
            .iter()
            .map(|row| serde_json::from_slice::<Value>(&row.body).unwrap())
            .filter(|body| body["resource"] == format!("tasks/{id}"))
            .map(|body| body["action"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(actions, ["submit", "assign", "start", "collect", "retry", "assign", "start", "collect", "fail"]);
        store.close().await;
    }
}

#[tokio::test]
async fn g2_a_second_agent_with_the_id_of_one_that_is_heard_is_refused() {
    let server = TestServer::start().await;
    let ada = server.user("ada").await;
    let (mut worker, assignment) = running(&server, &ada).await;
    let refused = LinkWorker::refused(&server, worker.id, 2, vec![held(&assignment, 0)]).await;
    assert!(refused.contains("a data directory must not be copied"), "{refused}");
    // The first one is none the worse for it.
    worker.report(&assignment, Report::Collecting).await;
    worker.report(&assignment, ended(0)).await;
    let shown = ada.get(&format!("/v1/tasks/{}", assignment.spec.id)).await.expect(200).json();
    assert_eq!(shown["status"], "completed");
    let made = ada.submit(&small()).await;
    assert_eq!(worker.run_next().await.spec.id.to_string(), made["id"].as_str().unwrap());
}
