//! The fork helper as a program of its own. `fetchml __helper` is the same; this one is small and
//! serves the worker's tests and measurements.

use fetchml_worker::shim::{INIT, helper_main, init_main};

fn main() {
    if std::env::args_os().nth(1).is_some_and(|command| command == INIT) {
        init_main()
    }
    helper_main()
}
