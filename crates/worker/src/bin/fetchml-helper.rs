//! The fork helper as a program of its own. `fetchml __helper` is the same; this one is small and
//! serves the worker's tests and measurements.

fn main() {
    fetchml_worker::shim::helper_main()
}
