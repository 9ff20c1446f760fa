//! How long a turn takes with many tasks waiting: 64 ends, 64 submits and what is placed for them.
//! And how much memory a waiting task takes, and how long a restore does.
//!
//! `cargo bench -p fetchml-scheduler` measures all sizes; an argument picks those whose name holds it.
//! A turn here is all of the core's part: stepping its events and collecting their effects. The
//! commit of these effects is not in it.
//!
//! Times are wall time: on a busy machine only the median says something. Bytes are what the process has
//! grown by, so they are right for the first size of a run only.

#![expect(clippy::disallowed_types, clippy::disallowed_methods, reason = "measuring takes a clock")]
#![expect(clippy::disallowed_macros, reason = "a bench says what it found")]
#![expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "figures for people")]

use fetchml_api::{
    Capabilities, Demand, Gpu, Micros, Role, SlotKind, TaskId, TaskState, WorkerId,
    link::{Outcome, Report},
};
use fetchml_scheduler::{Effect, Event, Lease, Message, NewTask, Rows, Scheduler, Settings};
use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};
use uuid::Uuid;

/// Turns measured for each size.
const TURNS: usize = 400;
/// Ends and submits of one turn.
const PER_TURN: usize = 64;

struct Size {
    name: &'static str,
    queued: u32,
    workers: u32,
    shapes: u32,
    users: u32,
}

const SIZES: [Size; 6] = [
    Size { name: "1k queued", queued: 1_000, workers: 100, shapes: 50, users: 50 },
    Size { name: "10k queued", queued: 10_000, workers: 1_000, shapes: 50, users: 50 },
    Size { name: "100k queued", queued: 100_000, workers: 1_000, shapes: 50, users: 50 },
    Size { name: "100k queued, 10k shapes", queued: 100_000, workers: 1_000, shapes: 10_000, users: 200 },
    Size { name: "1M queued", queued: 1_000_000, workers: 10_000, shapes: 50, users: 50 },
    Size { name: "1M queued, 10k shapes", queued: 1_000_000, workers: 10_000, shapes: 10_000, users: 200 },
];

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    println!(
        "{:<26} {:>10} {:>10} {:>10} {:>8} {:>10} {:>10}",
        "", "median", "p99", "max", "placed", "B/task", "restore"
    );
    for size in SIZES.iter().filter(|size| wanted.is_empty() || wanted.iter().any(|name| size.name.contains(name))) {
        measure(size);
    }
}

fn measure(size: &Size) {
    let before = resident_bytes();
    let mut bench = Bench::filled(size);
    let bytes = resident_bytes().saturating_sub(before) / u64::from(size.queued);
    bench.settle();
    let (mut times, mut placed) = (Vec::with_capacity(TURNS), 0);
    for _ in 0..TURNS {
        let (time, count) = bench.turn();
        times.push(time);
        placed += count;
    }
    times.sort_unstable();
    let restore = bench.restore();
    println!(
        "{:<26} {:>10} {:>10} {:>10} {:>8.1} {:>10} {:>10}",
        size.name,
        milliseconds(times[TURNS / 2]),
        milliseconds(times[TURNS * 99 / 100]),
        milliseconds(times[TURNS - 1]),
        placed as f64 / TURNS as f64,
        bytes,
        milliseconds(restore),
    );
}

fn milliseconds(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1_000.0)
}

/// Memory of this process in RAM, bytes; 0 where the system does not say.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4_096
}

struct Bench<'a> {
    size: &'a Size,
    core: Scheduler,
    now: Micros,
    submitted: u32,
    /// What runs, oldest first: its next report names all of this.
    running: VecDeque<(WorkerId, Message)>,
}

impl<'a> Bench<'a> {
    /// Workers of 8 slots, 64 cores and 8 GPUs, and a full queue.
    fn filled(size: &'a Size) -> Self {
        let now = Micros(1_764_000_000_000_000);
        let core = Scheduler::new(Settings { prefetch_per_slot: 0, ..Settings::default() });
        let mut bench = Self { size, core, now, submitted: 0, running: VecDeque::new() };
        let gpus = (0..8).map(|index| Gpu { index, name: "H100".into(), memory_bytes: 1 << 36, ..Gpu::default() });
        let capabilities = Capabilities {
            gpu_count: 8,
            cpu_cores: 64,
            memory_gb: 512,
            gpus: gpus.collect(),
            ..Capabilities::default()
        };
        for n in 0..size.workers {
            bench.step(Event::WorkerJoined {
                worker: worker(n),
                name: format!("box{n}"),
                capabilities: capabilities.clone(),
                batch_slots: 8,
                service_slots: 0,
                inventory: Vec::new(),
                unfit: None,
            });
        }
        for _ in 0..size.queued {
            bench.submit();
        }
        bench
    }

