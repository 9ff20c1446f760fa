//! What NVIDIA's library says of the GPUs. Blocks, and may hang for good in a driver: only
//! [`super::prober`] calls it, on a thread that nobody waits for without a deadline.

use super::{
    look::{Fault, Figures, Look, Part, Seen},
    process::Process,
};
use crate::limits;
use fetchml_fork::mig_instance;
use nvml_wrapper::{
    Device, Nvml,
    bitmasks::event::EventTypes,
    enum_wrappers::device::{EccCounter, MemoryError, TemperatureSensor},
    enums::event::XidError,
    error::NvmlError,
    event::EventSet,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

/// XIDs that the program on the GPU causes by its own mistakes; the GPU is well.
const XIDS_OF_PROGRAMS: [u64; 6] = [13, 31, 43, 45, 68, 109];
/// What NVML says of an XID whose number it does not know.
const XID_UNKNOWN: u64 = 999;
/// Stands between the GPU's name and the profile in the name of a MIG device.
const MIG_MARK: &str = " MIG ";

/// Opens the library.
///
/// # Errors
/// It is not there, or finds no driver.
pub(super) fn open(library: Option<&Path>) -> Result<Nvml, NvmlError> {
    match library {
        Some(library) => Nvml::builder().lib_path(library.as_os_str()).init(),
        None => Nvml::init(),
    }
}

/// The GPUs of an open library.
pub(super) struct Session<'a> {
    nvml: &'a Nvml,
    /// What each GPU consisted of when it last answered, by NVML's index.
    known: BTreeMap<u32, Vec<Seen>>,
    /// Where the library tells of XIDs, by NVML's index. One for each GPU: a set is lost when one cannot be added.
    events: BTreeMap<u32, Option<EventSet<'a>>>,
    /// The last XID of each GPU that is a fault of the GPU, until the worker is started again.
    xids: BTreeMap<u32, u64>,
    left_out: BTreeSet<u32>,
    split: Vec<String>,
}

impl<'a> Session<'a> {
    pub(super) fn new(nvml: &'a Nvml) -> Self {
        let (known, events, xids, left_out, split) = Default::default();
        Self { nvml, known, events, xids, left_out, split }
    }

    /// Everything there is. `None`: the driver is gone, and the library must be opened anew.
    pub(super) fn look(&mut self, process: &dyn Fn(u32) -> Process) -> Option<Look> {
        let count = match self.nvml.device_count() {
            Ok(count) => count,
            Err(NvmlError::Uninitialized) => return None,
            // Each that is known will say what is wrong.
            Err(error) => {
                tracing::warn!(%error, "the GPUs cannot be counted");
                self.known.keys().next_back().map_or(0, |last| last + 1)
            }
        };
        self.split.clear();
        let devices = (0..count).flat_map(|index| self.look_at(index, process)).collect();
        Some(Look { devices, split: self.split.clone() })
    }

    fn look_at(&mut self, index: u32, process: &dyn Fn(u32) -> Process) -> Vec<Seen> {
        let error = match self.nvml.device_by_index(index).and_then(|device| self.read(index, &device, process)) {
            Ok(seen) => {
                self.known.insert(index, seen.clone());
                self.left_out.remove(&index);
                return seen;
            }
            Err(error) => error,
        };
        if let Some(known) = self.known.get(&index) {
            let fault = Some(fault_of(&error));
            let faulty = |seen: &Seen| Seen { fault: fault.clone(), figures: None, processes: None, ..seen.clone() };
            return known.iter().map(faulty).collect();
        }
        // One broken device must not hide the others.
        if self.left_out.insert(index) {
            tracing::warn!(%error, index, "a GPU does not answer and is left out");
        }
        Vec::new()
    }

    /// A GPU, or its MIG devices where it is split.
    fn read(
        &mut self,
        index: u32,
        device: &Device<'a>,
        process: &dyn Fn(u32) -> Process,
    ) -> Result<Vec<Seen>, NvmlError> {
        let whole = Seen {
            nvml_index: index,
            uuid: device.uuid()?,
            name: device.name()?,
            memory_bytes: 0,
            minor: optional(device.minor_number())?,
            part: None,
            figures: None,
            processes: None,
            fault: self.fault(index, device)?,
        };
        if optional(device.mig_mode())?.is_some_and(|mode| mode.current == 1) {
            self.split.push(whole.uuid.clone());
            return parts(&whole, device, process);
        }
        Ok(vec![with_figures(whole, device, process)?])
    }

