//! Reads a stream of metrics from any batch on, a piece at a time, into series. It believes nothing: a worker may send
//! what it likes, and after a power cut the end of a stream may be anything.

use super::{line::Line, sketch::Sketch};
use fetchml_api::{
    BadLine, MetricSeries, Micros,
    limits::{METRICS_LINE_BYTES, METRICS_SERIES_MAX},
    metrics::{BATCH, BatchHead, LINE, LONG_LINE, SAMPLE, Sample},
};
use std::{
    collections::{BTreeMap, HashMap},
    ops::RangeInclusive,
};

/// Before the names of samples.
pub(super) const SYSTEM: &str = "system.";
/// Points kept of a series, however many there are.
const KEPT_MIN: usize = 64;

/// Which values count.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    /// Only these names; all without.
    pub(super) names: Option<Vec<String>>,
    /// Only lines of these steps. Samples have none.
    pub(super) steps: RangeInclusive<f64>,
    /// Points kept of one series.
    pub(super) points: usize,
    /// Points kept of all series.
    pub(super) points_of_all: usize,
}

impl Wanted {
    fn has(&self, name: &str) -> bool {
        self.names.as_ref().is_none_or(|names| names.iter().any(|wanted| wanted == name))
    }
}

/// How many lines were read, and what was wrong with them.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    pub(super) lines: u64,
    pub(super) samples: u64,
    pub(super) bad_lines: u64,
    pub(super) first_bad_line: Option<BadLine>,
    pub(super) dropped_bytes: u64,
    pub(super) dropped_values: u64,
}

/// The reader.
#[derive(Debug)]
pub(super) struct Scan {
    wanted: Wanted,
    pub(super) tally: Tally,
    series: Named,
    system: Named,
    /// When the batch at hand was seen.
    at: Micros,
    /// The beginning of a record whose end has not come yet.
    rest: Vec<u8>,
    /// That record is longer than any may be: it is passed over.
    overlong: bool,
    /// Smallest and largest step since it was last asked.
    steps: Option<(f64, f64)>,
}

/// Series by name.
#[derive(Debug, Default)]
struct Named {
    places: HashMap<Box<str>, usize>,
    all: Vec<Sketch>,
}

impl Named {
    fn found(&self, names: Option<&[String]>, points: usize) -> Found {
        let is_wanted = |name: &str| names.is_none_or(|names| names.iter().any(|wanted| wanted == name));
        let chosen = self.places.iter().filter(|(name, _)| is_wanted(name));
        let chosen: Vec<_> = chosen.map(|(name, place)| (name, &self.all[*place])).collect();
        let is_fine_enough = chosen.iter().all(|(_, sketch)| sketch.is_fine_enough(points));
        let series = chosen.into_iter().filter_map(|(name, sketch)| Some((name.to_string(), sketch.series(points)?)));
        Found { series: series.collect(), is_fine_enough }
    }

    fn size_bytes(&self) -> usize {
        // What a map takes for an entry, about.
        const ENTRY: usize = 48;
        let names: usize = self.places.keys().map(|name| name.len() + ENTRY).sum();
        names + self.all.iter().map(|sketch| sketch.size_bytes() + size_of::<Sketch>()).sum::<usize>()
    }
}

impl Scan {
    /// From the beginning, or from the beginning of a batch before which `lines` lines and `samples` samples stand.
    pub(super) fn new(wanted: Wanted, lines: u64, samples: u64) -> Self {
        Self {
            wanted,
            tally: Tally { lines, samples, ..Tally::default() },
            series: Named::default(),
            system: Named::default(),
            at: Micros::default(),
            rest: Vec::new(),
            overlong: false,
            steps: None,
        }
    }

