//! `fetchml metrics`.

use crate::{
    failure::Exit,
    limits, quantity,
    session::{ServerFlags, Session},
    terminal,
};
use clap::Args;
use comfy_table::Cell;
use fetchml_api::{MetricPoint, MetricSeries, TaskId, TaskMetrics};
use fetchml_client::MetricsQuery;
use std::path::Path;

/// Show what a task measures, such as its loss
///
/// A metric is what a task writes as JSON lines to the file that $FETCHML_METRICS names, such as
/// {"step": 3, "loss": 0.12}. With --system what it uses of its machine is shown too.
#[derive(Args, Debug)]
#[command(
    before_long_help = "Examples:\n  fetchml metrics @last\n  fetchml metrics --watch --name loss --name val_acc @last"
)]
pub(crate) struct Metrics {
    /// Id, the beginning or end of one, or @last
    id: String,
    /// Only this metric; may be repeated
    #[arg(long, value_name = "NAME")]
    name: Vec<String>,
    /// Also samples of its processor, memory and GPUs
    #[arg(long)]
    system: bool,
    /// Metrics of this attempt, from 1 [default: the latest]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    attempt: Option<u32>,
    /// Metrics of this node, from 0 [default: 0]
    #[arg(long)]
    node: Option<u32>,
    /// Points of a metric at most, 10 to 5000 (--json)
    #[arg(long, requires = "json", value_parser = clap::value_parser!(i64).range(fetchml_api::limits::METRICS_POINTS))]
    points: Option<i64>,
    /// Show it again each time it changed, until the task ends
    #[arg(short, long, conflicts_with = "json")]
    watch: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerFlags,
}

impl Metrics {
    pub(super) async fn run(self, config: Option<&Path>) -> anyhow::Result<Exit> {
        let session = self.server.session(config)?;
        let id = session.task_id(&self.id).await?;
        let query = MetricsQuery {
            attempt: self.attempt,
            node: self.node,
            names: self.name.clone(),
            points: self.points.or((!self.json).then_some(limits::SPARKLINE_POINTS)),
            ..MetricsQuery::default()
        };
        if self.watch {
            return self.follow(&session, id, &query).await;
        }
        let metrics = session.client.metrics(id, &query).await?;
        if self.json {
            terminal::print_json(&metrics)?;
            return Ok(Exit::Success);
        }
        terminal::print(&self.picture(&metrics))?;
        for problem in problems(&metrics) {
            terminal::say_warning(&problem);
        }
        if metrics.series.is_empty() {
            terminal::say_hint(
                "a task writes lines such as {\"step\": 3, \"loss\": 0.12} to the file $FETCHML_METRICS",
            );
        }
        Ok(Exit::Success)
    }

    /// Shows what there is each time it is another: on a terminal the picture stays current.
    async fn follow(&self, session: &Session, id: TaskId, query: &MetricsQuery) -> anyhow::Result<Exit> {
        let mut shown: Option<TaskMetrics> = None;
        loop {
            // Asked first: what is over does not grow.
            let is_over = session.client.task(id).await?.status.is_terminal();
            let metrics = session.client.metrics(id, query).await?;
            if shown.as_ref() != Some(&metrics) {
                let picture = [vec![self.picture(&metrics)], problems(&metrics)].concat().join("\n");
                if terminal::stdout_is_terminal() {
                    terminal::repaint(&picture)?;
                } else {
                    terminal::print(&picture)?;
                }
                shown = Some(metrics);
            }
            if is_over {
                return Ok(Exit::Success);
            }
            tokio::select! {
                () = tokio::time::sleep(limits::METRICS_WATCH_EVERY) => {}
                _ = tokio::signal::ctrl_c() => return Ok(Exit::Interrupted),
            }
        }
    }

