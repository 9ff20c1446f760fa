//! The GPUs of this worker: what there is, whether tasks may be placed on each, what each does, and what
//! a task needs to use its own. A look at them is taken every [`limits::GPU_LOOK_EVERY`]; between looks
//! everything here answers from the last one and never waits for the driver.
//!
//! [`nvml`] reads NVIDIA's library on the thread of [`prober`]; [`look`] says what follows from what was
//! seen; [`process`] whose the processes are; [`indexes`] which number a device has; [`nodes`] which device
//! nodes; [`tenants`] which attempt has which.

mod indexes;
mod look;
mod nodes;
mod nvml;
mod prober;
mod process;
mod tenants;

use crate::{executor::AttemptDir, limits};
use fetchml_api::{AttemptId, Gpu, GpuUsage, limits::WORKER_GPUS_MAX};
use indexes::Indexes;
use look::{Fault, Figures, Look, Seen, judge};
use nodes::Nodes;
use prober::Prober;
use process::{Owner, Process};
use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};
use tenants::Tenants;
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

/// Where the devices come from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Source {
    /// NVIDIA's library.
    Nvml {
        /// The library, instead of the system's.
        library: Option<PathBuf>,
        /// How often and how long it is waited for.
        timing: Timing,
    },
    /// So many that are not there, to try out scheduling: they take the same way as real ones.
    Simulated {
        /// Number of devices.
        count: u32,
        /// What they are called, after `simulated`.
        kind: Option<String>,
    },
}

/// How often devices are looked at, and how long they are waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timing {
    /// Time between two looks.
    pub look_every: Duration,
    /// Longest wait for the driver's answers to one look; three times as long for the first.
    pub answer_within: Duration,
    /// Longest wait until what ended is gone from its devices.
    pub release_within: Duration,
}

impl Default for Source {
    fn default() -> Self {
        Self::Nvml { library: None, timing: Timing::default() }
    }
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            look_every: limits::GPU_LOOK_EVERY,
            answer_within: limits::GPU_ANSWER,
            release_within: limits::GPU_RELEASE_MAX,
        }
    }
}

/// What a device did at the last look. Each figure is absent where the device does not say: MIG devices
/// have no utilisation, power and temperature of their own.
#[derive(Clone, PartialEq, Debug)]
pub struct GpuSample {
    /// Index on this worker.
    pub index: u32,
    /// Share of time in which it computed, percent.
    pub utilization_percent: Option<u32>,
    /// Memory in use by all processes and the driver, bytes.
    pub memory_used_bytes: Option<u64>,
    /// All its memory, bytes.
    pub memory_total_bytes: Option<u64>,
    /// Power draw, watts.
    pub power_watts: Option<f64>,
    /// Temperature of the chip, degrees Celsius.
    pub temperature_celsius: Option<u32>,
    /// How long ago the look was.
    pub age: Duration,
}

/// What others are told: the devices, and what they do.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Told {
    /// All devices, without figures.
    pub(crate) gpus: Arc<Vec<Gpu>>,
    /// As of the last regular look.
    pub(crate) usage: Vec<GpuUsage>,
    /// Number of regular looks.
    pub(crate) looks: u64,
}

/// What an attempt gets to use its devices.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Grant {
    /// Its devices, in the order in which they were assigned.
    pub(crate) gpus: Vec<Gpu>,
    /// The nodes that its sandbox shows.
    pub(crate) nodes: Vec<PathBuf>,
}

/// A handle on the devices; cheap to clone.
#[derive(Clone, Debug)]
pub struct Gpus(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Absent: the devices are simulated.
    prober: Option<Prober>,
    timing: Timing,
    nodes: Nodes,
    /// One look at a time.
    looking: tokio::sync::Mutex<()>,
    state: Mutex<State>,
    told: watch::Sender<Told>,
}

#[derive(Debug)]
struct State {
    indexes: Indexes,
    seen: Vec<(u32, Seen)>,
    looked: Instant,
    tenants: Tenants,
}

impl Gpus {
    /// Looks for the first time and goes on looking until all handles are dropped. `data_dir` is the worker's;
    /// `held` are attempts that an earlier agent left, with their devices.
    pub async fn start(source: Source, data_dir: &Path, held: &[(AttemptId, Vec<u32>)]) -> Self {
        let (prober, timing) = match &source {
            Source::Nvml { library, timing } => (start_prober(library.clone()), *timing),
            Source::Simulated { .. } => (None, Timing::default()),
        };
        let indexes = held.iter().flat_map(|(_, indexes)| indexes).copied().collect();
        let state = State {
            indexes: Indexes::load(data_dir.join("gpus.json"), indexes),
            seen: Vec::new(),
            looked: Instant::now(),
            tenants: Tenants::default(),
        };
        let inner = Inner {
            prober,
            timing,
            nodes: Nodes::system(),
            looking: tokio::sync::Mutex::new(()),
            state: Mutex::new(state),
            told: watch::Sender::default(),
        };
        let gpus = Self(Arc::new(inner));
        for (attempt, indexes) in held {
            gpus.occupy(*attempt, AttemptDir::new(data_dir, *attempt).root(), indexes);
        }
        if let Source::Simulated { count, kind } = source {
            gpus.0.state().seen = (0..).zip(simulated(count, kind.as_deref())).collect();
            gpus.0.publish(false);
        } else {
            // A driver that nobody used yet wakes its GPUs one after the other.
            gpus.0.look(timing.answer_within * 3, true).await;
            tokio::spawn(watch_over(Arc::downgrade(&gpus.0), timing.look_every));
        }
        gpus
    }

