//! The short form of `cargo xtask sim`: 300 seeds under all faults, and every planted bug found.

use fetchml_sim::{Bug, Plan, Size, minimise, run};
use std::ops::RangeInclusive;

const WORKERS: u32 = 6;
const TASKS: u32 = 80;
const MINUTES: u32 = 20;

fn plan(seed: u64) -> Plan {
    Plan::of_seed(seed, Size::of(WORKERS, TASKS, MINUTES))
}

/// All promises hold, and a second run of the same plan is the same to the last event.
fn hold(seeds: RangeInclusive<u64>) {
    let mut struck = std::collections::BTreeSet::new();
    for seed in seeds {
        let report = run(&plan(seed));
        if let Some(violation) = &report.violation {
            let small = minimise(&report.plan, 100);
            panic!("{}\nreplay: cargo xtask sim --replay '{small}'", violation.0);
        }
        assert!(report.acknowledged > 0, "seed {seed}: a run in which nothing was submitted proves nothing");
        assert_eq!(run(&plan(seed)), report, "seed {seed}: two runs of one plan are the same");
        struck.extend(report.faults.into_keys());
    }
    assert_eq!(struck.len(), fetchml_sim::Fault::ALL.len(), "every kind of fault struck: {struck:?}");
}

// In parts, for as many cores as there are.

#[test]
fn promises_hold_under_faults_1() {
    hold(1..=75);
}

#[test]
fn promises_hold_under_faults_2() {
    hold(76..=150);
}

#[test]
fn promises_hold_under_faults_3() {
    hold(151..=225);
}

#[test]
fn promises_hold_under_faults_4() {
    hold(226..=300);
}

/// Each planted bug but the rare ones breaks a promise within 200 seeds.
fn find(half: usize) {
    let bugs: Vec<Bug> = Bug::ALL.iter().copied().filter(|bug| !Bug::RARE.contains(bug)).collect();
    assert!(bugs.len() >= 15);
    let (first, second) = bugs.split_at(bugs.len() / 2);
    for bug in [first, second][half] {
        let found = (1..=200).find(|seed| run(&plan(*seed).with_bug(*bug)).violation.is_some());
        assert!(found.is_some(), "{bug} is planted and 200 seeds do not find it");
    }
}

#[test]
fn every_planted_bug_is_found_1() {
    find(0);
}

#[test]
fn every_planted_bug_is_found_2() {
    find(1);
}

#[test]
fn a_plan_that_fails_shrinks_to_one_that_fails() {
    let broken = plan(3).with_bug(Bug::NoFence);
    assert!(run(&broken).violation.is_some());
    let small = minimise(&broken, 60);
    assert!(run(&small).violation.is_some());
    let size = |plan: &Plan| u64::from(plan.workers) * u64::from(plan.tasks) * u64::from(plan.minutes);
    assert!(small.faults.len() < broken.faults.len() && size(&small) < size(&broken), "{small}");
}
