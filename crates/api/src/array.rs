//! Arrays: one request that makes a task for each of many indices.

use crate::{ids::TaskId, limits, time::Micros};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, fmt, str::FromStr};
use utoipa::ToSchema;

/// Which indices an array has, and how many of its tasks may run at once. Written as `0-9,20,30-40:2%4`: ranges,
/// single indices, ranges with a step, and after `%` the most that run at once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ArraySpec {
    indices: BTreeSet<u32>,
    max_running: Option<u32>,
}

impl ArraySpec {
    /// In order, each once.
    pub fn indices(&self) -> impl ExactSizeIterator<Item = u32> + '_ {
        self.indices.iter().copied()
    }

    /// A single index.
    pub fn one(index: u32) -> Self {
        Self { indices: BTreeSet::from([index]), max_running: None }
    }

    /// Number of tasks.
    pub fn count(&self) -> usize {
        self.indices.len()
    }

    /// Most tasks that run at once; none: no limit.
    pub const fn max_running(&self) -> Option<u32> {
        self.max_running
    }
}

impl FromStr for ArraySpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (ranges, max_running) = match text.split_once('%') {
            None => (text, None),
            Some((ranges, most)) => match number(most) {
                Some(most) if most > 0 => (ranges, Some(most)),
                _ => return Err(format!("{most:?} after % must be a number of tasks, at least 1")),
            },
        };
        let mut indices = BTreeSet::new();
        for part in ranges.split(',') {
            let (first, last, step) = range(part).ok_or_else(|| {
                let most = limits::ARRAY_INDEX_MAX;
                format!("{part:?} must be an index, a range 0-9 or one with a step 0-9:3; indices go up to {most}")
            })?;
            // Counted before it is made: a short text may name very many.
            let count = (last - first) as usize / step as usize + 1;
            if indices.len() + count > limits::ARRAY_TASKS_MAX {
                return Err(format!("has more than {} indices", limits::ARRAY_TASKS_MAX));
            }
            indices.extend((first..=last).step_by(step as usize));
        }
        Ok(Self { indices, max_running })
    }
}

/// As it would be written; ranges are joined where they touch.
impl fmt::Display for ArraySpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut left = self.indices.iter().copied().peekable();
        let mut comma = "";
        while let Some(first) = left.next() {
            let mut last = first;
            while left.next_if_eq(&(last + 1)).is_some() {
                last += 1;
            }
            write!(f, "{comma}{first}")?;
            if last > first {
                write!(f, "-{last}")?;
            }
            comma = ",";
        }
        self.max_running.map_or(Ok(()), |most| write!(f, "%{most}"))
    }
}

impl Serialize for ArraySpec {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ArraySpec {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// First and last index, and the step between.
fn range(text: &str) -> Option<(u32, u32, u32)> {
    let (ends, step) = match text.split_once(':') {
        None => (text, 1),
        Some((ends, step)) if ends.contains('-') => (ends, number(step).filter(|step| *step > 0)?),
        Some(_) => return None,
    };
    let (first, last) = match ends.split_once('-') {
        None => (number(ends)?, number(ends)?),
        Some((first, last)) => (number(first)?, number(last)?),
    };
    (first <= last && last <= limits::ARRAY_INDEX_MAX).then_some((first, last, step))
}

/// Digits only: no sign, no blanks.
fn number(text: &str) -> Option<u32> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// Which task of which array a task is. Part of the immutable [`crate::TaskSpec`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ArrayMember {
    /// The array. No task has this id.
    pub id: TaskId,
    /// Which of its tasks.
    pub index: u32,
    /// Tasks of the array.
    pub count: u32,
    /// Most of them that run at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_running: Option<u32>,
}

/// An array: how its tasks are, counted.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct TaskArray {
    /// The array; no task has this id.
    #[schema(value_type = String)]
    pub id: TaskId,
    /// Name of its tasks.
    pub job_name: String,
    /// Who submitted it.
    pub user_id: String,
    /// When it was submitted.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Micros,
    /// The oldest of its tasks that is there; all of them have ids that follow one another.
    #[schema(value_type = String)]
    pub first_task: TaskId,
    /// Tasks it was submitted with; those that were deleted are counted nowhere below.
    pub count: i64,
    /// Most of them that run at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub max_running: Option<i64>,
    /// Tasks that wait.
    pub queued: i64,
    /// Tasks that are being staged.
    pub preparing: i64,
    /// Tasks whose code runs.
    pub running: i64,
    /// Tasks whose logs and artifacts are being stored.
    pub collecting: i64,
    /// Tasks that ended well.
    pub completed: i64,
    /// Tasks that ended otherwise, cancelled ones included.
    pub failed: i64,
}

impl TaskArray {
    /// Whether every task of it has ended.
    pub const fn is_over(&self) -> bool {
        self.queued + self.preparing + self.running + self.collecting == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn indices(text: &str) -> Result<Vec<u32>, String> {
        text.parse::<ArraySpec>().map(|spec| spec.indices().collect())
    }

    #[test]
    fn ranges_single_indices_and_steps() {
        assert_eq!(indices("0-3").unwrap(), [0, 1, 2, 3]);
        assert_eq!(indices("7").unwrap(), [7]);
        assert_eq!(indices("0-2,20,30-40:5").unwrap(), [0, 1, 2, 20, 30, 35, 40]);
        assert_eq!(indices("5,1-3,2").unwrap(), [1, 2, 3, 5], "in order, each once");
        assert_eq!("0-9%4".parse::<ArraySpec>().unwrap().max_running(), Some(4));
        assert_eq!("0-9".parse::<ArraySpec>().unwrap().max_running(), None);
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for text in
            ["", "a", "1-", "-1", "3-1", "1-3:0", "4:2", "0-3%0", "0-3%", "0-3%x", "1,,2", " 1", "+1", "1.5", "0-3%2%2"]
        {
            assert!(text.parse::<ArraySpec>().is_err(), "{text:?}");
        }
        assert!(indices("1000000000").is_err());
        assert!(indices("99999999999999999999").is_err());
    }

    #[test]
    fn a_short_text_makes_no_long_list() {
        assert_eq!(indices("0-9999").unwrap().len(), limits::ARRAY_TASKS_MAX);
        assert_eq!(indices("0-10000").unwrap_err(), "has more than 10000 indices");
        assert!(indices("0-999999999").is_err());
        assert!(indices("0-9998,20000,30000").is_err());
    }

    #[test]
    fn it_is_written_as_it_is_read() {
        for text in ["0-3", "7", "0-2,20,30,35,40", "0-9%4"] {
            let spec: ArraySpec = text.parse().unwrap();
            assert_eq!(spec.to_string(), text);
            let json = serde_json::to_string(&spec).unwrap();
            assert_eq!(serde_json::from_str::<ArraySpec>(&json).unwrap(), spec);
        }
    }
}
