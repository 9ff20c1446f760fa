//! What this disk can do: the time of a 4 KiB append made durable.

use anyhow::Result;
use std::{fs::File, io::Write as _, path::Path, time::Instant};

const APPENDS: usize = 2_000;
const APPEND_BYTES: usize = 4 << 10;

/// Times of one append and fdatasync, seconds.
pub(crate) struct Probe {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
}

pub(crate) fn run(dir: &Path) -> Result<Probe> {
    let path = dir.join("probe");
    let mut file = File::create(&path)?;
    let block = [0x5a_u8; APPEND_BYTES];
    let mut times = Vec::with_capacity(APPENDS);
    for _ in 0..APPENDS {
        let started = Instant::now();
        file.write_all(&block)?;
        file.sync_data()?;
        times.push(started.elapsed().as_secs_f64());
    }
    std::fs::remove_file(path)?;
    Ok(Probe { p50: quantile(&mut times, 0.50), p99: quantile(&mut times, 0.99) })
}

/// The value below which the share `q` of all lies. Sorts.
pub(crate) fn quantile(values: &mut [f64], q: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let index = ((values.len() as f64 * q).ceil() as usize).clamp(1, values.len().max(1)) - 1;
    values.get(index).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::quantile;

    #[test]
    fn quantiles_are_values_that_occurred() {
        let mut values: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        let got = [0.0, 0.5, 0.99, 1.0].map(|q| quantile(&mut values, q));
        assert!(got.iter().zip([1.0, 50.0, 99.0, 100.0]).all(|(a, b)| (a - b).abs() < f64::EPSILON), "{got:?}");
        assert!(quantile(&mut [], 0.5).is_nan());
    }
}