    /// Reads on. `on_batch` is told where in `bytes` each batch begins that does, before it is read.
    pub(super) fn feed(&mut self, mut bytes: &[u8], mut on_batch: impl FnMut(&mut Self, usize)) {
        let length = bytes.len();
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let begins = self.rest.is_empty() && !self.overlong;
            if begins && bytes[0] == BATCH {
                on_batch(self, length - bytes.len());
            }
            let line = &bytes[..end];
            if begins {
                self.record(line);
            } else {
                self.keep(line);
                let whole = std::mem::take(&mut self.rest);
                if !std::mem::take(&mut self.overlong) {
                    self.record(&whole);
                }
            }
            bytes = &bytes[end + 1..];
        }
        self.keep(bytes);
    }

    fn keep(&mut self, bytes: &[u8]) {
        self.overlong |= self.rest.len() + bytes.len() > METRICS_LINE_BYTES + 1;
        if self.overlong {
            self.rest = Vec::new();
        } else {
            self.rest.extend_from_slice(bytes);
        }
    }

    fn record(&mut self, record: &[u8]) {
        match record.split_first() {
            Some((&BATCH, _)) => {
                if let Some(head) = BatchHead::decode(record) {
                    self.at = Micros(head.at_us);
                    self.tally.dropped_bytes = head.dropped;
                }
            }
            Some((&LINE, line)) => self.line(line),
            Some((&LONG_LINE, length)) => {
                let length = String::from_utf8_lossy(length);
                self.tally.lines += 1;
                self.bad(format!("is {length} bytes long; at most {METRICS_LINE_BYTES} are read"));
            }
            Some((&SAMPLE, sample)) => self.sample(sample),
            _ => {}
        }
    }

    fn bad(&mut self, problem: String) {
        self.tally.bad_lines += 1;
        let line = self.tally.lines;
        self.tally.first_bad_line.get_or_insert(BadLine { line, problem });
    }

    fn line(&mut self, bytes: &[u8]) {
        self.tally.lines += 1;
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return;
        }
        let Line { step, time, values, problem } = Line::read(bytes);
        if let Some(problem) = problem {
            self.bad(problem);
        }
        if values.is_empty() {
            return;
        }
        let (step, time) = (step.unwrap_or(self.tally.lines as f64), time.unwrap_or(self.at));
        let (low, high) = self.steps.unwrap_or((step, step));
        self.steps = Some((low.min(step), high.max(step)));
        if !self.wanted.steps.contains(&step) {
            return;
        }
        for (name, value) in values {
            let is_kept = self.push(&name, false, (step, time, value));
            self.tally.dropped_values += u64::from(!is_kept);
        }
    }

    fn sample(&mut self, bytes: &[u8]) {
        let Ok(sample) = serde_json::from_slice::<Sample>(bytes) else { return };
        self.tally.samples += 1;
        for (name, value) in sample {
            self.push(&format!("{SYSTEM}{name}"), true, (self.tally.samples as f64, self.at, value));
        }
    }

    /// Whether there is room for it.
    fn push(&mut self, name: &str, is_system: bool, (step, time, value): (f64, Micros, f64)) -> bool {
        let named = if is_system { &mut self.system } else { &mut self.series };
        let place = if let Some(place) = named.places.get(name) {
            *place
        } else {
            if !self.wanted.has(name) {
                return true;
            }
            if named.all.len() >= METRICS_SERIES_MAX {
                return false;
            }
            named.places.insert(name.into(), named.all.len());
            named.all.push(Sketch::new());
            let place = named.all.len() - 1;
            self.share_out();
            place
        };
        let max = self.share();
        let named = if is_system { &mut self.system } else { &mut self.series };
        named.all[place].push(step, time, value, max);
        true
    }

    /// Points that each series may keep.
    fn share(&self) -> usize {
        let series = (self.series.all.len() + self.system.all.len()).max(1);
        (self.wanted.points_of_all / series).min(self.wanted.points).max(KEPT_MIN)
    }

    /// Those that are not added to any more give up what is above their share: now and then is enough.
    fn share_out(&mut self) {
        if (self.series.all.len() + self.system.all.len()).is_power_of_two() {
            let max = self.share();
            self.series.all.iter_mut().chain(&mut self.system.all).for_each(|sketch| sketch.shrink(max));
        }
    }

    /// Smallest and largest step of the lines since the last call.
    pub(super) fn take_steps(&mut self) -> Option<(f64, f64)> {
        self.steps.take()
    }

    /// Memory it takes, bytes.
    pub(super) fn size_bytes(&self) -> usize {
        size_of::<Self>() + self.rest.capacity() + self.series.size_bytes() + self.system.size_bytes()
    }

    /// Goes on at the beginning of another batch, before which so many lines stand.
    pub(super) fn jump(&mut self, lines: u64) {
        self.tally.lines = lines;
        self.rest = Vec::new();
        self.overlong = false;
    }

    /// How many of the task's series have these names.
    pub(super) fn count(&self, names: Option<&[String]>) -> usize {
        names.map_or(self.series.all.len(), |names| {
            names.iter().filter(|name| self.series.places.contains_key(name.as_str())).count()
        })
    }

    /// What the task wrote, of these names or all, with at most `points` points each.
    pub(super) fn series(&self, names: Option<&[String]>, points: usize) -> Found {
        self.series.found(names, points)
    }

    /// Samples, of these names or all, with at most `points` points each.
    pub(super) fn system(&self, names: Option<&[String]>, points: usize) -> Found {
        self.system.found(names, points)
    }
}

