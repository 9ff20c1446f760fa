//! What is known of one attempt's metrics after reading them once: every series in bounded memory, and where in the
//! stream which steps stand, so that a part of it can be read without the rest.

use super::scan::{Scan, Wanted};
use crate::limits;
use fetchml_api::limits::METRICS_POINTS;
use std::ops::{Range, RangeInclusive};

/// A place in the stream where a batch begins.
#[derive(Clone, Copy, Debug)]
struct Mark {
    offset: u64,
    /// Lines before it.
    lines: u64,
    /// Smallest and largest step from here to the next mark; none: not known yet, or no line.
    steps: Option<(f64, f64)>,
}

/// A part of the stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Part {
    pub(super) bytes: Range<u64>,
    /// Lines before it.
    pub(super) lines: u64,
}

/// The index.
#[derive(Debug)]
pub(super) struct Index {
    pub(super) scan: Scan,
    /// How much of the stream has been read, bytes.
    pub(super) offset: u64,
    marks: Vec<Mark>,
}

impl Index {
    /// Of nothing read yet.
    pub(super) fn new() -> Self {
        let wanted = Wanted {
            names: None,
            steps: f64::NEG_INFINITY..=f64::INFINITY,
            // Twice as many as are ever asked for: what is left after buckets became wider is enough.
            points: 2 * *METRICS_POINTS.end() as usize,
            points_of_all: limits::METRICS_INDEX_POINTS,
        };
        Self { scan: Scan::new(wanted, 0, 0), offset: 0, marks: Vec::new() }
    }

    /// Reads on.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        let (base, marks) = (self.offset, &mut self.marks);
        self.scan.feed(bytes, |scan, at| {
            let offset = base + at as u64;
            if let Some(last) = marks.last_mut() {
                if offset - last.offset < limits::METRICS_PART_BYTES {
                    return;
                }
                last.steps = scan.take_steps();
            }
            marks.push(Mark { offset, lines: scan.tally.lines, steps: None });
        });
        self.offset += bytes.len() as u64;
    }

    /// The parts in which lines of these steps may stand.
    pub(super) fn parts(&self, steps: &RangeInclusive<f64>) -> Vec<Part> {
        let ends = self.marks.iter().skip(1).map(|mark| mark.offset).chain([self.offset]);
        let has = |mark: &Mark, is_last: bool| match mark.steps {
            Some((low, high)) => low <= *steps.end() && high >= *steps.start(),
            None => is_last,
        };
        let parts = self.marks.iter().zip(ends).enumerate();
        parts
            .filter(|(i, (mark, _))| has(mark, i + 1 == self.marks.len()))
            .map(|(_, (mark, end))| Part { bytes: mark.offset..end, lines: mark.lines })
            .collect()
    }

    /// Memory it takes, bytes.
    pub(super) fn size_bytes(&self) -> usize {
        self.scan.size_bytes() + self.marks.capacity() * size_of::<Mark>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fetchml_api::metrics::BatchHead;

    #[test]
    fn a_part_is_found_by_its_steps() {
        let mut index = Index::new();
        let mut stream = Vec::new();
        for n in 0..40 {
            let body = format!("+{{\"step\":{n},\"x\":1}}{}\n", " ".repeat(30_000)).repeat(2);
            let head = BatchHead { body: body.len() as u64, ..BatchHead::default() };
            stream.extend_from_slice(&head.encode());
            stream.extend_from_slice(body.as_bytes());
        }
        for piece in stream.chunks(9_999) {
            index.feed(piece);
        }
        assert_eq!(index.offset, stream.len() as u64);
        let all = index.parts(&(f64::NEG_INFINITY..=f64::INFINITY));
        assert!(all.len() > 5 && all[0].bytes.start == 0, "{all:?}");
        assert_eq!(all.last().unwrap().bytes.end, stream.len() as u64);
        assert!(all.windows(2).all(|two| two[0].bytes.end == two[1].bytes.start), "one after the other");
        let some = index.parts(&(10.0..=11.0));
        assert!(some.len() <= 3, "one or two, and the last, whose steps are not known yet: {some:?}");
        let first = &some[0];
        let text = String::from_utf8_lossy(&stream[first.bytes.start as usize..first.bytes.end as usize]);
        assert!(text.starts_with('@') && text.contains("\"step\":10,"));
        let before = String::from_utf8_lossy(&stream[..first.bytes.start as usize]);
        assert_eq!(before.matches("\"step\"").count() as u64, first.lines);
    }
}
