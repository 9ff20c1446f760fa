//! The fork helper as a program of its own. `fetchml __helper` is the same; this one is small and
//! serves the worker's tests and measurements.

use fetchml_worker::{
    container::{RUNNER, runner_main},
    shim::{INIT, helper_main, init_main},
};

fn main() {
    match std::env::args_os().nth(1) {
        Some(command) if command == INIT => init_main(),
        Some(command) if command == RUNNER => runner_main(),
        _ => helper_main(),
    }
}
