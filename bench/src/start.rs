//! Time from the start of the process with an empty database to its first answered request.

use crate::{
    Setup,
    probe::quantile,
    report::{Report, Target},
    server::Server,
};
use anyhow::Result;

const STARTS: usize = 7;
const TARGET_MS: f64 = 300.0;

pub(crate) fn measure(setup: &Setup, report: &mut Report) -> Result<()> {
    let mut times = Vec::new();
    for n in 0..STARTS {
        let server = Server::start(setup, "up", &format!("start-{n}"))?;
        times.push(server.first_answer.as_secs_f64() * 1e3);
        server.stop()?;
    }
    report.add("start to first answer, median", quantile(&mut times, 0.5), "ms", Target::Below(TARGET_MS));
    report.add("start to first answer, slowest of 7", quantile(&mut times, 1.0), "ms", Target::None);
    Ok(())
}
