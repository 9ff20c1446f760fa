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
    // Before anything starts a thread: the helper forks, and a fork takes one thread along.
    if let Some(command) = std::env::args_os().nth(1) {
        if command == commands::serving::HELPER {
            commands::serving::limit_open_files(std::env::args().nth(2));
            fetchml_worker::shim::helper_main()
        }
        if command == fetchml_worker::shim::INIT {
            fetchml_worker::shim::init_main()
        }
        if command == fetchml_worker::container::RUNNER {
            fetchml_worker::container::runner_main()
        }
    }
    let cli = commands::Cli::parse();
    match commands::run(cli) {
        Ok(exit) => exit.into(),
        Err(error) => failure::report(&error).into(),
    }
}
