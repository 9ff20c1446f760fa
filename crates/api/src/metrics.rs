//! Metrics: how the worker brings them to the server, and how the API answers them.
//!
//! A task appends JSON lines to the file that `$FETCHML_METRICS` names. The worker copies them, with what it measures
//! itself, into a stream of **batches**; the server keeps the stream as it comes and understands it when it is read.
//! A batch is a head (`@`, JSON of [`BatchHead`], a line feed) and a body of records, one a line, told by their first byte:
//!
//! - `+` a line as the task wrote it,
//! - `-` a line that is too long; its length in bytes follows,
//! - `#` a sample: JSON of [`Sample`].
//!
//! No record begins with `@`, so the last batch is found from the end, and one that a kill tore is cut off.

use crate::{ids::AttemptId, time::Micros};
use serde::{Deserialize, Serialize, Serializer};
use std::{collections::BTreeMap, ops::Range};
use utoipa::ToSchema;

/// First byte of a batch.
pub const BATCH: u8 = b'@';
/// First byte of a record: a line of the task's.
pub const LINE: u8 = b'+';
/// First byte of a record: the length of a line that is not carried.
pub const LONG_LINE: u8 = b'-';
/// First byte of a record: a sample.
pub const SAMPLE: u8 = b'#';

/// What stands at the beginning of a batch: what the body is, and how far the worker has come with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct BatchHead {
    /// When the worker saw it, microseconds since 1970.
    pub at_us: i64,
    /// Length of the body, bytes.
    pub body: u64,
    /// Which file the lines are from: its inode.
    #[serde(default)]
    pub file: u64,
    /// How far that file has been read, bytes.
    #[serde(default)]
    pub next: u64,
    /// Bytes of a line that is too long, up to there; 0: it is at the beginning of a line.
    #[serde(default)]
    pub long: u64,
    /// Bytes read from all such files.
    #[serde(default)]
    pub used: u64,
    /// Bytes written and not taken, beyond the limit.
    #[serde(default)]
    pub dropped: u64,
    /// Bytes of samples.
    #[serde(default)]
    pub sampled: u64,
}

impl BatchHead {
    /// The head as it stands in the stream.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![BATCH];
        serde_json::to_writer(&mut bytes, self).expect("a head has only numbers");
        bytes.push(b'\n');
        bytes
    }

    /// Reads a line without its line feed.
    pub fn decode(line: &[u8]) -> Option<Self> {
        serde_json::from_slice(line.strip_prefix(&[BATCH])?).ok()
    }
}

/// What was measured of an attempt at one time, by name. Units stand in the names; see `docs/metrics.md`.
pub type Sample = BTreeMap<String, f64>;

/// The last whole batch of a stream's end, and where it ends.
///
/// `tail` is the end of the stream, of which the first batch may be cut.
pub fn last_batch(tail: &[u8]) -> Option<(BatchHead, usize)> {
    let mut end = tail.len();
    loop {
        let at = (0..end).rev().find(|at| tail[*at] == BATCH && (*at == 0 || tail[*at - 1] == b'\n'))?;
        if let Some((head, body)) = batch_at(&tail[at..])
            && at + body.end <= tail.len()
        {
            return Some((head, at + body.end));
        }
        end = at;
    }
}

/// The head at the beginning of `bytes` and where its body lies, when the head is whole.
pub fn batch_at(bytes: &[u8]) -> Option<(BatchHead, Range<usize>)> {
    let line = bytes.iter().position(|byte| *byte == b'\n')?;
    let head = BatchHead::decode(&bytes[..line])?;
    let body = usize::try_from(head.body).ok()?;
    Some((head, line + 1..(line + 1).checked_add(body)?))
}

/// A value at one step.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
pub struct MetricPoint {
    /// `step` of its line; without one the number of the line, from 1. Of a sample: its number, from 1.
    #[serde(serialize_with = "whole_when_it_is")]
    pub step: f64,
    /// `time` or `_timestamp` of its line; without them when the worker saw it.
    #[schema(value_type = String, format = DateTime)]
    pub time: Micros,
    /// The value.
    #[serde(serialize_with = "whole_when_it_is")]
    pub value: f64,
}

/// A number without `.0`, as a task writes a step.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields so")]
fn whole_when_it_is<S: Serializer>(number: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    const EXACT: f64 = (1_u64 << 53) as f64;
    if number.fract() == 0.0 && number.abs() < EXACT {
        serializer.serialize_i64(*number as i64)
    } else {
        serializer.serialize_f64(*number)
    }
}

/// All values of one name.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
pub struct MetricSeries {
    /// Values within the steps asked for.
    pub count: u64,
    /// The smallest of them.
    #[serde(serialize_with = "whole_when_it_is")]
    pub min: f64,
    /// The largest.
    #[serde(serialize_with = "whole_when_it_is")]
    pub max: f64,
    /// The last that was written.
    pub last: MetricPoint,
    /// In the order they were written: all of them, or, where there are more than `points`, the first, last, smallest
    /// and largest of each of equally many (M4).
    pub points: Vec<MetricPoint>,
}

/// A line of which something could not be used.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct BadLine {
    /// Its number in the file, from 1.
    pub line: u64,
    /// What is wrong with it.
    pub problem: String,
}

/// What an attempt has measured, and what was measured of it.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct TaskMetrics {
    /// The attempt; absent before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt_id: Option<AttemptId>,
    /// Lines read from the task's file.
    pub lines: u64,
    /// Lines of which something could not be used: no JSON object, or a value in it that is no finite number.
    pub bad_lines: u64,
    /// The first of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_bad_line: Option<BadLine>,
    /// Bytes that the task wrote beyond the limit of one attempt, which are not kept.
    pub dropped_bytes: u64,
    /// Values of names beyond the limit of one attempt, which are not kept.
    pub dropped_values: u64,
    /// By name, what the task wrote.
    pub series: BTreeMap<String, MetricSeries>,
    /// By name, samples of what the attempt used of its machine.
    pub system: BTreeMap<String, MetricSeries>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(at_us: i64, body: &[u8]) -> Vec<u8> {
        let head = BatchHead { at_us, body: body.len() as u64, ..BatchHead::default() };
        [head.encode(), body.to_vec()].concat()
    }

    #[test]
    fn the_last_whole_batch_is_found_wherever_a_kill_tore_the_end() {
        let (first, second) = (batch(1, b"+{}\n+@{}\n"), batch(2, b"-70000\n#{}\n"));
        let stream = [first.clone(), second.clone()].concat();
        for cut in 0..=stream.len() {
            let found = last_batch(&stream[..cut]).map(|(head, end)| (head.at_us, end));
            let expected = match cut {
                _ if cut == stream.len() => Some((2, stream.len())),
                _ if cut >= first.len() => Some((1, first.len())),
                _ => None,
            };
            assert_eq!(found, expected, "cut at {cut}");
        }
        assert_eq!(last_batch(&stream[5..]).map(|(head, _)| head.at_us), Some(2), "a cut beginning is passed over");
    }

    #[test]
    fn whole_numbers_are_written_as_such() {
        let point = MetricPoint { step: 3.0, time: Micros(0), value: 0.5 };
        let text = serde_json::to_string(&point).unwrap();
        assert_eq!(text, r#"{"step":3,"time":"1970-01-01T00:00:00.000000Z","value":0.5}"#);
        assert_eq!(serde_json::from_str::<MetricPoint>(&text).unwrap(), point);
        let large = MetricPoint { value: 1e300, step: -2.5, ..point };
        assert_eq!(serde_json::from_str::<MetricPoint>(&serde_json::to_string(&large).unwrap()).unwrap(), large);
    }
}
