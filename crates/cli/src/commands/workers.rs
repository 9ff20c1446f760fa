//! `fetchml workers`.

use crate::{
    failure::{Exit, Failure},
    quantity,
    session::ServerFlags,
    terminal,
};
use clap::Args;
use comfy_table::{Cell, Table};
use fetchml_api::{Gpu, GpuState, Worker};
use std::{fmt::Write as _, path::Path};

/// List the workers and what they have, or show one
#[derive(Args, Debug)]
#[command(before_long_help = "Examples:\n  fetchml workers\n  fetchml workers gpu-box-3")]
pub(crate) struct Workers {
    /// Show one worker and its GPUs: its id, or its name
    worker: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerFlags,
}

impl Workers {
    pub(super) async fn run(self, config: Option<&Path>) -> anyhow::Result<Exit> {
        let workers = self.server.session(config)?.client.workers().await?;
        if let Some(wanted) = &self.worker {
            let worker = find(&workers, wanted)?;
            if self.json {
                terminal::print_json(worker)?;
            } else {
                terminal::print(&details(worker))?;
            }
            return Ok(Exit::Success);
        }
        if self.json {
            terminal::print_json(&workers)?;
            return Ok(Exit::Success);
        }
        terminal::print_table(&table(&workers))?;
        Ok(Exit::Success)
    }
}

/// A row for each worker.
pub(super) fn table<'a>(workers: impl IntoIterator<Item = &'a Worker>) -> Table {
    let mut table = terminal::table(["ID", "NAME", "STATUS", "SLOTS", "CPU", "MEMORY", "GPU", "TASKS", "HEARD"]);
    for worker in workers {
        table.add_row(row(worker));
    }
    table
}

/// A worker by its id or its name.
pub(super) fn find<'a>(workers: &'a [Worker], wanted: &str) -> Result<&'a Worker, Failure> {
    if let Some(worker) = workers.iter().find(|worker| worker.id.to_string() == wanted) {
        return Ok(worker);
    }
    let named: Vec<_> = workers.iter().filter(|worker| worker.name == wanted).collect();
    match named[..] {
        [worker] => Ok(worker),
        [] => {
            Err(Failure::new(format!("no worker has the id or name {wanted:?}")).hint("`fetchml workers` lists them"))
        }
        _ => Err(Failure::usage(format!("{} workers are called {wanted:?}", named.len()))
            .hint("name one by its id; `fetchml workers` lists them")),
    }
}

/// The devices of a worker in a few words: how many of what, and how many of them get no tasks.
pub(super) fn gpus(gpus: &[Gpu]) -> String {
    let mut kinds: Vec<(&str, usize)> = Vec::new();
    for gpu in gpus {
        match kinds.iter_mut().find(|(name, _)| *name == gpu.name) {
            Some((_, count)) => *count += 1,
            None => kinds.push((&gpu.name, 1)),
        }
    }
    let kinds: Vec<_> = kinds.iter().map(|(name, count)| format!("{count} x {}", terminal::plain(name))).collect();
    let not_available = [GpuState::Withheld, GpuState::Unhealthy].map(|state| {
        let count = gpus.iter().filter(|gpu| gpu.state == state).count();
        (count > 0).then(|| format!("{count} {}", state.as_str()))
    });
    let not_available: Vec<_> = not_available.into_iter().flatten().collect();
    if not_available.is_empty() {
        kinds.join(", ")
    } else {
        format!("{} ({})", kinds.join(", "), not_available.join(", "))
    }
}

/// One worker in full.
fn details(worker: &Worker) -> String {
    let (has, slots) = (&worker.capabilities, &worker.slots);
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "{name:<12} {value}");
    };
    line("id", worker.id.to_string());
    line("name", terminal::plain(&worker.name));
    line("status", worker.status.as_str().to_owned());
    if let Some(reason) = &worker.unfit {
        line("unfit", terminal::plain(reason));
    }
    line("host", terminal::plain(&has.hostname));
    line("version", terminal::plain(&has.version));
    line("batch slots", format!("{} of {} free", slots.batch_available, slots.batch_total));
    line("service slots", format!("{} of {} free", slots.service_available, slots.service_total));
    line("cpu", has.cpu_cores.to_string());
    line("memory", format!("{} GiB", has.memory_gb));
    line("isolation", terminal::plain(&has.isolation));
    line("executors", terminal::plain(&has.executors.join(", ")));
    line("connected", quantity::show_time(worker.connected_at));
    line("heard", format!("{} ago", quantity::show_micros(quantity::now().since(worker.last_heartbeat))));
    for task in &worker.active_tasks {
        line("task", task.to_string());
    }
    if !has.gpus.is_empty() {
        let mut table = terminal::table(["GPU", "NAME", "MEMORY", "BUSY", "STATE", "UUID"]);
        for gpu in &has.gpus {
            table.add_row(gpu_row(gpu));
        }
        let _ = write!(text, "\n{}", terminal::table_text(&table));
        for gpu in has.gpus.iter().filter(|gpu| gpu.state != GpuState::Available) {
            let reason = gpu.reason.as_deref().map(terminal::plain).unwrap_or_default();
            let _ = write!(text, "\nGPU {} is {}: {reason}", gpu.index, gpu.state.as_str());
        }
    }
    text.trim_end().to_owned()
}

