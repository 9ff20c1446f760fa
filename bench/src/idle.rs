//! Memory of an idle `fetchml up`: server, worker and the worker's helper processes.

use crate::{
    Setup, processes,
    report::{Report, Target},
    server::Server,
};
use anyhow::Result;
use std::{thread, time::Duration};

const SETTLE: Duration = Duration::from_secs(5);
const TARGET_MIB: f64 = 60.0;

pub(crate) fn measure(setup: &Setup, report: &mut Report) -> Result<()> {
    let server = Server::start(setup, "up", "idle")?;
    let cpu_before = processes::cpu_of(server.pid())?;
    // The figure is defined as memory after this time; there is no event to wait for.
    thread::sleep(SETTLE);
    let cpu = processes::cpu_of(server.pid())? - cpu_before;
    let memory = processes::memory(server.pid())?;
    server.stop()?;
    report.add("idle memory, resident", memory.resident_mib, "MiB", Target::Below(TARGET_MIB));
    report.add("idle memory, proportional", memory.proportional_mib, "MiB", Target::None);
    report.add("idle processes", memory.processes as f64, "", Target::None);
    report.add("idle CPU", cpu / SETTLE.as_secs_f64() * 100.0, "% of a core", Target::None);
    Ok(())
}
