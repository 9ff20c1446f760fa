//! The core from outside: events in, effects out, as tables of what must follow from what.

mod aging;
mod array;
mod cancel;
mod datasets;
mod dependency;
mod devices;
mod drain;
mod explain;
mod fairness;
mod gang;
mod hold;
mod placement;
mod preemption;
mod prefetch;
mod priority;
mod quota;
mod random;
mod reservation;
mod restore;
mod retry;
mod support;
mod worker;
