//! What one look at the devices gives, and what follows from it for each device. Pure.

use super::process::Process;
use fetchml_api::{GpuState, limits::GPU_REASON_CHARS};
use std::fmt;

/// All that was seen.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Look {
    /// In NVML's order.
    pub(super) devices: Vec<Seen>,
    /// UUIDs of GPUs that are split: what they consist of is among the devices, they are not.
    pub(super) split: Vec<String>,
}

/// A device as it was seen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Seen {
    /// NVML's index of the GPU, which changes when GPUs come and go.
    pub(super) nvml_index: u32,
    pub(super) uuid: String,
    pub(super) name: String,
    /// 0: not known.
    pub(super) memory_bytes: u64,
    /// The N of `/dev/nvidiaN`; of a MIG device: of its GPU.
    pub(super) minor: Option<u32>,
    /// Which part of its GPU it is, if it is a MIG device.
    pub(super) part: Option<Part>,
    /// What it does; absent where it did not say.
    pub(super) figures: Option<Figures>,
    /// Processes that compute on it; absent where it did not say.
    pub(super) processes: Option<Vec<Process>>,
    pub(super) fault: Option<Fault>,
}

/// A MIG device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Part {
    pub(super) parent_uuid: String,
    pub(super) profile: Option<String>,
    pub(super) gpu_instance: u32,
    pub(super) compute_instance: u32,
}

/// What a device does. Each is absent where the device does not say.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Figures {
    pub(super) utilization_percent: Option<u32>,
    pub(super) memory_used_bytes: Option<u64>,
    pub(super) power_mw: Option<u32>,
    pub(super) temperature_celsius: Option<u32>,
}

/// Why a device must not be used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Fault {
    /// It fell off the bus.
    Lost,
    /// It works again only after a reset.
    NeedsReset,
    /// It was there, and is not listed any more.
    Gone,
    /// Not even its name can be had; the driver's words.
    Silent(String),
    /// Memory errors that could not be corrected, since the driver was loaded.
    Ecc(u64),
    /// The driver reported this error of the GPU.
    Xid(u64),
    /// The driver does not answer at all.
    NoAnswer,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost => f.write_str("it fell off the bus; restart the machine, and have the card looked at"),
            Self::NeedsReset => f.write_str("it needs a reset: nvidia-smi --gpu-reset, or restart the machine"),
            Self::Gone => f.write_str("it is not there any more; restart the worker when that is meant"),
            Self::Silent(words) => write!(f, "it does not answer: {words}"),
            Self::Ecc(1) => f.write_str("1 memory error could not be corrected; reset the GPU"),
            Self::Ecc(count) => write!(f, "{count} memory errors could not be corrected; reset the GPU"),
            Self::Xid(xid) => write!(f, "the driver reported XID {xid}; reset the GPU and restart the worker"),
            Self::NoAnswer => f.write_str("driver does not answer"),
        }
    }
}

/// The state of a device that these processes use and should not, and why it is not available.
pub(super) fn judge(seen: &Seen, strangers: &[&Process]) -> (GpuState, Option<String>) {
    let (state, reason) = match (&seen.fault, strangers) {
        (Some(fault), _) => (GpuState::Unhealthy, fault.to_string()),
        (None, [first, more @ ..]) => {
            let others = match more.len() {
                0 => String::new(),
                n => format!(" and {n} more"),
            };
            (GpuState::Withheld, format!("it is used by {first}{others}, to which it was not given"))
        }
        (None, []) => return (GpuState::Available, None),
    };
    let printable = reason.chars().map(|c| if c.is_control() { ' ' } else { c });
    (state, Some(printable.take(GPU_REASON_CHARS).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::process::Owner;

    fn seen() -> Seen {
        Seen {
            nvml_index: 0,
            uuid: "GPU-1".into(),
            name: "H100".into(),
            memory_bytes: 1,
            minor: Some(0),
            part: None,
            figures: None,
            processes: None,
            fault: None,
        }
    }

    #[test]
    fn a_fault_counts_more_than_a_stranger() {
        let process = |pid, name: Option<&str>| Process { pid, name: name.map(Into::into), owner: Owner::Stranger };
        let strangers = [&process(7, Some("python3")), &process(8, None)];
        assert_eq!(judge(&seen(), &[]), (GpuState::Available, None));
        let (state, reason) = judge(&seen(), &strangers);
        assert_eq!(state, GpuState::Withheld);
        assert_eq!(reason.unwrap(), "it is used by process 7 (python3) and 1 more, to which it was not given");
        let (state, reason) = judge(&Seen { fault: Some(Fault::Ecc(2)), ..seen() }, &strangers);
        assert_eq!(state, GpuState::Unhealthy);
        assert_eq!(reason.unwrap(), "2 memory errors could not be corrected; reset the GPU");
    }

    #[test]
    fn what_a_driver_says_is_shown_as_one_short_line() {
        let words = format!("a\nb\u{1b}[31m{}", "x".repeat(1_000));
        let (_, reason) = judge(&Seen { fault: Some(Fault::Silent(words)), ..seen() }, &[]);
        let reason = reason.unwrap();
        assert!(!reason.contains(char::is_control) && reason.chars().count() == GPU_REASON_CHARS, "{reason}");
    }
}