    fn picture(&self, metrics: &TaskMetrics) -> String {
        let has_lines = terminal::stdout_is_terminal();
        let mut header = vec!["NAME", "LAST", "STEP", "MIN", "MAX", "VALUES"];
        header.extend(has_lines.then_some("COURSE"));
        let mut table = terminal::table_of(header);
        let system = metrics.system.iter().filter(|_| self.system || !self.name.is_empty());
        for (name, series) in metrics.series.iter().chain(system) {
            table.add_row(row(name, series, has_lines));
        }
        terminal::table_text(&table)
    }
}

fn row(name: &str, series: &MetricSeries, has_lines: bool) -> Vec<Cell> {
    let is_bytes = name.starts_with("system.") && name.ends_with("_bytes");
    let value = |value: f64| terminal::number(if is_bytes { bytes(value) } else { quantity::show_number(value) });
    let mut row = vec![
        Cell::new(terminal::plain(name)),
        value(series.last.value),
        terminal::number(quantity::show_number(series.last.step)),
        value(series.min),
        value(series.max),
        terminal::number(series.count),
    ];
    row.extend(has_lines.then(|| Cell::new(sparkline(&series.points))));
    row
}

fn bytes(value: f64) -> String {
    quantity::show_bytes(value.max(0.0) as u64)
}

/// What was not taken, in sentences.
fn problems(metrics: &TaskMetrics) -> Vec<String> {
    let mut said = Vec::new();
    if let Some(first) = &metrics.first_bad_line {
        let (bad, all, line, problem) = (metrics.bad_lines, metrics.lines, first.line, terminal::plain(&first.problem));
        said.push(format!("{bad} of {all} lines could not be used; the first is line {line}: {problem}"));
    }
    if metrics.dropped_bytes > 0 {
        let [limit, dropped] = [fetchml_api::limits::METRICS_BYTES, metrics.dropped_bytes].map(quantity::show_bytes);
        said.push(format!("{dropped} beyond the limit of {limit} were not taken"));
    }
    if metrics.dropped_values > 0 {
        let limit = fetchml_api::limits::METRICS_SERIES_MAX;
        said.push(format!("{} values of more than {limit} names were not taken", metrics.dropped_values));
    }
    said
}

/// The course of a series in a few characters: the mean of each part, from its smallest to its largest.
fn sparkline(points: &[MetricPoint]) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let width = limits::SPARKLINE_CHARS.min(points.len());
    let part = |i: usize| &points[i * points.len() / width..(i + 1) * points.len() / width];
    let mean = |part: &[MetricPoint]| part.iter().map(|point| point.value / part.len() as f64).sum::<f64>();
    let means: Vec<f64> = (0..width).map(|i| mean(part(i))).collect();
    let low = means.iter().copied().fold(f64::INFINITY, f64::min);
    let high = means.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let bar = |mean: &f64| {
        let height = if high > low { (mean / 2.0 - low / 2.0) / (high / 2.0 - low / 2.0) } else { 0.5 };
        BARS[((height * 8.0) as usize).min(7)]
    };
    means.iter().map(bar).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use fetchml_api::Micros;

    fn line(values: &[f64]) -> String {
        let points: Vec<_> =
            values.iter().map(|value| MetricPoint { step: 0.0, time: Micros(0), value: *value }).collect();
        sparkline(&points)
    }

    #[test]
    fn a_course_shows_in_few_characters() {
        assert_eq!(line(&[]), "");
        assert_eq!(line(&[5.0, 5.0]), "▅▅");
        assert_eq!(line(&[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]), "▁▂▃▄▅▆▇█");
        assert_eq!(line(&[-f64::MAX, 0.0, f64::MAX]), "▁▅█");
        let long: Vec<f64> = (0..1_000).map(|n| f64::from(1_000 - n)).collect();
        let line = line(&long);
        assert_eq!(line.chars().count(), limits::SPARKLINE_CHARS);
        assert!(line.starts_with('█') && line.ends_with('▁'), "{line}");
    }
}
