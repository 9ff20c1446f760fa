//! The scheduling core: `step(now, Event) -> (Answer, Vec<Effect>)`. Deterministic: no I/O, no clock, no
//! randomness, no hash-order iteration, no logging.

pub mod event;
pub use event::*;
