//! The process as the kernel sees it, under the names that all of Prometheus' libraries give. Written by hand: the
//! processor's seconds are a counter of fractions, and counters of the `metrics` crate are whole.

use super::table::{self, Instrument};
use rustix::{param, process};
use std::{fmt::Write as _, fs};

/// Whether [`write`] writes it.
pub(super) fn is_written_by_hand(instrument: &Instrument) -> bool {
    instrument.name.starts_with("process_")
}

/// Appends what can be read; without `/proc` nothing.
pub(super) fn write(text: &mut String) {
    let limit = process::getrlimit(process::Resource::Nofile).current;
    let open = fs::read_dir("/proc/self/fd").ok().map(Iterator::count);
    let stat = fs::read_to_string("/proc/self/stat").ok().and_then(|stat| Stat::parse(&stat));
    let boot = fs::read_to_string("/proc/stat").ok().and_then(|stat| boot_time(&stat));
    let started = stat.zip(boot).map(|(stat, boot)| boot as f64 + stat.started_s);
    let values = [
        (&table::START_TIME, started),
        (&table::CPU, stat.map(|stat| stat.cpu_s)),
        (&table::RESIDENT, stat.map(|stat| stat.resident_bytes as f64)),
        (&table::VIRTUAL, stat.map(|stat| stat.virtual_bytes as f64)),
        (&table::THREADS, stat.map(|stat| stat.threads as f64)),
        // Less the one that is open for counting them.
        (&table::OPEN_FDS, open.map(|open| open.saturating_sub(1) as f64)),
        (&table::MAX_FDS, Some(limit.map_or(f64::INFINITY, |limit| limit as f64))),
    ];
    for (Instrument { name, kind, help, .. }, value) in values {
        let Some(value) = value else { continue };
        let value = if value.is_infinite() { "+Inf".to_owned() } else { value.to_string() };
        let kind = kind.as_str();
        writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n").expect("text takes all text");
    }
}

#[derive(Clone, Copy, PartialEq, Debug)]
struct Stat {
    cpu_s: f64,
    threads: u64,
    /// After boot.
    started_s: f64,
    virtual_bytes: u64,
    resident_bytes: u64,
}

impl Stat {
    /// Reads `/proc/<pid>/stat`, see proc(5). The name of the program may hold anything, `)` included.
    fn parse(stat: &str) -> Option<Self> {
        let (_, rest) = stat.rsplit_once(')')?;
        let fields: Vec<u64> = rest.split_whitespace().skip(1).map(|field| field.parse().unwrap_or(0)).collect();
        // The first of these is field 4.
        let field = |number: usize| fields.get(number - 4).copied();
        let seconds = |ticks: u64| ticks as f64 / param::clock_ticks_per_second().max(1) as f64;
        Some(Self {
            cpu_s: seconds(field(14)? + field(15)?),
            threads: field(20)?,
            started_s: seconds(field(22)?),
            virtual_bytes: field(23)?,
            resident_bytes: field(24)? * param::page_size() as u64,
        })
    }
}

fn boot_time(stat: &str) -> Option<u64> {
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_the_kernel_is_read_whatever_the_program_is_called() {
        let line = "7 (a) b) (c) S 1 7 7 0 -1 4194560 1 2 3 4 150 50 0 0 20 0 9 0 300 4096 2 18446744073709551615 1";
        let stat = Stat::parse(line).unwrap();
        let ticks = param::clock_ticks_per_second() as f64;
        let page = param::page_size() as u64;
        let wanted = Stat {
            cpu_s: 200.0 / ticks,
            threads: 9,
            started_s: 300.0 / ticks,
            virtual_bytes: 4096,
            resident_bytes: 2 * page,
        };
        assert_eq!(stat, wanted);
        assert_eq!(Stat::parse("7 (a) S 1 2"), None);
        assert_eq!(boot_time("cpu 1 2\nbtime 1700000000\nprocesses 5\n"), Some(1_700_000_000));
    }

    #[test]
    fn this_process_is_described() {
        let mut text = String::new();
        write(&mut text);
        for instrument in table::ALL.iter().filter(|instrument| is_written_by_hand(instrument)) {
            let line = text.lines().find(|line| line.starts_with(&format!("{} ", instrument.name)));
            let value: f64 = line.and_then(|line| line.rsplit_once(' ')).unwrap().1.parse().unwrap();
            assert!(value > 0.0 || *instrument == table::CPU, "{instrument:?}: {value}");
        }
    }
}