/// Series that were asked for.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) series: BTreeMap<String, MetricSeries>,
    /// Each has as many points as were asked for, or all of its own.
    pub(super) is_fine_enough: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Wanted {
        Wanted { names: None, steps: f64::NEG_INFINITY..=f64::INFINITY, points: 1_000, points_of_all: 1 << 20 }
    }

    fn batch(at_us: i64, body: &str) -> String {
        let head = BatchHead { at_us, body: body.len() as u64, dropped: 3, ..BatchHead::default() };
        String::from_utf8(head.encode()).unwrap() + body
    }

    fn last(scan: &Scan, name: &str) -> (f64, i64, f64) {
        let found = scan.series(None, 100).series;
        let last = found.get(name).unwrap_or_else(|| panic!("{name} is not among {:?}", found.keys())).last;
        (last.step, last.time.0, last.value)
    }

    #[test]
    fn a_stream_reads_the_same_in_any_pieces() {
        let line = |n| format!("+{{\"step\":{n},\"loss\":{}}}\n#{{\"cpu_percent\":{n}.5}}\n", 40 - n);
        let body = (0..40).map(line).collect::<Vec<_>>().concat();
        let stream = batch(5, &body) + &batch(6, "+{\"acc\":1}\n-70000\n+\n+{\"loss\":NaN,\"acc\":2}\n");
        for size in [1, 2, 7, 100, stream.len()] {
            let mut scan = Scan::new(all(), 0, 0);
            let mut batches = Vec::new();
            let mut from = 0;
            for piece in stream.as_bytes().chunks(size) {
                scan.feed(piece, |_, at| batches.push(from + at));
                from += piece.len();
            }
            assert_eq!(last(&scan, "loss"), (39.0, 5, 1.0));
            assert_eq!(last(&scan, "acc"), (44.0, 6, 2.0), "without a step the number of the line");
            let found = scan.system(None, 100);
            assert_eq!((found.series["system.cpu_percent"].count, found.is_fine_enough), (40, true));
            let Tally { lines, samples, bad_lines, first_bad_line, dropped_bytes, dropped_values } = scan.tally.clone();
            assert_eq!((lines, samples, bad_lines, dropped_bytes, dropped_values), (44, 40, 2, 3, 0));
            assert_eq!(first_bad_line.map(|bad| bad.line), Some(42));
            assert_eq!(scan.take_steps(), Some((0.0, 44.0)));
            // In pieces of one byte no batch begins where a piece does and is whole in it.
            assert!(size < stream.len() || batches == [0, batch(5, &body).len()]);
        }
    }

    #[test]
    fn garbage_is_passed_over() {
        let mut scan = Scan::new(all(), 0, 0);
        let long = "x".repeat(METRICS_LINE_BYTES * 3);
        let stream = format!("\n\0\0\0\n@{{\n#nonsense\n+{long}\n+{{\"a\":1}}\n");
        for piece in stream.as_bytes().chunks(1_000) {
            scan.feed(piece, |_, _| {});
            assert!(scan.rest.len() <= METRICS_LINE_BYTES + 1);
        }
        assert_eq!(last(&scan, "a"), (1.0, 0, 1.0));
    }

    #[test]
    fn names_and_steps_are_chosen_and_too_many_names_are_counted() {
        let line = |n| format!("+{{\"step\":{n},\"s{n}\":1}}\n");
        let lines = (0..METRICS_SERIES_MAX + 5).map(line).collect::<Vec<_>>().concat();
        let mut scan = Scan::new(all(), 0, 0);
        scan.feed(batch(0, &lines).as_bytes(), |_, _| {});
        assert_eq!(scan.tally.dropped_values, 5);
        assert_eq!(scan.series(None, 10).series.len(), METRICS_SERIES_MAX);
        let mut scan =
            Scan::new(Wanted { names: Some(vec!["s7".into(), "s9".into()]), steps: 0.0..=8.0, ..all() }, 0, 0);
        scan.feed(batch(0, &lines).as_bytes(), |_, _| {});
        assert_eq!(scan.series(None, 10).series.into_keys().collect::<Vec<_>>(), ["s7"]);
        assert_eq!(scan.tally.dropped_values, 0);
    }

    #[test]
    fn many_long_series_stay_within_their_share() {
        let points_of_all = 20_000;
        let mut scan = Scan::new(Wanted { points_of_all, points: 10_000, ..all() }, 0, 0);
        for round in 0..40 {
            // Ever more names, the first of which are given up.
            let names: Vec<String> = (round * 5..round * 5 + 5).map(|n| format!("\"n{n}\":1")).collect();
            let line = format!("+{{{}}}\n", names.join(","));
            scan.feed(batch(0, &line.repeat(2_000)).as_bytes(), |_, _| {});
        }
        let kept: usize = scan.series.all.iter().map(Sketch::kept).sum();
        assert!(kept <= points_of_all * 2, "{kept}");
        assert!(!scan.series(Some(&["n150".into()]), 5_000).is_fine_enough);
    }
}
