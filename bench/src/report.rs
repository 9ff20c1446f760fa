//! The figures beside their targets, as a table or as JSON.

use crate::probe::Probe;
use anyhow::Result;
use serde::Serialize;
use std::io::Write as _;

/// What a figure should be.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target {
    /// Shown for understanding only.
    None,
    Below(f64),
    AtLeast(f64),
}

#[derive(Serialize)]
struct Figure {
    name: String,
    value: f64,
    unit: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    met: Option<bool>,
}

/// All figures of a run, in order.
#[derive(Serialize)]
pub(crate) struct Report {
    cores: usize,
    figures: Vec<Figure>,
}

impl Report {
    pub(crate) fn new(probe: &Probe) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let mut report = Self { cores, figures: Vec::new() };
        report.add("4 KiB append + fdatasync, p50", probe.p50 * 1e3, "ms", Target::None);
        report.add("4 KiB append + fdatasync, p99", probe.p99 * 1e3, "ms", Target::None);
        report
    }

    pub(crate) fn add(&mut self, name: impl Into<String>, value: f64, unit: &'static str, target: Target) {
        let (target, met) = match target {
            Target::None => (None, None),
            Target::Below(limit) => (Some(format!("< {}", shown(limit))), Some(value < limit)),
            Target::AtLeast(limit) => (Some(format!(">= {}", shown(limit))), Some(value >= limit)),
        };
        self.figures.push(Figure { name: name.into(), value, unit, target, met });
    }

    pub(crate) fn print(&self, json: bool) -> Result<()> {
        let mut out = std::io::stdout().lock();
        if json {
            writeln!(out, "{}", serde_json::to_string_pretty(self)?)?;
            return Ok(());
        }
        writeln!(out, "{} cores, shared by server, worker, tasks and load generator\n", self.cores)?;
        writeln!(out, "{:<38} {:>10} {:<12} {:>10}  verdict", "figure", "measured", "unit", "target")?;
        for figure in &self.figures {
            let target = figure.target.as_deref().unwrap_or("");
            let verdict = match figure.met {
                Some(true) => "met",
                Some(false) => "MISSED",
                None => "",
            };
            let line =
                format!("{:<38} {:>10} {:<12} {target:>10}  {verdict}", figure.name, shown(figure.value), figure.unit);
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// Three figures that say something, at any size.
fn shown(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 || (size.fract() == 0.0 && size >= 1.0) => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 0.1 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}
