//! G8 while everything is being killed: in any snapshot of the database the audit log, replayed, gives the table of
//! tasks, whatever was being written when somebody was killed.

use crate::support::DEADLINE;
use fetchml_audit::{Replay, ReplayedTask, parse_body};
use rusqlite::{Connection, Row};
use std::{collections::BTreeMap, path::Path};

const EVENTS: &str = "SELECT sequence, body FROM audit WHERE sequence > ?1 ORDER BY sequence";
const TASKS: &str = "SELECT id, status, priority, retry_count, requeue_count, attempt, epoch_incarnation, epoch_n, \
    worker_id, cause, exit_code, signal, cancelled_by, error, hidden FROM task";

/// Follows the log of a server that is killed now and then.
#[derive(Default)]
pub(crate) struct Follower {
    replay: Replay,
    /// Number of the last event that was replayed.
    last: u64,
    pub(crate) looks: usize,
}

impl Follower {
    /// Looks at the database as it is in one instant, without the server's help.
    pub(crate) fn look(&mut self, database: &Path) {
        let mut connection = Connection::open(database).expect("the database opens");
        connection.busy_timeout(DEADLINE).expect("a timeout");
        // One transaction is one snapshot.
        let snapshot = connection.transaction().expect("a transaction");
        let mut events = snapshot.prepare(EVENTS).expect("a query");
        let mut events = events.query([self.last as i64]).expect("events");
        while let Some(row) = events.next().expect("an event") {
            let (sequence, body): (i64, Vec<u8>) = (row.get(0).expect("a number"), row.get(1).expect("a body"));
            assert_eq!(sequence as u64, self.last + 1, "the log has no gap and no fork");
            self.last += 1;
            let event = parse_body(&body).expect("an event's body");
            self.replay.push(&event).unwrap_or_else(|error| panic!("the log cannot be replayed: {error}: {event:?}"));
        }
        let mut tasks = snapshot.prepare(TASKS).expect("a query");
        let tasks = tasks.query_map([], |row| Ok((row.get(0)?, read(row)?))).expect("tasks");
        let stored: BTreeMap<String, ReplayedTask> = tasks.map(|task| task.expect("a task")).collect();
        let replayed = self.replay.tasks().iter().map(|(id, task)| (id.to_string(), task.clone())).collect();
        assert_eq!(stored, replayed, "replay(audit) = tasks, after event {}", self.last);
        self.looks += 1;
    }
}

fn read(row: &Row<'_>) -> rusqlite::Result<ReplayedTask> {
    let status: String = row.get(1)?;
    let epoch: Option<(i64, i64)> = row.get::<_, Option<i64>>(6)?.zip(row.get(7)?);
    let failed = status == "failed";
    Ok(ReplayedTask {
        status: status.parse().expect("a status"),
        priority: row.get(2)?,
        retry_count: row.get(3)?,
        requeue_count: row.get(4)?,
        attempt: row.get(5)?,
        epoch: epoch.map(|(incarnation, n)| format!("{incarnation}.{n}")),
        worker: row.get(8)?,
        cause: row.get(9)?,
        exit_code: row.get(10)?,
        signal: row.get(11)?,
        cancelled_by: row.get(12)?,
        error: row.get::<_, Option<String>>(13)?.filter(|_| failed),
        hidden: row.get::<_, i64>(14)? == 1,
    })
}
