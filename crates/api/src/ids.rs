//! Typed identifiers. Ids of rows are UUIDv7 (time ordered); they print and parse as lower-case
//! hyphenated UUIDs. An id that does not parse names nothing that can exist.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};
use utoipa::ToSchema;
use uuid::Uuid;

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
        #[serde(transparent)]
        #[schema(value_type = String)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.hyphenated().fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            /// Accepts only the canonical hyphenated form, so that one id has one spelling.
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let id = Uuid::try_parse(text)?;
                if text.len() == 36 { Ok(Self(id)) } else { Uuid::try_parse("").map(Self) }
            }
        }
    };
}

uuid_id!(
    /// One submitted task. A scheduler job is a task: same id.
    TaskId
);
uuid_id!(
    /// One try of a task on its workers.
    AttemptId
);
uuid_id!(
    /// One worker; made by the worker at its first start and kept in its data directory.
    WorkerId
);
uuid_id!(
    /// GPUs set aside for one task.
    ReservationId
);
uuid_id!(
    /// Tasks that belong together.
    ExperimentId
);
uuid_id!(
    /// One webhook.
    WebhookId
);
uuid_id!(
    /// Correlates an answer with the log lines of its request.
    TraceId
);

/// The public part of an API key (`fml_<id>_...`): 12 lower-case base32 characters. Not a secret.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
#[schema(value_type = String)]
pub struct KeyId(pub String);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Orders the attempts of all tasks over all lives of the server: first by the server's incarnation
/// (grows by one at each start and restore), then by a counter within it. Written `3.17`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct AttemptEpoch {
    /// The server's incarnation that made the attempt.
    pub incarnation: u64,
    /// Position within the incarnation, from 1.
    pub n: u64,
}

impl fmt::Display for AttemptEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.incarnation, self.n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_one_spelling() {
        let id = TaskId(Uuid::from_u128(0x0192_0000_0000_7000_8000_0000_0000_0001));
        assert_eq!(id.to_string().parse::<TaskId>().unwrap(), id);
        assert!(id.0.simple().to_string().parse::<TaskId>().is_err());
        assert!("..%2f".parse::<TaskId>().is_err());
    }

    #[test]
    fn epochs_order_by_incarnation_first() {
        let a = AttemptEpoch { incarnation: 1, n: 900 };
        let b = AttemptEpoch { incarnation: 2, n: 1 };
        assert!(a < b);
        assert_eq!(b.to_string(), "2.1");
    }
}