    /// A fault of a GPU that answers.
    fn fault(&mut self, index: u32, device: &Device<'a>) -> Result<Option<Fault>, NvmlError> {
        self.read_events(index, device);
        if let Some(xid) = self.xids.get(&index) {
            return Ok(Some(Fault::Xid(*xid)));
        }
        let errors = optional(device.total_ecc_errors(MemoryError::Uncorrected, EccCounter::Volatile))?;
        Ok(errors.filter(|count| *count > 0).map(Fault::Ecc))
    }

    fn read_events(&mut self, index: u32, device: &Device<'a>) {
        let nvml = self.nvml;
        let registered = self.events.entry(index).or_insert_with(|| {
            let set = nvml.create_event_set().ok()?;
            match device.register_events(EventTypes::CRITICAL_XID_ERROR, set) {
                Ok(set) => Some(set),
                Err(error) => {
                    tracing::debug!(%error, index, "this GPU does not tell of XID errors");
                    None
                }
            }
        });
        let Some(set) = registered else { return };
        for _ in 0..limits::GPU_EVENTS_MAX {
            // An error is the time that is over, or something that the other calls say as well.
            let Ok(event) = set.wait(0) else { break };
            let xid = match event.event_data {
                Some(XidError::Value(xid)) => xid,
                Some(XidError::Unknown) => XID_UNKNOWN,
                None => continue,
            };
            if XIDS_OF_PROGRAMS.contains(&xid) {
                tracing::info!(index, xid, "an XID that a program caused by itself");
            } else {
                tracing::error!(index, xid, "an XID error");
                self.xids.insert(index, xid);
            }
        }
    }
}

/// The MIG devices of a GPU. One that cannot be read whole is left out: it may be about to be removed.
fn parts(whole: &Seen, device: &Device<'_>, process: &dyn Fn(u32) -> Process) -> Result<Vec<Seen>, NvmlError> {
    let most = optional(device.mig_device_count())?.unwrap_or(0);
    let mut seen = Vec::new();
    for index in 0..most {
        let Some(part) = optional(device.mig_device_by_index(index))? else { continue };
        let read = || {
            let name = part.name()?;
            let profile = name.rsplit_once(MIG_MARK).map(|(_, profile)| profile.to_owned());
            let (gpu_instance, compute_instance) = mig_instance(&part)?;
            let mig = Part { parent_uuid: whole.uuid.clone(), profile, gpu_instance, compute_instance };
            with_figures(Seen { uuid: part.uuid()?, name, part: Some(mig), ..whole.clone() }, &part, process)
        };
        match read() {
            Ok(part) => seen.push(part),
            Err(error @ (NvmlError::GpuLost | NvmlError::ResetRequired)) => return Err(error),
            Err(error) => tracing::warn!(%error, gpu = whole.nvml_index, index, "a MIG device cannot be read"),
        }
    }
    Ok(seen)
}

fn with_figures(seen: Seen, device: &Device<'_>, process: &dyn Fn(u32) -> Process) -> Result<Seen, NvmlError> {
    let memory = optional(device.memory_info())?;
    let utilization = optional(device.utilization_rates())?;
    let processes = optional(device.running_compute_processes())?;
    let figures = Figures {
        utilization_percent: utilization.map(|rates| rates.gpu.min(100)),
        memory_used_bytes: memory.as_ref().map(|memory| memory.used),
        power_mw: optional(device.power_usage())?,
        temperature_celsius: optional(device.temperature(TemperatureSensor::Gpu))?,
    };
    Ok(Seen {
        memory_bytes: memory.map_or(0, |memory| memory.total),
        figures: Some(figures),
        processes: processes.map(|processes| processes.into_iter().map(|found| process(found.pid)).collect()),
        ..seen
    })
}

/// What need not be there: not every GPU and not every driver has everything. That the GPU is gone is an
/// error in any case.
fn optional<T>(answer: Result<T, NvmlError>) -> Result<Option<T>, NvmlError> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(error @ (NvmlError::GpuLost | NvmlError::ResetRequired)) => Err(error),
        Err(_) => Ok(None),
    }
}

fn fault_of(error: &NvmlError) -> Fault {
    match error {
        NvmlError::GpuLost => Fault::Lost,
        NvmlError::ResetRequired => Fault::NeedsReset,
        error => Fault::Silent(error.to_string()),
    }
}
