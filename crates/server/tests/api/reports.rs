//! Promise G5: however often and in whatever order a worker reports, a task ends once. And what rules on log lines
//! make of a failure.

use crate::{running, small};
use fetchml_api::{
    Artifact, AttemptEpoch, AttemptId, FailureCause, LogAction, LogRuleMatch,
    link::{Assignment, Outcome, Report},
};
use fetchml_server::{LogRule, Options, Server};
use fetchml_testkit::{CheckedClient, Database, LinkWorker, TestServer};
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

fn rule(pattern: &str, action: Option<LogAction>, cause: Option<FailureCause>, message: &str) -> LogRule {
    LogRule { pattern: pattern.into(), action, cause, message: Some(message.into()) }
}

#[tokio::test]
async fn a_rule_on_the_log_changes_what_follows_from_a_failure() {
    for database in Database::ALL {
        let server = TestServer::start_with(database, |options| {
            options.log_rules = vec![
                rule("ECC error", Some(LogAction::ExcludeWorker), Some(FailureCause::Launch), "its GPU is broken"),
                rule("^ConfigError", Some(LogAction::DoNotRetry), None, "the configuration is wrong"),
            ];
        })
        .await;
        let ada = server.user("ada").await;
        let mut request = small();
        request["max_retries"] = json!(3);
        let made = ada.submit(&request).await;
        let path = format!("/v1/tasks/{}", made["id"].as_str().unwrap());
        let mut first = LinkWorker::connect(&server).await;
        let assignment = first.run_next().await;
        first.log(assignment.attempt, 0, b"step 1\nCUDA: uncorrectable ECC error\n").await;
        // Not the worker's to say.
        let lie = Some(LogRuleMatch { pattern: "a lie".into(), action: Some(LogAction::DoNotRetry) });
        let failed =
            Outcome { cause: Some(FailureCause::ExitNonzero), exit_code: Some(1), log_rule: lie, ..Outcome::default() };
        first.end(&assignment, failed.clone()).await;
        let shown = ada.get(&path).await.expect(200).json();
        let counts = (&shown["status"], &shown["retry_count"], &shown["requeue_count"], &shown["error"]);
        assert_eq!(counts, (&json!("queued"), &json!(0), &json!(1), &json!("its GPU is broken")), "{shown:#}");
        assert_eq!(shown["excluded_workers"], json!([first.id]));

        // It is kept off that worker, over a restart of the server too.
        let server = server.restart().await;
        let ada = CheckedClient::new(&server.url(), ada.key.clone());
        let mut first = LinkWorker::connect_as(&server, first.id, Vec::new()).await;
        let other = ada.submit(&small()).await;
        let assignment = first.run_next().await;
        assert_eq!(assignment.spec.id.to_string(), other["id"].as_str().unwrap());
        first.end(&assignment, failed.clone()).await;
        let shown = ada.get(&format!("/v1/tasks/{}", assignment.spec.id)).await.expect(200).json();
        assert_eq!((&shown["status"], &shown["failure"]["log_rule"]), (&json!("failed"), &Value::Null));
        let mut second = LinkWorker::connect(&server).await;
        let assignment = second.run_next().await;
        second.log(assignment.attempt, 0, b"ConfigError: lr\n").await;
        second.end(&assignment, failed).await;
        let shown = ada.get(&path).await.expect(200).json();
        let expected = json!({
            "cause": "exit_nonzero", "retryable": false, "exit_code": 1,
            "log_rule": {"pattern": "^ConfigError", "action": "do_not_retry"},
        });
        assert_eq!((&shown["status"], &shown["failure"]), (&json!("failed"), &expected), "{shown:#}");

        let (store, _held) = server.stop_and_open_store().await;
        let audit = store.audit_rows(0, 1_000).await.unwrap();
        let rules: Vec<Value> = audit
            .iter()
            .map(|row| serde_json::from_slice::<Value>(&row.body).unwrap()["metadata"]["log_rule"].take())
            .filter(|rule| !rule.is_null())
            .collect();
        assert_eq!(rules, [json!("ECC error"), json!("^ConfigError")]);
        store.close().await;
    }
}

#[tokio::test]
async fn rules_that_cannot_be_used_keep_the_server_from_starting() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = Options::new(dir.path().join("data"));
    options.log_rules = vec![rule("(", None, None, "never")];
    let error = Server::start(options).await.err().expect("it is refused");
    assert!(error.to_string().starts_with("log rule 1 (\"(\"): not a regular expression"), "{error}");
    assert!(!dir.path().join("data").exists(), "nothing was made");
}
