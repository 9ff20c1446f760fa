//! What an attempt uses of its machine: processor, memory, reads and writes, GPUs. Of its control group where the
//! worker made one, else of its tree of processes. Only looks.

use crate::{cgroup::Cgroup, gpu::GpuSample, limits};
use fetchml_api::metrics::Sample;
use std::{
    collections::HashMap,
    fs,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

/// Measures one attempt.
#[derive(Debug)]
pub(crate) struct Meter {
    cgroup: Option<Cgroup>,
    /// Its processes are the descendants of this one.
    shim: u32,
    /// Processor time it had used, microseconds, and when.
    before: Option<(Instant, u64)>,
}

impl Meter {
    /// Of the processes below `shim`. One that was not just started is first measured from now on.
    pub(crate) fn new(cgroup: Option<Cgroup>, shim: u32, is_new: bool) -> Self {
        Self { cgroup, shim, before: is_new.then(|| (Instant::now(), 0)) }
    }

    /// What it uses now; empty when nothing of it is left.
    pub(crate) fn sample(&mut self, processes: &Processes) -> Sample {
        let mut sample = Sample::new();
        let tree = processes.below(self.shim);
        if tree.is_empty() {
            return sample;
        }
        let sum = |of: fn(&Process) -> u64| tree.iter().map(of).fold(0, u64::saturating_add);
        let cgroup = self.cgroup.as_ref();
        let cpu_us = cgroup.and_then(Cgroup::cpu_us).unwrap_or_else(|| sum(|process| process.cpu_us));
        let memory = cgroup.and_then(Cgroup::memory_bytes).unwrap_or_else(|| sum(|process| process.memory_bytes));
        let now = processes.at;
        if let Some((at, before)) = self.before.replace((now, cpu_us)) {
            let elapsed_us = now.saturating_duration_since(at).as_micros() as f64;
            if elapsed_us > 0.0 {
                // A process that ended without anybody waiting for it takes its time along.
                sample.insert("cpu_percent".into(), round(cpu_us.saturating_sub(before) as f64 * 100.0 / elapsed_us));
            }
        }
        sample.insert("memory_bytes".into(), memory as f64);
        sample.insert("processes".into(), tree.len() as f64);
        let io: Vec<(u64, u64)> = tree.iter().filter_map(|process| io_of(process.id)).collect();
        // Of a user that this worker may not look at it is not known.
        if io.len() == tree.len() {
            sample.insert("read_bytes".into(), io.iter().map(|(read, _)| *read).sum::<u64>() as f64);
            sample.insert("written_bytes".into(), io.iter().map(|(_, written)| *written).sum::<u64>() as f64);
        }
        sample
    }
}

/// What these devices do, by their indexes on this worker.
pub(crate) fn of_gpus(gpus: &[GpuSample]) -> Sample {
    let figures = |gpu: &GpuSample| {
        let figures = [
            ("utilization_percent", gpu.utilization_percent.map(f64::from)),
            ("memory_bytes", gpu.memory_used_bytes.map(|bytes| bytes as f64)),
            ("power_watts", gpu.power_watts),
            ("temperature_celsius", gpu.temperature_celsius.map(f64::from)),
        ];
        let index = gpu.index;
        figures.map(|(name, value)| Some((format!("gpu.{index}.{name}"), value?)))
    };
    gpus.iter().flat_map(figures).flatten().collect()
}

fn round(percent: f64) -> f64 {
    (percent * 10.0).round() / 10.0
}

/// Every process of the machine, as it was at one time.
#[derive(Debug)]
pub(crate) struct Processes {
    at: Instant,
    children: HashMap<u32, Vec<Process>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Process {
    id: u32,
    parent: u32,
    /// Its own and that of its children which it has waited for.
    cpu_us: u64,
    memory_bytes: u64,
}

impl Processes {
    fn now() -> Self {
        let mut children = HashMap::<u32, Vec<Process>>::new();
        let unit = Units::of_this_machine();
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let id = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok());
            // One that has ended meanwhile cannot be read.
            let stat = id.and_then(|id| Some((id, fs::read(format!("/proc/{id}/stat")).ok()?)));
            if let Some(process) = stat.and_then(|(id, stat)| Process::parse(id, &stat, unit)) {
                children.entry(process.parent).or_default().push(process);
            }
        }
        Self { at: Instant::now(), children }
    }

    fn below(&self, root: u32) -> Vec<Process> {
        let mut found: Vec<Process> = self.children.get(&root).cloned().unwrap_or_default();
        let mut next = 0;
        while let Some(process) = found.get(next) {
            found.extend(self.children.get(&process.id).into_iter().flatten());
            next += 1;
        }
        found
    }
}

/// In what the kernel counts.
#[derive(Clone, Copy, Debug)]
struct Units {
    ticks_per_second: u64,
    page_bytes: u64,
}

impl Units {
    fn of_this_machine() -> Self {
        let ticks_per_second = rustix::param::clock_ticks_per_second().max(1);
        Self { ticks_per_second, page_bytes: rustix::param::page_size() as u64 }
    }
}

