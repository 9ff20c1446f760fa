//! The audit log from the command line: read, verified, and found changed.

use crate::support::{Lab, shown};
use fetchml_api::{AuditEventList, ChainRoot, VerificationResult};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_is_read_and_verified_by_command() {
    let mut lab = Lab::new();
    lab.serve().await;
    let task = lab.submit("true").await;
    let read = async |arguments: &[&str]| -> AuditEventList {
        serde_json::from_str(&lab.output(&[&["audit", "events", "--json"], arguments].concat()).await).unwrap()
    };
    let resource = format!("tasks/{task}");
    let about = read(&["--resource", &resource]).await;
    assert_eq!((about.total, about.events[0].action.as_str()), (1, "submit"));
    let oldest = read(&["--oldest-first", "--limit", "2", "--after", "1"]).await;
    assert_eq!(oldest.events.iter().map(|event| event.sequence_num).collect::<Vec<_>>(), [2, 3]);
    assert_eq!(read(&["--to", "2000-01-01T00:00:00Z"]).await.total, 0);
    let table = lab.output(&["audit", "events", "--since", "1h", "--type", "job_queued"]).await;
    assert!(table.contains(&resource) && table.contains(" submit "), "{table}");
    let wrong = lab.run(&["audit", "events", "--from", "yesterday"]).await;
    assert_eq!(wrong.status.code(), Some(2), "{}", shown(&wrong));

    let root: ChainRoot = serde_json::from_str(&lab.output(&["audit", "root", "--json"]).await).unwrap();
    assert!(lab.output(&["audit", "root"]).await.contains(&root.log_id));
    let result: VerificationResult = serde_json::from_str(&lab.output(&["audit", "verify", "--json"]).await).unwrap();
    assert!(result.valid && result.total_events >= root.total_events, "{result:?}");
    let said = lab.output(&["audit", "verify"]).await;
    assert!(said.starts_with("the log verifies: "), "{said}");

    let database = rusqlite::Connection::open(lab.data_dir().join("fetchml.db")).unwrap();
    database.busy_timeout(crate::support::DEADLINE).unwrap();
    let edit = "DROP TRIGGER audit_refuses_update; UPDATE audit SET success = 0 WHERE sequence = 2";
    database.execute_batch(edit).unwrap();
    let found = lab.run(&["audit", "verify"]).await;
    assert_eq!(found.status.code(), Some(1), "{}", shown(&found));
    assert!(String::from_utf8_lossy(&found.stdout).contains("event 2 of "), "{}", shown(&found));
}
