//! `fetchml-sim`: runs seeds, each twice; shrinks what fails to a plan that can be repeated; proves that
//! planted bugs are found.

use fetchml_sim::{Bug, Fault, Plan, Report, Size, minimise, run, run_watched};
use std::{
    collections::BTreeMap,
    env, panic,
    process::ExitCode,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::Instant,
};

const USAGE: &str = "\
usage: fetchml-sim [--seeds N] [--from SEED] [--workers N] [--tasks N] [--minutes N]
                                      run so many seeds; sizes that are not given are drawn from the seed, up to
                                      20 workers, 25 tasks for each and 60 simulated minutes of faults
       fetchml-sim --replay PLAN [--trace]
                                      run one plan, such as the one that a failure prints; --trace prints all
                                      that happens
       fetchml-sim --bugs [--seeds N] plant each known bug and say how many seeds it takes to find it
";

/// Plans tried to shrink one that fails.
const SHRINK_TRIES: usize = 400;

struct Asked {
    seeds: u64,
    from: u64,
    size: Size,
    replay: Option<Plan>,
    bugs: bool,
    trace: bool,
}

fn main() -> ExitCode {
    let asked = match asked(env::args().skip(1)) {
        Ok(asked) => asked,
        Err(problem) => {
            eprintln!("error: {problem}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    // A panic of the core is a finding, said once, with its plan.
    panic::set_hook(Box::new(|_| {}));
    let clean = if let Some(plan) = &asked.replay {
        replay(plan, asked.trace)
    } else if asked.bugs {
        find_bugs(&asked)
    } else {
        search(&asked)
    };
    if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn asked(mut args: impl Iterator<Item = String>) -> Result<Asked, String> {
    let mut asked = Asked { seeds: 100, from: 1, size: Size::default(), replay: None, bugs: false, trace: false };
    while let Some(arg) = args.next() {
        if arg == "--bugs" {
            asked.bugs = true;
            continue;
        }
        if arg == "--trace" {
            asked.trace = true;
            continue;
        }
        let value = args.next().ok_or_else(|| format!("{arg} needs a value"))?;
        let number = || value.parse::<u64>().map_err(|_| format!("{arg} {value}: not a number"));
        let small = || number().and_then(|n| u32::try_from(n).map_err(|_| format!("{arg} {value}: too large")));
        match arg.as_str() {
            "--seeds" => asked.seeds = number()?,
            "--from" => asked.from = number()?,
            "--workers" => asked.size.workers = Some(small()?.max(1)),
            "--tasks" => asked.size.tasks = Some(small()?),
            "--minutes" => asked.size.minutes = Some(small()?),
            "--replay" => asked.replay = Some(value.parse()?),
            other => return Err(format!("unknown argument {other:?}")),
        }
    }
    Ok(asked)
}

fn replay(plan: &Plan, trace: bool) -> bool {
    if trace {
        run_watched(plan, |at, what| println!("{:>14.6} {what}", at as f64 / 1e6));
    }
    let (first, second) = (run(plan), run(plan));
    println!("{first}");
    if first != second {
        println!("the second run of the same plan was another: {second}");
    }
    first == second && first.violation.is_none()
}

/// All seeds on all cores, each twice.
fn search(asked: &Asked) -> bool {
    let began = Instant::now();
    let next = AtomicU64::new(asked.from);
    let end = asked.from + asked.seeds;
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let reports: Vec<Result<Report, Report>> = thread::scope(|scope| {
        let workers: Vec<_> = (0..cores)
            .map(|_| {
                scope.spawn(|| {
                    let mut reports = Vec::new();
                    loop {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed >= end {
                            return reports;
                        }
                        let plan = Plan::of_seed(seed, asked.size);
                        let report = run(&plan);
                        let same = report == run(&plan);
                        let fine = same && report.violation.is_none();
                        if !fine {
                            let what = if same { "" } else { " (and its two runs differ)" };
                            let text = report.to_string();
                            eprintln!("FAILED{what} {}", text.lines().next().unwrap_or_default());
                        }
                        reports.push(if fine { Ok(report) } else { Err(report) });
                    }
                })
            })
            .collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("a run catches its panics")).collect()
    });
    let failed: Vec<&Report> = reports.iter().filter_map(|report| report.as_ref().err()).collect();
    for report in failed.iter().take(3) {
        let small = minimise(&report.plan, SHRINK_TRIES);
        println!("{}", run(&small));
        println!("  cargo xtask sim --replay '{small}'");
    }
    summary(&reports, failed.len(), began);
    failed.is_empty()
}

fn summary(reports: &[Result<Report, Report>], failed: usize, began: Instant) {
    let mut faults: BTreeMap<Fault, u64> = BTreeMap::new();
    let (mut hours, mut happenings, mut acknowledged) = (0.0, 0, 0);
    for report in reports.iter().map(|report| report.as_ref().unwrap_or_else(|failed| failed)) {
        hours += report.simulated_us as f64 / 3.6e9;
        happenings += report.happenings;
        acknowledged += report.acknowledged;
        for (fault, count) in &report.faults {
            *faults.entry(*fault).or_default() += count;
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    let rate = reports.len() as f64 / seconds * 60.0;
    println!(
        "{} seeds, each twice with the same trace, {failed} failed: {hours:.0} simulated hours, {happenings} events, \
         {acknowledged} tasks acknowledged; {seconds:.1} s, {rate:.0} seeds a minute",
        reports.len()
    );
    let counted: Vec<_> = faults.iter().map(|(fault, count)| format!("{fault} {count}")).collect();
    println!("faults: {}", counted.join(", "));
}

/// Every planted bug must break a promise within the seeds.
fn find_bugs(asked: &Asked) -> bool {
    let mut missed = 0;
    for bug in Bug::ALL {
        let found = (asked.from..asked.from + asked.seeds).find_map(|seed| {
            let plan = Plan::of_seed(seed, asked.size).with_bug(*bug);
            run(&plan).violation.map(|violation| (seed - asked.from + 1, violation))
        });
        if let Some((seeds, violation)) = found {
            println!("{bug}: found after {seeds} seeds: {}", violation.0.lines().next().unwrap_or_default());
        } else {
            missed += 1;
            println!("{bug}: NOT FOUND in {} seeds", asked.seeds);
        }
    }
    println!("{} bugs planted, {missed} not found", Bug::ALL.len());
    missed == 0
}
