//! Replaying the events of tasks.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use fetchml_api::{AuditKind, Micros, TaskId, TaskStatus};
use fetchml_audit::{AuditEvent, Replay, ReplayedTask};

const TASK: &str = "tasks/0192f0c1-2345-7000-8000-000000000001";

fn event(sequence_num: u64, user: &str, action: &str, facts: &[(&str, &str)]) -> AuditEvent {
    AuditEvent {
        timestamp: Micros(sequence_num as i64),
        event_type: AuditKind::JobQueued,
        user_id: user.into(),
        resource: TASK.into(),
        action: action.into(),
        success: true,
        ip_address: None,
        error: (action == "fail").then(|| "it failed".into()),
        metadata: facts.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        sequence_num,
    }
}

fn submit() -> AuditEvent {
    event(1, "ada", "submit", &[("status", "queued"), ("priority", "5")])
}

fn replayed(events: &[AuditEvent]) -> Result<Replay, String> {
    let mut replay = Replay::default();
    for event in events {
        replay.push(event).map_err(|error| error.to_string())?;
    }
    Ok(replay)
}

fn task(replay: &Replay) -> &ReplayedTask {
    let id: TaskId = TASK.strip_prefix("tasks/").unwrap().parse().unwrap();
    &replay.tasks()[&id]
}

#[test]
fn a_task_is_followed_through_its_life() {
    let attempt = [("status", "preparing"), ("attempt", "a1"), ("epoch", "1.1"), ("worker", "w")];
    let counts = [("retry_count", "1"), ("requeue_count", "0"), ("cause", "exit_nonzero"), ("exit_code", "3")];
    let mut events = vec![
        submit(),
        event(2, "system", "assign", &attempt),
        event(3, "system", "start", &[("status", "running")]),
        event(4, "ada", "priority", &[("status", "running"), ("priority", "9")]),
        event(5, "system", "collect", &[("status", "collecting")]),
        event(6, "system", "retry", &[&[("status", "queued")], &counts[..]].concat()),
    ];
    let replay = replayed(&events).unwrap();
    let seen = task(&replay).clone();
    let expected = (TaskStatus::Queued, 9, 1, None, Some("w".to_owned()), Some(3));
    assert_eq!((seen.status, seen.priority, seen.retry_count, seen.attempt, seen.worker, seen.exit_code), expected);

    events.push(event(7, "system", "assign", &attempt));
    events.push(event(8, "system", "return", &[("status", "queued")]));
    assert_eq!(task(&replayed(&events).unwrap()).attempt, None);
    events.push(event(9, "bob", "cancel_request", &[("status", "queued")]));
    events.push(event(10, "system", "fail", &[&[("status", "failed")], &counts[..3]].concat()));
    events.push(event(11, "ada", "delete", &[]));
    let replay = replayed(&events).unwrap();
    let seen = task(&replay).clone();
    assert_eq!((seen.status, seen.exit_code, seen.hidden), (TaskStatus::Failed, None, true));
    assert_eq!((seen.cancelled_by.as_deref(), seen.error.as_deref()), (Some("bob"), Some("it failed")));
    events.push(event(12, "system", "purge", &[]));
    assert!(replayed(&events).unwrap().tasks().is_empty());
}

#[test]
fn what_cannot_follow_is_told_by_its_number() {
    let end = event(2, "system", "complete", &[("status", "completed"), ("retry_count", "0"), ("requeue_count", "0")]);
    let after = event(3, "system", "start", &[("status", "running")]);
    for (events, problem) in [
        (vec![after.clone()], "event 3: the task was never submitted"),
        (vec![submit(), submit()], "event 1: the task was submitted before"),
        (vec![submit(), end, after], "event 3: the task had ended"),
        (vec![submit(), event(2, "system", "start", &[("status", "going")])], "event 2: there is no such status"),
        (
            vec![submit(), event(2, "ada", "priority", &[("status", "queued"), ("priority", "high")])],
            "event 2: a number of it cannot be read",
        ),
        (vec![event(9, "system", "purge", &[])], "event 9: the purged task was never submitted"),
    ] {
        assert_eq!(replayed(&events).unwrap_err(), problem);
    }
    let other = AuditEvent { resource: format!("{TASK}/logs"), ..event(2, "ada", "log_read", &[]) };
    assert!(replayed(&[submit(), other]).is_ok(), "what is not about the task itself changes nothing");
}
