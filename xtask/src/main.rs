//! The project's own commands, `cargo xtask COMMAND`: they need nothing but Rust and Python 3 on the
//! machine and install or start what else they need. No product code stands here.

mod bench;
mod command;
mod crash;
mod demo;
mod fuzz;
mod licences;
mod lint;
mod openapi;
mod outcome;
mod postgres;
mod prerequisites;
mod python;
mod sim;
mod supervised;
mod test;
mod web;

use anyhow::{Result, bail};
use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask COMMAND

  demo [--once]       build FetchML, start it and train a real model through it;
                      --once stops everything after the result
  test [-- FILTER]    every test on SQLite and PostgreSQL; the last line counts them
  lint                formatting, clippy, licences and sources of dependencies, links in the documents
  crash [--cycles N] [--seed S]
                      kill server, agents, helpers, shims and tasks under load, at random (200 cycles) and
                      at every named place
  sim [--seeds N] [--from SEED] [--bugs] [--replay PLAN]
                      run server, workers and everything between them as a simulation under faults
                      (100 seeds of 20 workers, 500 tasks and one hour each)
  fuzz [--seed S]     send at least 20,000 requests that schemathesis makes up from the API document; `test` sends fewer
  openapi             write api/openapi.json from the code, and the models of clients/python from that
  python [-- FILTER]  types and tests of clients/python; parts of `lint` and `test`
  web                 build the pages that the server embeds, with npm; part of `test`
  bench [WHAT] [--json]
                      measure a release build; WHAT: submit, tasks, log, idle, start (default: all)
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match run(&args) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[String]) -> Result<ExitCode> {
    let Some((name, rest)) = args.split_first() else {
        bail!("no command given\n\n{USAGE}");
    };
    match name.as_str() {
        "demo" => demo::run(rest),
        "test" => test::run(rest),
        "lint" => lint::run(rest),
        "openapi" => openapi::run(rest),
        "fuzz" => fuzz::run(rest),
        "python" => python::run(rest),
        "web" => web::run(rest),
        "sim" => sim::run(rest),
        "crash" => crash::run(rest),
        "bench" => bench::run(rest),
        "help" | "--help" | "-h" => {
            print!("{USAGE}");
            Ok(ExitCode::SUCCESS)
        }
        other => bail!("unknown command {other:?}\n\n{USAGE}"),
    }
}