    /// All devices, without figures.
    pub fn devices(&self) -> Arc<Vec<Gpu>> {
        Arc::clone(&self.0.told.borrow().gpus)
    }

    /// What these devices did at the last look, at most 10 seconds ago. Answers at once. Devices that are not
    /// there or did not say anything are left out, as are simulated ones.
    pub fn sample(&self, indexes: &[u32]) -> Vec<GpuSample> {
        let state = self.0.state();
        let age = state.looked.elapsed();
        let sample = |index: &u32| {
            let (_, seen) = state.seen.iter().find(|(found, _)| found == index)?;
            let Figures { utilization_percent, memory_used_bytes, power_mw, temperature_celsius } = seen.figures?;
            Some(GpuSample {
                index: *index,
                utilization_percent,
                memory_used_bytes,
                memory_total_bytes: (seen.memory_bytes > 0).then_some(seen.memory_bytes),
                power_watts: power_mw.map(|milliwatts| f64::from(milliwatts) / 1_000.0),
                temperature_celsius,
                age,
            })
        };
        indexes.iter().filter_map(sample).collect()
    }

    /// The devices whenever they change, and what they do after each regular look.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Told> {
        self.0.told.subscribe()
    }

    /// These devices are an attempt's from now on; `dir` is the attempt's.
    pub(crate) fn occupy(&self, attempt: AttemptId, dir: &Path, indexes: &[u32]) {
        if !indexes.is_empty() {
            self.0.state().tenants.add(attempt, dir, indexes);
            self.0.publish(false);
        }
    }

    /// What an attempt needs to use its devices.
    ///
    /// # Errors
    /// One of them is not there or has a fault: one sentence.
    pub(crate) fn grant(&self, indexes: &[u32]) -> Result<Grant, String> {
        let told = self.devices();
        let mut gpus = Vec::with_capacity(indexes.len());
        for index in indexes {
            match told.iter().find(|gpu| gpu.index == *index) {
                Some(gpu) => gpus.push(gpu.clone()),
                None => return Err(format!("GPU {index} of this worker is not there any more")),
            }
        }
        if let Some(fault) = self.fault(indexes) {
            return Err(fault);
        }
        let state = self.0.state();
        let seen = indexes.iter().filter_map(|index| state.seen.iter().find(|(found, _)| found == index));
        Ok(Grant { gpus, nodes: self.0.nodes.of(seen.map(|(_, seen)| seen)) })
    }

    /// The fault of the first of these devices that has one, in one sentence.
    pub(crate) fn fault(&self, indexes: &[u32]) -> Option<String> {
        let told = self.devices();
        let unhealthy = |gpu: &&Gpu| indexes.contains(&gpu.index) && gpu.state == fetchml_api::GpuState::Unhealthy;
        let gpu = told.iter().find(unhealthy)?;
        let reason = gpu.reason.as_deref().unwrap_or("it has a fault");
        Some(format!("GPU {} ({}) is unhealthy: {reason}", gpu.index, gpu.name))
    }

    /// Waits until the driver has freed what the processes of an ended attempt had on its devices, or for
    /// [`Timing::release_within`]. What is left then withholds the device once the attempt does not have it
    /// any more.
    pub(crate) async fn released(&self, attempt: AttemptId) {
        if self.0.prober.is_none() || !self.0.state().tenants.has(attempt) {
            return;
        }
        let until = Instant::now() + self.0.timing.release_within;
        while self.0.look(self.0.timing.answer_within, false).await && self.0.state().lingers(attempt) {
            if Instant::now() >= until {
                tracing::warn!(%attempt, "processes of an ended attempt are still on its GPUs");
                return;
            }
            sleep(limits::GPU_RELEASE_RETRY).await;
        }
    }

    /// An attempt does not have its devices any more.
    pub(crate) fn vacate(&self, attempt: AttemptId) {
        if self.0.state().tenants.remove(attempt) {
            self.0.publish(false);
        }
    }
}

/// Without a thread there are no GPUs.
fn start_prober(library: Option<PathBuf>) -> Option<Prober> {
    match Prober::start(library) {
        Ok(prober) => Some(prober),
        Err(error) => {
            tracing::error!(%error, "GPUs are not looked at");
            None
        }
    }
}

