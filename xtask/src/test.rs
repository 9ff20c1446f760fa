//! `cargo xtask test`: every test of the workspace on both databases. Installs what is missing, runs
//! one private PostgreSQL for the time, and ends with one line that counts the tests.

use crate::{
    command::{cargo, shown, succeeds},
    fuzz,
    outcome::Outcome,
    postgres::Cluster,
    prerequisites::{
        audit_environment, browser, bubblewrap, certificates, container_engines, digits_environment, faults, networks,
        python_with_venv, torch,
    },
    python, web,
};
use anyhow::{Context as _, Result};
use std::{
    env,
    io::{BufRead as _, BufReader, IsTerminal as _, Read, Write},
    process::{Command, ExitCode, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::Instant,
};

/// Tells the tests where the PostgreSQL of this run listens.
const POSTGRES_URL: &str = "FETCHML_TEST_POSTGRES";

/// Seed of the property tests: the same inputs in every run, so that what fails fails again.
const RANDOM_SEED: &str = "PROPTEST_RNG_SEED";
const SEED: &str = "20251124";

pub(crate) fn run(args: &[String]) -> Result<ExitCode> {
    let filter = args.strip_prefix(&["--".to_owned()][..]).unwrap_or(args);
    let started = Instant::now();
    python_with_venv()?;
    bubblewrap()?;
    networks()?;
    faults()?;
    certificates()?;
    container_engines()?;
    digits_environment()?;
    audit_environment()?;
    torch()?;
    browser()?;
    web::build()?;
    let cluster = Cluster::start()?;
    println!("PostgreSQL for this run: {}", cluster.url());

    let mut outcome = Outcome::default();
    let mut all_well = true;
    let with_nextest = succeeds(cargo().args(["nextest", "--version"]));
    let mut runs = Vec::new();
    if with_nextest {
        let mut main = cargo();
        main.args(["nextest", "run", "--no-fail-fast"]).args(filter);
        if !filter.iter().any(|arg| arg == "-p" || arg == "--package") {
            main.arg("--workspace");
        }
        runs.push(main);
        if filter.is_empty() {
            let mut doc = cargo();
            doc.args(["test", "--workspace", "--doc", "--no-fail-fast", "--quiet"]);
            runs.push(doc);
        }
    } else {
        let mut main = cargo();
        main.args(["test", "--workspace", "--no-fail-fast", "--"]).args(filter);
        runs.push(main);
    }
    if filter.is_empty() {
        // With the `fetchml` that the tests before have built.
        runs.push(python::tests()?);
    }
    for mut command in runs {
        command.env(POSTGRES_URL, cluster.url()).stdin(Stdio::null());
        if env::var_os(RANDOM_SEED).is_none() {
            command.env(RANDOM_SEED, SEED);
        }
        let (ended_well, counted) = stream(&mut command)?;
        outcome.passed += counted.passed;
        outcome.failed += counted.failed;
        outcome.skipped += counted.skipped;
        if !ended_well {
            all_well = false;
            // A build that failed prints no count, and yet nothing passed.
            outcome.failed += u64::from(counted.failed == 0);
        }
    }
    if filter.is_empty() {
        let fuzzed = fuzz::short()?;
        all_well &= fuzzed.failed == 0;
        outcome.passed += fuzzed.passed;
        outcome.failed += fuzzed.failed;
    }
    drop(cluster);
    println!("\ntests took {} s", started.elapsed().as_secs());
    println!("{outcome}");
    Ok(if all_well && outcome.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs a test command, shows its output as it comes and counts what it says.
fn stream(command: &mut Command) -> Result<(bool, Outcome)> {
    if std::io::stdout().is_terminal() {
        command.env("CARGO_TERM_COLOR", "always");
    }
    println!("$ {}", shown(command));
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", shown(command)))?;
    let outcome = Arc::new(Mutex::new(Outcome::default()));
    let stdout = child.stdout.take().expect("stdout is piped");
    let stderr = child.stderr.take().expect("stderr is piped");
    let counting = Arc::clone(&outcome);
    let errors = thread::spawn(move || copy_lines(stderr, &mut std::io::stderr(), &counting));
    copy_lines(stdout, &mut std::io::stdout(), &outcome);
    errors.join().expect("copying lines does not panic");
    let status = child.wait().context("cannot wait for the tests")?;
    let counted = *outcome.lock().expect("no thread panicked while counting");
    Ok((status.success(), counted))
}

fn copy_lines(from: impl Read, to: &mut dyn Write, outcome: &Mutex<Outcome>) {
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    while from.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
        // A closed terminal must not keep the tests from ending.
        let _ = to.write_all(&line).and_then(|()| to.flush());
        outcome.lock().expect("no thread panicked while counting").read_line(&String::from_utf8_lossy(&line));
        line.clear();
    }
}
