//! Real processes killed under load: server, agents, fork helpers, shims and tasks, at random and at named places.
//! After the last kill everything must drain, and a ledger written by the harness alone says what must have come of
//! it: promises G1 to G6, G8 and G10, all at once. `cargo xtask crash --cycles N --seed S` runs the long form.

mod faults;
mod ledger;
mod places;
mod replay;
mod verdict;

use crate::support::{DEADLINE, Lab, eventually};
use faults::{Fault, Faults};
use ledger::Ledger;
use places::Host;
use replay::Follower;
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};
use tokio::task::JoinHandle;

/// Cycles of the short form.
const CYCLES: usize = 8;
/// Clients that submit all the time.
const CLIENTS: usize = 4;
/// Workers, each a process with a data directory of its own.
const WORKERS: usize = 2;
/// Tasks that end between two faults.
const ENDS_PER_CYCLE: usize = 4;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_repeated_when_anything_is_killed() {
    at_random(Lab::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_repeated_in_a_sandbox() {
    at_random(Lab::new().sandboxed()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_repeated_at_any_named_place() {
    let mut load = Load::start(Lab::new().sandboxed()).await;
    let mut faults = Faults::new(setting("FETCHML_CRASH_SEED", 1));
    // One of the server's and one of each worker's at a time, until all have been.
    let (mut server, mut workers) = (places::of_server(), places::of_worker());
    while !(server.is_empty() && workers.is_empty()) {
        let mut targets: Vec<_> = server.pop().into_iter().map(|place| (place, Host::Server)).collect();
        for worker in 0..WORKERS {
            targets.extend(workers.pop().map(|place| (place, Host::Worker(worker))));
        }
        load.until_more_end(1).await;
        faults.strike(&mut load.lab, &targets).await;
        load.look();
    }
    load.judge(&faults).await;
}

async fn at_random(lab: Lab) {
    let cycles = setting("FETCHML_CRASH_CYCLES", CYCLES as u64) as usize;
    let seed = setting("FETCHML_CRASH_SEED", 1);
    let mut load = Load::start(lab).await;
    let mut faults = Faults::new(seed);
    for cycle in 1..=cycles {
        load.until_more_end(ENDS_PER_CYCLE).await;
        let fault = faults.inject(&mut load.lab).await;
        load.look();
        if cycles > CYCLES {
            println!("cycle {cycle} of {cycles}: {fault}");
        }
    }
    println!("crash: seed {seed}, {cycles} cycles");
    load.judge(&faults).await;
    // A run that hit nothing proves nothing.
    for fault in Fault::ALL {
        assert!(cycles < 10 * Fault::ALL.len() || faults.count(fault) > 0, "{fault} never hit anything: {faults}");
    }
}

/// A lab under load.
struct Load {
    lab: Lab,
    ledger: Arc<Ledger>,
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<()>>,
    follower: Follower,
}

impl Load {
    async fn start(mut lab: Lab) -> Self {
        lab.serve_with(&["--rate-limits", "off"]);
        lab.serve().await;
        for number in 1..=WORKERS {
            lab.worker(number).await;
        }
        let (ledger, stop) = (Arc::new(Ledger::default()), Arc::new(AtomicBool::new(false)));
        let clients = (0..CLIENTS)
            .map(|name| tokio::spawn(ledger::submit_until(lab.client(), name, Arc::clone(&ledger), Arc::clone(&stop))))
            .collect();
        Self { lab, ledger, stop, clients, follower: Follower::default() }
    }

    async fn until_more_end(&self, count: usize) {
        let goal = self.ledger.ended(&self.lab.client()).await.unwrap_or(0) + count;
        eventually("tasks end", DEADLINE, async || {
            (self.ledger.ended(&self.lab.client()).await? >= goal).then_some(())
        })
        .await;
    }

    /// Compares the audit log with the tasks, as they are right now.
    fn look(&mut self) {
        self.follower.look(&self.lab.data_dir().join("fetchml.db"));
    }

    /// Stops the load and judges what is left when all has drained.
    async fn judge(mut self, faults: &Faults) {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.await.expect("no client panics");
        }
        let seen = verdict::of(&mut self.lab, &self.ledger, faults).await;
        self.follower.look(&self.lab.data_dir().join("fetchml.db"));
        println!(
            "crash: {faults}; {} tasks acknowledged, {} stored, {} attempts queued again because their shim was killed; \
             0 lost, 0 repeated, 0 survivors, all exit codes, logs and files exact; the audit log gave the tasks {} times",
            self.ledger.acknowledged().len(),
            seen.stored,
            seen.requeued,
            self.follower.looks,
        );
    }
}
