//! Mail about a task: who gets it, and when.

use crate::{limits, task::TaskStatus};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What mail is sent about
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum NotifyOn {
    /// It runs; of an array nothing is said about this
    Running,
    /// It ended well; an array when all of its tasks did
    Completed,
    /// It ended otherwise; an array when all have ended, and any so
    Failed,
}

impl NotifyOn {
    /// All of them, as they are written.
    pub const WORDS: [(&str, Self); 3] =
        [("running", Self::Running), ("completed", Self::Completed), ("failed", Self::Failed)];

    /// What a task in this state is told as.
    pub const fn of(status: TaskStatus) -> Option<Self> {
        match status {
            TaskStatus::Running => Some(Self::Running),
            TaskStatus::Completed => Some(Self::Completed),
            TaskStatus::Failed => Some(Self::Failed),
            TaskStatus::Queued | TaskStatus::Preparing | TaskStatus::Collecting => None,
        }
    }
}

/// Mail about a task
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Notify {
    /// Who gets it; others than the task's user see `***`
    #[schema(max_length = 254, example = "ada@example.org")]
    pub email: String,
    /// What is said; absent: how it ended
    #[serde(default = "how_it_ended")]
    #[schema(required = false)]
    pub on: Vec<NotifyOn>,
}

/// What mail is sent about when nothing else is asked for.
pub fn how_it_ended() -> Vec<NotifyOn> {
    vec![NotifyOn::Completed, NotifyOn::Failed]
}

/// What is wrong with an address. Only the plain form of addresses passes, `local@domain` in letters, digits and a few
/// signs: nothing that could mean something else in a header or an SMTP command.
pub fn mail_address_problem(address: &str) -> Option<&'static str> {
    let is_atom = |part: &str| {
        let signs = b"!#$%&'*+-/=?^_`{|}~";
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || signs.contains(&byte))
    };
    let is_label = |label: &str| {
        let fits = (1..=63).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-');
        fits && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let Some((local, domain)) = address.split_once('@') else { return Some("is no mail address: it has no @") };
    if address.len() > limits::MAIL_ADDRESS_BYTES || local.len() > 64 {
        return Some("is too long for a mail address");
    }
    let is_good = local.split('.').all(is_atom) && domain.split('.').all(is_label);
    (!is_good).then_some("is no plain mail address such as ada@example.org")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_addresses_pass() {
        for good in ["ada@example.org", "a.b+c@lab-1.example.org", "root@localhost", "o'neil@x.y"] {
            assert_eq!(mail_address_problem(good), None, "{good}");
        }
        let long = format!("{}@example.org", "a".repeat(65));
        for bad in [
            "",
            "ada",
            "@example.org",
            "ada@",
            "ada@example..org",
            ".ada@example.org",
            "ada@@example.org",
            "ada@-x.org",
            "ada b@example.org",
            "ada@example.org\r\nBcc: bob@example.org",
            "ada@example.org\n",
            "ada@example.org> SIZE=1",
            "Ada <ada@example.org>",
            "ada@example.org,bob@example.org",
            "\"a b\"@example.org",
            "ada@[127.0.0.1]",
            "ada@exämple.org",
            "a\0da@example.org",
            &long,
        ] {
            assert!(mail_address_problem(bad).is_some(), "{bad:?}");
        }
    }
}
