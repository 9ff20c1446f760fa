//! Real processes killed at random under load: server, agents, fork helpers, shims and tasks. After
//! the last kill everything must drain, and a ledger written by the harness alone says what must have
//! come of it. `cargo xtask crash --cycles N --seed S` runs the long form.

mod faults;
mod ledger;
mod verdict;

use crate::support::{DEADLINE, Lab, eventually};
use faults::{Fault, Faults};
use ledger::Ledger;
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

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
async fn g2_g3_g4_g5_g6_g10_hold_when_anything_is_killed() {
    hold(Lab::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g2_g3_g4_g5_g6_g10_hold_in_a_sandbox() {
    hold(Lab::new().sandboxed()).await;
}

async fn hold(mut lab: Lab) {
    let cycles = setting("FETCHML_CRASH_CYCLES", CYCLES as u64) as usize;
    let seed = setting("FETCHML_CRASH_SEED", 1);
    lab.serve_with(&["--rate-limits", "off"]);
    lab.serve().await;
    for number in 1..=WORKERS {
        lab.worker(number).await;
    }

    let ledger = Arc::new(Ledger::default());
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|name| tokio::spawn(ledger::submit_until(lab.client(), name, Arc::clone(&ledger), Arc::clone(&stop))))
        .collect();
    let mut faults = Faults::new(seed);
    for cycle in 1..=cycles {
        let goal = ledger.ended(&lab.client()).await.unwrap_or(0) + ENDS_PER_CYCLE;
        eventually(&format!("tasks end in cycle {cycle} of seed {seed}"), DEADLINE, async || {
            (ledger.ended(&lab.client()).await? >= goal).then_some(())
        })
        .await;
        let fault = faults.inject(&mut lab).await;
        if cycles > CYCLES {
            println!("cycle {cycle} of {cycles}: {fault}");
        }
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.expect("no client panics");
    }

    let seen = verdict::of(&mut lab, &ledger, &faults).await;
    println!(
        "crash: seed {seed}, {cycles} cycles ({faults}); {} tasks acknowledged, {} stored, {} attempts lost with their \
         shim; 0 lost, 0 repeated, 0 survivors, all exit codes and logs exact",
        ledger.acknowledged().len(),
        seen.stored,
        seen.requeued,
    );
    // A run that hit nothing proves nothing.
    for fault in Fault::ALL {
        assert!(cycles < 10 * Fault::ALL.len() || faults.count(fault) > 0, "{fault} never hit anything: {faults}");
    }
}
