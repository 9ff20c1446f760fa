//! The commands: one module each, and the dispatch.

mod admin;
mod arrays;
mod artifacts;
mod audit;
mod cancel;
mod completions;
mod config;
mod dataset_sources;
mod datasets;
mod diff;
mod drain;
mod experiments;
mod explain;
mod follow;
mod keys;
mod logs;
mod manifest;
mod metrics;
mod priority;
mod queue;
mod quota;
mod rerun;
mod reservations;
mod secrets;
mod serve;
pub(crate) mod serving;
mod show;
mod snapshot;
mod status;
mod submit;
mod tasks;
mod undrain;
mod up;
mod usage;
mod wait;
mod webhooks;
mod whoami;
mod worker;
mod workers;

use crate::failure::{EXIT_CODES, Exit};
use clap::{Parser, Subcommand};
use std::{future::Future, path::PathBuf};

/// Runs machine-learning experiments on your own machines
#[derive(Parser, Debug)]
#[command(
    name = "fetchml",
    version = env!("FETCHML_VERSION"),
    before_long_help = "Examples:\n  fetchml up                                  start a server and a worker here\n  \
        fetchml submit --follow train.py --epochs 5  run train.py and watch it\n  \
        fetchml tasks                               see what ran",
    after_long_help = EXIT_CODES,
    disable_help_subcommand = true
)]
pub(crate) struct Cli {
    /// Configuration file [env: FETCHML_CONFIG] [default: ~/.config/fetchml/config.toml]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    Up(up::Up),
    Serve(serve::Serve),
    Worker(worker::Worker),
    Submit(submit::Submit),
    Tasks(tasks::Tasks),
    Show(show::Show),
    Logs(logs::Logs),
    Metrics(metrics::Metrics),
    Manifest(manifest::Manifest),
    Rerun(rerun::Rerun),
    Diff(diff::Diff),
    Cancel(cancel::Cancel),
    Wait(wait::Wait),
    Artifacts(artifacts::Artifacts),
    Datasets(datasets::Datasets),
    Experiments(experiments::Experiments),
    Queue(queue::Queue),
    Status(status::Status),
    Workers(workers::Workers),
    Explain(explain::Explain),
    Drain(drain::Drain),
    Undrain(undrain::Undrain),
    Priority(priority::Priority),
    Usage(usage::Usage),
    Quota(quota::Quota),
    Reserve(reservations::Reserve),
    Reservations(reservations::Reservations),
    Release(reservations::Release),
    Whoami(whoami::Whoami),
    Keys(keys::Keys),
    Audit(audit::Audit),
    Admin(admin::Admin),
    Secrets(secrets::Secrets),
    Webhooks(webhooks::Webhooks),
    Config(config::Config),
    Completions(completions::Completions),
}

/// Runs a command to its exit code.
pub(crate) fn run(cli: Cli) -> anyhow::Result<Exit> {
    let config = cli.config.as_deref();
    match cli.command {
        Command::Up(command) => command.run(config),
        Command::Serve(command) => command.run(config),
        Command::Worker(command) => command.run(config),
        Command::Submit(command) => client(command.run(config)),
        Command::Tasks(command) => client(command.run(config)),
        Command::Show(command) => client(command.run(config)),
        Command::Logs(command) => client(command.run(config)),
        Command::Metrics(command) => client(command.run(config)),
        Command::Manifest(command) => client(command.run(config)),
        Command::Rerun(command) => client(command.run(config)),
        Command::Diff(command) => client(command.run(config)),
        Command::Cancel(command) => client(command.run(config)),
        Command::Wait(command) => client(command.run(config)),
        Command::Artifacts(command) => client(command.run(config)),
        Command::Datasets(command) => client(command.run(config)),
        Command::Experiments(command) => client(command.run(config)),
        Command::Queue(command) => client(command.run(config)),
        Command::Status(command) => client(command.run(config)),
        Command::Workers(command) => client(command.run(config)),
        Command::Explain(command) => client(command.run(config)),
        Command::Drain(command) => client(command.run(config)),
        Command::Undrain(command) => client(command.run(config)),
        Command::Priority(command) => client(command.run(config)),
        Command::Usage(command) => client(command.run(config)),
        Command::Quota(command) => client(command.run(config)),
        Command::Reserve(command) => client(command.run(config)),
        Command::Reservations(command) => client(command.run(config)),
        Command::Release(command) => client(command.run(config)),
        Command::Whoami(command) => client(command.run(config)),
        Command::Keys(command) => client(command.run(config)),
        Command::Audit(command) => client(command.run(config)),
        Command::Admin(command) => client(command.run(config)),
        Command::Secrets(command) => client(command.run(config)),
        Command::Webhooks(command) => client(command.run(config)),
        Command::Config(command) => command.run(config),
        Command::Completions(command) => command.run(),
    }
}

/// Client commands wait for one thing at a time: one thread is enough.
fn client(command: impl Future<Output = anyhow::Result<Exit>>) -> anyhow::Result<Exit> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(command)
}
