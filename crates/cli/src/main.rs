//! The one binary `fetchml`: server, worker and client. Only this crate prints.

mod commands;
mod environment;
mod failure;
mod limits;
mod quantity;
mod session;
mod settings;
mod terminal;

use clap::Parser as _;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = commands::Cli::parse();
    match commands::run(cli) {
        Ok(exit) => exit.into(),
        Err(error) => failure::report(&error).into(),
    }
}
