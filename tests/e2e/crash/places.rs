//! Faults at named places of the program (`fetchml-failpoint`): the process that comes to one ends there as by
//! SIGKILL, once.

use super::faults::Random;
use crate::support::{DEADLINE, Lab, eventually};
use fetchml_failpoint::{PLACES, VARIABLE};
use std::{
    fs::{self, File},
    path::PathBuf,
};

/// Who is started anew to come to a place: the server, or a worker by its place in the lab.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Host {
    Server,
    Worker(usize),
}

impl Host {
    fn name(self) -> String {
        match self {
            Self::Server => "serve".to_owned(),
            Self::Worker(place) => format!("worker{}", place + 1),
        }
    }
}

/// The places that a server comes to.
pub(crate) fn of_server() -> Vec<&'static str> {
    PLACES.iter().copied().filter(|place| is_of_server(place)).collect()
}

/// The places that a worker's agent, helper and shims come to.
pub(crate) fn of_worker() -> Vec<&'static str> {
    PLACES.iter().copied().filter(|place| !is_of_server(place) && !is_of_outbox(place)).collect()
}

/// Only a server with webhooks comes to these: `webhooks.rs` meets them.
fn is_of_outbox(place: &str) -> bool {
    place.starts_with("outbox.")
}

fn is_of_server(place: &str) -> bool {
    let (part, _) = place.split_once('.').expect("a place is named part.moment");
    matches!(part, "driver" | "store" | "log" | "blob") || place == "checkpoint.received"
}

/// Whether the attempt it happens to cannot go on: its shim was about to let it run, or had.
pub(crate) fn loses_attempt(place: &str) -> bool {
    matches!(place, "shim.released" | "shim.marked" | "shim.started" | "shim.ended" | "shim.exit_written")
}

/// Whether the one who was started anew ends: else a process that it forked does.
fn ends_host(place: &str) -> bool {
    !place.starts_with("helper.") && !place.starts_with("shim.")
}

/// How often a place is passed before: those that are passed all the time are not always met at the same moment.
fn passes_max(place: &str) -> usize {
    match place {
        // Once at each start.
        "spool.rewritten" => 1,
        "driver.decided" | "store.written" | "driver.committed" | "driver.acted" | "log.written" | "spool.written" => {
            40
        }
        _ => 4,
    }
}

struct Armed {
    place: &'static str,
    host: Host,
    hits: PathBuf,
    count: u64,
    /// How often the host had found its server when it was started.
    links: usize,
    /// The host was started again, or need not be.
    is_back: bool,
}

/// Starts each host anew, to end at its place, and brings back what must come back. Every place is then reached.
pub(crate) async fn strike(lab: &mut Lab, random: &mut Random, targets: &[(&'static str, Host)]) {
    let mut all: Vec<Armed> = targets.iter().map(|&(place, host)| Armed::start(lab, random, place, host)).collect();
    // A worker tries its sandbox before it takes work: that a trial fails is another matter.
    let names: Vec<_> = targets.iter().map(|(place, _)| *place).collect();
    let what = format!("all work that are to end at {names:?}");
    eventually(&what, DEADLINE, async || all.iter().all(|armed| armed.works(lab)).then_some(())).await;
    for armed in &all {
        armed.arm();
    }
    eventually(&format!("these places are reached: {names:?}"), 2 * DEADLINE, async || {
        for armed in &mut all {
            if has_ended(lab, armed.host) {
                armed.is_back = true;
                start(lab, armed.host);
            }
        }
        all.iter().all(|armed| armed.is_back && armed.is_reached()).then_some(())
    })
    .await;
    lab.healthy().await;
    lab.workers_active(lab.workers.len()).await;
}

/// Whether a place is passed once at each start, and then no more for long.
fn is_at_start(place: &str) -> bool {
    place == "spool.rewritten"
}

impl Armed {
    fn start(lab: &mut Lab, random: &mut Random, place: &'static str, host: Host) -> Self {
        // A file for each place: what was forked before with another place must not count for this one.
        let (hits, count) =
            (lab.path(&format!("hits-{}-{place}", host.name())), 1 + random.below(passes_max(place)) as u64);
        let armed = Self { place, host, hits, count, links: links(lab, host), is_back: !ends_host(place) };
        let _ = fs::remove_file(&armed.hits);
        lab.start_next_with(&host.name(), VARIABLE, format!("{place}:{count}:{}", armed.hits.display()));
        match host {
            Host::Server => lab.kill_server(),
            Host::Worker(worker) => lab.kill_worker(worker),
        }
        if is_at_start(place) {
            armed.arm();
        }
        start(lab, host);
        armed
    }

    /// Whether it has begun with its work.
    fn works(&self, lab: &Lab) -> bool {
        is_at_start(self.place) || self.host == Host::Server || links(lab, self.host) > self.links
    }

    /// From now on hits count.
    fn arm(&self) {
        File::options().create(true).append(true).open(&self.hits).expect("a file for the hits");
    }

    fn is_reached(&self) -> bool {
        fs::metadata(&self.hits).is_ok_and(|hits| hits.len() >= self.count)
    }
}

impl Drop for Armed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let hits = fs::metadata(&self.hits).map_or(0, |hits| hits.len());
            eprintln!("{} of {}: reached {hits} of {} times", self.place, self.host.name(), self.count);
        }
    }
}

/// How often a worker has found its server.
fn links(lab: &Lab, host: Host) -> usize {
    match host {
        Host::Server => 0,
        Host::Worker(worker) => lab.workers[worker].stderr().matches("linked to the server").count(),
    }
}

fn start(lab: &mut Lab, host: Host) {
    match host {
        Host::Server => lab.start_server(),
        Host::Worker(worker) => lab.start_worker(worker),
    }
}

fn has_ended(lab: &mut Lab, host: Host) -> bool {
    match host {
        Host::Server => lab.server.as_mut().expect("it was started").has_ended(),
        Host::Worker(worker) => lab.workers[worker].has_ended(),
    }
}
