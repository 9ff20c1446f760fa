//! One series in bounded memory: all of its points while they are few, later the first, last, smallest and largest of
//! each bucket of equally many.
//!
//! The method is M4: U. Jugel, Z. Jerzak, G. Hackenbroich, V. Markl, "M4: A Visualization-Oriented Time Series Data
//! Aggregation", PVLDB 7(10), 2014. A line drawn through these four of each bucket covers the same pixels as a line
//! through all points where a bucket is as wide as a pixel. Reducing twice gives what reducing once to the wider
//! buckets gives, so it can be done as points arrive.

use fetchml_api::{MetricPoint, MetricSeries, Micros};

/// Points kept of a bucket.
const OF_BUCKET: usize = 4;

/// A point and its place in the series, from 0.
#[derive(Clone, Copy, Debug, Default)]
struct Placed {
    at: u64,
    step: f64,
    time: Micros,
    value: f64,
}

impl Placed {
    fn point(self) -> MetricPoint {
        MetricPoint { step: self.step, time: self.time, value: self.value }
    }
}

/// A series.
#[derive(Clone, Debug)]
pub(super) struct Sketch {
    /// In order; at most [`OF_BUCKET`] of each bucket.
    kept: Vec<Placed>,
    /// Points of a bucket, a power of two.
    width: u64,
    count: u64,
    min: f64,
    max: f64,
}

impl Sketch {
    pub(super) const fn new() -> Self {
        Self { kept: Vec::new(), width: 1, count: 0, min: f64::INFINITY, max: f64::NEG_INFINITY }
    }

    /// Memory it takes, bytes.
    pub(super) fn size_bytes(&self) -> usize {
        self.kept.capacity() * size_of::<Placed>()
    }

    /// Points it keeps.
    #[cfg(test)]
    pub(super) fn kept(&self) -> usize {
        self.kept.len()
    }

    /// Adds a finite value; keeps at most `max` points, which are at least 8.
    pub(super) fn push(&mut self, step: f64, time: Micros, value: f64, max: usize) {
        let at = self.count;
        self.count += 1;
        (self.min, self.max) = (self.min.min(value), self.max.max(value));
        self.kept.push(Placed { at, step, time, value });
        self.reduce_last();
        self.shrink(max);
    }

    /// Makes buckets wider until at most `max` points are kept.
    pub(super) fn shrink(&mut self, max: usize) {
        while self.kept.len() > max {
            self.width *= 2;
            self.kept = reduced(&self.kept, self.width);
        }
    }

    /// Reduces the last bucket, to which a point was added. The others are reduced.
    fn reduce_last(&mut self) {
        let bucket = self.kept.last().map_or(0, |last| last.at / self.width);
        let from = self.kept.iter().rposition(|point| point.at / self.width != bucket).map_or(0, |before| before + 1);
        let mut last = [Placed::default(); OF_BUCKET + 1];
        let last = &mut last[..self.kept.len() - from];
        last.copy_from_slice(&self.kept[from..]);
        self.kept.truncate(from);
        extremes(last, &mut self.kept);
    }

    /// Whether `points` points can be given, or all there are.
    pub(super) fn is_fine_enough(&self, points: usize) -> bool {
        self.width <= OF_BUCKET as u64 || self.kept.len() >= points
    }

    /// What there is, with at most `points` points; none without any.
    pub(super) fn series(&self, points: usize) -> Option<MetricSeries> {
        let last = self.kept.last()?.point();
        let mut fewer = self.clone();
        fewer.shrink(points);
        let points = fewer.kept.into_iter().map(Placed::point).collect();
        Some(MetricSeries { count: self.count, min: self.min, max: self.max, last, points })
    }
}

fn reduced(kept: &[Placed], width: u64) -> Vec<Placed> {
    let mut fewer = Vec::with_capacity(kept.len() / 2 + OF_BUCKET);
    for bucket in kept.chunk_by(|a, b| a.at / width == b.at / width) {
        extremes(bucket, &mut fewer);
    }
    fewer
}

/// The first, last, smallest and largest of a bucket, each once, in order; all of a few.
fn extremes(bucket: &[Placed], into: &mut Vec<Placed>) {
    let (Some(first), Some(last)) = (bucket.first(), bucket.last()) else { return };
    // Of how many there were: some of them may be gone already.
    if last.at - first.at < OF_BUCKET as u64 {
        into.extend_from_slice(bucket);
        return;
    }
    let (mut low, mut high) = (0, 0);
    for (i, point) in bucket.iter().enumerate() {
        if point.value < bucket[low].value {
            low = i;
        }
        if point.value > bucket[high].value {
            high = i;
        }
    }
    let mut chosen = [0, low, high, bucket.len() - 1];
    chosen.sort_unstable();
    let mut before = None;
    for i in chosen {
        if before.replace(i) != Some(i) {
            into.push(bucket[i]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sketch(values: &[f64], max: usize) -> Sketch {
        let mut sketch = Sketch::new();
        for (i, value) in values.iter().enumerate() {
            sketch.push(i as f64, Micros(i as i64), *value, max);
        }
        sketch
    }

    /// By the definition, from all values at once.
    fn m4(values: &[f64], width: usize) -> Vec<f64> {
        let mut all = Vec::new();
        for (b, bucket) in values.chunks(width).enumerate() {
            let place = |wanted: f64| bucket.iter().position(|v| v.total_cmp(&wanted).is_eq()).unwrap();
            let (low, high) =
                (bucket.iter().copied().fold(f64::MAX, f64::min), bucket.iter().copied().fold(f64::MIN, f64::max));
            let mut places = [0, place(low), place(high), bucket.len() - 1].to_vec();
            places.sort_unstable();
            places.dedup();
            let few = bucket.len() <= 4;
            all.extend((0..bucket.len()).filter(|i| few || places.contains(i)).map(|i| (b * width + i) as f64));
        }
        all
    }

    #[test]
    fn reducing_as_points_arrive_is_reducing_once() {
        let mut random = 7_u64;
        let values: Vec<f64> = (0..5_003)
            .map(|_| {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (random >> 40) as f64
            })
            .collect();
        for (length, max) in [(0, 8), (1, 8), (8, 8), (9, 8), (100, 8), (100, 100), (5_003, 50), (5_003, 1_000)] {
            let values = &values[..length];
            let sketch = sketch(values, max);
            assert!(sketch.kept.len() <= max);
            let steps: Vec<f64> = sketch.kept.iter().map(|point| point.step).collect();
            assert_eq!(steps, m4(values, sketch.width as usize), "{length} values, at most {max}");
            let Some(series) = sketch.series(max / 2) else {
                assert_eq!(length, 0);
                continue;
            };
            assert!(series.points.len() <= max / 2);
            assert_eq!(series.count, length as u64);
            let highest = series.points.iter().map(|point| point.value).fold(f64::MIN, f64::max);
            assert_eq!((highest, series.max), (series.max, values.iter().copied().fold(f64::MIN, f64::max)));
            assert_eq!(series.points.last(), Some(&series.last));
        }
    }

    #[test]
    fn few_points_are_all_there() {
        let values: Vec<f64> = (0..1_000).map(f64::from).collect();
        let series = sketch(&values, 10_000).series(5_000).unwrap();
        assert_eq!(series.points.iter().map(|point| point.value).collect::<Vec<_>>(), values);
        assert!(sketch(&values, 10).is_fine_enough(2) && !sketch(&values, 10).is_fine_enough(500));
        assert!(sketch(&values, 1_000).is_fine_enough(5_000), "they are all there");
    }
}
