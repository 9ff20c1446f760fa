//! Arrays and dependencies as a person uses them, with real tasks.

use crate::support::{Lab, shown};
use fetchml_api::{FailureCause, TaskId, TaskStatus};

fn id(text: &str) -> TaskId {
    text.trim().parse().expect("an id is printed")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sweep_runs_once_for_each_index_and_what_comes_after_it_last() {
    let mut lab = Lab::new();
    lab.up(&[]).await;
    let seen = lab.path("seen");
    let script = format!(r#"echo "$FETCHML_ARRAY_INDEX of $FETCHML_ARRAY_COUNT" >> {}"#, seen.display());
    let submit = ["submit", "--no-snapshot", "--name", "sweep", "--array", "1-3,10%1", "--", "bash", "-c", &script];
    let array = id(&lab.output(&submit).await);
    let last = format!("echo last >> {}", seen.display());
    let submit = ["submit", "--no-snapshot", "--after", "@last", "--", "bash", "-c", &last];
    let last = id(&lab.output(&submit).await);
    let waited = lab.run(&["wait", &array.to_string()]).await;
    assert_eq!(waited.status.code(), Some(0), "{}", shown(&waited));
    lab.until(last, TaskStatus::Completed).await;
    let seen = std::fs::read_to_string(seen).unwrap();
    assert_eq!(seen, "1 of 4\n2 of 4\n3 of 4\n10 of 4\nlast\n", "one at a time, in order");

    let list = lab.output(&["tasks"]).await;
    assert_eq!(list.lines().count(), 3, "an array is one line:\n{list}");
    assert!(list.contains("4 completed") && list.contains("sweep [4]"), "{list}");
    let members = lab.output(&["tasks", "--array", &array.to_string()]).await;
    assert_eq!(members.lines().count(), 5, "{members}");
    assert!(lab.output(&["show", &array.to_string()]).await.contains("4 completed"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancelling_an_array_stops_what_runs_and_what_waits_and_ends_what_depends_on_it() {
    let lab = Lab::with_worker().await;
    let array = id(&lab.output(&["submit", "--no-snapshot", "--array", "0-99", "--", "sleep", "600"]).await);
    let after = |on: &str| format!("{array}{on}");
    let submit =
        async |on: &str| id(&lab.output(&["submit", "--no-snapshot", "--after", &after(on), "--", "true"]).await);
    let (never, cleanup) = (submit("").await, submit(":any").await);
    let client = lab.client();
    let started = crate::support::eventually("some of it run", crate::support::DEADLINE, async || {
        client.array(array).await.ok()?.filter(|array| array.running > 0)
    });
    started.await;
    lab.output(&["cancel", &array.to_string()]).await;
    let waited = lab.run(&["wait", &array.to_string()]).await;
    assert_eq!(waited.status.code(), Some(1), "{}", shown(&waited));
    lab.until(cleanup, TaskStatus::Completed).await;
    let never = lab.until(never, TaskStatus::Failed).await;
    assert_eq!(never.failure.unwrap().cause, FailureCause::Dependency);
}