    fn step(&mut self, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.core.step(self.now, event, &mut effects);
        effects
    }

    fn submit(&mut self) {
        let event = self.next_task();
        self.step(Event::TaskSubmitted(event));
    }

    /// Shapes differ in memory, and every fifth wants GPUs; users and shapes mix.
    fn next_task(&mut self) -> NewTask {
        self.submitted += 1;
        self.task(self.submitted - 1)
    }

    /// The task with a number.
    fn task(&self, n: u32) -> NewTask {
        let shape = n.wrapping_mul(2_654_435_761) % self.size.shapes;
        let gpu = if shape.is_multiple_of(5) { 1 + shape % 4 } else { 0 };
        NewTask {
            id: TaskId(Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0000 + u128::from(n))),
            user_id: format!("user{}", n.wrapping_mul(40_503) / 7 % self.size.users),
            demand: Demand {
                slot: SlotKind::Batch,
                cpu: 1 + shape % 8,
                memory_gb: shape / 40,
                gpu,
                gpu_type: None,
                nodes: 1,
                image: false,
                reservation: None,
            },
            priority: 3 + (n % 5) as u8,
            role: Role::Admin,
            max_retries: 0,
            time_limit_s: n.is_multiple_of(2).then_some(3_600),
            depends_on: [].into(),
            broken_by: None,
            array: None,
            lease: Lease::AsSet,
        }
    }

    /// Places what fits at first.
    fn settle(&mut self) {
        let effects = self.step(Event::TurnEnded);
        self.take(effects);
    }

    fn take(&mut self, effects: Vec<Effect>) -> usize {
        let before = self.running.len();
        for effect in effects {
            if let Effect::Send { worker, message: message @ Message::Assign { .. } } = effect {
                self.running.push_back((worker, message));
            }
        }
        self.running.len() - before
    }

    /// One turn, and what it placed.
    fn turn(&mut self) -> (Duration, usize) {
        self.now = self.now.plus_seconds(1);
        let mut events: Vec<Event> = Vec::with_capacity(3 * PER_TURN);
        for _ in 0..PER_TURN {
            let Some((worker, Message::Assign { attempt, task, epoch, .. })) = self.running.pop_front() else { break };
            let report = |report| Event::AttemptReported { worker, attempt, task, epoch, report };
            events.push(report(Report::Running));
            events.push(report(Report::Ended(Outcome { exit_code: Some(0), ..Outcome::default() })));
        }
        events.extend((0..PER_TURN).map(|_| Event::TaskSubmitted(self.next_task())));
        // Beats keep the workers in the game; they are not what is measured.
        for n in 0..self.size.workers {
            self.core.step(self.now, Event::WorkerHeard { worker: worker(n) }, &mut Vec::new());
        }
        let started = Instant::now();
        let mut effects = Vec::new();
        for event in events {
            self.core.step(self.now, event, &mut effects);
        }
        self.core.step(self.now, Event::TurnEnded, &mut effects);
        let time = started.elapsed();
        (time, self.take(effects))
    }

    fn restore(&self) -> Duration {
        let state = self.core.durable_state();
        let task = |(id, state): (TaskId, TaskState)| (self.task(id.0.as_u128() as u32), state);
        let rows = Rows {
            tasks: state.tasks.into_iter().map(|(id, task)| (id, task.state)).map(task).collect(),
            attempts: state.attempts.into_values().collect(),
            workers: state.workers.into_values().collect(),
            shares: state.shares.into_values().collect(),
            quotas: Vec::new(),
            reservations: Vec::new(),
            ended: BTreeMap::new(),
            checkpoints: BTreeMap::new(),
        };
        let started = Instant::now();
        let core = Scheduler::restore(Settings { incarnation: 2, ..Settings::default() }, self.now, rows);
        let time = started.elapsed();
        drop(core);
        time
    }
}

fn worker(n: u32) -> WorkerId {
    WorkerId(Uuid::from_u128(0x0180_0000_0000_7000_8000_0000_0000_0000 + u128::from(n)))
}