impl Process {
    /// From `/proc/<pid>/stat`. The name in parentheses may hold anything; what follows the last `)` has no surprises.
    fn parse(id: u32, stat: &[u8], unit: Units) -> Option<Self> {
        let after = stat.iter().rposition(|byte| *byte == b')')? + 1;
        let text = std::str::from_utf8(stat.get(after..)?).ok()?;
        // Field 3 (state) is the first here.
        let fields: Vec<&str> = text.split_ascii_whitespace().take(22).collect();
        let number = |field: usize| fields.get(field - 3)?.parse::<i64>().ok().map(|n| n.max(0).unsigned_abs());
        let ticks = number(14)? + number(15)? + number(16)? + number(17)?;
        Some(Self {
            id,
            parent: u32::try_from(number(4)?).ok()?,
            cpu_us: ticks.saturating_mul(1_000_000) / unit.ticks_per_second,
            memory_bytes: number(24)?.saturating_mul(unit.page_bytes),
        })
    }
}

/// Bytes that a process, and its children which it has waited for, read from and wrote to disks.
fn io_of(id: u32) -> Option<(u64, u64)> {
    let text = fs::read_to_string(format!("/proc/{id}/io")).ok()?;
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    Some((field("read_bytes:")?, field("write_bytes:")?))
}

/// One look at all processes serves all attempts that are measured at the time.
#[derive(Clone, Debug, Default)]
pub(crate) struct Table(Arc<Mutex<Option<Arc<Processes>>>>);

impl Table {
    /// A look that is not older than [`limits::USAGE_LOOK_FOR`]. Takes milliseconds.
    pub(crate) fn look(&self) -> Arc<Processes> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some(look) if look.at.elapsed() < limits::USAGE_LOOK_FOR => Arc::clone(look),
            _ => Arc::clone(last.insert(Arc::new(Processes::now()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::{BufRead as _, BufReader},
        process::{Command, Stdio},
    };

    #[test]
    fn a_process_is_read_whatever_its_name_is() {
        let stat = b"42 (a) R (b c) S 7 42 42 0 -1 4194560 100 0 0 0 300 200 50 25 20 0 1 0 9999 123456 77 184467\n";
        let unit = Units { ticks_per_second: 100, page_bytes: 4096 };
        let process = Process::parse(42, stat, unit).unwrap();
        assert_eq!(process, Process { id: 42, parent: 7, cpu_us: 5_750_000, memory_bytes: 77 * 4096 });
        for cut in 0..stat.len() - 10 {
            assert_eq!(Process::parse(42, &stat[..cut], unit), None, "cut at {cut}");
        }
    }

    #[test]
    fn a_tree_is_measured_with_all_below_it() {
        // Two that only hold memory, the second as the first's grandchild; and one that works, which is waited for.
        let hold = "import os,time; b=bytearray(64<<20); os.write(1, b'held\\n'); time.sleep(600)";
        let script = "python3 -c \"$1\" & (python3 -c \"$1\" & wait) & \
            python3 -c 'x=0\nfor i in range(3000000): x+=i'; echo worked; wait";
        let mut child = Command::new("bash").args(["-c", script, "-", hold]).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let said: Vec<String> = (0..3).map(|_| lines.next().unwrap().unwrap()).collect();
        assert_eq!(said.iter().filter(|line| *line == "held").count(), 2);
        let sample = Meter::new(None, std::process::id(), true).sample(&Processes::now());
        let mut of_child = Meter::new(None, child.id(), true);
        let began = of_child.before.unwrap().0;
        let own = of_child.sample(&Processes::now());
        let below = Processes::now().below(child.id());
        for process in &below {
            let _ = Command::new("kill").args(["-9", &process.id.to_string()]).status();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(own["processes"] as u32, 3, "the two holders and the shell between: {own:?}");
        assert!(own["memory_bytes"] >= f64::from(128 << 20) && own["memory_bytes"] < f64::from(512 << 20), "{own:?}");
        assert!(own.contains_key("read_bytes") && own.contains_key("written_bytes"));
        assert!(sample["processes"] >= 4.0 && sample["memory_bytes"] >= own["memory_bytes"]);
        assert!(began.elapsed().as_secs() < 600);
        // The worker's time is its parent's by now, and was used before anybody looked.
        assert!(sample["cpu_percent"] > 0.0, "{sample:?}");
        assert!(Meter::new(None, child.id(), true).sample(&Processes::now()).is_empty(), "nothing is left");
    }

    #[test]
    fn what_was_running_before_is_measured_from_the_second_look_on() {
        let mut child = Command::new("bash").args(["-c", "bash -c 'while :; do :; done'; :"]).spawn().unwrap();
        let busy = || Processes::now().below(child.id()).iter().any(|process| process.cpu_us > 50_000);
        let deadline = Instant::now() + std::time::Duration::from_secs(30);
        while !busy() && Instant::now() < deadline {
            std::thread::yield_now();
        }
        let mut meter = Meter::new(None, child.id(), false);
        assert!(!meter.sample(&Processes::now()).contains_key("cpu_percent"));
        let first = meter.before.unwrap().1;
        let percent = loop {
            let sample = meter.sample(&Processes::now());
            if meter.before.unwrap().1 > first + 100_000 {
                break sample["cpu_percent"];
            }
        };
        for process in Processes::now().below(child.id()) {
            let _ = Command::new("kill").args(["-9", &process.id.to_string()]).status();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(percent > 0.0, "{percent}");
    }
}
