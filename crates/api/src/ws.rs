//! What `/ws` says: messages of the WebSocket on which clients hear of their tasks, and the tickets with which
//! browsers open it.

use crate::{Micros, Task, TaskId, json, limits};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use utoipa::ToSchema;

/// What the server says.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum WsEvent {
    /// From here on: after the connection is open, and after each `subscribe`.
    Subscribed {
        /// What comes next has a greater number: a place to resume from.
        seq: u64,
    },
    /// A task changed.
    TaskUpdate {
        /// Its place in the log of changes.
        seq: u64,
        /// The task without its output.
        task: Box<Task>,
    },
    /// A task ended: nothing more comes of it.
    TaskComplete {
        /// Its place in the log of changes.
        seq: u64,
        /// The task without its output.
        task: Box<Task>,
    },
    /// What lies between `since` and this place is not kept any more: how things are must be read anew. Tasks that
    /// were named come next as they are.
    Reset {
        /// What comes next has a greater number.
        seq: u64,
    },
    /// To be answered with a `pong`.
    Ping,
    /// Answers a `ping`.
    Pong,
    /// A message that could not be heeded. The connection stays open.
    Error {
        /// Why, and what to do.
        error: String,
    },
}

/// What a client says.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum WsRequest {
    /// To be answered with a `pong`.
    Ping {},
    /// Answers a `ping`.
    Pong {},
    /// Replaces what the connection tells of.
    Subscribe {
        /// These tasks only; absent: all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        task_ids: Option<BTreeSet<TaskId>>,
        /// Everything after this place; absent: the named tasks as they are, then everything from now on.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        since: Option<u64>,
    },
}

impl WsRequest {
    /// Reads a message.
    ///
    /// # Errors
    /// One sentence for whoever sent it.
    pub fn read(text: &[u8]) -> Result<Self, String> {
        let value = json::parse(text).map_err(|why| format!("The message cannot be read: {why}"))?;
        let read: Self = serde_json::from_value(value).map_err(|why| format!("The message cannot be read: {why}."))?;
        match &read {
            Self::Subscribe { task_ids: Some(ids), .. } if ids.is_empty() || ids.len() > limits::WS_TASKS_MAX => {
                Err(format!("task_ids names 1 to {} tasks; without it all are told of.", limits::WS_TASKS_MAX))
            }
            _ => Ok(read),
        }
    }
}

/// What opens `/ws` once, in place of a key.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct WsTicket {
    /// Goes into the query: `/ws?ticket=...`.
    #[schema(example = "fmt_0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef")]
    pub ticket: String,
    /// When it stops working, used or not.
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: Micros,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read_strictly() {
        let id = "01890000-0000-7000-8000-000000000000";
        let one = format!(r#"{{"type":"subscribe","task_ids":["{id}"],"since":7}}"#);
        let ids = BTreeSet::from([id.parse().unwrap()]);
        assert_eq!(WsRequest::read(one.as_bytes()), Ok(WsRequest::Subscribe { task_ids: Some(ids), since: Some(7) }));
        let all = WsRequest::Subscribe { task_ids: None, since: None };
        assert_eq!(WsRequest::read(br#"{"type":"subscribe"}"#), Ok(all));
        assert_eq!(WsRequest::read(br#"{"type":"pong"}"#), Ok(WsRequest::Pong {}));
        let bad = [
            "",
            "[]",
            "{}",
            r#"{"type":"shout"}"#,
            r#"{"type":"pong","since":1}"#,
            r#"{"type":"subscribe","task_ids":[]}"#,
            r#"{"type":"subscribe","task_ids":["1"]}"#,
            r#"{"type":"subscribe","since":-1}"#,
            r#"{"type":"subscribe","since":1.5}"#,
            r#"{"type":"subscribe","since":1,"since":2}"#,
            r#"{"type":"subscribe","since":99999999999999999999}"#,
        ];
        for bad in bad {
            assert!(WsRequest::read(bad.as_bytes()).is_err(), "{bad}");
        }
        let many: BTreeSet<TaskId> =
            (0..=limits::WS_TASKS_MAX).map(|n| format!("01890000-0000-7000-8000-{n:012x}").parse().unwrap()).collect();
        let many = WsRequest::Subscribe { task_ids: Some(many), since: None };
        assert!(WsRequest::read(&serde_json::to_vec(&many).unwrap()).is_err());
    }
}
