//! Which attempt of a task a request means.

use crate::{error::AppError, query::Query};
use fetchml_api::{AttemptId, AttemptRecord};

/// The query parameter `attempt`: an id or a number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Wanted {
    Latest,
    Number(u32),
    Id(AttemptId),
}

impl Wanted {
    /// Reads the parameter; the latest without it.
    pub(super) fn read(query: &mut Query) -> Self {
        let Some(text) = query.text("attempt") else { return Self::Latest };
        match (text.parse(), text.parse()) {
            (Ok(number), _) => Self::Number(number),
            (_, Ok(id)) => Self::Id(id),
            _ => {
                query.problem("attempt", "must be the id or the number of an attempt");
                Self::Latest
            }
        }
    }

    /// The attempt among all of the task's; none: there is none yet.
    ///
    /// # Errors
    /// 404: the task has no such attempt.
    pub(super) fn among(self, attempts: &[AttemptRecord]) -> Result<Option<&AttemptRecord>, AppError> {
        let found = match self {
            Self::Latest => return Ok(attempts.iter().max_by_key(|attempt| attempt.number)),
            Self::Number(number) => attempts.iter().find(|attempt| attempt.number == number),
            Self::Id(id) => attempts.iter().find(|attempt| attempt.id == id),
        };
        found.map(Some).ok_or_else(|| AppError::not_found("attempt of this task"))
    }
}