async fn watch_over(inner: Weak<Inner>, every: Duration) {
    loop {
        sleep(every).await;
        let Some(inner) = inner.upgrade() else { return };
        inner.look(inner.timing.answer_within, true).await;
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        // No section leaves the state half-changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the driver answered.
    async fn look(&self, deadline: Duration, regular: bool) -> bool {
        let Some(prober) = &self.prober else { return false };
        let _one = self.looking.lock().await;
        let attempts = self.state().tenants.all();
        let known: Vec<AttemptId> = attempts.iter().map(|(attempt, _)| *attempt).collect();
        let look = prober.look(attempts, deadline).await;
        let answered = look.is_some();
        {
            let mut state = self.state();
            state.take(look);
            state.tenants.know(&known);
        }
        self.publish(regular);
        answered
    }

    /// Tells what changed, and tenants what became of their devices.
    fn publish(&self, regular: bool) {
        let mut state = self.state();
        let gpus = state.gpus();
        let usage = regular.then(|| state.usage());
        let before = Arc::clone(&self.told.borrow().gpus);
        state.tenants.note(&before, &gpus);
        self.told.send_if_modified(|told| {
            let changed = *told.gpus != gpus;
            if changed {
                told.gpus = Arc::new(gpus);
            }
            if let Some(usage) = usage {
                told.usage = usage;
                told.looks += 1;
            }
            changed || regular
        });
    }
}

impl State {
    /// Takes over what was seen; nothing: the driver did not answer.
    fn take(&mut self, look: Option<Look>) {
        let Some(Look { devices: mut seen, split }) = look else {
            for (_, seen) in &mut self.seen {
                (seen.fault, seen.figures, seen.processes) = (Some(Fault::NoAnswer), None, None);
            }
            return;
        };
        self.looked = Instant::now();
        let is_there = |uuid: &String| split.contains(uuid) || seen.iter().any(|seen| seen.uuid == *uuid);
        // A MIG device goes when its GPU is split in another way; a GPU does not go by itself.
        let gone = self.seen.iter().filter(|(_, old)| old.part.is_none() && !is_there(&old.uuid));
        let gone: Vec<Seen> = gone
            .map(|(_, old)| Seen { fault: Some(Fault::Gone), figures: None, processes: None, ..old.clone() })
            .collect();
        seen.extend(gone);
        if seen.len() > WORKER_GPUS_MAX {
            tracing::warn!(count = seen.len(), "only {WORKER_GPUS_MAX} GPUs are offered");
            seen.truncate(WORKER_GPUS_MAX);
        }
        let wanted: Vec<_> = seen.iter().map(|s| (s.uuid.as_str(), s.part.is_none().then_some(s.nvml_index))).collect();
        let indexes = self.indexes.give(&wanted);
        self.seen = indexes.into_iter().zip(seen).collect();
        self.seen.sort_by_key(|(index, _)| *index);
    }

    /// The devices as they are told.
    fn gpus(&self) -> Vec<Gpu> {
        let gpu = |(index, seen): &(u32, Seen)| {
            let strangers: Vec<&Process> =
                seen.processes.iter().flatten().filter(|process| self.tenants.is_strange(*index, process)).collect();
            let (state, reason) = judge(seen, &strangers);
            Gpu {
                index: *index,
                uuid: seen.uuid.clone(),
                name: seen.name.clone(),
                memory_bytes: seen.memory_bytes,
                parent_uuid: seen.part.as_ref().map(|part| part.parent_uuid.clone()),
                mig_profile: seen.part.as_ref().and_then(|part| part.profile.clone()),
                state,
                reason,
                utilization_percent: None,
                memory_used_bytes: None,
            }
        };
        self.seen.iter().map(gpu).collect()
    }

    /// Whether something of an attempt that ended is still on one of its devices.
    fn lingers(&self, attempt: AttemptId) -> bool {
        let its = self.seen.iter().filter(|(index, _)| self.tenants.is_of(attempt, *index));
        its.flat_map(|(_, seen)| seen.processes.iter().flatten())
            .any(|process| process.owner == Owner::Attempt(attempt) || process.owner == Owner::Unknown)
    }

    fn usage(&self) -> Vec<GpuUsage> {
        let usage = |(index, seen): &(u32, Seen)| {
            let figures = seen.figures?;
            Some(GpuUsage {
                index: *index,
                utilization_percent: figures.utilization_percent,
                memory_used_bytes: figures.memory_used_bytes,
            })
        };
        self.seen.iter().filter_map(usage).collect()
    }
}

/// Devices that are not there.
fn simulated(count: u32, kind: Option<&str>) -> Vec<Seen> {
    let name = kind.map_or_else(|| "simulated".to_owned(), |kind| format!("simulated {kind}"));
    let device = |index| Seen {
        nvml_index: index,
        uuid: format!("simulated-{index}"),
        name: name.clone(),
        memory_bytes: 0,
        minor: None,
        part: None,
        figures: None,
        processes: None,
        fault: None,
    };
    (0..count).map(device).collect()
}