fn gpu_row(gpu: &Gpu) -> Vec<Cell> {
    let memory = match (gpu.memory_used_bytes, gpu.memory_bytes) {
        (_, 0) => "-".to_owned(),
        (Some(used), total) => format!("{} of {}", quantity::show_bytes(used), quantity::show_bytes(total)),
        (None, total) => quantity::show_bytes(total),
    };
    let busy = gpu.utilization_percent.map_or_else(|| "-".to_owned(), |percent| format!("{percent} %"));
    vec![
        terminal::number(gpu.index),
        Cell::new(terminal::plain(&gpu.name)),
        Cell::new(memory),
        Cell::new(busy),
        Cell::new(gpu.state.as_str()),
        Cell::new(terminal::plain(&gpu.uuid)),
    ]
}

fn row(worker: &Worker) -> Vec<Cell> {
    let has = &worker.capabilities;
    let slots = &worker.slots;
    let gpu = if has.gpus.is_empty() { "-".to_owned() } else { gpus(&has.gpus) };
    vec![
        Cell::new(worker.id),
        Cell::new(terminal::plain(&worker.name)),
        terminal::worker_status(worker.status),
        Cell::new(format!("{}/{} free", slots.batch_available, slots.batch_total)),
        terminal::number(has.cpu_cores),
        Cell::new(format!("{} GiB", has.memory_gb)),
        Cell::new(gpu),
        terminal::number(worker.active_tasks.len()),
        Cell::new(format!("{} ago", quantity::show_micros(quantity::now().since(worker.last_heartbeat)))),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use fetchml_api::{Capabilities, Micros, Slots, WorkerId, WorkerStatus};

    fn gpu(index: u32, name: &str, state: GpuState) -> Gpu {
        Gpu { index, uuid: format!("GPU-{index}"), name: name.into(), state, ..Gpu::default() }
    }

    fn worker(n: u32, name: &str) -> Worker {
        Worker {
            datasets: Vec::new(),
            id: format!("00000000-0000-7000-8000-{n:012}").parse::<WorkerId>().unwrap(),
            name: name.into(),
            connected_at: Micros(0),
            last_heartbeat: Micros(0),
            capabilities: Capabilities::default(),
            slots: Slots::default(),
            active_tasks: Vec::new(),
            status: WorkerStatus::Active,
            unfit: None,
        }
    }

    #[test]
    fn devices_are_counted_by_kind_and_by_what_is_wrong() {
        use GpuState::{Available, Unhealthy, Withheld};
        assert_eq!(gpus(&[gpu(0, "H100", Available)]), "1 x H100");
        let mixed = [gpu(0, "H100", Available), gpu(1, "A100", Withheld), gpu(2, "H100", Unhealthy)];
        assert_eq!(gpus(&mixed), "2 x H100, 1 x A100 (1 withheld, 1 unhealthy)");
    }

    #[test]
    fn a_worker_is_shown_with_each_of_its_devices() {
        let busy = Gpu {
            memory_bytes: 80 << 30,
            memory_used_bytes: Some(9 << 30),
            utilization_percent: Some(97),
            ..gpu(0, "H100", GpuState::Available)
        };
        let reason = Some("driver\u{1b} does not answer".to_owned());
        let broken = Gpu { reason, ..gpu(1, "H100", GpuState::Unhealthy) };
        let capabilities = Capabilities { gpus: vec![busy, broken], ..Capabilities::default() };
        let worker = Worker { capabilities, ..worker(1, "box") };
        let text = details(&worker);
        let end: Vec<&str> = text.lines().rev().map(str::trim_end).filter(|line| !line.is_empty()).take(4).collect();
        assert_eq!(end[0].replace('\u{fffd}', "?"), "GPU 1 is unhealthy: driver? does not answer");
        assert_eq!(end[1].split_whitespace().collect::<Vec<_>>(), ["1", "H100", "-", "-", "unhealthy", "GPU-1"]);
        assert_eq!(
            end[2].split_whitespace().collect::<Vec<_>>().join(" "),
            "0 H100 9.0 GiB of 80.0 GiB 97 % available GPU-0"
        );
        assert!(end[3].starts_with("GPU"), "{text}");
    }

    #[test]
    fn a_worker_is_found_by_id_or_by_a_name_that_only_it_has() {
        let workers = [worker(1, "a"), worker(2, "b"), worker(3, "b")];
        assert_eq!(find(&workers, "a").unwrap().id, workers[0].id);
        assert_eq!(find(&workers, &workers[2].id.to_string()).unwrap().id, workers[2].id);
        assert!(find(&workers, "b").unwrap_err().to_string().contains("2 workers"));
        assert!(find(&workers, "c").is_err());
    }
}
