//! `cargo xtask fuzz`: schemathesis sends what the API document allows, and what it forbids, to a server and
//! judges every answer: by the served document with all its checks, and by the contract. The short form, always
//! the same requests, is part of `cargo xtask test`.

use crate::{
    command::{cargo, root, run as run_command, target_dir},
    outcome::Outcome,
    python,
    supervised::Supervised,
};
use anyhow::{Context as _, Result, bail};
use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    process::{Command, ExitCode, Stdio},
    thread,
    time::{Duration, Instant},
};

/// Fewest requests of the long form by the served document.
const REQUESTS_MIN: u64 = 20_000;
/// Longest time until the server listens.
const START_TIMEOUT: Duration = Duration::from_mins(1);

/// What the answers are judged by.
struct Judge {
    name: &'static str,
    /// Arguments that say where the document lies and what is checked.
    arguments: Vec<String>,
}

/// The long form.
pub(crate) fn run(args: &[String]) -> Result<ExitCode> {
    let mut seed = match args {
        [] => 1,
        [flag, seed] if flag == "--seed" => seed.parse().context("the seed is a number")?,
        _ => bail!("usage: cargo xtask fuzz [--seed S]"),
    };
    run_command(cargo().args(["build", "--package", "fetchml"]))?;
    let server = Server::start()?;
    let (served, contract) = judges(&server);
    let mut requests = 0;
    let mut all_well = true;
    while requests < REQUESTS_MIN && all_well {
        let sent = schemathesis(&served, seed, &["--max-examples", "100"])?;
        all_well &= sent.is_clean;
        requests += sent.requests;
        println!("{requests} requests by the served document so far, seed {seed}");
        seed += 1;
    }
    let sent = schemathesis(&contract, seed, &["--max-examples", "100", "--phases", "coverage,fuzzing"])?;
    all_well &= sent.is_clean;
    println!("\n{requests} requests by the served document, {} by the contract", sent.requests);
    Ok(if all_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The short form: one test for each document, with the `fetchml` that was built last.
pub(crate) fn short() -> Result<Outcome> {
    let server = Server::start()?;
    let (served, contract) = judges(&server);
    let mut outcome = Outcome::default();
    for judge in [served, contract] {
        let sent = schemathesis(&judge, 1, &["--max-examples", "3", "--phases", "coverage,fuzzing"])?;
        if sent.is_clean && sent.requests > 0 {
            outcome.passed += 1;
        } else {
            outcome.failed += 1;
        }
    }
    Ok(outcome)
}

fn judges(server: &Server) -> (Judge, Judge) {
    let config = |name: &str| root().join("tests/schemathesis").join(name).display().to_string();
    let words = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
    let url = server.url();
    let key = format!("X-API-Key: {}", server.key);
    let contract = root().join("tests/contract/contract.json").display().to_string();
    let checks = "not_a_server_error,content_type_conformance,response_schema_conformance";
    (
        Judge {
            name: "the served document",
            arguments: words(&[
                "--config-file",
                &config("served.toml"),
                "run",
                &format!("{url}/openapi.json"),
                "--url",
                &url,
                "--header",
                &key,
            ]),
        },
        Judge {
            name: "the contract",
            arguments: words(&[
                "--config-file",
                &config("contract.toml"),
                "run",
                &contract,
                "--url",
                &url,
                "--header",
                &key,
                "--checks",
                checks,
            ]),
        },
    )
}

/// How a run went.
struct Sent {
    requests: u64,
    is_clean: bool,
}

fn schemathesis(judge: &Judge, seed: u64, more: &[&str]) -> Result<Sent> {
    println!("\nschemathesis: the answers by {}, seed {seed}", judge.name);
    let mut command = python::tool("schemathesis")?;
    command.args(&judge.arguments).args(["--seed", &seed.to_string(), "--no-color", "--warnings", "off"]).args(more);
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output().context("schemathesis")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let requests = requests_of(&text);
    if !output.status.success() {
        println!("{text}");
    }
    println!("{requests} requests, {}", if output.status.success() { "nothing found" } else { "something found" });
    Ok(Sent { requests, is_clean: output.status.success() })
}

/// `  1020 generated, 14 found ...` below `Test cases:`.
fn requests_of(report: &str) -> u64 {
    let counts = report.lines().skip_while(|line| line.trim() != "Test cases:").nth(1);
    counts.and_then(|line| line.split_whitespace().next()).and_then(|count| count.parse().ok()).unwrap_or(0)
}

/// A server without workers, in `target/fuzz`.
struct Server {
    address: SocketAddr,
    key: String,
    _process: Supervised,
}

impl Server {
    fn start() -> Result<Self> {
        let dir = target_dir()?.join("fuzz");
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir)?;
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let mut command = Command::new(target_dir()?.join("debug/fetchml"));
        command.args(["serve", "--listen", &address.to_string(), "--data-dir"]).arg(dir.join("data"));
        command.current_dir(&dir).env("HOME", &dir).env("FETCHML_RATE_LIMITS", "off");
        for name in ["FETCHML_CONFIG", "FETCHML_DATABASE", "XDG_CONFIG_HOME"] {
            command.env_remove(name);
        }
        let log = dir.join("server.log");
        let file = fs::File::create(&log)?;
        let mut process = Supervised::start(&command, "TERM", "", file.try_clone()?.into(), file.into())?;
        let end = Instant::now() + START_TIMEOUT;
        let key_file = dir.join("data/admin.key");
        // The key is written by the first start, after the socket is bound.
        let key = loop {
            let key = fs::read_to_string(&key_file).unwrap_or_default().trim().to_owned();
            if !key.is_empty() && TcpStream::connect(address).is_ok() {
                break key;
            }
            if process.ended()?.is_some() || Instant::now() > end {
                bail!("the server did not start; its log: {}", log.display());
            }
            thread::sleep(Duration::from_millis(20));
        };
        Ok(Self { address, key, _process: process })
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_from_the_report() {
        let report =
            "API Operations:\n  Selected: 52/55\n\nTest cases:\n  1020 generated, 14 found 14 unique failures\n";
        assert_eq!(requests_of(report), 1020);
        assert_eq!(requests_of("nothing was run"), 0);
    }
}
