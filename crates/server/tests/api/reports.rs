//! Promise G5: however often and in whatever order a worker reports, a task ends once.

use crate::running;
use fetchml_api::{
    Artifact, AttemptEpoch, AttemptId, FailureCause,
    link::{Assignment, Outcome, Report},
};
use fetchml_testkit::{Database, TestServer};
use serde_json::{Value, json};

fn exit(code: i32) -> Report {
    let cause = (code != 0).then_some(FailureCause::ExitNonzero);
    Report::Ended(Outcome { cause, exit_code: Some(code), ..Outcome::default() })
}

#[tokio::test]
async fn g5_repeated_reordered_and_conflicting_reports_end_a_task_once() {
    for database in Database::ALL {
        let server = TestServer::start_with(database, |_| {}).await;
        let ada = server.user("ada").await;
        let (mut worker, assignment) = running(&server, &ada).await;
        // Of attempts that have no authority.
        let stale = Assignment { attempt: AttemptId(uuid::Uuid::now_v7()), ..assignment.clone() };
        let epoch = AttemptEpoch { n: assignment.epoch.n + 1, ..assignment.epoch };
        let later = Assignment { epoch, ..assignment.clone() };
        for other in [&stale, &later] {
            let files = vec![Artifact { path: "x".into(), size_bytes: 1, sha256: "0".repeat(64) }];
            worker.report(other, Report::Ended(Outcome { artifacts: files, ..Outcome::default() })).await;
            worker.report(other, exit(9)).await;
        }
        // Late ones of before, out of order; then the end without its `Collecting`, again, and otherwise.
        for report in [Report::Accepted, Report::Running, Report::Accepted, exit(0), exit(0), exit(3)] {
            worker.report(&assignment, report).await;
        }
        for report in [Report::Collecting, Report::Running, Report::Returned, exit(0)] {
            worker.report(&assignment, report).await;
        }
        let id = assignment.spec.id.to_string();
        let shown = ada.get(&format!("/v1/tasks/{id}")).await.expect(200).json();
        assert_eq!((&shown["status"], &shown["failure"]), (&json!("completed"), &Value::Null));
        let artifacts = ada.get(&format!("/v1/tasks/{id}/artifacts")).await.expect(200).json();
        assert_eq!(artifacts["artifacts"], json!([]));

        let (store, _held) = server.stop_and_open_store().await;
        let changes = store.change_rows(0, 1_000).await.unwrap();
        let changes: Vec<Value> =
            changes.iter().filter(|row| row.entity == id).map(|row| serde_json::from_str(&row.body).unwrap()).collect();
        let ended = changes.iter().filter(|body| matches!(body["status"].as_str(), Some("completed" | "failed")));
        assert_eq!(ended.count(), 1, "{changes:#?}");
        let last: &Value = changes.last().unwrap();
        assert_eq!(last["failure"], shown["failure"], "the stream says what GET says");
        let audit = store.audit_rows(0, 1_000).await.unwrap();
        let audit: Vec<Value> = audit.iter().map(|row| serde_json::from_slice(&row.body).unwrap()).collect();
        let of_task = audit.iter().filter(|body| body["resource"].as_str().is_some_and(|what| what.contains(&id)));
        let ended = of_task.filter(|body| matches!(body["action"].as_str(), Some("complete" | "fail")));
        assert_eq!(ended.count(), 1, "{audit:#?}");
        store.close().await;
    }
}
